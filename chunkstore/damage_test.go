package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// smallRepository holds two snapshots of one writer.
func smallRepository(t *testing.T) (*mem.Store, []string) {
	t.Helper()
	b := mem.New(mem.Options{})
	opts := chunkstore.Options{StateDir: t.TempDir()}
	newRepository(t, b, opts)
	for seed := range uint64(2) {
		if _, err := backup(t.Context(), reopen(t, b, opts), words(seed, 3000)); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	if err := b.List(t.Context(), "", func(i chunkstore.Info) error {
		names = append(names, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return b, names
}

// noticed reports whether a check, or opening the repository, says that something is wrong.
func noticed(t *testing.T, b chunkstore.Backend) bool {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), b, password, chunkstore.Options{})
	if err != nil {
		return true
	}
	report, err := r.Check(t.Context(), chunkstore.CheckOptions{Walk: walk(r), Data: chunkstore.Everything})
	return err != nil || len(report.Faults) > 0
}

// Session objects carry nothing that a restore or a check needs: they are left out of what follows,
// as is the index delta of a session whose packs another one indexes too.
func relevant(names []string) []string {
	var out []string
	for _, n := range names {
		if !strings.HasPrefix(n, "s/") && !strings.HasPrefix(n, "probe/") {
			out = append(out, n)
		}
	}
	return out
}

func TestDamageIsNoticed(t *testing.T) {
	b, names := smallRepository(t)
	if noticed(t, b) {
		t.Fatal("the untouched repository is at fault")
	}
	damages := map[string]func([]byte) []byte{
		"first bit":  func(o []byte) []byte { o[0] ^= 1; return o },
		"header bit": func(o []byte) []byte { o[min(20, len(o)-1)] ^= 4; return o },
		"middle bit": func(o []byte) []byte { o[len(o)/2] ^= 16; return o },
		"last bit":   func(o []byte) []byte { o[len(o)-1] ^= 128; return o },
		"last byte":  func(o []byte) []byte { return o[:len(o)-1] },
		"half":       func(o []byte) []byte { return o[:len(o)/2] },
		"emptied":    func([]byte) []byte { return nil },
		"longer":     func(o []byte) []byte { return append(o, 0) },
	}
	for _, name := range relevant(names) {
		object, err := b.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		for what, damage := range damages {
			c := b.Clone()
			replace(t, c, name, damage(bytes.Clone(object)))
			if !noticed(t, c) {
				t.Errorf("%s: %s: not noticed", name, what)
			}
		}
		c := b.Clone()
		if err := c.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		// The newest snapshot of a writer can vanish unnoticed as long as nothing follows it.
		last := strings.HasPrefix(name, "n/") && name == names[lastWith(names, "n/")]
		if !last && !noticed(t, c) {
			t.Errorf("%s: deleted: not noticed", name)
		}
	}
}

func lastWith(names []string, prefix string) int {
	last := -1
	for i, n := range names {
		if strings.HasPrefix(n, prefix) {
			last = i
		}
	}
	return last
}

func replace(t *testing.T, b *mem.Store, name string, object []byte) {
	t.Helper()
	if err := errors.Join(b.Delete(t.Context(), name), b.Put(t.Context(), name, object)); err != nil {
		t.Fatal(err)
	}
}

func TestSwappedObjectsAreNoticed(t *testing.T) {
	b, names := smallRepository(t)
	names = relevant(names)
	for i, one := range names {
		for _, other := range names[i+1:] {
			c := b.Clone()
			x, err1 := b.Get(t.Context(), one, 0, -1)
			y, err2 := b.Get(t.Context(), other, 0, -1)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			replace(t, c, one, y)
			replace(t, c, other, x)
			if !noticed(t, c) {
				t.Errorf("%s and %s swapped: not noticed", one, other)
			}
		}
	}
}

// A fault names the snapshots that it touches, and no others.
func TestFaultNamesSnapshots(t *testing.T) {
	b, names := smallRepository(t)
	all, err := reopen(t, b, chunkstore.Options{}).Outcomes(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	touched := map[string]int{}
	for _, name := range names {
		if !strings.HasPrefix(name, "p/") {
			continue
		}
		c := b.Clone()
		object, err := b.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		object[len(object)/2] ^= 1
		replace(t, c, name, object)
		faults := check(t, reopen(t, c, chunkstore.Options{})).Faults
		if len(faults) != 1 || faults[0].Object != name || len(faults[0].Snapshots) != 1 {
			t.Errorf("%s: faults %+v", name, faults)
			continue
		}
		touched[faults[0].Snapshots[0].Session.String()]++
	}
	if len(touched) != 2 {
		t.Errorf("faults touch %v, want each snapshot once", touched)
	}
}

// A snapshot that cannot be read does not hide the others.
func TestDamagedSnapshotAmongGoodOnes(t *testing.T) {
	b, names := smallRepository(t)
	name := names[lastWith(names, "n/")]
	replace(t, b, name, []byte("garbage"))
	all, err := reopen(t, b, chunkstore.Options{}).Outcomes(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for _, o := range all {
		if (o.Name == name) != errors.Is(o.Err, crypto.ErrDamaged) {
			t.Errorf("%s: %v", o.Name, o.Err)
		}
	}
}

// meddler runs a function right before an outcome is stored.
type meddler struct {
	*mem.Store
	before func(name string)
	plain  bool // hide that conditional writes work
}

func (m *meddler) meddle(name string) {
	if strings.HasPrefix(name, "n/") && m.before != nil {
		before := m.before
		m.before = nil
		before(name)
	}
}

func (m *meddler) Put(ctx context.Context, name string, data []byte) error {
	m.meddle(name)
	return m.Store.Put(ctx, name, data)
}

func (m *meddler) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if m.plain {
		return fmt.Errorf("put %s: %w", name, chunkstore.ErrUnsupported)
	}
	m.meddle(name)
	return m.Store.PutIfAbsent(ctx, name, data)
}

func TestFencing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		plain bool
		abort string // suffix of the object that fences
	}{{"conditional writes", false, ""}, {"without conditional writes", true, "-abort"}} {
		t.Run(tc.name, func(t *testing.T) {
			m := &meddler{Store: mem.New(mem.Options{}), plain: tc.plain}
			r := newRepository(t, m, chunkstore.Options{})
			m.before = func(name string) {
				if err := m.Store.Put(t.Context(), name+tc.abort, []byte("fenced")); err != nil {
					t.Error(err)
				}
			}
			content := noise(8, 5<<20)
			if _, err := backup(t.Context(), r, content); !errors.Is(err, chunkstore.ErrFenced) {
				t.Fatalf("got %v, want ErrFenced", err)
			}
			// The next session finds what the fenced one stored.
			s, err := backup(t.Context(), reopen(t, m, chunkstore.Options{}), content)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Stats(); got.NewBytes > 1000 {
				t.Errorf("the next session stored %+v", got)
			}
		})
	}
}

// A chunk whose only pack is condemned counts as absent for a backup, and can still be read.
func TestCondemnedPacks(t *testing.T) {
	ctx := t.Context()
	b := mem.New(mem.Options{})
	r := newRepository(t, b, chunkstore.Options{})
	content := noise(9, 2<<20)
	if _, err := backup(ctx, r, content); err != nil {
		t.Fatal(err)
	}
	if err := chunkstore.Condemn(ctx, r, "g/test", "p/"); err != nil {
		t.Fatal(err)
	}
	s, err := backup(ctx, reopen(t, b, chunkstore.Options{}), content)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.NewBytes < int64(len(content)) {
		t.Errorf("condemned chunks were relied on: %+v", got)
	}
	r = reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		if !bytes.Equal(restore(t, r, o), content) {
			t.Error("content differs")
		}
	}
}

