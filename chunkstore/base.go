package chunkstore

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math"
	"math/bits"
	"slices"

	"github.com/hakobune-dr/hakobune/crypto"
)

// A base's file: magic, version, numbers of index objects, packs and entries; a tag of each index
// object's name, sorted; the pack table and the sorted entries as in an index object; a MAC over all of
// it under the key for local files.
const (
	baseMagic    = "HKIB"
	baseVersion  = 1
	baseHeadSize = 4 + 4 + 4 + 4 + 4
	nameTagSize  = 16
	baseBlock    = 1 << 20 // bytes read or written at a time

	// bucketEntries is about how many entries share a slot of the fan-out table, and so are read for a
	// lookup: 32 are 1.5 KiB, which costs hardly more than one, for an eighth of a byte of memory each.
	bucketEntries = 32
)

// base is a large part of the index in a local file: what many index objects list, merged. Lookups
// read the file, so that the system's page cache holds it rather than this process. It does not
// change, and is safe for concurrent use.
type base struct {
	file    io.ReaderAt
	kept    bool   // the file lies in the cache, for later runs
	objects []byte // tags of the names of the index objects, sorted
	packs   uint32
	entries uint32

	fanout []uint32 // number of the first entry of each bucket; one more for the end
	shift  uint     // an id's first 32 bits, shifted right by it, are the bucket's number
	last   uint64   // prefix of the last entry noted
}

// newBase prepares a base whose entries are to be noted in order.
func newBase(file io.ReaderAt, objects []byte, packs, entries uint32) *base {
	n := bits.Len32(entries / bucketEntries)
	return &base{
		file: file, objects: objects, packs: packs, entries: entries,
		fanout: make([]uint32, 1<<n+1), shift: uint(32 - n),
	}
}

func emptyBase() *base { return newBase(bytes.NewReader(nil), nil, 0, 0) }

func (b *base) bucketOf(entry []byte) uint32 { return binary.BigEndian.Uint32(entry) >> b.shift }

// note takes the next entry into the fan-out table. settle must follow the last one.
func (b *base) note(entry []byte) error {
	prefix := entryPrefix(entry)
	if prefix < b.last || entryPack(entry) >= b.packs {
		return fmt.Errorf("%w: an entry is out of order or in no pack", crypto.ErrDamaged)
	}
	b.last = prefix
	b.fanout[b.bucketOf(entry)+1]++
	return nil
}

func (b *base) settle() {
	for i := range b.fanout[1:] {
		b.fanout[i+1] += b.fanout[i]
	}
}

func (b *base) packsAt() int64 { return baseHeadSize + int64(len(b.objects)) }

func (b *base) entriesAt() int64 { return b.packsAt() + int64(b.packs)*indexPackSize }

func (b *base) packReader() *bufio.Reader {
	return b.reader(b.packsAt(), int64(b.packs)*indexPackSize)
}

func (b *base) entryReader() *bufio.Reader {
	return b.reader(b.entriesAt(), int64(b.entries)*indexEntrySize)
}

func (b *base) reader(at, n int64) *bufio.Reader {
	return bufio.NewReaderSize(io.NewSectionReader(b.file, at, n), int(min(n, baseBlock)))
}

// bucket reads the entries among which those of id are, sorted, into buf or a larger one, and
// returns the number of the first of them too.
func (b *base) bucket(id ID, buf []byte) (entries []byte, number int, err error) {
	i := b.bucketOf(id[:])
	first, end := b.fanout[i], b.fanout[i+1]
	buf = slices.Grow(buf[:0], int(end-first)*indexEntrySize)[:int(end-first)*indexEntrySize]
	if len(buf) > 0 {
		_, err = b.file.ReadAt(buf, b.entriesAt()+int64(first)*indexEntrySize)
	}
	return buf, int(first), err
}

// nameTag stands for the name of an index object.
func nameTag(name string) [nameTagSize]byte {
	sum := sha256.Sum256([]byte(name))
	return [nameTagSize]byte(sum[:])
}

// newer returns the names of index objects that the base lacks, and whether it may be used where
// exactly those of names exist: not if one is gone that it has, for then so may be its packs.
func (b *base) newer(names []string) ([]string, bool) {
	var lacking []string
	found := 0
	for _, name := range names {
		if b.has(nameTag(name)) {
			found++
		} else {
			lacking = append(lacking, name)
		}
	}
	return lacking, found == len(b.objects)/nameTagSize
}

