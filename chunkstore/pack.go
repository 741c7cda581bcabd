package chunkstore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Sizes of packs: the plaintext at which one is closed, before it would be crossed. Sealed, that is just
// below 32 and 8 MiB, which are PADMÉ sizes; a little more would be padded by a whole MiB.
const (
	dataPackSize = 32<<20 - 32<<10
	metaPackSize = 8<<20 - 32<<10
)

// A pack's plaintext ends in a table of its chunks and a trailer.
const (
	packEntrySize   = 1 + 1 + 4 + 4 + 32 // kind, codec, stored length, plain length, id
	packTrailerSize = 4 + 4 + 4          // magic, version, number of chunks
	packMagic       = "HKPK"
	packVersion     = 1
)

// packEntry is one chunk in a pack.
type packEntry struct {
	id     ID
	kind   Kind
	codec  codec
	offset uint32 // in the pack's plaintext
	stored uint32 // encoded length
	plain  uint32 // decoded length
}

// packBuilder collects the encoded chunks of one pack.
type packBuilder struct {
	kind    Kind
	buf     []byte
	entries []packEntry
}

// newPackBuilder begins a pack in buf's memory.
func newPackBuilder(kind Kind, buf []byte) *packBuilder {
	return &packBuilder{kind: kind, buf: buf[:0]}
}

// packRoom is how much memory a pack of the target's size takes with padding and table, open or
// sealed.
func packRoom(kind Kind) int { return packTarget(kind) + packTarget(kind)/16 }

func packTarget(kind Kind) int {
	if kind == Data {
		return dataPackSize
	}
	return metaPackSize
}

// fits reports whether a chunk of n encoded bytes still belongs into the pack. An empty pack takes
// any chunk.
func (b *packBuilder) fits(n int) bool {
	return len(b.entries) == 0 || len(b.buf)+n+(len(b.entries)+1)*packEntrySize+packTrailerSize <= packTarget(b.kind)
}

// grow makes room for n more bytes. A pack begins small, for most nights do not fill one, and takes the room
// of a full one when it is a quarter full.
func (b *packBuilder) grow(n int) {
	need := len(b.buf) + n
	if need <= cap(b.buf) {
		return
	}
	room := max(2*need, leastRoom)
	if room > packRoom(b.kind)/2 {
		room = max(packRoom(b.kind), need)
	}
	b.buf = append(make([]byte, 0, room), b.buf...)
}

const leastRoom = 256 << 10

// sealedSize returns the length that the object may have which the pack will be.
func (b *packBuilder) sealedSize() int64 {
	return crypto.EncapsulationSize + crypto.SealedSize(paddedPlain(int64(len(b.buf)+len(b.entries)*packEntrySize+packTrailerSize)))
}

// add appends one encoded chunk.
func (b *packBuilder) add(e packEntry, encoded []byte) {
	b.grow(len(encoded))
	e.offset, e.stored = uint32(len(b.buf)), uint32(len(encoded))
	b.buf = append(b.buf, encoded...)
	b.entries = append(b.entries, e)
}

// merge appends all chunks of o.
func (b *packBuilder) merge(o *packBuilder) {
	for _, e := range o.entries {
		b.add(e, o.buf[e.offset:][:e.stored])
	}
}

// finish returns the plaintext of the pack: chunks, zero padding, table, trailer. The padding
// brings the sealed object to a PADMÉ size, so that its length says little about its chunks.
func (b *packBuilder) finish() []byte {
	tail := len(b.entries)*packEntrySize + packTrailerSize
	pad := paddedPlain(int64(len(b.buf)+tail)) - int64(len(b.buf)+tail)
	b.grow(int(pad) + tail)
	out := b.buf[:len(b.buf)+int(pad)]
	clear(out[len(b.buf):])
	for _, e := range b.entries {
		out = append(out, byte(e.kind), byte(e.codec))
		out = binary.BigEndian.AppendUint32(out, e.stored)
		out = binary.BigEndian.AppendUint32(out, e.plain)
		out = append(out, e.id[:]...)
	}
	out = append(out, packMagic...)
	out = binary.BigEndian.AppendUint32(out, packVersion)
	return binary.BigEndian.AppendUint32(out, uint32(len(b.entries)))
}

// paddedPlain returns the greatest plaintext size whose sealed object is not larger than the PADMÉ
// size of the object that n bytes would give.
func paddedPlain(n int64) int64 {
	stream := padme(crypto.SealedSize(n)) - crypto.HeaderSize
	const pkg, overhead = 64 << 10, 32 // DARE 2.0
	return stream/(pkg+overhead)*pkg + max(stream%(pkg+overhead)-overhead, 0)
}

