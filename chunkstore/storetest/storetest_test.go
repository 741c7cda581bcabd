package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func store() *mem.Store { return mem.New(mem.Options{}) }

// Decorators that inject nothing keep the whole contract; those of bad stores what they should.
func TestDecoratorsKeepTheContract(t *testing.T) {
	for name, tc := range map[string]struct {
		wrap func(chunkstore.Backend) chunkstore.Backend
		weak []storetest.Weakness
	}{
		"Faulty":      {wrap: (&storetest.Faulty{}).Wrap},
		"Crash":       {wrap: (&storetest.Crash{After: 1e9}).Wrap},
		"Counter":     {wrap: (&storetest.Counter{}).Wrap},
		"Lag":         {wrap: func(b chunkstore.Backend) chunkstore.Backend { return (&storetest.Lag{}).Wrap(b) }},
		"LagLate":     {func(b chunkstore.Backend) chunkstore.Backend { return late(b) }, []storetest.Weakness{storetest.LateListing}},
		"NoCreate":    {wrap: storetest.NoCreate},
		"Unsupported": {wrap: storetest.Unsupported},
		"RacyCreate":  {storetest.RacyCreate, []storetest.Weakness{storetest.NotAtomic}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(*testing.T) chunkstore.Backend { return tc.wrap(store()) }, tc.weak...)
		})
	}
}

func late(b chunkstore.Backend) chunkstore.Backend {
	return (&storetest.Lag{Delay: 300 * time.Millisecond}).Wrap(b)
}

// A decorator is a Creator exactly if what it wraps is.
func TestDecoratorsAreHonest(t *testing.T) {
	for name, wrap := range map[string]func(chunkstore.Backend) chunkstore.Backend{
		"Faulty":  (&storetest.Faulty{}).Wrap,
		"Crash":   (&storetest.Crash{}).Wrap,
		"Counter": (&storetest.Counter{}).Wrap,
		"Lag":     (&storetest.Lag{}).Wrap,
	} {
		if _, ok := wrap(store()).(chunkstore.Creator); !ok {
			t.Errorf("%s hides Creator", name)
		}
		if _, ok := wrap(storetest.NoCreate(store())).(chunkstore.Creator); ok {
			t.Errorf("%s pretends to be a Creator", name)
		}
	}
}

// run makes one call of each kind and returns the first error.
func run(ctx context.Context, b chunkstore.Backend) error {
	if err := b.Put(ctx, "a", []byte("a")); err != nil {
		return err
	}
	if err := b.(chunkstore.Creator).PutIfAbsent(ctx, "b", []byte("b")); err != nil {
		return err
	}
	if _, err := b.Get(ctx, "a", 0, -1); err != nil {
		return err
	}
	if _, err := b.Stat(ctx, "a"); err != nil {
		return err
	}
	if err := b.List(ctx, "", func(chunkstore.Info) error { return nil }); err != nil {
		return err
	}
	return b.Delete(ctx, "a")
}

