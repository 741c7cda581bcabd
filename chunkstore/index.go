package chunkstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"sync"

	"github.com/hakobune-dr/hakobune/crypto"
)

// An index object's plaintext: magic, version, number of packs, number of entries; the pack table;
// the entries sorted by id.
const (
	indexMagic      = "HKIX"
	indexVersion    = 1
	indexHeadSize   = 4 + 4 + 4 + 4
	indexPackSize   = packRefSize + 8 + crypto.HeaderSize // ref, plaintext size, the object's header
	indexEntrySize  = 32 + 4 + 4 + 4 + 4                  // id, pack, offset, stored | codec, plain | kind
	lengthBits      = 28                                  // lengths are below 2^28, the bits above hold codec and kind
	maxPacksInIndex = 1 << 24
)

// indexedPack is a pack as the index knows it. The object's header is kept so that a chunk is read
// with one request.
type indexedPack struct {
	PackRef
	plainSize int64
	header    [crypto.HeaderSize]byte
	condemned bool // marked by a collection: its chunks count as absent for a backup
}

// location says where a chunk lies.
type location struct {
	packEntry
	pack *indexedPack
}

// index maps chunk ids to locations. Lookups may run beside additions.
//
// Entries loaded from the repository lie in one sorted slice; those of the running session in a
// map, which is small beside it.
type index struct {
	mu     sync.RWMutex
	packs  map[PackID]*indexedPack
	sorted []location
	fresh  map[ID]location
}

func newIndex() *index {
	return &index{packs: map[PackID]*indexedPack{}, fresh: map[ID]location{}}
}

// lookup returns the best location of a chunk: one in a pack that is not condemned if there is any.
func (x *index) lookup(id ID) (location, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	best, found := x.fresh[id]
	if found && !best.pack.condemned {
		return best, true
	}
	i := sort.Search(len(x.sorted), func(i int) bool { return bytes.Compare(x.sorted[i].id[:], id[:]) >= 0 })
	for ; i < len(x.sorted) && x.sorted[i].id == id; i++ {
		if !x.sorted[i].pack.condemned {
			return x.sorted[i], true
		}
		if !found {
			best, found = x.sorted[i], true
		}
	}
	return best, found
}

// usable is lookup for a backup: chunks whose only copies lie in condemned packs count as absent.
func (x *index) usable(id ID) (location, bool) {
	l, ok := x.lookup(id)
	return l, ok && !l.pack.condemned
}

// add makes the chunks of one uploaded pack known.
func (x *index) add(p *indexedPack, entries []packEntry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.packs[p.ID] = p
	for _, e := range entries {
		x.fresh[e.id] = location{e, p}
	}
}

