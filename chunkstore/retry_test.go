package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func memory() chunkstore.Backend { return mem.New(mem.Options{}) }

func quick(b chunkstore.Backend) chunkstore.Backend {
	return chunkstore.Retry(b, chunkstore.RetryOptions{Initial: time.Millisecond, MaxInterval: 2 * time.Millisecond})
}

func TestRetryContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) chunkstore.Backend { return quick(memory()) })
}

// Where every third call fails, before or after its effect, the contract still holds.
func TestRetryContractOverFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			storetest.Run(t, func(*testing.T) chunkstore.Backend { return quick(everyThird(memory(), after)) })
		})
	}
}

// everyThird fails every third call. Sequential callers make three in a row fail never.
func everyThird(b chunkstore.Backend, after bool) chunkstore.Backend {
	turn := make(chan int, 1)
	turn <- 0
	return storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
		n := <-turn + 1
		turn <- n
		if n%3 != 0 {
			return next()
		}
		if after {
			if err := next(); err != nil {
				return err
			}
		}
		return storetest.ErrInjected
	})
}

func TestRetryIsHonest(t *testing.T) {
	if _, ok := quick(storetest.NoCreate(memory())).(chunkstore.Creator); ok {
		t.Error("Retry pretends to be a Creator")
	}
	if _, ok := chunkstore.Limit(storetest.NoCreate(memory()), 1, 1).(chunkstore.Creator); ok {
		t.Error("Limit pretends to be a Creator")
	}
}

// Final errors come back after one attempt, others are tried again.
func TestRetryFinalErrors(t *testing.T) {
	for _, tc := range []struct {
		err   error
		calls int
	}{
		{chunkstore.ErrNotExist, 1},
		{chunkstore.ErrExist, 1},
		{chunkstore.ErrUnsupported, 1},
		{chunkstore.ErrNoStore, 1},
		{chunkstore.ErrAccess, 1},
		{chunkstore.ErrPermanent, 1},
		{context.Canceled, 1},
		{context.DeadlineExceeded, 1},
		{errors.New("connection reset"), 2},
	} {
		count, f := &storetest.Counter{}, &storetest.Faulty{N: 1, Err: tc.err}
		err := quick(count.Wrap(f.Wrap(memory()))).Put(t.Context(), "a", []byte("x"))
		if got := count.Calls(storetest.Put); got != tc.calls {
			t.Errorf("%v: %d calls, want %d", tc.err, got, tc.calls)
		}
		if tc.calls == 1 && !errors.Is(err, tc.err) || tc.calls > 1 && err != nil {
			t.Errorf("%v: %v", tc.err, err)
		}
	}
}

// down always fails.
func down(b chunkstore.Backend) chunkstore.Backend {
	return storetest.Intercept(b, func(context.Context, storetest.Call, func() error) error { return storetest.ErrInjected })
}

// A store that stays away is given up after MaxElapsed, having been asked with growing waits and
// each retry reported.
func TestRetryGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		count := &storetest.Counter{}
		b := chunkstore.Retry(count.Wrap(down(memory())), chunkstore.RetryOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
		start := time.Now()
		_, err := b.Stat(t.Context(), "p/x")
		elapsed, n := time.Since(start), count.Calls(storetest.Stat)
		if !errors.Is(err, storetest.ErrInjected) || !chunkstore.IsPassing(err) || !strings.Contains(err.Error(), fmt.Sprintf("after %d attempts", n)) {
			t.Errorf("%v", err)
		}
		if elapsed > 15*time.Minute || elapsed < 13*time.Minute || n < 20 || n > 100 {
			t.Errorf("gave up after %v and %d attempts", elapsed, n)
		}
		if got := strings.Count(log.String(), "level=WARN"); got != n-1 {
			t.Errorf("%d retries were reported, want %d", got, n-1)
		}
		if first, _, _ := strings.Cut(log.String(), "\n"); !strings.Contains(first, "op=stat name=p/x attempt=1") {
			t.Errorf("reported as %s", first)
		}
	})
}

func TestRetryNever(t *testing.T) {
	count := &storetest.Counter{}
	b := chunkstore.Retry(count.Wrap(down(memory())), chunkstore.RetryOptions{MaxElapsed: -1})
	if err := b.Delete(t.Context(), "a"); !errors.Is(err, storetest.ErrInjected) || count.Calls(storetest.Delete) != 1 {
		t.Errorf("%v after %d calls", err, count.Calls(storetest.Delete))
	}
}

