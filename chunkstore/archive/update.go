package archive

import (
	"bytes"
	"context"
	"iter"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// OpenUpdate begins to read what turns an older tree into a newer one: all entries of the newer one, and the content
// of those files only that the older one does not have at the same path, made of the same pieces. Those that it has
// are Kept. Of the content only what near does not have is fetched; nil has nothing.
func OpenUpdate(ctx context.Context, repo *chunkstore.Repository, older, newer chunkstore.Stream, near chunkstore.Near) *TreeReader {
	return openEntries(ctx, repo, near, func(ctx context.Context) iter.Seq2[Entry, error] {
		return update(Records(ctx, repo, older), Records(ctx, repo, newer))
	})
}

// update iterates over the entries of newer, both in Compare order.
func update(older, newer iter.Seq2[Entry, error]) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		next, stop := iter.Pull2(older)
		defer stop()
		old, err, ok := next()
		for e, failed := range newer {
			for failed == nil && ok && err == nil && Compare(old.Path, e.Path) < 0 {
				old, err, ok = next()
			}
			if failed == nil {
				failed = err
			}
			if failed != nil {
				yield(Entry{}, failed)
				return
			}
			if ok && old.Path == e.Path && old.samePieces(&e) {
				e.Kept, e.Inline, e.Extents = true, nil, nil
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// samePieces reports whether two files are made of the same pieces.
func (e *Entry) samePieces(o *Entry) bool {
	return e.Type == File && o.Type == File && e.Size == o.Size && bytes.Equal(e.Inline, o.Inline) && slices.EqualFunc(e.Extents, o.Extents, Extent.equal)
}

// OpenMissing begins to read a tree of which some content is at hand: all entries, and the content of those files
// only for which has is false. The others are Kept. has is asked twice about each file, from two goroutines, and
// must not change its mind. Of the content only what near does not have is fetched; nil has nothing.
func OpenMissing(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream, has func(*Entry) bool, near chunkstore.Near) *TreeReader {
	return openEntries(ctx, repo, near, func(ctx context.Context) iter.Seq2[Entry, error] {
		return func(yield func(Entry, error) bool) {
			for e, err := range Records(ctx, repo, st) {
				if err == nil && e.Type == File && has(&e) {
					e.Kept, e.Inline, e.Extents = true, nil, nil
				}
				if !yield(e, err) {
					return
				}
			}
		}
	})
}
