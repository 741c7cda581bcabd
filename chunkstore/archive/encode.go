package archive

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// treeMagic opens a stream of records. Its last byte is the version.
const treeMagic = "HKTREE\x00\x01"

// Encoder writes a stream of records. Not for concurrent use.
type Encoder struct {
	w     io.Writer
	buf   []byte // what is not yet written
	body  []byte // of the last record, reused
	order order
	err   error
}

// NewEncoder returns an Encoder that writes to w, many records at a time. Nothing is complete
// before Close.
func NewEncoder(w io.Writer) *Encoder {
	return &Encoder{w: w, buf: append(make([]byte, 0, 2*encoderBuffer), treeMagic...)}
}

const encoderBuffer = 64 << 10

// Encode adds one record. It refuses an entry that the format has no room for, that does not come
// after the one before by Compare, or that lies beneath something that is no directory. Every
// error is final.
func (n *Encoder) Encode(e Entry) error {
	if n.err != nil {
		return n.err
	}
	if err := n.add(&e); err != nil {
		n.err = fmt.Errorf("record %q: %w", e.Path, err)
		return n.err
	}
	if len(n.buf) >= encoderBuffer {
		return n.flush()
	}
	return nil
}

func (n *Encoder) add(e *Entry) error {
	if err := e.validate(); err != nil {
		return err
	}
	if err := n.order.next(e); err != nil {
		return err
	}
	n.body = appendRecord(n.body[:0], e)
	if len(n.body) > maxRecord {
		return fmt.Errorf("record of %d bytes", len(n.body))
	}
	n.buf = binary.AppendUvarint(n.buf, uint64(len(n.body)))
	n.buf = append(n.buf, n.body...)
	return nil
}

func (n *Encoder) flush() error {
	if _, err := n.w.Write(n.buf); err != nil {
		n.err = fmt.Errorf("records: %w", err)
		return n.err
	}
	n.buf = n.buf[:0]
	return nil
}

// Close writes the end of the stream, with the number of records. It does not close the writer.
func (n *Encoder) Close() error {
	if n.err != nil {
		return n.err
	}
	n.buf = append(n.buf, 0)
	n.buf = binary.AppendUvarint(n.buf, n.order.count)
	if err := n.flush(); err != nil {
		return err
	}
	n.err = errors.New("records: encoder is closed")
	return nil
}

// order holds a sequence of entries to ascending paths, each beneath directories only.
type order struct {
	count uint64
	path  string
	leaf  bool // the last one cannot hold others
}

func (o *order) next(e *Entry) error {
	if o.count > 0 && Compare(o.path, e.Path) >= 0 {
		return fmt.Errorf("does not come after %q", o.path)
	}
	// In this order what a node holds follows it at once, so the last record is the only one to ask.
	if o.leaf && strings.HasPrefix(e.Path, o.path) && e.Path[len(o.path)] == '/' {
		return fmt.Errorf("lies beneath %q, which is no directory", o.path)
	}
	o.count++
	o.path, o.leaf = e.Path, e.Type != Dir
	return nil
}

// appendRecord appends the body of a valid entry's record; doc.go has its table.
func appendRecord(b []byte, e *Entry) []byte {
	b = append(b, byte(e.Type), e.flags())
	b = appendString(b, e.Path)
	if e.Type == Hardlink {
		return appendString(b, e.Link)
	}
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = appendTime(b, e.MTime)
	switch e.Type {
	case File:
		b = appendTime(b, e.CTime)
		b = binary.AppendUvarint(b, e.Ino)
		b = binary.AppendUvarint(b, uint64(e.Size))
		b = append(b, e.Inline...)
	case Symlink:
		b = appendString(b, e.Link)
	case CharDevice, BlockDevice:
		b = binary.AppendUvarint(b, e.Rdev)
	}
	if len(e.Xattrs) > 0 {
		b = appendXattrs(b, e.Xattrs)
	}
	if len(e.Extents) > 0 {
		b = appendExtents(b, e.Extents)
	}
	return b
}

func (e *Entry) flags() byte {
	if e.Type == Hardlink {
		return 0
	}
	var f byte
	for _, is := range []struct {
		set bool
		bit byte
	}{
		{e.Opaque, flagOpaque},
		{e.Torn, flagTorn},
		{len(e.Xattrs) > 0, flagXattrs},
		{len(e.Inline) > 0, flagInline},
		{len(e.Extents) > 0, flagExtents},
	} {
		if is.set {
			f |= is.bit
		}
	}
	return f
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t Time) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.Sec), uint64(t.Nsec))
}

func appendXattrs(b []byte, xs []Xattr) []byte {
	b = binary.AppendUvarint(b, uint64(len(xs)))
	for _, x := range xs {
		b = appendString(b, x.Name)
		b = append(binary.AppendUvarint(b, uint64(len(x.Value))), x.Value...)
	}
	return b
}

// appendExtents writes a hole with zero references: data always has some.
func appendExtents(b []byte, xs []Extent) []byte {
	b = binary.AppendUvarint(b, uint64(len(xs)))
	for i := range xs {
		b = binary.AppendUvarint(b, uint64(xs[i].Length))
		b = binary.AppendUvarint(b, uint64(len(xs[i].Refs)))
		for _, r := range xs[i].Refs {
			b = append(b, r.ID[:]...)
			b = binary.AppendUvarint(b, uint64(r.Offset))
			b = binary.AppendUvarint(b, uint64(r.Length))
		}
	}
	return b
}
