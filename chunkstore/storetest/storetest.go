// Package storetest is the contract of chunkstore.Backend as a test suite, and the backends that
// break it on purpose.
//
// Run holds a backend, or a decorator around one, to everything that the documentation of Backend
// and Creator says. A server that is known to keep less is run with its Weaknesses named: then the
// suite checks that it is no worse than that.
//
// Faulty, Crash, Lag and Counter wrap a backend and are told what to inject, or asked what
// happened. NoCreate, Unsupported, IgnoresCondition and RacyCreate are stores as they exist in the
// wild whose conditional writes cannot be used.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// A Weakness is a part of the contract that a certain server does not keep.
type Weakness int

const (
	// NotAtomic: of several PutIfAbsent at once for one name more than one may succeed.
	NotAtomic Weakness = iota
	// LateListing: listings may lag behind writes and deletes by some seconds.
	LateListing
	// Busy: a Put beside a Delete of a neighbour may fail, and succeeds when it is repeated.
	Busy
)

// Run holds the backends that open returns to the contract. Every call of open must give an empty
// one, which may lie in the same store under another prefix.
func Run(t *testing.T, open func(*testing.T) chunkstore.Backend, weak ...Weakness) {
	s := suite{open: open, weak: make(map[Weakness]bool)}
	for _, w := range weak {
		s.weak[w] = true
	}
	t.Run("PutGet", s.putGet)
	t.Run("Own", s.own)
	t.Run("Range", s.ranges)
	t.Run("NotExist", s.notExist)
	t.Run("Names", s.names)
	t.Run("Size", s.size)
	t.Run("Stat", s.stat)
	t.Run("Replace", s.replace)
	t.Run("Delete", s.delete)
	t.Run("List", s.list)
	t.Run("ListMany", s.listMany)
	t.Run("ListStops", s.listStops)
	t.Run("ListReenters", s.listReenters)
	t.Run("Context", s.context)
	t.Run("Location", s.location)
	t.Run("Concurrent", s.concurrent)
	t.Run("NoMixture", s.noMixture)
	t.Run("Create", s.create)
	t.Run("CreateOnce", s.createOnce)
}

type suite struct {
	open func(*testing.T) chunkstore.Backend
	weak map[Weakness]bool
}

func (s suite) putGet(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	sizes := []int{0, 1, 100, 64 << 10, 1<<20 + 1, 5<<20 + 1}
	if !testing.Short() {
		sizes = append(sizes, 16<<20+1, 33<<20+7) // beyond the parts that S3 clients like to cut
	}
	for _, size := range sizes {
		name, data := fmt.Sprintf("p/size-%d", size), Random(size)
		put(t, b, name, data)
		got, err := b.Get(ctx, name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, data) {
			t.Errorf("%s: not the bytes that were put (%d of %d)", name, len(got), len(data))
		}
	}
}

// own: no slice is shared between the store and its users.
func (s suite) own(t *testing.T) {
	b := s.open(t)
	data := []byte("original")
	put(t, b, "own", data)
	data[0] = 'X'
	got := get(t, b, "own")
	if string(got) != "original" {
		t.Errorf("after the caller changed its slice the store has %q", got)
	}
	got[0] = 'Y'
	if again := get(t, b, "own"); string(again) != "original" {
		t.Errorf("after the reader changed its slice the store has %q", again)
	}
}

func (s suite) ranges(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	put(t, b, "digits", []byte("0123456789"))
	put(t, b, "empty", nil)
	for _, tc := range []struct {
		name   string
		off, n int64
		want   string
		bad    bool
	}{
		{"digits", 0, -1, "0123456789", false},
		{"digits", 0, 10, "0123456789", false},
		{"digits", 0, 1, "0", false},
		{"digits", 3, 4, "3456", false},
		{"digits", 9, 1, "9", false},
		{"digits", 9, -1, "9", false},
		{"digits", 4, -7, "456789", false},
		{"digits", 10, -1, "", false},
		{"digits", 10, 0, "", false},
		{"digits", 5, 0, "", false},
		{"digits", 0, 0, "", false},
		{"empty", 0, -1, "", false},
		{"empty", 0, 0, "", false},
		{"digits", 0, 11, "", true},
		{"digits", 9, 2, "", true},
		{"digits", 10, 1, "", true},
		{"digits", 11, -1, "", true},
		{"digits", 11, 0, "", true},
		{"digits", 1000, 5, "", true},
		{"digits", -1, 2, "", true},
		{"digits", -1, -1, "", true},
		{"digits", 1, 1<<63 - 1, "", true},
		{"empty", 0, 1, "", true},
		{"empty", 1, -1, "", true},
	} {
		got, err := b.Get(ctx, tc.name, tc.off, tc.n)
		if tc.bad != (err != nil) || string(got) != tc.want {
			t.Errorf("Get(%s, %d, %d) = %q, %v; want %q, error %v", tc.name, tc.off, tc.n, got, err, tc.want, tc.bad)
		}
		if errors.Is(err, chunkstore.ErrNotExist) {
			t.Errorf("Get(%s, %d, %d): %v; but the object exists", tc.name, tc.off, tc.n, err)
		}
	}
}

