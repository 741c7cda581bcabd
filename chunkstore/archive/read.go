package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Records iterates over the records of a tree, without their content. An error comes last.
func Records(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r, err := repo.OpenStream(ctx, st)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer r.Close()
		d, err := repo.StreamDomain(ctx, st)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		decodeAll(r, func(e Entry, err error) bool {
			if err == nil {
				err = e.within(d)
			}
			return yield(e, err) && err == nil
		})
	}
}

// within returns an error if the content of an entry is not of the domain of its record.
func (e *Entry) within(d chunkstore.Domain) (err error) {
	if d == (chunkstore.Domain{}) {
		return nil
	}
	e.refs(func(r chunkstore.Ref) bool {
		if !d.Has(r.ID) {
			err = fmt.Errorf("%q: %w: it needs chunk %v, which is of others", e.Path, ErrFormat, r.ID)
		}
		return err == nil
	})
	return err
}

// Refs iterates over everything that a tree consists of in the repository: the chunks of its
// records and the pieces of its content, neighbours in one chunk joined. An error comes last.
func Refs(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream) iter.Seq2[chunkstore.Ref, error] {
	return func(yield func(chunkstore.Ref, error) bool) {
		refs, err := repo.StreamRefs(ctx, st)
		if err != nil {
			yield(chunkstore.Ref{}, err)
			return
		}
		for _, r := range refs {
			if !yield(r, nil) {
				return
			}
		}
		contentRefs(Records(ctx, repo, st))(yield)
	}
}

// contentRefs iterates over the contents of entries.
func contentRefs(entries iter.Seq2[Entry, error]) iter.Seq2[chunkstore.Ref, error] {
	return joinRefs(func(yield func(chunkstore.Ref, error) bool) {
		for e, err := range entries {
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			if !e.refs(func(r chunkstore.Ref) bool { return yield(r, nil) }) {
				return
			}
		}
	})
}

// joinRefs joins pieces that follow each other in one chunk, as those of a bundle do.
func joinRefs(refs iter.Seq2[chunkstore.Ref, error]) iter.Seq2[chunkstore.Ref, error] {
	return func(yield func(chunkstore.Ref, error) bool) {
		var run chunkstore.Ref
		for r, err := range refs {
			if err == nil && r.ID == run.ID && r.Offset == run.Offset+run.Length {
				run.Length += r.Length
				continue
			}
			if run.Length > 0 && !yield(run, nil) {
				return
			}
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			run = r
		}
		if run.Length > 0 {
			yield(run, nil)
		}
	}
}

// TreeReader reads a tree with its content, from front to back: Next gives an entry, and the
// reader then gives that entry's data. Content is fetched ahead for all entries that follow, so
// reading it in order costs no waiting. Not for concurrent use; Close must be called.
type TreeReader struct {
	entries func(context.Context) iter.Seq2[Entry, error] // once more
	cancel  context.CancelFunc
	next    func() (Entry, error, bool)
	stop    func()
	data    io.ReadCloser

	path   string
	inline []byte // of the current entry
	left   int64  // data of the current entry still in data
	err    error
}

// OpenTree begins to read a tree.
func OpenTree(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream) *TreeReader {
	return OpenTreeNear(ctx, repo, st, nil)
}

// OpenTreeNear is OpenTree that fetches only the content that near does not have. Nil has nothing.
func OpenTreeNear(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream, near chunkstore.Near) *TreeReader {
	return openEntries(ctx, repo, near, func(ctx context.Context) iter.Seq2[Entry, error] {
		return Records(ctx, repo, st)
	})
}

// OpenSubtree begins to read the part of a tree that is at path and beneath. Paths stay as they
// are in the whole tree. A file whose first name lies outside comes in under its first name inside,
// so the part is complete by itself. A path that is not there gives no entries.
func OpenSubtree(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream, path string) (*TreeReader, error) {
	wanted, err := linkedOutside(Records(ctx, repo, st), path)
	if err != nil {
		return nil, err
	}
	return openEntries(ctx, repo, nil, func(ctx context.Context) iter.Seq2[Entry, error] {
		return subtree(Records(ctx, repo, st), path, wanted)
	}), nil
}

