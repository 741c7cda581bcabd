package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// ErrInjected is the failure of Faulty: an error as from a network, which a retry may get over.
var ErrInjected = errors.New("injected fault")

// ErrCrashed is what every call returns once Crash has struck. Retrying does not help.
var ErrCrashed = fmt.Errorf("injected crash: %w", chunkstore.ErrPermanent)

// Faulty fails one call. An exhaustive test lets N count up from 1 until Fired says that the run
// made fewer calls than that:
//
//	for n := 1; ; n++ {
//		f := &storetest.Faulty{N: n}
//		... run with f.Wrap(store) ...
//		if !f.Fired() {
//			break
//		}
//	}
type Faulty struct {
	N     int             // the call to fail, counted from 1; 0 fails none
	After bool            // fail after the call has had its effect, not before
	Match func(Call) bool // the calls that count; nil: all
	Err   error           // default ErrInjected

	mu    sync.Mutex
	calls int
	fired bool
}

// Wrap returns b with the fault before it. Backends wrapped by one Faulty count together.
func (f *Faulty) Wrap(b chunkstore.Backend) chunkstore.Backend { return Intercept(b, f.around) }

func (f *Faulty) around(_ context.Context, c Call, next func() error) error {
	if !f.strikes(c) {
		return next()
	}
	if f.After {
		if err := next(); err != nil {
			return err
		}
	}
	if f.Err != nil {
		return fmt.Errorf("%s %s: %w", c.Op, c.Name, f.Err)
	}
	return fmt.Errorf("%s %s: %w", c.Op, c.Name, ErrInjected)
}

func (f *Faulty) strikes(c Call) bool {
	if f.Match != nil && !f.Match(c) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.calls != f.N {
		return false
	}
	f.fired = true
	return true
}

// Fired reports whether the run came to the call that was to fail.
func (f *Faulty) Fired() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

// Crash is the end of a process or of its connection: the first After writes succeed, the next one
// and every later call fail with ErrCrashed. What other goroutines were writing at that moment is
// stored or not, but not acknowledged.
type Crash struct {
	After int  // writes before the crash
	Apply bool // whether the write that meets the crash takes effect

	mu      sync.Mutex
	writes  int
	crashed bool
}

// Wrap returns b with the crash before it. Backends wrapped by one Crash end together.
func (c *Crash) Wrap(b chunkstore.Backend) chunkstore.Backend { return Intercept(b, c.around) }

func (c *Crash) around(_ context.Context, call Call, next func() error) error {
	err := c.begin(call)
	if err != nil {
		if c.Apply && err == errLast {
			next() // whatever it answers, nobody is left to hear it
		}
		return fmt.Errorf("%s %s: %w", call.Op, call.Name, ErrCrashed)
	}
	err = next()
	if c.Crashed() {
		return fmt.Errorf("%s %s: %w", call.Op, call.Name, ErrCrashed)
	}
	return err
}

// errLast marks the write that meets the crash.
var errLast = errors.New("last write")

func (c *Crash) begin(call Call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return ErrCrashed
	}
	if !call.Write() {
		return nil
	}
	if c.writes++; c.writes > c.After {
		c.crashed = true
		return errLast
	}
	return nil
}

// Crashed reports whether the crash has struck.
func (c *Crash) Crashed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crashed
}

// Counter counts calls and bytes.
type Counter struct {
	mu             sync.Mutex
	calls          map[Op]int
	sent, received int64
}

// Wrap returns b with its calls counted. Backends wrapped by one Counter count together.
func (c *Counter) Wrap(b chunkstore.Backend) chunkstore.Backend {
	counted := counted{Intercept(b, c.around), c}
	if _, ok := b.(chunkstore.Creator); ok {
		return countedCreator{counted}
	}
	return counted
}

func (c *Counter) around(_ context.Context, call Call, next func() error) error {
	c.mu.Lock()
	if c.calls == nil {
		c.calls = make(map[Op]int)
	}
	c.calls[call.Op]++
	c.mu.Unlock()
	return next()
}

// Calls returns how often op was called, whatever came of it.
func (c *Counter) Calls(op Op) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[op]
}

// Bytes returns how many bytes of objects went to the store and came from it.
func (c *Counter) Bytes() (sent, received int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent, c.received
}

func (c *Counter) add(sent, received int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent += int64(sent)
	c.received += int64(received)
}

type counted struct {
	chunkstore.Backend
	counter *Counter
}

func (c counted) Put(ctx context.Context, name string, data []byte) error {
	c.counter.add(len(data), 0)
	return c.Backend.Put(ctx, name, data)
}

func (c counted) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	data, err := c.Backend.Get(ctx, name, off, n)
	c.counter.add(0, len(data))
	return data, err
}

type countedCreator struct{ counted }

func (c countedCreator) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	c.counter.add(len(data), 0)
	return c.Backend.(chunkstore.Creator).PutIfAbsent(ctx, name, data)
}
