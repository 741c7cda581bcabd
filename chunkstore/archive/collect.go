package archive

import (
	"context"
	"errors"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// collect turns items into records, in order.
func (w *treeWriter) collect(ctx context.Context) error {
	for {
		select {
		case it, ok := <-w.queue:
			if !ok {
				return w.finish(ctx)
			}
			if err := w.take(ctx, it); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finish ends the last bundle, unless the walk ended early.
func (w *treeWriter) finish(ctx context.Context) error {
	if !w.walked {
		return nil
	}
	if err := w.bundle.cut(ctx); err != nil {
		return err
	}
	return w.record()
}

// take takes the next item: waits for its content, sees to its bundle, and records what is complete.
func (w *treeWriter) take(ctx context.Context, it *item) error {
	if it.done != nil {
		select {
		case <-it.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if it.raw != nil {
		if err := w.relink(ctx, it); err != nil {
			return err
		}
	}
	there, err := w.content(ctx, it)
	w.memory.Release(it.reserve)
	if err != nil {
		return err
	}
	if there {
		w.wait = append(w.wait, it)
	}
	if len(w.wait) >= waitRecords {
		if err := w.bundle.cut(ctx); err != nil {
			return err
		}
	}
	if w.bundle.empty() {
		return w.record()
	}
	return nil
}

// relink sees to a later name whose first name vanished: it becomes the first.
func (w *treeWriter) relink(ctx context.Context, it *item) error {
	to, vanished := w.moved[it.entry.Link]
	switch {
	case !vanished:
		return nil
	case to != "":
		it.entry.Link = to
		return nil
	}
	first := it.entry.Link
	it.entry = *it.raw
	if it.entry.Size > 0 {
		it.parts = make([]part, 1)
		j := job{it: it, n: it.entry.Size}
		it.left.Store(1)
		it.done = make(chan struct{})
		if err := w.do(ctx, j); err != nil {
			return err
		}
	}
	if it.entry.Size == 0 || it.parts[0].err == nil {
		w.moved[first] = it.entry.Path
	}
	return nil
}

// content gives an item what was read of it, and reports whether it has a place in the tree.
func (w *treeWriter) content(ctx context.Context, it *item) (bool, error) {
	e := &it.entry
	if it.err != nil {
		w.leaveOut(e, it.err)
		return false, nil
	}
	if len(it.parts) == 0 {
		return true, nil
	}
	w.stats.ReadFiles++
	for i := range it.parts {
		if err := it.parts[i].err; err != nil {
			w.leaveOut(e, err)
			return false, nil
		}
	}
	for i := range it.parts {
		e.Torn = e.Torn || it.parts[i].torn
		e.Extents = join(e.Extents, it.parts[i].extents)
	}
	if e.Torn {
		e.CTime = Time{}
		w.stats.Torn++
		w.note(Notice{Path: e.Path, What: Torn})
	}
	if e.Size > smallMax {
		return true, w.bundle.cut(ctx)
	}
	data := it.parts[0].data
	it.parts = nil
	return true, w.bundled(ctx, e, data)
}

// bundled places the data of a small file.
func (w *treeWriter) bundled(ctx context.Context, e *Entry, data []byte) error {
	if int64(len(data)) == e.Size && len(data) <= InlineMax {
		e.Inline, e.Extents = data, nil
		return nil
	}
	if len(data) > 0 {
		ref, err := w.bundle.add(ctx, data)
		if err != nil {
			return err
		}
		spread(e.Extents, []chunkstore.Ref{ref})
		for i := range e.Extents {
			w.bundle.await(e.Extents[i].Refs)
		}
	}
	if endsBundle(e.Path) {
		return w.bundle.cut(ctx)
	}
	return nil
}

func (w *treeWriter) leaveOut(e *Entry, err error) {
	n := Notice{Path: e.Path, What: Vanished}
	if errors.Is(err, ErrVanished) {
		w.stats.Vanished++
	} else {
		w.stats.Unreadable++
		n.What, n.Err = Unreadable, err
	}
	if e.Nlink > 1 {
		w.moved[e.Path] = ""
	}
	w.note(n)
}

// record writes the records that wait, all of them complete.
func (w *treeWriter) record() error {
	for _, it := range w.wait {
		e := &it.entry
		if e.Type == File && !e.CTime.before(w.trusted) {
			e.CTime = Time{}
		}
		w.count(e, it.prev)
		if err := w.enc.Encode(*e); err != nil {
			return err
		}
	}
	clear(w.wait)
	w.wait = w.wait[:0]
	return nil
}

func (t Time) before(u Time) bool { return t.Sec < u.Sec || t.Sec == u.Sec && t.Nsec < u.Nsec }

func (w *treeWriter) count(e, prev *Entry) {
	w.stats.Entries++
	w.stats.Bytes += e.Size
	switch {
	case prev == nil:
		w.stats.New++
	case !prev.holds(e):
		w.stats.Changed++
	}
}
