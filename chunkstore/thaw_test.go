package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
)

// freezer is a store whose packs of data are archived: each can be read after it has been asked about three times.
type freezer struct {
	*mem.Store
	mu    sync.Mutex
	asked map[string]int
}

func (f *freezer) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	return f.Store.List(ctx, prefix, func(i chunkstore.Info) error {
		i.Archived = chunkstore.MayBeCold(i.Name)
		return fn(i)
	})
}

func (f *freezer) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if chunkstore.MayBeCold(name) && f.asked[name] < 3 {
		return nil, chunkstore.ErrArchived
	}
	return f.Store.Get(ctx, name, off, n)
}

func (f *freezer) Thaw(_ context.Context, name string, _ chunkstore.ThawOptions) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked[name]++
	return f.asked[name] >= 3, nil
}

// Repairs go on with the others where packs are archived, and name those; thawed, they are read like all.
func TestRepairArchived(t *testing.T) {
	f := &freezer{Store: mem.New(mem.Options{}), asked: map[string]int{}}
	r := newRepository(t, f, chunkstore.Options{})
	for seed := range uint64(2) {
		if _, err := backup(t.Context(), r, noise(120+seed, 3<<20)); err != nil {
			t.Fatal(err)
		}
	}
	cold := namesUnder(t, f, "p/")
	f.asked[cold[0]] = 3 // is there
	flip(t, f.Store, cold[0], 20)
	for _, name := range namesUnder(t, f, "i/") {
		replace(t, f.Store, name, nil)
	}
	warm := repairIndex(t, f, chunkstore.RepairOptions{})
	packs := repairPacks(t, f, chunkstore.RepairOptions{DryRun: true})
	if !slices.Equal(warm.Archived, cold[1:]) || !slices.Equal(packs.Archived, cold[1:]) || len(packs.Damaged) != 1 || warm.Added == 0 {
		t.Errorf("archived: %v and %v, want %v; %+v", warm.Archived, packs.Archived, cold[1:], packs.Damaged)
	}
	id := path.Base(cold[1])
	if n, err := r.ThawPacks(t.Context(), []string{id[:8]}, chunkstore.ThawOptions{Poll: time.Millisecond}); err != nil || n != 1 || f.asked[cold[1]] < 3 {
		t.Errorf("one: %d, %v", n, err)
	}
	if _, err := r.ThawPacks(t.Context(), []string{"none"}, chunkstore.ThawOptions{}); !errors.Is(err, chunkstore.ErrNoPack) {
		t.Errorf("a pack that is not there: %v", err)
	}
	if n, err := r.ThawPacks(t.Context(), nil, chunkstore.ThawOptions{Poll: time.Millisecond}); err != nil || n != len(cold) {
		t.Errorf("all: %d, %v", n, err)
	}
	if found := repairIndex(t, f, chunkstore.RepairOptions{}); found.Added != len(cold)-1 || len(found.Archived) > 0 {
		t.Errorf("thawed: %+v", found)
	}
	if found := repairPacks(t, f, chunkstore.RepairOptions{}); len(found.Archived) > 0 || len(found.Damaged) != 1 || found.Read.Packs < len(cold) {
		t.Errorf("thawed: %+v", found)
	}
}

// What a snapshot needs is asked for at once, and nothing else; then it can be read. Before, that it is archived is
// no damage.
func TestThaw(t *testing.T) {
	f := &freezer{Store: mem.New(mem.Options{}), asked: map[string]int{}}
	b := chunkstore.Retry(chunkstore.Limit(f, 0, 0), chunkstore.RetryOptions{MaxElapsed: -1})
	first, second := noise(120, 3<<20), noise(121, 3<<20)
	r := newRepository(t, b, chunkstore.Options{})
	for _, content := range [][]byte{first, second} {
		if _, err := backup(t.Context(), r, content); err != nil {
			t.Fatal(err)
		}
	}
	report := check(t, reopen(t, b, chunkstore.Options{}))
	if len(report.Faults) > 0 || report.Archived == 0 {
		t.Errorf("check: %+v", report)
	}
	if report, err := tryCollect(t.Context(), b); err != nil || report.Repack.Packs > 0 {
		t.Errorf("collect: %+v, %v", report, err)
	}
	r = reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var told []int
	n, err := r.Thaw(t.Context(), walk(r)(t.Context(), all[0]), chunkstore.ThawOptions{
		Poll: time.Millisecond, Progress: func(ready, _ int) { told = append(told, ready) },
	})
	if err != nil || n == 0 || len(told) != 3 || told[2] != n {
		t.Fatalf("%d packs, progress %v, %v", n, told, err)
	}
	if len(f.asked) != n {
		t.Errorf("%d packs were asked for, %d are needed", len(f.asked), n)
	}
	if !bytes.Equal(restore(t, r, all[0]), first) {
		t.Error("the snapshot differs")
	}
	rd := r.Read(t.Context(), walk(r)(t.Context(), all[1]))
	defer rd.Close()
	if _, err := rd.Read(make([]byte, 1)); !errors.Is(err, chunkstore.ErrArchived) || strings.Contains(err.Error(), "attempts") {
		t.Errorf("what was not thawed: %v", err)
	}
}
