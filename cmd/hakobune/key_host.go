package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

func (p *program) keyAddHostCommand() *cli.Command {
	return &cli.Command{
		Name:      "add-host",
		Usage:     "give a host a credential with which it can only add snapshots",
		ArgsUsage: "NAME",
		Description: `Prints a credential, or writes it to the file of --out. With it, as its --key-file, the host can back up,
and nothing else: it can neither read what is stored, its own snapshots either, nor forget, prune or delete,
nor pass for another host. What it stores is restored by those who have the repository's password or keys.

Its keys to the store should allow no more: hakobune key host-policy NAME prints a policy for that.

Give the systems that it may store as --system. A snapshot of another system is a STRAY then, which nothing
restores unless it is named by its id. Without --system that goes for systems which others stored before it.

A put-only host reads everything anew each time, for it cannot read what it stored; and it shares no
content with other hosts in the store. After hakobune key rotate it needs another credential: --renew.

   hakobune key add-host --system shop --out db1.credential db1
   hakobune --key-file db1.credential backup shop         on that host
   hakobune key add-host --renew --out db1.credential db1   after a rotation`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "system", Usage: "the host may store the system `NAME`; may be given several times"},
			&cli.StringFlag{Name: "out", Usage: "create `FILE` with the credential, instead of printing it"},
			&cli.BoolFlag{Name: "renew", Usage: "another credential for a host that there is"},
		},
		Action: p.keyAddHost,
	}
}

type hostLine struct {
	Type       string          `json:"message_type"`
	Name       string          `json:"name"`
	Writer     crypto.WriterID `json:"writer"`
	Systems    []string        `json:"systems,omitempty"`
	Created    time.Time       `json:"created,omitzero"`
	Removed    time.Time       `json:"removed,omitzero"`
	Credential string          `json:"credential,omitempty"`
}

func newHostLine(what string, h chunkstore.Host) hostLine {
	return hostLine{Type: what, Name: h.Name, Writer: h.Writer, Systems: h.Systems, Created: h.Created, Removed: h.Removed}
}

func (p *program) keyAddHost(c *cli.Context) error {
	name, err := one(c, "a name for the host")
	if err != nil {
		return err
	}
	if len(name) > 256 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return usage("%q is no name for a host", name)
	}
	systems := c.StringSlice("system")
	if c.Bool("renew") && len(systems) > 0 {
		return usage("--renew leaves as it is what the host may store").hint("remove the host, and add another of that name")
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	out := c.String("out")
	write := func([]byte) error { return nil }
	if out != "" { // before the host is there: nobody could have its credential
		f, err := os.OpenFile(filepath.Clean(out), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return fmt.Errorf("credential: %w", err)
		}
		write = func(b []byte) error {
			_, err := f.Write(b)
			return errors.Join(err, f.Sync(), f.Close())
		}
	}
	h, credential, err := repo.AddHost(c.Context, name, systems, c.Bool("renew"))
	if err == nil {
		err = write(credential)
	}
	if err != nil {
		if out != "" {
			os.Remove(out)
		}
		return hostHint(err)
	}
	line := newHostLine("host_added", h)
	if out == "" {
		line.Credential = string(credential)
	}
	return p.result(c, line, func() {
		if out == "" {
			p.out.Write(credential)
			p.note(c, "put-only host %s, writer %v: keep what was printed in a file that only root reads, and give it as --key-file", name, h.Writer)
			return
		}
		fmt.Fprintf(p.out, "put-only host %s, writer %v: its credential is in %s\n", name, h.Writer, out)
		p.note(c, "what its keys to the store may allow: hakobune key host-policy %s", name)
	})
}

func hostHint(err error) error {
	switch {
	case errors.Is(err, chunkstore.ErrHostExists):
		return withHint(err, "--renew gives it another credential; hakobune key remove-host takes the one it has back")
	case errors.Is(err, chunkstore.ErrNoHost):
		return withHint(err, "hakobune key list shows the put-only hosts, where a password or key is given")
	}
	return err
}

