package exporter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// appendEntry appends an entry as Walk and Stat give it, without content.
func appendEntry(b []byte, e *archive.Entry) []byte {
	b = append(b, byte(e.Type), boolByte(e.Opaque))
	for _, v := range []uint64{uint64(e.Mode), uint64(e.UID), uint64(e.GID), e.Ino, e.Dev, uint64(e.Nlink), e.Rdev} {
		b = binary.AppendUvarint(b, v)
	}
	for _, v := range []int64{e.Size, e.MTime.Sec, int64(e.MTime.Nsec), e.CTime.Sec, int64(e.CTime.Nsec)} {
		b = binary.AppendVarint(b, v)
	}
	b = appendBytes(b, e.Path)
	b = appendBytes(b, e.Link)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, x := range e.Xattrs {
		b = appendBytes(b, x.Name)
		b = appendBytes(b, x.Value)
	}
	return b
}

func appendBytes[T string | []byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

// reading takes apart what was appended. What is read after bad is set is zero.
type reading struct {
	b   []byte
	bad bool
}

func (r *reading) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reading) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return r.number(n, v)
}

func (r *reading) varint() int64 {
	v, n := binary.Varint(r.b)
	return int64(r.number(n, uint64(v)))
}

func (r *reading) number(n int, v uint64) uint64 {
	if n <= 0 {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes returns a part of what is read, not a copy.
func (r *reading) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reading) entry() (e archive.Entry) {
	e.Type, e.Opaque = archive.Type(r.byte()), r.byte() != 0
	e.Mode, e.UID, e.GID = uint32(r.uvarint()), uint32(r.uvarint()), uint32(r.uvarint())
	e.Ino, e.Dev, e.Nlink, e.Rdev = r.uvarint(), r.uvarint(), uint32(r.uvarint()), r.uvarint()
	e.Size = r.varint()
	e.MTime = archive.Time{Sec: r.varint(), Nsec: int32(r.varint())}
	e.CTime = archive.Time{Sec: r.varint(), Nsec: int32(r.varint())}
	e.Path, e.Link = string(r.bytes()), string(r.bytes())
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		e.Xattrs = append(e.Xattrs, archive.Xattr{Name: string(r.bytes()), Value: append([]byte{}, r.bytes()...)})
	}
	return e
}

// sentinels are the errors that a caller branches on, in the order of their bits.
func sentinels() []error {
	return []error{archive.ErrVanished, archive.ErrUnreadable, ErrMountPoint, ErrNoTrusted, fs.ErrNotExist, fs.ErrPermission}
}

// remoteError is an error of the other side.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// appendError appends an error: its text, a bit for each sentinel it wraps, and what a ForeignError
// says.
func appendError(b []byte, err error) []byte {
	var bits byte
	for i, s := range sentinels() {
		if errors.Is(err, s) {
			bits |= 1 << i
		}
	}
	text := err.Error()
	b = appendBytes(b, text[:min(len(text), maxPayload/4)])
	b = append(b, bits)
	var foreign *ForeignError
	if errors.As(err, &foreign) {
		b = appendBytes(b, foreign.Path[:min(len(foreign.Path), maxPayload/4)])
		b = appendBytes(b, foreign.Xattr)
	}
	return b
}

func (r *reading) error() error {
	e := &remoteError{text: string(r.bytes())}
	bits := r.byte()
	for i, s := range sentinels() {
		if bits&(1<<i) != 0 {
			e.is = append(e.is, s)
		}
	}
	if len(r.b) > 0 {
		return &ForeignError{Path: string(r.bytes()), Xattr: string(r.bytes())}
	}
	return e
}

// errProtocol says that the other side does not keep to the protocol.
var errProtocol = errors.New("broken protocol")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}
