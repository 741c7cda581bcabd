package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Holder holds the containers of an engine still and lets them go. Pausing a container that is
// paused or does not run is snapshot.ErrState, and so is unpausing one that is not paused; stopping
// and starting are idempotent; a container that is gone is snapshot.ErrMissing.
type Holder interface {
	Releaser
	Pause(ctx context.Context, id string) error
	Stop(ctx context.Context, id string) error
	Exec(ctx context.Context, id string, argv []string, out io.Writer) (code int, err error)
}

// Releaser is what is needed of an engine to let containers go.
type Releaser interface {
	Unpause(ctx context.Context, id string) error
	Start(ctx context.Context, id string) error
	State(ctx context.Context, id string) (snapshot.State, error)
}

// Hold is one container that is held still while its system is copied.
type Hold struct {
	ID    string               `json:"id"`
	Name  string               `json:"name"`
	Mode  snapshot.QuiesceMode `json:"mode"`            // Pause or Stop
	Grace time.Duration        `json:"grace,omitempty"` // of Stop: how long the container may take to end
	Needs []string             `json:"needs,omitempty"` // of Stop: names of containers that must be healthy before it starts again
}

// errTimeUp says that containers were let go by force.
var errTimeUp = errors.New("the time in which containers may stand still was up")

// quiesce says how containers are held.
type quiesce struct {
	engine Holder
	guard  *Guard        // nil: none
	dir    string        // of journals, empty: none
	key    string        // of the engine, in journals
	within time.Duration // after which they are let go by force
	log    *slog.Logger
}

// holding is a time in which containers stand still. Whatever happens, they are let go: by
// release, by the end of the context given to hold, when the time is up, and by the guard where
// this process is no more.
type holding struct {
	quiesce
	journal *journal // nil: none
	began   time.Time
	cancel  context.CancelCauseFunc // of the calls that hold
	items   []*heldItem             // in dependency order

	done chan struct{} // closed when release is through
	err  error         // of release, valid once done is closed

	mu        sync.Mutex
	releasing bool
	expired   bool
	notes     []snapshot.Problem
}

// heldItem is one container of a holding. Its mutex serialises holding it and letting it go.
type heldItem struct {
	Hold
	mu     sync.Mutex
	asked  time.Time // when the engine was asked to hold it; zero: it need not be let go
	sure   bool      // the engine said that it holds it
	let    bool      // nobody may hold it any more
	ending time.Time // when it went on
}

// hold brings the containers of list, which is in dependency order, to a stand: first those to be
// stopped, the last one first, then all others at once. One that does not run, or that somebody
// paused, is left as it is; notes tell. After an error nothing is held any more; errTimeUp is
// wrapped where that was the cause.
func (q quiesce) hold(ctx context.Context, list []Hold) (*holding, error) {
	h := &holding{quiesce: q, done: make(chan struct{})}
	if len(list) == 0 {
		close(h.done)
		h.releasing = true
		return h, nil
	}
	for _, item := range list {
		h.items = append(h.items, &heldItem{Hold: item})
	}
	if err := h.announce(ctx, list); err != nil {
		return nil, fmt.Errorf("hold containers: %w", err)
	}
	h.began = time.Now()
	calls, cancel := context.WithCancelCause(ctx)
	h.cancel = cancel
	go h.watch(ctx)
	if err := h.take(calls); err != nil {
		return nil, errors.Join(fmt.Errorf("hold containers: %w", err), h.release())
	}
	return h, nil
}

// announce tells journal and guard what is going to be held, before it is.
func (h *holding) announce(ctx context.Context, list []Hold) error {
	if h.dir != "" {
		var err error
		if h.journal, err = openJournal(ctx, h.engine, h.dir, h.key, list); err != nil {
			return err
		}
	}
	if h.guard == nil {
		return nil
	}
	if err := h.guard.hold(list, h.within, h.journal.path()); err != nil {
		h.journal.remove()
		return err
	}
	return nil
}

