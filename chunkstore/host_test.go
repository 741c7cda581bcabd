package chunkstore_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// A put-only host adds snapshots, with no more than it may do at the store; what it stored before it does not store again; and
// whoever has the keys restores them. It shares nothing with others.
func TestPutOnlyHost(t *testing.T) {
	store, before := mem.New(mem.Options{}), noise(69, 16<<20) // more than twice the largest chunk
	if _, err := backup(t.Context(), newRepository(t, store, chunkstore.Options{}), before); err != nil {
		t.Fatal(err)
	}
	c := addHost(t, store, "db1", false)
	first := hostBackup(t, store, c, before)
	if first.NewBytes < int64(len(before)) {
		t.Errorf("%+v: it found what others have", first)
	}
	second := hostBackup(t, store, c, slices.Concat(before, []byte("more")))
	if second.NewBytes > first.NewBytes/2+1000 || second.StoredBytes > first.StoredBytes/2 {
		t.Errorf("first %+v, then %+v", first, second)
	}
	if third := hostBackup(t, store, c, before); third.NewBytes > 1000 {
		t.Errorf("the same again: %+v", third)
	}
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), before); err != nil {
		t.Fatal(err)
	}
	wantSnapshots(t, store, before, before, slices.Concat(before, []byte("more")), before, before)
	all := outcomes(t, reopen(t, store, chunkstore.Options{}))
	if o := all[3]; o.Writer != c.Info().Writer || o.Sequence != 3 || o.Previous == nil || o.Previous.Session != all[2].Session || o.Domain != chunkstore.Domain(o.Writer) {
		t.Errorf("%+v", o)
	}
}

