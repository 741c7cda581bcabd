package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// ErrFormat says that a stream is not what this package writes: damaged, or of a newer version.
var ErrFormat = errors.New("malformed archive")

// Decoder reads what an Encoder wrote, and nothing else: a stream that it accepts encodes to the
// same bytes again. Not for concurrent use.
type Decoder struct {
	r     *bufio.Reader
	body  []byte // of the last record, reused
	begun bool
	count uint64 // of records read
	at    int64  // where the last record lies in the stream
	next  int64  // and the one after that
	order order
	err   error
}

// NewDecoder returns a Decoder that reads r to its end.
func NewDecoder(r io.Reader) *Decoder { return &Decoder{r: bufio.NewReaderSize(r, 64<<10)} }

// Decode returns the next entry, io.EOF after the last one of a complete stream. Errors that lie
// in the stream's bytes wrap ErrFormat. Every error is final.
func (d *Decoder) Decode() (Entry, error) {
	if d.err != nil {
		return Entry{}, d.err
	}
	e, err := d.decode()
	if err != nil {
		d.err = err
		if errors.Is(err, io.EOF) {
			d.err = io.EOF
		}
		return Entry{}, d.err
	}
	return e, nil
}

func (d *Decoder) decode() (Entry, error) {
	if err := d.record(); err != nil {
		return Entry{}, err
	}
	e, err := parseRecord(d.body)
	if err == nil {
		err = d.order.next(&e)
	}
	if err != nil {
		return Entry{}, d.bad("%w", err)
	}
	return e, nil
}

// record reads the body of the next record into d.body, io.EOF after the last one. It does not look
// into it.
func (d *Decoder) record() error {
	if !d.begun {
		if err := d.begin(); err != nil {
			return err
		}
		d.begun, d.next = true, int64(len(treeMagic))
	}
	size, err := d.uvarint()
	if err != nil {
		return err
	}
	if size == 0 {
		return d.end()
	}
	if size > maxRecord {
		return d.bad("record of %d bytes", size)
	}
	d.count++
	d.at = d.next
	d.next += int64((bits.Len64(size)+6)/7) + int64(size) // the number takes 7 bits a byte
	return d.read(int(size))
}

func (d *Decoder) begin() error {
	if err := d.read(len(treeMagic)); err != nil {
		return err
	}
	n := len(treeMagic) - 1
	if string(d.body[:n]) != treeMagic[:n] {
		return d.bad("not a stream of records")
	}
	if d.body[n] != treeMagic[n] {
		return d.bad("version %d, this program knows %d", d.body[n], treeMagic[n])
	}
	return nil
}

// end checks the trailer and that nothing follows it.
func (d *Decoder) end() error {
	n, err := d.uvarint()
	if err != nil {
		return err
	}
	if n != d.count {
		return d.bad("the end counts %d records", n)
	}
	if _, err := d.r.ReadByte(); err == nil {
		return d.bad("bytes after the end")
	} else if !errors.Is(err, io.EOF) {
		return d.fail(err)
	}
	return io.EOF
}

// read reads n bytes into d.body. The buffer grows with what was really read: a length that lies
// costs no memory.
func (d *Decoder) read(n int) error {
	if n <= cap(d.body) {
		d.body = d.body[:n]
		_, err := io.ReadFull(d.r, d.body)
		return d.fail(err)
	}
	d.body = slices.Grow(d.body[:0], min(n, 64<<10))
	for {
		start := len(d.body)
		d.body = d.body[:min(n, cap(d.body))]
		if _, err := io.ReadFull(d.r, d.body[start:]); err != nil || len(d.body) == n {
			return d.fail(err)
		}
		d.body = append(make([]byte, 0, min(n, 2*len(d.body))), d.body...)
	}
}

func (d *Decoder) uvarint() (uint64, error) {
	v, err := readUvarint(d.r)
	if errors.Is(err, ErrFormat) {
		return 0, d.bad("malformed number")
	}
	return v, d.fail(err)
}

// bad makes the error of bytes that break the format.
func (d *Decoder) bad(format string, args ...any) error {
	return fmt.Errorf("%w: after %d records, at %q: %w", ErrFormat, d.order.count, d.order.path, fmt.Errorf(format, args...))
}

// fail makes the error of a read: a stream that ends early is a broken format, and never io.EOF.
func (d *Decoder) fail(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return d.bad("the stream ends early")
	}
	return fmt.Errorf("records: %w", err)
}

// uvarint is binary.Uvarint that refuses what is not the shortest form (n <= 0).
func uvarint(b []byte) (v uint64, n int) {
	v, n = binary.Uvarint(b)
	if n > 1 && b[n-1] == 0 {
		return 0, 0
	}
	return v, n
}

// parseRecord parses the body of a record and holds it to the rules.
func parseRecord(b []byte) (Entry, error) {
	p := parser{b: b}
	e := p.entry()
	if p.err == nil && len(p.b) > 0 {
		p.err = fmt.Errorf("%d bytes after its end", len(p.b))
	}
	if p.err == nil {
		p.err = e.validate()
	}
	return e, p.err
}

// parser takes a record apart. After the first error it returns zeros.
type parser struct {
	b   []byte
	err error
}

