package archive

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Change says how a path of one tree differs from the same path of another. The values are letters
// that can be shown.
type Change byte

// The kinds of changes, from one tree to another.
const (
	Added       Change = '+'
	Removed     Change = '-'
	TypeChanged Change = 'T' // a node of another type; to a further name of a node that came earlier, too
	Modified    Change = 'M' // content of a file, target of a link, number of a device
	Updated     Change = 'U' // only what is about it: owner, mode, time, extended attributes
)

// Difference is a path that two trees do not have alike.
type Difference struct {
	Change   Change
	Path     string // below the two roots that are compared; "" is these themselves
	Old, New Entry  // the zero Entry where there is none
}

// Subtree is what lies at Path and beneath in a tree.
type Subtree struct {
	Tree chunkstore.Stream
	Path string // "" is all of it
}

// DiffTrees iterates over what differs from a to b, in Compare order. An error comes last; it wraps
// fs.ErrNotExist if neither has its path. Two trees of the same records are not read.
//
// The time of a directory does not count: it tells that something in it came or went, which is told
// anyway. Contents are compared as they are, whatever the times say (see sameContent).
func DiffTrees(ctx context.Context, repo *chunkstore.Repository, a, b Subtree) iter.Seq2[Difference, error] {
	if a.Path == "" && b.Path == "" && keyOf(a.Tree) == keyOf(b.Tree) {
		return func(func(Difference, error) bool) {}
	}
	var seenA, seenB bool
	differences := Diff(ctx, repo, a.entries(ctx, repo, &seenA), b.entries(ctx, repo, &seenB))
	return func(yield func(Difference, error) bool) {
		for d, err := range differences {
			if !yield(d, err) || err != nil {
				return
			}
		}
		if !seenA && !seenB && a.Path != "" {
			yield(Difference{}, &fs.PathError{Op: "diff", Path: a.Path, Err: fs.ErrNotExist})
		}
	}
}

