package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Engine is what Export needs of an engine: *docker.Engine has it.
type Engine interface {
	Lister
	Describer
	Holder
	Reader
}

// Reader reads what an engine keeps of images and containers.
type Reader interface {
	// OpenLayer opens the uncompressed tar of img.Layers[n].
	OpenLayer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error)
	// CommitLayer opens the tar of a container's changes, by a commit.
	CommitLayer(ctx context.Context, id string) (io.ReadCloser, error)
	// ExportRootfs opens the tar of the whole file system of a container that stands still.
	ExportRootfs(ctx context.Context, id string) (io.ReadCloser, error)
	// CreateContainer and RemoveContainer serve to see what an image's file system is like.
	CreateContainer(ctx context.Context, c snapshot.Container, p snapshot.Placement) (id string, warnings []string, err error)
	RemoveContainer(ctx context.Context, id string) error
}

// Export makes a snapshot of a system that Discover found and commits it to repo. The snapshot is
// returned as it was stored; see Snapshot.Complete and System.Problems for what it lacks. After an
// error there is none, and what was uploaded serves the next run. A system of another site is an
// *snapshot.OwnedError.
//
// The containers go on whatever happens, see the package documentation.
func Export(ctx context.Context, repo *chunkstore.Repository, engine Engine, sys snapshot.System, o Options) (*snapshot.Snapshot, error) {
	x := &export{repo: repo, engine: engine, began: time.Now()}
	return x.export(ctx, sys, o)
}

func (x *export) export(ctx context.Context, sys snapshot.System, o Options) (*snapshot.Snapshot, error) {
	if err := x.prepare(ctx, sys, o); err != nil {
		return nil, fmt.Errorf("back up %s: %w", sys.Name, err)
	}
	var err error
	x.session, err = x.repo.Begin(ctx, chunkstore.BeginOptions{Host: x.host(), Program: o.Program})
	if err != nil {
		return nil, fmt.Errorf("back up %s: %w", sys.Name, err)
	}
	committed := false
	defer func() {
		if !committed { // also when something panics
			_ = x.session.Abort(ctx) // it only tells others sooner that this session has ended
		}
	}()
	if err := x.run(ctx); err != nil {
		return nil, fmt.Errorf("back up %s: %w", sys.Name, err)
	}
	committed = true
	if err := x.commit(ctx); err != nil {
		return nil, fmt.Errorf("back up %s: %w", sys.Name, err)
	}
	return x.snap, nil
}

// export is one run of Export.
type export struct {
	repo    *chunkstore.Repository
	engine  Engine
	o       Options
	session *chunkstore.Session
	plan    *Plan
	began   time.Time
	term    int // of the system
	snap    *snapshot.Snapshot
	sources []*source
	helpers []*helper
	read    atomic.Int64 // bytes of content read

	stay  bool            // the containers stay stopped when all is well
	held  *holding        // what stays so
	begun map[string]bool // containers whose commands behind the copy are then still to be run
}

// prepare plans, and lets go what a crash left standing.
func (x *export) prepare(ctx context.Context, sys snapshot.System, o Options) error {
	var err error
	if x.o, err = o.withDefaults(); err != nil {
		return err
	}
	x.o.Site.Name = cmp.Or(x.o.Site.Name, x.engine.Facts().Host)
	if x.term, err = snapshot.CheckOwner(ctx, x.repo, sys.Name, x.o.Site); err != nil {
		return err
	}
	if x.o.StateDir != "" {
		freed, err := Recover(ctx, x.engine, x.engine.Facts(), x.o.StateDir)
		for _, name := range freed {
			x.o.Logger.Warn("a container that an interrupted backup had left standing goes on", "container", name)
		}
		if err != nil {
			sys.Problems = append(slices.Clone(sys.Problems), snapshot.Problem{Where: "system " + sys.Name, What: err.Error()})
		}
	}
	x.plan, err = MakePlan(ctx, x.engine, sys, x.o)
	if err == nil && x.stay {
		err = x.plan.holdsAll()
	}
	return err
}