// openEntries reads the records twice, side by side: once for Next and once, further ahead, for
// what content to fetch. One pass for both would have to buffer records without bound: how far
// Repository.Read wants to look ahead does not depend on how many entries lie between two contents.
func openEntries(ctx context.Context, repo *chunkstore.Repository, near chunkstore.Near, entries func(context.Context) iter.Seq2[Entry, error]) *TreeReader {
	ctx, cancel := context.WithCancel(ctx)
	t := &TreeReader{entries: entries, cancel: cancel, data: repo.ReadNear(ctx, contentRefs(entries(ctx)), near)}
	t.next, t.stop = iter.Pull2(entries(ctx))
	return t
}

// Next returns the next entry, io.EOF after the last one. What was not read of the data of the
// entry before is skipped. Every error is final.
func (t *TreeReader) Next() (Entry, error) {
	if t.err != nil {
		return Entry{}, t.err
	}
	if _, err := io.CopyN(io.Discard, t.data, t.left); err != nil {
		return Entry{}, t.fail(err)
	}
	t.left = 0
	e, err, ok := t.next()
	switch {
	case !ok:
		t.err = io.EOF
		return Entry{}, t.err
	case err != nil:
		t.err = err
		return Entry{}, t.err
	}
	t.path, t.inline = e.Path, e.Inline
	for i := range e.Extents {
		if !e.Extents[i].Hole {
			t.left += e.Extents[i].Length
		}
	}
	return e, nil
}

// Read reads the data of the current entry: its Inline, or its data extents back to back. Holes
// are passed over; Filled has them. It ends with io.EOF after exactly the data of this entry.
func (t *TreeReader) Read(p []byte) (int, error) {
	if len(t.inline) > 0 {
		n := copy(p, t.inline)
		t.inline = t.inline[n:]
		return n, nil
	}
	if t.left == 0 {
		return 0, io.EOF
	}
	if t.err != nil {
		return 0, t.err
	}
	n, err := t.data.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	if err != nil && n == 0 {
		return 0, t.fail(err)
	}
	return n, nil
}

// fail makes the error of content: the end of all content is none of this entry's.
func (t *TreeReader) fail(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	t.err = fmt.Errorf("content of %q: %w", t.path, err)
	return t.err
}

// Filled reads the whole content of e, the current entry, with its holes as zeros: e.Size bytes.
func (t *TreeReader) Filled(e Entry) io.Reader {
	if len(e.Extents) == 0 {
		return t
	}
	parts := make([]io.Reader, 0, len(e.Extents))
	for _, x := range e.Extents {
		if x.Hole {
			parts = append(parts, io.LimitReader(zeros{}, x.Length))
		} else {
			parts = append(parts, io.LimitReader(t, x.Length))
		}
	}
	return io.MultiReader(parts...)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// Close ends the reading.
func (t *TreeReader) Close() error {
	t.cancel()
	t.stop()
	if t.err == nil {
		t.err = fs.ErrClosed
	}
	return t.data.Close()
}

// Find opens the content of the one entry at path, holes as zeros; of a Hardlink that of its first
// name. It returns an error that wraps fs.ErrNotExist if the tree has no such path. Symlinks are
// not followed. The reader is of no data if the entry is no file; it must be closed.
func Find(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream, path string) (Entry, io.ReadCloser, error) {
	t, err := OpenSubtree(ctx, repo, st, path)
	if err != nil {
		return Entry{}, nil, err
	}
	e, err := t.Next()
	if err == nil && e.Path != path || errors.Is(err, io.EOF) {
		err = &fs.PathError{Op: "find", Path: path, Err: fs.ErrNotExist}
	}
	if err != nil {
		return Entry{}, nil, errors.Join(err, t.Close())
	}
	return e, &found{Reader: t.Filled(e), Closer: t}, nil
}

type found struct {
	io.Reader
	io.Closer
}
