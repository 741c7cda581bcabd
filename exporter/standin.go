package exporter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// StandInEngine is what a StandIn needs of the engine on which its system runs: *docker.Engine has it.
type StandInEngine interface {
	Engine
	// SetRestartPolicy says when the engine starts a container by itself: "no", never.
	SetRestartPolicy(ctx context.Context, id, policy string) error
}

// StandIn is a system at a place that it is going to leave, because it comes home. It runs there until Stop, which makes
// the last snapshot of it; then it either starts again, or is left as it is, because it runs elsewhere. Until Leave the
// guard and the journal of Options see to it that it starts again whatever happens to this process, and so does
// Options.MaxStop. Its methods are not for concurrent use.
type StandIn struct {
	repo   *chunkstore.Repository
	engine StandInEngine
	name   string
	o      Options
	last   *export // its holding is what Stop has stopped; nil: nothing is
}

// NewStandIn is about the system of that name on an engine. Options.Site is the site that has it now.
func NewStandIn(repo *chunkstore.Repository, engine StandInEngine, name string, o Options) *StandIn {
	return &StandIn{repo: repo, engine: engine, name: name, o: o}
}

// At says which site has the system now, where that is not the one of Options.
func (s *StandIn) At(site snapshot.Site) { s.o.Site = site }

// Stopped is what was stopped for the last snapshot, for this process to remember.
type Stopped struct {
	Since time.Time `json:"since"` // when the first container was asked to stop
	Holds []Hold    `json:"holds"` // in dependency order
}