// What the store does not give for now is not damage, whatever finds it: a check, a list, a record. What is gone is, and so is what
// a disk cannot read.
func TestIsPassing(t *testing.T) {
	store, _ := seeded(t)
	all, err := reopen(t, store, chunkstore.Options{}).Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := reopen(t, store, chunkstore.Options{}).Forget(t.Context(), "test", []chunkstore.Outcome{{Name: "n/0000000000000000/00000000000000000000000000000000"}}); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"p/", "t/", "i/", "f/", all[0].Name} {
		for _, c := range []struct {
			err     error
			passing bool
		}{{storetest.ErrInjected, true}, {chunkstore.ErrNotExist, false}, {syscall.EIO, false}} {
			b := chunkstore.Retry(storetest.Intercept(store, func(_ context.Context, call storetest.Call, next func() error) error {
				if call.Op == storetest.Get && strings.HasPrefix(call.Name, prefix) {
					return c.err
				}
				return next()
			}), chunkstore.RetryOptions{MaxElapsed: -1})
			r, err := chunkstore.Open(t.Context(), b, password, chunkstore.Options{})
			if err != nil {
				t.Fatal(err)
			}
			report, err := r.Check(t.Context(), chunkstore.CheckOptions{Walk: walk(r), Data: chunkstore.Everything})
			if prefix == "i/" && !errors.Is(c.err, syscall.EIO) { // without an index nothing can be said of snapshots
				if chunkstore.IsPassing(err) != c.passing || !errors.Is(err, c.err) {
					t.Errorf("%s, %v: %v", prefix, c.err, err)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Faults) == 0 {
				t.Errorf("%s, %v: no fault", prefix, c.err)
			}
			for _, f := range report.Faults {
				if errors.Is(f.Err, c.err) && chunkstore.IsPassing(f.Err) != c.passing {
					t.Errorf("%s: is %q passing: %v", prefix, f.Err, !c.passing)
				}
			}
		}
	}
}

// The end of the context ends the wait, and its error comes back even if it has a cause.
func TestRetryContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, errors.New("some cause"))
		defer cancel()
		start := time.Now()
		err := chunkstore.Retry(down(memory()), chunkstore.RetryOptions{Initial: time.Hour, MaxInterval: time.Hour, MaxElapsed: 1e6 * time.Hour}).Put(ctx, "a", nil)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// A listing that breaks off is taken up where it was.
func TestRetryList(t *testing.T) {
	s := memory()
	var want []string
	for i := range 10 {
		want = append(want, fmt.Sprint("p/", i))
		if err := s.Put(t.Context(), want[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	err := quick(&breaking{Backend: s, at: 3}).List(t.Context(), "p/", func(i chunkstore.Info) error {
		got = append(got, i.Name)
		return nil
	})
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

// breaking breaks its listings off, each some objects later than the one before.
type breaking struct {
	chunkstore.Backend
	at int
}

func (b *breaking) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	n := 0
	err := b.Backend.List(ctx, prefix, func(i chunkstore.Info) error {
		if n == b.at {
			return storetest.ErrInjected
		}
		n++
		return fn(i)
	})
	b.at += 3
	return err
}

// The error of fn is final even if it looks like one of the store's.
func TestRetryListFunc(t *testing.T) {
	count := &storetest.Counter{}
	s := count.Wrap(memory())
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	err := quick(s).List(t.Context(), "", func(chunkstore.Info) error { return storetest.ErrInjected })
	if err != storetest.ErrInjected || count.Calls(storetest.List) != 1 {
		t.Errorf("%v after %d calls", err, count.Calls(storetest.List))
	}
}

// A create whose answer was lost is told from one that somebody else made.
func TestRetryCreate(t *testing.T) {
	ctx := t.Context()
	lost := func() chunkstore.Backend {
		f := &storetest.Faulty{N: 1, After: true, Match: func(c storetest.Call) bool { return c.Op == storetest.PutIfAbsent }}
		return f.Wrap(memory())
	}
	b := lost()
	if err := quick(b).(chunkstore.Creator).PutIfAbsent(ctx, "a", []byte("mine")); err != nil {
		t.Errorf("own object: %v", err)
	}
	if err := quick(b).(chunkstore.Creator).PutIfAbsent(ctx, "a", []byte("mine")); !errors.Is(err, chunkstore.ErrExist) {
		t.Errorf("a second call: %v", err)
	}
	other := memory()
	if err := other.Put(ctx, "a", []byte("another's")); err != nil {
		t.Fatal(err)
	}
	f := &storetest.Faulty{N: 1}
	if err := quick(f.Wrap(other)).(chunkstore.Creator).PutIfAbsent(ctx, "a", []byte("mine")); !errors.Is(err, chunkstore.ErrExist) {
		t.Errorf("another's object: %v", err)
	}
}
