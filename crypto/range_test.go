package crypto_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

// edges are offsets around each boundary of packages, up to n.
func edges(n int) []int64 {
	var e []int64
	for b := 0; b <= n+pkg; b += pkg {
		for _, d := range []int{-1, 0, 1} {
			if b+d >= 0 && b+d <= n {
				e = append(e, int64(b+d))
			}
		}
	}
	e = append(e, int64(n-1), int64(n))
	slices.Sort(e)
	return slices.Compact(e)
}

func TestRangesAtEveryBoundary(t *testing.T) {
	k := newKeys(t)
	for _, size := range sizes {
		plain := pattern(size)
		object := seal(t, k, plain)
		for _, off := range edges(size) {
			for _, end := range edges(size) {
				if end > off {
					openRange(t, k, plain, object, off, end-off)
				}
			}
		}
	}
}

func openRange(t *testing.T, k *crypto.Keys, plain, object []byte, off, n int64) {
	t.Helper()
	start, length := crypto.StoredRange(int64(len(plain)), off, n)
	packages := (off+n+pkg-1)/pkg - off/pkg
	if start < crypto.HeaderSize || start+length > int64(len(object)) || length > packages*(pkg+32) {
		t.Fatalf("StoredRange(%d, %d, %d) = %d, %d", len(plain), off, n, start, length)
	}
	stored := slices.Clone(object[start : start+length])
	got, err := k.OpenRange(crypto.TypeDataPack, "name", object[:crypto.HeaderSize], int64(len(plain)), off, n, stored)
	if err != nil || !bytes.Equal(got, plain[off:off+n]) {
		t.Fatalf("plain[%d:%d] of %d does not come back: %v", off, off+n, len(plain), err)
	}
	if cap(got) != len(got) {
		t.Fatalf("plain[%d:%d]: appending would write to %d more bytes", off, off+n, cap(got)-len(got))
	}
}

func TestRangesThatAreNone(t *testing.T) {
	k := newKeys(t)
	const size = pkg + 10
	object := seal(t, k, pattern(size))
	const maxInt = 1<<63 - 1
	for _, r := range []struct{ plainSize, off, n int64 }{
		{size, 0, 0},
		{size, -1, 1},
		{size, 0, -1},
		{size, size, 1},
		{size, size - 1, 2},
		{size, maxInt, 1},
		{size, 1, maxInt},
		{size, maxInt, maxInt},
		{0, 0, 1},
		{-1, 0, 1},
		{-maxInt - 1, 0, 1},
		{-maxInt - 1, 0, maxInt},
		{maxInt, 0, maxInt},
		{maxInt, 0, 1},
	} {
		if off, n := crypto.StoredRange(r.plainSize, r.off, r.n); off != 0 || n != 0 {
			t.Errorf("StoredRange(%d) = %d, %d", r, off, n)
		}
		for _, stored := range [][]byte{nil, object[crypto.HeaderSize:]} {
			got, err := k.OpenRange(crypto.TypeDataPack, "name", object[:crypto.HeaderSize], r.plainSize, r.off, r.n, stored)
			if err == nil {
				t.Errorf("OpenRange(%d) gave %d bytes", r, len(got))
			}
		}
	}
}

func TestRangesAltered(t *testing.T) {
	k := newKeys(t)
	const size = 3*pkg + 100
	object := seal(t, k, pattern(size))
	header := object[:crypto.HeaderSize]
	stored := func(off, n int64) []byte {
		start, length := crypto.StoredRange(size, off, n)
		return slices.Clone(object[start : start+length])
	}
	flipped := func(b []byte, i int) []byte {
		b = slices.Clone(b)
		b[i] ^= 1
		return b
	}
	middle, end := stored(pkg, pkg), stored(3*pkg, 100)
	other := seal(t, k, pattern(size))
	for _, tc := range []struct {
		what      string
		header    []byte
		plainSize int64
		off, n    int64
		stored    []byte
	}{
		{"bit of the package's header", header, size, pkg, pkg, flipped(middle, 3)},
		{"bit of the payload", header, size, pkg, pkg, flipped(middle, 100)},
		{"bit of the tag", header, size, pkg, pkg, flipped(middle, len(middle)-1)},
		{"bit of the object's header", flipped(header, 20), size, pkg, pkg, middle},
		{"header too short", header[:63], size, pkg, pkg, middle},
		{"header of another object", other[:crypto.HeaderSize], size, pkg, pkg, middle},
		{"another package", header, size, 2 * pkg, pkg, middle},
		{"final flag set", header, size, pkg, pkg, func() []byte { b := slices.Clone(middle); b[4] |= 0x80; return b }()},
		{"final flag cleared", header, size, 3 * pkg, 100, func() []byte { b := slices.Clone(end); b[4] &= 0x7f; return b }()},
		{"a byte missing", header, size, pkg, pkg, middle[:len(middle)-1]},
		{"a byte more", header, size, pkg, pkg, append(slices.Clone(middle), 0)},
		{"nothing", header, size, pkg, pkg, nil},
		{"end of an object that was cut", header, 2 * pkg, pkg, pkg, middle},
		{"end of an object said to be longer", header, 4 * pkg, 2 * pkg, 2 * pkg, append(stored(2*pkg, 1), make([]byte, pkg+32)...)},
		{"end of another size", header, size - 1, 3 * pkg, 99, end[:len(end)-1]},
		{"packages swapped", header, size, 0, 2 * pkg, slices.Concat(middle, stored(0, 1))},
	} {
		plain, err := k.OpenRange(crypto.TypeDataPack, "name", tc.header, tc.plainSize, tc.off, tc.n, tc.stored)
		if plain != nil || !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%s: %d bytes, error %v", tc.what, len(plain), err)
		}
	}
	if _, err := k.OpenRange(crypto.TypeMetaPack, "name", header, size, pkg, pkg, middle); !errors.Is(err, crypto.ErrDamaged) {
		t.Errorf("another type: error %v", err)
	}
	if _, err := k.OpenRange(crypto.TypeDataPack, "other", header, size, pkg, pkg, middle); !errors.Is(err, crypto.ErrDamaged) {
		t.Errorf("another name: error %v", err)
	}
}

// TestRangeThatHidesTheEnd: a range that ends before the end must not hold the final package.
func TestRangeThatHidesTheEnd(t *testing.T) {
	k := newKeys(t)
	object := seal(t, k, pattern(2*pkg))
	start, length := crypto.StoredRange(2*pkg, pkg, pkg)
	// The object is said to have a third package: the second one is then not allowed to be final.
	_, err := k.OpenRange(crypto.TypeDataPack, "name", object[:crypto.HeaderSize], 2*pkg+1, pkg, pkg, object[start:start+length])
	if !errors.Is(err, crypto.ErrDamaged) {
		t.Errorf("error %v", err)
	}
}
