package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Lists of stores that create unconditionally may lag (OpenStack Swift): for up to ages.lag they miss what was stored, and
// show what was deleted. Single objects are always up to date. So there
//
//   - an object that is listed and not there is passed over: it was deleted;
//   - index objects are asked for one by one, for a cache may hold one that was deleted, and that lists packs of which
//     nothing is on record any more;
//   - the newest index objects of sessions are asked for by name, for what relies on them may be listed before them;
//   - a collection that merges the index deletes what it replaced when every list shows what replaces it.

// lags reports whether the lists of this store may lag. Where that was never found out it writes to the store to do so; if
// it cannot, the answer is no.
func (r *Repository) lags(ctx context.Context) bool {
	if creates, err := r.conditional(ctx); err != nil || creates {
		return false
	}
	return true
}

// knownToLag is lags as far as it was found out before.
func (r *Repository) knownToLag() bool {
	creates, known := r.remembered()
	return known && !creates
}

// relist calls f again where an object that it has listed is gone. Where that does not end, lists lag perhaps: once that is
// known f does not fail so any more.
func (r *Repository) relist(ctx context.Context, f func() error) error {
	err := relist(f)
	if errors.Is(err, ErrNotExist) && !r.knownToLag() && r.lags(ctx) {
		err = relist(f)
	}
	return err
}

// settle turns the listed names of index objects into those that there are.
func (r *Repository) settle(ctx context.Context, names []string) ([]string, error) {
	unlisted, err := r.unlisted(ctx, names)
	if err != nil {
		return nil, err
	}
	there := make([]bool, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, name := range names {
		g.Go(func() (err error) {
			there[i], err = r.hasObject(gctx, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := unlisted
	for i, name := range names {
		if there[i] {
			all = append(all, name)
		}
	}
	slices.Sort(all) // segments come after deltas
	return all, nil
}

// unlisted returns the names of index objects that are not among those given, of sessions that run or have just ended.
func (r *Repository) unlisted(ctx context.Context, listed []string) ([]string, error) {
	sessions, err := r.recentSessions(ctx)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []string
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for session := range sessions {
		g.Go(func() error {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%s%s-%d", deltaPrefix, session, n)
				if _, found := slices.BinarySearch(listed, name); found {
					continue
				}
				there, err := r.hasObject(gctx, name)
				if err != nil || !there {
					return err
				}
				mu.Lock()
				all = append(all, name)
				mu.Unlock()
			}
		})
	}
	return all, g.Wait()
}

// recentSessions returns those that may have index objects that lists lack, as their names go on behind a prefix.
func (r *Repository) recentSessions(ctx context.Context) (map[string]bool, error) {
	s, err := r.listSessions(ctx)
	if err != nil {
		return nil, err
	}
	var newest time.Time
	for _, at := range s.ended {
		newest = later(newest, at)
	}
	all := map[string]bool{}
	for _, name := range s.running() {
		all[strings.TrimPrefix(name, sessionPrefix)] = true
	}
	for name, at := range s.ended {
		if newest.Sub(at) <= r.ages.lag {
			all[strings.TrimPrefix(name, sessionPrefix)] = true
		}
	}
	return all, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
