package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
)

func (p *program) initCommand() *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "create a repository",
		Description: `Creates an empty repository and its first key slot. Everything in it will be encrypted; without
a password or key of one of its slots nobody can read it, you neither. Keep a second way in
(hakobune key add) somewhere that does not burn with the house.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "create-bucket", Usage: "create the bucket, if it does not exist"},
			argon2Flag(),
			&cli.StringFlag{Name: "label", Usage: "name the key slot `TEXT`", Value: "init"},
		},
		Action: p.init,
	}
}

func (p *program) init(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	name, err := p.repoName(c)
	if err != nil {
		return err
	}
	b, exists, err := p.backend(c, !s3.IsURL(name) || c.Bool("create-bucket"))
	if errors.Is(err, chunkstore.ErrNoStore) {
		return withHint(err, "create the bucket first, or let it be created: hakobune init --create-bucket")
	}
	if err != nil {
		return err
	}
	if exists { // before a password is asked for
		err = fmt.Errorf("%s: %w", b.Location(), chunkstore.ErrRepositoryExists)
		return withHint(err, "it is left as it is; for another one choose another directory or prefix")
	}
	cost, err := argon2Cost(c)
	if err != nil {
		return err
	}
	secret, err := p.secret(c, true)
	if err != nil {
		return err
	}
	cfg, err := chunkstore.Init(c.Context, b, secret, slotInfo(c), cost, chunkstore.ChunkerParams{})
	if err != nil {
		return err
	}
	conditional, err := chunkstore.ConditionalWrites(c.Context, b)
	if err != nil {
		return fmt.Errorf("the repository was created, but the store could not be probed: %w", err)
	}
	out := initResult{Type: "initialized", Repository: b.Location(), ID: cfg.Repository.String(), ConditionalWrites: conditional}
	return p.result(c, out, func() {
		fmt.Fprintf(p.out, "created repository %s at %s\n", out.ID[:8], out.Repository)
		if !conditional {
			p.note(c, "the store does not create objects conditionally: commits use the slower fallback (docs/format.md)")
		}
		p.note(c, "without its password or key the repository cannot be read by anybody; keep it safe")
	})
}

type initResult struct {
	Type              string `json:"message_type"`
	Repository        string `json:"repository"`
	ID                string `json:"id"`
	ConditionalWrites bool   `json:"conditional_writes"`
}

// argon2Flag lets small machines, which must open the slot some day, say what they have.
func argon2Flag() cli.Flag {
	return &cli.StringFlag{Name: "argon2-memory", Usage: "make each guess at the password cost `SIZE` of memory, 19MiB at least; opening the slot needs as much", DefaultText: "256MiB, less on machines with little"}
}

func argon2Cost(c *cli.Context) (crypto.KDF, error) {
	s := c.String("argon2-memory")
	if s == "" {
		return crypto.KDF{}, nil
	}
	n, err := humanize.ParseBytes(s)
	if err != nil || n < 19<<20 || n > 4<<30 {
		return crypto.KDF{}, usage("--argon2-memory %q: want 19MiB to 4GiB", s)
	}
	return crypto.KDF{Time: 3, MemoryKiB: uint32(n >> 10), Threads: 4}, nil
}

func slotInfo(c *cli.Context) crypto.SlotInfo {
	return crypto.SlotInfo{Label: c.String("label"), Host: hostName()}
}

// hostName returns the name of this host, for people to read.
func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}
