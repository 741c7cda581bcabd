package exporter

import (
	"context"
	"path"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// A walk over what hardly changed is nearly all system calls, so WalkStat makes them in a goroutine of
// its own, some hundred nodes ahead of the comparison with what is known. What it says of a file that is
// known was so since the walk began. Any other file is looked at again, so that what is told of it is as
// new as Walk tells it.
const (
	aheadNodes   = 128 // are handed over at a time
	aheadBatches = 2   // may wait
)

// aheadNode is a node, or what is to be reported of one.
type aheadNode struct {
	entry archive.Entry
	path  string
	err   error // to be reported of path; entry is nothing then
}

// WalkStat implements archive.StatWalker. See trust for the file systems on which it leaves out
// attributes, and for those on which a walk gives no ctime at all.
func (d *Dir) WalkStat(ctx context.Context, known func(*archive.Entry) bool, fn func(archive.Entry) error) error {
	if !d.trust.xattrs {
		return d.Walk(ctx, fn)
	}
	ctx, stop := context.WithCancel(ctx)
	batches := make(chan []aheadNode, aheadBatches)
	var err error // of the listing, valid once batches is closed
	go func() {
		defer close(batches)
		err = d.list(ctx, batches)
	}()
	defer func() {
		stop()
		for range batches {
		}
	}()
	f := follower{walker: newWalker(d, fn), known: known, dir: d.root}
	f.flat = true
	defer f.leaveDir()
	for batch := range batches {
		for i := range batch {
			if err := f.take(&batch[i]); err != nil {
				return err
			}
		}
	}
	return err
}

// list walks, without the attributes of files, and sends what it finds.
func (d *Dir) list(ctx context.Context, batches chan<- []aheadNode) error {
	var batch []aheadNode
	add := func(n aheadNode) error {
		if batch = append(batch, n); len(batch) < aheadNodes {
			return nil
		}
		full := batch
		batch = make([]aheadNode, 0, aheadNodes)
		return send(ctx, batches, full)
	}
	ahead := *d
	if d.opts.Report != nil {
		ahead.opts.Report = func(path string, err error) { _ = add(aheadNode{path: path, err: err}) } // fails only with ctx
	}
	w := newWalker(&ahead, func(e archive.Entry) error { return add(aheadNode{entry: e}) })
	w.bare = true
	if err := w.walk(ctx); err != nil {
		return err
	}
	return send(ctx, batches, batch)
}

func send(ctx context.Context, batches chan<- []aheadNode, batch []aheadNode) error {
	select {
	case batches <- batch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follower takes what was listed.
type follower struct {
	*walker
	known func(*archive.Entry) bool
	path  string // of dir
	dir   int    // the directory of the last file that was looked at again
}

func (f *follower) take(n *aheadNode) error {
	if n.err != nil {
		f.opts.Report(n.path, n.err)
		return nil
	}
	if n.entry.Type != archive.File || f.known(&n.entry) {
		return f.fn(n.entry)
	}
	return f.again(n.entry.Path)
}

// again looks at a file again, with its attributes.
func (f *follower) again(name string) error {
	parent, base := path.Split(name)
	if parent != f.path {
		if ok, err := f.enterDir(parent); !ok {
			return err
		}
	}
	if f.file != "" {
		base = f.real
	}
	return f.visit(f.dir, base, name)
}

// enterDir opens a directory by the path that ends in a slash. It is false if there is none any more.
func (f *follower) enterDir(parent string) (bool, error) {
	f.leaveDir()
	if parent == "" {
		return true, nil
	}
	fd, err := f.openBeneath(parent[:len(parent)-1], unix.O_PATH|unix.O_DIRECTORY)
	switch {
	case err == nil:
		f.dir, f.path = fd, parent
		return true, nil
	case isGone(err):
		return false, nil
	}
	return false, f.report(parent[:len(parent)-1], err)
}

func (f *follower) leaveDir() {
	if f.dir != f.root {
		unix.Close(f.dir)
	}
	f.dir, f.path = f.root, ""
}
