package chunkstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
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

// oldObjects returns the names of packs, index objects, outcomes, forget records, records and put-only hosts that are not sealed in that epoch.
func oldObjects(t testing.TB, b chunkstore.Backend, epoch uint32) (old []string) {
	t.Helper()
	for _, name := range names(t, b) {
		if !slices.Contains([]string{"p/", "t/", "i/", "x/", "n/", "f/", "r/", "h/"}, name[:2]) {
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
	// Outcomes are what they were, and from when they were.
	again, err := reopen(t, store, chunkstore.Options{}).Outcomes(t.Context())
	if err != nil || len(again) != len(all) {
		t.Fatalf("%v: %+v", err, again)
	}
	for i, o := range again {
		want := all[i]
		want.Objects = []string{want.Name + "-e00000002"}
		if diff := cmp.Diff(want, o); diff != "" {
			t.Errorf("outcome %d: %s", i, diff)
		}
	}
	// And in a further epoch; the chain of the writer goes on over both.
	rotate(t, store)
	if _, err := reencrypt(t.Context(), store, -1); err != nil {
		t.Fatal(err)
	}
	for _, name := range oldObjects(t, store, 3) {
		if !strings.HasPrefix(name, "n/") { // of the collection's own session, which left nothing
			t.Errorf("%s is sealed in an old epoch", name)
		}
	}
	for _, o := range outcomes(t, reopen(t, store, chunkstore.Options{})) {
		if !slices.Equal(o.Objects, []string{o.Name + "-e00000003"}) {
			t.Errorf("%s is sealed in an old epoch: %v", o.Name, o.Objects)
		}
	}
	wantSnapshots(t, store, a, slices.Concat(a, b), b)
}

// What stays sealed with the old keys is what the threat model says, and whoever has them can add to it.
func TestReencryptLeaves(t *testing.T) {
	store := nights(t, words(87, 1000))
	early := reopen(t, store, chunkstore.Options{})
	addRecord(t, early, "drill", "passed")
	aborted, err := early.Begin(t.Context(), chunkstore.BeginOptions{})
	if err == nil {
		err = aborted.Abort(t.Context())
	}
	if err == nil {
		err = early.Claim(t.Context(), "shop", 1, "home")
	}
	if err != nil {
		t.Fatal(err)
	}
	host := addHost(t, store, "db1", false)
	hostBackup(t, store, host, words(88, 1000))
	rotate(t, store)
	if _, err := reencrypt(t.Context(), store, -1); err != nil {
		t.Fatal(err)
	}
	left := map[string]int{}
	for _, name := range names(t, store) {
		if name != "config" && name[:2] != "k/" && crypto.ObjectEpoch(object(t, store, name)) == 1 {
			what := name[:2]
			if strings.HasPrefix(name[2:], host.Info().Writer.String()+"/") {
				what += " of a put-only host"
			}
			left[what]++
		}
	}
	want := map[string]int{"n/": 1, "o/": 1}
	for _, prefix := range []string{"p/", "t/", "n/"} {
		want[prefix+" of a put-only host"] = len(namesUnder(t, store, prefix+host.Info().Writer.String()))
	}
	if diff := cmp.Diff(want, left); diff != "" || want["p/ of a put-only host"] == 0 {
		t.Errorf("sealed in the old epoch: %s", diff)
	}
	if err := early.Claim(t.Context(), "shop", 2, "thief"); err != nil {
		t.Fatal(err)
	}
	if claims, err := reopen(t, store, chunkstore.Options{}).Claims(t.Context(), "shop"); err != nil || len(claims) != 2 || claims[1].Err != nil {
		t.Errorf("a claim with the old keys: %+v, %v", claims, err)
	}
}

// A host's chain of outcomes goes on over a rewriting.
func TestReencryptChain(t *testing.T) {
	store, host := mem.New(mem.Options{}), t.TempDir()
	newRepository(t, store, chunkstore.Options{})
	night := func(content []byte) {
		if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{StateDir: host}), content); err != nil {
			t.Fatal(err)
		}
	}
	night(words(85, 1000))
	rotate(t, store)
	if _, err := reencrypt(t.Context(), store, -1); err != nil {
		t.Fatal(err)
	}
	night(words(86, 1000))
	wantSnapshots(t, store, words(85, 1000), words(86, 1000))
	all := outcomes(t, reopen(t, store, chunkstore.Options{}))
	if all[1].Sequence != 2 || all[1].Previous == nil || all[1].Previous.Session != all[0].Session || all[1].Previous.SHA256 != all[0].Digest {
		t.Errorf("%+v", all)
	}
	forget(t, store, 0)
	if report := collectNow(t, store); report.Records != 1 || len(namesUnder(t, store, "n/"+all[0].Writer.String())) != 1 {
		t.Errorf("%+v: %v", report, namesUnder(t, store, "n/"))
	}
	wantSnapshots(t, store, words(86, 1000))
}

