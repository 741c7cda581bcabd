package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// isDamage tells whether an error ends a command with the exit code for damage.
func isDamage(err error) bool {
	return errors.Is(err, crypto.ErrDamaged) || errors.Is(err, chunkstore.ErrChunkMissing)
}

// What the store does not give for now is never called lost or damaged, whatever call it is, and nothing is repaired for it: a
// check, repairs, a collection and a forget end with an error that says so, or have noticed nothing.
func TestPassingFaults(t *testing.T) {
	h, host := newHistory(t), t.TempDir()
	forget(t, h.now, len(h.contents)-1) // of the newest the outcome stays when its packs are gone
	collectNow(t, h.now)
	for name, run := range map[string]func(context.Context, *chunkstore.Repository) (concluded []error, err error){
		"check": func(ctx context.Context, r *chunkstore.Repository) (concluded []error, err error) {
			report, err := r.Check(ctx, chunkstore.CheckOptions{Walk: walk(r), Data: chunkstore.Everything})
			if report != nil {
				for _, f := range report.Faults {
					concluded = append(concluded, f.Err)
				}
			}
			return concluded, err
		},
		"repair index": func(ctx context.Context, r *chunkstore.Repository) (concluded []error, err error) {
			found, err := r.RepairIndex(ctx, chunkstore.RepairOptions{ReadAll: true})
			for _, name := range append(append(found.Missing, found.Damaged...), found.Marks...) {
				concluded = append(concluded, errors.New(name))
			}
			return append(concluded, found.Problems...), err
		},
		"repair packs": func(ctx context.Context, r *chunkstore.Repository) (concluded []error, err error) {
			found, err := r.RepairPacks(ctx, nil, chunkstore.RepairOptions{})
			for _, d := range found.Damaged {
				concluded = append(concluded, d.Err)
			}
			return concluded, err
		},
		"collect": func(ctx context.Context, r *chunkstore.Repository) ([]error, error) {
			chunkstore.SetAges(r, 0, 0, time.Hour, 0)
			report, err := r.Collect(ctx, collectOptions(r))
			return report.Problems, err
		},
		"forget": func(ctx context.Context, r *chunkstore.Repository) ([]error, error) {
			all, err := r.Outcomes(ctx)
			if err == nil && all[0].Err == nil {
				err = r.Forget(ctx, "test", all[:1])
			}
			return nil, err
		},
	} {
		for what, faults := range map[string]func(n int) storeFault{
			"call":        func(n int) storeFault { return &storetest.Faulty{N: n} },
			"cut call":    func(n int) storeFault { return &storetest.Faulty{N: n, Err: io.ErrUnexpectedEOF} },
			"read object": func(n int) storeFault { return &notGiven{n: n} },
		} {
			if testing.Short() && what == "cut call" {
				continue
			}
			rounds := 0
			for n := 1; ; n += stride() {
				store, f := h.now.Clone(), faults(n)
				r, err := chunkstore.Open(t.Context(), chunkstore.Retry(f.Wrap(store), chunkstore.RetryOptions{MaxElapsed: -1}), password, chunkstore.Options{StateDir: host})
				var concluded []error
				if err == nil {
					concluded, err = run(t.Context(), r)
				}
				if isDamage(err) || err != nil && !chunkstore.IsPassing(err) {
					t.Errorf("%s, %s %d fails: %v", name, what, n, err)
				}
				for _, c := range concluded {
					if !chunkstore.IsPassing(c) || isDamage(c) {
						t.Errorf("%s, %s %d fails: concluded: %v", name, what, n, c)
					}
				}
				if !f.Fired() {
					break
				}
				if name != "check" {
					wantClean(t, reopen(t, store, chunkstore.Options{}))
				}
				rounds++
			}
			if rounds*stride() < 5 {
				t.Errorf("%s: %s: %d rounds", name, what, rounds)
			}
		}
	}
}

type storeFault interface {
	Wrap(chunkstore.Backend) chunkstore.Backend
	Fired() bool
}

// notGiven is a store that never gives one of the objects: the n-th that is read.
type notGiven struct {
	n int

	mu   sync.Mutex
	read []string // by when they were read first
}

func (g *notGiven) Wrap(b chunkstore.Backend) chunkstore.Backend {
	return storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.Get && g.number(c.Name) == g.n {
			return fmt.Errorf("%s: %w", c.Name, storetest.ErrInjected)
		}
		return next()
	})
}

func (g *notGiven) number(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.read, name) {
		g.read = append(g.read, name)
	}
	return slices.Index(g.read, name) + 1
}

func (g *notGiven) Fired() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.read) >= g.n
}

// A writer's newest outcome stays when its snapshot is forgotten, and then so does what it names: that of a session that gave up.
// And where an outcome cannot be read, it may name any.
func TestAbortedStayNamed(t *testing.T) {
	base, host := nights(t, words(1, 600)), t.TempDir()
	r := reopen(t, base, chunkstore.Options{StateDir: host})
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{})
	if err == nil {
		err = s.Abort(t.Context())
	}
	for end := time.Now().UnixMilli(); time.Now().UnixMilli() == end; time.Sleep(time.Millisecond) { // ids of sessions begin with it
	}
	if err == nil {
		_, err = backup(t.Context(), r, words(2, 600))
	}
	if err != nil {
		t.Fatal(err)
	}
	newest := outcomes(t, r)[1].Name
	for unread := 0; ; unread++ { // how often it was read when it cannot be; 0: it can, but is forgotten
		b := base.Clone()
		if unread == 0 {
			forget(t, b, 1)
		}
		f := &storetest.Faulty{N: unread, Match: func(c storetest.Call) bool { return c.Op == storetest.Get && c.Name == newest }}
		store := f.Wrap(b)
		for range 3 { // the first one deletes what announces the sessions
			if _, err := tryCollect(t.Context(), store, host); err != nil && !errors.Is(err, storetest.ErrInjected) {
				t.Fatal(err)
			}
		}
		wantClean(t, reopen(t, b, chunkstore.Options{}))
		if unread > 0 && !f.Fired() {
			return
		}
	}
}
