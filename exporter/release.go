package exporter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

const (
	// engineTime bounds the attempts to let one container go.
	engineTime = 20 * time.Second
	// pauseTime is how long after a lost request to pause the engine may still carry it out
	// (10-20 ms are usual, 0.5 s when runc is not in memory).
	pauseTime = 5 * time.Second
	// healthTime bounds the wait for a restarted container that others need to be healthy.
	healthTime = time.Minute
	// pollTime is between two looks at a container.
	pollTime = 200 * time.Millisecond
)

// unsure is how long after a lost request to hold it the container may still come to stand.
func (h Hold) unsure() time.Duration {
	if h.Mode == snapshot.Stop {
		return h.Grace + pauseTime
	}
	return pauseTime
}

// release lets every container go and returns when that is done, or has failed; it may be called
// from several goroutines and again, and no context ends it. What could not be let go stays with
// the guard, which goes on trying when this process ends.
func (h *holding) release() error {
	h.mu.Lock()
	first := !h.releasing
	h.releasing = true
	h.mu.Unlock()
	if first {
		h.cancel(errors.New("containers are let go"))
		if h.err = h.letAllGo(context.Background()); h.err == nil {
			h.forget()
		}
		if time.Since(h.began) > h.within { // a process that stood still itself saw no timer
			h.expire()
		}
		close(h.done)
	}
	<-h.done
	return h.err
}

// forget tells journal and guard that nothing is held any more.
func (h *holding) forget() {
	h.journal.remove()
	if h.guard == nil {
		return
	}
	if err := h.guard.released(); err != nil {
		h.log.Warn("the guard is gone; the containers were let go without it", "error", err)
	}
}

func (h *holding) letAllGo(ctx context.Context) error {
	var mu sync.Mutex
	var failed []error
	one := func(it *heldItem) {
		if err := h.letOneGo(ctx, it); err != nil {
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, fmt.Errorf("let container %s go: %w", it.Name, err))
		}
	}
	var wg sync.WaitGroup
	for _, it := range h.items {
		if it.Mode == snapshot.Pause {
			wg.Go(func() { one(it) })
		}
	}
	wg.Wait()
	for _, it := range h.items {
		if it.Mode == snapshot.Stop {
			h.awaitNeeds(ctx, it)
			one(it)
		}
	}
	return errors.Join(failed...)
}

// letOneGo waits for a call that is still holding the container, and undoes it.
func (h *holding) letOneGo(ctx context.Context, it *heldItem) error {
	it.mu.Lock()
	defer it.mu.Unlock()
	it.let = true
	if it.asked.IsZero() {
		return nil
	}
	var unsure time.Duration
	if !it.sure {
		unsure = it.unsure()
	}
	ctx, cancel := context.WithTimeout(ctx, engineTime+unsure)
	defer cancel()
	err := letGo(ctx, h.engine, it.Hold, unsure)
	it.ending = time.Now()
	return err
}

// held reports whether the engine was asked to hold the container.
func (it *heldItem) held() bool {
	it.mu.Lock()
	defer it.mu.Unlock()
	return !it.asked.IsZero()
}

// awaitNeeds waits until what a stopped container needs is healthy again, as Compose would. What
// does not become healthy delays the container, and does not keep it from starting.
func (h *holding) awaitNeeds(ctx context.Context, it *heldItem) {
	ctx, cancel := context.WithTimeout(ctx, healthTime)
	defer cancel()
	for _, need := range h.items {
		if need.Mode != snapshot.Stop || !slices.Contains(it.Needs, need.Name) || !need.held() {
			continue
		}
		for !well(ctx, h.engine, need.ID) {
			if sleep(ctx, pollTime) != nil {
				h.note(need, fmt.Sprintf("was not healthy %v after it was started again", healthTime))
				return
			}
		}
	}
}

// well reports whether there is nothing to wait for in a container's health.
func well(ctx context.Context, engine Releaser, id string) bool {
	st, err := engine.State(ctx, id)
	return err == nil && (st.State != "running" || st.Health == "" || st.Health == "healthy")
}

// letGo undoes a hold. Where unsure is not zero, the request to hold the container may still be on
// its way: then it is watched for that long. A container that is gone, or goes on already, is no
// error. While the engine gives no answer letGo goes on trying, until ctx ends.
func letGo(ctx context.Context, engine Releaser, h Hold, unsure time.Duration) error {
	undo := unpause
	if h.Mode == snapshot.Stop {
		undo = restart
	}
	for end := time.Now().Add(unsure); ; {
		done, err := undo(ctx, engine, h.ID)
		if done || err == nil && !time.Now().Before(end) {
			return err
		}
		if stop := sleep(ctx, pollTime); stop != nil {
			return errors.Join(stop, err)
		}
	}
}

// unpause lets a paused container go on; done means that there is nothing more to do, and no error
// that it was not paused at this moment.
func unpause(ctx context.Context, engine Releaser, id string) (done bool, err error) {
	err = engine.Unpause(ctx, id)
	switch {
	case err == nil, errors.Is(err, snapshot.ErrMissing):
		return true, nil
	case errors.Is(err, snapshot.ErrState):
		return false, nil
	default:
		return false, err
	}
}

// restart starts a stopped container. An answer of the engine is final, a bad one too: an engine
// may have dropped networks from a container that it failed to start, so trying again would start
// it without them.
func restart(ctx context.Context, engine Releaser, id string) (done bool, err error) {
	st, err := engine.State(ctx, id)
	switch {
	case errors.Is(err, snapshot.ErrMissing):
		return true, nil
	case err != nil:
		return false, err
	case st.State == "running" || st.State == "paused" || st.State == "restarting":
		return false, nil
	}
	return true, engine.Start(ctx, id)
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
