package importer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// bindJobs decides what to do with each bind mount, and with the directories that are staged and not of the snapshot.
func (s *stager) bindJobs() ([]stageJob, error) {
	var jobs []stageJob
	var wanted []string
	for i := range s.snap.System.Binds {
		b := &s.snap.System.Binds[i]
		if b.Content == nil || partOfAnother(*b, s.snap.System.Binds) {
			continue // with what it is part of
		}
		j, err := s.bindJob(b)
		if err != nil {
			return nil, err
		}
		if j.Action != StageSkip {
			wanted = append(wanted, j.As)
		}
		jobs = append(jobs, j)
	}
	for _, dir := range s.stage.BindDirs {
		if slices.Contains(wanted, dir) {
			continue
		}
		j := stageJob{StageStep: StageStep{Action: StageRemove, Kind: KindBind, Name: dir, As: dir}}
		for _, b := range s.stage.Binds {
			if b.Dir == dir {
				j.Name, j.Bytes = b.Source, b.Bytes
			}
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

func (s *stager) bindJob(b *snapshot.Bind) (stageJob, error) {
	j := stageJob{StageStep: StageStep{Kind: KindBind, Name: b.Source, Action: StageFill, Bytes: b.Content.Bytes}, bind: b}
	if b.File {
		j.Action, j.Detail = StageSkip, "is a single file"
		return j, nil
	}
	have, ok := s.stage.bind(b.Source)
	if j.As = have.Dir; !ok {
		j.As = s.bindDir(b.Source)
	}
	if user := stageDirUser(j.As, s.target.Containers); user != "" {
		return j, fmt.Errorf("directory %s: container %s has it mounted", j.As, user)
	}
	_, err := os.Lstat(filepath.Join(j.As, stageContent))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j, nil
	case err != nil:
		return j, err
	}
	j.there = true
	switch {
	case !ok:
		j.Detail = "was not completed"
	case !have.intact(s.target.Containers):
		j.Detail = "was changed by others"
	case sameTree(have.Tree, b.Content.Records):
		j.Action, j.have = StageKeep, have.stagedTree
	default:
		j.Action, j.have = StageUpdate, have.stagedTree
	}
	return j, nil
}

// bindDir names the directory in which a bind mount is staged: beside its path, or where the first directory above it
// is that is there, so that the content can be renamed to it.
func (s *stager) bindDir(source string) string {
	dir := filepath.Dir(filepath.Clean(source))
	for dir != "/" {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			break
		}
		dir = filepath.Dir(dir)
	}
	return filepath.Join(dir, ".hakobune-stage-"+stageKey(s.repo, s.snap.System.Name, "bind", source))
}

func (s *stager) stageBind(ctx context.Context, j stageJob, m *meter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.note(func() {
		s.stage.forgetBind(j.Name) // before the first of it is changed
		if !slices.Contains(s.stage.BindDirs, j.As) {
			s.stage.BindDirs = append(s.stage.BindDirs, j.As)
		}
	})
	if err != nil {
		return err
	}
	dir := filepath.Join(j.As, stageContent)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	own := ""
	if s.target.Paths[j.Name] == PathDir {
		own = j.Name // the host has the system
	}
	near, err := s.nearBind(ctx, own, *j.bind)
	if err != nil {
		return err
	}
	defer near.close()
	held, err := s.fill(ctx, j, dir, j.bind.Content, near, m)
	if err != nil {
		return err
	}
	return s.note(func() { s.stage.Binds = append(s.stage.Binds, stagedBind{j.Name, j.As, held}) })
}

func (s *stager) dropBind(ctx context.Context, dir string) error {
	err := s.note(func() {
		s.stage.Binds = slices.DeleteFunc(s.stage.Binds, func(b stagedBind) bool { return b.Dir == dir })
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		s.res.note("directory "+dir, "is left: "+err.Error())
		return ctx.Err()
	}
	return s.note(func() {
		s.stage.BindDirs = slices.DeleteFunc(s.stage.BindDirs, func(d string) bool { return d == dir })
	})
}

// takeStagedBind moves the content of a staged bind mount into an empty directory, and brings it up to date. It returns
// false, and has done nothing, if there is none that is whole. moved is to be called when the directory has another name;
// until then an undo takes the content back from where it is.
func (r *restorer) takeStagedBind(ctx context.Context, j bindJob, dir string, near *near, what string, m *meter) (moved func(to string), taken bool, err error) {
	if r.stage == nil {
		return nil, false, nil
	}
	staged, ok := r.stage.bind(j.bind.Source)
	if !ok {
		return nil, false, nil
	}
	from := staged.content()
	if !staged.intact(r.target.Containers) || !sameDevice(from, filepath.Dir(dir)) {
		r.res.note(what, "what is staged of it is not whole any more, in use, or in another file system: it is not used")
		return nil, false, ctx.Err()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, false, err
	}
	if err := moveContent(from, dir); err != nil {
		return nil, false, err
	}
	where := dir
	r.undo.add("staged content in "+j.path, func(context.Context) error {
		if err := moveContent(where, from); err != nil || where == j.path && j.state == PathEmpty {
			return err
		}
		return os.RemoveAll(where)
	})
	var read int64
	if sameTree(staged.Tree, j.bind.Content.Records) {
		err = r.finishRoot(ctx, j.bind.Content.Records, dir)
	} else {
		tree := archive.OpenUpdate(ctx, r.repo, staged.Tree, j.bind.Content.Records, near.source())
		read, err = r.extractTree(ctx, tree, dir, extract.Options{Existing: extract.Remove}, what, m)
	}
	if err != nil {
		return nil, true, err
	}
	for _, n := range staged.Notes {
		r.res.note(n.Where, n.What)
	}
	r.staged.Add(max(0, j.bind.Content.Bytes-read))
	r.mu.Lock()
	r.takenBinds = append(r.takenBinds, staged)
	r.mu.Unlock()
	return func(to string) { where = to }, true, nil
}
