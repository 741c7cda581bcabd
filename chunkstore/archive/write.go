package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// TreeOptions are the options of WriteTree. The zero value reads every file.
type TreeOptions struct {
	// Previous are the records of an earlier state of the same tree: of the last snapshot, or of
	// the Spool of the pass before. A file that its record shows to be unchanged is not opened.
	Previous iter.Seq2[Entry, error]
	// Rescan reads every file although Previous has it: Previous only serves to count changes.
	Rescan bool
	// Start is when the walk begins, by the clock of the tree's host. Zero means now, by this
	// host's. A file changed since just before is recorded as not to be trusted next time.
	Start time.Time
	// Workers is how many files (or segments of large ones) are read at a time, 0 means 4: enough
	// to keep a disk busy, and each may need about 17 MiB of memory.
	Workers int
	// Note is told what the records alone do not say. It is called by one goroutine at a time.
	Note func(Notice)
	// Progress is told how many bytes of content were just read. It is called by several
	// goroutines at once.
	Progress func(n int64)
}

// Notice is something to tell about one path of a tree.
type Notice struct {
	Path string
	What What
	Err  error // the cause, for Unreadable and NoPrevious
}

// What says what a Notice is about.
type What uint8

// What happens while a tree is read.
const (
	Vanished   What = iota + 1 // left out: it went away while the tree was read
	Unreadable                 // left out: it is there and cannot be read
	Torn                       // recorded, but it changed while it was read
	NoPrevious                 // Previous failed at this path: everything after it was read
)

// String returns a phrase that follows a path.
func (w What) String() string {
	switch w {
	case Vanished:
		return "vanished while the tree was read"
	case Unreadable:
		return "cannot be read"
	case Torn:
		return "changed while it was read"
	case NoPrevious:
		return "earlier records end here"
	}
	return fmt.Sprintf("notice %d", uint8(w))
}

// TreeStats says what WriteTree did.
type TreeStats struct {
	Entries   int64 // records written
	Bytes     int64 // sum of the sizes of files, hard links once
	ReadFiles int64 // files opened
	ReadBytes int64 // bytes of content read

	// Against Previous, all new if there is none. What only serves to recognise a file (ctime,
	// inode) does not count as a change.
	New, Changed, Removed int64

	Torn, Vanished, Unreadable int64
}

// racy is how long after a change another one may leave the same ctime: the kernel's clock for
// time stamps ticks at 100 Hz or faster.
const racy = 20 * time.Millisecond

const (
	queueItems  = 1024     // nodes between walk and record
	queueBytes  = 16 << 20 // contents of small files read ahead
	waitRecords = 8 << 10  // records that wait for their bundle
	segmentJobs = 16 << 10 // a file of more segments is read from front to back
)

// WriteTree writes the records of a tree to out, an entire stream from first to last byte, and
// saves the contents that are not there yet. The records come in Compare order whatever the order
// in which the contents were read, so the same tree gives the same bytes.
//
// Later names of a node with several become Hardlink records of the first one. A file that vanishes
// or cannot be read is left out and noted; one that changes while it is read is recorded as Torn
// (a small one only after a second try). Any other error ends it, and out is then incomplete.
//
// Memory is bounded: 16 MiB of small files read ahead, a bundle, some thousand records, and for each
// worker what a Split holds.
func WriteTree(ctx context.Context, tree Tree, s Saver, out io.Writer, opts TreeOptions) (TreeStats, error) {
	w := newTreeWriter(tree, s, out, opts)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.walk(ctx) })
	for range w.workers {
		g.Go(func() error { return w.work(ctx) })
	}
	g.Go(func() error { return w.collect(ctx) })
	if err := g.Wait(); err != nil {
		return TreeStats{}, err
	}
	if w.prev.err != nil {
		w.note(Notice{Path: w.prevEnd, What: NoPrevious, Err: w.prev.err})
	}
	w.stats.Removed = w.prev.removed
	w.stats.ReadBytes = w.readBytes.Load()
	return w.stats, w.enc.Close()
}

