package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

// collectOptions are those of a collection that leaves nothing unused.
func collectOptions(r *chunkstore.Repository) chunkstore.CollectOptions {
	return chunkstore.CollectOptions{Host: "test", Walk: func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		return walk(r)
	}}
}

// collectNow collects as if everything were old, but sessions; on the host with that state directory, or on
// a new one.
func collectNow(t testing.TB, b chunkstore.Backend, host ...string) *chunkstore.CollectReport {
	t.Helper()
	report, err := tryCollect(t.Context(), b, host...)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func tryCollect(ctx context.Context, b chunkstore.Backend, host ...string) (*chunkstore.CollectReport, error) {
	r, err := chunkstore.Open(ctx, b, password, chunkstore.Options{StateDir: strings.Join(host, "")})
	if err != nil {
		return nil, err
	}
	chunkstore.SetAges(r, 0, 0, time.Hour, 0)
	return r.Collect(ctx, collectOptions(r))
}

// forget forgets the snapshots whose numbers, from the oldest on, are given.
func forget(t testing.TB, b chunkstore.Backend, numbers ...int) {
	t.Helper()
	r := reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var list []chunkstore.Outcome
	for _, n := range numbers {
		list = append(list, all[n])
	}
	if err := r.Forget(t.Context(), "test", list); err != nil {
		t.Fatal(err)
	}
}

// nights returns a store with a snapshot of each of the contents.
func nights(t testing.TB, contents ...[]byte) *mem.Store {
	t.Helper()
	b := mem.New(mem.Options{})
	r := newRepository(t, b, chunkstore.Options{StateDir: t.TempDir()})
	for _, content := range contents {
		if _, err := backup(t.Context(), r, content); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// wantSnapshots demands exactly these contents, oldest first, and a repository without fault.
func wantSnapshots(t testing.TB, b chunkstore.Backend, contents ...[]byte) {
	t.Helper()
	r := reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != len(contents) {
		t.Fatalf("%d snapshots, want %d: %v", len(all), len(contents), err)
	}
	for i, o := range all {
		if !bytes.Equal(restore(t, r, o), contents[i]) {
			t.Errorf("snapshot %d differs", i)
		}
	}
	wantClean(t, r)
}

func storedBytes(t testing.TB, b chunkstore.Backend, prefix string) (objects int, bytes int64) {
	t.Helper()
	if err := b.List(t.Context(), prefix, func(i chunkstore.Info) error {
		objects++
		bytes += i.Size
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return objects, bytes
}

func TestCollect(t *testing.T) {
	a, b, c := noise(40, 2<<20), noise(41, 2<<20), noise(42, 2<<20)
	store := nights(t, a, slices.Concat(a, b), slices.Concat(b, c), c)
	if report := collectNow(t, store); report.Deleted.Packs != 0 || report.Snapshots != 4 {
		t.Errorf("everything is needed: %+v", report)
	}
	wantSnapshots(t, store, a, slices.Concat(a, b), slices.Concat(b, c), c)
	_, before := storedBytes(t, store, "p/")
	forget(t, store, 0, 1)
	wantSnapshots(t, store, slices.Concat(b, c), c)
	report := collectNow(t, store)
	wantSnapshots(t, store, slices.Concat(b, c), c)
	_, after := storedBytes(t, store, "p/")
	if after > before-2<<20 || report.Deleted.Bytes < 2<<20 || report.Records != 2 {
		t.Errorf("%d bytes of content, before %d: %+v", after, before, report)
	}
	if report := collectNow(t, store); report.Deleted.Packs != 0 || report.Repacked != 0 {
		t.Errorf("again: %+v", report)
	}
	// What was deleted can be stored anew.
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), a); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, store, slices.Concat(b, c), c, a)
}

// Packs that are needed in part are rewritten; somebody who read the index before still finds everything.
func TestCollectRewrites(t *testing.T) {
	content := noise(43, 40<<20)
	part := slices.Concat(content[:9<<20], content[20<<20:24<<20])
	store := nights(t, content, part)
	early := reopen(t, store, chunkstore.Options{})
	all, err := early.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := early.LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	forget(t, store, 0)
	report := collectNow(t, store)
	if report.Repack.Packs == 0 || report.Repacked == 0 || report.Deleted.Packs == 0 {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, store, part)
	if _, stored := storedBytes(t, store, "p/"); stored > 20<<20 {
		t.Errorf("%d bytes for %d", stored, len(part))
	}
	if !bytes.Equal(restore(t, early, all[1]), part) {
		t.Error("one who read the index before reads something else")
	}
}

func TestCollectBounds(t *testing.T) {
	if testing.Short() {
		t.Skip("much content, and nothing at once that TestCollectRewrites has not")
	}
	content := noise(44, 50<<20)
	store := nights(t, content, content[:44<<20])
	forget(t, store, 0)
	for name, set := range map[string]func(*chunkstore.CollectOptions){
		"unused":  func(o *chunkstore.CollectOptions) { o.MaxUnused = -1 },
		"share":   func(o *chunkstore.CollectOptions) { o.MaxUnused = 1 },
		"size":    func(o *chunkstore.CollectOptions) { o.MaxRepack = 1 },
		"dry run": func(o *chunkstore.CollectOptions) { o.DryRun = true },
	} {
		clone := store.Clone()
		r := reopen(t, clone, chunkstore.Options{})
		chunkstore.SetAges(r, 0, 0, time.Hour, time.Hour)
		o := collectOptions(r)
		set(&o)
		report, err := r.Collect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if report.Repacked != 0 || name != "dry run" && report.Repack.Packs != 0 {
			t.Errorf("%s: %+v", name, report)
		}
		if name == "dry run" && (report.Deleted.Packs != 0 || report.Repack.Packs == 0 || !slices.Equal(names(t, clone), names(t, store))) {
			t.Errorf("%s changed something: %+v", name, report)
		}
		wantSnapshots(t, clone, content[:44<<20])
	}
}

func names(t testing.TB, b chunkstore.Backend) (all []string) {
	t.Helper()
	if err := b.List(t.Context(), "", func(i chunkstore.Info) error {
		all = append(all, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// Young packs stay, whatever needs them.
func TestCollectLeavesYoung(t *testing.T) {
	store := nights(t, noise(45, 3<<20), words(45, 100))
	forget(t, store, 0)
	r := reopen(t, store, chunkstore.Options{})
	report, err := r.Collect(t.Context(), collectOptions(r))
	if err != nil || report.Young.Packs == 0 || report.Deleted.Packs != 0 || report.Repack.Packs != 0 {
		t.Errorf("%v: %+v", err, report)
	}
}

// A session that began before the mark may rely on what is condemned: deletion waits for its end, and what
// its snapshot needs is rescued.
func TestCollectWaits(t *testing.T) {
	a, b := noise(46, 3<<20), noise(47, 3<<20)
	host := t.TempDir()
	store := nights(t, a, b)
	forget(t, store, 0)
	r := reopen(t, store, chunkstore.Options{})
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "slow"})
	if err != nil {
		t.Fatal(err)
	}
	report := collectNow(t, store, host)
	if len(report.Waits) != 1 || report.Waits[0].Session != s.ID() || report.Waits[0].Host != "slow" || report.Deleted.Packs != 0 || report.Unneeded.Packs == 0 {
		t.Fatalf("%+v", report)
	}
	if err := save(t.Context(), s, a); err != nil {
		t.Fatal(err)
	}
	if s.Stats().NewBytes > 1000 {
		t.Errorf("the session stored %d bytes anew: it does not rely on what is condemned", s.Stats().NewBytes)
	}
	if report = collectNow(t, store, host); report.Rescued == 0 || len(report.Waits) != 0 {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, store, b, a)
	collectNow(t, store, host)
	wantSnapshots(t, store, b, a)
}

// A session that begins after the mark relies on nothing that is condemned.
func TestCollectMarked(t *testing.T) {
	a, b := noise(48, 3<<20), noise(49, 3<<20)
	host := t.TempDir()
	store := nights(t, a, b)
	forget(t, store, 0)
	slow, err := reopen(t, store, chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	collectNow(t, store, host) // marks, and waits for the slow one
	s, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), a)
	if err != nil {
		t.Fatal(err)
	}
	if s.Stats().NewBytes < 3<<20 {
		t.Errorf("only %d bytes were stored anew", s.Stats().NewBytes)
	}
	if err := slow.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := collectNow(t, store, host); report.Deleted.Packs == 0 || report.Rescued != 0 {
		t.Errorf("%+v", report)
	}
	wantSnapshots(t, store, b, a)
}

// A session that shows no life is given up, can no longer commit, and what it stored is found.
func TestCollectFences(t *testing.T) {
	for kind, wrap := range kinds() {
		a, b := noise(50, 3<<20), noise(51, 3<<20)
		store := nights(t, a, b)
		forget(t, store, 0)
		dead, err := reopen(t, wrap(store), chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r := reopen(t, wrap(store), chunkstore.Options{})
		chunkstore.SetAges(r, 0, 0, 0, 0)
		report, err := r.Collect(t.Context(), collectOptions(r))
		if err != nil || len(report.Fenced) != 1 || report.Deleted.Packs == 0 {
			t.Fatalf("%s: %v: %+v", kind, err, report)
		}
		if err := save(t.Context(), dead, a); !errors.Is(err, chunkstore.ErrFenced) {
			t.Errorf("%s: one that was given up commits: %v", kind, err)
		}
		collectNow(t, wrap(store))
		wantSnapshots(t, wrap(store), b)
	}
}

// What died on the host that collects is given up at once, also where its process had another id than the collection has: as the session
// in which a prune rewrites packs. What still runs there is waited for.
func TestCollectGivesUpTheHostsDead(t *testing.T) {
	a, b := noise(55, 1<<20), noise(56, 1<<20)
	store := nights(t, a, b)
	forget(t, store, 0)
	host := t.TempDir()
	for range 2 {
		if _, err := reopen(t, store, chunkstore.Options{StateDir: host}).Begin(t.Context(), chunkstore.BeginOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if report := collectNow(t, store, host); len(report.Fenced) != 0 || len(report.Waits) != 2 || report.Deleted.Packs != 0 {
		t.Fatalf("while they run: %+v", report)
	}
	restarted := t.TempDir() // where nobody holds the ids
	if err := os.CopyFS(restarted, os.DirFS(host)); err != nil {
		t.Fatal(err)
	}
	if report := collectNow(t, store, restarted); len(report.Fenced) != 2 || len(report.Waits) != 0 || report.Deleted.Packs == 0 {
		t.Errorf("when they are dead: %+v", report)
	}
	wantSnapshots(t, store, b)
}

// Where lists may lag, marking, noting for whom to wait, and deleting are steps of three collections.
func TestCollectWhereListsLag(t *testing.T) {
	a, b := noise(53, 1<<20), noise(54, 1<<20)
	store := storetest.Unsupported(nights(t, a, b))
	forget(t, store, 0)
	host := t.TempDir()
	for round := range 3 {
		r := reopen(t, store, chunkstore.Options{StateDir: host})
		chunkstore.SetAges(r, 0, 0, time.Hour, time.Hour)
		chunkstore.SetLag(r, 1)
		report, err := r.Collect(t.Context(), collectOptions(r))
		if err != nil {
			t.Fatal(err)
		}
		if deleted := report.Deleted.Packs > 0; deleted != (round == 2) {
			t.Errorf("collection %d: %+v", round, report)
		}
	}
	wantSnapshots(t, store, b)
}

// Packs of a session that was killed before it wrote its index go in the end.
func TestCollectOrphans(t *testing.T) {
	base := nights(t, words(52, 1000))
	var store *mem.Store
	for n := 0; ; n++ { // until the crash comes after a pack and before the index
		store = base.Clone()
		c := &storetest.Crash{After: n}
		if attempt(t, c.Wrap(store), noise(52, 5<<20)) {
			t.Fatal("no crash left a pack alone")
		}
		packs, _ := storedBytes(t, store, "p/")
		if deltas, _ := storedBytes(t, store, "i/"); packs > 1 && deltas == 1 {
			break
		}
	}
	r := reopen(t, store, chunkstore.Options{})
	chunkstore.SetAges(r, 0, 0, 0, 0)
	report, err := r.Collect(t.Context(), collectOptions(r))
	if err != nil || report.Orphans.Packs == 0 || report.Deleted != report.Orphans {
		t.Errorf("%v: %+v", err, report)
	}
	wantSnapshots(t, store, words(52, 1000))
}

// Many sessions leave many index objects; a collection merges them.
func TestCollectMergesIndex(t *testing.T) {
	var contents [][]byte
	for i := range 40 {
		contents = append(contents, words(uint64(60+i), 2000))
	}
	store := nights(t, contents...)
	report := collectNow(t, store)
	if objects, _ := storedBytes(t, store, "i/"); objects != 0 || report.Indexes[1] > 2 {
		t.Errorf("%d deltas are left: %+v", objects, report)
	}
	if objects, _ := storedBytes(t, store, "s/"); objects != 0 {
		t.Errorf("%d announcements are left", objects)
	}
	if packs, _ := storedBytes(t, store, "t/"); packs > 4 {
		t.Errorf("small packs were not merged: %d", packs)
	}
	wantSnapshots(t, store, contents...)
}

// forgetful returns a store of which a collection has everything to do.
func forgetful(t *testing.T) (*mem.Store, [][]byte) {
	a, b, c := noise(70, 50_000), noise(71, 50_000), noise(72, 50_000)
	store := nights(t, slices.Concat(a, b), b, slices.Concat(b, c), a[:100])
	forget(t, store, 0, 2)
	return store, [][]byte{b, a[:100]}
}

// after verifies what must hold after a collection ended somehow.
func after(t *testing.T, store chunkstore.Backend, contents [][]byte) {
	t.Helper()
	wantSnapshots(t, store, contents...)
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), noise(70, 50_000)); err != nil {
		t.Fatalf("the next backup: %v", err)
	}
	collectNow(t, store)
	wantSnapshots(t, store, append(slices.Clip(contents), noise(70, 50_000))...)
}

func TestCollectEveryCallFails(t *testing.T) {
	base, contents := forgetful(t)
	stores := wild
	if testing.Short() { // one is enough to find what races
		stores = map[string]func(chunkstore.Backend) chunkstore.Backend{"conditional": wild["conditional"]}
	}
	for name, kind := range stores {
		for _, late := range []bool{false, true} {
			failures := 0
			for n := 1; ; n += stride() {
				store := base.Clone()
				f := &storetest.Faulty{N: n, After: late}
				_, err := tryCollect(t.Context(), f.Wrap(kind(store)))
				if !f.Fired() {
					break
				}
				if err != nil {
					failures++
				}
				if after(t, store, contents); t.Failed() {
					t.Fatalf("%s: call %d failed, after its effect: %v; %v", name, n, late, err)
				}
			}
			if failures*stride() < 10 {
				t.Errorf("%s: only %d collections failed: were the faults seen?", name, failures)
			}
		}
	}
}

func TestCollectCrashes(t *testing.T) {
	base, contents := forgetful(t)
	for name, kind := range kinds() {
		n := 0
		for ; ; n += stride() {
			store := base.Clone()
			c := &storetest.Crash{After: n}
			_, err := tryCollect(t.Context(), c.Wrap(kind(store)))
			if !c.Crashed() {
				break
			}
			if after(t, store, contents); t.Failed() {
				t.Fatalf("%s: crash after write %d; %v", name, n, err)
			}
		}
		if n < 10 {
			t.Errorf("%s: only %d writes", name, n)
		}
	}
}

// Backups, forgets and collections at once, from several hosts: every snapshot that was reported and not
// forgotten is there, whole.
func TestCollectConcurrently(t *testing.T) {
	store := mem.New(mem.Options{})
	newRepository(t, store, chunkstore.Options{})
	var mu sync.Mutex
	wanted := map[chunkstore.SessionID][]byte{}
	var wg sync.WaitGroup
	var collections, deleted, fenced int
	began := time.Now()
	enough := func() bool { // a slow machine gets as far, only later
		mu.Lock()
		defer mu.Unlock()
		spent := time.Since(began)
		return t.Failed() || spent > time.Minute || spent > time.Second && deleted > 20
	}
	for host := range 5 {
		state := t.TempDir()
		rng := rand.New(rand.NewPCG(uint64(host), 9))
		wg.Go(func() {
			for !enough() {
				if host < 2 {
					report, err := tryCollect(t.Context(), store, state)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					collections++
					deleted += report.Deleted.Packs
					mu.Unlock()
					continue
				}
				content := slices.Concat(noise(uint64(rng.IntN(6)), 60_000), noise(uint64(rng.IntN(6)), 60_000))
				s, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), content)
				if errors.Is(err, chunkstore.ErrFenced) {
					mu.Lock()
					fenced++
					mu.Unlock()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				wanted[s.ID()] = content
				mu.Unlock()
				if rng.IntN(3) == 0 {
					forgetSome(t, store, &mu, wanted, rng)
				}
			}
		})
	}
	wg.Wait()
	r := reopen(t, store, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != len(wanted) {
		t.Fatalf("%d snapshots, want %d: %v", len(all), len(wanted), err)
	}
	for _, o := range all {
		if !bytes.Equal(restore(t, r, o), wanted[o.Session]) {
			t.Errorf("snapshot %v differs", o.Session)
		}
	}
	wantClean(t, r)
	t.Logf("%d snapshots left, %d collections deleted %d packs, %d sessions fenced", len(all), collections, deleted, fenced)
	if deleted == 0 {
		t.Error("nothing was ever deleted")
	}
}

// forgetSome forgets about half of the snapshots.
func forgetSome(t *testing.T, store chunkstore.Backend, mu *sync.Mutex, wanted map[chunkstore.SessionID][]byte, rng *rand.Rand) {
	r := reopen(t, store, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	all = slices.DeleteFunc(all, func(chunkstore.Outcome) bool { return rng.IntN(2) == 0 })
	mu.Lock()
	defer mu.Unlock()
	all = slices.DeleteFunc(all, func(o chunkstore.Outcome) bool { return wanted[o.Session] == nil }) // not yet reported
	for _, o := range all {
		delete(wanted, o.Session)
	}
	if err := r.Forget(t.Context(), fmt.Sprint("host", strings.Repeat("x", rng.IntN(3))), all); err != nil {
		t.Error(err)
	}
}