// With the credential of a put-only host nothing opens but marks, claims, and how its sessions began and ended; and nothing
// is taken out, claimed or recorded.
func TestStolenPutOnlyKey(t *testing.T) {
	h := newHistory(t)
	c := addHost(t, h.now, "db1", false)
	hostBackup(t, h.now, c, words(70, 3000))
	w, ctx := c.Info().Writer.String(), t.Context()
	opened := map[string]int{}
	for _, name := range names(t, h.now) {
		if strings.HasPrefix(name, "probe/") || name == "config" || strings.HasPrefix(name, "k/") {
			continue
		}
		logical := name
		if ref := strings.Split(name, "/"); len(ref) == 4 { // a pack
			logical = ref[0] + "/" + ref[1]
		}
		if _, err := c.Keys().Open(crypto.Type(name[0]), logical, bytesOf(t, h.now, name)); err != nil {
			continue
		}
		own := strings.HasPrefix(name[2:], w+"/") && strings.Contains("s/ i/ n/", name[:2])
		if !own && name[:2] != "g/" && name[:2] != "o/" {
			t.Errorf("it opens %s", name)
		}
		opened[name[:2]]++
	}
	if len(opened) != 5 {
		t.Errorf("it opens %v", opened)
	}
	r, err := openHost(ctx, h.now, c)
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() error{
		"list":          func() error { _, err := r.Outcomes(ctx); return err },
		"records":       func() error { _, err := r.Records(ctx); return err },
		"hosts":         func() error { _, _, err := r.Hosts(ctx); return err },
		"check":         func() error { _, err := r.Check(ctx, chunkstore.CheckOptions{}); return err },
		"forget":        func() error { return r.Forget(ctx, "x", make([]chunkstore.Outcome, 1)) },
		"collect":       func() error { _, err := r.Collect(ctx, collectOptions(r)); return err },
		"record":        func() error { return r.AddRecord(ctx, "drill", 1) },
		"claim":         func() error { return r.Claim(ctx, "shop", 2, "here") },
		"add a host":    func() error { _, _, err := r.AddHost(ctx, "x", nil, false); return err },
		"remove a host": func() error { _, err := r.RemoveHost(ctx, "db1", time.Time{}); return err },
		"repair index":  func() error { _, err := r.RepairIndex(ctx, chunkstore.RepairOptions{}); return err },
		"repair packs":  func() error { _, err := r.RepairPacks(ctx, nil, chunkstore.RepairOptions{}); return err },
		"stored":        func() error { _, err := r.Stored(ctx); return err },
		"open":          func() error { _, err := chunkstore.Open(ctx, h.now, c, chunkstore.Options{}); return err },
		"rotate":        func() error { _, err := chunkstore.RotateKeys(ctx, h.now, c, chunkstore.RotateOptions{}); return err },
		"add a slot": func() error {
			_, err := chunkstore.AddSlot(ctx, h.now, c, password, crypto.SlotInfo{}, cheap)
			return err
		},
	} {
		if err := f(); !errors.Is(err, crypto.ErrPutOnly) && (what != "rotate" || !errors.Is(err, crypto.ErrWrongKey)) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if claims, err := r.Claims(ctx, "shop"); err != nil || len(claims) != 1 || claims[0].Err != nil {
		t.Errorf("claims: %+v, %v", claims, err)
	}
	for _, o := range outcomes(t, reopen(t, h.now, chunkstore.Options{})) {
		if _, err := r.ReadStream(ctx, o.Body); err == nil {
			t.Errorf("it reads the body of %s", o.Name)
		}
	}
}

// What a put-only host puts in others' places, or says of their chunks and packs, counts for nothing and stops nobody.
func TestPutOnlyHostLies(t *testing.T) {
	store, before := seeded(t)
	ctx, c, victim := t.Context(), addHost(t, store, "db1", false), addHost(t, store, "db2", false)
	hostBackup(t, store, c, words(71, 2000))
	hostBackup(t, store, victim, before)
	full := reopen(t, store, chunkstore.Options{})
	known := outcomes(t, full)
	liar, err := chunkstore.OpenHost(ctx, store, c, chunkstore.Options{}) // as if the store let it
	if err != nil {
		t.Fatal(err)
	}
	own, theirs := c.Info().Writer.String(), victim.Info().Writer.String()
	ids := map[string]chunkstore.ID{"common": known[0].Body.Chunks[0].ID, "another host's": known[2].Body.Chunks[0].ID, "its own": known[1].Body.Chunks[0].ID}
	for what, id := range ids {
		name := "i/" + own + "/00112233445566778899aabbccddeeff-7"
		if err := chunkstore.PutIndex(ctx, liar, name, []chunkstore.IndexEntry{{ID: id, Pack: 1}}); err != nil {
			t.Fatal(err)
		}
		r := reopen(t, store, chunkstore.Options{})
		if err := r.LoadIndex(ctx); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if at, err := chunkstore.Lookup(r, id); err != nil || at.Pack == chunkstore.NumberedPack(1) {
			t.Errorf("%s chunk is looked for in a pack that is none of the host's: %v", what, err)
		}
		if report := check(t, r); len(report.Faults) != 1 || report.Faults[0].Object != name || !errors.Is(report.Faults[0].Err, crypto.ErrDamaged) {
			t.Errorf("%s: %+v", what, report.Faults)
		}
		if _, err := backup(ctx, r, words(72, 100)); err != nil {
			t.Errorf("%s: a backup: %v", what, err)
		}
		if _, err := tryCollect(ctx, store); err != nil {
			t.Errorf("%s: a collection: %v", what, err)
		}
		if err := store.Delete(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	if err := chunkstore.PutIndex(ctx, liar, "i/"+theirs+"/00112233445566778899aabbccddeeff-7", nil); !errors.Is(err, crypto.ErrPutOnly) {
		t.Errorf("an index of another host: %v", err)
	}
	for _, name := range names(t, store) { // its own objects, as another's
		other := strings.Replace(name, own, theirs, 1)
		if other == name || strings.HasPrefix(name, "h/") {
			continue
		}
		copied := store.Clone()
		if err := copied.Put(ctx, other, bytesOf(t, store, name)); err != nil {
			t.Fatal(err)
		}
		r := reopen(t, copied, chunkstore.Options{})
		all, err := r.Outcomes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			if good := slices.ContainsFunc(known, func(k chunkstore.Outcome) bool { return k.Name == o.Name }); !good && o.Err == nil && o.Writer == victim.Info().Writer {
				t.Errorf("%s counts as the other's", name)
			}
		}
		if !bytes.Equal(restore(t, r, known[2]), before) {
			t.Errorf("%s as the other's: that one does not restore", name)
		}
	}
	s := chunkstore.SessionID{1}
	for what, o := range map[string]chunkstore.Outcome{ // a snapshot of what it may not have
		"body": {Body: known[0].Body}, "packs": {Packs: known[2].Body, Body: known[1].Body},
	} {
		if err := chunkstore.PutOutcome(ctx, liar, c.Info().Writer, s, o); err != nil {
			t.Fatal(err)
		}
		found := outcomes(t, reopen(t, store, chunkstore.Options{}))
		n := slices.IndexFunc(found, func(o chunkstore.Outcome) bool { return o.Session == s })
		if n < 0 || !errors.Is(found[n].Err, crypto.ErrDamaged) {
			t.Errorf("%s of others: %+v", what, found)
		}
		if err := store.Delete(ctx, "n/"+own+"/"+s.String()); err != nil {
			t.Fatal(err)
		}
	}
	if err := chunkstore.PutOutcome(ctx, liar, victim.Info().Writer, s, chunkstore.Outcome{}); !errors.Is(err, crypto.ErrPutOnly) {
		t.Errorf("an outcome of another host: %v", err)
	}
}

// Whoever has the keys collects what a put-only host's forgotten snapshots needed, and merges its index so that it still finds
// what it has.
func TestPutOnlyHostIsCollected(t *testing.T) {
	store, before := seeded(t)
	c := addHost(t, store, "db1", false)
	old, kept := noise(73, 300_000), noise(74, 300_000)
	hostBackup(t, store, c, old)
	hostBackup(t, store, c, kept)
	forget(t, store, 1)
	report := collectNow(t, store)
	if report.Deleted.Packs < 1 || report.Deleted.Bytes < 300_000 {
		t.Errorf("%+v", report)
	}
	if own := "x/" + c.Info().Writer.String() + "/"; !slices.ContainsFunc(names(t, store), func(n string) bool { return strings.HasPrefix(n, own) }) {
		t.Error("no part of the merged index is the host's")
	}
	wantSnapshots(t, store, before, kept)
	if again := hostBackup(t, store, c, kept); again.NewBytes > 1000 {
		t.Errorf("after the collection: %+v", again)
	}
	if again := hostBackup(t, store, c, old); again.NewBytes < 300_000 {
		t.Errorf("what was deleted: %+v", again)
	}
	wantSnapshots(t, store, before, kept, kept, old)
}

// Where little of a pack is needed, one of a put-only host stays: nobody else stores in its place.
func TestPutOnlyPacksAreNotRewritten(t *testing.T) {
	store, _ := seeded(t)
	c := addHost(t, store, "db1", false)
	r, err := openHost(t.Context(), store, c)
	if err != nil {
		t.Fatal(err)
	}
	large, small := noise(75, 9<<20), noise(76, 1000)
	s, err := backup(t.Context(), r, slices.Concat(large, small))
	if err != nil || s.Stats().Packs < 2 {
		t.Fatal(s.Stats(), err)
	}
	hostBackup(t, store, c, large[:4<<20])
	forget(t, store, 1)
	rotate(t, store)
	full := reopen(t, store, chunkstore.Options{})
	chunkstore.SetAges(full, 0, 0, time.Hour, 0)
	o := collectOptions(full)
	o.MaxReencrypt = -1
	report, err := full.Collect(t.Context(), o)
	if err != nil || report.Repack.Packs > 2 || len(report.Problems) > 0 { // those of the other snapshot
		t.Errorf("%+v, %v", report, err)
	}
	all := outcomes(t, full)
	if !bytes.Equal(restore(t, full, all[len(all)-1]), large[:4<<20]) {
		t.Error("it does not restore")
	}
	wantClean(t, full)
}

// A collection gives up a put-only host's session that has died; the host finds that out, and goes on after it.
func TestPutOnlyHostIsFenced(t *testing.T) {
	store, before := seeded(t)
	c := addHost(t, store, "db1", false)
	hostBackup(t, store, c, words(77, 1000))
	r, err := openHost(t.Context(), store, c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "db1"})
	if err != nil {
		t.Fatal(err)
	}
	forget(t, store, 0)
	full := reopen(t, store, chunkstore.Options{})
	chunkstore.SetAges(full, 0, 0, 0, time.Hour)
	report, err := full.Collect(t.Context(), collectOptions(full))
	if err != nil || len(report.Fenced) != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	if err := save(t.Context(), s, before); !errors.Is(err, chunkstore.ErrFenced) {
		t.Errorf("the commit: %v", err)
	}
	hostBackup(t, store, c, before)
	wantSnapshots(t, store, words(77, 1000), before)
}

// In a bucket with locks whoever has stolen a put-only host's credentials for the store and puts what he likes over its
// objects hides nothing.
func TestPutOnlyHostInALockedRepository(t *testing.T) {
	bucket := mem.NewBucket(mem.Options{})
	lock := chunkstore.Lock{Mode: chunkstore.Compliance, Days: 30}
	if _, err := chunkstore.InitWith(t.Context(), bucket, password, crypto.SlotInfo{}, cheap, chunkstore.InitOptions{Lock: &lock}); err != nil {
		t.Fatal(err)
	}
	c := addHost(t, bucket, "db1", false)
	for n := range 2 {
		r, err := chunkstore.OpenHost(t.Context(), bucket, c, chunkstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := backup(t.Context(), r, words(81, 1000+n)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names(t, bucket) {
		if strings.Contains(name, "/"+c.Info().Writer.String()+"/") {
			if err := bucket.Put(t.Context(), name, []byte("broken")); err != nil {
				t.Fatal(err)
			}
		}
	}
	wantSnapshots(t, bucket, words(81, 1000), words(81, 1001))
	r, err := chunkstore.OpenHost(t.Context(), bucket, c, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := backup(t.Context(), r, words(81, 1000)); err != nil || s.Stats().NewBytes > 500 {
		t.Errorf("the next one: %v", err)
	}
}

// Every call of a put-only host's backup fails once; and it ends after every write. What was there stays, what it says it
// has stored restores, and the next one succeeds.
func TestPutOnlyHostEveryCallFails(t *testing.T) {
	base, before := seeded(t)
	c := addHost(t, base, "db1", false)
	hostBackup(t, base, c, words(82, 1000))
	content := words(83, 3000)
	try := func(b chunkstore.Backend) bool {
		r, err := openHost(t.Context(), b, c)
		if err == nil {
			_, err = backup(t.Context(), r, content)
		}
		return err == nil
	}
	verify := func(store *mem.Store, succeeded bool) {
		t.Helper()
		all := outcomes(t, reopen(t, store, chunkstore.Options{}))
		if len(all) < 2 || len(all) > 3 || succeeded && len(all) != 3 {
			t.Fatalf("%d snapshots, success: %v", len(all), succeeded)
		}
		hostBackup(t, store, c, content)
		wantSnapshots(t, store, slices.Concat([][]byte{before, words(82, 1000)}, slices.Repeat([][]byte{content}, len(all)-1))...)
	}
	failed := 0
	for n := 1; ; n += stride() {
		store := base.Clone()
		f := &storetest.Faulty{N: n}
		succeeded := try(f.Wrap(store))
		if !f.Fired() {
			break
		}
		if !succeeded {
			failed++
		}
		verify(store, succeeded)
	}
	if failed*stride() < 5 {
		t.Errorf("only %d failed: were the faults seen?", failed)
	}
	for n := 0; ; n += stride() {
		store := base.Clone()
		crash := &storetest.Crash{After: n}
		succeeded := try(crash.Wrap(store))
		if !crash.Crashed() {
			break
		}
		verify(store, succeeded)
	}
}

// Where lists lag a put-only host, which cannot find that out, knows it from its credential, and finds what it has just stored.
func TestPutOnlyHostWhereListsLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base := mem.New(mem.Options{})
		newRepository(t, base, chunkstore.Options{})
		store := (&storetest.Lag{Delay: 50 * time.Minute}).Wrap(storetest.Unsupported(base))
		c := addHost(t, store, "web", false)
		time.Sleep(time.Hour)
		r, err := openHost(t.Context(), store, c)
		if err != nil {
			t.Fatal(err)
		}
		s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "test"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		content := noise(81, 3<<20)
		if err := save(t.Context(), s, content); err != nil {
			t.Fatal(err)
		}
		if again := hostBackup(t, store, c, content); again.NewBytes > 100_000 {
			t.Errorf("again: %+v", again)
		}
	})
}
