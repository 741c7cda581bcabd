package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func repairIndex(t *testing.T, b chunkstore.Backend, o chunkstore.RepairOptions) *chunkstore.IndexRepair {
	t.Helper()
	found, err := reopen(t, b, chunkstore.Options{}).RepairIndex(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func repairPacks(t *testing.T, b chunkstore.Backend, o chunkstore.RepairOptions, ids ...string) *chunkstore.PackRepair {
	t.Helper()
	found, err := reopen(t, b, chunkstore.Options{}).RepairPacks(t.Context(), ids, o)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// deleteUnder deletes the objects under a prefix and returns how many there were.
func deleteUnder(t *testing.T, b chunkstore.Backend, prefix string) int {
	t.Helper()
	list := namesUnder(t, b, prefix)
	for _, name := range list {
		if err := b.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	return len(list)
}

func flip(t *testing.T, b *mem.Store, name string, at int) {
	t.Helper()
	object := bytesOf(t, b, name)
	object[at] ^= 1
	replace(t, b, name, object)
}

// Whatever becomes of the index, it is made again from the packs.
func TestRepairIndex(t *testing.T) {
	contents := [][]byte{words(1, 3000), words(2, 3000), words(3, 3000)}
	whole := nights(t, contents...)
	for what, tt := range map[string]struct {
		damage  func(*mem.Store)
		readAll bool
		added   int
		damaged int
	}{
		"nothing":       {func(*mem.Store) {}, false, 0, 0},
		"nothing, anew": {func(*mem.Store) {}, true, 0, 0},
		"all is gone":   {func(b *mem.Store) { deleteUnder(t, b, "i/") }, false, 6, 0},
		"one is gone":   {func(b *mem.Store) { deleteUnder(t, b, namesUnder(t, b, "i/")[1]) }, false, 2, 0},
		"all are damaged": {func(b *mem.Store) {
			for _, name := range namesUnder(t, b, "i/") {
				flip(t, b, name, 70)
			}
		}, false, 6, 3},
		"one is damaged, anew": {func(b *mem.Store) { flip(t, b, namesUnder(t, b, "i/")[0], 70) }, true, 2, 1},
		"one is cut":           {func(b *mem.Store) { replace(t, b, namesUnder(t, b, "i/")[2], nil) }, false, 2, 1},
	} {
		t.Run(what, func(t *testing.T) {
			b := whole.Clone()
			tt.damage(b)
			before := names(t, b)
			if dry := repairIndex(t, b, chunkstore.RepairOptions{DryRun: true, ReadAll: tt.readAll}); dry.Added != tt.added || !slices.Equal(before, names(t, b)) {
				t.Errorf("a dry run: %+v", dry)
			}
			found := repairIndex(t, b, chunkstore.RepairOptions{ReadAll: tt.readAll})
			if found.Added != tt.added || len(found.Damaged) != tt.damaged || len(found.Missing) > 0 || len(found.Problems) > 0 || found.Packs != 6 {
				t.Errorf("%+v", found)
			}
			wantSnapshots(t, b, contents...)
			if again := repairIndex(t, b, chunkstore.RepairOptions{}); again.Added+len(again.Damaged)+len(again.Missing) > 0 {
				t.Errorf("again: %+v", again)
			}
			collectNow(t, b)
			wantSnapshots(t, b, contents...)
		})
	}
}

// A pack that is not there is taken out of the index, and stored again by the next backup of the same.
func TestRepairIndexMissingPack(t *testing.T) {
	contents := [][]byte{words(1, 3000), words(2, 3000)}
	for _, readAll := range []bool{false, true} {
		b := nights(t, contents...)
		lost := namesUnder(t, b, "p/")[0]
		deleteUnder(t, b, lost)
		if found := repairIndex(t, b, chunkstore.RepairOptions{ReadAll: readAll}); !slices.Equal(found.Missing, []string{lost}) {
			t.Errorf("%+v", found)
		}
		faults := check(t, reopen(t, b, chunkstore.Options{})).Faults
		if len(faults) != 1 || !errors.Is(faults[0].Err, chunkstore.ErrChunkMissing) {
			t.Fatalf("faults: %+v", faults)
		}
		for _, content := range contents {
			if _, err := backup(t.Context(), reopen(t, b, chunkstore.Options{}), content); err != nil {
				t.Fatal(err)
			}
		}
		wantSnapshots(t, b, slices.Concat(contents, contents)...)
	}
}

// What the index knows of a pack whose table is damaged is not given up.
func TestRepairIndexDamagedTable(t *testing.T) {
	content := noise(1, 300<<10)
	b := nights(t, content)
	pack := namesUnder(t, b, "p/")[0]
	flip(t, b, pack, len(bytesOf(t, b, pack))-1)
	found := repairIndex(t, b, chunkstore.RepairOptions{ReadAll: true})
	if len(found.Problems) != 1 || len(found.Missing) > 0 {
		t.Errorf("%+v", found)
	}
	r := reopen(t, b, chunkstore.Options{})
	if got, err := contentOf(t.Context(), r, outcomes(t, r)[0]); err == nil && !bytes.Equal(got, content) {
		t.Error("content differs")
	} else if errors.Is(err, chunkstore.ErrChunkMissing) {
		t.Errorf("the index has forgotten the pack: %v", err)
	}
}

// A mark that cannot be read goes, unless its collection runs.
func TestRepairIndexMarks(t *testing.T) {
	h := newHistory(t)
	for _, name := range namesUnder(t, h.now, "g/") {
		c := h.now.Clone()
		flip(t, c, name, 70)
		if found := repairIndex(t, c, chunkstore.RepairOptions{}); !slices.Equal(found.Marks, []string{name}) {
			t.Errorf("%s: %+v", name, found)
		}
		if err := h.readsBack(t.Context(), c, ""); err != nil {
			t.Error(err)
		}
		wantClean(t, reopen(t, c, chunkstore.Options{}))
		if _, err := tryCollect(t.Context(), c); err != nil {
			t.Error(err)
		}
		if err := h.readsBack(t.Context(), c, ""); err != nil {
			t.Error(err)
		}
	}
	c := h.now.Clone()
	name := namesUnder(t, c, "g/")[0]
	base, _, _ := strings.Cut(name, "-")
	if err := c.Put(t.Context(), base+"-runs", nil); err != nil {
		t.Fatal(err)
	}
	flip(t, c, name, 70)
	if found := repairIndex(t, c, chunkstore.RepairOptions{}); len(found.Marks) > 0 || len(found.Problems) != 2 {
		t.Errorf("a mark whose collection runs: %+v", found)
	}
}

// Of a damaged pack every chunk is kept that can be read; the next backup of what is lost mends the snapshot.
func TestRepairPacks(t *testing.T) {
	content, other := noise(1, 16<<20), words(2, 3000) // enough that no key cuts it so that one chunk is most of a pack
	whole := nights(t, content, other)
	pack := slices.MaxFunc(namesUnder(t, whole, "p/"), func(a, b string) int { return len(bytesOf(t, whole, a)) - len(bytesOf(t, whole, b)) })
	size := len(bytesOf(t, whole, pack))
	for what, tt := range map[string]struct {
		damage func(*mem.Store)
		lost   bool
	}{
		"a bit of content": {func(b *mem.Store) { flip(t, b, pack, size/3) }, true},
		"the end is gone":  {func(b *mem.Store) { replace(t, b, pack, bytesOf(t, b, pack)[:size*3/4]) }, true},
		"all is gone":      {func(b *mem.Store) { replace(t, b, pack, nil) }, true},
		"the header":       {func(b *mem.Store) { flip(t, b, pack, 20) }, false},
		"the table":        {func(b *mem.Store) { flip(t, b, pack, size-1) }, false},
		"longer":           {func(b *mem.Store) { replace(t, b, pack, append(bytesOf(t, b, pack), 0)) }, false},
	} {
		t.Run(what, func(t *testing.T) {
			b := whole.Clone()
			tt.damage(b)
			before := names(t, b)
			dry := repairPacks(t, b, chunkstore.RepairOptions{DryRun: true})
			if !slices.Equal(before, names(t, b)) {
				t.Error("a dry run wrote something")
			}
			found := repairPacks(t, b, chunkstore.RepairOptions{})
			if len(found.Damaged) != 1 || len(dry.Damaged) != 1 || found.Damaged[0].Name != pack || found.Damaged[0].Lost != dry.Damaged[0].Lost {
				t.Fatalf("%+v, dry run %+v", found, dry)
			}
			d := found.Damaged[0]
			if (d.Lost > 0) != tt.lost || what != "all is gone" && d.Saved == 0 {
				t.Errorf("%+v", d)
			}
			if aside := namesUnder(t, b, "d/"); !slices.Equal(aside, []string{"d/" + pack}) {
				t.Errorf("set aside: %v", aside)
			}
			if again := repairPacks(t, b, chunkstore.RepairOptions{}); len(again.Damaged) > 0 {
				t.Errorf("again: %+v", again)
			}
			if found := repairIndex(t, b, chunkstore.RepairOptions{ReadAll: true}); len(found.Missing) > 0 {
				t.Errorf("the index lists what was set aside: %+v", found)
			}
			if tt.lost {
				if _, err := backup(t.Context(), reopen(t, b, chunkstore.Options{}), content); err != nil {
					t.Fatal(err)
				}
				forget(t, b, 2)
			}
			wantSnapshots(t, b, content, other)
			collectNow(t, b)
			wantSnapshots(t, b, content, other)
			if aside := namesUnder(t, b, "d/"); len(aside) > 0 {
				t.Errorf("a collection left %v", aside)
			}
		})
	}
}

// A prune that runs meanwhile condemns another copy of what is damaged: that copy does not count any more.
func TestRepairPacksBesidePrune(t *testing.T) {
	content := noise(3, 5<<20)
	b := mem.New(mem.Options{})
	first, second := newRepository(t, b, chunkstore.Options{}), reopen(t, b, chunkstore.Options{})
	one, err := first.Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup(t.Context(), second, content); err != nil {
		t.Fatal(err)
	}
	others := namesUnder(t, b, "p/")
	if err := save(t.Context(), one, content); err != nil { // it had begun before, so it stores everything once more
		t.Fatal(err)
	}
	packs := slices.DeleteFunc(namesUnder(t, b, "p/"), func(name string) bool { return slices.Contains(others, name) })
	pack := slices.MaxFunc(packs, func(x, y string) int { return len(bytesOf(t, b, x)) - len(bytesOf(t, b, y)) })
	flip(t, b, pack, len(bytesOf(t, b, pack))/3)
	var condemn sync.Once
	r := reopen(t, storetest.Intercept(b, func(ctx context.Context, c storetest.Call, next func() error) error {
		if c.Name == pack {
			condemn.Do(func() {
				if err := chunkstore.Condemn(ctx, second, "g/0a0a0a0a0a0a0a0a/00000000000000000000000000000001", others[0][:len("p/0123456789abcdef/")]); err != nil {
					t.Error(err)
				}
			})
		}
		return next()
	}), chunkstore.Options{})
	found, err := r.RepairPacks(t.Context(), nil, chunkstore.RepairOptions{})
	if err != nil || len(found.Damaged) != 1 || found.Damaged[0].Saved == 0 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, name := range others { // as the prune goes on
		if err := b.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	last := reopen(t, b, chunkstore.Options{})
	lost := 0
	for _, o := range outcomes(t, last)[:1] {
		for ref, err := range walk(last)(t.Context(), o) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := last.Chunk(t.Context(), ref.ID); err != nil {
				lost++
			}
		}
	}
	if lost > found.Damaged[0].Lost+found.Damaged[0].Copied {
		t.Errorf("%d chunks are gone; repair told of %d lost and %d copied", lost, found.Damaged[0].Lost, found.Damaged[0].Copied)
	}
}

// twice returns a store with two snapshots of one content, of which each has packs of its own, as two backups at once make; and
// the packs of each.
func twice(t *testing.T, content []byte) (b *mem.Store, packs [2][]string) {
	t.Helper()
	b = mem.New(mem.Options{})
	early, err := newRepository(t, b, chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backup(t.Context(), reopen(t, b, chunkstore.Options{}), content); err != nil {
		t.Fatal(err)
	}
	packs[0] = namesUnder(t, b, "p/")
	if err := save(t.Context(), early, content); err != nil {
		t.Fatal(err)
	}
	packs[1] = slices.DeleteFunc(namesUnder(t, b, "p/"), func(name string) bool { return slices.Contains(packs[0], name) })
	return b, packs
}

// A prune looks at what is needed between the moment from which a repair relies on the other copy of a chunk and the one in which the
// damaged pack is on record as gone: it sees by the mark of the repair that the copy there does not count, and leaves the other.
func TestRepairPacksMark(t *testing.T) {
	content := noise(3, 300<<10) // one chunk
	whole, packs := twice(t, content)
	for n, damaged := range []string{packs[0][0], packs[1][0]} {
		b, host := whole.Clone(), t.TempDir()
		flip(t, b, damaged, 20)
		prune := func(at func(storetest.Call) bool) func(context.Context, storetest.Call) {
			var once sync.Once
			return func(ctx context.Context, c storetest.Call) {
				if at(c) {
					once.Do(func() {
						if _, err := tryCollect(ctx, b, host); err != nil {
							t.Errorf("copy %d: %v", n, err)
						}
					})
				}
			}
		}
		marks := prune(func(c storetest.Call) bool { return c.Write() && strings.HasPrefix(c.Name, "i/") })
		carriesOut := prune(func(c storetest.Call) bool { return c.Write() && strings.HasPrefix(c.Name, "d/") })
		r := reopen(t, storetest.Intercept(b, func(ctx context.Context, c storetest.Call, next func() error) error {
			marks(ctx, c)
			carriesOut(ctx, c)
			return next()
		}), chunkstore.Options{})
		found, err := r.RepairPacks(t.Context(), nil, chunkstore.RepairOptions{})
		if err != nil || len(found.Damaged) != 1 || found.Damaged[0].Lost > 0 {
			t.Fatalf("copy %d: %+v, %v", n, found, err)
		}
		wantSnapshots(t, b, content, content)
		collectNow(t, b, host)
		wantSnapshots(t, b, content, content)
	}
}

// Nobody but the repair itself says what becomes of its mark, also no prune of the same host.
func TestRepairPacksHoldsItsMark(t *testing.T) {
	content, host := noise(3, 300<<10), t.TempDir()
	b := nights(t, content)
	flip(t, b, namesUnder(t, b, "p/")[0], 20)
	pruned := false
	r := reopen(t, storetest.Intercept(b, func(ctx context.Context, c storetest.Call, next func() error) error {
		if c.Op == storetest.Put && strings.HasPrefix(c.Name, "d/") {
			pruned = true
			mark := namesUnder(t, b, "g/")[0]
			if _, err := tryCollect(ctx, b, host); err != nil {
				t.Error(err)
			}
			if slices.Contains(namesUnder(t, b, mark), mark+"-done") {
				t.Error("a prune carried the mark out")
			}
		}
		return next()
	}), chunkstore.Options{StateDir: host})
	if found, err := r.RepairPacks(t.Context(), nil, chunkstore.RepairOptions{}); err != nil || len(found.Damaged) != 1 || !pruned {
		t.Fatalf("%+v, %v", found, err)
	}
	wantSnapshots(t, b, content)
	collectNow(t, b, host)
	wantSnapshots(t, b, content)
}

func TestRepairPacksByID(t *testing.T) {
	b := nights(t, words(1, 3000), words(2, 3000))
	packs := namesUnder(t, b, "p/")
	flip(t, b, packs[0], 100)
	id := packs[0][strings.LastIndexByte(packs[0], '/')+1:]
	found := repairPacks(t, b, chunkstore.RepairOptions{DryRun: true}, id[:10])
	if found.Read.Packs != 1 || len(found.Damaged) != 1 {
		t.Errorf("%+v", found)
	}
	if _, err := reopen(t, b, chunkstore.Options{}).RepairPacks(t.Context(), []string{"00"}, chunkstore.RepairOptions{}); !errors.Is(err, chunkstore.ErrNoPack) {
		t.Errorf("an id that no pack has: %v", err)
	}
}

// A metadata pack that is damaged in the store but whole in this host's cache loses nothing.
func TestRepairPacksFromCache(t *testing.T) {
	content := words(1, 3000)
	b := nights(t, content)
	r := reopen(t, b, chunkstore.Options{CacheDir: t.TempDir()})
	if !bytes.Equal(restore(t, r, outcomes(t, r)[0]), content) {
		t.Fatal("content differs")
	}
	replace(t, b, namesUnder(t, b, "t/")[0], nil)
	found, err := r.RepairPacks(t.Context(), nil, chunkstore.RepairOptions{})
	if err != nil || len(found.Damaged) != 1 || found.Damaged[0].Lost > 0 {
		t.Fatalf("%+v, %v", found, err)
	}
	wantSnapshots(t, b, content)
}

// broken has a pack whose header is damaged, which an index object has too, packs that no index lists, and an index
// object that cannot be read: everything can be mended.
func broken(t *testing.T) (*mem.Store, [][]byte) {
	t.Helper()
	contents := [][]byte{words(1, 400), words(2, 400)}
	b := nights(t, contents...)
	flip(t, b, namesUnder(t, b, "p/")[0], 20)
	for _, name := range namesUnder(t, b, "i/") {
		c := b.Clone()
		flip(t, c, name, 70)
		if found := repairIndex(t, c, chunkstore.RepairOptions{DryRun: true}); len(found.Problems) == 0 {
			return c, contents
		}
	}
	t.Fatal("no index object without the damaged pack")
	return nil, nil
}

func mend(ctx context.Context, b chunkstore.Backend) error {
	r, err := chunkstore.Open(ctx, b, password, chunkstore.Options{})
	if err == nil {
		_, err = r.RepairIndex(ctx, chunkstore.RepairOptions{})
	}
	if err == nil {
		_, err = r.RepairPacks(ctx, nil, chunkstore.RepairOptions{})
	}
	return err
}

// Repairs lose nothing wherever a call fails, and another run ends them.
func TestRepairEveryCallFails(t *testing.T) {
	start, contents := broken(t)
	stride := 1
	if testing.Short() {
		stride = 7
	}
	for n := 1; ; n += stride {
		b := start.Clone()
		f := &storetest.Faulty{N: n, After: n%2 == 0}
		_ = mend(t.Context(), f.Wrap(b)) // it may get over the fault
		if !f.Fired() {
			t.Logf("%d calls", n-1)
			break
		}
		mended(t, b, contents)
	}
}

func TestRepairCrashes(t *testing.T) {
	start, contents := broken(t)
	for n := 0; ; n++ {
		b := start.Clone()
		crash := &storetest.Crash{After: n}
		if err := mend(t.Context(), crash.Wrap(b)); err == nil {
			t.Logf("%d writes", n)
			break
		}
		mended(t, b, contents)
	}
}

// mended runs the repairs again and demands everything back, also after a collection.
func mended(t *testing.T, b *mem.Store, contents [][]byte) {
	t.Helper()
	if err := mend(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, b, contents...)
	collect := reopen(t, b, chunkstore.Options{})
	chunkstore.SetAges(collect, 0, 0, 0, time.Hour)
	if _, err := collect.Collect(t.Context(), collectOptions(collect)); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, b, contents...)
}