type treeWriter struct {
	tree    Tree
	ranges  RangeOpener // nil if the tree is none
	saver   Saver
	opts    TreeOptions
	workers int
	trusted Time // ctimes from here on are not to be trusted

	// The walk's.
	prev    *previous
	prevEnd string // where prev failed
	bare    string // path of the file that was walked without its attributes, because they are known
	links   links
	kept    chunkstore.ID // the last chunk found to be there: its neighbours mostly want the same
	walked  bool          // to the end; set before queue is closed

	queue     chan *item // in order, from walk to collect
	jobs      chan job   // from walk to the workers
	memory    *semaphore.Weighted
	readBytes atomic.Int64

	// The collector's.
	enc    *Encoder
	bundle bundle
	wait   []*item           // complete but for the ID of the bundle
	moved  map[string]string // first names that vanished: the name that took their place, or ""
	stats  TreeStats
}

// item is one node on its way to its record.
type item struct {
	entry Entry
	prev  *Entry // of the same path
	raw   *Entry // of a later name: what was walked
	err   error  // why it has no place in the tree

	parts   []part        // what is read of it, nothing for most
	left    atomic.Int32  // parts still to be read
	done    chan struct{} // closed when none is left
	reserve int64         // memory taken for its data
}

// part is what was read of a file by one job.
type part struct {
	data    []byte // of a small file
	extents []Extent
	torn    bool
	err     error
}

// job is a part of a file to read: all of a small one, bytes of a large one.
type job struct {
	it     *item
	part   int
	off, n int64
}

func newTreeWriter(tree Tree, s Saver, out io.Writer, opts TreeOptions) *treeWriter {
	if opts.Start.IsZero() {
		opts.Start = time.Now()
	}
	start := opts.Start.Add(-racy)
	w := &treeWriter{
		tree: tree, saver: s, opts: opts, workers: opts.Workers,
		trusted: Time{Sec: start.Unix(), Nsec: int32(start.Nanosecond())},
		prev:    newPrevious(opts.Previous),
		links:   links{},
		queue:   make(chan *item, queueItems),
		jobs:    make(chan job),
		memory:  semaphore.NewWeighted(queueBytes),
		enc:     NewEncoder(out),
		bundle:  bundle{saver: s},
		moved:   map[string]string{},
	}
	w.ranges, _ = tree.(RangeOpener)
	if w.workers <= 0 {
		w.workers = 4
	}
	return w
}

func (w *treeWriter) progress(n int64) {
	w.readBytes.Add(n)
	if w.opts.Progress != nil {
		w.opts.Progress(n)
	}
}

func (w *treeWriter) note(n Notice) {
	if w.opts.Note != nil {
		w.opts.Note(n)
	}
}

// walk turns nodes into items, in order, and gives out what is to be read.
func (w *treeWriter) walk(ctx context.Context) error {
	defer close(w.queue)
	defer close(w.jobs)
	defer w.prev.stop()
	err := w.walkTree(ctx, func(e Entry) error {
		switch e.Type {
		case Hardlink:
			return fmt.Errorf("tree: walk reported %q as a hard link", e.Path)
		case Whiteout:
			e = Entry{Path: e.Path, Type: Whiteout} // its owner and time mean nothing
		}
		return w.visit(ctx, e)
	})
	if err != nil {
		return err
	}
	w.prev.finish()
	w.walked = true
	return ctx.Err()
}

func (w *treeWriter) walkTree(ctx context.Context, fn func(Entry) error) error {
	sw, ok := w.tree.(StatWalker)
	if !ok || w.opts.Previous == nil || w.opts.Rescan {
		return w.tree.Walk(ctx, fn)
	}
	known := func(e *Entry) bool {
		if w.bare = ""; w.unchanged(e, w.prev.seek(e.Path)) {
			w.bare = e.Path
		}
		return w.bare != ""
	}
	return sw.WalkStat(ctx, known, fn)
}

