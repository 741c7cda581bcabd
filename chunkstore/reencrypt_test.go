package chunkstore_test

import (
	"context"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

// reencrypt collects as if everything were old, also sessions that a crash left, and rewrites packs of older
// epochs of so many bytes.
func reencrypt(ctx context.Context, b chunkstore.Backend, limit int64) (*chunkstore.CollectReport, error) {
	r, err := chunkstore.Open(ctx, b, password, chunkstore.Options{})
	if err != nil {
		return nil, err
	}
	chunkstore.SetAges(r, 0, 0, 0, 0)
	o := collectOptions(r)
	o.MaxUnused, o.MaxReencrypt = -1, limit
	return r.Collect(ctx, o)
}

// oldObjects returns the names of packs and index objects that are not sealed in that epoch.
func oldObjects(t testing.TB, b chunkstore.Backend, epoch uint32) (old []string) {
	t.Helper()
	for _, name := range names(t, b) {
		if !slices.Contains([]string{"p/", "t/", "i/", "x/"}, name[:2]) {
			continue
		}
		header, err := b.Get(t.Context(), name, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		if binary.BigEndian.Uint32(header[8:]) != epoch {
			old = append(old, name)
		}
	}
	return old
}

// After a rotation everything that holds content or leads to it is sealed anew; somebody who opened the
// repository before the rotation reads the old snapshots to the end.
func TestReencrypt(t *testing.T) {
	a, b := noise(80, 400_000), words(81, 400_000)
	store := nights(t, a, slices.Concat(a, b), b)
	early := reopen(t, store, chunkstore.Options{})
	all, err := early.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := early.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	was := names(t, store)
	rotate(t, store)
	if report, err := reencrypt(t.Context(), store, 0); err != nil || report.Old.Packs == 0 || report.Repacked != 0 || len(oldObjects(t, store, 2)) == 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	report, err := reencrypt(t.Context(), store, -1)
	if err != nil || report.Old.Packs != 0 || report.Repack.Packs == 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	if old := oldObjects(t, store, 2); len(old) != 0 {
		t.Errorf("sealed in the old epoch: %v", old)
	}
	wantSnapshots(t, store, a, slices.Concat(a, b), b)
	for _, name := range names(t, store) {
		if slices.Contains(was, name) && (strings.HasPrefix(name, "p/") || strings.HasPrefix(name, "t/")) {
			t.Errorf("%s is still there", name)
		}
	}
	if report, err := reencrypt(t.Context(), store, -1); err != nil || report.Repacked != 0 {
		t.Errorf("again: %v: %+v", err, report)
	}
	// The one from before has no key for the new index, and says so, rather than to take chunks for lost.
	if _, err := backup(t.Context(), early, a); err == nil || !strings.Contains(err.Error(), "the keys were rotated") {
		t.Errorf("a backup with the old keys: %v", err)
	}
	if o := all[0]; o.Err != nil {
		t.Error(o.Err)
	}
}

// Little by little comes to an end too.
func TestReencryptBounded(t *testing.T) {
	contents := [][]byte{noise(82, 300_000), noise(83, 300_000), noise(84, 300_000)}
	store := nights(t, contents...)
	rotate(t, store)
	rounds := 0
	for ; len(oldObjects(t, store, 2)) > 0 && rounds < 10; rounds++ {
		report, err := reencrypt(t.Context(), store, 400_000)
		if err != nil || report.Repack.Bytes > 400_000 {
			t.Fatalf("%v: %+v", err, report)
		}
	}
	if rounds < 2 || rounds == 10 {
		t.Errorf("%d rounds", rounds)
	}
	wantSnapshots(t, store, contents...)
}

// rotated returns a store of an older epoch, of which some is forgotten.
func rotated(t *testing.T) (*mem.Store, [][]byte) {
	store, contents := forgetful(t)
	rotate(t, store)
	return store, contents
}

// reencrypted verifies what must hold after rewriting ended somehow.
func reencrypted(t *testing.T, store *mem.Store, contents [][]byte) {
	t.Helper()
	wantSnapshots(t, store, contents...)
	if _, err := reencrypt(t.Context(), store, -1); err != nil {
		t.Fatalf("again: %v", err)
	}
	if old := oldObjects(t, store, 2); len(old) != 0 {
		t.Errorf("sealed in the old epoch: %v", old)
	}
	wantSnapshots(t, store, contents...)
}

func TestReencryptEveryCallFails(t *testing.T) {
	base, contents := rotated(t)
	failures := 0
	for n := 1; ; n++ {
		store := base.Clone()
		f := &storetest.Faulty{N: n, After: n%2 == 0}
		_, err := reencrypt(t.Context(), f.Wrap(store), -1)
		if !f.Fired() {
			break
		}
		if err != nil {
			failures++
		}
		if reencrypted(t, store, contents); t.Failed() {
			t.Fatalf("call %d failed: %v", n, err)
		}
	}
	if failures < 10 {
		t.Errorf("only %d failed: were the faults seen?", failures)
	}
}

func TestReencryptCrashes(t *testing.T) {
	base, contents := rotated(t)
	n := 0
	for ; ; n++ {
		store := base.Clone()
		c := &storetest.Crash{After: n, Apply: n%2 == 1}
		_, err := reencrypt(t.Context(), c.Wrap(store), -1)
		if !c.Crashed() {
			break
		}
		if reencrypted(t, store, contents); t.Failed() {
			t.Fatalf("crash after write %d: %v", n, err)
		}
	}
	if n < 10 {
		t.Errorf("only %d writes", n)
	}
}
