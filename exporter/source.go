package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// source is a tree that is being read, in one of its ways.
type source struct {
	TreePlan
	last *snapshot.Archive // of the last snapshot, nil: none

	way    Way
	tree   *tracked
	helper *helper   // for WayHelper
	caught io.Closer // for late ways: what was caught while the container was held

	spool  *archive.Spool // the records of the last pass
	passes int
	stats  archive.TreeStats // of the last pass

	mu      sync.Mutex
	notices []archive.Notice // of the last pass
}

// tracked is a tree that remembers an error of its own, in distinction to one of whoever reads it.
type tracked struct {
	archive.Tree
	mu  sync.Mutex
	err error
}

// note takes note of an error unless it is one file's, or only says that the reading was ended.
func (t *tracked) note(err error) {
	for _, other := range []error{archive.ErrVanished, archive.ErrUnreadable, context.Canceled, context.DeadlineExceeded, io.EOF} {
		if errors.Is(err, other) {
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = cmp.Or(t.err, err)
}

// failure returns the tree's own error.
func (t *tracked) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Walk implements archive.Tree.
func (t *tracked) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	return t.walk(fn, func(fn func(archive.Entry) error) error { return t.Tree.Walk(ctx, fn) })
}

// walk notes the error of a walk that is not of fn.
func (t *tracked) walk(fn func(archive.Entry) error, walk func(fn func(archive.Entry) error) error) error {
	var readers error
	err := walk(func(e archive.Entry) error {
		readers = fn(e)
		return readers
	})
	if readers == nil {
		t.note(err)
	}
	return err
}

// Open implements archive.Tree.
func (t *tracked) Open(ctx context.Context, e archive.Entry) (archive.Content, error) {
	c, err := t.Tree.Open(ctx, e)
	return t.content(c, err)
}

// WalkStat implements archive.StatWalker.
func (t *tracked) WalkStat(ctx context.Context, known func(*archive.Entry) bool, fn func(archive.Entry) error) error {
	walker, ok := t.Tree.(archive.StatWalker)
	if !ok {
		return t.Walk(ctx, fn)
	}
	return t.walk(fn, func(fn func(archive.Entry) error) error { return walker.WalkStat(ctx, known, fn) })
}

// rangeTracked is a tracked tree whose files can be opened in the middle.
type rangeTracked struct {
	*tracked
	ranges archive.RangeOpener
}

// OpenAt implements archive.RangeOpener.
func (t rangeTracked) OpenAt(ctx context.Context, e archive.Entry, off int64) (archive.Content, error) {
	c, err := t.ranges.OpenAt(ctx, e, off)
	return t.content(c, err)
}

// reading returns the tree with all that it can do.
func (t *tracked) reading() archive.Tree {
	if ranges, ok := t.Tree.(archive.RangeOpener); ok {
		return rangeTracked{t, ranges}
	}
	return t
}

func (t *tracked) content(c archive.Content, err error) (archive.Content, error) {
	if err != nil {
		t.note(err)
		return nil, err
	}
	return trackedContent{c, t}, nil
}

// trackedContent notes errors of a content that are the tree's.
type trackedContent struct {
	archive.Content
	tree *tracked
}

func (c trackedContent) Next() (int64, bool, error) {
	n, hole, err := c.Content.Next()
	c.tree.note(err)
	return n, hole, err
}

func (c trackedContent) Read(p []byte) (int, error) {
	n, err := c.Content.Read(p)
	c.tree.note(err)
	return n, err
}

func (c trackedContent) Stat() (archive.Entry, error) {
	e, err := c.Content.Stat()
	c.tree.note(err)
	return e, err
}

// dirOptions returns how the tree is opened.
func (s *source) dirOptions() DirOptions {
	return DirOptions{Overlay: s.Kind == Changes, Exclude: s.Exclude, SkipPaths: s.Skip, Report: s.report}
}

// report takes note of what a walk could not read.
func (s *source) report(path string, err error) {
	s.notice(archive.Notice{Path: path, What: archive.Unreadable, Err: err})
}

func (s *source) notice(n archive.Notice) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notices = append(s.notices, n)
}