// entries iterates over the entries of the subtree, their paths below its root. It sets seen at the
// first.
func (s Subtree) entries(ctx context.Context, repo *chunkstore.Repository, seen *bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range inside(Records(ctx, repo, s.Tree), s.Path) {
			*seen = true
			e.Path = below(e.Path, s.Path)
			if e.Type == Hardlink && beneath(e.Link, s.Path) {
				e.Link = below(e.Link, s.Path)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// below returns a path beneath root as seen from there.
func below(path, root string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
}

// ChunkReader is what Diff reads contents from; a *chunkstore.Repository is one.
type ChunkReader interface {
	Chunk(ctx context.Context, id chunkstore.ID) ([]byte, error)
}

var _ ChunkReader = (*chunkstore.Repository)(nil)

// Diff is DiffTrees for two sequences of entries in Compare order. It reads both once, side by side,
// and holds a few hundred entries and two chunks of each.
func Diff(ctx context.Context, chunks ChunkReader, a, b iter.Seq2[Entry, error]) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		d := differ{contents: contents{chunks: chunks}}
		var stopA, stopB func()
		d.a.pull, stopA = readAhead(a)
		defer stopA()
		d.b.pull, stopB = readAhead(b)
		defer stopB()
		d.a.next()
		d.b.next()
		for {
			diff, more, err := d.step(ctx)
			if err != nil {
				yield(Difference{}, err)
				return
			}
			if !more || diff.Change != 0 && !yield(diff, nil) {
				return
			}
		}
	}
}

type differ struct {
	a, b     side
	contents contents
}

// side stands on an entry of one of the sequences.
type side struct {
	pull func() (Entry, error, bool)
	e    Entry
	ok   bool // there is one
	err  error
}

func (s *side) next() {
	s.e, s.err, s.ok = s.pull()
	s.ok = s.ok && s.err == nil
}

// step passes over the next path of either sequence and returns how it differs: with the zero Change
// if it does not.
func (d *differ) step(ctx context.Context) (diff Difference, more bool, err error) {
	a, b := &d.a, &d.b
	for _, err := range []error{a.err, b.err, ctx.Err()} {
		if err != nil {
			return Difference{}, false, err
		}
	}
	switch {
	case !a.ok && !b.ok:
		return Difference{}, false, nil
	case !a.ok || b.ok && Compare(b.e.Path, a.e.Path) < 0:
		diff = Difference{Change: Added, Path: b.e.Path, New: b.e}
		b.next()
	case !b.ok || Compare(a.e.Path, b.e.Path) < 0:
		diff = Difference{Change: Removed, Path: a.e.Path, Old: a.e}
		a.next()
	default:
		diff = Difference{Path: a.e.Path, Old: a.e, New: b.e}
		diff.Change, err = d.contents.change(ctx, &diff.Old, &diff.New)
		a.next()
		b.next()
	}
	return diff, true, err
}

// contents compares nodes. Files that follow each other lie in the same bundles, so the last chunk of
// each side is kept.
type contents struct {
	chunks ChunkReader
	a, b   lastChunk
}

type lastChunk struct {
	id    chunkstore.ID
	plain []byte
}

// change returns how the node b differs from a, 0 if it does not.
func (c *contents) change(ctx context.Context, a, b *Entry) (Change, error) {
	if a.Type != b.Type {
		return TypeChanged, nil
	}
	same := a.Link == b.Link && a.Rdev == b.Rdev
	if a.Type == File {
		var err error
		if same, err = c.sameContent(ctx, a, b); err != nil {
			return 0, err
		}
	}
	switch {
	case !same:
		return Modified, nil
	case aboutDiffers(*a, *b):
		return Updated, nil
	}
	return 0, nil
}

// aboutDiffers reports whether two nodes of the same content differ in anything else.
func aboutDiffers(a, b Entry) bool {
	if a.Type == Dir {
		a.MTime, b.MTime = Time{}, Time{}
	}
	return a.Differs(&b)
}

// sameContent compares the contents of two files. The same chunks are the same content. Of a file
// that is cut on its own, other chunks are other content, or holes where zeros were. A file in a
// bundle that was read again, because its owner was changed say, lies in another bundle: these are
// looked into.
func (c *contents) sameContent(ctx context.Context, a, b *Entry) (bool, error) {
	if a.Size != b.Size {
		return false, nil
	}
	if bytes.Equal(a.Inline, b.Inline) && slices.EqualFunc(a.Extents, b.Extents, Extent.equal) {
		return true, nil
	}
	if a.Size > smallMax {
		return false, nil
	}
	x, err := c.a.content(ctx, c.chunks, a)
	if err != nil {
		return false, err
	}
	y, err := c.b.content(ctx, c.chunks, b)
	return err == nil && bytes.Equal(x, y), err
}

// content puts the content of a small file together.
func (l *lastChunk) content(ctx context.Context, chunks ChunkReader, e *Entry) ([]byte, error) {
	if len(e.Inline) > 0 {
		return e.Inline, nil
	}
	all := make([]byte, 0, e.Size)
	for _, x := range e.Extents {
		if x.Hole {
			all = append(all, make([]byte, x.Length)...)
		}
		for _, r := range x.Refs {
			piece, err := l.piece(ctx, chunks, r)
			if err != nil {
				return nil, fmt.Errorf("content of %q: %w", e.Path, err)
			}
			all = append(all, piece...)
		}
	}
	return all, nil
}

func (l *lastChunk) piece(ctx context.Context, chunks ChunkReader, r chunkstore.Ref) ([]byte, error) {
	if l.id != r.ID {
		plain, err := chunks.Chunk(ctx, r.ID)
		if err != nil {
			return nil, err
		}
		l.id, l.plain = r.ID, plain
	}
	end := uint64(r.Offset) + uint64(r.Length)
	if end > uint64(len(l.plain)) {
		return nil, fmt.Errorf("%w: %d bytes at %d of chunk %v, which has %d", ErrFormat, r.Length, r.Offset, r.ID, len(l.plain))
	}
	return l.plain[r.Offset:end], nil
}

// DiffStats counts differences. Bytes are those of files.
type DiffStats struct {
	Added         int64 `json:"added"`
	Removed       int64 `json:"removed"`
	Modified      int64 `json:"modified"`
	Updated       int64 `json:"updated"`
	TypeChanged   int64 `json:"type_changed"`
	AddedBytes    int64 `json:"added_bytes"`
	RemovedBytes  int64 `json:"removed_bytes"`
	ModifiedBytes int64 `json:"modified_bytes"` // their size now
}

// Count adds a difference. What is of another type now counts its bytes as removed and added.
func (s *DiffStats) Count(d Difference) {
	switch d.Change {
	case Added:
		s.Added++
		s.AddedBytes += d.New.Size
	case Removed:
		s.Removed++
		s.RemovedBytes += d.Old.Size
	case Modified:
		s.Modified++
		s.ModifiedBytes += d.New.Size
	case Updated:
		s.Updated++
	case TypeChanged:
		s.TypeChanged++
		s.AddedBytes += d.New.Size
		s.RemovedBytes += d.Old.Size
	}
}
