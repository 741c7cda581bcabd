package exporter

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// late reports whether the tree is read in a way that is no reading of files: the engine makes a tar
// of a container that stands still. Such a tree is caught in the time in which the containers are
// held, and read after it.
func (w Way) late() bool { return w == WayCommit || w == WayExport }

// catch has the engine make the tars of late trees, as short as it can.
func (x *export) catch(ctx context.Context) error {
	var err error
	x.sources, err = keepIf(x.sources, func(s *source) (bool, error) {
		if !s.way.late() {
			return true, nil
		}
		err := x.catchBy(ctx, s)
		for err != nil && len(s.Ways) > 0 && ctx.Err() == nil {
			x.note(s.Where(), "not read by %s: %v", s.way, err)
			s.way, s.Ways = s.Ways[0], s.Ways[1:]
			err = x.catchBy(ctx, s)
		}
		if err != nil && ctx.Err() == nil {
			x.problem(s.Where(), "not read by %s: %v", s.way, err)
			return false, nil
		}
		return err == nil, err
	})
	return err
}

func (x *export) catchBy(ctx context.Context, s *source) error {
	if s.way == WayCommit {
		stream, err := x.engine.CommitLayer(ctx, s.Container) // the commit is made; the tar can wait
		s.caught = stream
		return err
	}
	stream, err := x.engine.ExportRootfs(ctx, s.Container)
	if err != nil {
		return err
	}
	tree, err := archive.NewTarTree(counted{stream, x.progress("export", s.Where())}, archive.TarTreeOptions{Dir: x.o.TempDir})
	if err = errors.Join(err, stream.Close()); err != nil {
		return err
	}
	s.caught = tree
	return nil
}

// counted counts what is read.
type counted struct {
	r        io.Reader
	progress func(int64)
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.progress(int64(n))
	return n, err
}

// readCaught reads the trees that catch has caught.
func (x *export) readCaught(ctx context.Context) error {
	var err error
	x.sources, err = keepIf(x.sources, func(s *source) (bool, error) {
		if s.caught == nil {
			return true, nil
		}
		tree, err := x.caughtTree(ctx, s)
		if err == nil {
			s.tree = &tracked{Tree: tree}
			err = s.pass(ctx, x.session, passOptions{repo: x.repo, progress: func(int64) {}})
		}
		var own *treeError
		if err != nil && ctx.Err() == nil && (tree == nil || errors.As(err, &own)) {
			x.problem(s.Where(), "not read by %s: %v", s.way, err)
			return false, nil
		}
		return err == nil, err
	})
	return err
}

// caughtTree makes the tree of a container's changes from what catch has caught. The source closes
// it.
func (x *export) caughtTree(ctx context.Context, s *source) (archive.Tree, error) {
	switch caught := s.caught.(type) {
	case *archive.TarTree:
		base, err := x.imageTree(ctx, s.Container)
		if err != nil {
			return nil, err
		}
		defer base.Close()
		diff, err := newDiffTree(ctx, base, caught)
		if err != nil {
			return nil, err
		}
		return excluding(ctx, s, diff)
	default:
		tree, err := archive.NewTarTree(counted{caught.(io.Reader), x.progress("export", s.Where())}, archive.TarTreeOptions{Layer: true, Dir: x.o.TempDir})
		if err = errors.Join(err, caught.Close()); err != nil {
			return nil, err
		}
		s.caught = tree // to be closed
		return excluding(ctx, s, tree)
	}
}

// imageTree is the file system of a container's image before anything ran in it: that of a container
// which is made for it and never started.
func (x *export) imageTree(ctx context.Context, container string) (tree *archive.TarTree, err error) {
	c, img := x.findContainer(container)
	id, _, err := x.engine.CreateContainer(ctx, blank(c, img), snapshot.Placement{
		Name: "hakobune-base-" + strings.ToLower(rand.Text()), Image: c.ImageID,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.engine.RemoveContainer(context.WithoutCancel(ctx), id)) }()
	stream, err := x.engine.ExportRootfs(ctx, id)
	if err != nil {
		return nil, err
	}
	tree, err = archive.NewTarTree(counted{stream, x.progress("export", "image of container "+c.Name)}, archive.TarTreeOptions{Dir: x.o.TempDir})
	return tree, errors.Join(err, stream.Close())
}

// findContainer returns a container of the system and its image, which may be unknown.
func (x *export) findContainer(id string) (c snapshot.Container, img snapshot.Image) {
	for _, c = range x.snap.System.Containers {
		if c.ID == id {
			break
		}
	}
	for _, img := range x.snap.System.Images {
		if img.Config == c.ImageKey {
			return c, img
		}
	}
	return c, img
}

// blank describes a container of the same image that does nothing. It gets memory in place of the
// volumes that the image asks for, so that none is made.
func blank(c snapshot.Container, img snapshot.Image) snapshot.Container {
	var config struct {
		Config struct{ Volumes map[string]struct{} } `json:"config"`
	}
	_ = json.Unmarshal(img.RawConfig, &config) // what cannot be read asks for nothing
	tmpfs := map[string]string{}
	for dir := range config.Config.Volumes {
		tmpfs[dir] = ""
	}
	inspect, err := json.Marshal(map[string]any{
		"Config": map[string]any{
			"Image": c.ImageID, "Cmd": []string{"none"}, "Labels": map[string]string{labelHelper: "base"},
		},
		"HostConfig": map[string]any{"NetworkMode": "none", "Tmpfs": tmpfs},
	})
	if err != nil {
		panic(fmt.Sprintf("strings that do not marshal: %v", err)) // cannot happen
	}
	return snapshot.Container{Name: c.Name, Image: c.ImageID, Inspect: inspect}
}

// engineFiles are what engines put into each container: empty files to mount their own on, and marks.
var engineFiles = []string{".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab"}

// engineDirs are directories that engines make anew in each container, to mount something there.
var engineDirs = []string{"dev", "dev/pts", "dev/shm", "proc", "sys"}

// ofEngine reports whether a node is the engine's.
func ofEngine(e archive.Entry) bool {
	return slices.Contains(engineFiles, e.Path) && e.Size == 0 && e.Type != archive.Whiteout && (e.Type != archive.Symlink || e.Link == "/proc/mounts")
}

// excluding leaves out of a tree what the plan excludes, as OpenDir does, and what is the engine's.
func excluding(ctx context.Context, s *source, tree archive.Tree) (archive.Tree, error) {
	var patterns []pattern
	for _, text := range s.Exclude {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		patterns = append(patterns, p)
	}
	entries, err := listTree(ctx, tree)
	if err != nil {
		return nil, err
	}
	out := &diffTree{Tree: tree}
	hidden := "\x00" // what is below this path is left out with it
	for _, e := range entries {
		if ofEngine(e) || strings.HasPrefix(e.Path, hidden+"/") {
			continue
		}
		if slices.Contains(s.Skip, e.Path) || slices.ContainsFunc(patterns, func(p pattern) bool { return p.match(strings.Split(e.Path, "/")) }) {
			hidden = e.Path
			continue
		}
		out.entries = append(out.entries, e)
	}
	out.dropEmpty(engineDirs)
	return out, nil
}

// dropEmpty leaves out directories of these names that hold nothing.
func (d *diffTree) dropEmpty(names []string) {
	next := ""
	for i := len(d.entries) - 1; i >= 0; i-- {
		e := d.entries[i]
		if e.Type == archive.Dir && slices.Contains(names, e.Path) && !strings.HasPrefix(next, e.Path+"/") {
			d.entries = slices.Delete(d.entries, i, i+1)
			continue
		}
		next = e.Path
	}
}
