package main

import (
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
)

func (p *program) keyHostPolicyCommand() *cli.Command {
	return &cli.Command{
		Name:      "host-policy",
		Usage:     "print what a put-only host's keys to the store should allow",
		ArgsUsage: "NAME",
		Description: `Prints a policy in JSON, for the user of AWS or MinIO whose keys the host has. It allows to add objects under
the host's own names, and to read what it needs for that; not to read what it stored, and not to delete.

With such keys somebody can still put other objects over those of the host, and so ruin its snapshots,
unless the store prevents that: AWS by a condition in the policy (--for aws), and any store that locks objects
in a repository of hakobune init --object-lock, where what was there first counts.

NAME is the host's name or its writer id. With the credential itself as --key-file no name is needed.

   hakobune key host-policy db1 >policy.json
   aws iam put-user-policy --user-name db1 --policy-name hakobune --policy-document file://policy.json

   hakobune key host-policy --for minio db1 >policy.json
   mc admin policy create ark db1 policy.json && mc admin policy attach ark db1 --user db1`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "for", Value: "aws", Usage: "the `STORE`: aws or minio"},
		},
		Action: p.keyHostPolicy,
	}
}

func (p *program) keyHostPolicy(c *cli.Context) error {
	store := c.String("for")
	if store != "aws" && store != "minio" {
		return usage("--for %q: want aws or minio", store)
	}
	location, err := p.repoName(c)
	if err != nil {
		return err
	}
	if !s3.IsURL(location) {
		return usage("a repository in a directory has no policy").hint("-r s3:https://host/bucket/prefix")
	}
	place, err := s3.ParseURL(location)
	if err != nil {
		return usage("%v", err)
	}
	writer, lock, err := p.policyHost(c)
	if err != nil {
		return err
	}
	text, err := place.HostPolicy(writer.String(), lock, store == "aws")
	if err != nil {
		return err
	}
	_, err = p.out.Write(text)
	return err
}

// policyHost returns the host that is meant, and how the repository locks objects.
func (p *program) policyHost(c *cli.Context) (crypto.WriterID, *chunkstore.Lock, error) {
	b, err := p.repository(c)
	if err != nil {
		return crypto.WriterID{}, nil, err
	}
	secret, err := p.secret(c, false)
	if err != nil {
		return crypto.WriterID{}, nil, err
	}
	repo, err := openAny(c.Context, b, secret, chunkstore.Options{Logger: p.logger(c)})
	if err != nil {
		return crypto.WriterID{}, nil, err
	}
	if credential, ok := secret.(*crypto.Credential); ok {
		return credential.Info().Writer, repo.Config().Lock, none(c)
	}
	name, err := one(c, "the name of a put-only host")
	if err != nil {
		return crypto.WriterID{}, nil, err
	}
	hosts, _, err := repo.Hosts(c.Context)
	if err != nil {
		return crypto.WriterID{}, nil, err
	}
	n := slices.IndexFunc(hosts, func(h chunkstore.Host) bool {
		return h.Removed.IsZero() && (h.Name == name || h.Writer.String() == name)
	})
	if n < 0 {
		return crypto.WriterID{}, nil, hostHint(chunkstore.ErrNoHost)
	}
	return hosts[n].Writer, repo.Config().Lock, nil
}
