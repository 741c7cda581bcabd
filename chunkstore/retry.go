package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// RetryOptions adjust Retry. The zero value is usable.
type RetryOptions struct {
	// Initial is the mean wait before the first retry; it doubles each time up to MaxInterval. The
	// wait itself is random between zero and twice the mean (full jitter), so that hosts that lost
	// one store together do not come back together. Defaults: 500 ms, 30 s.
	Initial, MaxInterval time.Duration
	// MaxElapsed is how long after a call's beginning a retry may still start. Default 15 minutes,
	// which outlasts a router's restart and a store's rolling upgrade; negative: no retries.
	MaxElapsed time.Duration
	// Log hears of every retry, as a warning. Default: nobody.
	Log *slog.Logger
}

// Retry returns b with every call repeated while its error is one that may pass. Errors of
// Backend's contract (ErrNotExist, ErrExist, ErrUnsupported, ErrNoStore, ErrAccess), ErrPermanent
// and those of ctx are final. It is the only place that retries: the backends make each request
// once, or the attempts would multiply.
//
// A repeated List does not call fn again for what it has seen. A repeated PutIfAbsent that finds
// the name taken reads the object back: the bytes of this very call mean that an earlier attempt
// had got through, and it returns nil. So callers that compete for a name must write different
// bytes.
//
// The result is a Creator if b is one, and a Locker and a Thawer as far as b is.
func Retry(b Backend, o RetryOptions) Backend {
	if o.Initial == 0 {
		o.Initial = 500 * time.Millisecond
	}
	if o.MaxInterval == 0 {
		o.MaxInterval = 30 * time.Second
	}
	if o.MaxElapsed == 0 {
		o.MaxElapsed = 15 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if c, ok := b.(Creator); ok {
		return retryingCreator{retrying{b, o}, c}
	}
	return retrying{b, o}
}

type retrying struct {
	Backend
	o RetryOptions
}

type retryingCreator struct {
	retrying
	creator Creator
}

// do calls f until it succeeds or there is no point in going on.
func (r retrying) do(ctx context.Context, op, name string, f func() error) error {
	attempts := 0
	once := func() (struct{}, error) {
		attempts++
		err := f()
		if err != nil && (r.o.MaxElapsed < 0 || final(ctx, err)) {
			return struct{}{}, backoff.Permanent(err)
		}
		return struct{}{}, err
	}
	_, err := backoff.Retry(ctx, once,
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: r.o.Initial, RandomizationFactor: 1, Multiplier: 2, MaxInterval: r.o.MaxInterval,
		}),
		backoff.WithMaxElapsedTime(max(0, r.o.MaxElapsed)),
		backoff.WithNotify(func(err error, wait time.Duration) {
			r.o.Log.WarnContext(ctx, "backend: trying again", "op", op, "name", name,
				"attempt", attempts, "wait", wait.Round(time.Millisecond), "err", err)
		}))
	if ended := ctx.Err(); ended != nil && err != nil && !errors.Is(err, ended) {
		return fmt.Errorf("%s %s: %w", op, name, ended) // backoff gives the cause instead
	}
	if err != nil && !final(ctx, err) {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New(err.Error()) // the end of a connection is not that of what is read: who parses that would take it for damage
		}
		return &givenUpError{err, attempts}
	}
	return err
}

// givenUpError is one that may pass, but that was not waited for any longer.
type givenUpError struct {
	err      error
	attempts int
}

func (e *givenUpError) Error() string {
	if e.attempts == 1 {
		return e.err.Error()
	}
	return fmt.Sprintf("%v (after %d attempts)", e.err, e.attempts)
}

func (e *givenUpError) Unwrap() error { return e.err }

// IsPassing tells whether an error is one that Retry gave up on: the store did not do what was asked, as where a network fails, and
// may do so later. It says nothing of what is stored; but of a disk that cannot read what lies on it, it does.
func IsPassing(err error) bool {
	var e *givenUpError
	return errors.As(err, &e) && !errors.Is(err, syscall.EIO)
}

