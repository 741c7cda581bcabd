package chunkstore

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hakobune-dr/hakobune/crypto"
)

// cachedPacks bounds how many packs of a listing are decoded at a time. Lookups follow the order in
// which chunks were stored, more or less, so that few packs serve many of them.
const cachedPacks = 16 << 10

// listing is what the index objects list: a base, and in memory what came after it. It does not
// change, and is safe for concurrent use.
type listing struct {
	base      *base
	packTable []byte // records of the packs that are numbered from base.packs on
	recent    []byte // entries' records, sorted
	condemned map[PackID]bool
	deleted   map[PackID]bool // of these, what is on record as deleted; may be nil

	known   []atomic.Pointer[numberedPack] // decoded packs, by number modulo its length
	buffers sync.Pool                      // of *[]byte, for buckets
}

type numberedPack struct {
	indexedPack
	number uint32
}

// newListing makes a listing of b, more packs and sorted entries, and the packs that collections
// have condemned.
func newListing(b *base, packTable, recent []byte, condemned map[PackID]bool) *listing {
	l := &listing{base: b, packTable: packTable, recent: recent, condemned: condemned}
	l.known = make([]atomic.Pointer[numberedPack], min(l.packCount(), cachedPacks))
	return l
}

func (l *listing) packCount() int { return int(l.base.packs) + len(l.packTable)/indexPackSize }

// standing returns what a chunk in p is worth.
func (l *listing) standing(p *indexedPack) standing {
	switch {
	case l.deleted[p.ID]:
		return deleted
	case l.condemned[p.ID]:
		return condemned
	}
	return usable
}

// find returns the best location of a chunk.
func (l *listing) find(id ID) (location, standing, error) {
	var best location
	found := absent
	err := l.each(id, func(at location, _ int) bool {
		if s := l.standing(at.pack); s > found {
			best, found = at, s
		}
		return found < usable
	})
	if err != nil {
		return location{}, absent, fmt.Errorf("look up chunk %v: %w", id, err)
	}
	return best, found, nil
}

// each calls fn for the locations of a chunk, each with its number among all entries, until it returns
// false.
func (l *listing) each(id ID, fn func(location, int) bool) error {
	buf, _ := l.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	defer l.buffers.Put(buf)
	if more, err := l.eachOf(l.recent, 0, id, fn); err != nil || !more {
		return err
	}
	var first int
	var err error
	if *buf, first, err = l.base.bucket(id, *buf); err != nil {
		return err
	}
	_, err = l.eachOf(*buf, len(l.recent)/indexEntrySize+first, id, fn)
	return err
}

// eachOf is each for sorted entries, of which the first one has that number. It reports whether fn wants
// more.
func (l *listing) eachOf(sorted []byte, first int, id ID, fn func(location, int) bool) (bool, error) {
	entries, n := entriesOf(sorted, id)
	for e := range slices.Chunk(entries, indexEntrySize) {
		if at, err := l.location(e); err != nil || !fn(at, first+n) {
			return false, err
		}
		n++
	}
	return true, nil
}

// entries calls fn with every location and its number, in the order of the numbers.
func (l *listing) entries(fn func(location, int) error) error {
	n := 0
	take := func(e []byte) error {
		at, err := l.location(e)
		if err == nil {
			err = fn(at, n)
		}
		n++
		return err
	}
	for e := range slices.Chunk(l.recent, indexEntrySize) {
		if err := take(e); err != nil {
			return err
		}
	}
	return eachRecord(l.base.entryReader(), indexEntrySize, take)
}

// same tells whether two listings list the same.
func (l *listing) same(o *listing) bool {
	return bytes.Equal(l.base.objects, o.base.objects) && bytes.Equal(l.recent, o.recent) && bytes.Equal(l.packTable, o.packTable)
}

func (l *listing) entryCount() int { return len(l.recent)/indexEntrySize + int(l.base.entries) }

func (l *listing) location(entry []byte) (location, error) {
	p, err := l.pack(entryPack(entry))
	if err != nil {
		return location{}, err
	}
	e := parseEntry(entry)
	return location{e, p}, e.within(p.plainSize)
}

// pack returns the pack of that number.
func (l *listing) pack(n uint32) (*indexedPack, error) {
	if int64(n) >= int64(l.packCount()) {
		return nil, fmt.Errorf("%w: no pack has number %d", crypto.ErrDamaged, n)
	}
	slot := &l.known[int(n)%len(l.known)]
	if p := slot.Load(); p != nil && p.number == n {
		return &p.indexedPack, nil
	}
	var record [indexPackSize]byte
	if n < l.base.packs {
		if _, err := l.base.file.ReadAt(record[:], l.base.packsAt()+int64(n)*indexPackSize); err != nil {
			return nil, err
		}
	} else {
		copy(record[:], l.packTable[(n-l.base.packs)*indexPackSize:])
	}
	p, err := parseIndexedPack(record[:])
	if err != nil {
		return nil, err
	}
	numbered := &numberedPack{p, n}
	slot.Store(numbered)
	return &numbered.indexedPack, nil
}

// uses calls fn for every pack once, with the chunks in more added.
func (l *listing) uses(more map[PackID]packUse, fn func(packUse)) error {
	for e := range slices.Chunk(l.recent, indexEntrySize) {
		at, err := l.location(e)
		if err != nil {
			return err
		}
		addUse(more, at)
	}
	if err := l.base.uses(func(u packUse) {
		also := more[u.ID]
		delete(more, u.ID)
		u.chunks, u.plain = u.chunks+also.chunks, u.plain+also.plain
		fn(u)
	}); err != nil {
		return err
	}
	for _, u := range more {
		fn(u)
	}
	return nil
}

// uses calls fn for every pack of the base.
func (b *base) uses(fn func(packUse)) error {
	chunks, plain := make([]uint32, b.packs), make([]int64, b.packs)
	if err := eachRecord(b.entryReader(), indexEntrySize, func(e []byte) error {
		n := entryPack(e)
		if n >= b.packs {
			return fmt.Errorf("%w: no pack has number %d", crypto.ErrDamaged, n)
		}
		chunks[n]++
		plain[n] += int64(parseEntry(e).plain)
		return nil
	}); err != nil {
		return err
	}
	n := 0
	return eachRecord(b.packReader(), indexPackSize, func(record []byte) error {
		p, err := parseIndexedPack(record)
		if err != nil {
			return err
		}
		fn(packUse{&p, int(chunks[n]), plain[n]})
		n++
		return nil
	})
}
