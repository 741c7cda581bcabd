package chunkstore_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// Of two objects of one outcome either will do, and a check tells of the bad one.
func TestResealedDamage(t *testing.T) {
	base, _ := seeded(t)
	rotate(t, base)
	after := base.Clone()
	if _, err := reencrypt(t.Context(), after, -1); err != nil {
		t.Fatal(err)
	}
	first, fresh := namesUnder(t, base, "n/")[0], ""
	for _, name := range namesUnder(t, after, "n/") {
		if strings.HasPrefix(name, first) {
			fresh = name
		}
	}
	for _, bad := range []string{first, fresh} {
		store := after.Clone()
		for _, name := range []string{first, fresh} {
			from := base
			if name == fresh {
				from = after
			}
			object := bytesOf(t, from, name)
			if name == bad {
				object[len(object)-1] ^= 1
			}
			replace(t, store, name, object)
		}
		r := reopen(t, store, chunkstore.Options{})
		if all, err := r.Outcomes(t.Context()); err != nil || len(all) != 1 || all[0].Err != nil {
			t.Errorf("%v: %+v", err, all)
		}
		if faults := check(t, r).Faults; len(faults) != 1 || faults[0].Object != bad {
			t.Errorf("%s is damaged: %+v", bad, faults)
		}
		if _, err := reencrypt(t.Context(), store, -1); err != nil {
			t.Error(err)
		}
		if all := outcomes(t, reopen(t, store, chunkstore.Options{})); len(all) != 1 || all[0].Err != nil {
			t.Errorf("%s is damaged, collected: %+v", bad, all)
		}
	}
}

// A record is what it was, and from when it was, in each epoch that comes; who lists records meanwhile misses none.
func TestReencryptRecords(t *testing.T) {
	base, _ := rotated(t)
	want := recordsOf(t, base)
	for n := range 30 {
		store, mu, calls, err := base.Clone(), sync.Mutex{}, 0, error(nil)
		r := reopen(t, storetest.Intercept(store, func(ctx context.Context, c storetest.Call, next func() error) error {
			if !strings.HasPrefix(c.Name, "r/") {
				return next()
			}
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == n {
				_, err = reencrypt(t.Context(), store, -1)
			}
			return next()
		}), chunkstore.Options{})
		if diff := cmp.Diff(want, recordsOf(t, r)); diff != "" || err != nil {
			t.Fatalf("rewritten at call %d: %v, %s", n, err, diff)
		}
		if calls < n {
			break
		}
	}
	store := base.Clone()
	for epoch := uint32(2); epoch < 4; epoch++ {
		if report, err := reencrypt(t.Context(), store, -1); err != nil || report.Resealed < len(want) {
			t.Fatalf("%v: %+v", err, report)
		}
		names := namesUnder(t, store, "r/")
		for _, name := range names {
			if crypto.ObjectEpoch(object(t, store, name)) != epoch {
				t.Errorf("%s is sealed in an old epoch", name)
			}
		}
		if diff := cmp.Diff(want, recordsOf(t, store)); diff != "" || len(names) != len(want) {
			t.Errorf("epoch %d: %v, %s", epoch, names, diff)
		}
		wantClean(t, reopen(t, store, chunkstore.Options{}))
		rotate(t, store)
	}
}

// Of two objects of a record either will do, and a check tells of the bad one. One that is not signed for its record, or whose epoch is not
// that in its name, takes the place of no other.
func TestResealedRecordDamage(t *testing.T) {
	base, _ := rotated(t)
	want := recordsOf(t, base)
	after := base.Clone()
	if _, err := reencrypt(t.Context(), after, -1); err != nil {
		t.Fatal(err)
	}
	first := want[len(want)-1].Name
	fresh, later := first+"-e00000002", first+"-e00000003"
	forge := func(signed, name string) []byte {
		object, err := chunkstore.ResealedRecord(reopen(t, after, chunkstore.Options{}), signed, name, bytesOf(t, base, first), time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		return object
	}
	for name, object := range map[string][]byte{
		first: flipped(bytesOf(t, base, first)), fresh: flipped(bytesOf(t, after, fresh)),
		later: forge(first, later), fresh + " ": forge("r/another", fresh),
	} {
		store, name := after.Clone(), strings.TrimSpace(name)
		replace(t, store, first, bytesOf(t, base, first))
		replace(t, store, name, object)
		for round := range 2 {
			bad := name != first || round == 0 // one beside a good newer one is deleted
			if diff := cmp.Diff(want, recordsOf(t, store), cmpopts.IgnoreFields(chunkstore.Record{}, "Modified")); diff != "" || recordsOf(t, store)[0].Modified.Unix() == 0 {
				t.Errorf("%s: %s", name, diff)
			}
			if faults := check(t, reopen(t, store, chunkstore.Options{})).Faults; bad != (len(faults) > 0) || bad && (len(faults) > 1 || faults[0].Object != name) {
				t.Errorf("%s, round %d: faults %+v", name, round, faults)
			}
			if _, err := reencrypt(t.Context(), store, -1); err != nil {
				t.Error(err)
			}
		}
	}
}

func flipped(object []byte) []byte {
	object[len(object)-1] ^= 1
	return object
}

// recordsOf returns all records, without the objects that they lie in.
func recordsOf(t *testing.T, from any) []chunkstore.Record {
	t.Helper()
	r, ok := from.(*chunkstore.Repository)
	if !ok {
		r = reopen(t, from.(chunkstore.Backend), chunkstore.Options{})
	}
	all := records(t, r)
	for i := range all {
		if all[i].Err != nil {
			t.Fatal(all[i].Err)
		}
		all[i].Objects = nil
	}
	return all
}

// hostsOf returns what is on record of put-only hosts.
func hostsOf(t *testing.T, store chunkstore.Backend) []chunkstore.Host {
	t.Helper()
	hosts, bad, err := reopen(t, store, chunkstore.Options{}).Hosts(t.Context())
	if err != nil || len(bad) > 0 {
		t.Fatal(err, bad)
	}
	return hosts
}
