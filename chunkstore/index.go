package chunkstore

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

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
}

// storedSize returns the length of the pack's object.
func (p *indexedPack) storedSize() int64 {
	return crypto.Encapsulated(p.header[:]) + crypto.SealedSize(p.plainSize)
}

// ofHost reports whether the pack is a put-only host's, its writer's.
func (p *indexedPack) ofHost() bool { return crypto.OfHost(p.header[:]) }

// location says where a chunk lies.
type location struct {
	packEntry
	pack *indexedPack
}

// standing says what a location is worth.
type standing int

const (
	absent    standing = iota
	deleted            // on record as deleted: another copy is better, and this one is gone in general
	condemned          // marked by a collection: can be read, but counts as absent for a backup
	usable
)

// index maps chunk ids to locations. Lookups may run beside additions and loads; for what was
// loaded they take no lock.
type index struct {
	loaded atomic.Pointer[listing] // what the repository's index objects list; never nil

	mu    sync.RWMutex    // of the fields below, and of every change of loaded
	fresh map[ID]location // chunks uploaded by this process that loaded does not list yet
	own   map[PackID]ID   // the packs of fresh, each with one of its chunks

	// unlisted are packs of fresh that no index object lists yet, with the session that will. It may fail to: nobody else
	// relies on them.
	unlisted map[PackID]SessionID
}

func newIndex() *index {
	x := &index{fresh: map[ID]location{}, own: map[PackID]ID{}, unlisted: map[PackID]SessionID{}}
	x.loaded.Store(newListing(emptyBase(), nil, nil, nil))
	return x
}

// lookup returns the best location of a chunk: one in a pack that is not condemned if there is any.
// An error says that the index could not be read, which is not the same as an absent chunk.
func (x *index) lookup(id ID) (location, bool, error) {
	l, s, err := x.find(id)
	return l, s != absent, err
}

// locate is lookup of a chunk that must be there: ErrChunkMissing if it is not.
func (x *index) locate(id ID) (location, error) {
	l, ok, err := x.lookup(id)
	if err == nil && !ok {
		err = fmt.Errorf("chunk %v: %w", id, ErrChunkMissing)
	}
	return l, err
}

// usable is lookup for a backup: chunks whose only copies lie in condemned packs count as absent.
func (x *index) usable(id ID) (location, bool, error) {
	l, s, err := x.find(id)
	return l, s == usable, err
}

// usableBy is usable for a session: what another one has uploaded counts as absent until an index object lists it.
func (x *index) usableBy(by SessionID, id ID) (location, bool, error) {
	l, ok, err := x.usable(id)
	if !ok || err != nil {
		return l, ok, err
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	of, unlisted := x.unlisted[l.pack.ID]
	return l, !unlisted || of == by, nil
}

func (x *index) find(id ID) (location, standing, error) {
	for {
		loaded := x.loaded.Load()
		l, s, err := loaded.find(id)
		if s == usable || err != nil {
			return l, s, err
		}
		x.mu.RLock()
		mine, fresh := x.fresh[id]
		moved := x.loaded.Load() != loaded
		x.mu.RUnlock()
		switch {
		case moved: // from fresh to a newer listing, perhaps: look there
			continue
		case fresh && loaded.standing(mine.pack) > s:
			return mine, loaded.standing(mine.pack), nil
		}
		return l, s, nil
	}
}

// add makes the chunks of one pack known that a session has uploaded, and will list.
func (x *index) add(by SessionID, p *indexedPack, entries []packEntry) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unlisted[p.ID] = by
	for _, e := range entries {
		x.fresh[e.id] = location{e, p}
		x.own[p.ID] = e.id
	}
}

// listed says that an index object lists packs now.
func (x *index) listed(packs []*indexedPack) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, p := range packs {
		delete(x.unlisted, p.ID)
	}
}

// replace puts l in the place of what was loaded before. Chunks that this process has uploaded but
// that l does not list yet stay known.
func (x *index) replace(l *listing) {
	listed := x.listedBy(l)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.loaded.Store(l)
	for id, at := range x.fresh {
		if listed[at.pack.ID] {
			delete(x.fresh, id)
		}
	}
	for id := range listed {
		delete(x.own, id)
		delete(x.unlisted, id)
	}
}

// listedBy returns which of the packs of fresh l lists. A delta holds all chunks of a pack, so one of
// them stands for all.
func (x *index) listedBy(l *listing) map[PackID]bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	listed := map[PackID]bool{}
	for pack, id := range x.own {
		found := false
		err := l.each(id, func(at location, _ int) bool {
			found = at.pack.ID == pack
			return !found
		})
		if err == nil && found { // what cannot be told stays in memory, where it does no harm
			listed[pack] = true
		}
	}
	return listed
}

// packUse is a pack with what the index says of its chunks.
type packUse struct {
	*indexedPack
	chunks int
	plain  int64 // bytes of all chunks, decoded
}

// packs calls fn for every pack once, in no certain order.
func (x *index) packs(fn func(packUse)) error {
	x.mu.RLock()
	loaded, more := x.loaded.Load(), map[PackID]packUse{}
	for _, l := range x.fresh {
		addUse(more, l)
	}
	x.mu.RUnlock()
	return loaded.uses(more, fn)
}

