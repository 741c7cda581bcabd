package chunkstore_test

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func TestSync(t *testing.T) {
	a, b, c := noise(80, 3<<20), noise(81, 3<<20), words(82, 1<<20)
	from, to := nights(t, a, b), mem.New(mem.Options{})
	report, err := chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{})
	if err != nil || report.Copied != len(names(t, from)) || report.Kept != 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	wantSnapshots(t, to, a, b)
	if report, err = chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{}); err != nil || report.Copied != 0 || report.Kept == 0 {
		t.Errorf("again: %v: %+v", err, report)
	}
	if _, err := backup(t.Context(), reopen(t, from, chunkstore.Options{}), c); err != nil {
		t.Fatal(err)
	}
	forget(t, from, 0)
	collectNow(t, from)
	if _, err = chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, to, b, c)
	if report, err = chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{Delete: true}); err != nil || report.Deleted == 0 {
		t.Fatalf("%v: %+v", err, report)
	}
	if !slices.Equal(names(t, from), names(t, to)) {
		t.Error("the two places differ")
	}
	wantSnapshots(t, to, b, c)
}

// A place at which the copying stopped holds whole snapshots only, or no repository, and the next run goes on.
func TestSyncCrashes(t *testing.T) {
	a, b := noise(83, 100_000), noise(84, 100_000)
	from := nights(t, a)
	half := mem.New(mem.Options{})
	if _, err := chunkstore.Sync(t.Context(), from, half, chunkstore.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	rotated := from.Clone() // its keys, since the last copy
	rotate(t, rotated)
	for _, from := range []*mem.Store{from, rotated} {
		if _, err := backup(t.Context(), reopen(t, from, chunkstore.Options{}), b); err != nil {
			t.Fatal(err)
		}
	}
	for name, places := range map[string][2]*mem.Store{"empty": {from, mem.New(mem.Options{})}, "half": {from, half}, "rotated": {rotated, half}} {
		for n := 0; ; n++ {
			from, to := places[0], places[1].Clone()
			crash := &storetest.Crash{After: n}
			_, err := chunkstore.Sync(t.Context(), from, crash.Wrap(to), chunkstore.SyncOptions{})
			if !crash.Crashed() {
				if n < 4 {
					t.Errorf("%s: only %d writes", name, n)
				}
				break
			}
			if err == nil {
				t.Fatalf("%s: no error after write %d", name, n)
			}
			r, err := chunkstore.Open(t.Context(), to, password, chunkstore.Options{})
			switch {
			case errors.Is(err, chunkstore.ErrNoRepository) && name == "empty":
			case err != nil:
				t.Fatal(err)
			default:
				wantClean(t, r)
			}
			if _, err := chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{}); err != nil {
				t.Fatal(err)
			}
			wantSnapshots(t, to, a, b)
		}
	}
}

func TestSyncRefuses(t *testing.T) {
	from, other := nights(t, words(85, 100)), nights(t, words(86, 100))
	if _, err := chunkstore.Sync(t.Context(), from, other, chunkstore.SyncOptions{}); !errors.Is(err, chunkstore.ErrOther) {
		t.Errorf("over another repository: %v", err)
	}
	if _, err := chunkstore.Sync(t.Context(), mem.New(mem.Options{}), other, chunkstore.SyncOptions{}); !errors.Is(err, chunkstore.ErrNoRepository) {
		t.Errorf("from nothing: %v", err)
	}
	// Nothing is put between somebody's files, and nothing of them is deleted.
	files := mem.New(mem.Options{})
	for _, name := range []string{"config.yaml", "p/photo.jpg"} {
		if err := files.Put(t.Context(), name, []byte("mine")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := chunkstore.Sync(t.Context(), from, files, chunkstore.SyncOptions{Delete: true}); !errors.Is(err, chunkstore.ErrOther) || len(names(t, files)) != 2 {
		t.Errorf("into a place with files: %v, %v", err, names(t, files))
	}
	mixed := mem.New(mem.Options{})
	for range 2 {
		if _, err := chunkstore.Sync(t.Context(), from, mixed, chunkstore.SyncOptions{Delete: true}); err != nil {
			t.Fatal(err)
		}
		if err := mixed.Put(t.Context(), "config.yaml", []byte("mine")); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Contains(names(t, mixed), "config.yaml") {
		t.Error("somebody's file beside the repository was deleted")
	}
	// A pack that was damaged at the source does not spread.
	pack := ""
	for _, name := range names(t, from) {
		if name[:2] == "p/" || name[:2] == "t/" {
			pack = name
		}
	}
	object, err := from.Get(t.Context(), pack, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	object[100] ^= 1
	if err := errors.Join(from.Delete(t.Context(), pack), from.Put(t.Context(), pack, object)); err != nil {
		t.Fatal(err)
	}
	to := mem.New(mem.Options{})
	if _, err := chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{}); err == nil {
		t.Error("a damaged pack was copied")
	}
	if slices.Contains(names(t, to), pack) || slices.Contains(names(t, to), "config") {
		t.Error("what was copied looks like a repository")
	}
}

// While the source is backed up to, forgotten in and collected, what was copied is whole.
func TestSyncBesideCollections(t *testing.T) {
	from, to := nights(t, noise(87, 50_000)), mem.New(mem.Options{})
	var stop atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			if _, err := backup(t.Context(), reopen(t, from, chunkstore.Options{}), noise(uint64(88+i%5), 50_000)); err != nil {
				t.Error(err)
				return
			}
			forget(t, from, 0)
			if _, err := tryCollect(t.Context(), from); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		_, err := chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{})
		if err != nil && !errors.Is(err, chunkstore.ErrNotExist) {
			t.Fatal(err)
		}
		if err == nil {
			wantClean(t, reopen(t, to, chunkstore.Options{}))
		}
	}
	stop.Store(true)
	<-done
	if _, err := chunkstore.Sync(t.Context(), from, to, chunkstore.SyncOptions{Delete: true}); err != nil {
		t.Fatal(err)
	}
	wantClean(t, reopen(t, to, chunkstore.Options{}))
	if !slices.Equal(names(t, from), names(t, to)) {
		t.Error("the two places differ")
	}
}
