package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// fillers bounds how many trees are written at once.
const fillers = 4

// fillStorage makes the volumes of the plan and writes their content, and that of bind mounts.
func (r *restorer) fillStorage(ctx context.Context) error {
	m := &meter{observer: r.opts.Observer, event: snapshot.Event{Phase: "volumes"}}
	for _, j := range r.plan.volumes {
		m.event.Total += j.step().Bytes
	}
	for _, j := range r.plan.binds {
		m.event.Total += j.step().Bytes
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fillers)
	for _, j := range r.plan.volumes {
		g.Go(func() error { return r.restoreVolume(ctx, j, m) })
	}
	for _, j := range r.plan.binds {
		g.Go(func() error { return r.restoreBind(ctx, j, m) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	m.whole()
	return nil
}

func (r *restorer) restoreVolume(ctx context.Context, j volumeJob, m *meter) error {
	start := time.Now()
	if err := ctx.Err(); err != nil {
		return err
	}
	var was string // where its content is that was moved aside
	var err error
	switch j.action {
	case Create:
		err = r.createVolume(ctx, j)
	case Replace:
		was, err = r.setVolumeAside(ctx, j)
	default:
		r.res.object(Object{Kind: KindVolume, Name: j.name, Action: j.action})
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.fillVolume(ctx, j, was, m); err != nil {
		return fmt.Errorf("volume %s: %w", j.name, err)
	}
	r.res.object(Object{Kind: KindVolume, Name: j.name, Action: j.action, Bytes: j.step().Bytes, Took: time.Since(start)})
	return nil
}

func (r *restorer) createVolume(ctx context.Context, j volumeJob) error {
	ctx, cancel := steady(ctx)
	defer cancel()
	m := made{Kind: KindVolume, Name: j.name, Unseen: !r.target.Facts.Local || !localVolume(j.volume)}
	if err := r.journal.intend(m); err != nil {
		return err
	}
	if err := r.engine.CreateVolume(ctx, j.volume, j.name, r.labelled(j.labels)); err != nil {
		return err
	}
	r.undo.add("volume "+j.name, func(ctx context.Context) error { return r.engine.RemoveVolume(ctx, j.name) })
	return r.journal.made(m)
}

// labelled adds to labels the one that says which restore makes a thing, if a journal is kept.
func (r *restorer) labelled(labels map[string]string) map[string]string {
	if r.journal == nil {
		return labels
	}
	all := map[string]string{snapshot.LabelRestore: r.run}
	maps.Copy(all, labels)
	return all
}

// fillVolume writes the content of a volume: into its directory where that is a plain one of this
// host, else through the engine, which mounts it. What the directory was has need not be fetched.
func (r *restorer) fillVolume(ctx context.Context, j volumeJob, was string, m *meter) error {
	if j.volume.Content == nil {
		return nil
	}
	if !r.target.Facts.Local || !plainVolume(j.volume) {
		return r.fillThroughEngine(ctx, j.name, j.volume.Content, archive.TarOptions{}, "volume "+j.name, m)
	}
	dir, err := r.engine.VolumeMountpoint(ctx, j.name)
	if err != nil {
		return err
	}
	near, err := r.nearVolume(ctx, was, j.volume)
	if err != nil {
		return err
	}
	defer near.close()
	return r.fillDirectory(ctx, j, dir, near, m)
}

// fillDirectory writes a volume's content beside its directory, and puts it there once it is complete: whenever a restore
// is killed, the volume is empty or holds what the journal says.
func (r *restorer) fillDirectory(ctx context.Context, j volumeJob, dir string, near *near, m *meter) error {
	whole := dir + ".hakobune-new-" + r.run
	if err := r.journal.intend(made{Kind: kindTemp, Name: whole}); err != nil {
		return err
	}
	forget := r.undo.add("path "+whole, func(context.Context) error { return os.RemoveAll(whole) })
	taken, err := r.takeStage(ctx, j, whole, near, m)
	if !taken && err == nil {
		err = r.extract(ctx, j.volume.Content, whole, near, extract.Options{}, "volume "+j.name, m)
	}
	if err == nil && copied(j) {
		err = os.WriteFile(filepath.Join(whole, ".hakobune-"+r.run), nil, 0o600)
	}
	if err == nil {
		err = r.journal.filled(KindVolume, j.name, whole)
	}
	if err == nil {
		err = rename(whole, dir)
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.placed[whole] = dir
	r.mu.Unlock()
	forget()
	return nil
}

// where returns where a directory is that was filled elsewhere first.
func (r *restorer) where(dir string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return cmp.Or(r.placed[dir], dir)
}

// copied reports whether the engine would copy into a volume, for it was empty in the snapshot.
func copied(j volumeJob) bool { return j.volume.Content.Entries <= 1 }

// extract writes a tree of the snapshot into a directory of this host. What near has need not be fetched; it may be nil.
func (r *restorer) extract(ctx context.Context, content *snapshot.Archive, dir string, near *near, opts extract.Options, what string, m *meter) error {
	_, err := r.extractTree(ctx, archive.OpenTreeNear(ctx, r.repo, content.Records, near.source()), dir, opts, what, m)
	return err
}

// extractTree is extract of a tree that is open, which it closes. It returns how many bytes of content were read of it.
func (r *restorer) extractTree(ctx context.Context, tree *archive.TreeReader, dir string, opts extract.Options, what string, m *meter) (int64, error) {
	opts.Note = func(path, note string) {
		where := what
		if path != "" {
			where += ": " + path
		}
		r.res.note(where, note)
	}
	var read atomic.Int64
	_, err := extract.Tree(ctx, meteredTree{tree, counted{m.reader(tree, what), &read}}, dir, opts)
	r.fetched.Add(read.Load())
	return read.Load(), errors.Join(err, tree.Close())
}

// meteredTree is a tree of which the content read is counted.
type meteredTree struct {
	tree *archive.TreeReader
	io.Reader
}

func (t meteredTree) Next() (archive.Entry, error) { return t.tree.Next() }

// clearCopies empties volumes that were empty in the snapshot: into an empty volume the engine copies, when a container
// is created, what its image has at the place of the mount. fillDirectory has put a file there, which keeps it from that.
// In volumes of which the snapshot has no content the copy stays, and is noted as what they hold.
func (r *restorer) clearCopies(ctx context.Context) error {
	for _, j := range r.plan.volumes {
		c := j.volume.Content
		if c != nil && !copied(j) || j.action != Create && j.action != Replace || !r.target.Facts.Local || !plainVolume(j.volume) {
			continue
		}
		dir, err := r.engine.VolumeMountpoint(ctx, j.name)
		switch {
		case err != nil:
		case c == nil:
			err = r.journal.filled(KindVolume, j.name, dir)
		default:
			err = r.extract(ctx, c, dir, nil, extract.Options{Existing: extract.Remove}, "volume "+j.name, &meter{})
		}
		if err != nil {
			return fmt.Errorf("volume %s: %w", j.name, err)
		}
	}
	return nil
}

func (r *restorer) restoreBind(ctx context.Context, j bindJob, m *meter) error {
	start := time.Now()
	if err := ctx.Err(); err != nil {
		return err
	}
	o := Object{Kind: KindBind, Name: j.path, Action: j.action}
	if j.action == Create || j.action == Replace {
		if err := r.writeBind(ctx, j, m); err != nil {
			return fmt.Errorf("bind %s: %w", j.path, err)
		}
		o.Bytes, o.Took = j.step().Bytes, time.Since(start)
	}
	r.res.object(o)
	return nil
}

func (r *restorer) writeBind(ctx context.Context, j bindJob, m *meter) error {
	what, was := "bind "+j.path, ""
	switch {
	case !r.target.Facts.Local && j.bind.File:
		if filepath.Base(j.path) != filepath.Base(j.bind.Source) {
			return errors.New("a file keeps its name where its host cannot be reached: give it another directory only")
		}
		return r.fillThroughEngine(ctx, filepath.Dir(j.path), j.bind.Content, archive.TarOptions{}, what, m)
	case !r.target.Facts.Local:
		return r.fillThroughEngine(ctx, j.path, j.bind.Content, archive.TarOptions{}, what, m)
	case j.action == Replace:
		var err error
		if was, err = r.setPathAside(j.path); err != nil {
			return err
		}
	case j.state == PathEmpty:
		// It may be a mount point, which cannot be renamed over.
		r.undo.add("content of "+j.path, func(context.Context) error { return emptyDir(j.path) })
		if err := r.journal.made(made{Kind: kindContent, Name: j.path}); err != nil {
			return err
		}
		_, taken, err := r.takeStagedBind(ctx, j, j.path, nil, what, m)
		if err == nil && !taken {
			err = r.extract(ctx, j.bind.Content, j.path, nil, extract.Options{}, what, m)
		}
		if err != nil {
			return err
		}
		return r.journal.filled(kindContent, j.path, j.path)
	}
	near, err := r.nearBind(ctx, was, j.bind)
	if err != nil {
		return err
	}
	defer near.close()
	return r.placeBind(ctx, j, near, what, m)
}

// placeBind writes a bind's tree beside its path and renames it there once it is complete.
func (r *restorer) placeBind(ctx context.Context, j bindJob, near *near, what string, m *meter) error {
	if err := r.makeParents(filepath.Dir(j.path)); err != nil {
		return err
	}
	whole := j.path + ".hakobune-new-" + r.run
	if err := r.journal.intend(made{Kind: kindTemp, Name: whole}); err != nil {
		return err
	}
	moved, taken, err := r.takeStagedBind(ctx, j, whole, near, what, m)
	if taken && err != nil {
		return err // the undo takes the content back
	}
	if err == nil && !taken {
		err = r.extract(ctx, j.bind.Content, whole, near, extract.Options{}, what, m)
	}
	from := whole
	if j.bind.File {
		from = filepath.Join(whole, filepath.Base(j.bind.Source))
	}
	if err == nil {
		err = r.journal.filled(KindBind, j.path, from)
	}
	if err == nil {
		err = os.Rename(from, j.path)
	}
	switch {
	case taken && err == nil:
		moved(j.path)
		return nil
	case taken:
		return err
	case err == nil:
		r.undo.add(what, func(context.Context) error { return os.RemoveAll(j.path) })
	}
	return errors.Join(err, os.RemoveAll(whole))
}

// makeParents makes a directory and those above it, and registers how to remove those that were
// not there.
func (r *restorer) makeParents(dir string) error {
	r.mu.Lock() // binds beside each other share parents
	defer r.mu.Unlock()
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		_, err := os.Stat(d)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		missing = append(missing, d)
	}
	for _, d := range slices.Backward(missing) {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
		r.undo.add("directory "+d, func(context.Context) error { return os.Remove(d) })
		if err := r.journal.directory(d); err != nil {
			return err
		}
	}
	return nil
}

// emptyDir removes what is in a directory.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}