// unchanged reports whether stat shows that a file is as its previous record has it.
func (w *treeWriter) unchanged(e, p *Entry) bool {
	return p != nil && !w.opts.Rescan && e.CTime != (Time{}) &&
		p.Type == File && p.Size == e.Size && p.MTime == e.MTime && p.CTime == e.CTime && p.Ino == e.Ino &&
		p.Mode == e.Mode && p.UID == e.UID && p.GID == e.GID
}

func (w *treeWriter) enqueue(ctx context.Context, it *item) error {
	select {
	case w.queue <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *treeWriter) visit(ctx context.Context, e Entry) error {
	prev := w.prev.seek(e.Path)
	if w.bare != "" && w.bare == e.Path {
		e.Xattrs = prev.Xattrs
	}
	it := &item{entry: e, prev: prev}
	if w.prev.err != nil && w.prevEnd == "" {
		w.prevEnd = e.Path
	}
	if len(e.Path) > maxPath {
		it.err = fmt.Errorf("%w: a path of %d bytes, of at most %d", ErrUnreadable, len(e.Path), maxPath)
		return w.enqueue(ctx, it)
	}
	if first, ok := w.links.first(&e); ok {
		it.raw = &e
		it.entry = Entry{Path: e.Path, Type: Hardlink, Link: first}
	}
	var jobs []job
	if it.entry.Type == File && e.Size > 0 && !(w.unchanged(&e, prev) && w.keep(it)) {
		jobs = w.plan(it)
	}
	if len(jobs) > 0 && e.Size <= smallMax {
		if err := w.memory.Acquire(ctx, e.Size); err != nil {
			return err
		}
		it.reserve = e.Size
	}
	if err := w.enqueue(ctx, it); err != nil {
		return err
	}
	for _, j := range jobs {
		select {
		case w.jobs <- j:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// keep takes the content over from the previous record, if all its chunks are there.
func (w *treeWriter) keep(it *item) bool {
	e, p := &it.entry, it.prev
	all := p.refs(func(r chunkstore.Ref) bool {
		if r.ID == w.kept {
			return true
		}
		if !w.saver.Keep(r.ID) {
			return false
		}
		w.kept = r.ID
		return true
	})
	if all {
		e.Inline, e.Extents = p.Inline, p.Extents
	}
	return all
}

// plan says how a file is read: as one job, or a large one as several where the tree allows it.
func (w *treeWriter) plan(it *item) []job {
	it.done = make(chan struct{})
	size := it.entry.Size
	step := size
	if w.ranges != nil && size > segmentSize && size <= segmentJobs*segmentSize {
		step = segmentSize
	}
	var jobs []job
	for off := int64(0); off < size; off += step {
		jobs = append(jobs, job{it: it, part: len(jobs), off: off, n: min(step, size-off)})
	}
	it.left.Store(int32(len(jobs)))
	it.parts = make([]part, len(jobs))
	return jobs
}

// work reads what walk gives out.
func (w *treeWriter) work(ctx context.Context) error {
	for {
		select {
		case j, ok := <-w.jobs:
			if !ok {
				return nil
			}
			if err := w.do(ctx, j); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// do runs one job. Only errors that are not the file's own are returned.
func (w *treeWriter) do(ctx context.Context, j job) error {
	p := &j.it.parts[j.part]
	if j.it.entry.Size <= smallMax {
		*p = w.readSmall(ctx, &j.it.entry)
	} else {
		*p = w.readLarge(ctx, &j.it.entry, j.off, j.n)
	}
	if p.err != nil && !errors.Is(p.err, ErrVanished) && !errors.Is(p.err, ErrUnreadable) {
		return fmt.Errorf("content of %q: %w", j.it.entry.Path, p.err)
	}
	if j.it.left.Add(-1) == 0 {
		close(j.it.done)
	}
	return nil
}
