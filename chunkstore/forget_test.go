package chunkstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// threeSnapshots returns a store with three snapshots of one writer, as they are listed.
func threeSnapshots(t *testing.T) (*mem.Store, []chunkstore.Outcome) {
	t.Helper()
	b := mem.New(mem.Options{})
	opts := chunkstore.Options{StateDir: t.TempDir()}
	newRepository(t, b, opts)
	for seed := range uint64(3) {
		if _, err := backup(t.Context(), reopen(t, b, opts), words(seed, 3000)); err != nil {
			t.Fatal(err)
		}
	}
	all := outcomes(t, reopen(t, b, chunkstore.Options{}))
	if len(all) != 3 {
		t.Fatalf("%d snapshots", len(all))
	}
	return b, all
}

func outcomes(t *testing.T, r *chunkstore.Repository) []chunkstore.Outcome {
	t.Helper()
	all, err := r.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// wantListed fails unless the repository, as a fresh process sees it, lists these snapshots.
func wantListed(t *testing.T, b chunkstore.Backend, want ...chunkstore.Outcome) {
	t.Helper()
	if diff := cmp.Diff(namesOf(want), namesOf(outcomes(t, reopen(t, b, chunkstore.Options{})))); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

func namesOf(list []chunkstore.Outcome) []string {
	var names []string
	for _, o := range list {
		names = append(names, o.Name)
	}
	slices.Sort(names)
	return names
}

// namesUnder returns the names of the objects under prefix.
func namesUnder(t *testing.T, b chunkstore.Backend, prefix string) []string {
	t.Helper()
	var list []string
	if err := b.List(t.Context(), prefix, func(i chunkstore.Info) error {
		list = append(list, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func forgetThese(t *testing.T, b chunkstore.Backend, list ...chunkstore.Outcome) {
	t.Helper()
	if err := reopen(t, b, chunkstore.Options{}).Forget(t.Context(), "test", list); err != nil {
		t.Fatal(err)
	}
}

func TestForget(t *testing.T) {
	b, all := threeSnapshots(t)
	before := namesUnder(t, b, "")
	forgetThese(t, b) // nothing
	if diff := cmp.Diff(before, namesUnder(t, b, "")); diff != "" {
		t.Errorf("to forget nothing wrote (-before +after):\n%s", diff)
	}
	forgetThese(t, b, all[0], all[1])
	wantListed(t, b, all[2])
	for _, name := range before {
		if _, err := b.Stat(t.Context(), name); err != nil {
			t.Errorf("an object is gone, which is for a collection to remove: %v", err)
		}
	}
	r := reopen(t, b, chunkstore.Options{})
	wantClean(t, r)
	if got := check(t, r).Snapshots; got != 1 {
		t.Errorf("check counts %d snapshots", got)
	}
	if !bytes.Equal(restore(t, r, all[2]), words(2, 3000)) {
		t.Error("the snapshot that stays reads otherwise than before")
	}
	forgetThese(t, b, all[0], all[2]) // one of them again
	wantListed(t, b)
	wantClean(t, reopen(t, b, chunkstore.Options{}))
}

// What was forgotten stays so for hosts that knew the snapshot before, by way of their cache.
func TestForgetWithCache(t *testing.T) {
	b, all := threeSnapshots(t)
	opts := chunkstore.Options{CacheDir: t.TempDir()}
	outcomes(t, reopen(t, b, opts))
	forgetThese(t, b, all[1])
	for range 2 { // the record from the store, and from the cache
		if diff := cmp.Diff(namesOf([]chunkstore.Outcome{all[0], all[2]}), namesOf(outcomes(t, reopen(t, b, opts)))); diff != "" {
			t.Errorf("listed (-want +got):\n%s", diff)
		}
	}
}

// A backup goes on after its predecessor was forgotten, and a collection took that away.
func TestBackupAfterForgotten(t *testing.T) {
	b := mem.New(mem.Options{})
	opts := chunkstore.Options{StateDir: t.TempDir()}
	newRepository(t, b, opts)
	for seed := range uint64(3) {
		if _, err := backup(t.Context(), reopen(t, b, opts), words(seed, 3000)); err != nil {
			t.Fatal(err)
		}
		list := outcomes(t, reopen(t, b, opts))
		if seed == 2 {
			wantListed(t, b, list[0])
			break
		}
		forgetThese(t, b, list...)
	}
	wantClean(t, reopen(t, b, opts))
	oldest := namesUnder(t, b, "n/")[0]
	if err := b.Delete(t.Context(), oldest); err != nil {
		t.Fatal(err)
	}
	wantClean(t, reopen(t, b, opts))
	// But without the record, somebody took away what was wanted.
	for _, name := range namesUnder(t, b, "f/") {
		if err := b.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if faults := check(t, reopen(t, b, opts)).Faults; len(faults) != 1 || faults[0].Object != oldest {
		t.Errorf("faults: %+v", faults)
	}
}

// A record that says what it was not meant to say is none: its snapshots stay, a check tells, and nobody
// forgets more before that is settled.
func TestForgedForgetRecords(t *testing.T) {
	const name = "f/00112233445566ff/00112233445566778899aabbccddeeff"
	whole, all := threeSnapshots(t)
	text := fmt.Sprintf(`{"version":1,"host":"test","time":"2026-11-20T02:00:00Z","snapshots":[%q]}`, all[0].Name)
	valid := whole.Clone()
	if err := chunkstore.PutTagged(t.Context(), reopen(t, valid, chunkstore.Options{}), name, text); err != nil {
		t.Fatal(err)
	}
	wantListed(t, valid, all[1], all[2]) // such a record would count
	record, err := valid.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	foreign := foreignRecord(t)
	put := func(to string, object []byte) func(*testing.T, *mem.Store) error {
		return func(t *testing.T, b *mem.Store) error { return b.Put(t.Context(), to, object) }
	}
	tagged := func(text string) func(*testing.T, *mem.Store) error {
		return func(t *testing.T, b *mem.Store) error {
			return chunkstore.PutTagged(t.Context(), reopen(t, b, chunkstore.Options{}), name, text)
		}
	}
	flipped := func(at int) []byte {
		object := bytes.Clone(record)
		object[at] ^= 1
		return object
	}
	for what, tt := range map[string]struct {
		forge func(*testing.T, *mem.Store) error
		want  error
	}{
		"a bit of the header":    {put(name, flipped(20)), crypto.ErrDamaged},
		"a bit of the text":      {put(name, flipped(len(record)-40)), crypto.ErrDamaged},
		"cut":                    {put(name, record[:len(record)-1]), crypto.ErrDamaged},
		"empty":                  {put(name, nil), crypto.ErrDamaged},
		"under another name":     {put(strings.Replace(name, "ff", "ee", 1), record), crypto.ErrDamaged},
		"of another repository":  {put(name, foreign), crypto.ErrDamaged},
		"an outcome":             {put(name, object(t, whole, all[1].Name)), crypto.ErrDamaged},
		"without the right tag":  {untagged(name, make([]byte, 32), text), crypto.ErrDamaged},
		"shorter than a tag":     {untagged(name, nil, text[:20]), crypto.ErrDamaged},
		"no JSON":                {tagged("forget all"), crypto.ErrDamaged},
		"other JSON":             {tagged(`{"version":1,"snapshots":"all"}`), crypto.ErrDamaged},
		"of a later version":     {tagged(strings.Replace(text, "1", "2", 1)), crypto.ErrNewer},
		"of a version not named": {tagged(`{}`), crypto.ErrNewer},
	} {
		t.Run(what, func(t *testing.T) {
			b := whole.Clone()
			if err := tt.forge(t, b); err != nil {
				t.Fatal(err)
			}
			forged := namesUnder(t, b, "f/")[0]
			wantListed(t, b, all...)
			faults := check(t, reopen(t, b, chunkstore.Options{})).Faults
			if len(faults) != 1 || faults[0].Object != forged || !errors.Is(faults[0].Err, tt.want) {
				t.Errorf("faults: %+v, want one of %s: %v", faults, forged, tt.want)
			}
			err := reopen(t, b, chunkstore.Options{}).Forget(t.Context(), "test", all[:1])
			if !errors.Is(err, chunkstore.ErrForgetRecord) || !strings.Contains(err.Error(), forged) {
				t.Errorf("forget beside it: %v", err)
			}
			wantListed(t, b, all...)
		})
	}
}

func untagged(name string, tag []byte, text string) func(*testing.T, *mem.Store) error {
	return func(t *testing.T, b *mem.Store) error {
		return chunkstore.PutForget(t.Context(), reopen(t, b, chunkstore.Options{}), name, append(bytes.Clone(tag), text...))
	}
}

// foreignRecord returns a forget record of another repository, sealed by its keys.
func foreignRecord(t *testing.T) []byte {
	t.Helper()
	b, all := threeSnapshots(t)
	forgetThese(t, b, all[0])
	return object(t, b, namesUnder(t, b, "f/")[0])
}

func object(t *testing.T, b chunkstore.Backend, name string) []byte {
	t.Helper()
	o, err := b.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// Hosts forget without knowing of each other: each keeps what the other one wrote.
func TestForgetAtTheSameTime(t *testing.T) {
	b, all := threeSnapshots(t)
	state := t.TempDir()
	var g errgroup.Group
	for n := range 8 {
		r := reopen(t, b, chunkstore.Options{StateDir: state})
		g.Go(func() error { return r.Forget(t.Context(), fmt.Sprint("host ", n), all[n%2:2]) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := len(namesUnder(t, b, "f/")); got != 8 {
		t.Errorf("%d records", got)
	}
	wantListed(t, b, all[2])
	wantClean(t, reopen(t, b, chunkstore.Options{}))
}

// afterForget verifies what must hold after a forget of the first two of three snapshots ended somehow: both are
// forgotten or none is, and both are if it said so; the third is there; the next forget forgets them.
func afterForget(t *testing.T, b chunkstore.Backend, all []chunkstore.Outcome, succeeded bool) {
	t.Helper()
	r := reopen(t, b, chunkstore.Options{})
	wantClean(t, r)
	if got := len(outcomes(t, r)); got != 1 && (got != 3 || succeeded) {
		t.Fatalf("%d snapshots are listed, forget's success: %v", got, succeeded)
	}
	forgetThese(t, b, all[:2]...)
	wantListed(t, b, all[2])
	wantClean(t, reopen(t, b, chunkstore.Options{}))
}

func tryForget(t *testing.T, b chunkstore.Backend, list []chunkstore.Outcome) error {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), b, password, chunkstore.Options{})
	if err == nil {
		err = r.Forget(t.Context(), "test", list)
	}
	return err
}

func TestForgetEveryCallFails(t *testing.T) {
	base, all := threeSnapshots(t)
	for name, kind := range kinds() {
		failures := 0
		for n := 1; ; n++ {
			store := base.Clone()
			f := &storetest.Faulty{N: (n + 1) / 2, After: n%2 == 0}
			err := tryForget(t, f.Wrap(kind(store)), all[:2])
			if !f.Fired() {
				break
			}
			if err != nil {
				failures++
			}
			if afterForget(t, store, all, err == nil); t.Failed() {
				t.Fatalf("%s: call %d failed, after its effect: %v: %v", name, f.N, f.After, err)
			}
		}
		if failures < 2 {
			t.Errorf("%s: only %d failed: were the faults seen?", name, failures)
		}
	}
}

func TestForgetCrashes(t *testing.T) {
	base, all := threeSnapshots(t)
	for name, kind := range kinds() {
		writes := 0
		for _, apply := range []bool{false, true} {
			for n := 0; ; n++ {
				store := base.Clone()
				c := &storetest.Crash{After: n, Apply: apply}
				err := tryForget(t, c.Wrap(kind(store)), all[:2])
				if !c.Crashed() {
					break
				}
				writes++
				if afterForget(t, store, all, err == nil); t.Failed() {
					t.Fatalf("%s: crash after write %d, which took effect: %v: %v", name, n, apply, err)
				}
			}
		}
		if writes < 2 {
			t.Errorf("%s: only %d writes", name, writes)
		}
	}
}
