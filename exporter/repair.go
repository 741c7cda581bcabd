package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// RepairOptions are the options of a Repairer.
type RepairOptions struct {
	Host    string // name of this one
	Program string // name and version
	DryRun  bool   // only find out what is lost
}

// Repairer makes snapshots of what can still be read of damaged ones.
type Repairer struct {
	repo   *chunkstore.Repository
	cat    *snapshot.Catalog
	o      RepairOptions
	stored func(chunkstore.ID) (bool, error)
}

// NewRepairer finds out what is stored. What a chunk that is there holds is not looked at: that is for
// chunkstore's RepairPacks, before.
func NewRepairer(ctx context.Context, repo *chunkstore.Repository, cat *snapshot.Catalog, o RepairOptions) (*Repairer, error) {
	stored, err := repo.Stored(ctx)
	if err != nil {
		return nil, fmt.Errorf("repair snapshots: %w", err)
	}
	return &Repairer{repo, cat, o, stored}, nil
}

// Repaired says what became of a snapshot. Without Lost it is whole, and there is no other.
type Repaired struct {
	Lost    []snapshot.Problem
	New     *snapshot.Summary // nil in a dry run
	Already bool              // New was made by an earlier repair
}

// errWaits says that a chunk can be read but must not be relied on.
var errWaits = errors.New("what it needs is about to be given back by a prune: run hakobune prune, and this again")

// errPutOnlyHost says that a snapshot stays as it is.
var errPutOnlyHost = errors.New("it is a put-only host's, of which nothing can be made anew: what is left of it can be restored")

// Repair makes a new snapshot of what can still be read of s, if that is not all. Files whose content is lost are
// left out, each told by name among the problems of the new snapshot, which is incomplete by that; so are the
// layers of an image of which one is lost. The new one counts as a copy: its origin is s, and it goes by the times
// of s. Where the description of the system itself is lost there is nothing to make: that is an error.
func (r *Repairer) Repair(ctx context.Context, s snapshot.Summary) (*Repaired, error) {
	found, err := r.repair(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("repair snapshot %s: %w", s.ID, err)
	}
	return found, nil
}

func (r *Repairer) repair(ctx context.Context, s snapshot.Summary) (*Repaired, error) {
	snap, err := r.cat.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	look := &salvage{Repairer: r, sys: snap.System}
	if err := look.run(ctx); err != nil {
		return nil, err
	}
	if made := r.made(s); made != nil && len(look.lost) > 0 {
		return &Repaired{Lost: look.lost, New: made, Already: true}, nil
	}
	if r.o.DryRun || len(look.lost) == 0 {
		return &Repaired{Lost: look.lost}, nil
	}
	if snap.System.Domain != (chunkstore.Domain{}) {
		return nil, errPutOnlyHost
	}
	session, err := r.repo.Begin(ctx, chunkstore.BeginOptions{Host: r.o.Host, Program: r.o.Program})
	if err != nil {
		return nil, err
	}
	remake := &salvage{Repairer: r, sys: snap.System, session: session}
	if err := remake.run(ctx); err != nil {
		return nil, errors.Join(err, session.Abort(ctx))
	}
	fresh := r.successor(snap.Summary, remake)
	err = snapshot.Commit(ctx, session, fresh)
	return &Repaired{Lost: remake.lost, New: &fresh.Summary}, err
}

// made returns the snapshot that an earlier repair made of s, nil if there is none.
func (r *Repairer) made(s snapshot.Summary) *snapshot.Summary {
	for i := range r.cat.Snapshots {
		o := r.cat.Snapshots[i].Origin
		if o != nil && o.Snapshot == s.ID && o.Repository == r.repo.Config().Repository.String() {
			return &r.cat.Snapshots[i]
		}
	}
	return nil
}

// successor returns the snapshot that takes the place of old.
func (r *Repairer) successor(old snapshot.Summary, m *salvage) *snapshot.Snapshot {
	s := &snapshot.Snapshot{Summary: old, System: m.sys}
	s.System.Problems = slices.Concat(s.System.Problems, m.lost)
	s.System.Notes = slices.Concat(s.System.Notes, []snapshot.Problem{{Where: "system " + old.System, What: "repaired: what could still be read of snapshot " + old.ID}})
	s.Complete, s.Program = false, r.o.Program
	s.Stats = snapshot.Stats{Bytes: m.bytes, Files: m.files, Paused: old.Stats.Paused, Problems: len(s.System.Problems)}
	if s.Origin == nil {
		s.Origin = &snapshot.Origin{Repository: r.repo.Config().Repository.String(), Snapshot: old.ID, Stored: old.Stored}
	}
	if owner := r.cat.Owner(old.System); owner != nil && !old.Stray {
		s.Term = owner.Number // or it would look as if stored by a site that had lost the system
	}
	return s
}

// salvage is one pass over what a snapshot needs: one that only looks where there is no session.
type salvage struct {
	*Repairer
	sys     snapshot.System
	session *chunkstore.Session

	lost  []snapshot.Problem
	bytes int64
	files int64
}

