package importer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// StageOptions are options of SyncStage.
type StageOptions struct {
	// Dir is the state directory in which what is staged is written down. It is needed.
	Dir string
	// DryRun says what would be done and does nothing.
	DryRun bool
	// Had is that of Options. What the host has under the system's own names need not be fetched.
	Had *snapshot.Snapshot
	// TempDir and Observer are those of Options.
	TempDir  string
	Observer snapshot.Observer
}

// What SyncStage does with a volume or an image.
const (
	StageFill   = "fill"   // all of it is fetched
	StageUpdate = "update" // what differs from what is there is fetched
	StageKeep   = "keep"   // it is there
	StageRemove = "remove" // it is not of the snapshot
	StageSkip   = "skip"   // it cannot be staged
)

// StageStep is what became of one thing, or what would.
type StageStep struct {
	Action string `json:"action"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`         // in the snapshot
	As     string `json:"as,omitempty"` // the volume that holds it here
	Bytes  int64  `json:"bytes"`        // of its content
	Detail string `json:"detail,omitempty"`
}

// StageResult says what SyncStage did.
type StageResult struct {
	System   string             `json:"system"`
	Snapshot string             `json:"snapshot"`
	Time     time.Time          `json:"time"` // of the snapshot
	Steps    []StageStep        `json:"steps"`
	Fetched  int64              `json:"fetched"` // bytes of content that were read from the repository
	Local    int64              `json:"local"`   // bytes of content that were taken from what the host had under the system's names
	Bytes    int64              `json:"bytes"`   // of content of volumes that are staged now
	Took     time.Duration      `json:"took"`
	Notes    []snapshot.Problem `json:"notes,omitempty"`
}

// stager is one run of SyncStage.
type stager struct {
	*restorer
	out *StageResult

	staging sync.Mutex // of the stage's file
}

// SyncStage makes a standby host hold what a restore of snap will need: its images, as a restore would send and name
// them, and the content of its volumes and bind mounts, in volumes and directories of other names. Only what differs from what is staged already is
// fetched. A Restore whose Options.Stage is the same directory then takes all that over. Volumes whose driver keeps
// their content elsewhere, and bind mounts of single files, are not staged.
//
// A run that is killed or fails leaves what it has completed, and the next one goes on from there: of the volumes
// that it was at, or that somebody has written to, only files whose every chunk is the right one are not fetched
// again. A volume or directory that a container has mounted is not touched, and is an error.
func SyncStage(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, e Engine, o StageOptions) (*StageResult, error) {
	start := time.Now()
	s := &stager{
		restorer: newRestorer(repo, snap, e, Options{Only: []string{PartImages, PartChanges}, Replace: true, Had: o.Had, TempDir: o.TempDir, Observer: o.Observer}),
		out:      &StageResult{System: snap.System.Name, Snapshot: snap.Summary.ID, Time: snap.Summary.Time},
	}
	err := s.sync(ctx, o)
	s.out.Took, s.out.Fetched, s.out.Local = time.Since(start), s.fetched.Load(), s.local.Load()
	s.out.Notes = append(s.out.Notes, s.res.Notes...)
	if err != nil {
		return s.out, fmt.Errorf("standby of %s: %w", snap.System.Name, err)
	}
	return s.out, nil
}

func (s *stager) sync(ctx context.Context, o StageOptions) (err error) {
	if o.Dir == "" {
		return errors.New("there is no directory to write down what is staged")
	}
	if s.target, err = Survey(ctx, s.engine, s.snap, s.opts); err != nil {
		return err
	}
	if !s.target.Facts.Local {
		return errors.New("the engine is not one of this host, where its volumes could be filled")
	}
	if s.stage, err = openStage(o.Dir, s.repo, s.snap.System.Name); err != nil {
		return err
	}
	defer s.stage.close()
	s.recallPending()
	if s.plan, err = NewPlan(s.snap, s.target, s.opts); err != nil {
		return err
	}
	s.keepOthersTags()
	jobs, err := s.volumeJobs(ctx)
	if err != nil {
		return err
	}
	binds, err := s.bindJobs()
	if err != nil {
		return err
	}
	jobs = append(jobs, binds...)
	s.tell(jobs)
	if o.DryRun {
		return nil
	}
	s.stage.Snapshot, s.stage.Time, s.stage.Complete, s.stage.Pending = s.snap.Summary.ID, s.snap.Summary.Time, false, s.newRefs()
	if err := s.stage.save(); err != nil {
		return err
	}
	if err := s.stageImages(ctx); err != nil {
		return err
	}
	if err := s.stageVolumes(ctx, jobs); err != nil {
		return err
	}
	s.stage.Complete = true
	return s.stage.save()
}

