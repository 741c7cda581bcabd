package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// A StartError says that a container did not start, or did not become healthy.
type StartError struct {
	Container string // its name on the target
	Why       string
	Log       string // the last lines that it wrote
	Err       error  // the engine's, where it refused
}

func (e *StartError) Error() string {
	s := fmt.Sprintf("start container %s: %s", e.Container, e.Why)
	if log := strings.TrimSpace(e.Log); log != "" {
		s += "; its last lines:\n  " + strings.ReplaceAll(log, "\n", "\n  ")
	}
	return s
}

func (e *StartError) Unwrap() error { return e.Err }

// startContainers starts what ran, each after what it depends on, and waits until all is healthy.
func (r *restorer) startContainers(ctx context.Context) error {
	started := false
	for i := range r.plan.containers {
		j := &r.plan.containers[i]
		if !j.start || j.action == Skip {
			continue
		}
		started = true
		if err := r.awaitDependencies(ctx, j); err != nil {
			return err
		}
		r.event("containers", "start "+j.place.Name)
		if r.opts.Starting != nil {
			r.opts.Starting(j.place.Name, j.ports)
		}
		if err := r.startContainer(ctx, i); err != nil {
			return err
		}
	}
	if !started {
		return ctx.Err()
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range r.plan.containers {
		if j := &r.plan.containers[i]; j.start && j.action != Skip {
			g.Go(func() error { return r.awaitHealthy(ctx, j) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.res.Healthy = time.Since(r.res.Started)
	return nil
}

// startContainer starts a container. One that does not start is created anew and started once
// more: engines from 29 on drop a network from a container when joining it fails.
func (r *restorer) startContainer(ctx context.Context, i int) error {
	j := &r.plan.containers[i]
	err := r.engine.Start(ctx, r.ids[j.container.Name])
	if err == nil || ctx.Err() != nil {
		return err
	}
	first := err
	if err := r.remake(ctx, i); err != nil {
		return errors.Join(first, err)
	}
	if err = r.engine.Start(ctx, r.ids[j.container.Name]); err == nil || ctx.Err() != nil {
		r.res.note("container "+j.place.Name, "started only when it was created a second time: "+first.Error())
		return err
	}
	failure := &StartError{Container: j.place.Name, Why: err.Error(), Err: err}
	if state, serr := r.engine.State(ctx, r.ids[j.container.Name]); serr == nil {
		failure.Log = state.Log
	}
	return failure
}

// remake creates a container anew, and those after it that refer to it by its id. In a restore that goes on with a killed
// one that is done only with those that never ran: the others may have been in use for long.
func (r *restorer) remake(ctx context.Context, i int) error {
	first := r.plan.containers[i].container
	shares := func(ref string) bool { return ref == first.ID || ref == first.Name }
	var jobs []*containerJob
	for k := i; k < len(r.plan.containers); k++ {
		j := &r.plan.containers[k]
		if j.action == Skip || k > i && !slices.ContainsFunc(sharedNamespaces(j.container), shares) {
			continue
		}
		if r.resumed {
			if s, err := r.engine.State(ctx, r.ids[j.container.Name]); err != nil || s.State != "created" {
				return errors.Join(fmt.Errorf("container %s may be in use and is not made anew", j.place.Name), err)
			}
		}
		jobs = append(jobs, j)
	}
	for _, j := range jobs {
		if err := r.engine.RemoveContainer(ctx, r.ids[j.container.Name]); err != nil {
			return err
		}
		if err := r.makeContainer(ctx, j); err != nil {
			return err
		}
		if o := r.res.container(j.place.Name); o != nil {
			o.ID = r.ids[j.container.Name]
		}
	}
	return nil
}

// awaitDependencies waits until what j depends on is as j wants it. What is not started by this
// restore is taken as it is: it was so in the snapshot.
func (r *restorer) awaitDependencies(ctx context.Context, j *containerJob) error {
	for _, d := range j.container.DependsOn {
		k := slices.IndexFunc(r.plan.containers, func(o containerJob) bool {
			return o.container.Name == d.Container && o.start && o.action != Skip
		})
		if k < 0 {
			continue
		}
		var err error
		switch other := &r.plan.containers[k]; d.Condition {
		case conditionHealthy:
			err = r.awaitHealthy(ctx, other)
		case conditionCompleted:
			err = r.awaitCompleted(ctx, other)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitHealthy waits until a container is healthy. Without a health check it has to run for a
// moment; so has one that was unhealthy in the snapshot, from which no more can be wanted.
func (r *restorer) awaitHealthy(ctx context.Context, j *containerJob) error {
	if r.isHealthy(j) {
		return nil
	}
	var since time.Time // it has been seen to run without a break
	check := j.container.Health != "unhealthy"
	r.event("health", "container "+j.place.Name)
	return r.watch(ctx, j, func(s snapshot.State) (bool, string) {
		if s.State != "running" {
			since = time.Time{}
			return false, ended(s)
		}
		if since.IsZero() {
			since = time.Now()
		}
		if check && s.Health != "" && s.Health != "none" {
			return s.Health == "healthy", ""
		}
		return time.Since(since) >= r.opts.settle(), ""
	})
}

// awaitCompleted waits until a container has ended well.
func (r *restorer) awaitCompleted(ctx context.Context, j *containerJob) error {
	if r.isHealthy(j) {
		return nil
	}
	r.event("health", "container "+j.place.Name)
	return r.watch(ctx, j, func(s snapshot.State) (bool, string) {
		if s.State == "exited" && s.ExitCode == 0 {
			return true, ""
		}
		return false, ended(s)
	})
}

// ended says how a container ended; empty if it did not.
func ended(s snapshot.State) string {
	switch {
	case s.State != "exited" && s.State != "dead":
		return ""
	case s.Error != "":
		return fmt.Sprintf("ended with code %d: %s", s.ExitCode, s.Error)
	}
	return fmt.Sprintf("ended with code %d", s.ExitCode)
}

// watch asks for the state of a container until good says that it is reached, or says why it
// will not be, or the time is over.
func (r *restorer) watch(ctx context.Context, j *containerJob, good func(snapshot.State) (bool, string)) error {
	id := r.ids[j.container.Name]
	deadline := time.Now().Add(r.opts.healthTimeout())
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		s, err := r.engine.State(ctx, id)
		if err != nil {
			return err
		}
		reached, why := good(s)
		if reached {
			r.setHealthy(j, s)
			return nil
		}
		if why == "" && time.Now().After(deadline) {
			why = fmt.Sprintf("not healthy after %s (%s)", r.opts.healthTimeout(), strings.TrimSpace(s.State+" "+s.Health))
		}
		if why != "" {
			return &StartError{Container: j.place.Name, Why: why, Log: s.Log}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func (r *restorer) isHealthy(j *containerJob) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.healthy[j.container.Name]
}

func (r *restorer) setHealthy(j *containerJob, s snapshot.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.healthy[j.container.Name] = true
	if o := r.res.container(j.place.Name); o != nil {
		o.State, o.Health, o.Healthy = s.State, s.Health, time.Since(r.res.Started)
	}
}
