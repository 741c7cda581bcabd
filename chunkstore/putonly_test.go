package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

// putOnly is a store as the credentials of a put-only host see it: docs/recovery.md and hakobune key host-policy have the same.
type putOnly struct {
	chunkstore.Backend
	writer string
}

func (p putOnly) allowed(name, prefixes string) error {
	for prefix := range strings.FieldsSeq(strings.ReplaceAll(prefixes, "W", p.writer)) {
		if strings.HasPrefix(name, prefix) {
			return nil
		}
	}
	return fmt.Errorf("%s: %w", name, chunkstore.ErrAccess)
}

func (p putOnly) Put(ctx context.Context, name string, data []byte) error {
	if err := p.allowed(name, "s/W/ i/W/ n/W/ p/W/ t/W/"); err != nil {
		return err
	}
	return p.Backend.Put(ctx, name, data)
}

func (p putOnly) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := p.allowed(name, "s/W/ i/W/ n/W/ p/W/ t/W/"); err != nil {
		return err
	}
	return p.Backend.(chunkstore.Creator).PutIfAbsent(ctx, name, data)
}

func (p putOnly) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := p.allowed(name, "config g/ o/ i/W/ n/W/ x/W/"); err != nil {
		return nil, err
	}
	return p.Backend.Get(ctx, name, off, n)
}

func (p putOnly) Stat(ctx context.Context, name string) (chunkstore.Info, error) {
	if err := p.allowed(name, "config g/ o/ i/W/ n/W/ x/W/"); err != nil {
		return chunkstore.Info{}, err
	}
	info, err := p.Backend.Stat(ctx, name)
	if errors.Is(err, chunkstore.ErrNotExist) { // whoever may not list everything is not told
		err = fmt.Errorf("%s: %w", name, chunkstore.ErrAccess)
	}
	return info, err
}

func (p putOnly) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	if err := p.allowed(prefix, "k/ g/ o/ h/W s/W/ i/W/ n/W/ x/W/ p/W/ t/W/"); err != nil {
		return err
	}
	return p.Backend.List(ctx, prefix, fn)
}

func (p putOnly) Delete(_ context.Context, name string) error {
	return fmt.Errorf("%s: %w", name, chunkstore.ErrAccess)
}

func addHost(t testing.TB, b chunkstore.Backend, name string, renew bool) *crypto.Credential {
	t.Helper()
	_, text, err := reopen(t, b, chunkstore.Options{}).AddHost(t.Context(), name, nil, renew)
	if err != nil {
		t.Fatal(err)
	}
	c, err := crypto.ParseCredential(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openHost opens the repository with what a put-only host may do there.
func openHost(ctx context.Context, b chunkstore.Backend, c *crypto.Credential) (*chunkstore.Repository, error) {
	return chunkstore.OpenHost(ctx, putOnly{b, c.Info().Writer.String()}, c, chunkstore.Options{})
}

// hostBackup backs up as a put-only host and returns what the session stored.
func hostBackup(t testing.TB, b chunkstore.Backend, c *crypto.Credential, content []byte) chunkstore.SessionStats {
	t.Helper()
	r, err := openHost(t.Context(), b, c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := backup(t.Context(), r, content)
	if err != nil {
		t.Fatal(err)
	}
	return s.Stats()
}
