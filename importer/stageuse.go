package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// openStage finds what is staged of the system, if the options say where. A stage that cannot be used now makes
// a restore slower and nothing else, so that is a note.
func (r *restorer) openStage() {
	if r.opts.Stage == "" || !r.target.Facts.Local {
		return
	}
	if _, err := os.Stat(stagePath(r.opts.Stage, r.repo, r.snap.System.Name)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	s, err := openStage(r.opts.Stage, r.repo, r.snap.System.Name)
	if err != nil {
		r.res.note("stage", "is not used: "+err.Error())
		return
	}
	r.stage = s
}

// takeStage moves the content of a staged volume into one that was just made, and brings it up to date: it returns
// false, and has done nothing, if there is none that is whole.
func (r *restorer) takeStage(ctx context.Context, j volumeJob, dir string, near *near, m *meter) (bool, error) {
	if r.stage == nil {
		return false, nil
	}
	staged, ok := r.stage.volume(j.volume.Name)
	if !ok {
		return false, nil
	}
	from, err := r.engine.VolumeMountpoint(ctx, staged.Stage)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil || !staged.intact(from, r.target.Containers) || !sameDevice(from, dir) {
		r.res.note("volume "+j.name, "what is staged of it is not whole any more, or in use: it is not used")
		return false, ctx.Err()
	}
	// Engines cannot rename volumes. What is in a directory can be moved, at the price of a rename for each name in it.
	if err := moveContent(from, dir); err != nil {
		return false, err
	}
	r.undo.add("staged content in volume "+j.name, func(context.Context) error { return moveContent(r.where(dir), from) })
	what := "volume " + j.name
	var read int64
	if sameTree(staged.Tree, j.volume.Content.Records) {
		err = r.finishRoot(ctx, j.volume.Content.Records, dir)
	} else {
		tree := archive.OpenUpdate(ctx, r.repo, staged.Tree, j.volume.Content.Records, near.source())
		read, err = r.extractTree(ctx, tree, dir, extract.Options{Existing: extract.Remove}, what, m)
	}
	if err != nil {
		return false, err
	}
	for _, n := range staged.Notes {
		r.res.note(n.Where, n.What)
	}
	r.staged.Add(max(0, j.volume.Content.Bytes-read))
	r.mu.Lock()
	r.taken = append(r.taken, staged)
	r.mu.Unlock()
	return true, nil
}

// finishRoot gives a directory that was filled with what another held the attributes of the tree's root.
func (r *restorer) finishRoot(ctx context.Context, tree chunkstore.Stream, dir string) error {
	for root, err := range archive.Records(ctx, r.repo, tree) {
		if err == nil {
			_, err = extract.Tree(ctx, &oneRecord{root: root}, dir, extract.Options{Existing: extract.Keep})
		}
		return err
	}
	return io.ErrUnexpectedEOF
}

// oneRecord is the root of a tree alone.
type oneRecord struct {
	root archive.Entry
	done bool
}

func (o *oneRecord) Next() (archive.Entry, error) {
	if o.done {
		return archive.Entry{}, io.EOF
	}
	o.done = true
	return o.root, nil
}

func (o *oneRecord) Read([]byte) (int, error) { return 0, io.EOF }

// stagedChange returns the image of a container's changes if it was staged and the engine has it whole.
func (r *restorer) stagedChange(ctx context.Context, j changesJob) (bool, error) {
	if r.stage == nil {
		return false, nil
	}
	h, ok := r.stage.changes(j.container, j.base.image.Config)
	if !ok {
		return false, nil
	}
	oci, err := h.image(j.base)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(r.target.Images, oci.is)
	if i < 0 {
		return false, nil
	}
	in := incoming{oci: oci, base: j.base.image.Config, kind: KindChanges, name: j.ref, refs: []string{j.ref}}
	had, err := r.had(ctx, in, r.target.Images[i].ID)
	if had && err == nil {
		r.staged.Add(h.Bytes)
		r.mu.Lock()
		r.lost[j.ref] = h.Lost
		h.Ref = j.ref
		r.changed = append(r.changed, h)
		r.mu.Unlock()
	}
	return had, err
}

// spendStage removes the volumes and directories whose content a restore that went well has taken. What it has not taken stays, and
// so do images: they are the restored system's now, and no later sync removes them.
func (r *restorer) spendStage(ctx context.Context) {
	if r.stage == nil {
		return
	}
	r.stage.Complete, r.stage.Refs, r.stage.Changes, r.stage.Pending = false, nil, nil, nil
	for _, v := range r.taken {
		r.stage.forget(v.Name)
		if err := r.engine.RemoveVolume(ctx, v.Stage); err != nil {
			r.res.note("volume "+v.Stage, "is left, and empty: "+err.Error())
		}
	}
	for _, b := range r.takenBinds {
		r.stage.forgetBind(b.Source)
		if err := os.RemoveAll(b.Dir); err != nil {
			r.res.note("directory "+b.Dir, "is left, and empty: "+err.Error())
			continue
		}
		r.stage.BindDirs = slices.DeleteFunc(r.stage.BindDirs, func(d string) bool { return d == b.Dir })
	}
	if err := r.stage.save(); err != nil {
		r.res.note("stage", err.Error())
	}
}

// moveContent renames all that is in a directory into another of the same file system. After an error, all is where
// it was, or the error says what is not.
func moveContent(from, to string) error {
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for i, n := range names {
		if n.Name() == extract.LostFound {
			continue
		}
		if err := rename(filepath.Join(from, n.Name()), filepath.Join(to, n.Name())); err != nil {
			return errors.Join(fmt.Errorf("move content: %w", err), moveBack(from, to, names[:i]))
		}
	}
	return errors.Join(syncDir(to), syncDir(from))
}

func moveBack(from, to string, names []os.DirEntry) error {
	var errs []error
	for _, n := range names {
		if n.Name() != extract.LostFound {
			errs = append(errs, rename(filepath.Join(to, n.Name()), filepath.Join(from, n.Name())))
		}
	}
	return errors.Join(errs...)
}

// sameDevice reports whether what is in one directory can be renamed into the other.
func sameDevice(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && deviceOf(x) == deviceOf(y)
}