// recallPending takes the references that a killed sync gave for staged: those that name the image that it was about
// to give them to. Any other image is somebody's.
func (s *stager) recallPending() {
	for ref, ids := range s.stage.Pending {
		i := slices.IndexFunc(s.target.Images, func(img snapshot.Image) bool { return slices.ContainsFunc(img.Tags, sameReference(ref)) })
		if i < 0 {
			continue
		}
		if img := s.target.Images[i]; slices.Contains(ids, img.ID) || slices.Contains(ids, img.Config) {
			if s.stage.Refs == nil {
				s.stage.Refs = make(map[string]string)
			}
			s.stage.Refs[ref] = img.ID
		}
	}
}

// newRefs lists the references that images will be given. Those of changes follow when these are built.
func (s *stager) newRefs() map[string][]string {
	refs := make(map[string][]string)
	for _, j := range s.plan.images {
		for _, ref := range append(slices.Clone(j.tags), keptRef(s.snap.Summary, j.oci.image)) {
			refs[ref] = j.oci.ids()
		}
	}
	return refs
}

// keepOthersTags leaves references alone that name an image of this host which was not staged.
func (s *stager) keepOthersTags() {
	for i := range s.plan.images {
		j := &s.plan.images[i]
		for ref, holder := range j.moved {
			if s.stage.Refs[ref] != holder {
				j.tags = slices.DeleteFunc(j.tags, func(t string) bool { return t == ref })
				s.res.note("image "+ref, "names another image there, and stays so")
			}
		}
		if len(j.tags) == 0 && j.have == "" {
			j.tags = []string{keptRef(s.snap.Summary, j.oci.image)}
		}
	}
}

// stageImages sends the images that the engine lacks, and removes those that were staged and are not of the snapshot.
func (s *stager) stageImages(ctx context.Context) error {
	defer s.layers.close()
	s.naming = func(ref string, oci *ociImage) error { return s.note(func() { s.stage.Pending[ref] = oci.ids() }) }
	if err := s.sendImages(ctx); err != nil {
		if _, undoErr := s.undo.run(ctx); undoErr != nil {
			return errors.Join(err, undoErr)
		}
		return errors.Join(err, s.note(func() { s.stage.Pending = nil }))
	}
	if _, err := s.aside.drop(ctx); err != nil {
		s.res.note("images", "what they replace is left: "+err.Error())
	}
	refs := make(map[string]string)
	for _, j := range s.plan.images {
		for _, ref := range append(slices.Concat(j.tags, j.oci.image.Tags), keptRef(s.snap.Summary, j.oci.image)) {
			if id := s.images[j.oci.image.Config]; slices.Contains(j.tags, ref) || s.stage.Refs[ref] == id {
				refs[ref] = id
			}
		}
	}
	for _, h := range s.changed {
		refs[h.Ref] = s.named[fullReference(h.Ref)]
	}
	old := s.stage.Refs
	s.stage.Refs, s.stage.Changes, s.stage.Pending = refs, s.changed, nil
	if err := s.stage.save(); err != nil {
		return err
	}
	return s.dropImages(ctx, old)
}

// dropImages removes references that an earlier sync gave, where they still name what it staged.
func (s *stager) dropImages(ctx context.Context, old map[string]string) error {
	for _, ref := range slices.Sorted(maps.Keys(old)) {
		if _, ok := s.stage.Refs[ref]; ok || s.holder(ref) != old[ref] {
			continue
		}
		if err := s.engine.Untag(ctx, ref); err != nil {
			s.res.note("image "+ref, "is left: "+err.Error())
			continue
		}
		s.out.Steps = append(s.out.Steps, StageStep{Action: StageRemove, Kind: KindImage, Name: ref})
	}
	return ctx.Err()
}

