package archive_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

var update = flag.Bool("update", false, "write the golden files anew")

func id(b byte) chunkstore.ID { return chunkstore.ID(bytes.Repeat([]byte{b}, 32)) }

// every is one entry of every type, with all that a record can hold.
func every() []archive.Entry {
	at := archive.Time{Sec: 1_763_000_000, Nsec: 999_999_999}
	return []archive.Entry{
		{Path: "", Type: archive.Dir, Mode: 0o1777, MTime: at},
		{Path: "a", Type: archive.Dir, Mode: 0o2755, UID: 4_000_000_000, GID: math.MaxUint32, MTime: at, Opaque: true},
		{Path: "a/block", Type: archive.BlockDevice, Mode: 0o660, Rdev: 8<<8 | 1, MTime: at},
		{Path: "a/char", Type: archive.CharDevice, Mode: 0o666, Rdev: math.MaxUint64, MTime: at},
		{Path: "a/empty", Type: archive.File, Mode: 0o600, MTime: archive.Time{Sec: -1, Nsec: 5}, CTime: at, Ino: 17},
		{Path: "a/fifo", Type: archive.FIFO, Mode: 0o644, MTime: archive.Time{Sec: math.MinInt64}},
		{
			Path: "a/inline", Type: archive.File, Mode: 0o4755, Size: 5, MTime: at, Ino: math.MaxUint64, Inline: []byte("hello"),
			Xattrs: []archive.Xattr{
				{Name: "security.capability", Value: []byte{1, 0, 0, 2, 0}},
				{Name: "user.empty", Value: []byte{}},
			},
		},
		{Path: "a/inline2", Type: archive.Hardlink, Link: "a/inline"},
		{
			Path: "a/large", Type: archive.File, Mode: 0o644, Size: 1<<40 + 8<<20 + 7, MTime: at, CTime: at, Ino: 18,
			Extents: []archive.Extent{
				{Length: 8 << 20, Refs: []chunkstore.Ref{{ID: id(1), Length: 5 << 20}, {ID: id(2), Offset: 9, Length: 3 << 20}}},
				{Length: 1 << 40, Hole: true},
				{Length: 7, Refs: []chunkstore.Ref{{ID: id(1), Offset: math.MaxUint32 - 7, Length: 7}}},
			},
		},
		{Path: "a/socket", Type: archive.Socket, Mode: 0o777, MTime: at},
		{Path: "a/symlink", Type: archive.Symlink, Mode: 0o777, MTime: at, Link: "../\xff elsewhere"},
		{
			Path: "a/torn", Type: archive.File, Mode: 0, Size: 600, MTime: at, Torn: true,
			Extents: []archive.Extent{{Length: 600, Hole: true}},
		},
		{Path: "a/whiteout", Type: archive.Whiteout},
		{Path: "a b\n\xff\xfe", Type: archive.Dir, Mode: 0o700, MTime: at},
		{Path: "z" + strings.Repeat("/"+strings.Repeat("n", 254), 64), Type: archive.FIFO},
	}
}

func encode(t *testing.T, entries []archive.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	n := archive.NewEncoder(&b)
	for _, e := range entries {
		if err := n.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRecordsRoundTrip(t *testing.T) {
	want := every()
	got := decode(t, encode(t, want))
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := decode(t, encode(t, nil)); len(got) != 0 {
		t.Errorf("an empty stream gave %v", got)
	}
}

func TestRecordsGolden(t *testing.T) { golden(t, "tree-v1.hex", encode(t, every())) }

// golden compares with a file in testdata. The bytes of a version never change: every later
// version must read them.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	name = filepath.Join("testdata", name)
	got := hex.Dump(b)
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Error(d)
	}
}