// watch lets everything go when ctx ends or the time is up.
func (h *holding) watch(ctx context.Context) {
	t := time.NewTimer(h.within)
	defer t.Stop()
	select {
	case <-h.done:
		return
	case <-ctx.Done():
	case <-t.C:
		h.expire()
	}
	_ = h.release() // whoever holds asks for its outcome
}

func (h *holding) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expired = true
	h.cancel(errTimeUp)
}

func (h *holding) take(ctx context.Context) error {
	for i := len(h.items) - 1; i >= 0; i-- {
		if it := h.items[i]; it.Mode == snapshot.Stop {
			if err := h.takeOne(ctx, it, h.stop); err != nil {
				return err
			}
		}
	}
	h.awaitCalm(ctx)
	g, ctx := errgroup.WithContext(ctx)
	for _, it := range h.items {
		if it.Mode == snapshot.Pause {
			g.Go(func() error { return h.takeOne(ctx, it, h.pause) })
		}
	}
	return g.Wait()
}

// pauseAttempts is how often a container is asked to pause.
const pauseAttempts = 5

// pause pauses a container. The freezer of cgroup v1 gives up on processes that fork all the time
// ("unable to freeze") and lets them go; asked again it mostly succeeds.
func (h *holding) pause(ctx context.Context, id string) error {
	for attempt := 1; ; attempt++ {
		err := h.engine.Pause(ctx, id)
		if err == nil || errors.Is(err, snapshot.ErrState) || errors.Is(err, snapshot.ErrMissing) || attempt == pauseAttempts {
			return err
		}
		h.log.Debug("a container could not be paused", "container", id, "attempt", attempt, "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop stops a container that runs: one that does not is not to be started afterwards.
func (h *holding) stop(ctx context.Context, id string) error {
	st, err := h.engine.State(ctx, id)
	if err == nil && st.State != "running" {
		err = snapshot.ErrState
	}
	if err != nil {
		return err
	}
	return h.engine.Stop(ctx, id)
}

// takeOne holds one container by act.
func (h *holding) takeOne(ctx context.Context, it *heldItem, act func(context.Context, string) error) error {
	it.mu.Lock()
	defer it.mu.Unlock()
	if it.let || ctx.Err() != nil {
		return fmt.Errorf("container %s: %w", it.Name, context.Cause(ctx))
	}
	it.asked = time.Now()
	err := act(ctx, it.ID)
	switch {
	case err == nil:
		it.sure = true
	case errors.Is(err, snapshot.ErrState), errors.Is(err, snapshot.ErrMissing):
		it.asked = time.Time{} // not ours to let go
		h.note(it, h.why(ctx, it))
	case ctx.Err() != nil:
		return fmt.Errorf("container %s: %w", it.Name, context.Cause(ctx))
	default:
		return fmt.Errorf("container %s: %w", it.Name, err)
	}
	return nil
}

// why says what a container is that could not be held.
func (h *holding) why(ctx context.Context, it *heldItem) string {
	st, err := h.engine.State(ctx, it.ID)
	switch {
	case err != nil:
		return "was not held still: " + err.Error()
	case st.State == "paused":
		return "had been paused by somebody and was left so"
	default:
		return "was " + st.State + " and so was not held still"
	}
}

func (h *holding) note(it *heldItem, what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.notes = append(h.notes, snapshot.Problem{Where: "container " + it.Name, What: what})
}

// still returns how long the system was held, from the first container to the last, and the
// longest time of one container. Valid after release.
func (h *holding) still() (span, longest time.Duration) {
	var first, last time.Time
	for _, it := range h.items {
		it.mu.Lock()
		asked, ending := it.asked, it.ending
		it.mu.Unlock()
		if asked.IsZero() || ending.IsZero() {
			continue
		}
		longest = max(longest, ending.Sub(asked))
		if first.IsZero() || asked.Before(first) {
			first = asked
		}
		if ending.After(last) {
			last = ending
		}
	}
	return last.Sub(first), longest
}

// outcome returns what is to be noted, and whether the containers were let go by force. Valid
// after release.
func (h *holding) outcome() (notes []snapshot.Problem, expired bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.notes, h.expired
}
