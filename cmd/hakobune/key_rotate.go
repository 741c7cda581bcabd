package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

func (p *program) keyRotateCommand() *cli.Command {
	return &cli.Command{
		Name:  "rotate",
		Usage: "begin a new key epoch: what is stored from now on cannot be read with the keys from before",
		Description: `For the day on which somebody who could open the repository no longer should, or a password or host
was lost. Whoever has a copy of the keys from before, or of a slot and its password, reads nothing of
what is stored from then on; what was stored before he can still read where he can reach it.

Every slot is put anew, with the new keys in it, and for that its secret is needed. The slot of the
password or key at hand is renewed; name the secrets of others that are to stay, and remove all
others with --drop-others. Without it nothing is changed while there are such.

   hakobune key list
   hakobune key rotate -n                                 which slots would stay?
   hakobune key rotate --drop-others                      only my password opens it from now on
   hakobune key rotate --also-key-file /mnt/usb/ark.key
   hakobune key rotate --age-recipient 0123456789abcdef=age1...
   hakobune key rotate --rewrite --drop-others            and store anew what is there

--rewrite also stores anew, sealed with the new keys, what is in the store: packs older than 24 hours,
the index, what lists of snapshots show, what was forgotten, and records of drills, failovers and tags.
It works as hakobune prune does: what a running backup may rely on goes later, and what could not be
done yet --resume does, without another epoch. Without hurry, prune --max-reencrypt does the same
little by little. Claims, which say to which site a system belongs, stay sealed as they were, and so
do what put-only hosts have stored and all that is locked.

It may be killed at any moment: the same command again ends what the first one began. Backups that
run go on. A second place made by hakobune sync has the old slots until sync --delete has run.`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "change nothing, tell what would be done"},
			&cli.StringSliceFlag{Name: "also-password-file", Usage: "keep the slot of the password in the first line of `FILE` too"},
			&cli.StringSliceFlag{Name: "also-key-file", Usage: "keep the slot of the key in `FILE` too"},
			&cli.StringSliceFlag{Name: "age-recipient", Usage: "keep an age slot, whose public key is needed for that: `SLOT=KEY`"},
			&cli.BoolFlag{Name: "drop-others", Usage: "remove all other slots"},
			&cli.BoolFlag{Name: "rewrite", Usage: "then store anew what is sealed with older keys"},
			&cli.BoolFlag{Name: "resume", Usage: "begin no epoch, only go on with --rewrite"},
			&cli.DurationFlag{Name: "min-age", Value: 24 * time.Hour, Usage: "with --rewrite and --resume: leave packs alone that are younger than `TIME`, see hakobune prune --help"},
		},
		Action: p.keyRotate,
	}
}

type rotateLine struct {
	Type    string        `json:"message_type"`
	DryRun  bool          `json:"dry_run"`
	Epoch   int           `json:"epoch"`
	Resumed bool          `json:"resumed"`
	Renewed []renewedLine `json:"renewed"`
	Removed []string      `json:"removed"`
	Locked  []string      `json:"locked,omitempty"`
}

type renewedLine struct {
	Old   string `json:"old"`
	ID    string `json:"id"`
	Kind  string `json:"kind"`
	Label string `json:"label"`
}

func (p *program) keyRotate(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	b, err := p.repository(c)
	if err != nil {
		return err
	}
	opts, err := rotateOptions(c)
	if err != nil {
		return err
	}
	if c.Bool("resume") && (opts.DropOthers || len(opts.Secrets)+len(opts.Recipients) > 0) {
		return usage("--resume changes no key slot").hint("without --resume a new key epoch begins")
	}
	secret, err := p.secret(c, false)
	if err != nil {
		return err
	}
	if !c.Bool("resume") {
		if err := p.rotate(c, b, secret, opts); err != nil {
			return err
		}
	}
	if !c.Bool("resume") && (!c.Bool("rewrite") || opts.DryRun) { // of an epoch that has not begun nothing is old
		return nil
	}
	return p.rewriteOld(c, b, secret, opts.DryRun)
}