func (x *salvage) problem(where, format string, args ...any) {
	x.lost = append(x.lost, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// run goes over everything that holds data. What it changes of the system is its own.
func (x *salvage) run(ctx context.Context) error {
	sys := &x.sys
	sys.Images, sys.Containers = slices.Clone(sys.Images), slices.Clone(sys.Containers)
	sys.Volumes, sys.Binds = slices.Clone(sys.Volumes), slices.Clone(sys.Binds)
	blobs, err := x.blobs(ctx, sys.Blobs)
	if err != nil {
		return err
	}
	sys.Blobs = blobs
	for i := range sys.Images {
		if err := x.image(ctx, &sys.Images[i]); err != nil {
			return err
		}
	}
	for i := range sys.Containers {
		if err := x.tree(ctx, "container "+sys.Containers[i].Name, &sys.Containers[i].Changes); err != nil {
			return err
		}
	}
	for i := range sys.Volumes {
		if err := x.tree(ctx, "volume "+sys.Volumes[i].Name, &sys.Volumes[i].Content); err != nil {
			return err
		}
	}
	for i := range sys.Binds {
		if err := x.tree(ctx, "bind "+sys.Binds[i].Source, &sys.Binds[i].Content); err != nil {
			return err
		}
	}
	return nil
}

// isLoss tells whether err says that something is lost, and not that it could not be looked for.
func isLoss(err error) bool {
	return chunkstore.IsLoss(err) || errors.Is(err, archive.ErrFormat) || errors.Is(err, fs.ErrNotExist)
}

// image leaves the layers of an image out if not all of them are whole: no engine takes a part of an image.
func (x *salvage) image(ctx context.Context, img *snapshot.Image) error {
	for _, l := range img.Layers {
		if l.Size == 0 {
			continue // the snapshot never had it
		}
		whole, err := x.whole(ctx, l.DiffID)
		if err != nil {
			return err
		}
		if !whole {
			x.problem("image "+imageName(*img), "layer %s is lost: the image must come from elsewhere", l.DiffID)
			img.Layers = nil
			return nil
		}
		x.bytes += l.Size
	}
	if x.session == nil {
		return nil
	}
	for _, l := range img.Layers {
		if l.Size == 0 {
			continue
		}
		if err := x.keep(ctx, l.DiffID); err != nil {
			return err
		}
	}
	return nil
}

// blobs returns those of a pushed image that are whole.
func (x *salvage) blobs(ctx context.Context, list []snapshot.Blob) (left []snapshot.Blob, err error) {
	for _, b := range list {
		whole, err := x.whole(ctx, b.Stored())
		if err != nil {
			return nil, err
		}
		if !whole {
			x.problem("blob "+b.Digest, "is lost: whoever pulls what needs it gets an error")
			continue
		}
		if x.session != nil {
			if err := x.keep(ctx, b.Stored()); err != nil {
				return nil, err
			}
		}
		left = append(left, b)
	}
	return left, nil
}

// whole tells whether all of a layer is stored.
func (x *salvage) whole(ctx context.Context, layer string) (bool, error) {
	whole, err := x.all(archive.LayerRefs(ctx, x.repo, x.sys.Domain, layer))
	if err != nil && isLoss(err) {
		return false, nil
	}
	return whole, err
}

// keep makes a layer part of the session's snapshot.
func (x *salvage) keep(ctx context.Context, layer string) error {
	if _, ok, err := archive.HasLayer(ctx, x.session, layer); err != nil || !ok {
		return errors.Join(err, errWaits)
	}
	return nil
}

// all tells whether all chunks are stored.
func (x *salvage) all(refs iter.Seq2[chunkstore.Ref, error]) (bool, error) {
	for ref, err := range refs {
		if err != nil {
			return false, err
		}
		if ok, err := x.stored(ref.ID); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// tree writes the records of a tree anew, without the files whose content is lost.
func (x *salvage) tree(ctx context.Context, where string, a **snapshot.Archive) error {
	if *a == nil {
		return nil
	}
	if x.session == nil {
		_, _, err := x.records(ctx, where, (*a).Records, io.Discard)
		return err
	}
	w := x.session.NewStream(ctx)
	entries, bytes, err := x.records(ctx, where, (*a).Records, w)
	st, closeErr := w.Finish()
	if err := errors.Join(err, closeErr); err != nil {
		return err
	}
	*a = &snapshot.Archive{Records: st, Entries: entries, Bytes: bytes}
	x.files += entries
	x.bytes += bytes
	return nil
}

func (x *salvage) records(ctx context.Context, where string, st chunkstore.Stream, out io.Writer) (entries, bytes int64, err error) {
	enc, gone, last := archive.NewEncoder(out), map[string]bool{}, ""
	for e, err := range archive.Records(ctx, x.repo, st) {
		if err != nil {
			if ctx.Err() != nil || !isLoss(err) {
				return 0, 0, err
			}
			x.problem(where, "the list of files ends after %q: what came after that is lost", last)
			break
		}
		last = e.Path
		whole, err := x.content(e)
		if err != nil {
			return 0, 0, err
		}
		if !whole || gone[e.Link] && e.Type == archive.Hardlink {
			gone[e.Path] = true
			x.problem(where+": "+e.Path, "its content is lost")
			continue
		}
		if err := enc.Encode(e); err != nil {
			return 0, 0, err
		}
		entries++
		bytes += e.Size
	}
	return entries, bytes, enc.Close()
}

// content tells whether all of a file's content is stored, which then belongs to the session's snapshot.
func (x *salvage) content(e archive.Entry) (bool, error) {
	for _, extent := range e.Extents {
		for _, ref := range extent.Refs {
			if ok, err := x.stored(ref.ID); err != nil || !ok {
				return false, err
			}
			if x.session != nil && !x.session.Keep(ref.ID) {
				return false, errWaits
			}
		}
	}
	return true, nil
}