func (b *base) has(tag [nameTagSize]byte) bool {
	low, high := 0, len(b.objects)/nameTagSize
	for low < high {
		mid := (low + high) / 2
		switch c := bytes.Compare(b.objects[mid*nameTagSize:][:nameTagSize], tag[:]); {
		case c == 0:
			return true
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return false
}

// sortTags sorts the tags of names.
func sortTags(tags []byte) []byte {
	all := slices.SortedFunc(slices.Chunk(tags, nameTagSize), bytes.Compare)
	return slices.Concat(all...)
}

// head returns what precedes the pack table.
func (b *base) head() []byte {
	out := make([]byte, 0, b.packsAt())
	out = append(out, baseMagic...)
	for _, n := range []uint32{baseVersion, uint32(len(b.objects) / nameTagSize), b.packs, b.entries} {
		out = binary.BigEndian.AppendUint32(out, n)
	}
	return append(out, b.objects...)
}

// readBase verifies a file of size bytes by reading it once, with a fresh MAC under the key for local
// files. It allocates less than the file's size, and nothing before that is known to be right.
func readBase(file io.ReaderAt, size int64, mac hash.Hash) (*base, error) {
	var head [baseHeadSize]byte
	if _, err := file.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	if string(head[:4]) != baseMagic || binary.BigEndian.Uint32(head[4:]) != baseVersion {
		return nil, fmt.Errorf("%w: not a local index of version %d", crypto.ErrDamaged, baseVersion)
	}
	objects, packs, entries := binary.BigEndian.Uint32(head[8:]), binary.BigEndian.Uint32(head[12:]), binary.BigEndian.Uint32(head[16:])
	body := baseHeadSize + int64(objects)*nameTagSize + int64(packs)*indexPackSize + int64(entries)*indexEntrySize
	if size != body+int64(mac.Size()) {
		return nil, fmt.Errorf("%w: local index of %d bytes for %d objects, %d packs and %d chunks", crypto.ErrDamaged, size, objects, packs, entries)
	}
	b := newBase(file, make([]byte, int64(objects)*nameTagSize), packs, entries)
	if err := b.scan(io.TeeReader(io.NewSectionReader(file, 0, body), mac), body); err != nil {
		return nil, err
	}
	want := make([]byte, mac.Size())
	if _, err := file.ReadAt(want, body); err != nil && err != io.EOF {
		return nil, err
	}
	if !hmac.Equal(mac.Sum(nil), want) {
		return nil, fmt.Errorf("%w: local index without this repository's authentication", crypto.ErrDamaged)
	}
	return b, nil
}

// scan reads the whole of a file of size bytes, but for the MAC.
func (b *base) scan(r io.Reader, size int64) error {
	in := bufio.NewReaderSize(r, int(min(size, baseBlock)))
	if _, err := in.Discard(baseHeadSize); err != nil {
		return err
	}
	if _, err := io.ReadFull(in, b.objects); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, in, int64(b.packs)*indexPackSize); err != nil {
		return err
	}
	for range b.entries {
		entry, err := in.Peek(indexEntrySize)
		if err != nil {
			return err
		}
		if err := b.note(entry); err != nil {
			return err
		}
		if _, err := in.Discard(indexEntrySize); err != nil {
			return err
		}
	}
	b.settle()
	return nil
}

// baseWriter writes a base's file from start to end.
type baseWriter struct {
	base *base
	mac  hash.Hash
	file io.Writer
	out  *bufio.Writer // to file and mac
}

// newBaseWriter starts the file of b. The MAC is a fresh one under the key for local files.
func newBaseWriter(file io.Writer, b *base, mac hash.Hash) (*baseWriter, error) {
	w := &baseWriter{b, mac, file, bufio.NewWriterSize(io.MultiWriter(file, mac), baseBlock)}
	_, err := w.out.Write(b.head())
	return w, err
}

// pack writes the next record of the pack table.
func (w *baseWriter) pack(record []byte) error {
	_, err := w.out.Write(record)
	return err
}

// entry writes the next entry.
func (w *baseWriter) entry(record []byte) error {
	if err := w.base.note(record); err != nil {
		return err
	}
	_, err := w.out.Write(record)
	return err
}

// finish completes the file.
func (w *baseWriter) finish() error {
	if err := w.out.Flush(); err != nil {
		return err
	}
	w.base.settle()
	_, err := w.file.Write(w.mac.Sum(nil))
	return err
}

// countFits refuses what a base cannot number.
func countFits(what string, n int64) (uint32, error) {
	if n > math.MaxUint32 {
		return 0, fmt.Errorf("%d %s in the index: this program handles %d", n, what, uint32(math.MaxUint32))
	}
	return uint32(n), nil
}
