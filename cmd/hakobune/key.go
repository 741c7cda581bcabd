package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

func (p *program) keyCommand() *cli.Command {
	fresh := []cli.Flag{
		argon2Flag(),
		&cli.StringFlag{Name: "label", Usage: "name the slot `TEXT`"},
		&cli.StringFlag{Name: "new-password-file", Usage: "read the new password from the first line of `FILE`"},
		&cli.StringFlag{Name: "new-key-file", Usage: "create `FILE` with a new random key and add that"},
		&cli.StringFlag{Name: "age-recipient", Usage: "add the age public key `KEY`: for recovery by plain age"},
	}
	return &cli.Command{
		Name:  "key",
		Usage: "manage the key slots: who can open the repository",
		Description: `Every slot holds the repository's keys, wrapped for one password, key file or age recipient.
Any of them opens everything. Removing a slot locks out those who have only that password, unless
they kept a copy of the slot. In a repository of init --object-lock a slot stays until its lock has
ended: key remove takes it from what backups lock again, and key list tells when it can be deleted.

A put-only host has no slot: its credential (add-host) lets it add snapshots, and open nothing.`,
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the slots and, where a password or key is given, the put-only hosts", Action: p.keyList},
			{Name: "add", Usage: "add a password, a key file or an age recipient", Flags: fresh, Action: p.keyAdd},
			{Name: "passwd", Usage: "replace the password in use by a new one", Flags: fresh[:3], Action: p.keyPasswd},
			p.keyRotateCommand(),
			{Name: "remove", Usage: "remove a slot by its id", ArgsUsage: "SLOT", Action: p.keyRemove},
			p.keyAddHostCommand(), p.keyRemoveHostCommand(), p.keyHostPolicyCommand(),
		},
	}
}

type slotLine struct {
	Type string `json:"message_type"`
	crypto.SlotInfo
	Removed bool      `json:"removed,omitempty"`     // or replaced by a rotation: it is stored still, because it was locked
	Locked  time.Time `json:"locked_until,omitzero"` // of such a one: when it can be deleted
}

func (p *program) keyList(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	b, err := p.repository(c)
	if err != nil {
		return err
	}
	slots, err := chunkstore.Slots(c.Context, b)
	if err != nil {
		return err
	}
	lines := make([]slotLine, len(slots))
	for i, s := range slots {
		lines[i] = slotLine{Type: "key", SlotInfo: s}
	}
	var hosts []chunkstore.Host
	repo, err := p.ifOpen(c, b)
	if err == nil && repo != nil {
		if hosts, err = p.hosts(c, repo); err == nil {
			err = markRemoved(c.Context, repo, lines, time.Now())
		}
	}
	if err != nil {
		return err
	}
	if isSet(c, "json") {
		for _, s := range lines {
			writeJSON(p.out, s)
		}
		for _, h := range hosts {
			writeJSON(p.out, newHostLine("host", h))
		}
		return nil
	}
	t := newTable("ID", "Kind", "Label", "Host", "Created")
	for _, s := range slots {
		t.row(s.ID, s.Kind, s.Label, s.Host, localTime(s.Created))
	}
	t.write(p.out)
	for _, s := range lines {
		showRemoved(p.out, s)
	}
	p.showHosts(hosts)
	return nil
}

// markRemoved notes which slots are to go but are locked, or were until now.
func markRemoved(ctx context.Context, repo *chunkstore.Repository, lines []slotLine, now time.Time) error {
	locked, err := repo.LockedSlots(ctx)
	for _, l := range locked {
		for i := range lines {
			if lines[i].ID == l.ID {
				lines[i].Removed, lines[i].Locked = true, now.Add(l.Left).Truncate(time.Second)
			}
		}
	}
	return err
}

// showRemoved tells of a slot that is to go how it does.
func showRemoved(w io.Writer, s slotLine) {
	switch {
	case !s.Removed:
	case s.Locked.After(time.Now()):
		fmt.Fprintf(w, "key slot %s was removed, but is locked in the store until %s: until then it opens what it did\n", s.ID, localTime(s.Locked))
	default:
		fmt.Fprintf(w, "key slot %s was removed, and is not locked any more: hakobune key remove %[1]s deletes it\n", s.ID)
	}
}

