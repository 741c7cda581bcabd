package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
)

// indexModel is what the index must know, as a plain map, beside a store with the same.
type indexModel struct {
	t         *testing.T
	store     *mem.Store
	rng       *rand.Rand
	ids       []chunkstore.ID
	places    map[string][]chunkstore.IndexEntry // by name of the index object
	packs     uint32
	condemned map[chunkstore.PackID]bool
}

func newIndexModel(t *testing.T, seed uint64) *indexModel {
	m := &indexModel{
		t: t, store: mem.New(mem.Options{}), rng: rand.New(rand.NewPCG(seed, 1)),
		places: map[string][]chunkstore.IndexEntry{}, condemned: map[chunkstore.PackID]bool{},
	}
	newRepository(t, m.store, chunkstore.Options{})
	return m
}

// entries returns n entries: most of new chunks in new packs, some of known ones in new packs.
func (m *indexModel) entries(n int) []chunkstore.IndexEntry {
	out := make([]chunkstore.IndexEntry, n)
	for i := range out {
		if i%5 == 0 {
			m.packs++
		}
		out[i].Pack, out[i].Offset = m.packs, m.rng.Uint32N(1000)
		if len(m.ids) > 0 && m.rng.IntN(4) == 0 {
			out[i].ID = m.ids[m.rng.IntN(len(m.ids))]
			continue
		}
		for j := range out[i].ID {
			out[i].ID[j] = byte(m.rng.Uint32())
		}
		m.ids = append(m.ids, out[i].ID)
	}
	return out
}

// put stores an index object.
func (m *indexModel) put(entries []chunkstore.IndexEntry) string {
	m.t.Helper()
	name := fmt.Sprintf("i/0000000000000000/%032x-0", len(m.places))
	if err := chunkstore.PutIndex(m.t.Context(), m.open(""), name, entries); err != nil {
		m.t.Fatal(err)
	}
	m.places[name] = entries
	return name
}

// condemn marks some packs.
func (m *indexModel) condemn(packs ...uint32) {
	m.t.Helper()
	if err := chunkstore.MarkPacks(m.t.Context(), m.open(""), fmt.Sprintf("g/%d", len(m.condemned)), packs...); err != nil {
		m.t.Fatal(err)
	}
	for _, n := range packs {
		m.condemned[chunkstore.NumberedPack(n)] = true
	}
}

// open returns a repository on the store with small limits.
func (m *indexModel) open(cache string) *chunkstore.Repository {
	r := reopen(m.t, m.store, chunkstore.Options{CacheDir: cache})
	chunkstore.SetIndexLimits(r, 50, 30, 3)
	return r
}

// loaded is open with the index loaded.
func (m *indexModel) loaded(cache string) *chunkstore.Repository {
	m.t.Helper()
	r := m.open(cache)
	if err := r.LoadIndex(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	return r
}

// compare makes the index current and looks every chunk up, and some that nobody stored.
func (m *indexModel) compare(r *chunkstore.Repository) {
	m.t.Helper()
	if err := r.LoadIndex(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	all := map[chunkstore.ID][]chunkstore.Place{}
	packs := map[uint32]bool{}
	chunks := 0
	for _, entries := range m.places {
		for _, e := range entries {
			pack := chunkstore.NumberedPack(e.Pack)
			all[e.ID] = append(all[e.ID], chunkstore.Place{Pack: pack, Offset: e.Offset, Found: true, Usable: !m.condemned[pack]})
			packs[e.Pack] = true
			chunks++
		}
	}
	for _, id := range append(others(20), m.ids...) {
		got, err := chunkstore.Lookup(r, id)
		if err != nil {
			m.t.Fatal(err)
		}
		usable := slices.ContainsFunc(all[id], func(p chunkstore.Place) bool { return p.Usable })
		if got.Found != (len(all[id]) > 0) || got.Usable != usable || got.Found && !slices.Contains(all[id], got) {
			m.t.Fatalf("chunk %v: got %+v, want one of %+v", id, got, all[id])
		}
	}
	if u, err := r.Usage(m.t.Context()); err != nil || u.Chunks != chunks || u.Packs != len(packs) {
		m.t.Errorf("usage %+v, %v: want %d chunks in %d packs", u, err, chunks, len(packs))
	}
}

// baseFile returns the path of the local index in a cache directory.
func baseFile(t *testing.T, cache string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(cache, "*", "index"))
	if err != nil || len(found) != 1 {
		t.Fatalf("local indexes: %v, %v", found, err)
	}
	return found[0]
}

// The index says what a map says, whatever came in which order and however much of it is in a file.
func TestIndexAgainstModel(t *testing.T) {
	for seed := range uint64(3) {
		m := newIndexModel(t, seed)
		cache := t.TempDir()
		inCache, without := m.open(cache), m.open("")
		inBase := 0
		for range 12 {
			for range m.rng.IntN(4) {
				m.put(m.entries(m.rng.IntN(70)))
			}
			if m.packs > 0 && m.rng.IntN(3) == 0 {
				m.condemn(1+m.rng.Uint32N(m.packs), 1+m.rng.Uint32N(m.packs))
			}
			// A process that goes on, one that starts, and one of each without a cache.
			for _, r := range []*chunkstore.Repository{inCache, m.open(cache), without, m.open("")} {
				m.compare(r)
			}
			inBase, _, _ = chunkstore.IndexState(inCache)
		}
		if inBase < 50 {
			t.Errorf("only %d entries in a base", inBase)
		}
	}
}

// A local index that is not exactly what this program wrote for this repository is not used, and is
// written anew.
func TestIndexFileIsNotTrusted(t *testing.T) {
	m, other := newIndexModel(t, 10), newIndexModel(t, 11)
	m.put(m.entries(300))
	other.put(other.entries(300))
	otherCache := t.TempDir()
	other.loaded(otherCache)
	foreign, err := os.ReadFile(baseFile(t, otherCache))
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	m.loaded(cache)
	path := baseFile(t, cache)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string][]byte{
		"empty": {}, "one byte": good[:1], "head only": good[:20], "foreign": foreign, "garbage": noise(1, len(good)),
		"last byte": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "half": good[:len(good)/2],
		"zeros": make([]byte, len(good)), "huge counts": slices.Concat(good[:8], bytes.Repeat([]byte{255}, 12), good[20:]),
	}
	for i := 0; i < len(good); i += 401 {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		damages[fmt.Sprintf("bit in byte %d", i)] = flipped
	}
	for what, content := range damages {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		m.compare(m.open(cache))
		if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, good) {
			t.Errorf("%s: the file was not written anew: %v", what, err)
		}
	}
}

