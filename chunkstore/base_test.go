package chunkstore

// The local index: internal tests, since nothing of it is exported.

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

func testMAC() hash.Hash { return hmac.New(sha256.New, []byte("key")) }

// sampleGather is one with n random entries, 20 to a pack, in objects of 1000.
func sampleGather(t testing.TB, limits indexLimits, newMAC func() hash.Hash, n int) *gather {
	g := &gather{base: emptyBase(), dir: t.TempDir(), limits: limits, newMAC: newMAC, numbers: map[PackID]uint32{}}
	t.Cleanup(g.close)
	rng := rand.NewChaCha8([32]byte{1})
	for at := 0; at < n; at += 1000 {
		entries := make([]IndexEntry, min(1000, n-at))
		for i := range entries {
			rng.Read(entries[i].ID[:])
			entries[i].Pack = uint32((at + i) / 20)
		}
		d, err := parseIndex(marshalIndex(testPacks(entries)))
		if err == nil {
			err = g.add(fmt.Sprint("i/", at), d)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return g
}

// sampleBase is the file of a base.
func sampleBase(t testing.TB) []byte {
	b, err := sampleGather(t, indexLimits{run: 10}, testMAC, 70).merge()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(io.NewSectionReader(b.file, 0, math.MaxInt64))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// What is read was written, but for its authentication, which is made to fit half of the time.
func FuzzReadBase(f *testing.F) {
	sample := sampleBase(f)
	f.Add(sample, false)
	f.Add(sample[:len(sample)-sha256.Size], true)
	f.Add(sample[:60], true)
	f.Fuzz(func(t *testing.T, content []byte, authentic bool) {
		if authentic {
			mac := testMAC()
			mac.Write(content)
			content = mac.Sum(bytes.Clone(content))
		}
		before := allocated()
		b, err := readBase(bytes.NewReader(content), int64(len(content)), testMAC())
		if n := allocated() - before; n > 2*uint64(len(content))+64<<10 {
			t.Errorf("%d bytes allocated for %d", n, len(content))
		}
		if err != nil {
			if !errors.Is(err, crypto.ErrDamaged) && err != io.EOF {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		l := newListing(b, nil, nil, nil)
		for i := range int64(b.entries) {
			id := ID(content[b.entriesAt()+i*indexEntrySize:][:32])
			if _, s, err := l.find(id); s == absent && err == nil { // an error where a pack is none
				t.Errorf("chunk %v is not found", id)
			}
		}
		var again bytes.Buffer
		if err := rewrite(&again, b); err != nil || !bytes.Equal(again.Bytes(), content) {
			t.Errorf("written again it differs: %v", err)
		}
	})
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// rewrite writes b as a new file.
func rewrite(out io.Writer, b *base) error {
	w, err := newBaseWriter(out, newBase(nil, b.objects, b.packs, b.entries), testMAC())
	if err != nil {
		return err
	}
	if err := eachRecord(b.packReader(), indexPackSize, w.pack); err != nil {
		return err
	}
	if err := eachRecord(b.entryReader(), indexEntrySize, w.entry); err != nil {
		return err
	}
	return w.finish()
}

// An authenticated file whose entries are out of order, or in no pack, is refused: lookups would miss
// chunks.
func TestReadBaseChecksEntries(t *testing.T) {
	sample := sampleBase(t)
	sample = sample[:len(sample)-sha256.Size]
	first := len(sample) - 70*indexEntrySize
	for what, damage := range map[string]func([]byte){
		"order": func(b []byte) { b[first] = 255 },
		"pack":  func(b []byte) { binary.BigEndian.PutUint32(b[first+32:], 4) },
	} {
		content := bytes.Clone(sample)
		damage(content)
		mac := testMAC()
		mac.Write(content)
		content = mac.Sum(content)
		if _, err := readBase(bytes.NewReader(content), int64(len(content)), testMAC()); !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// sampler is a hash that measures the heap while a file is written.
type sampler struct {
	hash.Hash
	peak *uint64
}

func (s sampler) Write(p []byte) (int, error) {
	*s.peak = max(*s.peak, liveHeap())
	return s.Hash.Write(p)
}

func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// An index of 19 MB is gathered and merged in less than half of that.
func TestMergeIsBounded(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(10))
	const entries = 400_000
	start := liveHeap()
	var peak uint64
	g := sampleGather(t, indexLimits{run: 16 << 10}, func() hash.Hash { return sampler{testMAC(), &peak} }, entries)
	peak = max(peak, liveHeap())
	l, err := g.listing(nil)
	if err != nil {
		t.Fatal(err)
	}
	if int(l.base.entries) != entries {
		t.Fatalf("%d entries in the base", l.base.entries)
	}
	if grown := int64(peak) - int64(start); grown > entries*indexEntrySize/2 {
		t.Errorf("the heap grew by %d bytes for %d bytes of entries", grown, entries*indexEntrySize)
	}
}

// Of a pack that several index objects list there is one record, and all entries.
func TestMergeKnowsPacksAgain(t *testing.T) {
	entries := func(id byte, packs ...uint32) delta {
		var all []IndexEntry
		for i, p := range packs {
			all = append(all, IndexEntry{ID: ID{id, byte(i)}, Pack: p, Offset: uint32(id)})
		}
		d, err := parseIndex(marshalIndex(testPacks(all)))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	b := emptyBase()
	for i, packs := range [][]uint32{{1, 2, 3}, {3, 4, 1}, {5}, {2, 5, 6}} {
		g := &gather{base: b, dir: t.TempDir(), limits: indexLimits{run: 2}, newMAC: testMAC, numbers: map[PackID]uint32{}}
		defer g.close()
		if err := g.add(fmt.Sprint("i/", i), entries(byte(i), packs...)); err != nil {
			t.Fatal(err)
		}
		var err error
		if b, err = g.merge(); err != nil {
			t.Fatal(err)
		}
	}
	l := newListing(b, nil, nil, nil)
	got := map[PackID]int{}
	if err := l.uses(map[PackID]packUse{}, func(u packUse) { got[u.ID] += u.chunks }); err != nil {
		t.Fatal(err)
	}
	for n, want := range map[uint32]int{1: 2, 2: 2, 3: 2, 4: 1, 5: 2, 6: 1} {
		if got[NumberedPack(n)] != want {
			t.Errorf("pack %d: %d chunks, want %d", n, got[NumberedPack(n)], want)
		}
	}
	if b.packs != 6 || b.entries != 10 || len(b.objects) != 4*nameTagSize {
		t.Errorf("%d packs, %d entries, %d bytes of tags", b.packs, b.entries, len(b.objects))
	}
	if at, s, err := l.find(ID{3, 1}); err != nil || s != usable || at.pack.ID != NumberedPack(5) || at.offset != 3 {
		t.Errorf("%+v, %v, %v", at, s, err)
	}
}

// What killed processes have left in the cache goes away; what one is writing stays.
func TestRemoveStale(t *testing.T) {
	g := &gather{base: emptyBase(), dir: t.TempDir(), keep: true, newMAC: testMAC, numbers: map[PackID]uint32{}}
	fresh, err := os.CreateTemp(g.dir, baseTempTag)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.CreateTemp(g.dir, baseTempTag)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(fresh.Close(), old.Close(), os.Chtimes(old.Name(), time.Unix(1, 0), time.Unix(1, 0))); err != nil {
		t.Fatal(err)
	}
	if _, err := g.merge(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(fresh.Name()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(old.Name()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}