// rewriteOld stores anew what is sealed in older key epochs.
func (p *program) rewriteOld(c *cli.Context, b chunkstore.Backend, secret crypto.Secret, dry bool) error {
	opts, err := p.cached(c)
	if err != nil {
		return err
	}
	repo, err := chunkstore.Open(c.Context, b, secret, opts)
	if err != nil {
		return err
	}
	age := c.Duration("min-age")
	if age <= 0 {
		age = -1
	}
	return p.collect(c, repo, chunkstore.CollectOptions{Host: hostName(), DryRun: dry, MinAge: age, MaxUnused: -1, MaxReencrypt: -1})
}

// rotate begins a new key epoch and tells what became of the slots.
func (p *program) rotate(c *cli.Context, b chunkstore.Backend, secret crypto.Secret, opts chunkstore.RotateOptions) error {
	report, err := chunkstore.RotateKeys(c.Context, b, secret, opts)
	if err != nil {
		if _, ok := errors.AsType[*chunkstore.OtherSlotsError](err); ok {
			err = withHint(err, "keep them by their secrets (--also-password-file, --also-key-file, --age-recipient SLOT=KEY), or remove them with --drop-others; nothing was changed")
		}
		return err
	}
	line := rotateLine{Type: "key_rotated", DryRun: opts.DryRun, Epoch: report.Epoch, Resumed: report.Resumed, Removed: []string{}, Renewed: []renewedLine{}}
	for _, s := range report.Renewed {
		line.Renewed = append(line.Renewed, renewedLine{s.ID, s.New, s.Kind, s.Label})
	}
	for _, s := range report.Removed {
		line.Removed = append(line.Removed, s.ID)
	}
	for _, s := range report.Locked {
		line.Locked = append(line.Locked, s.ID)
	}
	return p.result(c, line, func() { p.showRotate(line) })
}

func rotateOptions(c *cli.Context) (chunkstore.RotateOptions, error) {
	o := chunkstore.RotateOptions{DropOthers: c.Bool("drop-others"), DryRun: c.Bool("dry-run"), Recipients: map[string]crypto.Secret{}}
	for _, path := range c.StringSlice("also-password-file") {
		password, err := firstLineOf(os.ReadFile(path))
		if err != nil {
			return o, err
		}
		o.Secrets = append(o.Secrets, crypto.Passphrase(password))
	}
	for _, path := range c.StringSlice("also-key-file") {
		secret, err := readKeyFile(path)
		if err != nil {
			return o, err
		}
		o.Secrets = append(o.Secrets, secret)
	}
	for _, pair := range c.StringSlice("age-recipient") {
		slot, key, ok := strings.Cut(pair, "=")
		if !ok {
			return o, usage("--age-recipient %q: want SLOT=KEY", pair).hint("hakobune key list shows the slots")
		}
		recipient, err := crypto.AgeRecipient(key)
		if err != nil {
			return o, err
		}
		o.Recipients[slot] = recipient
	}
	return o, nil
}

func (p *program) showRotate(l rotateLine) {
	switch {
	case l.DryRun && l.Resumed:
		fmt.Fprintf(p.out, "would end the rotation to key epoch %d that was interrupted\n", l.Epoch)
	case l.DryRun:
		fmt.Fprintf(p.out, "would rotate to key epoch %d\n", l.Epoch)
	case l.Resumed:
		fmt.Fprintf(p.out, "ended the rotation to key epoch %d that was interrupted\n", l.Epoch)
	default:
		fmt.Fprintf(p.out, "rotated to key epoch %d: what is stored from now on cannot be read with the keys from before\n", l.Epoch)
	}
	for _, s := range l.Renewed {
		fmt.Fprintf(p.out, "renewed key slot %s (%s %s): now %s\n", s.Old, s.Kind, s.Label, s.ID)
	}
	for _, id := range l.Removed {
		fmt.Fprintf(p.out, "removed key slot %s\n", id)
	}
	for _, id := range l.Locked {
		fmt.Fprintf(p.out, "key slot %s is locked in the store and stays for now: it opens only what was stored before\n", id)
	}
	if l.DryRun {
		fmt.Fprintln(p.out, "nothing was changed")
	}
}
