package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// NoCreate returns b without Creator.
func NoCreate(b chunkstore.Backend) chunkstore.Backend { return plain{b} }

// plain promotes the methods of Backend only.
type plain struct{ chunkstore.Backend }

// Unsupported returns b with a PutIfAbsent that answers ErrUnsupported, as OpenStack Swift 2.30
// and Backblaze B2 do.
func Unsupported(b chunkstore.Backend) chunkstore.Backend {
	return creating{b, func(context.Context, string, []byte) error { return chunkstore.ErrUnsupported }}
}

// IgnoresCondition returns b with a PutIfAbsent that is Put, as Garage does.
func IgnoresCondition(b chunkstore.Backend) chunkstore.Backend { return creating{b, b.Put} }

// RacyCreate returns b with a PutIfAbsent that looks first and then writes, as gateways do that do
// not lock: of several at once more than one succeeds.
func RacyCreate(b chunkstore.Backend) chunkstore.Backend {
	return creating{b, func(ctx context.Context, name string, data []byte) error {
		if _, err := b.Stat(ctx, name); err == nil {
			return fmt.Errorf("put %s: %w", name, chunkstore.ErrExist)
		}
		select {
		case <-time.After(50 * time.Millisecond): // so that others look, too
			return b.Put(ctx, name, data)
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

type creating struct {
	chunkstore.Backend
	put func(ctx context.Context, name string, data []byte) error
}

func (c creating) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := chunkstore.CheckName(name); err != nil {
		return err
	}
	return c.put(ctx, name, data)
}

// Lag is a store whose listings are late, as those of OpenStack Swift: for a while objects that
// were stored are not listed yet, and objects that were deleted still are. Everything else is up to
// date.
type Lag struct {
	Delay time.Duration
	Now   func() time.Time // default time.Now
	// Share, if not nil, returns at random from 0 to 1 how much of Delay it is for one object in one listing, so that
	// no two listings see the same. Called by one goroutine at a time.
	Share func() float64

	mu      sync.Mutex
	stored  map[string]time.Time
	deleted map[string]ghost
}

type ghost struct {
	info chunkstore.Info
	at   time.Time
}

// Wrap returns b with late listings. Backends wrapped by one Lag are hosts at one store.
func (l *Lag) Wrap(b chunkstore.Backend) chunkstore.Backend {
	w := lagging{Intercept(b, func(ctx context.Context, c Call, next func() error) error {
		if c.Op != Delete {
			err := next()
			if err == nil && c.Write() {
				l.note(c.Name)
			}
			return err
		}
		info, statErr := b.Stat(ctx, c.Name)
		err := next()
		if err == nil && statErr == nil {
			l.noteDeleted(info)
		}
		return err
	}), l}
	if c, ok := w.Backend.(chunkstore.Creator); ok {
		return laggingCreator{w, c}
	}
	return w
}

func (l *Lag) now() time.Time {
	if l.Now != nil {
		return l.Now()
	}
	return time.Now()
}

func (l *Lag) note(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stored == nil {
		l.stored = make(map[string]time.Time)
	}
	if _, again := l.stored[name]; !again {
		l.stored[name] = l.now()
	}
}

func (l *Lag) noteDeleted(info chunkstore.Info) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.deleted == nil {
		l.deleted = make(map[string]ghost)
	}
	if l.Share != nil || l.now().Sub(l.stored[info.Name]) >= l.Delay { // else no listing has ever shown it
		l.deleted[info.Name] = ghost{info, l.now()}
	}
	delete(l.stored, info.Name)
}

// late turns what is stored into what a listing of prefix shows.
func (l *Lag) late(prefix string, infos []chunkstore.Info) []chunkstore.Info {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := func(at time.Time) bool {
		delay := l.Delay
		if l.Share != nil {
			delay = time.Duration(l.Share() * float64(delay))
		}
		return l.now().Sub(at) < delay
	}
	infos = slices.DeleteFunc(infos, func(i chunkstore.Info) bool {
		at, ok := l.stored[i.Name]
		return ok && late(at)
	})
	for name, g := range l.deleted {
		listed := slices.ContainsFunc(infos, func(i chunkstore.Info) bool { return i.Name == name })
		if strings.HasPrefix(name, prefix) && !listed && late(g.at) {
			infos = append(infos, g.info)
		}
	}
	slices.SortFunc(infos, func(a, b chunkstore.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

type lagging struct {
	chunkstore.Backend
	lag *Lag
}

func (l lagging) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	var infos []chunkstore.Info
	err := l.Backend.List(ctx, prefix, func(i chunkstore.Info) error {
		infos = append(infos, i)
		return nil
	})
	if err != nil {
		return err
	}
	for _, info := range l.lag.late(prefix, infos) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return ctx.Err()
}

type laggingCreator struct {
	lagging
	chunkstore.Creator
}