func (p *program) keyRemoveHostCommand() *cli.Command {
	return &cli.Command{
		Name:      "remove-host",
		Usage:     "take the credential of a put-only host back",
		ArgsUsage: "NAME",
		Description: `What the host, or whoever has its credential, stores from now on counts for nothing: no list shows it, nothing
is restored from it, prune deletes it, and hakobune check tells of it. What it stored before stays. Where
the credential was stolen earlier, say since when: by the clock of the store.

Take its keys to the store away too. NAME is the host's name, or its writer id.

   hakobune key remove-host db1
   hakobune key remove-host -n --since '2026-11-20 18:00' db1     which snapshots would count for nothing?
   hakobune key remove-host --since '2026-11-20 18:00' db1`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "dry-run", Aliases: []string{"n"}, Usage: "change nothing, tell which snapshots would count for nothing"},
			&cli.StringFlag{Name: "since", Usage: "what it stored after `TIME` counts for nothing either"},
		},
		Action: p.keyRemoveHost,
	}
}

func (p *program) keyRemoveHost(c *cli.Context) error {
	name, err := one(c, "the name of a put-only host")
	if err != nil {
		return err
	}
	since, err := sinceFlag(c)
	if err != nil {
		return err
	}
	repo, err := p.open(c)
	if err != nil {
		return err
	}
	if c.Bool("dry-run") {
		return p.wouldRemoveHost(c, repo, name, since)
	}
	h, err := repo.RemoveHost(c.Context, name, since)
	if err != nil {
		return hostHint(err)
	}
	return p.result(c, newHostLine("host_removed", h), func() {
		fmt.Fprintf(p.out, "removed put-only host %s, writer %v: what it stores after %s counts for nothing\n", h.Name, h.Writer, localTime(h.Removed))
	})
}

type hostRemovalLine struct {
	hostLine
	DryRun    bool     `json:"dry_run"`
	Snapshots []string `json:"snapshots"` // that would count for nothing
}

// wouldRemoveHost tells what the removal of a host would take back.
func (p *program) wouldRemoveHost(c *cli.Context, repo *chunkstore.Repository, name string, since time.Time) error {
	h, lost, err := repo.RemovalOf(c.Context, name, since)
	if err != nil {
		return hostHint(err)
	}
	line := hostRemovalLine{newHostLine("host_removed", h), true, []string{}}
	for _, o := range lost {
		line.Snapshots = append(line.Snapshots, o.Session.Random())
	}
	return p.result(c, line, func() {
		fmt.Fprintf(p.out, "would remove put-only host %s, writer %v: what it stores from then on counts for nothing\n", h.Name, h.Writer)
		for _, o := range lost {
			fmt.Fprintf(p.out, "snapshot %s, stored %s, would count for nothing\n", o.Session.Random()[:8], localTime(o.Modified))
		}
		fmt.Fprintln(p.out, "nothing was changed")
	})
}

func sinceFlag(c *cli.Context) (time.Time, error) {
	text := c.String("since")
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("--since %q is no time", text).hint("such as 2026-11-20, '2026-11-20 18:00' or 2026-11-20T18:00:00Z")
}

// ifOpen opens the repository, if what opens it is given: it is not asked for. Else, or where that does not fit, it returns nil.
func (p *program) ifOpen(c *cli.Context, b chunkstore.Backend) (*chunkstore.Repository, error) {
	secret, err := p.secretGiven(c)
	if err != nil || secret == nil {
		return nil, err
	}
	repo, err := chunkstore.Open(c.Context, b, secret, chunkstore.Options{Logger: p.logger(c)})
	if errors.Is(err, crypto.ErrWrongKey) || errors.Is(err, crypto.ErrDamaged) {
		p.note(c, "put-only hosts, and which slots were removed, are not shown: %v", err)
		return nil, nil
	}
	return repo, err
}

// hosts returns the put-only hosts.
func (p *program) hosts(c *cli.Context, repo *chunkstore.Repository) ([]chunkstore.Host, error) {
	hosts, bad, err := repo.Hosts(c.Context)
	for name, err := range bad {
		p.logger(c).Warn("what is on record of a put-only host cannot be read", "object", name, "error", err)
	}
	return hosts, err
}

func (p *program) showHosts(hosts []chunkstore.Host) {
	if len(hosts) == 0 {
		return
	}
	fmt.Fprintln(p.out)
	t := newTable("Put-only host", "Writer", "Systems", "Created", "Removed")
	for _, h := range hosts {
		removed := ""
		if !h.Removed.IsZero() {
			removed = localTime(h.Removed)
		}
		t.row(h.Name, h.Writer.String(), strings.Join(h.Systems, ", "), localTime(h.Created), removed)
	}
	t.write(p.out)
}