func addUse(uses map[PackID]packUse, l location) {
	u := uses[l.pack.ID]
	uses[l.pack.ID] = packUse{l.pack, u.chunks + 1, u.plain + int64(l.plain)}
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

// delta is the plaintext of an index object, split into its two tables. Both are as parseIndex
// promises.
type delta struct {
	packs   []byte // records of indexPackSize
	entries []byte // records of indexEntrySize, each within a pack of packs
}

// parseIndex checks an index object's plaintext, of which the delta keeps parts. It allocates
// nothing.
func parseIndex(b []byte) (delta, error) {
	if len(b) < indexHeadSize || string(b[:4]) != indexMagic {
		return delta{}, fmt.Errorf("%w: not an index", crypto.ErrDamaged)
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != indexVersion {
		return delta{}, fmt.Errorf("%w: index of version %d", crypto.ErrNewer, v)
	}
	nPacks, nEntries := int64(binary.BigEndian.Uint32(b[8:])), int64(binary.BigEndian.Uint32(b[12:]))
	if nPacks > maxPacksInIndex || indexHeadSize+nPacks*indexPackSize+nEntries*indexEntrySize != int64(len(b)) {
		return delta{}, fmt.Errorf("%w: index of %d bytes for %d packs and %d chunks", crypto.ErrDamaged, len(b), nPacks, nEntries)
	}
	b = b[indexHeadSize:]
	d := delta{packs: b[:nPacks*indexPackSize], entries: b[nPacks*indexPackSize:]}
	for p := range slices.Chunk(d.packs, indexPackSize) {
		if _, err := parsePackRef(p); err != nil {
			return delta{}, err
		}
	}
	for e := range slices.Chunk(d.entries, indexEntrySize) {
		n := entryPack(e)
		if int64(n) >= nPacks {
			return delta{}, fmt.Errorf("%w: index names pack %d of %d", crypto.ErrDamaged, n, nPacks)
		}
		p := d.packs[int64(n)*indexPackSize:]
		if err := parseEntry(e).within(packRecordSize(p)); err != nil {
			return delta{}, fmt.Errorf("index: pack %v: %w", packRecordID(p), err)
		}
	}
	return d, nil
}

// parseIndexedPack decodes one record of a pack table.
func parseIndexedPack(b []byte) (indexedPack, error) {
	ref, err := parsePackRef(b)
	p := indexedPack{PackRef: ref, plainSize: packRecordSize(b)}
	copy(p.header[:], b[packRefSize+8:])
	return p, err
}

func packRecordID(b []byte) PackID { return PackID(b[packRefSize-32 : packRefSize]) }

func packRecordSize(b []byte) int64 { return int64(binary.BigEndian.Uint64(b[packRefSize:])) }

// entryPack returns the number of the pack in an entry's record.
func entryPack(b []byte) uint32 { return binary.BigEndian.Uint32(b[32:]) }

func setEntryPack(b []byte, n uint32) { binary.BigEndian.PutUint32(b[32:], n) }

// entryPrefix is the number by which entries are sorted first.
func entryPrefix(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// compareEntries orders entries' records by id, and those of one id in some way.
func compareEntries(a, b []byte) int { return bytes.Compare(a[:indexEntrySize], b[:indexEntrySize]) }

// writeSorted writes the entries' records to w in order.
func writeSorted(w io.Writer, entries []byte) error {
	type place struct {
		prefix uint64
		at     int
	}
	places := make([]place, len(entries)/indexEntrySize)
	for i := range places {
		places[i] = place{entryPrefix(entries[i*indexEntrySize:]), i * indexEntrySize}
	}
	slices.SortFunc(places, func(a, b place) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		return compareEntries(entries[a.at:], entries[b.at:])
	})
	for _, p := range places {
		if _, err := w.Write(entries[p.at:][:indexEntrySize]); err != nil {
			return err
		}
	}
	return nil
}

// sortedEntries returns a sorted copy of the entries' records.
func sortedEntries(entries []byte) []byte {
	out := bytes.NewBuffer(make([]byte, 0, len(entries)))
	writeSorted(out, entries) // a Buffer takes everything
	return out.Bytes()
}

// entriesOf returns those records of the sorted ones that have this id, and the number of the first.
func entriesOf(sorted []byte, id ID) ([]byte, int) {
	low, high := 0, len(sorted)/indexEntrySize
	for low < high {
		if mid := (low + high) / 2; bytes.Compare(sorted[mid*indexEntrySize:][:len(id)], id[:]) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	sorted = sorted[low*indexEntrySize:]
	n := 0
	for n < len(sorted) && ID(sorted[n:][:len(id)]) == id {
		n += indexEntrySize
	}
	return sorted[:n], low
}

// parseEntry decodes one entry's record, but for its pack.
func parseEntry(b []byte) packEntry {
	const mask = 1<<lengthBits - 1
	stored, plain := binary.BigEndian.Uint32(b[40:]), binary.BigEndian.Uint32(b[44:])
	return packEntry{
		id: ID(b[:32]), offset: binary.BigEndian.Uint32(b[36:]),
		stored: stored & mask, codec: codec(stored >> lengthBits),
		plain: plain & mask, kind: Kind(plain >> lengthBits),
	}
}

// within checks that the chunk lies in a pack of this plaintext size.
func (e packEntry) within(plainSize int64) error {
	if int64(e.offset)+int64(e.stored) > plainSize {
		return fmt.Errorf("%w: a chunk is placed beyond the pack's end", crypto.ErrDamaged)
	}
	return nil
}

// avoid lets chunks in these packs count as absent, beside those that do already, until the index is loaded again.
func (x *index) avoid(packs map[PackID]bool) {
	l := x.loaded.Load()
	all := maps.Clone(packs)
	maps.Copy(all, l.condemned)
	n := newListing(l.base, l.packTable, l.recent, all)
	n.deleted = l.deleted
	x.replace(n)
}

// lose lets chunks be found elsewhere than in these packs, where they are, until the index is loaded again.
func (x *index) lose(packs map[PackID]bool) {
	l := x.loaded.Load()
	all := maps.Clone(packs)
	maps.Copy(all, l.deleted)
	n := newListing(l.base, l.packTable, l.recent, l.condemned)
	n.deleted = all
	x.replace(n)
}