// stageJob is what is to be done with a staged volume.
type stageJob struct {
	StageStep
	volume snapshot.Volume
	bind   *snapshot.Bind // nil: it is about a volume
	have   stagedTree     // for an update or to keep it
	there  bool           // the volume or directory exists
}

// volumeJobs decides what to do with each volume, and with those that are staged and not of the snapshot.
func (s *stager) volumeJobs(ctx context.Context) ([]stageJob, error) {
	var jobs []stageJob
	wanted := make(map[string]bool)
	for _, v := range s.snap.System.Volumes {
		j, err := s.volumeJob(ctx, v)
		if err != nil {
			return nil, err
		}
		wanted[v.Name] = j.Action != StageSkip
		jobs = append(jobs, j)
	}
	for _, v := range s.stage.Volumes {
		if !wanted[v.Name] {
			jobs = append(jobs, stageJob{StageStep: StageStep{Action: StageRemove, Kind: KindVolume, Name: v.Name, As: v.Stage, Bytes: v.Bytes}})
		}
	}
	return jobs, nil
}

func (s *stager) volumeJob(ctx context.Context, v snapshot.Volume) (stageJob, error) {
	j := stageJob{StageStep: StageStep{Kind: KindVolume, Name: v.Name, As: s.stageName(v), Action: StageFill}, volume: v}
	switch {
	case v.Content == nil:
		j.Action, j.Detail, j.As = StageSkip, "its content is not in the snapshot", ""
		return j, nil
	case !plainVolume(v):
		j.Action, j.Detail, j.As = StageSkip, "its driver keeps its content elsewhere", ""
		return j, nil
	}
	j.Bytes = v.Content.Bytes
	if user := stageUser(j.As, s.target.Containers); user != "" {
		return j, fmt.Errorf("volume %s: container %s has it mounted", j.As, user)
	}
	if _, j.there = existing(s.target.Names.Volumes, j.As); !j.there {
		return j, nil
	}
	have, ok := s.stage.volume(v.Name)
	if !ok {
		j.Detail = "was not completed"
		return j, nil
	}
	dir, err := s.engine.VolumeMountpoint(ctx, j.As)
	if err != nil {
		return j, err
	}
	switch {
	case !have.intact(dir, s.target.Containers):
		j.Detail = "was changed by others"
	case sameTree(have.Tree, v.Content.Records):
		j.Action, j.have = StageKeep, have.stagedTree
	default:
		j.Action, j.have = StageUpdate, have.stagedTree
	}
	return j, nil
}

// stageName names the volume that holds the content of v.
func (s *stager) stageName(v snapshot.Volume) string {
	name := "hakobune-stage-" + s.snap.System.Name + "-" + v.Name
	if !engineName.MatchString(name) || len(name) > 200 {
		name = "hakobune-stage"
	}
	return name + "-" + stageKey(s.repo, s.snap.System.Name, v.Name)[:8]
}