// freshSecret returns the secret that a new slot is for, and a function that takes back what it
// left on disk.
func (p *program) freshSecret(c *cli.Context) (crypto.Secret, func(), error) {
	keep := func() {}
	if r := c.String("age-recipient"); r != "" {
		s, err := crypto.AgeRecipient(r)
		return s, keep, err
	}
	if path := c.String("new-key-file"); path != "" {
		return createKeyFile(path)
	}
	var password []byte
	var err error
	if path := c.String("new-password-file"); path != "" {
		password, err = firstLineOf(os.ReadFile(path))
	} else {
		p.note(c, "now the new password")
		password, err = p.ask(true)
	}
	if err == nil && len(password) == 0 {
		err = usage("the new password is empty")
	}
	return crypto.Passphrase(password), keep, err
}

// createKeyFile writes a fresh key to a file that must not exist.
func createKeyFile(path string) (crypto.Secret, func(), error) {
	f, err := os.OpenFile(filepath.Clean(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return nil, nil, fmt.Errorf("new key file: %w", err)
	}
	key := crypto.NewKeyFile()
	_, err = f.Write(key)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	remove := func() { os.Remove(path) }
	if err != nil {
		remove()
		return nil, nil, fmt.Errorf("new key file: %w", err)
	}
	return crypto.KeyFile(key), remove, nil
}

func (p *program) keyAdd(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	_, _, err := p.addSlot(c)
	return err
}

// addSlot adds a slot for a fresh secret and returns the secret by which it got in, and the slot's id.
func (p *program) addSlot(c *cli.Context) (crypto.Secret, string, error) {
	b, err := p.repository(c)
	if err != nil {
		return nil, "", err
	}
	secret, err := p.secret(c, false)
	if err != nil {
		return nil, "", err
	}
	if _, err := chunkstore.Open(c.Context, b, secret, chunkstore.Options{}); err != nil {
		return nil, "", err
	}
	added, takeBack, err := p.freshSecret(c)
	if err != nil {
		return nil, "", err
	}
	cost, err := argon2Cost(c)
	if err != nil {
		takeBack()
		return nil, "", err
	}
	id, err := chunkstore.AddSlot(c.Context, b, secret, added, slotInfo(c), cost)
	if err != nil {
		takeBack()
		return nil, "", err
	}
	return secret, id, p.result(c, map[string]string{"message_type": "key_added", "id": id}, func() {
		fmt.Fprintf(p.out, "added key slot %s\n", id)
	})
}

func (p *program) keyPasswd(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	old, fresh, err := p.addSlot(c)
	if err != nil {
		return err
	}
	b, err := p.repository(c)
	if err != nil {
		return err
	}
	// The new slot is durable: only now may the old one go. While a rotation is under way there are two.
	ids, err := chunkstore.SlotsOf(c.Context, b, old)
	for _, id := range slices.DeleteFunc(ids, func(id string) bool { return id == fresh }) {
		err = errors.Join(err, p.removeSlot(c, b, old, id))
	}
	return err
}

func (p *program) keyRemove(c *cli.Context) error {
	id, err := one(c, "the id of a slot")
	if err != nil {
		return err
	}
	b, err := p.repository(c)
	if err != nil {
		return err
	}
	// Who cannot open the repository has no business to lock others out.
	secret, err := p.secret(c, false)
	if err != nil {
		return err
	}
	if _, err := chunkstore.Open(c.Context, b, secret, chunkstore.Options{}); err != nil {
		return err
	}
	return p.removeSlot(c, b, secret, id)
}

func (p *program) removeSlot(c *cli.Context, b chunkstore.Backend, secret crypto.Secret, id string) error {
	err := chunkstore.RemoveSlot(c.Context, b, secret, id)
	if errors.Is(err, chunkstore.ErrLocked) {
		return withHint(err, "no backup locks it again: when its lock has ended, see hakobune key list, hakobune key remove %s deletes it; until then it opens the repository, but nothing that is stored after hakobune key rotate --drop-others", id)
	}
	if err != nil {
		return withHint(err, "hakobune key list shows the slots")
	}
	return p.result(c, map[string]string{"message_type": "key_removed", "id": id}, func() {
		fmt.Fprintf(p.out, "removed key slot %s\n", id)
	})
}