func TestEncodeRefuses(t *testing.T) {
	file := func(change func(e *archive.Entry)) archive.Entry {
		e := archive.Entry{
			Path: "m/f", Type: archive.File, Size: 1000,
			Extents: []archive.Extent{{Length: 1000, Refs: []chunkstore.Ref{{ID: id(1), Length: 1000}}}},
		}
		change(&e)
		return e
	}
	path := func(p string) archive.Entry { return archive.Entry{Path: p, Type: archive.FIFO} }
	for name, e := range map[string]archive.Entry{
		"absolute":             path("/etc"),
		"parent":               path("n/../o"),
		"parent alone":         path(".."),
		"dot":                  path("./n"),
		"double slash":         path("n//o"),
		"slash at the end":     path("n/"),
		"zero byte":            path("n\x00"),
		"too long":             path(strings.Repeat("n/", 8192) + "n"),
		"out of order":         path("a"),
		"same again":           path("m"),
		"beneath a file":       path("m/f"),
		"root":                 {Path: "", Type: archive.File},
		"no type":              {Path: "n"},
		"unknown type":         {Path: "n", Type: 10},
		"mode":                 {Path: "n", Type: archive.Dir, Mode: 0o100644},
		"nanoseconds":          {Path: "n", Type: archive.Dir, MTime: archive.Time{Nsec: 1e9}},
		"negative nanoseconds": {Path: "n", Type: archive.Dir, MTime: archive.Time{Nsec: -1}},
		"opaque file":          {Path: "n", Type: archive.File, Opaque: true},
		"torn directory":       {Path: "n", Type: archive.Dir, Torn: true},
		"symlink to nothing":   {Path: "n", Type: archive.Symlink},
		"symlink with zero":    {Path: "n", Type: archive.Symlink, Link: "a\x00b"},
		"link to a later name": {Path: "n", Type: archive.Hardlink, Link: "o"},
		"link to itself":       {Path: "n", Type: archive.Hardlink, Link: "n"},
		"link to the root":     {Path: "n", Type: archive.Hardlink},
		"link outside":         {Path: "n", Type: archive.Hardlink, Link: "../m"},
		"target of a file":     {Path: "n", Type: archive.File, Link: "m"},
		"sized directory":      {Path: "n", Type: archive.Dir, Size: 1},
		"no content":           {Path: "n", Type: archive.File, Size: 1},
		"negative size":        {Path: "n", Type: archive.File, Size: -1},
		"inline, wrong size":   {Path: "n", Type: archive.File, Size: 2, Inline: []byte("x")},
		"inline, too large":    {Path: "n", Type: archive.File, Size: 513, Inline: make([]byte, 513)},
		"xattrs out of order":  {Path: "n", Type: archive.Dir, Xattrs: []archive.Xattr{{Name: "user.b"}, {Name: "user.a"}}},
		"xattr twice":          {Path: "n", Type: archive.Dir, Xattrs: []archive.Xattr{{Name: "user.a"}, {Name: "user.a"}}},
		"xattr without name":   {Path: "n", Type: archive.Dir, Xattrs: []archive.Xattr{{}}},
		"xattr too long":       {Path: "n", Type: archive.Dir, Xattrs: []archive.Xattr{{Name: "user.a", Value: make([]byte, 65537)}}},
		"too much content":     file(func(e *archive.Entry) { e.Size-- }),
		"too little content":   file(func(e *archive.Entry) { e.Size++ }),
		"short refs":           file(func(e *archive.Entry) { e.Extents[0].Refs[0].Length-- }),
		"long refs":            file(func(e *archive.Entry) { e.Extents[0].Refs[0].Length++ }),
		"no chunk":             file(func(e *archive.Entry) { e.Extents[0].Refs[0].ID = chunkstore.ID{} }),
		"beyond any chunk":     file(func(e *archive.Entry) { e.Extents[0].Refs[0].Offset = math.MaxUint32 - 1 }),
		"hole with content":    file(func(e *archive.Entry) { e.Extents[0].Hole = true }),
		"empty extent":         file(func(e *archive.Entry) { e.Extents = append(e.Extents, archive.Extent{Hole: true}) }),
		"two data extents": file(func(e *archive.Entry) {
			e.Size *= 2
			e.Extents = append(e.Extents, e.Extents[0])
		}),
		"overflow": file(func(e *archive.Entry) {
			e.Extents = []archive.Extent{{Length: math.MaxInt64, Hole: true}, e.Extents[0]}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			n := archive.NewEncoder(io.Discard)
			if err := n.Encode(archive.Entry{Path: "m", Type: archive.FIFO}); err != nil {
				t.Fatal(err)
			}
			if err := n.Encode(e); err == nil {
				t.Error("accepted")
			}
			if err := n.Close(); err == nil {
				t.Error("the error was forgotten")
			}
		})
	}
}

// A stream cut at any length, and with any one bit changed, is refused or still the stream of what
// it decodes to.
func TestDecodeDamage(t *testing.T) {
	whole := encode(t, every()[:14]) // without the longest path, for time's sake
	for n := range whole {
		if _, err := decodeAll(whole[:n]); !errors.Is(err, archive.ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			checkCanonical(t, b)
		}
	}
	if _, err := decodeAll(append(bytes.Clone(whole), 0)); !errors.Is(err, archive.ErrFormat) {
		t.Errorf("one byte too many: %v", err)
	}
}

