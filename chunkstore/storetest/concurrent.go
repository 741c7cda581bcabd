package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

func (s suite) concurrent(t *testing.T) {
	b := s.open(t)
	if s.weak[Busy] {
		b = chunkstore.Retry(b, chunkstore.RetryOptions{Initial: 10 * time.Millisecond, MaxElapsed: time.Minute})
	}
	g, ctx := errgroup.WithContext(t.Context())
	for i := range 8 {
		g.Go(func() error {
			for j := range 5 {
				name, data := fmt.Sprintf("c/%d/%d", i, j), Random(1000*j+i)
				if err := b.Put(ctx, name, data); err != nil {
					return err
				}
				if got, err := b.Get(ctx, name, 0, -1); err != nil || !bytes.Equal(got, data) {
					return fmt.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(data))
				}
				if err := b.List(ctx, fmt.Sprintf("c/%d/", i), func(chunkstore.Info) error { return nil }); err != nil {
					return err
				}
				if err := b.Delete(ctx, name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// noMixture: whoever reads while a name is written sees one content whole, or none.
func (s suite) noMixture(t *testing.T) {
	b := s.open(t)
	const size = 300_000
	content := func(c byte) []byte { return bytes.Repeat([]byte{c}, size+int(c)) }
	g, ctx := errgroup.WithContext(t.Context())
	for w := range 4 {
		g.Go(func() error {
			for range 5 {
				if err := b.Put(ctx, "n", content(byte('a'+w))); err != nil {
					return err
				}
			}
			return nil
		})
		g.Go(func() error {
			for range 10 {
				got, err := b.Get(ctx, "n", 0, -1)
				if errors.Is(err, chunkstore.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				if len(got) == 0 || !bytes.Equal(got, content(got[0])) {
					return fmt.Errorf("a mixture of %d bytes", len(got))
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func (s suite) create(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	c, ok := b.(chunkstore.Creator)
	if !ok {
		t.Skip("the backend is no Creator")
	}
	err := c.PutIfAbsent(ctx, "n/a", []byte("first"))
	if errors.Is(err, chunkstore.ErrUnsupported) {
		if _, err := b.Stat(ctx, "n/a"); !errors.Is(err, chunkstore.ErrNotExist) {
			t.Errorf("after ErrUnsupported: %v; want ErrNotExist", err)
		}
		t.Skip("the backend refuses PutIfAbsent as unsupported, and stores nothing")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{"second", "first"} {
		if err := c.PutIfAbsent(ctx, "n/a", []byte(data)); !errors.Is(err, chunkstore.ErrExist) {
			t.Errorf("PutIfAbsent(%s) over an object: %v; want ErrExist", data, err)
		}
		if got := get(t, b, "n/a"); string(got) != "first" {
			t.Errorf("after ErrExist the object holds %q", got)
		}
	}
	put(t, b, "n/put", []byte("put"))
	if err := c.PutIfAbsent(ctx, "n/put", []byte("x")); !errors.Is(err, chunkstore.ErrExist) {
		t.Errorf("PutIfAbsent over what Put stored: %v; want ErrExist", err)
	}
	if err := b.Delete(ctx, "n/a"); err != nil {
		t.Fatal(err)
	}
	if err := c.PutIfAbsent(ctx, "n/a", []byte("third")); err != nil {
		t.Errorf("PutIfAbsent after Delete: %v", err)
	}
	if err := c.PutIfAbsent(ctx, "n/large", Random(17<<20)); err != nil {
		t.Errorf("PutIfAbsent of 17 MiB: %v", err)
	}
}

// createOnce: of eight at once exactly one wins, and it is that one's content that stays.
func (s suite) createOnce(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	c, ok := b.(chunkstore.Creator)
	if !ok {
		t.Skip("the backend is no Creator")
	}
	if s.weak[NotAtomic] {
		t.Skip("the backend is known not to be atomic")
	}
	for round := range 10 {
		name := fmt.Sprint("n/", round)
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = c.PutIfAbsent(ctx, name, bytes.Repeat([]byte{byte(i)}, 1000)) })
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case errors.Is(err, chunkstore.ErrUnsupported):
				t.Skip("the backend refuses PutIfAbsent as unsupported")
			case err == nil && winner >= 0:
				t.Errorf("%s: both %d and %d won", name, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, chunkstore.ErrExist):
				t.Errorf("%s: %d: %v; want ErrExist", name, i, err)
			}
		}
		if got := get(t, b, name); winner < 0 || got[0] != byte(winner) {
			t.Errorf("%s: %d won, but the content is %d's", name, winner, got[0])
		}
	}
}
