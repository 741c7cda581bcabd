package chunkstore

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// Limit returns b with the bytes of objects limited to upload and download bytes per second, over
// all calls together; 0 means no limit. A call waits for its bytes first and then moves them at
// full speed, so over a time of many objects the rate holds, but each one is a burst. Backends on a
// network do better by themselves (s3.Config): Limit is for those that cannot.
//
// The result is a Creator if b is one, and a Locker and a Thawer as far as b is.
func Limit(b Backend, upload, download int64) Backend {
	l := limited{b, limiter(upload), limiter(download)}
	if c, ok := b.(Creator); ok {
		return limitedCreator{l, c}
	}
	return l
}

type limited struct {
	Backend
	up, down *rate.Limiter
}

type limitedCreator struct {
	limited
	creator Creator
}

// limiter allows perSecond bytes a second, a tenth of a second's at once.
func limiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/10, 1), MaxObject)))
}

// wait takes n bytes out of l.
func wait(ctx context.Context, l *rate.Limiter, n int64) error {
	if l.Limit() == rate.Inf {
		return nil
	}
	for n > 0 {
		part := min(n, int64(l.Burst()))
		if err := l.WaitN(ctx, int(part)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w (%w)", context.DeadlineExceeded, err) // the deadline comes before the turn
		}
		n -= part
	}
	return nil
}

func (l limited) Put(ctx context.Context, name string, data []byte) error {
	if err := wait(ctx, l.up, int64(len(data))); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return l.Backend.Put(ctx, name, data)
}

func (l limitedCreator) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := wait(ctx, l.up, int64(len(data))); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return l.creator.PutIfAbsent(ctx, name, data)
}

// Lock implements Locker.
func (l limited) Lock(lock Lock) (Backend, error) {
	b, err := lockerOf(l.Backend).Lock(lock)
	if err != nil {
		return nil, err
	}
	return l.around(b), nil
}

// InClass implements Classer.
func (l limited) InClass(class string) Backend { return l.around(inClass(l.Backend, class)) }

// around returns b within the same limits.
func (l limited) around(b Backend) Backend {
	inner := limited{b, l.up, l.down}
	if c, ok := b.(Creator); ok {
		return limitedCreator{inner, c}
	}
	return inner
}

// Retain implements Locker.
func (l limited) Retain(ctx context.Context, name string, span time.Duration) error {
	return lockerOf(l.Backend).Retain(ctx, name, span)
}

// Retained implements Locker.
func (l limited) Retained(ctx context.Context, name string) (time.Duration, error) {
	return lockerOf(l.Backend).Retained(ctx, name)
}

// Thaw implements Thawer.
func (l limited) Thaw(ctx context.Context, name string, o ThawOptions) (bool, error) {
	return thaw(ctx, l.Backend, name, o)
}

// Attack implements Locker.
func (l limited) Attack(ctx context.Context) ([]string, error) {
	return lockerOf(l.Backend).Attack(ctx)
}

// Get waits before it reads where it knows how much that is, and afterwards where it does not.
func (l limited) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if n > 0 {
		if err := wait(ctx, l.down, min(n, MaxObject)); err != nil {
			return nil, fmt.Errorf("get %s: %w", name, err)
		}
		return l.Backend.Get(ctx, name, off, n)
	}
	data, err := l.Backend.Get(ctx, name, off, n)
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, l.down, int64(len(data))); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return data, nil
}
