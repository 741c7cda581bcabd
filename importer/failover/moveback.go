package failover

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
)

// Where a failback fails once the stand-in is stopped, the system moves back: it is stopped at home, then becomes the
// stand-in's site's again, then starts there. So it never runs twice. The state file says that it is on its way
// back before anything is done, until it is there: a run that comes after one that was killed ends that first.

// moveBackTime bounds the stops of the containers at home.
const moveBackTime = 5 * time.Minute

// notPassed is what happens when a gate was not passed: the system moves back, if it is known from where it came.
func (f *run) notPassed(ctx context.Context, err error) error {
	var gate *GateError
	if !errors.As(err, &gate) {
		return err
	}
	if f.o.StandIn == nil || f.state.Stopped == nil || f.o.Stay || f.state.Recorded {
		gate.hint = f.afterGate()
		return err
	}
	return f.moveBack(ctx, err)
}

// afterGate tells a person what to do about a system that runs here and does not do what it should.
func (f *run) afterGate() string {
	mend := "the system runs here, and belongs to this site; mend it, or correct the gate, and run the same command again"
	from := f.state.From
	for _, t := range f.cat.Terms {
		if t.System == f.snap.System.Name && t.Number == f.state.Term-1 {
			from = t.Site
		}
	}
	if f.o.Why != snapshot.WhyFailback || f.state.Recorded || from.Name == "" {
		return mend
	}
	var here, there []string
	for _, o := range f.restoredHere(importer.KindContainer) {
		here = append(here, o.Name)
	}
	for _, c := range f.snap.System.Containers {
		if c.State == "running" {
			there = append(there, c.Name)
		}
	}
	slices.Reverse(here)
	return fmt.Sprintf(`%s. Or give it back to site %s, in this order:
   here:    docker update --restart no %[3]s && docker stop %[3]s
   here:    hakobune handover --site %[4]s --to %[2]s %[5]s
   at %[2]s: docker start %[6]s`,
		mend, from.Name, strings.Join(here, " "), f.o.Site.Name, f.snap.System.Name, strings.Join(there, " "))
}

// restoredHere lists the objects of some kinds that the restore made or used.
func (f *run) restoredHere(kinds ...importer.Kind) (all []importer.Object) {
	if f.state.Restored == nil {
		return nil
	}
	for _, o := range f.state.Restored.Objects {
		if slices.Contains(kinds, o.Kind) {
			all = append(all, o)
		}
	}
	return all
}

// moveBack undoes what fetchHome and bringUp did, after a failure: the stand-in gets the system back and starts.
func (f *run) moveBack(ctx context.Context, failed error) error {
	if f.o.StandIn == nil || f.state.Stopped == nil {
		return failed
	}
	var owned *snapshot.OwnedError
	if errors.As(failed, &owned) {
		return &StandInError{Err: failed, hint: "the stand-in was stopped and stays so, for the system is another site's now"}
	}
	if f.res.Restore != nil && slices.ContainsFunc(f.res.Restore.Left, func(what string) bool { return strings.HasPrefix(what, string(importer.KindContainer)+" ") }) && f.state.Restored == nil {
		return &StandInError{Err: failed, hint: "containers are left here, so the stand-in was not started again; run the same command again"}
	}
	f.state.Back = true
	if err := f.save(); err != nil { // counts only if this process is killed now
		failed = errors.Join(failed, err)
	}
	return f.goBack(context.WithoutCancel(ctx), failed)
}

// endMoveBack ends what a run before has begun, and begins anew from there.
func (f *run) endMoveBack(ctx context.Context) error {
	if f.o.StandIn == nil {
		return errStandInNeeded()
	}
	f.tell("an earlier run was about to give the system back to the stand-in, which is done now")
	err := f.goBack(context.WithoutCancel(ctx), nil)
	if back := (*StandInError)(nil); !errors.As(err, &back) || !back.Back || back.Err != nil {
		return err
	}
	f.o.StandIn.At(f.state.From)
	f.state, f.res.Resumed = state{}, false
	return f.begin(ctx)
}

