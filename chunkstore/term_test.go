package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

// claimed lists the claims of a series as number, body and whether they can be read.
func claimed(t *testing.T, b chunkstore.Backend, series string) []string {
	t.Helper()
	all, err := reopen(t, b, chunkstore.Options{}).Claims(t.Context(), series)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, c := range all {
		list = append(list, fmt.Sprintf("%s %d %s %v", c.Series, c.Number, c.Body, c.Err == nil))
	}
	return list
}

// candidates holds back lists of candidates until so many were put.
func candidates(b chunkstore.Backend, hosts int) chunkstore.Backend {
	var put sync.WaitGroup
	put.Add(hosts)
	return storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
		candidate := strings.HasPrefix(c.Name, "o/") && strings.Contains(c.Name, "-")
		if candidate && c.Op == storetest.List {
			put.Wait()
		}
		err := next()
		if candidate && c.Op == storetest.Put {
			put.Done()
		}
		return err
	})
}

// Of hosts that claim a number at once exactly one gets it, on every kind of store, and who comes later does not.
func TestClaim(t *testing.T) {
	const hosts = 4
	for kind, wrap := range kinds() {
		t.Run(kind, func(t *testing.T) {
			store := mem.New(mem.Options{})
			b := wrap(candidates(store, hosts))
			newRepository(t, b, chunkstore.Options{})
			var won atomic.Int64
			var wg sync.WaitGroup
			for host := range hosts {
				r := reopen(t, b, chunkstore.Options{})
				chunkstore.SetContest(r, time.Millisecond)
				wg.Go(func() {
					switch err := r.Claim(t.Context(), "shop", 1, host); {
					case err == nil:
						won.Add(int64(1 + 100*host))
					case !errors.Is(err, chunkstore.ErrClaimed):
						t.Error(err)
					}
				})
			}
			wg.Wait()
			winner := won.Load() / 100
			if won.Load()%100 != 1 {
				t.Fatalf("%d hosts have the number", won.Load()%100)
			}
			want := []string{fmt.Sprintf("shop 1 %d true", winner)}
			if diff := cmp.Diff(want, claimed(t, store, "shop")); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
			late := reopen(t, wrap(store), chunkstore.Options{})
			chunkstore.SetContest(late, time.Millisecond)
			if err := late.Claim(t.Context(), "shop", 1, "late"); !errors.Is(err, chunkstore.ErrClaimed) {
				t.Errorf("later: %v", err)
			}
			for _, number := range []int{0, -1, 100_000_000} {
				if err := late.Claim(t.Context(), "shop", number, "none"); err == nil {
					t.Errorf("number %d was claimed", number)
				}
			}
			if err := errors.Join(late.Claim(t.Context(), "wiki", 1, "w"), late.Claim(t.Context(), "shop", 2, "s")); err != nil {
				t.Fatal(err)
			}
			if got := claimed(t, store, ""); len(got) != 3 {
				t.Errorf("all claims: %q", got)
			}
		})
	}
}

// A host that stopped between its candidate and the claim keeps the others from the number for a minute.
func TestClaimStopped(t *testing.T) {
	now := time.Date(2026, 11, 20, 2, 0, 0, 0, time.UTC)
	store := mem.New(mem.Options{Now: func() time.Time { return now }})
	b := storetest.NoCreate(store)
	newRepository(t, b, chunkstore.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	stopped := reopen(t, storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.Put {
			defer cancel()
		}
		return next()
	}), chunkstore.Options{})
	if err := stopped.Claim(ctx, "shop", 1, "stopped"); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r := reopen(t, b, chunkstore.Options{})
	chunkstore.SetContest(r, time.Millisecond)
	now = now.Add(10 * time.Second)
	if err := r.Claim(t.Context(), "shop", 1, "early"); !errors.Is(err, chunkstore.ErrClaimed) {
		t.Errorf("while it may come back: %v", err)
	}
	now = now.Add(2 * time.Minute)
	if err := r.Claim(t.Context(), "shop", 1, "later"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{`shop 1 "later" true`}, claimed(t, b, "shop")); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}

// Every call to the store fails once, before or after its effect: the claim is there or not, never two, and what
// was reported as ours is.
func TestClaimFaults(t *testing.T) {
	for kind, wrap := range kinds() {
		for _, after := range []bool{false, true} {
			for n := 1; ; n++ {
				store := mem.New(mem.Options{})
				newRepository(t, store, chunkstore.Options{})
				f := &storetest.Faulty{N: n, After: after}
				r := reopen(t, wrap(store), chunkstore.Options{})
				first, err := chunkstore.Open(t.Context(), f.Wrap(wrap(store)), password, chunkstore.Options{})
				if err == nil {
					chunkstore.SetContest(first, time.Millisecond)
					err = first.Claim(t.Context(), "shop", 1, "first")
				}
				chunkstore.SetContest(r, time.Millisecond)
				second := r.Claim(t.Context(), "shop", 1, "second")
				if err == nil && second == nil {
					t.Fatalf("%s: call %d: two have it", kind, n)
				}
				got := claimed(t, store, "shop")
				if err == nil && (len(got) != 1 || !strings.Contains(got[0], "first")) || second == nil && !strings.Contains(got[0], "second") {
					t.Fatalf("%s: call %d: %v, %v, claims %q", kind, n, err, second, got)
				}
				if !f.Fired() {
					break
				}
			}
		}
	}
}

// Claims that were altered, put elsewhere or taken out below others are told, and by a check.
func TestClaimDamage(t *testing.T) {
	store := mem.New(mem.Options{})
	r := newRepository(t, store, chunkstore.Options{})
	for _, series := range []string{"shop", "wiki"} {
		for n := range 2 {
			if err := r.Claim(t.Context(), series, n+1, "body"); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantClean(t, reopen(t, store, chunkstore.Options{}))
	names := namesUnder(t, store, "o/")
	object, err := store.Get(t.Context(), names[0], 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func(*mem.Store) error{
		"flipped": func(b *mem.Store) error {
			o := bytes.Clone(object)
			o[len(o)/2] ^= 1
			replace(t, b, names[0], o)
			return nil
		},
		"cut":       func(b *mem.Store) error { replace(t, b, names[0], object[:len(object)-1]); return nil },
		"elsewhere": func(b *mem.Store) error { replace(t, b, names[3], object); return nil },
		"deleted":   func(b *mem.Store) error { return b.Delete(t.Context(), names[0]) },
	} {
		b := store.Clone()
		if err := damage(b); err != nil {
			t.Fatal(err)
		}
		faults := check(t, reopen(t, b, chunkstore.Options{})).Faults
		if len(faults) != 1 || !strings.HasPrefix(faults[0].Object, "o/") {
			t.Errorf("%s: faults %v", what, faults)
		}
		if bad := strings.Count(fmt.Sprint(claimed(t, b, "")), "false"); bad != 1 {
			t.Errorf("%s: %d claims cannot be read", what, bad)
		}
	}
}

// A copy of the repository has the claims too.
func TestClaimSync(t *testing.T) {
	from, to := mem.New(mem.Options{}), mem.New(mem.Options{})
	r := newRepository(t, from, chunkstore.Options{})
	if err := r.Claim(t.Context(), "shop", 1, "body"); err != nil {
		t.Fatal(err)
	}
	if _, err := chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`shop 1 "body" true`}, claimed(t, to, "shop")); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
}