// A chunk of which one pack is on record as deleted, and the other one condemned by a collection that has not carried that out, is not
// lost: check says so, whichever of the packs the index lists first.
func TestCheckWhereOneCopyIsDeletedAndOneCondemned(t *testing.T) {
	base := mem.New(mem.Options{})
	r := newRepository(t, base, chunkstore.Options{StateDir: t.TempDir()})
	content := noise(33, 200_000)
	condemn := func(b chunkstore.Backend, of, suffix string, packs []string) {
		for i, pack := range packs {
			mark := fmt.Sprintf("g/0a0a0a0a0a0a0a0a/%s%031x%s", of, i, suffix)
			if err := chunkstore.Condemn(t.Context(), reopen(t, b, chunkstore.Options{}), mark, pack); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := backup(t.Context(), r, content); err != nil {
		t.Fatal(err)
	}
	first := slices.Concat(namesUnder(t, base, "p/"), namesUnder(t, base, "t/"))
	marked := base.Clone()
	condemn(marked, "1", "", first)
	if _, err := backup(t.Context(), reopen(t, marked, chunkstore.Options{}), content); err != nil {
		t.Fatal(err)
	}
	second := slices.DeleteFunc(slices.Concat(namesUnder(t, marked, "p/"), namesUnder(t, marked, "t/")), func(name string) bool { return slices.Contains(first, name) })
	for _, mark := range namesUnder(t, marked, "g/") {
		if err := marked.Delete(t.Context(), mark); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		store := marked.Clone()
		condemn(store, "1", "-done", first)
		for _, pack := range first {
			if err := store.Delete(t.Context(), pack); err != nil {
				t.Fatal(err)
			}
		}
		condemn(store, "2", "", second)
		wantClean(t, reopen(t, store, chunkstore.Options{}))
		first, second = second, first
	}
}

// A backup that ends while a check looks is none of its faults, between whichever of its calls to the store that is.
func TestCheckBesideBackup(t *testing.T) {
	base, before := seeded(t)
	content := noise(31, 200_000)
	for n := int64(1); ; n++ {
		store := base.Clone()
		var calls atomic.Int64
		r := reopen(t, storetest.Intercept(store, func(_ context.Context, _ storetest.Call, next func() error) error {
			if calls.Add(1) == n {
				if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), content); err != nil {
					t.Error(err)
				}
			}
			return next()
		}), chunkstore.Options{})
		report, err := r.Check(t.Context(), chunkstore.CheckOptions{Walk: walk(r)})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Faults {
			t.Errorf("a backup before call %d: fault: %s: %v", n, f.Object, f.Err)
		}
		if calls.Load() < n {
			break
		}
		if all, err := reopen(t, store, chunkstore.Options{}).Outcomes(t.Context()); err != nil || len(all) != 2 || !bytes.Equal(restore(t, reopen(t, store, chunkstore.Options{}), all[0]), before) {
			t.Fatalf("a backup before call %d: %v, %v", n, all, err)
		}
	}
}
