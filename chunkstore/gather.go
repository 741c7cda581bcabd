package chunkstore

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// errScratch says that a temporary file could not be written or read: another directory may do.
var errScratch = errors.New("temporary file")

// Names of files in the cache directory.
const (
	baseName    = "index"
	baseTempTag = ".tmp-index-"
	baseTempAge = time.Hour // from which on nobody writes such a file any more
)

// indexLimits bound what a gather keeps in memory.
type indexLimits struct {
	run     int // entries while gathering; each takes 64 bytes then
	entries int // entries that stay in memory beside a base, if a merged one can be kept for later runs
	objects int // and index objects that are read anew by each run
}

// The figures: 64 Ki entries are of some 100 GiB of content, and 3 MiB in a listing; repositories up
// to that size, and of up to 256 sessions, do without a base. Reading 256 cached deltas takes about
// 20 ms, merging a base of 7 million entries a second or two.
func defaultIndexLimits() indexLimits {
	return indexLimits{run: 128 << 10, entries: 64 << 10, objects: 256}
}

// gather makes a listing of a base and index objects that it lacks, in bounded memory: what exceeds
// limits.run is sorted and spilled to a file, and in the end merged into a new base. Not safe for
// concurrent use. Errors of its files are errScratch.
type gather struct {
	base   *base
	dir    string // of the files
	keep   bool   // dir is the cache: the new base is for later runs too
	limits indexLimits
	newMAC func() hash.Hash

	numbers map[PackID]uint32 // of all packs gathered so far, from 0
	packs   []byte            // pack records since the last spill, in the order of their numbers
	entries []byte            // entries' records since the last spill, with these numbers
	tags    []byte            // of the objects' names
	total   int64             // entries
	spool   *os.File          // unlinked; nil before the first spill
	spilled int64             // bytes in spool
	runs    []run
}

// run says where in the spool one spill lies: pack records, then sorted entries.
type run struct{ at, packs, entries int64 }

// add takes one more index object. Each lists all chunks of its packs, so those of a pack that came before
// are left out.
func (g *gather) add(name string, d delta) error {
	tag := nameTag(name)
	g.tags = append(g.tags, tag[:]...)
	numbers := make([]uint32, 0, len(d.packs)/indexPackSize)
	seen := make([]bool, 0, len(d.packs)/indexPackSize)
	for p := range slices.Chunk(d.packs, indexPackSize) {
		n, known := g.number(p)
		numbers, seen = append(numbers, n), append(seen, known)
	}
	for e := range slices.Chunk(d.entries, indexEntrySize) {
		if seen[entryPack(e)] {
			continue
		}
		if len(g.entries) >= g.limits.run*indexEntrySize {
			if err := g.spill(); err != nil {
				return fmt.Errorf("%w: %w", errScratch, err)
			}
		}
		g.entries = append(g.entries, e...)
		setEntryPack(g.entries[len(g.entries)-indexEntrySize:], numbers[entryPack(e)])
		g.total++
	}
	return nil
}

// number returns the number of a pack, and whether it had one. The first record that comes for it is the
// one that counts.
func (g *gather) number(record []byte) (n uint32, known bool) {
	id := packRecordID(record)
	n, known = g.numbers[id]
	if !known {
		n = uint32(len(g.numbers))
		g.numbers[id] = n
		g.packs = append(g.packs, record...)
	}
	return n, known
}

// spill moves what is in memory to the spool.
func (g *gather) spill() error {
	if g.spool == nil {
		f, err := unlinkedTemp(g.dir)
		if err != nil {
			return err
		}
		g.spool = f
	}
	r := run{at: g.spilled, packs: int64(len(g.packs)), entries: int64(len(g.entries))}
	out := bufio.NewWriterSize(g.spool, baseBlock)
	if _, err := out.Write(g.packs); err != nil {
		return err
	}
	if err := writeSorted(out, g.entries); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return err
	}
	g.spilled += r.packs + r.entries
	g.runs = append(g.runs, r)
	g.packs, g.entries = g.packs[:0], g.entries[:0]
	return nil
}

// close frees what the gather holds.
func (g *gather) close() {
	if g.spool != nil {
		g.spool.Close()
	}
}

// listing ends the gathering.
func (g *gather) listing(condemned map[PackID]bool) (*listing, error) {
	if !g.large() {
		for e := range slices.Chunk(g.entries, indexEntrySize) {
			setEntryPack(e, g.base.packs+entryPack(e))
		}
		return newListing(g.base, g.packs, sortedEntries(g.entries), condemned), nil
	}
	b, err := g.merge()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errScratch, err)
	}
	return newListing(b, nil, nil, condemned), nil
}

// large tells whether a new base is worth its cost.
func (g *gather) large() bool {
	return len(g.runs) > 0 ||
		g.keep && (g.total > int64(g.limits.entries) || len(g.tags)/nameTagSize > g.limits.objects)
}

// merge writes a new base of the old one and all that was gathered.
func (g *gather) merge() (*base, error) {
	final, count, err := g.renumber()
	if err != nil {
		return nil, err
	}
	entries, err := countFits("chunks", int64(g.base.entries)+g.total)
	if err != nil {
		return nil, err
	}
	f, err := g.create()
	if err != nil {
		return nil, err
	}
	b := newBase(f, sortTags(slices.Concat(g.base.objects, g.tags)), count, entries)
	if err := g.write(b, f, final); err != nil {
		return nil, errors.Join(err, f.Close(), g.discard(f))
	}
	b.kept = g.publish(f)
	return b, nil
}