// firstPassing returns, by name, the first of the errors that IsPassing, or nil.
func firstPassing(errs map[string]error) error {
	for _, name := range slices.Sorted(maps.Keys(errs)) {
		if IsPassing(errs[name]) {
			return errs[name]
		}
	}
	return nil
}

// final reports whether err stays, however often the call is repeated.
func final(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	for _, is := range []error{
		ErrNotExist, ErrExist, ErrUnsupported, ErrNoStore, ErrAccess, ErrPermanent, ErrLocked, ErrArchived,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

func (r retrying) Put(ctx context.Context, name string, data []byte) error {
	return r.do(ctx, "put", name, func() error { return r.Backend.Put(ctx, name, data) })
}

func (r retrying) Get(ctx context.Context, name string, off, n int64) (data []byte, err error) {
	err = r.do(ctx, "get", name, func() error {
		data, err = r.Backend.Get(ctx, name, off, n)
		return err
	})
	return data, err
}

func (r retrying) Stat(ctx context.Context, name string) (info Info, err error) {
	err = r.do(ctx, "stat", name, func() error {
		info, err = r.Backend.Stat(ctx, name)
		return err
	})
	return info, err
}

func (r retrying) Delete(ctx context.Context, name string) error {
	return r.do(ctx, "delete", name, func() error { return r.Backend.Delete(ctx, name) })
}

func (r retrying) List(ctx context.Context, prefix string, fn func(Info) error) error {
	var last string  // no name is empty
	var failed error // fn's own, which is never retried
	err := r.do(ctx, "list", prefix, func() error {
		err := r.Backend.List(ctx, prefix, func(i Info) error {
			if i.Name <= last {
				return nil
			}
			last = i.Name
			failed = fn(i)
			return failed
		})
		if failed != nil {
			return backoff.Permanent(failed)
		}
		return err
	})
	if failed != nil {
		return failed
	}
	return err
}

// Lock implements Locker.
func (r retrying) Lock(l Lock) (Backend, error) {
	b, err := lockerOf(r.Backend).Lock(l)
	if err != nil {
		return nil, err
	}
	return Retry(b, r.o), nil
}

// InClass implements Classer.
func (r retrying) InClass(class string) Backend { return Retry(inClass(r.Backend, class), r.o) }

// Retain implements Locker.
func (r retrying) Retain(ctx context.Context, name string, span time.Duration) error {
	return r.do(ctx, "lock", name, func() error { return lockerOf(r.Backend).Retain(ctx, name, span) })
}

// Retained implements Locker.
func (r retrying) Retained(ctx context.Context, name string) (left time.Duration, err error) {
	err = r.do(ctx, "look at the lock of", name, func() error {
		left, err = lockerOf(r.Backend).Retained(ctx, name)
		return err
	})
	return left, err
}

// Thaw implements Thawer.
func (r retrying) Thaw(ctx context.Context, name string, o ThawOptions) (ready bool, err error) {
	err = r.do(ctx, "thaw", name, func() error {
		ready, err = thaw(ctx, r.Backend, name, o)
		return err
	})
	return ready, err
}

// Attack implements Locker. It is made once.
func (r retrying) Attack(ctx context.Context) ([]string, error) {
	return lockerOf(r.Backend).Attack(ctx)
}

func (r retryingCreator) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	unclear := false // whether an attempt before this one may have stored the object
	return r.do(ctx, "create", name, func() error {
		err := r.creator.PutIfAbsent(ctx, name, data)
		if !unclear || !errors.Is(err, ErrExist) {
			unclear = unclear || err != nil
			return err
		}
		stored, getErr := r.Backend.Get(ctx, name, 0, -1)
		switch {
		case errors.Is(getErr, ErrNotExist):
			return err
		case getErr != nil:
			return getErr
		case bytes.Equal(stored, data):
			return nil
		}
		return err
	})
}