func (x *export) host() string { return cmp.Or(x.o.Host, x.engine.Facts().Host) }

// run reads everything and stores it; what is left is to commit.
func (x *export) run(ctx context.Context) error {
	x.snap = &snapshot.Snapshot{System: x.plan.System, Summary: snapshot.Summary{
		System: x.plan.System.Name, Host: x.host(), Tags: x.o.Tags, Program: x.o.Program, Engine: x.plan.Engine,
		Site: x.o.Site.Name, Term: x.term,
	}}
	for _, c := range x.plan.System.Containers {
		x.snap.Containers = append(x.snap.Containers, c.Name)
	}
	if err := x.saveLayers(ctx); err != nil {
		return err
	}
	defer x.closeSources()
	if err := x.openSources(ctx); err != nil {
		return err
	}
	if err := x.copy(ctx); err != nil {
		return err
	}
	if err := x.storeTrees(ctx); err != nil {
		return err
	}
	if err := x.compareSystem(ctx); err != nil {
		return err
	}
	return x.stillOwned(ctx)
}

// stillOwned looks whether another site has taken the system over meanwhile.
func (x *export) stillOwned(ctx context.Context) error {
	term, err := snapshot.CheckOwner(ctx, x.repo, x.plan.System.Name, x.o.Site)
	if err == nil {
		x.snap.Term = term
	}
	return err
}

// commit ends the session with the snapshot.
func (x *export) commit(ctx context.Context) error {
	x.notify("commit", "snapshot")
	s := x.snap
	s.Stats.Read = x.read.Load()
	s.Stats.Problems = len(s.System.Problems)
	s.Complete = s.Stats.Problems == 0
	s.Took = time.Since(x.began)
	if err := snapshot.Commit(ctx, x.session, s); err != nil {
		return err
	}
	s.Took = time.Since(x.began)
	return nil
}

func (x *export) notify(phase, what string) {
	x.o.Observer.Notify(snapshot.Event{Phase: phase, What: what, Done: x.read.Load()})
}

// progress returns a function that counts what is read.
func (x *export) progress(phase, what string) func(int64) {
	return func(n int64) {
		x.o.Observer.Notify(snapshot.Event{Phase: phase, What: what, Done: x.read.Add(n)})
	}
}

func (x *export) problem(where, format string, args ...any) {
	s := &x.snap.System
	s.Problems = append(s.Problems, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

func (x *export) note(where, format string, args ...any) {
	s := &x.snap.System
	s.Notes = append(s.Notes, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// compareSystem looks whether the system still has the containers that were copied: a deployment may
// have replaced them meanwhile.
func (x *export) compareSystem(ctx context.Context) error {
	now, err := x.engine.Containers(ctx)
	if err != nil {
		return fmt.Errorf("look at the system again: %w", err)
	}
	sys := &x.snap.System
	copied, present := map[string]bool{}, map[string]bool{}
	for _, c := range sys.Containers {
		copied[c.ID] = true
	}
	for _, c := range now {
		present[c.ID] = true
		if sys.Source == snapshot.ByContainer || copied[c.ID] {
			continue
		}
		if found := group([]snapshot.Container{c})[sys.Name]; found != nil && len(found.Containers) > 0 && !isHelper(c) {
			x.problem("container "+c.Name, "was created while the system was copied: it is not in the snapshot")
		}
	}
	for _, c := range sys.Containers {
		if !present[c.ID] {
			x.problem("container "+c.Name, "was removed while the system was copied")
		}
	}
	return nil
}

// joinRelease makes a failure to let containers go part of err.
func joinRelease(err, release error) error {
	if release == nil {
		return err
	}
	return errors.Join(err, fmt.Errorf("CONTAINERS MAY STAND STILL: %w", release))
}
