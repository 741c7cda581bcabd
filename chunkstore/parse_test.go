package chunkstore

// Parsers of what lies inside the encryption: internal tests, since nothing of it is exported.

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

func samplePack() []byte {
	b := newPackBuilder(Data, nil)
	b.add(packEntry{id: ID{1}, kind: Data, codec: raw, plain: 3}, []byte("abc"))
	b.add(packEntry{id: ID{2}, kind: Data, codec: zstdFrame, plain: 900}, []byte("compressed"))
	return b.finish()
}

func sampleIndex() []byte {
	p := &indexedPack{PackRef: PackRef{Kind: Data, ID: PackID{9}}, plainSize: 1000}
	return marshalIndex([]*indexedPack{p}, []location{
		{packEntry{id: ID{2}, kind: Data, codec: zstdFrame, offset: 3, stored: 10, plain: 900}, p},
		{packEntry{id: ID{1}, kind: Data, offset: 0, stored: 3, plain: 3}, p},
	})
}

// What a parser may allocate for an input of n bytes, beside what an error takes: twice that; a reader of JSON (package frugal) some for
// itself. Chunks are bounded by MaxChunk, whatever a compressed one says.
func binaryLimit(n int) uint64 { return uint64(2*n + 4<<10) }
func textLimit(n int) uint64   { return uint64(2*n + 128<<10) }

// bounded fails if parse allocates more than limit. What others allocate meanwhile is not there each time.
func bounded(t *testing.T, limit uint64, parse func()) {
	t.Helper()
	var least uint64 = math.MaxUint64
	for attempt := 0; attempt < 5 && least > limit; attempt++ {
		before := allocated()
		parse()
		least = min(least, allocated()-before)
	}
	if least > limit {
		t.Errorf("%d bytes allocated, want at most %d", least, limit)
	}
}

// hostile is a pack's trailer that says how many chunks there are.
func hostile(chunks uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte(packMagic), packVersion), chunks)
}

