package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

// wild are the kinds of stores that backups must survive on.
var wild = map[string]func(chunkstore.Backend) chunkstore.Backend{
	"conditional": func(b chunkstore.Backend) chunkstore.Backend { return b },
	"no create":   storetest.NoCreate,
	"unsupported": storetest.Unsupported,
	"ignored":     storetest.IgnoresCondition,
}

// kinds returns all of them, or with -short those that take different ways to commit.
func kinds() map[string]func(chunkstore.Backend) chunkstore.Backend {
	if !testing.Short() {
		return wild
	}
	return map[string]func(chunkstore.Backend) chunkstore.Backend{"conditional": wild["conditional"], "unsupported": wild["unsupported"]}
}

// stride is how far apart the calls are that a test lets fail, one in each of its rounds: 1, so all of them; with -short,
// under the race detector, every fifth, because what runs at once there does so whichever of them fails.
func stride() int {
	if testing.Short() {
		return 5
	}
	return 1
}

// afterwards verifies what must hold after a backup of content ended somehow: the snapshot before
// is intact, the new one absent or complete (and complete if the backup said so), a check finds
// nothing, and the next backup succeeds.
func afterwards(t *testing.T, b chunkstore.Backend, before, content []byte, succeeded bool) {
	t.Helper()
	r := reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 1 || len(all) > 2 || succeeded && len(all) != 2 {
		t.Fatalf("%d snapshots, the backup's success: %v", len(all), succeeded)
	}
	for i, want := range [][]byte{before, content}[:len(all)] {
		if !bytes.Equal(restore(t, r, all[i]), want) {
			t.Fatalf("snapshot %d differs", i)
		}
	}
	wantClean(t, r)
	if _, err := backup(t.Context(), reopen(t, b, chunkstore.Options{}), slices.Concat(content, before)); err != nil {
		t.Fatalf("the next backup: %v", err)
	}
}

// seeded returns a store with one snapshot, from which tests clone.
func seeded(t *testing.T) (*mem.Store, []byte) {
	t.Helper()
	b, before := mem.New(mem.Options{}), words(20, 400_000)
	if _, err := backup(t.Context(), newRepository(t, b, chunkstore.Options{}), before); err != nil {
		t.Fatal(err)
	}
	return b, before
}

// Every single call to the store fails once, before or after its effect.
func TestEveryCallFails(t *testing.T) {
	base, before := seeded(t)
	content := slices.Concat(before[:100_000], noise(21, 300_000))
	for name, kind := range kinds() {
		for _, after := range []bool{false, true} {
			failures := 0
			for n := 1; ; n += stride() {
				store := base.Clone()
				f := &storetest.Faulty{N: n, After: after}
				succeeded := attempt(t, f.Wrap(kind(store)), content)
				if !f.Fired() {
					break
				}
				if !succeeded {
					failures++
				}
				afterwards(t, store, before, content, succeeded)
			}
			if failures*stride() < 5 {
				t.Errorf("%s: only %d backups failed: were the faults seen?", name, failures)
			}
		}
	}
}

// The process ends after every single write.
func TestCrashAfterEveryWrite(t *testing.T) {
	base, before := seeded(t)
	content := slices.Concat(before[:100_000], noise(22, 300_000))
	for name, kind := range kinds() {
		for n := 0; ; n += stride() {
			store := base.Clone()
			c := &storetest.Crash{After: n}
			succeeded := attempt(t, c.Wrap(kind(store)), content)
			if !c.Crashed() {
				break
			}
			if t.Failed() {
				t.Fatalf("%s: after write %d", name, n)
			}
			afterwards(t, store, before, content, succeeded)
		}
	}
}

// attempt backs content up and reports whether that succeeded.
func attempt(t *testing.T, b chunkstore.Backend, content []byte) bool {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), b, password, chunkstore.Options{})
	if err != nil {
		return false
	}
	_, err = backup(t.Context(), r, content)
	return err == nil
}

// A cancelled backup ends soon and leaves the repository as it was.
func TestCancelled(t *testing.T) {
	base, before := seeded(t)
	ctx, cancel := context.WithCancel(t.Context())
	r := reopen(t, base, chunkstore.Options{})
	s, err := r.Begin(ctx, chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := save(ctx, s, noise(23, 40<<20)); err == nil {
		t.Fatal("a cancelled backup succeeded")
	}
	if err := s.Abort(ctx); err != nil {
		t.Fatal(err)
	}
	afterwards(t, base, before, nil, false)
}

// Two sessions of one process save the same, and the first ends without having listed what it uploaded: the snapshot of the
// second does not rely on that.
func TestUnlistedIsNotReliedOn(t *testing.T) {
	content := noise(31, 300_000)
	b := mem.New(mem.Options{})
	uploaded, gone := make(chan struct{}), make(chan struct{})
	var first sync.Once
	r := newRepository(t, storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) (err error) {
		if c.Op != storetest.Put || !strings.HasPrefix(c.Name, "i/") {
			return next()
		}
		dies := false
		first.Do(func() { dies = true })
		if !dies {
			return next()
		}
		close(uploaded)
		<-gone
		return storetest.ErrInjected
	}), chunkstore.Options{})
	ended := make(chan error, 1)
	go func() {
		_, err := backup(t.Context(), r, content)
		ended <- err
	}()
	<-uploaded
	_, err := backup(t.Context(), r, content)
	close(gone)
	if err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, storetest.ErrInjected) {
		t.Errorf("the first backup: %v", err)
	}
	// Nor does that of a third, when the first has ended.
	if _, err := backup(t.Context(), r, slices.Concat(content, content)); err != nil {
		t.Error(err)
	}
	again := reopen(t, b, chunkstore.Options{})
	all, err := again.Outcomes(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d snapshots, %v", len(all), err)
	}
	for _, o := range all {
		if got := restore(t, again, o); !bytes.HasPrefix(got, content) {
			t.Errorf("snapshot %v comes back otherwise", o.Session)
		}
	}
	wantClean(t, again)
}
