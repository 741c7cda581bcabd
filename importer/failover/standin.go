package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
)

// StandIn is where a system that comes home runs until then: *exporter.StandIn is one. With it a failback needs nobody
// at the stand-in, and the system is down for a moment only: a snapshot is made while it runs, and what home lacks of it
// is staged here; then it is stopped, which makes the last snapshot, and what that has more is staged; then home takes
// the system and starts it. What fails before home has it, healthy and through all gates, ends with the stand-in running
// again, and the owner of the system: see moveback.go.
type StandIn interface {
	// At says which site it is at, where that is not the one that it was made with.
	At(site snapshot.Site)
	// Backup makes a snapshot while the system goes on.
	Backup(ctx context.Context) (*snapshot.Snapshot, error)
	// Stop makes the last snapshot and stops the system for it. Until Leave it starts again whatever happens to this
	// process. After an error it runs.
	Stop(ctx context.Context) (*snapshot.Snapshot, exporter.Stopped, error)
	// Leave leaves it stopped. After an error it runs.
	Leave() error
	// Start starts it again, whichever process has stopped it.
	Start(ctx context.Context, was exporter.Stopped) error
	// Runs reports whether any of what was stopped runs, once nobody is starting it any more.
	Runs(ctx context.Context, was exporter.Stopped) (bool, error)
	// Retire keeps its engine from starting it.
	Retire(ctx context.Context, was exporter.Stopped) error
}

var _ StandIn = (*exporter.StandIn)(nil)

// A StandInError says that a failback did not happen, and how the stand-in is.
type StandInError struct {
	Err  error
	Back bool // it runs again, and the system is its site's
	hint string
}

func (e *StandInError) Error() string { return e.Err.Error() }
func (e *StandInError) Unwrap() error { return e.Err }

// Hint returns the next step.
func (e *StandInError) Hint() string { return e.hint }

func errStandInNeeded() error {
	return &StandInError{Err: errors.New("an earlier run has stopped the stand-in"), hint: "give the same --stand-in again: it goes on from there"}
}

// fetchHome brings what the stand-in has to this site, and stops it. Afterwards its last snapshot is the one to restore.
func (f *run) fetchHome(ctx context.Context) error {
	switch {
	case f.o.StandIn == nil && f.state.Stopped != nil:
		return errStandInNeeded()
	case f.o.StandIn == nil:
		return nil
	case f.state.Stopped != nil:
		runs, err := f.o.StandIn.Runs(ctx, *f.state.Stopped)
		if err != nil {
			return err
		}
		if !runs {
			return f.take(ctx, f.state.Snapshot)
		}
		f.state.Stopped = nil // its guard has started it, or somebody: what it wrote since counts
	}
	if err := f.plan(ctx); err != nil {
		return err
	}
	f.tell("backing the stand-in up while it runs")
	snap, err := f.o.StandIn.Backup(ctx)
	if err == nil {
		err = f.stage(ctx, snap.Summary.ID)
	}
	if err != nil {
		return err
	}
	f.tell("stopping the stand-in for its last snapshot")
	last, was, err := f.o.StandIn.Stop(ctx)
	if err != nil {
		return err
	}
	if err := f.leaveStandIn(ctx, last, was); err != nil {
		f.state.Stopped = nil
		return f.startStandIn(ctx, was, errors.Join(err, f.forget()), nil)
	}
	return nil
}

// leaveStandIn stages the last snapshot, and makes sure, as far as it can, that it can be restored, before the stand-in is
// left as it is. From then on home is where the system starts.
func (f *run) leaveStandIn(ctx context.Context, last *snapshot.Snapshot, was exporter.Stopped) error {
	if !last.Complete && !f.o.Incomplete {
		p := last.System.Problems[0]
		return fmt.Errorf("the last snapshot of the stand-in lacks something: %s: %s", p.Where, p.What)
	}
	if err := f.stage(ctx, last.Summary.ID); err != nil {
		return err
	}
	if err := f.plan(ctx); err != nil {
		return err
	}
	f.state.Snapshot, f.state.Stopped, f.state.From = last.Summary.ID, &was, f.cat.Owner(f.snap.System.Name).Site
	if err := f.save(); err != nil {
		return err
	}
	return f.o.StandIn.Leave()
}

// retireStandIn keeps the stand-in's engine from starting the system when that engine is started.
func (f *run) retireStandIn(ctx context.Context) {
	if f.o.StandIn == nil || f.state.Stopped == nil {
		return
	}
	if err := f.o.StandIn.Retire(ctx, *f.state.Stopped); err != nil {
		f.res.Notes = append(f.res.Notes, fmt.Sprintf("the stand-in's engine may start its containers again when it is started itself: %v", err))
	}
}

// stage makes a snapshot that was just stored the one to restore, and brings what home lacks of it here.
func (f *run) stage(ctx context.Context, id string) error {
	if err := f.take(ctx, id); err != nil {
		return err
	}
	r := f.o.Restore
	if r.Stage == "" || !f.engine.Facts().Local {
		return nil
	}
	res, err := importer.SyncStage(ctx, f.repo, f.snap, f.engine, importer.StageOptions{
		Dir: r.Stage, Had: f.hadHere(ctx), TempDir: r.TempDir, Observer: r.Observer,
	})
	f.state.Fetched += res.Fetched
	f.state.Local += res.Local
	return err
}

// take makes a snapshot of the repository the one to restore, if the system is whose it was.
func (f *run) take(ctx context.Context, id string) error {
	cat, err := snapshot.ReadCatalog(ctx, f.repo)
	if err != nil {
		return err
	}
	name := f.snap.System.Name
	switch now, was := cat.Owner(name), f.cat.Owner(name); {
	case now == nil || was == nil || now.Number < was.Number:
		return errors.New("whose the system is cannot be read")
	case now.Number > was.Number:
		return &snapshot.OwnedError{Term: *now}
	}
	i := slices.IndexFunc(cat.Snapshots, func(s snapshot.Summary) bool { return s.ID == id })
	if i < 0 {
		return fmt.Errorf("snapshot %s: %w", id, snapshot.ErrMissing)
	}
	snap, err := cat.Load(ctx, cat.Snapshots[i])
	if err == nil {
		f.cat, f.snap = cat, snap
	}
	return err
}

// forget removes the file that remembers the failback.
func (f *run) forget() error {
	if err := os.Remove(f.stateFile()); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (f *run) tell(what string) {
	if f.o.Told != nil {
		f.o.Told(what)
	}
}
