package exporter

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

const (
	// maxCopies is how many passes are made before the containers are held still. A system that
	// writes all the time does not come to rest by a fourth.
	maxCopies = 3
	// quickPass is a pass that need not be made shorter: to repeat it under quiesce is short enough.
	quickPass = 300 * time.Millisecond
	// fewBytes is what a pass may read and the next one will hardly read less.
	fewBytes = 16 << 20
)

// copy reads all trees: while the containers run until little changes, then once more while they
// are held.
func (x *export) copy(ctx context.Context) (err error) {
	before, holding := x.plan.hooksOf(Before), len(x.plan.Holds) > 0
	var begun map[string]bool
	defer func() {
		if x.stay && x.held != nil {
			x.begun = begun
			return // whoever lets the containers go sees to it
		}
		err = errors.Join(err, x.after(ctx, begun))
	}()
	hooks := func() error {
		var err error
		begun, err = runHooks(ctx, x.engine, before, x.o, false)
		return x.hookFailure(err)
	}
	if !holding {
		if err := hooks(); err != nil {
			return err
		}
		x.snap.Time = time.Now()
		x.snap.System.Quiesce = snapshot.Quiesce{Mode: snapshot.None, At: x.snap.Time, Passes: 1}
		if err := x.pass(ctx, "copy", true); err != nil {
			return err
		}
		if err := x.catch(ctx); err != nil {
			return err
		}
		return x.readCaught(ctx)
	}
	if err := x.copyRunning(ctx, hooks, len(before) > 0); err != nil {
		return err
	}
	return x.copyHeld(ctx)
}

// copyRunning makes the passes while containers run. What the commands write is read by a pass
// behind them, not in the time in which containers stand still.
func (x *export) copyRunning(ctx context.Context, hooks func() error, commands bool) error {
	for n := 1; n <= maxCopies; n++ {
		began, read := time.Now(), x.read.Load()
		if err := x.pass(ctx, "copy", true); err != nil {
			return err
		}
		took := time.Since(began)
		x.o.Logger.Debug("copied while the containers run", "pass", n, "read", x.read.Load()-read, "took", took)
		x.snap.System.Quiesce.Passes++
		if n == 1 {
			if err := hooks(); err != nil {
				return err
			}
		}
		again := n == 1 && commands
		if !again && (took < quickPass || x.read.Load()-read < fewBytes) {
			break
		}
	}
	return nil
}

// copyHeld makes the last pass, while the containers are held still.
func (x *export) copyHeld(ctx context.Context) error {
	q := quiesce{
		engine: x.engine, guard: x.o.Guard, key: engineKey(x.engine.Facts()), within: x.o.MaxPause, log: x.o.Logger,
	}
	if x.o.StateDir != "" {
		q.dir = journalDir(x.o.StateDir)
	}
	for _, h := range x.plan.Holds {
		if h.Mode == snapshot.Stop {
			q.within = x.o.MaxStop
		}
	}
	// What is read while containers stand must not wait for what was read before to be uploaded.
	if err := x.session.Settle(ctx); err != nil {
		return err
	}
	sys := &x.snap.System
	x.notify("pause", "system "+sys.Name)
	h, err := q.hold(ctx, x.plan.Holds)
	if err != nil {
		if ctx.Err() != nil || x.stay {
			return err
		}
		// A copy of a running system is worth more than none.
		x.problem("system "+sys.Name, "the containers could not be held still together, so the copy is not of one moment: %v", err)
		x.snap.Time = time.Now()
		sys.Quiesce = snapshot.Quiesce{Mode: snapshot.None, At: x.snap.Time, Passes: sys.Quiesce.Passes + 1}
		if err := x.lastPass(ctx); err != nil {
			return err
		}
		return x.readCaught(ctx)
	}
	if x.stay {
		x.held = h
	} else {
		defer h.release() // when something panics; else it is the second call, which does nothing
	}
	x.snap.Time = time.Now()
	sys.Quiesce.Mode, sys.Quiesce.At = x.plan.Mode, x.snap.Time
	sys.Quiesce.Passes++
	err = x.lastPass(ctx)
	if x.stay {
		return x.stayHeld(ctx, err)
	}
	if err = joinRelease(err, h.release()); err != nil {
		return err
	}
	sys.Quiesce.Paused, x.snap.Stats.Paused = h.still()
	notes, expired := h.outcome()
	sys.Notes = append(sys.Notes, notes...)
	if expired {
		x.problem("system "+sys.Name, "the copy took longer than the %v in which containers may stand still: they were let go before its end, so it is not of one moment", q.within)
	}
	return x.readCaught(ctx)
}