// load replaces what was loaded before by the entries of all given objects (plaintexts of deltas
// and segments). Packs that condemned names are marked so.
func (x *index) load(objects [][]byte, condemned map[PackID]bool) error {
	packs := map[PackID]*indexedPack{}
	var all []location
	for _, b := range objects {
		var err error
		if all, err = appendIndex(all, packs, b); err != nil {
			return err
		}
	}
	slices.SortFunc(all, func(a, b location) int { return bytes.Compare(a.id[:], b.id[:]) })
	for id := range condemned {
		if p := packs[id]; p != nil {
			p.condemned = true
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.packs, x.sorted, x.fresh = packs, all, map[ID]location{}
	return nil
}

// each calls fn for every entry, in no certain order.
func (x *index) each(fn func(location)) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, l := range x.sorted {
		fn(l)
	}
	for _, l := range x.fresh {
		fn(l)
	}
}

// pack returns a pack that the index knows.
func (x *index) pack(id PackID) (*indexedPack, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	p, ok := x.packs[id]
	return p, ok
}

// marshalIndex encodes the packs with their chunks as the plaintext of an index delta.
func marshalIndex(packs []*indexedPack, chunks []location) []byte {
	number := make(map[*indexedPack]uint32, len(packs))
	out := make([]byte, 0, indexHeadSize+len(packs)*indexPackSize+len(chunks)*indexEntrySize)
	out = append(out, indexMagic...)
	out = binary.BigEndian.AppendUint32(out, indexVersion)
	out = binary.BigEndian.AppendUint32(out, uint32(len(packs)))
	out = binary.BigEndian.AppendUint32(out, uint32(len(chunks)))
	for i, p := range packs {
		number[p] = uint32(i)
		out = p.append(out)
		out = binary.BigEndian.AppendUint64(out, uint64(p.plainSize))
		out = append(out, p.header[:]...)
	}
	slices.SortFunc(chunks, func(a, b location) int { return bytes.Compare(a.id[:], b.id[:]) })
	for _, c := range chunks {
		out = append(out, c.id[:]...)
		out = binary.BigEndian.AppendUint32(out, number[c.pack])
		out = binary.BigEndian.AppendUint32(out, c.offset)
		out = binary.BigEndian.AppendUint32(out, c.stored|uint32(c.codec)<<lengthBits)
		out = binary.BigEndian.AppendUint32(out, c.plain|uint32(c.kind)<<lengthBits)
	}
	return out
}

// appendIndex decodes an index object into all and packs. It allocates in proportion to b.
func appendIndex(all []location, packs map[PackID]*indexedPack, b []byte) ([]location, error) {
	if len(b) < indexHeadSize || string(b[:4]) != indexMagic {
		return all, fmt.Errorf("%w: not an index", crypto.ErrDamaged)
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != indexVersion {
		return all, fmt.Errorf("%w: index of version %d", crypto.ErrNewer, v)
	}
	nPacks, nEntries := int64(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint32(b[12:]))
	if nPacks > maxPacksInIndex || indexHeadSize+nPacks*indexPackSize+nEntries*indexEntrySize != int64(len(b)) {
		return all, fmt.Errorf("%w: index of %d bytes for %d packs and %d chunks", crypto.ErrDamaged, len(b), nPacks, nEntries)
	}
	b = b[indexHeadSize:]
	table := make([]*indexedPack, nPacks)
	for i := range table {
		ref, err := parsePackRef(b[:packRefSize])
		if err != nil {
			return all, err
		}
		p := &indexedPack{PackRef: ref, plainSize: int64(binary.BigEndian.Uint64(b[packRefSize:]))}
		copy(p.header[:], b[packRefSize+8:])
		if known := packs[p.ID]; known != nil {
			p = known
		}
		packs[p.ID], table[i] = p, p
		b = b[indexPackSize:]
	}
	all = slices.Grow(all, int(nEntries))
	for ; len(b) > 0; b = b[indexEntrySize:] {
		l, err := parseIndexEntry(b, table)
		if err != nil {
			return all, err
		}
		all = append(all, l)
	}
	return all, nil
}

func parseIndexEntry(b []byte, table []*indexedPack) (location, error) {
	const mask = 1<<lengthBits - 1
	var e packEntry
	copy(e.id[:], b)
	number := binary.BigEndian.Uint32(b[32:])
	e.offset = binary.BigEndian.Uint32(b[36:])
	stored, plain := binary.BigEndian.Uint32(b[40:]), binary.BigEndian.Uint32(b[44:])
	e.stored, e.codec = stored&mask, codec(stored>>lengthBits)
	e.plain, e.kind = plain&mask, Kind(plain>>lengthBits)
	if int64(number) >= int64(len(table)) {
		return location{}, fmt.Errorf("%w: index names pack %d of %d", crypto.ErrDamaged, number, len(table))
	}
	p := table[number]
	if int64(e.offset)+int64(e.stored) > p.plainSize {
		return location{}, fmt.Errorf("%w: index places a chunk beyond the end of pack %v", crypto.ErrDamaged, p.ID)
	}
	return location{e, p}, nil
}