func names(t *testing.T, b chunkstore.Backend) []string {
	t.Helper()
	names := []string{}
	err := b.List(context.Background(), "", func(i chunkstore.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestFaultyFailsEachCallOnce(t *testing.T) {
	for _, after := range []bool{false, true} {
		var left [][]string
		for n := 1; ; n++ {
			f, s := &storetest.Faulty{N: n, After: after}, store()
			err := run(t.Context(), f.Wrap(s))
			left = append(left, names(t, s))
			if !f.Fired() {
				if err != nil {
					t.Errorf("fault %d did not fire, but the run failed: %v", n, err)
				}
				break
			}
			if !errors.Is(err, storetest.ErrInjected) {
				t.Errorf("fault %d: %v", n, err)
			}
		}
		want := [][]string{{}, {"a"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"b"}}
		if after {
			want = [][]string{{"a"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"a", "b"}, {"b"}, {"b"}}
		}
		if diff := cmp.Diff(want, left); diff != "" {
			t.Errorf("after %v: what the store holds after each fault (-want +got):\n%s", after, diff)
		}
	}
}

func TestFaultyMatches(t *testing.T) {
	f := &storetest.Faulty{
		N: 1, Err: chunkstore.ErrAccess,
		Match: func(c storetest.Call) bool { return c.Op == storetest.Stat && c.Name == "a" },
	}
	if err := run(t.Context(), f.Wrap(store())); !errors.Is(err, chunkstore.ErrAccess) || !f.Fired() {
		t.Errorf("%v, fired %v", err, f.Fired())
	}
}

func TestCrash(t *testing.T) {
	for _, tc := range []struct {
		after int
		apply bool
		want  []string
	}{
		{0, false, []string{}},
		{0, true, []string{"a"}},
		{1, false, []string{"a"}},
		{1, true, []string{"a", "b"}},
		{2, false, []string{"a", "b"}},
		{2, true, []string{"b"}},
	} {
		c, s := &storetest.Crash{After: tc.after, Apply: tc.apply}, store()
		b := c.Wrap(s)
		if err := run(t.Context(), b); !errors.Is(err, storetest.ErrCrashed) || !c.Crashed() {
			t.Errorf("%+v: %v, crashed %v", tc, err, c.Crashed())
		}
		if _, err := b.Get(t.Context(), "a", 0, -1); !errors.Is(err, storetest.ErrCrashed) {
			t.Errorf("%+v: a read after the crash: %v", tc, err)
		}
		if diff := cmp.Diff(tc.want, names(t, s)); diff != "" {
			t.Errorf("%+v: what the store holds (-want +got):\n%s", tc, diff)
		}
	}
}

func TestLag(t *testing.T) {
	ctx, now := t.Context(), time.Unix(1000, 0)
	l := &storetest.Lag{Delay: time.Minute, Now: func() time.Time { return now }}
	s := store()
	one, two := l.Wrap(s), l.Wrap(s)
	step := func(d time.Duration, want ...string) {
		t.Helper()
		now = now.Add(d)
		if diff := cmp.Diff(append([]string{}, want...), names(t, two)); diff != "" {
			t.Errorf("at %v (-want +got):\n%s", now.Unix(), diff)
		}
	}
	if err := one.Put(ctx, "a", []byte("a")); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Stat(ctx, "a"); err != nil {
		t.Errorf("only listings are late: %v", err)
	}
	step(59 * time.Second)
	step(time.Second, "a")
	if err := two.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	step(59*time.Second, "a")
	step(time.Second)
}

func TestCounter(t *testing.T) {
	c := &storetest.Counter{}
	b := c.Wrap(store())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			name := fmt.Sprint(i)
			if err := b.Put(t.Context(), name, make([]byte, 100)); err != nil {
				t.Error(err)
			}
			if _, err := b.Get(t.Context(), name, 10, 5); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := b.(chunkstore.Creator).PutIfAbsent(t.Context(), "x", make([]byte, 7)); err != nil {
		t.Fatal(err)
	}
	sent, received := c.Bytes()
	if sent != 407 || received != 20 || c.Calls(storetest.Put) != 4 || c.Calls(storetest.PutIfAbsent) != 1 || c.Calls(storetest.Stat) != 0 {
		t.Errorf("counted %d and %d bytes, %d puts", sent, received, c.Calls(storetest.Put))
	}
}

// The stores of the wild have exactly the failing that they are named for.
func TestWild(t *testing.T) {
	ctx := t.Context()
	s := store()
	if err := s.Put(ctx, "a", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := create(ctx, storetest.Unsupported(s), "a"); !errors.Is(err, chunkstore.ErrUnsupported) {
		t.Errorf("Unsupported: %v", err)
	}
	if err := create(ctx, storetest.RacyCreate(s), "a"); !errors.Is(err, chunkstore.ErrExist) {
		t.Errorf("RacyCreate one after the other: %v", err)
	}
	if err := create(ctx, storetest.IgnoresCondition(s), "a"); err != nil {
		t.Errorf("IgnoresCondition: %v", err)
	}
	if got, err := s.Get(ctx, "a", 0, -1); err != nil || string(got) != "new" {
		t.Errorf("IgnoresCondition left %q, %v", got, err)
	}
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if create(ctx, storetest.RacyCreate(s), "b") == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() < 2 {
		t.Errorf("RacyCreate let %d of eight at once win", won.Load())
	}
}

func create(ctx context.Context, b chunkstore.Backend, name string) error {
	return b.(chunkstore.Creator).PutIfAbsent(ctx, name, []byte("new"))
}
