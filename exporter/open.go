package exporter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// openSources opens every tree of the plan in the first of its ways that works. What cannot be
// opened in any is a problem of the snapshot.
func (x *export) openSources(ctx context.Context) error {
	last, err := x.lastTrees(ctx)
	if err != nil {
		return err
	}
	for _, t := range x.plan.Trees {
		x.sources = append(x.sources, &source{TreePlan: t, last: last[t.Where()]})
	}
	helped, err := x.openByOneHelper(ctx)
	if err != nil {
		return err
	}
	x.sources, err = keepIf(x.sources, func(s *source) (bool, error) {
		if helped[s] {
			return true, nil
		}
		return x.openNext(ctx, s, nil)
	})
	return err
}

// keepIf returns the sources for which keep is true, and closes the others; after an error, all.
func keepIf(list []*source, keep func(*source) (bool, error)) ([]*source, error) {
	var kept []*source
	for _, s := range list {
		ok, err := keep(s)
		if err != nil {
			return list, err
		}
		if ok {
			kept = append(kept, s)
		} else {
			s.close()
		}
	}
	return kept, nil
}

// openByOneHelper opens all trees that are read by a helper first of all, through one container. If
// that does not start, openNext starts one for each: then only what is to blame is lost.
func (x *export) openByOneHelper(ctx context.Context) (map[*source]bool, error) {
	var list []*source
	var mounts []string
	overlay := false
	for _, s := range x.sources {
		if s.Ways[0] == WayHelper {
			list, mounts = append(list, s), append(mounts, s.mount())
			overlay = overlay || s.Kind == Changes
		}
	}
	if len(list) < 2 {
		return nil, nil
	}
	h, err := startHelper(ctx, x.engine, mounts, overlay)
	if err != nil {
		x.o.Logger.Debug("one helper for all trees does not start", "error", err)
		return nil, ctx.Err()
	}
	x.helpers = append(x.helpers, h)
	opened := map[*source]bool{}
	for i, s := range list {
		if err := s.openIn(ctx, h, i); err == nil {
			opened[s] = true
		} else if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return opened, nil
}

// mount is what a helper has to mount to see the tree: a volume is mounted by its name, so that the
// engine sees to what its driver needs.
func (s *source) mount() string {
	if s.Kind == Volume {
		return s.Name
	}
	return s.Path
}

// openIn opens the tree as number i of a helper.
func (s *source) openIn(ctx context.Context, h *helper, i int) error {
	tree, err := h.open(ctx, i, s.dirOptions())
	if err != nil {
		return err
	}
	s.way, s.Ways = WayHelper, after(s.Ways, WayHelper)
	s.tree, s.helper = &tracked{Tree: tree}, h
	return nil
}

// after returns the ways behind w.
func after(ways []Way, w Way) []Way {
	for i := range ways {
		if ways[i] == w {
			return ways[i+1:]
		}
	}
	return ways
}

// openNext opens the tree in the next of its ways that works, cause being why it is not read as it
// was before. It reports false where none is left, which is then a problem of the snapshot.
func (x *export) openNext(ctx context.Context, s *source, cause error) (bool, error) {
	var causes []error
	if cause != nil {
		causes = append(causes, fmt.Errorf("by %s: %w", s.way, cause))
	}
	for len(s.Ways) > 0 {
		way := s.Ways[0]
		s.Ways = s.Ways[1:]
		s.close()
		err := x.openBy(ctx, s, way)
		if err == nil {
			s.way = way
			for _, c := range causes {
				x.note(s.Where(), "read by %s, because %v", way, c)
			}
			return true, nil
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		causes = append(causes, fmt.Errorf("by %s: %w", way, err))
	}
	x.problem(s.Where(), "not read: %v", errors.Join(causes...))
	return false, nil
}

func (x *export) openBy(ctx context.Context, s *source, way Way) error {
	switch way {
	case WayUpper, WayDir:
		tree, err := OpenDir(s.Path, s.dirOptions())
		if err != nil {
			return err
		}
		s.tree = &tracked{Tree: tree}
		return nil
	case WayHelper:
		h, err := startHelper(ctx, x.engine, []string{s.mount()}, s.Kind == Changes)
		if err != nil {
			return err
		}
		x.helpers = append(x.helpers, h)
		return s.openIn(ctx, h, 0)
	default:
		return nil // see catch
	}
}

// close closes what is open of the tree. Errors of closing what was only read tell nothing.
func (s *source) close() {
	if s.tree != nil {
		_ = closeTree(s.tree.Tree)
	}
	if s.caught != nil {
		_ = s.caught.Close()
	}
	s.tree, s.helper, s.caught = nil, nil, nil
}

func (x *export) closeSources() {
	for _, s := range x.sources {
		s.close()
	}
	for _, h := range x.helpers {
		if err := h.Close(); err != nil {
			x.o.Logger.Warn("a helper container was not removed", "error", err)
		}
	}
}

// lastTrees returns the trees of the newest snapshot of the system, from this host if there is one,
// by Where. A snapshot that cannot be read only makes the copy take longer.
func (x *export) lastTrees(ctx context.Context) (map[string]*snapshot.Archive, error) {
	if x.repo.IsPutOnly() { // it cannot read what it has stored
		return nil, nil
	}
	catalog, err := snapshot.ReadCatalog(ctx, x.repo)
	if err != nil {
		return nil, err
	}
	name := x.plan.System.Name
	list := snapshot.Filter{System: name, Host: x.host()}.Apply(catalog.Snapshots)
	if len(list) == 0 {
		list = snapshot.Filter{System: name}.Apply(catalog.Snapshots)
	}
	if len(list) == 0 {
		return nil, nil
	}
	last, err := catalog.Load(ctx, list[0])
	if err != nil {
		x.o.Logger.Warn("the last snapshot cannot be read: everything is read again", "snapshot", list[0].ID, "error", err)
		return nil, ctx.Err()
	}
	return maps.Collect(archives(&last.System)), nil
}

// archives iterates over the trees that a system holds, by Where.
func archives(sys *snapshot.System) iter.Seq2[string, *snapshot.Archive] {
	return func(yield func(string, *snapshot.Archive) bool) {
		each := func(kind TreeKind, name string, a *snapshot.Archive) bool {
			return a == nil || yield(TreePlan{Kind: kind, Name: name}.Where(), a)
		}
		for _, c := range sys.Containers {
			if !each(Changes, c.Name, c.Changes) {
				return
			}
		}
		for _, v := range sys.Volumes {
			if !each(Volume, v.Name, v.Content) {
				return
			}
		}
		for _, b := range sys.Binds {
			if !each(Bind, b.Source, b.Content) {
				return
			}
		}
	}
}

// storeTrees writes the records of all trees and gives them their places in the snapshot.
func (x *export) storeTrees(ctx context.Context) error {
	for _, s := range x.sources {
		a, changed, err := s.store(ctx, x.session)
		if err != nil {
			return err
		}
		x.place(s, a)
		stats := &x.snap.Stats
		stats.Changed += changed
		stats.Files += a.Entries
		stats.Bytes += a.Bytes
		problems, notes := s.describe()
		x.snap.System.Problems = append(x.snap.System.Problems, problems...)
		x.snap.System.Notes = append(x.snap.System.Notes, notes...)
	}
	return nil
}

// place puts an archive where its tree belongs.
func (x *export) place(s *source, a *snapshot.Archive) {
	sys := &x.snap.System
	for i := range sys.Containers {
		if c := &sys.Containers[i]; s.Kind == Changes && c.ID == s.Container {
			c.Changes, c.ChangesWay, c.WayLacks = a, string(s.way), s.way.lacks()
		}
	}
	for i := range sys.Volumes {
		if v := &sys.Volumes[i]; s.Kind == Volume && v.Name == s.Name {
			v.Content = a
		}
	}
	for i := range sys.Binds {
		if b := &sys.Binds[i]; s.Kind == Bind && b.Source == s.Name {
			b.Content = a
		}
	}
}

var _ archive.Saver = (*chunkstore.Session)(nil)