// goBack carries it out: each of the steps may have been done before. The error is that which led to it, as a
// *StandInError which says how the stand-in is.
func (f *run) goBack(ctx context.Context, failed error) error {
	f.tell("giving the system back to the stand-in")
	if err := f.stopHere(ctx); err != nil {
		return &StandInError{Err: errors.Join(failed, err), hint: "it may run here, so the stand-in was not started again; run the same command again: it goes on from there"}
	}
	err := f.giveBack(ctx)
	var owned *snapshot.OwnedError
	if errors.As(err, &owned) {
		return &StandInError{Err: errors.Join(failed, err), hint: "the system was stopped here, and the stand-in was not started again, for the system is another site's now"}
	}
	return f.startStandIn(ctx, *f.state.Stopped, failed, err)
}

// stopHere stops the containers that the restore has started here, those that others need last, and names what stays.
func (f *run) stopHere(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveBackTime)
	defer cancel()
	for _, c := range slices.Backward(f.restoredHere(importer.KindContainer)) {
		err := f.engine.SetRestartPolicy(ctx, c.ID, "no") // not even a restart of the engine may start it
		if err == nil {
			err = f.engine.Stop(ctx, c.ID)
		}
		if err != nil && !errors.Is(err, snapshot.ErrMissing) {
			return fmt.Errorf("stop %s here: %w", c.Name, err)
		}
	}
	var stays []string
	for _, o := range f.restoredHere(importer.KindContainer, importer.KindVolume, importer.KindBind) {
		stays = append(stays, string(o.Kind)+" "+o.Name)
	}
	if len(stays) > 0 {
		f.res.Notes = append(f.res.Notes, "stopped here, with all that was written to it here, until the next failback moves it aside, and keeps it: "+strings.Join(stays, ", "))
	}
	return nil
}

// giveBack makes the stand-in's site the owner again, if this one is it. If another one is the error is a *snapshot.OwnedError.
func (f *run) giveBack(ctx context.Context) error {
	t, err := snapshot.Owner(ctx, f.repo, f.snap.System.Name) // a catalog leaves out a term that cannot be read
	switch {
	case err != nil:
		return err
	case t == nil:
		return errors.New("nobody has claimed it")
	case t.Site.Is(f.o.Site):
		if f.cat, err = snapshot.ReadCatalog(ctx, f.repo); err == nil {
			_, err = f.claimFor(ctx, f.state.From, snapshot.WhyHandover)
		}
	case !t.Site.Is(f.state.From):
		return &snapshot.OwnedError{Term: *t}
	}
	if err == nil {
		f.cat, err = snapshot.ReadCatalog(ctx, f.repo)
	}
	return err
}

// startStandIn starts the stand-in again because of a failure. unowned says why its site is not the owner; nil: it is.
func (f *run) startStandIn(ctx context.Context, was exporter.Stopped, failed, unowned error) error {
	if err := f.o.StandIn.Start(context.WithoutCancel(ctx), was); err != nil {
		return &StandInError{Err: errors.Join(failed, fmt.Errorf("THE SYSTEM RUNS NOWHERE: %w", err)), hint: "start it at the stand-in by hand, or run the same command again"}
	}
	if unowned != nil {
		return &StandInError{
			Err:  errors.Join(failed, fmt.Errorf("the stand-in runs again, but its site could not be made the owner: %w", unowned)),
			hint: fmt.Sprintf("its backups stop with exit code 22 until the same command is run again, or: hakobune handover --site %s --to %s %s", f.o.Site.Name, f.state.From.Name, f.snap.System.Name),
		}
	}
	f.state.Stopped = nil
	if err := f.forget(); err != nil {
		failed = errors.Join(failed, err)
	}
	if owned := (*snapshot.OwnedError)(nil); errors.As(failed, &owned) {
		return &StandInError{Err: failed, hint: "the stand-in runs again, but the system is another site's now"}
	}
	return &StandInError{Err: failed, Back: true, hint: "the stand-in runs again, and the system is its site's; run the same command again"}
}