// What an index object that is gone listed is not known any more, though a local index had it.
func TestIndexFileIsStale(t *testing.T) {
	m := newIndexModel(t, 12)
	first := m.put(m.entries(200))
	m.put(m.entries(200))
	cache := t.TempDir()
	running := m.loaded(cache)
	if err := m.store.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	delete(m.places, first)
	m.compare(m.open(cache))
	m.compare(running)
}

// While the file is being replaced, deleted and shared, every process knows what it did.
func TestIndexFileIsShared(t *testing.T) {
	m := newIndexModel(t, 13)
	m.put(m.entries(500))
	cache := t.TempDir()
	var g errgroup.Group
	for range 8 {
		r := m.open(cache)
		g.Go(func() error { return r.LoadIndex(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	r := m.loaded(cache)
	path := baseFile(t, cache)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	m.compare(r)
	m.loaded(cache)
	m.put(m.entries(500))
	m.loaded(cache)
	baseFile(t, cache)
	m.compare(r)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".tmp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("files left behind: %v, %v", left, err)
	}
}

// The cache holds a chunk's place once: in the local index, or in a delta that it lacks.
func TestCoveredDeltasLeaveTheCache(t *testing.T) {
	m := newIndexModel(t, 14)
	m.put(m.entries(200))
	cache := t.TempDir()
	m.loaded(cache)
	deltas := func() int {
		found, err := filepath.Glob(filepath.Join(cache, "*", "i", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if n := deltas(); n != 0 {
		t.Errorf("%d covered deltas in the cache", n)
	}
	m.put(m.entries(5))
	r := m.loaded(cache)
	if base, recent, _ := chunkstore.IndexState(r); base != 200 || recent != 5 || deltas() != 1 {
		t.Errorf("%d entries in the base, %d in memory, %d deltas in the cache", base, recent, deltas())
	}
}

// A small repository gets no local index.
func TestSmallIndexStaysInMemory(t *testing.T) {
	m := newIndexModel(t, 15)
	for range 100 {
		m.put(m.entries(50))
	}
	cache := t.TempDir()
	r := reopen(t, m.store, chunkstore.Options{CacheDir: cache})
	m.compare(r)
	if base, recent, _ := chunkstore.IndexState(r); base != 0 || recent != 5000 {
		t.Errorf("%d entries in a base, %d in memory", base, recent)
	}
	if found, _ := filepath.Glob(filepath.Join(cache, "*", "index")); len(found) != 0 {
		t.Errorf("a local index was written: %v", found)
	}
}

// Where the cache cannot be written the index is there all the same.
func TestIndexWithoutWritableCache(t *testing.T) {
	m := newIndexModel(t, 16)
	m.put(m.entries(500))
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m.compare(m.open(filepath.Join(file, "cache")))

	cache := t.TempDir()
	m.loaded(cache)
	path := baseFile(t, cache)
	// A directory where the file belongs: it can neither be read nor replaced.
	if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o700)); err != nil {
		t.Fatal(err)
	}
	m.compare(m.open(cache))
}

// A file that fails in use is an error of the look-up, not an absent chunk; the next start does without.
func TestIndexFileFailsInUse(t *testing.T) {
	m := newIndexModel(t, 17)
	m.put(m.entries(500))
	cache := t.TempDir()
	r := m.loaded(cache)
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(baseFile(t, cache), 0); err != nil {
		t.Fatal(err)
	}
	id := m.ids[0]
	if _, err := chunkstore.Lookup(r, id); err == nil {
		t.Error("a lookup in an emptied file succeeded")
	}
	if _, err := r.Chunk(t.Context(), id); err == nil || errors.Is(err, chunkstore.ErrChunkMissing) {
		t.Errorf("reading a chunk: %v", err)
	}
	if s.Keep(id) {
		t.Error("a chunk of an index that cannot be read was relied on")
	}
	if _, err := s.Save(t.Context(), chunkstore.Data, []byte("content")); err == nil {
		t.Error("a session went on without its index")
	}
	if err := s.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	m.compare(m.open(cache))
}

// What this process has uploaded stays known while the index is loaded again and again, before and after
// its deltas are there; lookups run beside it.
func TestIndexIsLoadedBesideAdditions(t *testing.T) {
	m := newIndexModel(t, 18)
	m.put(m.entries(100))
	cache := t.TempDir()
	r := m.loaded(cache)
	var mu sync.Mutex
	known := slices.Clone(m.ids)
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error {
		for i := 0; ctx.Err() == nil; i++ {
			mu.Lock()
			id := known[i%len(known)]
			mu.Unlock()
			if p, err := chunkstore.Lookup(r, id); err != nil || !p.Usable {
				return fmt.Errorf("chunk %v: %+v, %w", id, p, err)
			}
		}
		return nil
	})
	g.Go(func() error {
		for ctx.Err() == nil {
			if err := r.LoadIndex(ctx); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	})
	for range 60 {
		entries := m.entries(20)
		chunkstore.AddUploaded(r, entries)
		mu.Lock()
		for _, e := range entries {
			known = append(known, e.ID)
		}
		mu.Unlock()
		m.put(entries)
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	m.compare(r) // Usage counts nothing twice
	if _, _, fresh := chunkstore.IndexState(r); fresh != 0 {
		t.Errorf("%d chunks are held in memory though deltas list them", fresh)
	}
}

// Check reads the index without a cache, and what it counts is right when that takes a file.
func TestCheckOfLargeIndex(t *testing.T) {
	b := mem.New(mem.Options{})
	r := newRepository(t, b, chunkstore.Options{StateDir: t.TempDir()})
	chunkstore.SetIndexLimits(r, 2, 2, 1)
	for seed := range uint64(3) {
		if _, err := backup(t.Context(), r, words(seed, 2<<20)); err != nil {
			t.Fatal(err)
		}
	}
	r = reopen(t, b, chunkstore.Options{})
	chunkstore.SetIndexLimits(r, 2, 2, 1)
	report := check(t, r)
	if base, _, _ := chunkstore.IndexState(r); base < 5 || report.Chunks != base || len(report.Faults) > 0 || report.ReadPacks != report.Packs {
		t.Errorf("%d entries in a base; report %+v", base, report)
	}
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatal(all, err)
	}
	for i, o := range all {
		if !bytes.Equal(restore(t, r, o), words(uint64(i), 2<<20)) {
			t.Errorf("snapshot %d differs", i)
		}
	}
	names := 0
	if err := b.List(t.Context(), "", func(i chunkstore.Info) error {
		if strings.HasPrefix(i.Name, "i/") {
			names++
		}
		return nil
	}); err != nil || names < 3 {
		t.Errorf("%d index objects, %v", names, err)
	}
}

// What a prune or a repair condemns counts as absent beside what others have condemned before, not in its place.
func TestAvoid(t *testing.T) {
	m := newIndexModel(t, 9)
	r := m.open("")
	entries := []chunkstore.IndexEntry{{ID: chunkstore.ID{1}, Pack: 1}, {ID: chunkstore.ID{2}, Pack: 2}, {ID: chunkstore.ID{3}, Pack: 3}}
	if err := chunkstore.PutIndex(t.Context(), r, "i/0a0a0a0a0a0a0a0a/00000000000000000000000000000001-0", entries); err != nil {
		t.Fatal(err)
	}
	if err := chunkstore.MarkPacks(t.Context(), r, "g/0a0a0a0a0a0a0a0a/00000000000000000000000000000001", 1); err != nil {
		t.Fatal(err)
	}
	if err := r.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	chunkstore.Avoid(r, 2)
	var got []bool
	for _, e := range entries {
		at, err := chunkstore.Lookup(r, e.ID)
		if err != nil || !at.Found {
			t.Errorf("%+v, %v", at, err)
		}
		got = append(got, at.Usable)
	}
	if want := []bool{false, false, true}; !slices.Equal(got, want) {
		t.Errorf("usable: %v, want %v", got, want)
	}
}
