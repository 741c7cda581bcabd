package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Target is the state of an engine and its host before a restore, as far as a plan depends on it.
type Target struct {
	Facts      snapshot.Facts
	Names      snapshot.Names
	Containers []snapshot.Container
	Images     []snapshot.Image
	Misfits    map[string][]snapshot.Misfit // by name of the snapshot's container
	Paths      map[string]PathState         // of the host paths that binds go to; nil if this is not the engine's host
}

// PathState says what is at a host path.
type PathState string

// What can be at a host path.
const (
	PathAbsent PathState = ""
	PathEmpty  PathState = "empty directory"
	PathDir    PathState = "directory with content"
	PathFile   PathState = "file" // or any other node that is not a directory
)

// Survey asks an engine for all that a plan for snap needs. It changes nothing.
func Survey(ctx context.Context, e Surveyed, snap *snapshot.Snapshot, opts Options) (Target, error) {
	t := Target{Facts: e.Facts(), Misfits: make(map[string][]snapshot.Misfit)}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) { t.Names, err = e.Names(gctx); return })
	g.Go(func() (err error) { t.Containers, err = e.Containers(gctx); return })
	g.Go(func() (err error) { t.Images, err = e.Images(gctx); return })
	if err := g.Wait(); err != nil {
		return Target{}, fmt.Errorf("survey of the engine: %w", err)
	}
	for _, c := range snap.System.Containers {
		if m := e.Misfits(c); len(m) > 0 {
			t.Misfits[c.Name] = m
		}
	}
	if !t.Facts.Local {
		return t, nil
	}
	t.Paths = make(map[string]PathState)
	for _, b := range snap.System.Binds {
		p := remapPath(b.Source, opts.Binds)
		state, err := pathState(p)
		if err != nil {
			return Target{}, fmt.Errorf("survey of bind %s: %w", p, err)
		}
		t.Paths[p] = state
	}
	return t, nil
}

func pathState(p string) (PathState, error) {
	fi, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return PathAbsent, nil
	case err != nil:
		return "", err
	case !fi.IsDir():
		return PathFile, nil
	}
	d, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer d.Close()
	if _, err := d.Readdirnames(1); errors.Is(err, io.EOF) {
		return PathEmpty, nil
	} else if err != nil {
		return "", err
	}
	return PathDir, nil
}