func (s *stager) stageVolumes(ctx context.Context, jobs []stageJob) error {
	m := &meter{observer: s.opts.Observer, event: snapshot.Event{Phase: "volumes"}}
	for _, j := range jobs {
		if j.Action == StageFill || j.Action == StageUpdate {
			m.event.Total += j.Bytes
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fillers)
	for _, j := range jobs {
		switch j.Action {
		case StageRemove:
			g.Go(func() error { return s.drop(gctx, j) })
		case StageFill, StageUpdate:
			g.Go(func() error {
				stage := s.stageVolume
				if j.bind != nil {
					stage = s.stageBind
				}
				if err := stage(gctx, j, m); err != nil {
					return fmt.Errorf("%s %s: %w", j.Kind, j.As, err)
				}
				return nil
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	m.whole()
	return nil
}

// Labels of a staged volume. An engine cannot change those of a volume, so they say whose it is; which snapshot it
// holds, the stage's file says.
const (
	labelStage       = "io.github.hakobune-dr.stage"
	labelStageVolume = "io.github.hakobune-dr.stage.volume"
)

func (s *stager) stageVolume(ctx context.Context, j stageJob, m *meter) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !j.there {
		labels := map[string]string{labelStage: s.snap.System.Name, labelStageVolume: j.Name}
		if err := s.engine.CreateVolume(ctx, snapshot.Volume{Driver: "local"}, j.As, labels); err != nil {
			return err
		}
	}
	dir, err := s.engine.VolumeMountpoint(ctx, j.As)
	if err == nil {
		err = s.note(func() { s.stage.forget(j.Name) }) // before the first of it is changed
	}
	if err != nil {
		return err
	}
	near, err := s.nearOwn(ctx, j.volume)
	if err != nil {
		return err
	}
	defer near.close()
	held, err := s.fill(ctx, j, dir, j.volume.Content, near, m)
	if err != nil {
		return err
	}
	return s.note(func() { s.stage.Volumes = append(s.stage.Volumes, stagedVolume{j.Name, j.As, held}) })
}

// fill makes a directory hold a tree, of which it may hold much already.
func (s *stager) fill(ctx context.Context, j stageJob, dir string, content *snapshot.Archive, near *near, m *meter) (stagedTree, error) {
	what := string(j.Kind) + " " + j.Name
	now := stagedTree{Tree: content.Records, Bytes: j.Bytes}
	noted := extract.Options{Existing: extract.Remove, Note: func(path, note string) {
		now.Notes = append(now.Notes, snapshot.Problem{Where: what + ": " + path, What: note})
	}}
	left, err := openLeftover(s.repo, dir)
	if err != nil {
		return now, err
	}
	defer left.close()
	var tree *archive.TreeReader
	switch {
	case j.Action == StageUpdate:
		tree = archive.OpenUpdate(ctx, s.repo, j.have.Tree, now.Tree, near.source())
	case j.there:
		tree = archive.OpenMissing(ctx, s.repo, now.Tree, left.has, near.source())
	default:
		tree = archive.OpenTreeNear(ctx, s.repo, now.Tree, near.source())
	}
	_, err = extract.Tree(ctx, meteredTree{tree, counted{m.reader(tree, what), &s.fetched}}, dir, noted)
	if err := errors.Join(err, tree.Close()); err != nil {
		return now, err
	}
	now.Fingerprint, err = fingerprint(dir)
	return now, err
}

// nearOwn is what the volume of the system's own name has, where the host has one.
func (s *stager) nearOwn(ctx context.Context, v snapshot.Volume) (*near, error) {
	if _, there := existing(s.target.Names.Volumes, v.Name); !there {
		return nil, nil
	}
	dir, err := s.engine.VolumeMountpoint(ctx, v.Name)
	if err != nil {
		return nil, ctx.Err() // all is fetched
	}
	return s.nearVolume(ctx, dir, v)
}

func (s *stager) drop(ctx context.Context, j stageJob) error {
	if j.Kind == KindBind {
		return s.dropBind(ctx, j.As)
	}
	if err := s.note(func() { s.stage.forget(j.Name) }); err != nil {
		return err
	}
	if err := s.engine.RemoveVolume(ctx, j.As); err != nil {
		s.res.note("volume "+j.As, "is left: "+err.Error())
	}
	return ctx.Err()
}

// note changes what the stage's file says.
func (s *stager) note(change func()) error {
	s.staging.Lock()
	defer s.staging.Unlock()
	change()
	return s.stage.save()
}

// tell puts into the result what is about to be done.
func (s *stager) tell(jobs []stageJob) {
	counted := make(map[string]bool)
	for _, j := range s.plan.images {
		t := StageStep{Action: StageKeep, Kind: KindImage, Name: imageName(j.oci.image)}
		if j.have == "" {
			t.Action, t.Bytes = StageFill, unsent(j.oci.image.Layers, j.known, counted)
		}
		s.out.Steps = append(s.out.Steps, t)
	}
	for _, j := range s.plan.changes {
		t := StageStep{Action: StageFill, Kind: KindChanges, Name: j.container.Name, Bytes: j.container.Changes.Bytes}
		if _, ok := s.stage.changes(j.container, j.base.image.Config); ok {
			t.Action = StageKeep
		}
		s.out.Steps = append(s.out.Steps, t)
	}
	for _, j := range jobs {
		s.out.Steps = append(s.out.Steps, j.StageStep)
		if j.Action != StageRemove {
			s.out.Bytes += j.Bytes
		}
	}
}