// Running lists the containers that Stop would stop, by name, in dependency order, or says why it could not.
func (s *StandIn) Running(ctx context.Context) ([]string, error) {
	sys, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	o := s.o
	o.Mode = snapshot.Stop
	plan, err := MakePlan(ctx, s.engine, sys, o)
	if err == nil {
		err = plan.holdsAll()
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range plan.Holds {
		names = append(names, h.Name)
	}
	return names, nil
}

// Backup makes a snapshot while the system goes on, as Export does.
func (s *StandIn) Backup(ctx context.Context) (*snapshot.Snapshot, error) {
	sys, err := s.find(ctx)
	if err != nil {
		return nil, err
	}
	return Export(ctx, s.repo, s.engine, sys, s.o)
}

// find finds the system, once nobody is letting its containers go any more: what is stopped for a moment only does run.
func (s *StandIn) find(ctx context.Context) (snapshot.System, error) {
	for waited := false; ; waited = true {
		systems, err := Discover(ctx, s.engine, []string{s.name}, false)
		if err != nil {
			return snapshot.System{}, err
		}
		if waited && !slices.ContainsFunc(systems[0].Containers, func(c snapshot.Container) bool { return c.State == "running" }) {
			return snapshot.System{}, fmt.Errorf("system %s: no container of it runs there", s.name)
		}
		if waited {
			return systems[0], nil
		}
		var list []Hold
		for _, c := range systems[0].Containers {
			list = append(list, Hold{ID: c.ID})
		}
		if err := s.settle(ctx, list); err != nil {
			return snapshot.System{}, err
		}
	}
}

// Stop makes a snapshot for which the running containers are stopped, those that need others first, and stay so. In the
// snapshot they run. After an error they run, or the error says which do not. The containers are started again when ctx
// ends, and after Options.MaxStop.
func (s *StandIn) Stop(ctx context.Context) (snap *snapshot.Snapshot, was Stopped, err error) {
	sys, err := s.find(ctx)
	if err != nil {
		return nil, Stopped{}, err
	}
	o := s.o
	o.Mode = snapshot.Stop
	x := &export{repo: s.repo, engine: s.engine, began: time.Now(), stay: true}
	defer func() { // also when something panics
		if s.last == nil {
			err = joinRelease(err, x.letGo(ctx))
		}
	}()
	if snap, err = x.export(ctx, sys, o); err != nil {
		return nil, Stopped{}, err
	}
	s.last = x
	return snap, x.held.stopped(), nil
}

// letGo starts again what stays stopped, and runs the commands that belong behind it.
func (x *export) letGo(ctx context.Context) error {
	if x.held == nil {
		return nil
	}
	err := x.held.release()
	return errors.Join(err, x.after(ctx, x.begun))
}

// holdsAll refuses a plan by which a container would not be stopped, or could not be started again.
func (p *Plan) holdsAll() error {
	for _, c := range p.System.Containers {
		held := slices.ContainsFunc(p.Holds, func(h Hold) bool { return h.ID == c.ID && h.Mode == snapshot.Stop })
		switch {
		case held, c.State == "exited", c.State == "created", c.State == "dead":
		case c.State == "running":
			return fmt.Errorf("container %s cannot be stopped and started again: its engine would remove it, or this program runs in it", c.Name)
		default:
			return fmt.Errorf("container %s is %s: it could not be put back to that", c.Name, c.State)
		}
	}
	return nil
}

// stopped describes what is held.
func (h *holding) stopped() Stopped {
	var s Stopped
	for _, it := range h.items {
		it.mu.Lock()
		if asked := it.asked; !asked.IsZero() {
			s.Holds = append(s.Holds, it.Hold)
			if s.Since.IsZero() || asked.Before(s.Since) {
				s.Since = asked
			}
		}
		it.mu.Unlock()
	}
	return s
}

// Leave leaves what Stop has stopped as it is: neither the guard nor a journal starts it from now on, nor does this
// process when it ends. After an error it was started again, as where the time was up.
func (s *StandIn) Leave() error {
	if s.last == nil {
		return nil
	}
	h := s.last.held
	if err := h.leave(); err != nil {
		return joinRelease(fmt.Errorf("leave %s stopped: %w", s.name, err), h.release())
	}
	s.last = nil
	return nil
}

// leave ends a holding and lets nothing go.
func (h *holding) leave() error {
	h.mu.Lock()
	late := h.releasing
	h.releasing = true
	h.mu.Unlock()
	if late {
		return errTimeUp
	}
	h.cancel(errors.New("containers are left as they are"))
	if h.guard != nil {
		if err := h.guard.released(); err != nil { // it may let them go at any moment
			h.err = h.letAllGo(context.Background())
			close(h.done)
			return err
		}
	}
	h.journal.remove()
	close(h.done)
	return nil
}

// Start starts again what was stopped, here or by a process before, each container after those that must be healthy for it.
func (s *StandIn) Start(ctx context.Context, was Stopped) error {
	if s.last != nil {
		err := s.last.letGo(ctx)
		s.last = nil
		return joinRelease(nil, err)
	}
	h := &holding{quiesce: quiesce{engine: s.engine, log: s.o.Logger}}
	for _, item := range was.Holds {
		h.items = append(h.items, &heldItem{Hold: item, asked: time.Now(), sure: true})
	}
	return joinRelease(nil, h.letAllGo(context.WithoutCancel(ctx)))
}

// Runs reports whether any of what a process before has stopped runs again, once nobody is at it any more: a guard may be.
func (s *StandIn) Runs(ctx context.Context, was Stopped) (bool, error) {
	if err := s.settle(ctx, was.Holds); err != nil {
		return false, fmt.Errorf("look at %s: %w", s.name, err)
	}
	for _, h := range was.Holds {
		st, err := s.engine.State(ctx, h.ID)
		switch {
		case errors.Is(err, snapshot.ErrMissing):
		case err != nil:
			return false, fmt.Errorf("look at container %s: %w", h.Name, err)
		case st.State == "running", st.State == "paused", st.State == "restarting":
			return true, nil
		}
	}
	return false, nil
}

// settle lets go what a crash left, and waits for guards that are doing so.
func (s *StandIn) settle(ctx context.Context, list []Hold) error {
	if s.o.StateDir == "" {
		return nil
	}
	dir := journalDir(s.o.StateDir)
	for {
		d, err := os.Open(dir)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		err = flock(d, unix.LOCK_EX)
		var found recovery
		if err == nil {
			found, err = recoverDir(ctx, s.engine, dir, engineKey(s.engine.Facts()))
		}
		if err = errors.Join(err, d.Close()); err != nil || !found.holds(list) {
			return err
		}
		if err := sleep(ctx, pollTime); err != nil {
			return err
		}
	}
}

// Retire keeps the engine from starting again what was stopped, when the engine itself is started.
func (s *StandIn) Retire(ctx context.Context, was Stopped) error {
	var errs []error
	for _, h := range was.Holds {
		if err := s.engine.SetRestartPolicy(ctx, h.ID, "no"); err != nil && !errors.Is(err, snapshot.ErrMissing) {
			errs = append(errs, fmt.Errorf("container %s: %w", h.Name, err))
		}
	}
	return errors.Join(errs...)
}