// While somebody lists the snapshots their outcomes, what was forgotten, and which put-only hosts were removed, are sealed anew.
func TestReencryptBesideReaders(t *testing.T) {
	base, contents := rotated(t)
	want := hostsOf(t, base)
	for n := range 60 {
		store := base.Clone()
		var mu sync.Mutex
		calls := 0
		var err error
		r := reopen(t, storetest.Intercept(store, func(ctx context.Context, c storetest.Call, next func() error) error {
			if len(c.Name) < 2 || !strings.Contains("n/ f/ h/", c.Name[:2]) {
				return next()
			}
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == n {
				_, err = reencrypt(t.Context(), store, -1)
			}
			return next()
		}), chunkstore.Options{})
		all, listErr := r.Outcomes(t.Context())
		hosts, bad, hostErr := r.Hosts(t.Context())
		if diff := cmp.Diff(want, hosts); diff != "" || hostErr != nil || len(bad) > 0 {
			t.Fatalf("call %d: %v, %v: %s", n, hostErr, bad, diff)
		}
		if err != nil || listErr != nil || len(all) != len(contents) || all[0].Err != nil || all[1].Err != nil {
			t.Fatalf("call %d: %v, %v: %+v", n, err, listErr, all)
		}
		if calls < n {
			return
		}
	}
}

