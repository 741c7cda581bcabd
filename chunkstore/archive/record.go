package archive

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Limits of a record. What exceeds them is refused when writing and when reading.
const (
	maxPath       = 4 * 4096  // bytes of a path, and of a link's target
	maxXattrs     = 16 << 10  // extended attributes of one node
	maxXattrName  = 255       // XATTR_NAME_MAX
	maxXattrValue = 64 << 10  // XATTR_SIZE_MAX
	maxRecord     = 256 << 20 // bytes of one record: a file of 10 TB has about that much
	maxMode       = 0o7777
	maxNsec       = 999_999_999
	maxRefEnd     = math.MaxUint32
)

// Flags of a record. All other bits are zero.
const (
	flagOpaque  = 1 << 0
	flagTorn    = 1 << 1
	flagXattrs  = 1 << 2
	flagInline  = 1 << 3
	flagExtents = 1 << 4
	flagsKnown  = flagOpaque | flagTorn | flagXattrs | flagInline | flagExtents
)

// validate holds an entry to the rules of the format, the same for what is written and what is read.
func (e *Entry) validate() error {
	if err := validPath(e.Path); err != nil {
		return err
	}
	if e.Type < Dir || e.Type > Whiteout {
		return fmt.Errorf("unknown type %d", e.Type)
	}
	if e.Path == "" && e.Type != Dir {
		return errors.New("the root is not a directory")
	}
	if err := e.validLink(); err != nil {
		return err
	}
	if e.Type == Hardlink {
		return nil // nothing else of it is recorded
	}
	if e.Mode > maxMode {
		return fmt.Errorf("mode %#o", e.Mode)
	}
	if !e.MTime.valid() || !e.CTime.valid() {
		return errors.New("nanoseconds out of range")
	}
	if e.Opaque && e.Type != Dir || e.Torn && e.Type != File {
		return errors.New("flag of another type")
	}
	if err := validXattrs(e.Xattrs); err != nil {
		return err
	}
	return e.validContent()
}

func (t Time) valid() bool { return t.Nsec >= 0 && t.Nsec <= maxNsec }

// validPath wants a relative, clean path of bytes. The root is "".
func validPath(p string) error {
	if len(p) > maxPath {
		return fmt.Errorf("path of %d bytes", len(p))
	}
	if p == "" {
		return nil
	}
	if strings.IndexByte(p, 0) >= 0 {
		return errors.New("path with a zero byte")
	}
	for rest, more := p, true; more; {
		var name string
		name, rest, more = strings.Cut(rest, "/")
		if name == "" || name == "." || name == ".." {
			return errors.New("path is not relative and clean")
		}
	}
	return nil
}

func (e *Entry) validLink() error {
	switch e.Type {
	case Symlink:
		if e.Link == "" || len(e.Link) > maxPath || strings.IndexByte(e.Link, 0) >= 0 {
			return fmt.Errorf("symlink to %d bytes that are no path", len(e.Link))
		}
	case Hardlink:
		if err := validPath(e.Link); err != nil {
			return fmt.Errorf("hard link: %w", err)
		}
		if e.Link == "" || Compare(e.Link, e.Path) >= 0 {
			return errors.New("hard link to a name that does not come before it")
		}
	default:
		if e.Link != "" {
			return errors.New("link target on a node that is no link")
		}
	}
	return nil
}

func validXattrs(xs []Xattr) error {
	if len(xs) > maxXattrs {
		return fmt.Errorf("%d extended attributes", len(xs))
	}
	for i, x := range xs {
		if x.Name == "" || len(x.Name) > maxXattrName || strings.IndexByte(x.Name, 0) >= 0 {
			return fmt.Errorf("name of extended attribute %q", x.Name)
		}
		if len(x.Value) > maxXattrValue {
			return fmt.Errorf("extended attribute %q of %d bytes", x.Name, len(x.Value))
		}
		if i > 0 && xs[i-1].Name >= x.Name {
			return fmt.Errorf("extended attribute %q out of order", x.Name)
		}
	}
	return nil
}

func (e *Entry) validContent() error {
	if e.Type != File {
		if e.Size != 0 || len(e.Inline) > 0 || len(e.Extents) > 0 {
			return errors.New("content of a node that is no file")
		}
		return nil
	}
	if e.Size < 0 {
		return fmt.Errorf("size %d", e.Size)
	}
	if len(e.Inline) > 0 {
		if len(e.Inline) > InlineMax || int64(len(e.Inline)) != e.Size || len(e.Extents) > 0 {
			return fmt.Errorf("%d bytes inline for a file of %d", len(e.Inline), e.Size)
		}
		return nil
	}
	left := e.Size
	for i := range e.Extents {
		x := &e.Extents[i]
		if err := x.validate(); err != nil {
			return err
		}
		if i > 0 && x.Hole == e.Extents[i-1].Hole {
			return errors.New("two holes or two data extents side by side")
		}
		if x.Length > left {
			return fmt.Errorf("extents beyond the size %d", e.Size)
		}
		left -= x.Length
	}
	if left != 0 {
		return fmt.Errorf("extents end %d bytes before the size %d", left, e.Size)
	}
	return nil
}

func (x *Extent) validate() error {
	if x.Length <= 0 {
		return fmt.Errorf("extent of %d bytes", x.Length)
	}
	if x.Hole {
		if len(x.Refs) > 0 {
			return errors.New("hole with content")
		}
		return nil
	}
	left := x.Length
	for _, r := range x.Refs {
		if r.ID.IsZero() || r.Length == 0 || uint64(r.Offset)+uint64(r.Length) > maxRefEnd {
			return fmt.Errorf("reference of %d bytes at %d of chunk %v", r.Length, r.Offset, r.ID)
		}
		left -= int64(r.Length)
		if left < 0 {
			break
		}
	}
	if left != 0 {
		return fmt.Errorf("references that do not make up an extent of %d bytes", x.Length)
	}
	return nil
}

// holds says whether two entries say the same of a node, apart from what only serves to recognise
// it (CTime, Ino, Dev, Nlink).
func (e *Entry) holds(o *Entry) bool {
	if e.Path != o.Path || e.Type != o.Type || e.Link != o.Link {
		return false
	}
	if e.Type == Hardlink {
		return true
	}
	return e.Mode == o.Mode && e.UID == o.UID && e.GID == o.GID && e.Size == o.Size &&
		e.MTime == o.MTime && e.Rdev == o.Rdev && e.Opaque == o.Opaque && e.Torn == o.Torn &&
		slices.EqualFunc(e.Xattrs, o.Xattrs, func(a, b Xattr) bool {
			return a.Name == b.Name && slices.Equal(a.Value, b.Value)
		}) &&
		slices.Equal(e.Inline, o.Inline) &&
		slices.EqualFunc(e.Extents, o.Extents, Extent.equal)
}

// equal reports whether two extents are made of the same pieces.
func (x Extent) equal(y Extent) bool {
	return x.Length == y.Length && x.Hole == y.Hole && slices.Equal(x.Refs, y.Refs)
}

// refs calls fn for every reference of the entry's content, until fn returns false.
func (e *Entry) refs(fn func(chunkstore.Ref) bool) bool {
	for i := range e.Extents {
		for _, r := range e.Extents[i].Refs {
			if !fn(r) {
				return false
			}
		}
	}
	return true
}