func FuzzParsePack(f *testing.F) {
	f.Add(samplePack())
	f.Add(samplePack()[40:])
	f.Add(hostile(math.MaxUint32))
	f.Add(append(make([]byte, 1000*packEntrySize), hostile(1000)...))
	f.Add(append(make([]byte, 1000*packEntrySize), hostile(1001)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var entries []packEntry
		var err error
		bounded(t, binaryLimit(len(b)), func() { entries, err = parsePack(b) })
		if err != nil {
			if !errors.Is(err, crypto.ErrDamaged) && !errors.Is(err, crypto.ErrNewer) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for _, e := range entries {
			if int64(e.offset)+int64(e.stored) > int64(len(b)) {
				t.Fatalf("chunk beyond the pack: %+v", e)
			}
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add(sampleIndex())
	f.Add(sampleIndex()[:70])
	for _, counts := range [][2]uint32{{math.MaxUint32, math.MaxUint32}, {maxPacksInIndex, 0}, {0, math.MaxUint32}, {1, 1 << 30}} {
		head := binary.BigEndian.AppendUint32([]byte(indexMagic), indexVersion)
		f.Add(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(head, counts[0]), counts[1]))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var d delta
		var err error
		bounded(t, binaryLimit(len(b)), func() { d, err = parseIndex(b) })
		if err != nil {
			if !errors.Is(err, crypto.ErrDamaged) && !errors.Is(err, crypto.ErrNewer) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		for e := range slices.Chunk(d.entries, indexEntrySize) {
			p, err := parseIndexedPack(d.packs[entryPack(e)*indexPackSize:])
			if err != nil || parseEntry(e).within(p.plainSize) != nil {
				t.Fatalf("chunk beyond its pack: %+v, %v", parseEntry(e), err)
			}
		}
	})
}

// The end of a pack serves as the whole does.
func FuzzParseTable(f *testing.F) {
	whole := samplePack()
	f.Add(whole[40:], int64(len(whole)))
	f.Add(whole, int64(len(whole)))
	f.Add(whole[len(whole)-12:], int64(1<<40))
	f.Add(hostile(math.MaxUint32), int64(1<<40))
	f.Fuzz(func(t *testing.T, tail []byte, size int64) {
		var entries []packEntry
		var err error
		bounded(t, binaryLimit(len(tail)), func() { entries, err = parseTable(tail, size) })
		if err != nil {
			if !errors.Is(err, crypto.ErrDamaged) && !errors.Is(err, crypto.ErrNewer) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if len(entries)*packEntrySize > len(tail) {
			t.Fatalf("%d entries of %d bytes", len(entries), len(tail))
		}
	})
}

// Lists of packs, as marks and outcomes have them, come back as the same bytes.
func FuzzParsePackRefs(f *testing.F) {
	f.Add(marshalPackRefs([]PackRef{{Kind: Data, ID: PackID{1}}, {Kind: Meta, Writer: crypto.WriterID{2}, ID: PackID{3}}}))
	f.Add(make([]byte, packRefSize+1))
	f.Add(marshalPackRefs(slices.Repeat([]PackRef{{Kind: Data}}, 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var refs []PackRef
		var err error
		bounded(t, binaryLimit(len(b)), func() { refs, err = parsePackRefs(b) })
		if err != nil {
			if !errors.Is(err, crypto.ErrDamaged) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if !bytes.Equal(marshalPackRefs(refs), b) {
			t.Fatalf("%x came back as something else", b)
		}
	})
}

// What is JSON of a version: sessions, outcomes, forget records, marks, records, claims, put-only hosts; and what is sealed in their outcomes.
func FuzzVersioned(f *testing.F) {
	for _, text := range []string{
		`{"version":1,"host":"h","program":"p","started":"2026-11-20T02:00:00Z","pid":1}`,
		`{"version":1,"host":"h","time":"2026-11-20T02:00:00Z","snapshots":["n/00"]}`,
		`{"version":1,"sessions":["s/00"]}`, `{"version":1,"kind":"tag","time":"2026-11-20T02:00:00Z","body":{}}`, `{"version":2}`, `{"version":1,"snapshots":7}`, `[`,
	} {
		f.Add([]byte(text))
	}
	for _, list := range []string{`"snapshots":[%s]`, `"sessions":[%s]`, `"systems":[%s]`, `"body":[%s]`, `"body":{"chunks":[%s]}`, `"packs":{"chunks":[%s]}`} {
		for _, value := range []string{`""`, `{}`, `null`} {
			f.Add(fmt.Appendf(nil, `{"version":1,`+list+`}`, value+strings.Repeat(","+value, 5_000)))
		}
	}
	f.Add([]byte(strings.Repeat("[", 9999)))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, fresh := range []func() any{
			func() any { return &sessionRecord{} }, func() any { return &forgetRecord{} }, func() any { return &waitsRecord{} },
			func() any { return &Record{} }, func() any { return &Outcome{} }, func() any { return &Claim{} }, func() any { return &resealedOutcome{} },
			func() any { return &Host{} }, func() any { return &removal{} }, func() any { return &manifest{} }, func() any { return &resealedRecord{} },
		} {
			var err error
			bounded(t, textLimit(len(b)), func() { err = unmarshalVersioned(b, fresh()) })
			if err != nil && !errors.Is(err, crypto.ErrDamaged) && !errors.Is(err, crypto.ErrNewer) {
				t.Fatalf("untyped error %v", err)
			}
		}
	})
}

// However many names of objects a record has, it can be read: they are long enough.
func TestLongRecords(t *testing.T) {
	name := sessionName(outcomePrefix, crypto.WriterID{1}, SessionID{2})
	for want, got := range map[any]any{
		&forgetRecord{Version: 1, Snapshots: slices.Repeat([]string{name}, 3000)}: &forgetRecord{},
		&waitsRecord{Version: 1, Sessions: slices.Repeat([]string{name}, 3000)}:   &waitsRecord{},
	} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		bounded(t, textLimit(len(text)), func() { err = unmarshalVersioned(text, got) })
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%T: %v", want, err)
		}
	}
}

// Names of objects: whatever is taken for one has the name that is made of its parts again.
func FuzzObjectName(f *testing.F) {
	for _, name := range []string{"config", "k/0011223344556677", PackRef{Kind: Data}.Name(), "d/" + PackRef{Kind: Meta}.Name(), "n/0011223344556677/00112233445566778899aabbccddeeff", "g/0011223344556677/00112233445566778899aabbccddeeff-done"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if ref, err := parsePackName(name); err == nil && ref.Name() != name {
			t.Fatalf("%q is taken for %q", name, ref.Name())
		}
		if w, id, rest, err := parseSessionName(outcomePrefix, name); err == nil && rest == "" && sessionName(outcomePrefix, w, id) != name && sessionName(outcomePrefix, w, id)+"-" != name {
			t.Fatalf("%q is taken for %q", name, sessionName(outcomePrefix, w, id))
		}
		isObjectName(name)
	})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"magic":"hakobune","version":1,"repository":"00112233445566778899aabbccddeeff","chunker":{"min":1048576,"bits":19,"max":8388608}}`))
	f.Add([]byte(`{"magic":"hakobune","version":1,"features":[""` + strings.Repeat(`,""`, 100_000) + `]}`))
	f.Fuzz(func(t *testing.T, b []byte) { bounded(t, textLimit(len(b)), func() { parseConfig(b) }) })
}

// The index's plaintext is the same whatever the order in which chunks were packed.
func TestIndexIsSorted(t *testing.T) {
	d, err := parseIndex(sampleIndex())
	if err != nil || len(d.entries) != 2*indexEntrySize || !bytes.Equal(d.entries, sortedEntries(d.entries)) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestPaddedSizes(t *testing.T) {
	for n := int64(1); n < 40<<20; n += n/7 + 1 {
		p := paddedPlain(n)
		target := padme(crypto.SealedSize(n))
		if p < n || crypto.SealedSize(p) > target || crypto.SealedSize(p) < target-32 {
			t.Fatalf("%d bytes are padded to %d: sealed %d of %d", n, p, crypto.SealedSize(p), target)
		}
	}
	if got := padme(9); got != 10 { // from the paper's definition: E=3, S=2, one bit cleared
		t.Errorf("padme(9) = %d", got)
	}
}

func TestParsePackName(t *testing.T) {
	ref := PackRef{Kind: Meta, Writer: crypto.WriterID{1, 2}, ID: PackID{0xab}}
	if got, err := parsePackName(ref.Name()); err != nil || got != ref {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "p/x", "x/" + ref.Name()[2:], ref.Name() + "0", ref.Name()[:len(ref.Name())-2] + "AB"} {
		if _, err := parsePackName(bad); err == nil {
			t.Errorf("%q was taken for a pack", bad)
		}
	}
}

func TestSubset(t *testing.T) {
	for s, want := range map[string]Subset{"5%": {Percent: 5}, "2/7": {N: 2, T: 7}, "2G": {Bytes: 2 << 30}, "10MiB": {Bytes: 10 << 20}, "100%": {Percent: 100}} {
		if got, err := ParseSubset(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "0%", "101%", "NaN%", "0/3", "4/3", "1/300", "-1G", "x"} {
		if got, err := ParseSubset(bad); err == nil {
			t.Errorf("%q was read as %+v", bad, got)
		}
	}
	// Parts are disjoint and together everything.
	stored := map[string]int64{}
	for i := range 100 {
		stored[PackRef{Kind: Data, ID: PackID{byte(i), byte(i * 7)}}.Name()] = int64(i)
	}
	seen := map[string]int{}
	for n := 1; n <= 3; n++ {
		names, _ := Subset{N: n, T: 3}.selectPacks(stored)
		for _, name := range names {
			seen[name]++
		}
	}
	if len(seen) != len(stored) {
		t.Errorf("three parts hold %d of %d packs", len(seen), len(stored))
	}
}
