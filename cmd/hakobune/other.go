package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

// other is a second repository beside that of -r, and what opens it. Where nothing is said of that, it is what
// opens the first one.
type other struct {
	name, passwordFile, passwordCommand, keyFile, profile string

	env   string // with what the names of its variables begin, behind HAKOBUNE_
	flags string // with what its flags begin, for messages
}

// openOther opens a second repository; there must be one.
func (p *program) openOther(c *cli.Context, o other, open openFunc) (*chunkstore.Repository, error) {
	b, err := p.existing(c, o.name, o.profile)
	if err != nil {
		return nil, err
	}
	secret, err := p.otherSecret(c, o)
	if err != nil {
		return nil, err
	}
	opts, err := p.cached(c)
	if err != nil {
		return nil, err
	}
	repo, err := open(c.Context, b, secret, opts)
	if errors.Is(err, crypto.ErrWrongKey) {
		err = withHint(err, "it is of %s; give %spassword-file or %skey-file if another password or key opens that", b.Location(), o.flags, o.flags)
	}
	return repo, err
}

// otherSecret finds what opens a second repository: flags before variables, as for the first.
func (p *program) otherSecret(c *cli.Context, o other) (crypto.Secret, error) {
	switch {
	case o.keyFile != "":
		return readKeyFile(o.keyFile)
	case o.passwordFile != "" || o.passwordCommand != "":
	default:
		if path := p.env.get("HAKOBUNE_" + o.env + "KEY_FILE"); path != "" {
			return readKeyFile(path)
		}
	}
	password, err := p.passwordOf(c, o.passwordFile, o.passwordCommand, o.env)
	switch {
	case err != nil:
		return nil, err
	case password == nil:
		return p.secret(c, false)
	case len(password) == 0:
		return nil, usage("the password of %s is empty", o.name)
	}
	return crypto.Passphrase(password), nil
}
