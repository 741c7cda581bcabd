package storetest

import (
	"context"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Op names a method of a backend.
type Op string

// The methods that can be intercepted.
const (
	Put         Op = "put"
	PutIfAbsent Op = "put-if-absent"
	Get         Op = "get"
	Stat        Op = "stat"
	List        Op = "list"
	Delete      Op = "delete"
)

// Call is one call of a method.
type Call struct {
	Op   Op
	Name string // the object's name; of List the prefix
}

// Write reports whether the call may change the store.
func (c Call) Write() bool { return c.Op == Put || c.Op == PutIfAbsent || c.Op == Delete }

// Intercept returns b with around in the way of every call: next makes the call, and the caller
// sees what around returns. The result is a Creator if b is one, and a Locker and a Thawer as far as b is. around is called concurrently.
func Intercept(b chunkstore.Backend, around func(ctx context.Context, c Call, next func() error) error) chunkstore.Backend {
	i := intercepted{b, around}
	if c, ok := b.(chunkstore.Creator); ok {
		return interceptedCreator{i, c}
	}
	return i
}

type intercepted struct {
	chunkstore.Backend
	around func(ctx context.Context, c Call, next func() error) error
}

type interceptedCreator struct {
	intercepted
	creator chunkstore.Creator
}

func (i intercepted) Put(ctx context.Context, name string, data []byte) error {
	return i.around(ctx, Call{Put, name}, func() error { return i.Backend.Put(ctx, name, data) })
}

func (i interceptedCreator) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return i.around(ctx, Call{PutIfAbsent, name}, func() error { return i.creator.PutIfAbsent(ctx, name, data) })
}

func (i intercepted) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	var data []byte
	err := i.around(ctx, Call{Get, name}, func() (err error) {
		data, err = i.Backend.Get(ctx, name, off, n)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

func (i intercepted) Stat(ctx context.Context, name string) (chunkstore.Info, error) {
	var info chunkstore.Info
	err := i.around(ctx, Call{Stat, name}, func() (err error) {
		info, err = i.Backend.Stat(ctx, name)
		return err
	})
	if err != nil {
		return chunkstore.Info{}, err
	}
	return info, nil
}

func (i intercepted) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	return i.around(ctx, Call{List, prefix}, func() error { return i.Backend.List(ctx, prefix, fn) })
}

// Lock implements chunkstore.Locker.
func (i intercepted) Lock(l chunkstore.Lock) (chunkstore.Backend, error) {
	locker, ok := i.Backend.(chunkstore.Locker)
	if !ok {
		return nil, chunkstore.ErrUnsupported
	}
	b, err := locker.Lock(l)
	if err != nil {
		return nil, err
	}
	return Intercept(b, i.around), nil
}

// InClass implements chunkstore.Classer.
func (i intercepted) InClass(class string) chunkstore.Backend {
	if c, ok := i.Backend.(chunkstore.Classer); ok {
		return Intercept(c.InClass(class), i.around)
	}
	return Intercept(i.Backend, i.around)
}

// Retain implements chunkstore.Locker.
func (i intercepted) Retain(ctx context.Context, name string, span time.Duration) error {
	locker, ok := i.Backend.(chunkstore.Locker)
	if !ok {
		return chunkstore.ErrUnsupported
	}
	return locker.Retain(ctx, name, span)
}

// Retained implements chunkstore.Locker.
func (i intercepted) Retained(ctx context.Context, name string) (time.Duration, error) {
	locker, ok := i.Backend.(chunkstore.Locker)
	if !ok {
		return 0, chunkstore.ErrUnsupported
	}
	return locker.Retained(ctx, name)
}

// Thaw implements chunkstore.Thawer.
func (i intercepted) Thaw(ctx context.Context, name string, o chunkstore.ThawOptions) (bool, error) {
	thawer, ok := i.Backend.(chunkstore.Thawer)
	if !ok {
		return false, chunkstore.ErrUnsupported
	}
	return thawer.Thaw(ctx, name, o)
}

// Attack implements chunkstore.Locker.
func (i intercepted) Attack(ctx context.Context) ([]string, error) {
	locker, ok := i.Backend.(chunkstore.Locker)
	if !ok {
		return nil, chunkstore.ErrUnsupported
	}
	return locker.Attack(ctx)
}

func (i intercepted) Delete(ctx context.Context, name string) error {
	return i.around(ctx, Call{Delete, name}, func() error { return i.Backend.Delete(ctx, name) })
}
