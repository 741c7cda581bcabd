package chunkstore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
)

// After a rotation a put-only host is told that it needs another credential, and goes on with that where it was.
func TestPutOnlyHostAfterRotation(t *testing.T) {
	store, before := seeded(t)
	c := addHost(t, store, "db1", false)
	hostBackup(t, store, c, before)
	rotate(t, store)
	if _, err := openHost(t.Context(), store, c); !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("the old credential: %v", err)
	}
	renewed := addHost(t, store, "db1", true)
	if again := hostBackup(t, store, renewed, before); again.NewBytes > 1000 {
		t.Errorf("%+v", again)
	}
	wantSnapshots(t, store, before, before, before)
	rotate(t, store) // the slot that told of the first rotation is gone
	for _, c := range []*crypto.Credential{c, renewed} {
		if _, err := openHost(t.Context(), store, c); !errors.Is(err, crypto.ErrRotated) {
			t.Errorf("after two rotations: %v", err)
		}
	}
	r := reopen(t, store, chunkstore.Options{})
	if _, _, err := r.AddHost(t.Context(), "db1", nil, false); !errors.Is(err, chunkstore.ErrHostExists) {
		t.Errorf("twice: %v", err)
	}
	if _, _, err := r.AddHost(t.Context(), "db3", nil, true); !errors.Is(err, chunkstore.ErrNoHost) {
		t.Errorf("another credential of none: %v", err)
	}
}

// What a removed host has stored stays; what it stores from then on counts for nothing, and check tells.
func TestRemovedHost(t *testing.T) {
	clock := time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC)
	store := mem.New(mem.Options{Now: func() time.Time { clock = clock.Add(time.Second); return clock }})
	newRepository(t, store, chunkstore.Options{})
	c := addHost(t, store, "db1", false)
	hostBackup(t, store, c, words(78, 1000))
	late, err := openHost(t.Context(), store, c)
	if err != nil {
		t.Fatal(err)
	}
	between := clock
	hostBackup(t, store, c, words(79, 1000))
	for _, since := range []time.Time{{}, between} {
		store := store.Clone()
		r := reopen(t, store, chunkstore.Options{})
		if _, err := r.RemoveHost(t.Context(), "db2", since); !errors.Is(err, chunkstore.ErrNoHost) {
			t.Errorf("another: %v", err)
		}
		before := names(t, store)
		if h, lost, err := r.RemovalOf(t.Context(), "db1", since); err != nil || h.Name != "db1" || (len(lost) == 1) == since.IsZero() || !slices.Equal(before, names(t, store)) {
			t.Errorf("what would be removed since %v: %+v, %+v, %v", since, h, lost, err)
		}
		if _, err := r.RemoveHost(t.Context(), "db1", since); err != nil {
			t.Fatal(err)
		}
		hosts, bad, err := r.Hosts(t.Context())
		if err != nil || len(bad) > 0 || len(hosts) != 1 || hosts[0].Removed.IsZero() || !since.IsZero() && !hosts[0].Removed.Equal(since) {
			t.Errorf("%+v, %v, %v", hosts, bad, err)
		}
		if _, err := openHost(t.Context(), store, c); !errors.Is(err, chunkstore.ErrHostRemoved) {
			t.Errorf("the credential: %v", err)
		}
		want := [][]byte{words(78, 1000), words(79, 1000)}
		if !since.IsZero() {
			want = want[:1]
		} else {
			wantSnapshots(t, store, want...)
		}
		got := outcomes(t, reopen(t, store, chunkstore.Options{}))
		if len(got) != len(want) {
			t.Errorf("since %v: %d snapshots, want %d", since, len(got), len(want))
		}
		if faults := check(t, reopen(t, store, chunkstore.Options{})).Faults; len(faults) != 2-len(want) {
			t.Errorf("since %v: %+v", since, faults)
		}
	}
	if _, err := reopen(t, store, chunkstore.Options{}).RemoveHost(t.Context(), c.Info().Writer.String(), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := backup(t.Context(), late, words(80, 1000)); err != nil { // it was open before: nothing hinders it
		t.Fatal(err)
	}
	if got := outcomes(t, reopen(t, store, chunkstore.Options{})); len(got) != 2 {
		t.Errorf("%d snapshots, want those of before", len(got))
	}
	if faults := check(t, reopen(t, store, chunkstore.Options{})).Faults; len(faults) != 1 || !strings.Contains(faults[0].Err.Error(), "removed") {
		t.Errorf("%+v", faults)
	}
	collectNow(t, store)
	again := addHost(t, store, "db1", false)
	hostBackup(t, store, again, words(80, 1000))
}

// What is on record of hosts is the same after it was sealed anew, also from when on they were removed; and a host is told that it was.
func TestHostsSealedAnew(t *testing.T) {
	clock := time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC)
	store := mem.New(mem.Options{Now: func() time.Time { clock = clock.Add(time.Second); return clock }})
	newRepository(t, store, chunkstore.Options{})
	c, stays := addHost(t, store, "db1", false), addHost(t, store, "db2", false)
	hostBackup(t, store, c, words(78, 1000))
	late, err := openHost(t.Context(), store, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reopen(t, store, chunkstore.Options{}).RemoveHost(t.Context(), "db1", time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := backup(t.Context(), late, words(79, 1000)); err != nil {
		t.Fatal(err)
	}
	want, first := hostsOf(t, store), store.Clone()
	for epoch := range 2 {
		rotate(t, store)
		if report, err := reencrypt(t.Context(), store, -1); err != nil || report.Resealed < 3 {
			t.Fatalf("%v: %+v", err, report)
		}
		if diff := cmp.Diff(want, hostsOf(t, store)); diff != "" {
			t.Errorf("epoch %d: %s", epoch+2, diff)
		}
		for _, name := range namesUnder(t, store, "h/") {
			if crypto.ObjectEpoch(object(t, store, name)) != uint32(epoch+2) {
				t.Errorf("%s is sealed in an old epoch", name)
			}
		}
		if got := outcomes(t, reopen(t, store, chunkstore.Options{})); len(got) != 1 {
			t.Errorf("%d snapshots, want that of before", len(got))
		}
		if _, err := openHost(t.Context(), store, c); !errors.Is(err, chunkstore.ErrHostRemoved) {
			t.Errorf("the removed host: %v", err)
		}
		if _, err := openHost(t.Context(), store, stays); !errors.Is(err, crypto.ErrRotated) {
			t.Errorf("the other one: %v", err)
		}
	}
	// Of two objects either will do, and a check tells of the bad one.
	removed := "h/" + c.Info().Writer.String() + "-removed"
	replace(t, store, removed+"-e00000003", flipped(bytesOf(t, store, removed+"-e00000003")))
	if _, bad, err := reopen(t, store, chunkstore.Options{}).Hosts(t.Context()); err != nil || len(bad) != 1 {
		t.Fatal(err, bad)
	}
	if err := store.Put(t.Context(), removed, bytesOf(t, first, removed)); err != nil {
		t.Fatal(err)
	}
	if hosts, bad, err := reopen(t, store, chunkstore.Options{}).Hosts(t.Context()); err != nil || len(bad) != 1 || hosts[0].Removed.IsZero() == hosts[1].Removed.IsZero() {
		t.Error(hosts, bad, err)
	}
	if faults := check(t, reopen(t, store, chunkstore.Options{})).Faults; !slices.ContainsFunc(faults, func(f chunkstore.Fault) bool { return f.Object == removed+"-e00000003" }) {
		t.Errorf("%+v", faults)
	}
}
