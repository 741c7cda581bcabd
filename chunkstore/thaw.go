package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrArchived says that an object lies in a class of storage from which it must be brought back before it can be
// read, which takes hours.
var ErrArchived = errors.New("the object is archived and must be thawed first")

// MayBeCold reports whether an object of that name may lie in a class of storage that is slow or expensive to read:
// what every command reads may not.
func MayBeCold(name string) bool { return strings.HasPrefix(name, dataPrefix) }

// ThawOptions say how archived objects are brought back. The zero value is ready for use.
type ThawOptions struct {
	Days int    // that they can be read for; 0: 7
	Tier string // of speed and price, in the store's words: Standard, Bulk, Expedited; empty: Standard
	// Poll is how often the store is asked whether they are there. 0: every minute.
	Poll time.Duration
	// Progress is told how many of how many can be read. May be nil.
	Progress func(ready, total int)
}

// Thawer is implemented by backends that have such classes, and by all decorators, which answer ErrUnsupported
// where what they decorate has none.
type Thawer interface {
	// Thaw reports whether an object can be read; if not, it asks for it to be brought back, once.
	Thaw(ctx context.Context, name string, o ThawOptions) (ready bool, err error)
}

// thaw calls b's Thaw, if it has one.
func thaw(ctx context.Context, b Backend, name string, o ThawOptions) (bool, error) {
	if t, ok := b.(Thawer); ok {
		return t.Thaw(ctx, name, o)
	}
	return false, fmt.Errorf("thaw %s: %w", name, ErrUnsupported)
}

// Thaw brings back what lies in an archive of that which refs name, and waits until all of it can be read; how many
// packs these were it returns. Where nothing is archived, that costs a listing.
func (r *Repository) Thaw(ctx context.Context, refs iter.Seq2[Ref, error], o ThawOptions) (int, error) {
	archived, err := r.archived(ctx)
	if err != nil || len(archived) == 0 {
		return 0, err
	}
	wanted, err := r.packsOf(ctx, refs, archived)
	if err != nil {
		return 0, fmt.Errorf("thaw: %w", err)
	}
	return len(wanted), r.thawAll(ctx, wanted, o)
}

// ThawPacks is Thaw of the packs whose ids begin with one of ids, or of all that lie in an archive where there are none: a
// repair reads packs whole. ErrNoPack: no pack has such an id.
func (r *Repository) ThawPacks(ctx context.Context, ids []string, o ThawOptions) (int, error) {
	stored, err := r.listPacks(ctx)
	if err != nil {
		return 0, err
	}
	wanted, found := map[string]bool{}, map[string]bool{}
	for id, p := range stored {
		named := len(ids) == 0
		for _, want := range ids {
			if strings.HasPrefix(id.String(), want) {
				named, found[want] = true, true
			}
		}
		if named && p.archived {
			wanted[p.Name()] = true
		}
	}
	for _, want := range ids {
		if !found[want] {
			return 0, fmt.Errorf("thaw pack %s: %w", want, ErrNoPack)
		}
	}
	return len(wanted), r.thawAll(ctx, wanted, o)
}

// archived lists the packs that lie in an archive.
func (r *Repository) archived(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	err := r.backend.List(ctx, dataPrefix, func(i Info) error {
		if i.Archived {
			names[i.Name] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list packs: %w", err)
	}
	return names, nil
}

// packsOf returns the packs among those named that refs are read from.
func (r *Repository) packsOf(ctx context.Context, refs iter.Seq2[Ref, error], among map[string]bool) (map[string]bool, error) {
	if err := r.needIndex(ctx); err != nil {
		return nil, err
	}
	packs := map[string]bool{}
	for ref, err := range refs {
		if err != nil {
			return nil, err
		}
		l, err := r.index.locate(ref.ID)
		if err != nil {
			return nil, err
		}
		if name := l.pack.Name(); among[name] {
			packs[name] = true
		}
	}
	return packs, ctx.Err()
}

// thawAll asks for all of them at once and then waits.
func (r *Repository) thawAll(ctx context.Context, names map[string]bool, o ThawOptions) error {
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	if o.Poll == 0 {
		o.Poll = time.Minute
	}
	tick := time.NewTicker(o.Poll)
	defer tick.Stop()
	for left := maps.Clone(names); len(left) > 0; {
		if err := r.thawRound(ctx, left, o); err != nil {
			return err
		}
		o.Progress(len(names)-len(left), len(names))
		if len(left) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// thawRound asks for each of them, and takes those out that can be read.
func (r *Repository) thawRound(ctx context.Context, left map[string]bool, o ThawOptions) error {
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, name := range slices.Sorted(maps.Keys(left)) {
		g.Go(func() error {
			ready, err := thaw(gctx, r.backend, name, o)
			if ready {
				mu.Lock()
				defer mu.Unlock()
				delete(left, name)
			}
			return err
		})
	}
	return g.Wait()
}
