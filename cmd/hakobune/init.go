package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

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
(hakobune key add) somewhere that does not burn with the house.

With --object-lock, every snapshot and all that it needs is locked in the store from when it was made for the time
of --retention: whoever takes over this host, or the store's keys, can neither delete nor replace it, and what
they put over it is not seen. The bucket must have been made with Object Lock (--create-bucket makes one so).
What is locked cannot be deleted by you either, and is paid for: prune leaves it until its time is up. Keep
the right to bypass governance (s3:BypassGovernanceRetention) from this host, or choose compliance, which
nobody can bypass. hakobune check --immutable shows whether it holds.

--data-class is remembered in the repository, so that every later run on every host puts contents into that
class of storage; a run with another --data-class goes by its own.

   hakobune init -r s3:https://s3.example.com/bucket/prefix
   hakobune init -r s3:https://s3.example.com/bucket/prefix --data-class GLACIER_IR
   hakobune init -r s3:https://s3.example.com/bucket --create-bucket --object-lock compliance --retention 30d`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "object-lock", Usage: "lock objects in the `MODE` compliance or governance"},
			&cli.StringFlag{Name: "retention", Value: "30d", Usage: "lock each snapshot for `DAYS`, such as 30d"},
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
	if mode := c.String("object-lock"); mode != "" {
		if _, err := objectLock(c, chunkstore.LockMode(mode)); err != nil {
			return err
		}
	} else if c.IsSet("retention") {
		return usage("--retention is for --object-lock")
	}
	secret, err := p.secret(c, true)
	if err != nil {
		return err
	}
	cfg, err := p.createRepository(c, b, secret, cost)
	if err != nil {
		return err
	}
	conditional, err := chunkstore.ConditionalWrites(c.Context, b)
	if err != nil {
		return fmt.Errorf("the repository was created, but the store could not be probed: %w", err)
	}
	out := initResult{Type: "initialized", Repository: b.Location(), ID: cfg.Repository.String(), ConditionalWrites: conditional, DataClass: cfg.DataClass}
	return p.result(c, out, func() {
		fmt.Fprintf(p.out, "created repository %s at %s\n", out.ID[:8], out.Repository)
		if !conditional {
			p.note(c, "the store does not create objects conditionally: commits use the slower fallback (docs/format.md)")
		}
		p.note(c, "without its password or key the repository cannot be read by anybody; keep it safe")
	})
}

// createRepository creates the repository, with locks and a storage class if they are asked for.
func (p *program) createRepository(c *cli.Context, b chunkstore.Backend, secret crypto.Secret, cost crypto.KDF) (chunkstore.Config, error) {
	mode := chunkstore.LockMode(c.String("object-lock"))
	class, err := p.flag(c, "data-class", "DATA_CLASS")
	if err != nil {
		return chunkstore.Config{}, err
	}
	if mode == "" && class == "" {
		return chunkstore.Init(c.Context, b, secret, slotInfo(c), cost, chunkstore.ChunkerParams{})
	}
	o := chunkstore.InitOptions{DataClass: class}
	if mode != "" {
		lock, err := objectLock(c, mode)
		if err != nil {
			return chunkstore.Config{}, err
		}
		o.Lock = &lock
	}
	cfg, err := chunkstore.InitWith(c.Context, b, secret, slotInfo(c), cost, o)
	if err != nil && o.Lock != nil {
		err = withHint(err, "objects can be locked in an S3 bucket that was made with Object Lock, which --create-bucket does")
	}
	return cfg, err
}

// objectLock reads the flags of locks.
func objectLock(c *cli.Context, mode chunkstore.LockMode) (chunkstore.Lock, error) {
	if mode != chunkstore.Compliance && mode != chunkstore.Governance {
		return chunkstore.Lock{}, usage("--object-lock %q: want compliance or governance", mode)
	}
	text := c.String("retention")
	days, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
	if err != nil || !strings.HasSuffix(text, "d") || days < 1 || days > chunkstore.MaxLockDays {
		return chunkstore.Lock{}, usage("--retention %q: want days, as 30d", text)
	}
	return chunkstore.Lock{Mode: mode, Days: days}, nil
}

type initResult struct {
	Type              string `json:"message_type"`
	Repository        string `json:"repository"`
	ID                string `json:"id"`
	ConditionalWrites bool   `json:"conditional_writes"`
	DataClass         string `json:"data_class,omitempty"`
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