// padme rounds up to the next PADMÉ size: a number whose floating point mantissa is no longer than
// its exponent (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication
// with PURBs", PoPETs 2019, section 4). It adds at most 12 %, 3 % above 4 MiB.
func padme(n int64) int64 {
	if n < 2 {
		return n
	}
	e := bits.Len64(uint64(n)) - 1
	s := bits.Len(uint(e))
	mask := int64(1)<<(e-s) - 1
	return (n + mask) &^ mask
}

// parsePack reads the table of a pack's plaintext. It allocates no more than the table's own size.
func parsePack(plain []byte) ([]packEntry, error) {
	return parseTable(plain, int64(len(plain)))
}

// tableSize returns the length of table and trailer, of which tail has the last bytes.
func tableSize(tail []byte) (int64, error) {
	if len(tail) < packTrailerSize {
		return 0, fmt.Errorf("%w: pack of %d bytes", crypto.ErrDamaged, len(tail))
	}
	trailer := tail[len(tail)-packTrailerSize:]
	if string(trailer[:4]) != packMagic {
		return 0, fmt.Errorf("%w: pack without trailer", crypto.ErrDamaged)
	}
	if v := binary.BigEndian.Uint32(trailer[4:]); v != packVersion {
		return 0, fmt.Errorf("%w: pack of version %d", crypto.ErrNewer, v)
	}
	return int64(binary.BigEndian.Uint32(trailer[8:]))*packEntrySize + packTrailerSize, nil
}

// parseTable reads the table at the end of tail, which is the end of a pack's plaintext of size bytes. It
// allocates no more than the table's own size.
func parseTable(tail []byte, size int64) ([]packEntry, error) {
	n, err := tableSize(tail)
	if err != nil {
		return nil, err
	}
	if n > int64(len(tail)) {
		return nil, fmt.Errorf("%w: pack's table of %d bytes is longer than the pack", crypto.ErrDamaged, n)
	}
	table, start := tail[int64(len(tail))-n:], size-n
	entries := make([]packEntry, (n-packTrailerSize)/packEntrySize)
	var offset int64
	for i := range entries {
		b := table[i*packEntrySize:]
		e := &entries[i]
		e.kind, e.codec = Kind(b[0]), codec(b[1])
		e.stored, e.plain = binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint32(b[6:])
		copy(e.id[:], b[10:])
		e.offset = uint32(offset)
		if offset += int64(e.stored); offset > start {
			return nil, fmt.Errorf("%w: chunks of a pack reach into its table", crypto.ErrDamaged)
		}
	}
	return entries, nil
}

// openPack opens a whole stored pack and returns its plaintext and table.
func openPack(keys *crypto.Keys, ref PackRef, object []byte) ([]byte, []packEntry, error) {
	if sha256.Sum256(object) != ref.ID {
		return nil, nil, fmt.Errorf("%w: pack's bytes do not match its name", crypto.ErrDamaged)
	}
	plain, err := keys.Open(ref.sealType(), ref.sealName(), object)
	if err != nil {
		return nil, nil, err
	}
	entries, err := parsePack(plain)
	if err == nil {
		err = ownTable(ref, object, entries)
	}
	return plain, entries, err
}

// sealPack seals a finished pack in buf's memory and proves, from the sealed bytes alone, that every
// chunk comes back: klauspost zstd has corrupted data twice in restic's history, and memory errs too.
// The builder's own memory serves for that, and scratch for what is decoded, so its chunks are gone;
// its entries stay.
func sealPack(keys *crypto.Keys, coder *coder, w crypto.WriterID, b *packBuilder, buf []byte, scratch *[]byte) (PackRef, []byte, error) {
	ref := PackRef{Kind: b.kind, Writer: w}
	b.buf = b.finish()
	object, open, err := keys.SealPack(buf, ref.sealType(), ref.sealName(), b.buf)
	if err != nil {
		return ref, nil, err
	}
	ref.ID = sha256.Sum256(object)
	clear(b.buf)
	plain, err := open(b.buf)
	var entries []packEntry
	if err == nil {
		entries, err = parsePack(plain)
	}
	if err != nil {
		return ref, nil, fmt.Errorf("verify before upload: %w", err)
	}
	if len(entries) != len(b.entries) {
		return ref, nil, fmt.Errorf("verify before upload: %d chunks, packed %d", len(entries), len(b.entries))
	}
	for i, e := range entries {
		if e != b.entries[i] {
			return ref, nil, fmt.Errorf("verify before upload: chunk %d is not what was packed", i)
		}
		if err = coder.verify(keys, e, plain[e.offset:][:e.stored], scratch); err != nil {
			return ref, nil, fmt.Errorf("verify before upload: %w", err)
		}
	}
	return ref, object, nil
}

// indexPack describes a stored pack for the index.
func indexPack(ref PackRef, object []byte) (*indexedPack, error) {
	size, err := crypto.PlainSize(int64(len(object)) - crypto.Encapsulated(object))
	if err != nil {
		return nil, err
	}
	p := &indexedPack{PackRef: ref, plainSize: size}
	copy(p.header[:], object)
	return p, nil
}