func (s suite) notExist(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	put(t, b, "p/aa/there", []byte("x"))
	for _, name := range []string{"missing", "p/aa/ther", "p/aa/there2", "p/aa", "p", "q/aa/there"} {
		for _, n := range []int64{-1, 0, 1} {
			if got, err := b.Get(ctx, name, 0, n); !errors.Is(err, chunkstore.ErrNotExist) {
				t.Errorf("Get(%s, 0, %d) = %q, %v; want ErrNotExist", name, n, got, err)
			}
		}
		if _, err := b.Get(ctx, name, 7, -1); !errors.Is(err, chunkstore.ErrNotExist) {
			t.Errorf("Get(%s, 7, -1): %v; want ErrNotExist", name, err)
		}
		if info, err := b.Stat(ctx, name); !errors.Is(err, chunkstore.ErrNotExist) {
			t.Errorf("Stat(%s) = %v, %v; want ErrNotExist", name, info, err)
		}
		if err := b.Delete(ctx, name); err != nil {
			t.Errorf("Delete(%s): %v; want nil", name, err)
		}
	}
	if _, err := b.Stat(ctx, "p/aa/there"); err != nil {
		t.Errorf("after deletes of other names: %v", err)
	}
}

func (s suite) stat(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	put(t, b, "p/first", Random(12345))
	put(t, b, "empty", nil)
	info, err := b.Stat(ctx, "p/first")
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != "p/first" || info.Size != 12345 {
		t.Errorf("Stat = %+v; want p/first of 12345 bytes", info)
	}
	// The store's clock need not be this host's, but it is near it in every test.
	if d := time.Since(info.Modified).Abs(); d > time.Hour {
		t.Errorf("modified %v, which is %v from now", info.Modified, d)
	}
	if info, err := b.Stat(ctx, "empty"); err != nil || info.Size != 0 {
		t.Errorf("Stat(empty) = %+v, %v", info, err)
	}
	s.eventually(t, func() string {
		listed := list(t, b, "p/")
		if len(listed) != 1 || listed[0].Name != info.Name || listed[0].Size != info.Size {
			return fmt.Sprintf("List gives %v, Stat gives %v", listed, info)
		}
		// HTTP dates have whole seconds where listings have more.
		if d := listed[0].Modified.Sub(info.Modified).Abs(); d >= 2*time.Second {
			return fmt.Sprintf("List and Stat differ by %v about the time", d)
		}
		return ""
	})
}

// replace: a second Put of a name succeeds and leaves one of the two contents whole.
func (s suite) replace(t *testing.T) {
	b := s.open(t)
	first, second := Random(70000), Random(50000)
	put(t, b, "same", first)
	put(t, b, "same", first)
	if !bytes.Equal(get(t, b, "same"), first) {
		t.Error("the same bytes again changed the object")
	}
	put(t, b, "same", second)
	if got := get(t, b, "same"); !bytes.Equal(got, first) && !bytes.Equal(got, second) {
		t.Errorf("after a second Put the object is neither content (%d bytes)", len(got))
	}
}

func (s suite) delete(t *testing.T) {
	b, ctx := s.open(t), t.Context()
	put(t, b, "p/a", []byte("a"))
	put(t, b, "p/ab", []byte("ab"))
	for range 2 {
		if err := b.Delete(ctx, "p/a"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Get(ctx, "p/a", 0, -1); !errors.Is(err, chunkstore.ErrNotExist) {
			t.Errorf("Get after Delete: %v; want ErrNotExist", err)
		}
	}
	s.wantNames(t, b, "", []string{"p/ab"})
	put(t, b, "p/a", []byte("new"))
	if got := get(t, b, "p/a"); string(got) != "new" {
		t.Errorf("a name that was deleted and put again holds %q", got)
	}
}

func (s suite) location(t *testing.T) {
	b := s.open(t)
	first := b.Location()
	if again := b.Location(); first == "" || again != first {
		t.Errorf("Location() = %q, then %q", first, again)
	}
}

// eventually fails with what check says, which is given time if the listings are known to lag.
func (s suite) eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.Now()
	if s.weak[LateListing] {
		deadline = deadline.Add(30 * time.Second)
	}
	for {
		problem := check()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Error(problem)
			return
		}
		time.Sleep(250 * time.Millisecond)
	}
}

func (s suite) wantNames(t *testing.T, b chunkstore.Backend, prefix string, want []string) {
	t.Helper()
	s.eventually(t, func() string {
		var got []string
		for _, info := range list(t, b, prefix) {
			got = append(got, info.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Sprintf("List(%q) (-want +got):\n%s", prefix, diff)
		}
		return ""
	})
}

func put(t *testing.T, b chunkstore.Backend, name string, data []byte) {
	t.Helper()
	if err := b.Put(t.Context(), name, data); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, b chunkstore.Backend, name string) []byte {
	t.Helper()
	data, err := b.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func list(t *testing.T, b chunkstore.Backend, prefix string) []chunkstore.Info {
	t.Helper()
	var infos []chunkstore.Info
	err := b.List(t.Context(), prefix, func(info chunkstore.Info) error {
		infos = append(infos, info)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return infos
}

// Random returns n fresh random bytes.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// canceled returns a context that has ended.
func canceled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
