package exporter

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// persistence is how long a guard goes on trying while the engine gives no answer. What it leaves
// then is in the journal.
const persistence = time.Hour

// maxMessage bounds one line to a guard: some thousand containers.
const maxMessage = 1 << 20

// RunGuard is the life of a guard, for the process that StartGuard starts: in and out are its
// standard input and output. It lets containers go when in ends without a good-bye, and when the
// time is up that they may stand still. It returns when nothing is left to guard; the error says
// what still stands.
//
// It makes the whole process deaf to SIGINT, SIGTERM, SIGHUP and SIGPIPE: none of them may keep
// it from its task, which is short.
func RunGuard(ctx context.Context, in io.Reader, out io.Writer, engine Releaser) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	w := &watch{engine: engine}
	answer := func(err error) {
		var a guardAnswer
		if err != nil {
			a.Error = err.Error()
		}
		_ = json.NewEncoder(out).Encode(a) // to nobody, when the other end is gone: in tells that
	}
	messages := make(chan guardMessage)
	go readMessages(in, messages)
	answer(nil)
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return w.letGo(ctx)
			}
			answer(w.take(m))
			if m.Bye {
				return nil
			}
		case <-w.timeUp():
			if err := w.letGo(ctx); err != nil {
				return err
			}
		}
	}
}

// readMessages sends the messages of in and closes the channel when they end.
func readMessages(in io.Reader, messages chan<- guardMessage) {
	defer close(messages)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		var m guardMessage
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			return // half a line: its writer died over it, before it held anything
		}
		messages <- m
		if m.Bye {
			return
		}
	}
}

// watch is what a guard knows.
type watch struct {
	engine  Releaser
	held    []Hold
	journal *journal
	timer   *time.Timer
}

// take notes what a message says.
func (w *watch) take(m guardMessage) error {
	w.clear()
	if len(m.Hold) == 0 {
		return nil
	}
	var err error
	if w.journal, err = joinJournal(m.Journal); err != nil {
		return err
	}
	w.held, w.timer = m.Hold, time.NewTimer(m.Within)
	return nil
}

func (w *watch) clear() {
	w.journal.close()
	if w.timer != nil {
		w.timer.Stop()
	}
	w.held, w.journal, w.timer = nil, nil, nil
}

func (w *watch) timeUp() <-chan time.Time {
	if w.timer == nil {
		return nil
	}
	return w.timer.C
}

// letGo lets everything go that is held. Whether the engine has been asked to hold it, and has
// done so, is not known: each container is watched until it cannot come to a stand any more.
func (w *watch) letGo(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, persistence)
	defer cancel()
	errs := make([]error, len(w.held)+1)
	var wg sync.WaitGroup
	var stopped []Hold
	for i, h := range w.held {
		if h.Mode == snapshot.Stop {
			stopped = append(stopped, h)
			continue
		}
		wg.Go(func() { errs[i] = letGo(ctx, w.engine, h, h.unsure()) })
	}
	wg.Go(func() { errs[len(w.held)] = restartAll(ctx, w.engine, stopped) })
	wg.Wait()
	err := errors.Join(errs...)
	if err != nil {
		return fmt.Errorf("guard: let containers go: %w", err)
	}
	w.journal.remove()
	w.journal = nil
	w.clear()
	return nil
}

// restartAll starts what stands of list, in its order, until nothing of it can come to a stand any
// more.
func restartAll(ctx context.Context, engine Releaser, list []Hold) error {
	var end time.Time
	for _, h := range list {
		end = later(end, time.Now().Add(h.unsure()))
	}
	var failed []error
	for len(list) > 0 {
		list = slices.DeleteFunc(list, func(h Hold) bool {
			late := time.Now().After(end)
			done, err := restart(ctx, engine, h.ID)
			if done && err != nil {
				failed = append(failed, fmt.Errorf("container %s: %w", h.Name, err))
			}
			return done || err == nil && late
		})
		if err := sleep(ctx, pollTime); err != nil && len(list) > 0 {
			failed = append(failed, err)
			break
		}
	}
	return errors.Join(failed...)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