// pass reads the tree once, against the records of the pass before or of the last snapshot, and
// keeps its records. An error that is the tree's own is returned as a *treeError.
func (s *source) pass(ctx context.Context, saver archive.Saver, o passOptions) error {
	start, err := s.clock(ctx)
	if err != nil {
		return &treeError{err}
	}
	spool, err := archive.NewSpool()
	if err != nil {
		return err
	}
	var previous iter.Seq2[archive.Entry, error]
	switch {
	case s.spool != nil:
		previous = s.spool.Records()
	case s.last != nil:
		previous = archive.Records(ctx, o.repo, s.last.Records)
	}
	s.mu.Lock()
	s.notices = nil
	s.mu.Unlock()
	s.tree.err = nil
	stats, err := archive.WriteTree(ctx, s.tree.reading(), saver, spool, archive.TreeOptions{
		Previous: previous, Rescan: o.rescan && s.spool == nil, Start: start, Note: s.notice, Progress: o.progress,
	})
	if err != nil {
		if own := s.tree.failure(); own != nil {
			return &treeError{own}
		}
		return fmt.Errorf("%s: %w", s.Where(), err)
	}
	s.spool, s.stats = spool, stats
	s.passes++
	return nil
}

// passOptions are the same for all trees of a pass.
type passOptions struct {
	repo     *chunkstore.Repository // of the last snapshot
	rescan   bool
	progress func(int64)
}

// treeError says that a tree cannot be read; others can.
type treeError struct{ err error }

func (e *treeError) Error() string { return e.err.Error() }
func (e *treeError) Unwrap() error { return e.err }

// clock returns the time by the clock that the tree's times are of.
func (s *source) clock(ctx context.Context) (time.Time, error) {
	if s.helper == nil {
		return time.Now(), nil
	}
	return s.helper.clock(ctx)
}

// maxNotices is how many paths of one tree a snapshot names. What is more is counted.
const maxNotices = 50

// describe says what there is to say about the last pass.
func (s *source) describe() (problems, notes []snapshot.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[archive.What]int{}
	for _, n := range s.notices {
		if n.What == archive.NoPrevious {
			continue // it only made the reading longer
		}
		if counts[n.What]++; counts[n.What] > maxNotices {
			continue
		}
		p := snapshot.Problem{Where: s.Where() + ": " + n.Path, What: n.What.String()}
		switch {
		case n.What != archive.Unreadable:
			notes = append(notes, p)
		case n.Err != nil:
			p.What = n.Err.Error()
			fallthrough
		default:
			problems = append(problems, p)
		}
	}
	for what, n := range counts {
		if n <= maxNotices {
			continue
		}
		p := snapshot.Problem{Where: s.Where(), What: fmt.Sprintf("%d more: %s", n-maxNotices, what)}
		if what == archive.Unreadable {
			problems = append(problems, p)
		} else {
			notes = append(notes, p)
		}
	}
	return problems, notes
}

// store writes the records of the last pass to the session, and counts what differs from the last
// snapshot.
func (s *source) store(ctx context.Context, session *chunkstore.Session) (a *snapshot.Archive, changed int64, err error) {
	a = &snapshot.Archive{Entries: s.stats.Entries, Bytes: s.stats.Bytes}
	if a.Records, err = s.storeRecords(ctx, session); err != nil {
		return nil, 0, fmt.Errorf("%s: store records: %w", s.Where(), err)
	}
	if changed, err = s.changed(ctx, session.Repository(), a.Records); err != nil {
		return nil, 0, fmt.Errorf("%s: %w", s.Where(), err)
	}
	return a, changed, nil
}

func (s *source) storeRecords(ctx context.Context, session *chunkstore.Session) (chunkstore.Stream, error) {
	in, err := s.spool.Open()
	if err != nil {
		return chunkstore.Stream{}, err
	}
	defer in.Close()
	out := session.NewStream(ctx)
	_, err = io.Copy(out, in)
	st, finishErr := out.Finish()
	return st, errors.Join(err, finishErr)
}

// changed counts the entries that differ from those of the last snapshot, new and removed ones too.
func (s *source) changed(ctx context.Context, repo *chunkstore.Repository, now chunkstore.Stream) (int64, error) {
	if s.last == nil {
		return s.stats.Entries, nil
	}
	if now.Size == s.last.Records.Size && slices.Equal(now.Chunks, s.last.Records.Chunks) {
		return 0, nil
	}
	before, err := repo.OpenStream(ctx, s.last.Records)
	if err != nil {
		return s.stats.Entries, ctx.Err() // a snapshot that cannot be read counts as none
	}
	defer before.Close()
	in, err := s.spool.Open()
	if err != nil {
		return 0, err
	}
	defer in.Close()
	return archive.CountChanges(before, in)
}
