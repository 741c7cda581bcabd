package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// tree copies a tree and returns its records at the destination.
func (c *Copier) tree(ctx context.Context, session *chunkstore.Session, what string, records chunkstore.Stream) (chunkstore.Stream, error) {
	c.tell(what)
	c.begin()
	w := session.NewStream(ctx)
	f := c.fetch(ctx, session, what, records)
	err := c.rewrite(ctx, records, w, f)
	if err == nil {
		err = f.rest(ctx)
	}
	err = errors.Join(err, f.data.Close())
	moved, errFinish := w.Finish()
	if err == nil {
		err = errFinish
	}
	return moved, err
}

// rewrite writes the records to w with the ids that their chunks have at the destination.
func (c *Copier) rewrite(ctx context.Context, records chunkstore.Stream, w io.Writer, f *fetcher) error {
	enc := archive.NewEncoder(w)
	for e, err := range archive.Records(ctx, c.from, records) {
		if err != nil {
			return err
		}
		for ref := range pieces(&e) {
			if ref.ID, err = f.id(ctx, ref.ID); err != nil {
				return fmt.Errorf("%q: %w", e.Path, err)
			}
		}
		if err := enc.Encode(e); err != nil {
			return err
		}
	}
	return enc.Close()
}

// pieces iterates over the references of a record's content, which may be changed.
func pieces(e *archive.Entry) iter.Seq[*chunkstore.Ref] {
	return func(yield func(*chunkstore.Ref) bool) {
		for i := range e.Extents {
			for k := range e.Extents[i].Refs {
				if !yield(&e.Extents[i].Refs[k]) {
					return
				}
			}
		}
	}
}

// begin makes the known ids ready for another part.
func (c *Copier) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.ids) > maxKnown {
		clear(c.ids)
	}
	// What was asked for when an earlier part failed never came.
	maps.DeleteFunc(c.ids, func(_, to chunkstore.ID) bool { return to.IsZero() })
}

// fetcher reads the chunks of a tree that the destination may not have, ahead of whoever writes its records.
// Both go through the records in the same order, so what the writer misses comes next, or soon. It is the
// fetcher that sees to it that all chunks are at the destination: an id that the writer knows already says
// what the content is, not that it is there.
type fetcher struct {
	c       *Copier
	session *chunkstore.Session
	what    string
	data    io.ReadCloser
	in      *bufio.Reader
	buf     []byte

	mu    sync.Mutex
	asked []chunkstore.Ref // whole chunks on their way in data
}

func (c *Copier) fetch(ctx context.Context, session *chunkstore.Session, what string, records chunkstore.Stream) *fetcher {
	f := &fetcher{c: c, session: session, what: what}
	f.data = c.from.Read(ctx, f.missing(ctx, records))
	f.in = bufio.NewReaderSize(f.data, 64<<10)
	return f
}

// missing iterates over the chunks of a tree that must be read, each whole and once.
func (f *fetcher) missing(ctx context.Context, records chunkstore.Stream) iter.Seq2[chunkstore.Ref, error] {
	return func(yield func(chunkstore.Ref, error) bool) {
		for e, err := range archive.Records(ctx, f.c.from, records) {
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			for ref := range pieces(&e) {
				if f.known(ref.ID) {
					continue
				}
				whole, err := f.c.from.Whole(ctx, ref.ID)
				if err == nil {
					f.mu.Lock()
					f.asked = append(f.asked, whole)
					f.mu.Unlock()
				}
				if !yield(whole, err) || err != nil {
					return
				}
			}
		}
	}
}

// known reports whether a chunk need not be read: its id at the destination is known, and the chunk is there; or
// it is being read. If not, it is taken to be read from now on.
func (f *fetcher) known(id chunkstore.ID) bool {
	c := f.c
	c.mu.Lock()
	defer c.mu.Unlock()
	to, ok := c.ids[id]
	if ok && (to.IsZero() || f.session.Keep(to)) {
		return true
	}
	c.ids[id] = chunkstore.ID{}
	return false
}

// id returns the id of a chunk at the destination.
func (f *fetcher) id(ctx context.Context, from chunkstore.ID) (chunkstore.ID, error) {
	for {
		f.c.mu.Lock()
		to := f.c.ids[from]
		f.c.mu.Unlock()
		if !to.IsZero() {
			return to, nil
		}
		if err := f.next(ctx); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return chunkstore.ID{}, err
		}
	}
}

// rest saves what the writer did not wait for.
func (f *fetcher) rest(ctx context.Context) error {
	for {
		if err := f.next(ctx); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// next saves the chunk that comes next, io.EOF after the last one of the tree.
func (f *fetcher) next(ctx context.Context) error {
	if _, err := f.in.Peek(1); err != nil {
		return err
	}
	f.mu.Lock()
	ref := f.asked[0]
	f.asked = f.asked[1:]
	f.mu.Unlock()
	if cap(f.buf) < int(ref.Length) {
		f.buf = make([]byte, ref.Length)
	}
	b := f.buf[:ref.Length]
	if _, err := io.ReadFull(f.in, b); errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	f.c.read.Add(int64(len(b)))
	f.c.tell(f.what)
	to, err := f.session.Save(ctx, chunkstore.Data, b)
	if err != nil {
		return err
	}
	f.c.mu.Lock()
	f.c.ids[ref.ID] = to
	f.c.mu.Unlock()
	return nil
}

// counter counts what is read.
type counter struct {
	r     io.Reader
	count func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.count(int64(n))
	return n, err
}
