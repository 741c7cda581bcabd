package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// undoTimeout bounds the whole of an undo: long enough for an engine to end some containers.
const undoTimeout = 5 * time.Minute

// undoLog collects, while a restore goes on, how to take each of its steps back.
type undoLog struct {
	mu    sync.Mutex
	steps []*undoStep
}

type undoStep struct {
	what string // "volume shop_data": what is there as long as it is not undone
	undo func(context.Context) error
}

// add registers the inverse of a step that has just been taken, and returns what to call if that
// has been taken back already. It may be called from several goroutines at once.
func (u *undoLog) add(what string, undo func(context.Context) error) (forget func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	step := &undoStep{what, undo}
	u.steps = append(u.steps, step)
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.steps = slices.DeleteFunc(u.steps, func(s *undoStep) bool { return s == step })
	}
}

// run takes all steps back, the last one first, also after ctx has ended. A step that cannot be
// taken back does not keep the others from it; left lists what is still there.
func (u *undoLog) run(ctx context.Context) (left []string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	u.mu.Lock()
	defer u.mu.Unlock()
	var errs []error
	for _, s := range slices.Backward(u.steps) {
		if err := s.undo(ctx); err != nil {
			left = append(left, s.what)
			errs = append(errs, fmt.Errorf("undo of %s: %w", s.what, err))
		}
	}
	u.steps = nil
	return left, errors.Join(errs...)
}

// list says what is there, in the order in which it was made.
func (u *undoLog) list() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []string
	for _, s := range u.steps {
		all = append(all, s.what)
	}
	return all
}

// steady is the context of a short change of the engine: one that has begun is seen through when
// ctx ends, so that what was made is known and can be undone.
func steady(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
}