func (p *parser) entry() Entry {
	e := Entry{Type: Type(p.byte())}
	flags := p.byte()
	e.Path = string(p.bytes(maxPath))
	if e.Type == Hardlink {
		e.Link = string(p.bytes(maxPath))
		p.demand(flags == 0, "flags")
		return e
	}
	e.Opaque, e.Torn = flags&flagOpaque != 0, flags&flagTorn != 0
	e.Mode = uint32(p.upTo(maxMode))
	e.UID = uint32(p.upTo(math.MaxUint32))
	e.GID = uint32(p.upTo(math.MaxUint32))
	e.MTime = p.time()
	switch e.Type {
	case File:
		e.CTime = p.time()
		e.Ino = p.upTo(math.MaxUint64)
		e.Size = int64(p.upTo(math.MaxInt64))
		if flags&flagInline != 0 {
			p.demand(e.Size > 0 && e.Size <= InlineMax, "size of inline content")
			e.Inline = bytes.Clone(p.take(uint64(e.Size)))
		}
	case Symlink:
		e.Link = string(p.bytes(maxPath))
	case CharDevice, BlockDevice:
		e.Rdev = p.upTo(math.MaxUint64)
	}
	if flags&flagXattrs != 0 {
		e.Xattrs = p.xattrs()
	}
	if flags&flagExtents != 0 {
		e.Extents = p.extents()
	}
	p.demand(flags&^flagsKnown == 0, "flags")
	p.demand(e.Type == File || flags&(flagInline|flagExtents) == 0, "flags")
	return e
}

func (p *parser) xattrs() []Xattr {
	n := p.upTo(min(maxXattrs, uint64(len(p.b)/smallestXattr)))
	p.demand(n > 0, "number of extended attributes")
	all := p.b
	for range 2 * n {
		p.bytes(maxXattrValue)
	}
	if p.err != nil {
		return nil
	}
	all = all[:len(all)-len(p.b)]
	names, values := string(all), bytes.Clone(all) // what they are parts of, each
	again := parser{b: all}
	next := func(limit uint64) (start, end int) {
		part := again.bytes(limit)
		end = len(all) - len(again.b)
		return end - len(part), end
	}
	xs := make([]Xattr, n)
	for i := range xs {
		start, end := next(maxXattrName)
		xs[i].Name = names[start:end]
		start, end = next(maxXattrValue)
		xs[i].Value = values[start:end:end]
	}
	p.err = again.err
	return xs
}

// What the counts in a record may claim at most is bounded by the bytes that are there.
const (
	smallestXattr  = 3  // a letter, and the lengths
	smallestExtent = 18 // a hole and data in turn: 2 + 36 bytes
	smallestRef    = len(chunkstore.ID{}) + 2
)

func (p *parser) extents() []Extent {
	n := p.upTo(maxRecord)
	p.demand(n > 0, "number of extents")
	xs := make([]Extent, 0, min(n, 1+uint64(len(p.b))/smallestExtent))
	refs := make([]chunkstore.Ref, 0, len(p.b)/smallestRef) // of all extents
	for range n {
		if p.err != nil {
			return nil
		}
		x := Extent{Length: int64(p.upTo(math.MaxInt64))}
		count := p.upTo(uint64(len(p.b) / smallestRef))
		x.Hole = count == 0
		p.demand(len(xs) == 0 || x.Hole != xs[len(xs)-1].Hole, "two holes or two data extents side by side")
		if !x.Hole {
			begin := len(refs)
			refs = p.refs(refs, count)
			x.Refs = refs[begin:len(refs):len(refs)]
		}
		xs = append(xs, x)
	}
	return xs
}

// refs appends n references to rs.
func (p *parser) refs(rs []chunkstore.Ref, n uint64) []chunkstore.Ref {
	for range n {
		var r chunkstore.Ref
		copy(r.ID[:], p.take(uint64(len(r.ID))))
		r.Offset = uint32(p.upTo(math.MaxUint32))
		r.Length = uint32(p.upTo(math.MaxUint32))
		rs = append(rs, r)
	}
	return rs
}

func (p *parser) time() Time {
	s, n := binary.Varint(p.b)
	if n <= 0 || n > 1 && p.b[n-1] == 0 {
		p.demand(false, "time")
		return Time{}
	}
	p.b = p.b[n:]
	return Time{Sec: s, Nsec: int32(p.upTo(maxNsec))}
}

// bytes takes a length, at most limit, and that many bytes. They alias the record.
func (p *parser) bytes(limit uint64) []byte { return p.take(p.upTo(limit)) }

func (p *parser) take(n uint64) []byte {
	if p.err != nil {
		return nil
	}
	if n > uint64(len(p.b)) {
		p.demand(false, "length")
		return nil
	}
	b := p.b[:n]
	p.b = p.b[n:]
	return b
}

func (p *parser) byte() byte {
	if b := p.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (p *parser) upTo(limit uint64) uint64 {
	if p.err != nil {
		return 0
	}
	v, n := uvarint(p.b)
	if n <= 0 || v > limit {
		p.demand(false, "number")
		return 0
	}
	p.b = p.b[n:]
	return v
}

// demand notes the first thing that is not as it must be.
func (p *parser) demand(ok bool, what string) {
	if !ok && p.err == nil {
		p.err = errors.New("malformed " + what)
	}
}