// write writes the file of b.
func (g *gather) write(b *base, f io.Writer, final []uint32) error {
	w, err := newBaseWriter(f, b, g.newMAC())
	if err != nil {
		return err
	}
	if err := g.writePacks(w, final); err != nil {
		return err
	}
	numbers := final
	if g.base.packs == 0 {
		numbers = nil // they are final as they are
	}
	sources := []*cursor{{in: g.base.entryReader()}, {in: bytes.NewReader(sortedEntries(g.entries)), numbers: numbers}}
	for _, r := range g.runs {
		section := io.NewSectionReader(g.spool, r.at+r.packs, r.entries)
		sources = append(sources, &cursor{in: bufio.NewReaderSize(section, baseBlock/16), numbers: numbers})
	}
	if err := mergeEntries(sources, w.entry); err != nil {
		return err
	}
	return w.finish()
}

// renumber gives every gathered pack its number in the merged table, by its old one, and counts that
// table: packs of the base keep theirs, those that it lacks follow.
func (g *gather) renumber() ([]uint32, uint32, error) {
	const none = math.MaxUint32
	final := slices.Repeat([]uint32{none}, len(g.numbers))
	i := uint32(0)
	if err := eachRecord(g.base.packReader(), indexPackSize, func(record []byte) error {
		if n, ok := g.numbers[packRecordID(record)]; ok {
			final[n] = i
		}
		i++
		return nil
	}); err != nil {
		return nil, 0, err
	}
	g.numbers = nil // the largest thing here
	next := int64(g.base.packs)
	for n := range final {
		if final[n] == none {
			final[n] = uint32(next)
			next++
		}
	}
	count, err := countFits("packs", next)
	return final, count, err
}

// writePacks writes the merged pack table.
func (g *gather) writePacks(w *baseWriter, final []uint32) error {
	if err := eachRecord(g.base.packReader(), indexPackSize, w.pack); err != nil {
		return err
	}
	n := 0
	lacking := func(record []byte) error {
		n++
		if final[n-1] < g.base.packs {
			return nil
		}
		return w.pack(record)
	}
	for _, r := range g.runs {
		section := io.NewSectionReader(g.spool, r.at, r.packs)
		if err := eachRecord(bufio.NewReader(section), indexPackSize, lacking); err != nil {
			return err
		}
	}
	return eachRecord(bytes.NewReader(g.packs), indexPackSize, lacking)
}

// eachRecord calls fn with all records of size bytes that r has.
func eachRecord(r io.Reader, size int, fn func([]byte) error) error {
	record := make([]byte, size)
	for {
		if _, err := io.ReadFull(r, record); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := fn(record); err != nil {
			return err
		}
	}
}

// create makes the new base's file.
func (g *gather) create() (*os.File, error) {
	if !g.keep {
		return unlinkedTemp(g.dir)
	}
	removeStale(g.dir)
	return os.CreateTemp(g.dir, baseTempTag)
}

// publish gives the complete file its name in the cache, in the place of an older one, which
// other processes may go on reading. It reports whether later runs find it there.
func (g *gather) publish(f *os.File) bool {
	if !g.keep {
		return false
	}
	if os.Rename(f.Name(), filepath.Join(g.dir, baseName)) != nil {
		os.Remove(f.Name()) // it serves this process without a name too
		return false
	}
	return true
}

// discard removes an incomplete file.
func (g *gather) discard(f *os.File) error {
	if !g.keep {
		return nil // it has no name
	}
	return os.Remove(f.Name())
}

// unlinkedTemp makes a file that vanishes when it is closed, or with the process.
func unlinkedTemp(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".tmp-hakobune-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// removeStale removes what processes that were killed have left in dir.
func removeStale(dir string) {
	files, _ := os.ReadDir(dir) // nothing hangs on it
	for _, f := range files {
		info, err := f.Info()
		if err == nil && strings.HasPrefix(f.Name(), baseTempTag) && time.Since(info.ModTime()) > baseTempAge {
			os.Remove(filepath.Join(dir, f.Name()))
		}
	}
}

// cursor walks the sorted entries of one source.
type cursor struct {
	in      io.Reader
	numbers []uint32 // final numbers of packs, by those in the source; nil: they are final
	entry   [indexEntrySize]byte
	prefix  uint64
}

// next moves to the next entry; io.EOF after the last.
func (c *cursor) next() error {
	if _, err := io.ReadFull(c.in, c.entry[:]); err != nil {
		return err
	}
	if c.numbers != nil {
		setEntryPack(c.entry[:], c.numbers[entryPack(c.entry[:])])
	}
	c.prefix = entryPrefix(c.entry[:])
	return nil
}

func (c *cursor) before(o *cursor) bool {
	if c.prefix != o.prefix {
		return c.prefix < o.prefix
	}
	return compareEntries(c.entry[:], o.entry[:]) < 0
}

// mergeEntries calls fn with the entries of all sources in order.
func mergeEntries(sources []*cursor, fn func([]byte) error) error {
	heap := make([]*cursor, 0, len(sources)) // a binary heap, the least entry first
	for _, c := range sources {
		if err := c.next(); err == io.EOF {
			continue
		} else if err != nil {
			return err
		}
		heap = append(heap, c)
	}
	for i := len(heap)/2 - 1; i >= 0; i-- {
		sink(heap, i)
	}
	for len(heap) > 0 {
		if err := fn(heap[0].entry[:]); err != nil {
			return err
		}
		if err := heap[0].next(); err == io.EOF {
			heap[0] = heap[len(heap)-1]
			heap = heap[:len(heap)-1]
		} else if err != nil {
			return err
		}
		sink(heap, 0)
	}
	return nil
}

// sink restores the order of a heap below its i-th element.
func sink(heap []*cursor, i int) {
	for {
		least := i
		for _, child := range []int{2*i + 1, 2*i + 2} {
			if child < len(heap) && heap[child].before(heap[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		heap[i], heap[least] = heap[least], heap[i]
		i = least
	}
}
