package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
//   - the newest index objects of sessions are asked for by name, for what relies on them may be listed before them; which
//     sessions these are is found out before the index is listed, from every list of outcomes so far;
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

// settledIndex returns the names of the index objects that there are. Whoever asks may stand still at any moment, so what it knows
// of sessions is older than its lists: one that has ended since is no reason to take another one for long ended, of which the list
// lacks something. And where an object is gone that was listed, a list from before may lack what replaced it: it lists again, until
// nothing is gone but what was gone before.
func (r *Repository) settledIndex(ctx context.Context) ([]string, error) {
	sessions, err := r.recentSessions(ctx)
	if err != nil {
		return nil, err
	}
	there := map[string]bool{} // by name, whether it was there when it was asked for
	for {
		listed, err := r.listIndex(ctx)
		if err != nil {
			return nil, err
		}
		gone, err := r.askFor(ctx, listed, there)
		if err != nil {
			return nil, err
		}
		if gone {
			continue
		}
		unlisted, err := r.unlisted(ctx, sessions, listed)
		if err != nil {
			return nil, err
		}
		all := append(unlisted, slices.DeleteFunc(listed, func(name string) bool { return !there[name] })...)
		slices.Sort(all) // segments come after deltas
		return all, nil
	}
}

// askFor adds to there those of the listed objects that it lacks, and reports whether one of them is gone.
func (r *Repository) askFor(ctx context.Context, listed []string, there map[string]bool) (gone bool, err error) {
	names := slices.DeleteFunc(slices.Clone(listed), func(name string) bool {
		_, asked := there[name]
		return asked
	})
	found := make([]bool, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, name := range names {
		g.Go(func() (err error) {
			found[i], err = r.hasObject(gctx, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	for i, name := range names {
		there[name] = found[i]
		gone = gone || !found[i]
	}
	return gone, nil
}

// unlisted returns the names of index objects of the sessions that are not among those listed.
func (r *Repository) unlisted(ctx context.Context, sessions map[string]bool, listed []string) ([]string, error) {
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
	all := map[string]bool{}
	for _, name := range s.running() {
		all[strings.TrimPrefix(name, sessionPrefix)] = true
	}
	at := map[string]time.Time{}
	for name, ended := range s.ended {
		at[strings.TrimPrefix(name, sessionPrefix)] = ended
	}
	for _, name := range r.ended.add(at, r.ages.lag) {
		all[name] = true
	}
	return all, nil
}

// ended remembers sessions whose outcomes were listed: the next list may not show them again. By their names behind a prefix: when
// they ended.
type ended struct {
	mu     sync.Mutex
	at     map[string]time.Time
	newest time.Time
}

// add adds sessions and returns those that have ended within lag before the last one did. It forgets the others.
func (e *ended) add(at map[string]time.Time, lag time.Duration) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at == nil {
		e.at = map[string]time.Time{}
	}
	maps.Copy(e.at, at)
	for _, t := range at {
		e.newest = later(e.newest, t)
	}
	maps.DeleteFunc(e.at, func(_ string, t time.Time) bool { return e.newest.Sub(t) > lag })
	return slices.Collect(maps.Keys(e.at))
}

// rememberEnded takes note of the outcomes that a list has shown, where the next one may not.
func (r *Repository) rememberEnded(stored []sealings) {
	if !r.knownToLag() {
		return
	}
	at := map[string]time.Time{}
	for _, o := range stored {
		at[strings.TrimPrefix(o.name, outcomePrefix)] = o.objects[len(o.objects)-1].Modified
	}
	r.ended.add(at, r.ages.lag)
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
