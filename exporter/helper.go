package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Helpers runs this program in containers on the engine's host.
type Helpers interface {
	// Helper runs it as spec says. The stream is its standard input and output; Close ends it and
	// removes the container.
	Helper(ctx context.Context, spec snapshot.HelperSpec) (io.ReadWriteCloser, error)
}

// HelperCommand is the argument with which the program serves trees on its standard input and
// output, by ServeTree with OpenRequest.
const HelperCommand = "internal-helper"

// helper is a helper container and what is mounted in it.
type helper struct {
	*Remote
	targets []string
}

// startHelper runs a helper that sees the given paths of its host, or volumes by their names,
// read-only. Each is mounted under its own base name. With overlay it may read the marks of overlay
// file systems. The helper ends with ctx, or by Close.
func startHelper(ctx context.Context, engine Helpers, sources []string, overlay bool) (*helper, error) {
	spec := snapshot.HelperSpec{Args: []string{HelperCommand}, CapAdd: []string{"DAC_READ_SEARCH"}}
	if overlay {
		spec.CapAdd = append(spec.CapAdd, "SYS_ADMIN")
	}
	h := &helper{}
	for i, source := range sources {
		target := path.Join("/trees", strconv.Itoa(i), path.Base(source))
		h.targets = append(h.targets, target)
		spec.Binds = append(spec.Binds, snapshot.HelperBind{Source: source, Target: target, ReadOnly: true})
	}
	rw, err := engine.Helper(ctx, spec)
	if err != nil {
		return nil, err
	}
	h.Remote, err = DialTree(ctx, rw)
	return h, err
}

// open opens the tree of source i.
func (h *helper) open(ctx context.Context, i int, o DirOptions) (*RemoteTree, error) {
	return h.Remote.Open(ctx, TreeRequest{Path: h.targets[i], Options: o})
}

// look says what source i is.
func (h *helper) look(ctx context.Context, i int) node {
	// In the directory above it a directory is an entry (an empty one, being a mount point), and
	// nothing else is.
	kind := nodeFile
	err := h.entries(ctx, path.Dir(h.targets[i]), func(e archive.Entry) {
		if e.Path == path.Base(h.targets[i]) && e.Type == archive.Dir {
			kind = nodeDir
		}
	})
	if err == nil && kind == nodeFile {
		err = h.entries(ctx, h.targets[i], func(e archive.Entry) {
			switch e.Type {
			case archive.Socket:
				kind = nodeSocket
			case archive.CharDevice, archive.BlockDevice, archive.FIFO:
				kind = nodeSpecial
			}
		})
	}
	if err != nil {
		return node{kind: nodeUnreadable, err: err}
	}
	return node{kind: kind}
}

// entries walks a directory of the helper's.
func (h *helper) entries(ctx context.Context, dir string, fn func(archive.Entry)) error {
	t, err := h.Remote.Open(ctx, TreeRequest{Path: dir, Options: DirOptions{Report: func(string, error) {}}})
	if err != nil {
		return err
	}
	return errors.Join(t.Walk(ctx, func(e archive.Entry) error {
		fn(e)
		return nil
	}), t.Close())
}

// clock returns the helper's time, a little early rather than late.
func (h *helper) clock(ctx context.Context) (time.Time, error) {
	began := time.Now()
	now, err := h.Clock(ctx)
	if err != nil {
		return now, fmt.Errorf("helper: %w", err)
	}
	return now.Add(-time.Since(began)), nil
}

// closeTree closes a tree that can be closed.
func closeTree(t archive.Tree) error {
	if c, ok := t.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