func TestDecodeReadError(t *testing.T) {
	whole := encode(t, every()[:14])
	boom := errors.New("boom")
	for n := range whole {
		d := archive.NewDecoder(io.MultiReader(bytes.NewReader(whole[:n]), errReader{boom}))
		var err error
		for err == nil {
			_, err = d.Decode()
		}
		if !errors.Is(err, boom) || errors.Is(err, archive.ErrFormat) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

func decodeAll(b []byte) ([]archive.Entry, error) {
	var all []archive.Entry
	d := archive.NewDecoder(bytes.NewReader(b))
	for {
		e, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
}

// checkCanonical wants b refused, or to be exactly what its entries encode to.
func checkCanonical(t *testing.T, b []byte) {
	t.Helper()
	entries, err := decodeAll(b)
	if err != nil {
		if !errors.Is(err, archive.ErrFormat) {
			t.Fatal(err)
		}
		return
	}
	if again := encode(t, entries); !bytes.Equal(again, b) {
		t.Fatalf("decoded, and encoded again to other bytes:\n%x\n%x", b, again)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{})
	f.Add(fuzzSeed(every()))
	for _, e := range every() {
		f.Add(fuzzSeed([]archive.Entry{e}))
	}
	f.Add(fuzzSeed(many(20_000)))
	f.Add(fuzzSeed([]archive.Entry{sparse(10_000)}))
	f.Add(fuzzSeed([]archive.Entry{attributed(16 << 10)}))
	f.Add(fuzzSeed(lettered(100)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for d, err := archive.NewDecoder(bytes.NewReader(b)), error(nil); err == nil; {
			_, err = d.Decode()
		}
		runtime.ReadMemStats(&after)
		// An attribute may be recorded in three bytes, and is 40 here, beside its name and value; of a sparse file a hole is recorded
		// in two bytes and data in 37, which are 40 and 80; a buffer grows. The race detector takes some for itself.
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(256<<10+16*len(b)) {
			t.Errorf("%d bytes allocated for %d bytes of input", got, len(b))
		}
		checkCanonical(t, b)
	})
}

// many are files of which little is known.
func many(n int) []archive.Entry {
	all := make([]archive.Entry, n)
	for i := range all {
		all[i] = archive.Entry{Path: fmt.Sprintf("%05d", i), Type: archive.File}
	}
	return all
}

// sparse is a file of that many bytes, each with a hole behind it, and of attributes that are as small as they can be.
func sparse(n int) archive.Entry {
	e := archive.Entry{Path: "sparse", Type: archive.File, Size: int64(2 * n)}
	for i := range n {
		e.Extents = append(e.Extents, archive.Extent{Length: 1, Refs: []chunkstore.Ref{{ID: id(1), Offset: uint32(i), Length: 1}}}, archive.Extent{Length: 1, Hole: true})
	}
	for i := range 200 {
		e.Xattrs = append(e.Xattrs, archive.Xattr{Name: fmt.Sprintf("user.%03d", i), Value: []byte{}})
	}
	return e
}

// attributed is a directory with n attributes, whose names are as short as so many can be.
func attributed(n int) archive.Entry {
	e := archive.Entry{Path: "d", Type: archive.Dir}
	for i := range n {
		e.Xattrs = append(e.Xattrs, archive.Xattr{Name: string([]byte{1 + byte(i/255/255), 1 + byte(i/255%255), 1 + byte(i%255)}), Value: []byte{}})
	}
	return e
}

// lettered are n directories with all attributes that have one letter.
func lettered(n int) []archive.Entry {
	all := make([]archive.Entry, n)
	for i := range all {
		all[i] = archive.Entry{Path: fmt.Sprintf("%03d", i), Type: archive.Dir}
		for c := range 255 {
			all[i].Xattrs = append(all[i].Xattrs, archive.Xattr{Name: string([]byte{byte(c + 1)}), Value: []byte{}})
		}
	}
	return all
}

func fuzzSeed(entries []archive.Entry) []byte {
	var b bytes.Buffer
	n := archive.NewEncoder(&b)
	for _, e := range entries {
		_ = n.Encode(e)
	}
	_ = n.Close()
	return b.Bytes()
}

func TestCompare(t *testing.T) {
	sorted := []string{"", "a", "a/b", "a/b/c", "a/b ", "a/b!", "a ", "a!", "a\xff", "b", "b/\x01"}
	for i, a := range sorted {
		for j, b := range sorted {
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got := archive.Compare(a, b); got != want {
				t.Errorf("Compare(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestSpool(t *testing.T) {
	s, err := archive.NewSpool()
	if err != nil {
		t.Fatal(err)
	}
	n := archive.NewEncoder(s)
	for i := range 50_000 {
		e := archive.Entry{Path: fmt.Sprintf("%08d", i), Type: archive.File, Size: 3, Inline: []byte("abc"), Ino: uint64(i)}
		if err := n.Encode(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var count uint64
		for e, err := range s.Records() {
			if err != nil || e.Ino != count {
				t.Fatal(e, err)
			}
			count++
		}
		if count != 50_000 {
			t.Errorf("%d records came back", count)
		}
	}
	if _, err := s.Write([]byte{1}); err == nil {
		t.Error("written to after reading")
	}
	half, err := archive.NewSpool()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := half.Write(encode(t, every())[:100]); err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range half.Records() {
		last = err
	}
	if !errors.Is(last, archive.ErrFormat) {
		t.Errorf("half a stream: %v", last)
	}
}