// Where lists may lag the old object stays until every list shows the new one.
func TestReencryptWhereListsLag(t *testing.T) {
	base, contents := rotated(t)
	store := storetest.Unsupported(base)
	for round, lag := range []time.Duration{time.Hour, time.Hour, 1} {
		r := reopen(t, store, chunkstore.Options{})
		chunkstore.SetAges(r, 0, 0, 0, 0)
		chunkstore.SetLag(r, lag)
		o := collectOptions(r)
		o.MaxReencrypt = -1
		if _, err := r.Collect(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		wantSnapshots(t, store, contents...)
		want := []int{2, 2, 1}[round]
		for _, o := range outcomes(t, reopen(t, store, chunkstore.Options{})) {
			if len(o.Objects) != want {
				t.Errorf("collection %d: %v, want %d", round, o.Objects, want)
			}
		}
		for _, record := range records(t, reopen(t, store, chunkstore.Options{})) {
			if len(record.Objects) != want || record.Err != nil {
				t.Errorf("collection %d: %v, want %d: %v", round, record.Objects, want, record.Err)
			}
		}
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

// rotated returns a store of an older epoch, of which some is forgotten, with records, and a put-only host that was removed.
func rotated(t *testing.T) (*mem.Store, [][]byte) {
	store, contents := forgetful(t)
	for _, system := range []string{"shop", "wiki"} {
		addRecord(t, reopen(t, store, chunkstore.Options{}), "drill", map[string]string{"system": system})
	}
	addHost(t, store, "db1", false)
	if _, err := reopen(t, store, chunkstore.Options{}).RemoveHost(t.Context(), "db1", time.Time{}); err != nil {
		t.Fatal(err)
	}
	rotate(t, store)
	return store, contents
}

// reencrypted verifies what must hold after rewriting base ended somehow.
func reencrypted(t *testing.T, base, store *mem.Store, contents [][]byte) {
	t.Helper()
	want, hosts := recordsOf(t, base), hostsOf(t, base)
	same := func() {
		if diff := cmp.Diff(want, recordsOf(t, store)) + cmp.Diff(hosts, hostsOf(t, store)); diff != "" {
			t.Errorf("records, hosts: %s", diff)
		}
	}
	same()
	wantSnapshots(t, store, contents...)
	if _, err := reencrypt(t.Context(), store, -1); err != nil {
		t.Fatalf("again: %v", err)
	}
	if old := oldObjects(t, store, 2); len(old) != 0 {
		t.Errorf("sealed in the old epoch: %v", old)
	}
	wantSnapshots(t, store, contents...)
	same()
}

func TestReencryptEveryCallFails(t *testing.T) {
	base, contents := rotated(t)
	failures := 0
	for n := 1; ; n += stride() {
		store := base.Clone()
		f := &storetest.Faulty{N: n, After: n/stride()%2 == 0}
		_, err := reencrypt(t.Context(), f.Wrap(store), -1)
		if !f.Fired() {
			break
		}
		if err != nil {
			failures++
		}
		if reencrypted(t, base, store, contents); t.Failed() {
			t.Fatalf("call %d failed: %v", n, err)
		}
	}
	if failures*stride() < 10 {
		t.Errorf("only %d failed: were the faults seen?", failures)
	}
}

func TestReencryptCrashes(t *testing.T) {
	base, contents := rotated(t)
	n := 0
	for ; ; n += stride() {
		store := base.Clone()
		c := &storetest.Crash{After: n, Apply: n/stride()%2 == 1}
		_, err := reencrypt(t.Context(), c.Wrap(store), -1)
		if !c.Crashed() {
			break
		}
		if reencrypted(t, base, store, contents); t.Failed() {
			t.Fatalf("crash after write %d: %v", n, err)
		}
	}
	if n < 10 {
		t.Errorf("only %d writes", n)
	}
}

// Backups, rotations and rewriting at once: whoever has opened the repository with keys that are too old by then is told,
// and every snapshot that was reported is there, whole.
func TestReencryptConcurrently(t *testing.T) {
	store := mem.New(mem.Options{})
	newRepository(t, store, chunkstore.Options{})
	var mu sync.Mutex
	wanted := map[chunkstore.SessionID][]byte{}
	var wg, hosts sync.WaitGroup
	done := make(chan struct{})
	for host := range 3 {
		hosts.Go(func() {
			for n := range 12/stride() + 2 {
				content := noise(uint64(100+(host+n)%5), 40_000)
				s, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), content)
				if errors.Is(err, crypto.ErrRotated) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				wanted[s.ID()] = content
				mu.Unlock()
			}
		})
	}
	rewritten := 0
	for worker := range 2 {
		state := t.TempDir()
		wg.Go(func() {
			for ended := false; !ended; {
				select {
				case <-done:
					ended = true // once more, in peace
				default:
				}
				if worker == 0 {
					rotate(t, store)
					continue
				}
				r := reopen(t, store, chunkstore.Options{StateDir: state})
				chunkstore.SetAges(r, 0, 0, time.Hour, 0)
				o := collectOptions(r)
				o.MaxReencrypt = -1
				report, err := r.Collect(t.Context(), o)
				if err != nil && !errors.Is(err, crypto.ErrRotated) {
					t.Error(err)
					return
				}
				rewritten += report.Repack.Packs + report.Resealed
			}
		})
	}
	hosts.Wait()
	close(done)
	wg.Wait()
	r := reopen(t, store, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != len(wanted) || len(wanted) == 0 {
		t.Fatalf("%d snapshots, want %d: %v", len(all), len(wanted), err)
	}
	for _, o := range all {
		if !bytes.Equal(restore(t, r, o), wanted[o.Session]) {
			t.Errorf("snapshot %v differs", o.Session)
		}
	}
	wantClean(t, r)
	t.Logf("%d snapshots, %d packs and records rewritten", len(all), rewritten)
}
