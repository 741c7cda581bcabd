package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// fakeEngine has containers that are held and let go. It behaves as a real one does: what it was
// asked to do it does, also when the one who asked has gone away meanwhile.
type fakeEngine struct {
	mu     sync.Mutex
	states map[string]string // by id
	log    []string          // "pause web", in the order in which things happened
	delay  time.Duration     // of each pause and stop
	balks  map[string]int    // by id, how often it cannot be paused at first
	fail   map[string]error  // by "pause web"
	health map[string]time.Time
	checks map[string]func() time.Time // by id, when the health check runs next
	exec   func(id string, argv []string, out io.Writer) (int, error)
}

func newFake(states ...string) *fakeEngine {
	f := &fakeEngine{states: map[string]string{}, balks: map[string]int{}, fail: map[string]error{}, health: map[string]time.Time{}}
	for i := 0; i < len(states); i += 2 {
		f.states[states[i]] = states[i+1]
	}
	return f
}

// act does what takes its delay, and happens also when ctx ends before.
func (f *fakeEngine) act(ctx context.Context, verb, id string, delay time.Duration, from []string, to string) error {
	result := make(chan error, 1)
	go func() {
		time.Sleep(delay)
		f.mu.Lock()
		defer f.mu.Unlock()
		state, ok := f.states[id]
		switch {
		case f.fail[verb+" "+id] != nil:
			result <- f.fail[verb+" "+id]
		case !ok:
			result <- fmt.Errorf("%s container %s: %w", verb, id, snapshot.ErrMissing)
		case !slices.Contains(from, state):
			result <- fmt.Errorf("%s container %s: %w: it is %s", verb, id, snapshot.ErrState, state)
		default:
			f.states[id] = to
			f.log = append(f.log, verb+" "+id)
			result <- nil
		}
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fakeEngine) Pause(ctx context.Context, id string) error {
	f.mu.Lock()
	balks := f.balks[id]
	f.balks[id]--
	f.mu.Unlock()
	if balks > 0 {
		return errors.New("OCI runtime pause failed: unable to freeze")
	}
	return f.act(ctx, "pause", id, f.delay, []string{"running"}, "paused")
}

func (f *fakeEngine) Unpause(ctx context.Context, id string) error {
	return f.act(ctx, "unpause", id, 0, []string{"paused"}, "running")
}

func (f *fakeEngine) Stop(ctx context.Context, id string) error {
	err := f.act(ctx, "stop", id, f.delay, []string{"running"}, "exited")
	if errors.Is(err, snapshot.ErrState) {
		return nil
	}
	return err
}

func (f *fakeEngine) Start(ctx context.Context, id string) error {
	return f.act(ctx, "start", id, 0, []string{"exited"}, "running")
}

func (f *fakeEngine) State(ctx context.Context, id string) (snapshot.State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail["state "+id]; err != nil {
		return snapshot.State{}, err
	}
	state, ok := f.states[id]
	if !ok {
		return snapshot.State{}, snapshot.ErrMissing
	}
	st := snapshot.State{State: state}
	if next := f.checks[id]; next != nil {
		st.NextCheck = next()
	}
	if well, ok := f.health[id]; ok && state == "running" {
		st.Health = "healthy"
		if time.Now().Before(well) {
			st.Health = "starting"
		}
	}
	return st, nil
}

func (f *fakeEngine) Exec(ctx context.Context, id string, argv []string, out io.Writer) (int, error) {
	f.mu.Lock()
	f.log = append(f.log, "exec "+id+" "+strings.Join(argv, " "))
	run := f.exec
	f.mu.Unlock()
	if run == nil {
		return 0, nil
	}
	return run(id, argv, out)
}

func (f *fakeEngine) state(id string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.states[id]
}

// happened returns the log as one line.
func (f *fakeEngine) happened() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.log, ", ")
}