// stayHeld ends the copy of containers that stay stopped. That they were not is an error: what they wrote since would
// be lost.
func (x *export) stayHeld(ctx context.Context, err error) error {
	if err != nil {
		return err
	}
	notes, expired := x.held.outcome()
	x.snap.System.Notes = append(x.snap.System.Notes, notes...)
	if expired || time.Since(x.held.began) > x.held.within {
		return fmt.Errorf("the containers were to be stopped for %v at most: %w", x.held.within, errTimeUp)
	}
	return x.readCaught(ctx)
}

// lastPass reads what has moved, and catches what is read later.
func (x *export) lastPass(ctx context.Context) error {
	if err := x.catch(ctx); err != nil {
		return err
	}
	return x.pass(ctx, "rescan", false)
}

// pass reads every tree once, several at a time. With a tree's next way it tries again where other
// is allowed; else a tree that cannot be read any more stays as the last pass had it.
func (x *export) pass(ctx context.Context, phase string, other bool) error {
	x.notify(phase, "system "+x.plan.System.Name)
	failed := make([]*treeError, len(x.sources))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.GOMAXPROCS(0)))
	for i, s := range x.sources {
		if s.way.late() {
			continue
		}
		g.Go(func() error {
			err := s.pass(gctx, x.session, x.passOptions(phase, s))
			if errors.As(err, &failed[i]) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	at := -1
	var err error
	x.sources, err = keepIf(x.sources, func(s *source) (bool, error) {
		at++
		return x.survives(ctx, s, failed[at], phase, other)
	})
	return err
}

func (x *export) passOptions(phase string, s *source) passOptions {
	return passOptions{repo: x.repo, rescan: x.o.Rescan, progress: x.progress(phase, s.Where())}
}

// survives decides on a tree after a pass.
func (x *export) survives(ctx context.Context, s *source, failed *treeError, phase string, other bool) (bool, error) {
	for failed != nil {
		if !other {
			x.problem(s.Where(), "could not be read in the last pass, and is as it was %s before: %v", ago(x.began), failed)
			return s.spool != nil, nil
		}
		ok, err := x.openNext(ctx, s, failed)
		if !ok || err != nil {
			return false, err
		}
		if failed = nil; s.way.late() {
			break
		}
		if err := s.pass(ctx, x.session, x.passOptions(phase, s)); !errors.As(err, &failed) && err != nil {
			return false, err
		}
	}
	return true, nil
}

func ago(t time.Time) string { return fmt.Sprintf("at most %v", time.Since(t).Round(time.Second)) }

// after runs the commands behind the copy in the containers whose command before it was begun, or
// that have none. Not even the end of ctx keeps them from undoing what was done.
func (x *export) after(ctx context.Context, begun map[string]bool) error {
	has := map[string]bool{}
	for _, h := range x.plan.hooksOf(Before) {
		has[h.ID] = true
	}
	var list []Hook
	for _, h := range x.plan.hooksOf(After) {
		if begun[h.ID] || begun != nil && !has[h.ID] {
			list = append(list, h)
		}
	}
	_, err := runHooks(context.WithoutCancel(ctx), x.engine, list, x.o, true)
	return x.hookFailure(err)
}

// hookFailure makes a problem of a failed command, where that was asked for.
func (x *export) hookFailure(err error) error {
	if err == nil || !x.o.IgnoreHookErrors {
		return err
	}
	x.problem("system "+x.plan.System.Name, "%v", err)
	return nil
}
