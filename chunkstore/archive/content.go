package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// cursor reads the data of a Content piece by piece and notes the extents of each piece. As an
// io.Reader it ends at the end of the piece; an error of the Content ends it too and is kept aside
// in err, so that whoever reads sees an end and only the cursor's owner the cause.
type cursor struct {
	c        Content
	progress func(int64)

	left  int64 // bytes of the current extent still to come
	hole  bool  // the current extent is a hole
	ended bool  // the content ended before the size asked for: the rest is a hole

	piece   int64 // bytes of the file up to the end of the piece
	extents []Extent
	err     error
}

// begin starts the piece of the next n bytes of the file.
func (k *cursor) begin(n int64) { k.piece, k.extents = n, nil }

// Read reads data of the piece, passing over its holes.
func (k *cursor) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if !k.toData() {
		return 0, io.EOF
	}
	n, err := k.c.Read(p[:min(int64(len(p)), k.left, k.piece)])
	k.advance(int64(n))
	k.progress(int64(n))
	switch {
	case errors.Is(err, io.EOF) && n == 0:
		k.err = fmt.Errorf("content ends %d bytes before its extent: %w", k.left, io.ErrUnexpectedEOF)
	case err != nil && !errors.Is(err, io.EOF):
		k.err = err
	}
	if k.err != nil && n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// toData moves on to where the piece has data, and reports whether it still has.
func (k *cursor) toData() bool {
	for k.err == nil && k.piece > 0 {
		switch {
		case k.left == 0:
			k.err = k.next()
		case k.hole:
			k.advance(min(k.left, k.piece))
		default:
			return true
		}
	}
	return false
}

func (k *cursor) next() error {
	if k.ended {
		return nil
	}
	length, hole, err := k.c.Next()
	switch {
	case errors.Is(err, io.EOF):
		k.ended, k.hole, k.left = true, true, math.MaxInt64
		return nil
	case err != nil:
		return err
	case length < 0:
		return fmt.Errorf("extent of %d bytes", length)
	}
	k.left, k.hole = length, hole
	return nil
}

func (k *cursor) advance(n int64) {
	if n == 0 {
		return
	}
	k.extents = join(k.extents, []Extent{{Length: n, Hole: k.hole}})
	k.left -= n
	k.piece -= n
}

// sameStat reports whether a file is as it was when it was walked: nothing changed its content or its
// inode between. A ctime that is not to be trusted says nothing.
func sameStat(walked, now *Entry) bool {
	return walked.Type == now.Type && walked.Size == now.Size && walked.MTime == now.MTime &&
		(walked.CTime == now.CTime || walked.CTime == Time{}) && walked.Ino == now.Ino && walked.Dev == now.Dev
}

// take gives e what st says newer of the same name. CTime becomes zero: the rest of e is older.
func (e *Entry) take(st *Entry) {
	e.Mode, e.UID, e.GID = st.Mode, st.UID, st.GID
	e.Size, e.MTime, e.CTime = st.Size, st.MTime, Time{}
	e.Ino = st.Ino
}

// readSmall reads a small file, once more if it changed meanwhile; e then becomes what was read.
func (w *treeWriter) readSmall(ctx context.Context, e *Entry) part {
	p, st := w.readWhole(ctx, *e)
	if p.err != nil || !p.torn || st.Type != File || st.Size > smallMax {
		return p
	}
	e.take(&st)
	st.Path = e.Path
	p, _ = w.readWhole(ctx, st)
	return p
}

// readWhole reads a small file of the size that e has, and returns its stat of afterwards.
func (w *treeWriter) readWhole(ctx context.Context, e Entry) (p part, st Entry) {
	c, err := w.tree.Open(ctx, e)
	if err != nil {
		return part{err: err}, st
	}
	defer c.Close()
	k := cursor{c: c, progress: w.progress}
	k.begin(e.Size)
	p.data = make([]byte, e.Size)
	n, err := io.ReadFull(&k, p.data)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // less data than the size: holes
	}
	k.toData() // the last hole
	p.data, p.extents = p.data[:n], k.extents
	if p.err = errors.Join(k.err, err); p.err != nil {
		return p, st
	}
	st, p.err = c.Stat()
	p.torn = k.ended || !sameStat(&e, &st)
	return p, st
}

// readLarge stores n bytes of a large file from off on, in segments.
func (w *treeWriter) readLarge(ctx context.Context, e *Entry, off, n int64) (p part) {
	c, err := w.openAt(ctx, *e, off)
	if err != nil {
		return part{err: err}
	}
	defer c.Close()
	k := cursor{c: c, progress: w.progress}
	for n > 0 {
		k.begin(min(n, k.segment()))
		n -= k.piece
		if err := w.storePiece(ctx, &k); err != nil {
			return part{err: err}
		}
		p.extents = join(p.extents, k.extents)
	}
	st, err := c.Stat()
	p.torn = k.ended || !sameStat(e, &st)
	p.err = err
	return p
}

func (w *treeWriter) openAt(ctx context.Context, e Entry, off int64) (Content, error) {
	if off == 0 {
		return w.tree.Open(ctx, e)
	}
	return w.ranges.OpenAt(ctx, e, off)
}

// segment returns the length of the next segment: of a hole as many at once as it has.
func (k *cursor) segment() int64 {
	if k.left == 0 && k.err == nil {
		k.err = k.next()
	}
	if k.hole && k.left > segmentSize {
		return k.left / segmentSize * segmentSize
	}
	return segmentSize
}

// storePiece stores the data of the cursor's piece and gives its extents their references.
func (w *treeWriter) storePiece(ctx context.Context, k *cursor) error {
	if !k.toData() {
		return k.err
	}
	refs, err := w.saver.Split(ctx, chunkstore.Data, k)
	if err != nil {
		return err
	}
	k.toData() // the last hole
	spread(k.extents, refs)
	return k.err
}
