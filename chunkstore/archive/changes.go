package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
)

// CountChanges reads two streams of records side by side, an earlier and a later one of the same
// tree, and counts what differs: entries that came, went, or would be restored otherwise (of a
// content, size and time tell). What cannot be read of the earlier stream counts as not there; an
// error of the later one is returned.
func CountChanges(earlier, later io.Reader) (n int64, err error) {
	a, b := newRecords(earlier), newRecords(later)
	for a.next(); b.next(); {
		// Most records are as they were, to the last bit, and need not be understood to see it.
		if a.ok && bytes.Equal(a.d.body, b.d.body) {
			a.next()
			continue
		}
		if !b.parse() {
			break
		}
		for a.ok && a.parse() && Compare(a.e.Path, b.e.Path) < 0 {
			n++
			a.next()
		}
		same := a.ok && a.e.Path == b.e.Path
		if !same || a.e.Differs(b.e) {
			n++
		}
		if same {
			a.next()
		}
	}
	if b.err != nil {
		return n, fmt.Errorf("count changes: %w", b.err)
	}
	for ; a.ok; a.next() {
		n++
	}
	return n, nil
}

// records reads a stream of records that are looked into only where they are asked for.
type records struct {
	d   *Decoder
	e   *Entry // of the current record, nil until it is parsed
	ok  bool   // there is a current record
	err error  // why there is none, nil at the end
}

func newRecords(r io.Reader) *records { return &records{d: NewDecoder(r)} }

// next makes the following record current and reports whether there is one.
func (r *records) next() bool {
	r.e = nil
	err := r.d.record()
	if r.ok = err == nil; !r.ok && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return r.ok
}

// parse makes the current record's entry; a record that has none ends the reading.
func (r *records) parse() bool {
	if r.e != nil {
		return true
	}
	e, err := parseRecord(r.d.body)
	if err != nil {
		r.ok, r.err = false, err
		return false
	}
	r.e = &e
	return true
}

// Differs reports whether a restore would bring back something else for o than for e, the content
// judged by size and time.
func (e *Entry) Differs(o *Entry) bool {
	return e.Type != o.Type || e.Mode != o.Mode || e.UID != o.UID || e.GID != o.GID || e.Size != o.Size ||
		e.MTime != o.MTime || e.Rdev != o.Rdev || e.Link != o.Link || e.Opaque != o.Opaque ||
		!slices.EqualFunc(e.Xattrs, o.Xattrs, func(x, y Xattr) bool {
			return x.Name == y.Name && string(x.Value) == string(y.Value)
		})
}
