package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// restorer is one run of Restore.
type restorer struct {
	repo    *chunkstore.Repository
	engine  Engine
	snap    *snapshot.Snapshot
	opts    Options
	target  Target
	plan    *Plan
	res     *Result
	run     string // distinguishes what this run moves aside or makes for a moment
	undo    undoLog
	journal *journal
	resumed bool     // goes on with a killed restore
	former  []string // journals of killed restores of which something is left
	aside   asides
	layers  layerStore
	filler  filler
	stage   *stage // nil: nothing is staged

	fetched atomic.Int64 // bytes of content read from the repository
	staged  atomic.Int64 // bytes of content that were staged here
	local   atomic.Int64 // bytes of content that what is moved aside had

	mu         sync.Mutex
	images     map[string]string                     // engine's ids of images, by config digest
	named      map[string]string                     // engine's ids of images, by the whole references that they were given
	lost       map[string][]archive.Lost             // what the images with changes could not carry, by their reference
	ids        map[string]string                     // ids of the made containers, by their name in the snapshot
	healthy    map[string]bool                       // containers that were waited for, by their name in the snapshot
	placed     map[string]string                     // directories of volumes, by where they were filled
	taken      []stagedVolume                        // volumes of the stage that are empty now
	takenBinds []stagedBind                          // of the stage, the same
	changed    []stagedChanges                       // the images of changes that were made or found staged
	naming     func(ref string, oci *ociImage) error // told before an image of changes gets its reference; nil: nobody
}

// Restore carries out the plan that NewPlan makes for snap and the engine. If that clashes the
// error is a *ClashError and nothing was changed. After any other failure, or when ctx ends, what
// was made is removed and what was moved aside is put back, and the Result's Left lists what
// could not be; unless o.Keep is set: then Left lists all that is there. The Result is never nil.
func Restore(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, e Engine, o Options) (*Result, error) {
	r := newRestorer(repo, snap, e, o)
	err := r.restore(ctx)
	r.res.Took = time.Since(r.res.Started)
	r.count()
	if err != nil {
		return r.res, fmt.Errorf("restore %s: %w", snap.System.Name, err)
	}
	return r.res, nil
}

// count says where the content came from.
func (r *restorer) count() {
	r.res.Fetched, r.res.Staged, r.res.Local = r.fetched.Load(), r.staged.Load(), r.local.Load()
}

func newRestorer(repo *chunkstore.Repository, snap *snapshot.Snapshot, e Engine, o Options) *restorer {
	r := &restorer{
		repo: repo, engine: e, snap: snap, opts: o,
		res:     &Result{Started: time.Now()},
		run:     newID(),
		images:  make(map[string]string),
		named:   make(map[string]string),
		lost:    make(map[string][]archive.Lost),
		ids:     make(map[string]string),
		healthy: make(map[string]bool),
		placed:  make(map[string]string),
	}
	r.layers = layerStore{repo: repo, domain: snap.System.Domain, fetched: &r.fetched}
	return r
}

func (r *restorer) restore(ctx context.Context) (err error) {
	resumed, err := r.takeUp(ctx)
	if err != nil {
		return err
	}
	if resumed != nil {
		defer resumed.close()
	}
	if r.target, err = Survey(ctx, r.engine, r.snap, r.opts); err != nil {
		return err
	}
	if resumed != nil {
		r.target = resumed.without(r.target)
	}
	if r.plan, err = NewPlan(r.snap, r.target, r.opts); r.plan != nil {
		r.res.Plan = r.plan
		r.res.Notes = append(r.res.Notes, r.plan.Notes...)
	}
	if err != nil {
		return err
	}
	defer r.layers.close()
	if r.openStage(); r.stage != nil {
		defer r.stage.close()
	}
	if resumed != nil {
		err = r.resume(ctx, resumed)
	} else if err = r.beginJournal(); err == nil {
		err = r.steps(ctx)
	}
	err = errors.Join(err, r.filler.close(ctx, r.engine))
	if err == nil && r.opts.Done != nil {
		r.count()
		err = r.opts.Done(r.res)
	}
	if err == nil {
		if err := r.journal.write(journalLine{Complete: true}); err != nil {
			r.res.note("journal", err.Error()) // should the process be killed now, what is aside is removed by the next one
		}
		r.settle(ctx)
		r.forgetFormer()
		r.journal.remove()
		return nil
	}
	if resumed != nil {
		r.res.Left = append(resumed.unfinished().left(), r.aside.list()...)
		return err // and the journal stays, to go on with
	}
	if r.opts.Keep {
		r.res.Left = r.undo.list()
		r.journal.remove()
		return err
	}
	err = errors.Join(err, r.journal.write(journalLine{Undoing: true}))
	left, undoErr := r.undo.run(ctx)
	r.res.Left = left
	if undoErr != nil {
		r.journal.keep()
	} else {
		r.journal.remove()
	}
	return errors.Join(err, undoErr)
}

// keepsAside reports whether what is moved aside stays: it was asked for, or nothing is started, so that nothing proves that
// the new does its work.
func (r *restorer) keepsAside() bool { return r.opts.NoStart || r.opts.KeepReplaced }

// forgetFormer removes the journals of killed restores of which something is left: the system is there again, and what is
// left was named.
func (r *restorer) forgetFormer() {
	for _, path := range r.former {
		_ = os.Remove(path)
	}
}

// beginJournal begins the journal of what will be made.
func (r *restorer) beginJournal() (err error) {
	if r.opts.StateDir == "" {
		return nil
	}
	r.journal, err = newJournal(r.opts.StateDir, journalHead{
		Version: journalVersion, Engine: engineKey(r.engine.Facts()), System: r.plan.System, Snapshot: r.snap.Summary.ID,
		Options: r.opts.optionsKey(), Run: r.run, Keeps: r.keepsAside(),
	})
	return err
}

// steps does everything that can be undone.
func (r *restorer) steps(ctx context.Context) error {
	if err := r.sendAndFill(ctx); err != nil {
		return err
	}
	if err := r.makeNetworks(ctx); err != nil {
		return err
	}
	if err := r.makeContainers(ctx); err != nil {
		return err
	}
	if err := r.clearCopies(ctx); err != nil {
		return err
	}
	if err := r.journal.write(journalLine{Starting: true}); err != nil {
		return err
	}
	if err := r.startContainers(ctx); err != nil {
		return err
	}
	return r.report(ctx)
}

// sendAndFill sends images while it fills volumes. Where something is replaced the images go
// first: until they are there, and so the longest part is done, the old system runs on.
func (r *restorer) sendAndFill(ctx context.Context) error {
	if r.opts.Replace {
		if err := r.sendImages(ctx); err != nil {
			return err
		}
		if err := r.setContainersAside(ctx); err != nil {
			return err
		}
		return r.fillStorage(ctx)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.sendImages(ctx) })
	g.Go(func() error { return r.fillStorage(ctx) })
	return g.Wait()
}

// settle ends a restore that went well: what was moved aside is removed, if it is not to be kept.
func (r *restorer) settle(ctx context.Context) {
	r.spendStage(ctx)
	if r.keepsAside() {
		r.disown(ctx)
		r.res.Left = r.aside.list()
		return
	}
	left, err := r.aside.drop(ctx)
	r.res.Left = left
	if err != nil {
		r.res.note("what was replaced", err.Error())
	}
}

func (r *restorer) event(phase, what string) {
	r.opts.Observer.Notify(snapshot.Event{Phase: phase, What: what})
}
