package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ErrPackGone says that a pack of another session, on which a snapshot was about to rely, is not stored: no snapshot
// was made. The next one of this host relies on nothing in that pack and stores anew what it held.
var ErrPackGone = errors.New("a pack that the snapshot needs is gone")

// goneRecord is the file of the cache that says which packs were gone, as packRefs, so that the next process knows.
const goneRecord = "gone"

// fewPacks is up to how many packs are looked for one by one rather than by a list.
const fewPacks = 64

// allStored returns ErrPackGone unless all packs of other sessions that the snapshot needs are stored. Collections do
// not delete what a session relies on that could see their marks, or for which they could wait; but there are marks that
// cannot be read, and others than collections that delete.
func (s *Session) allStored(ctx context.Context) error {
	wanted := s.foreign()
	if len(wanted) > fewPacks {
		if err := s.repo.unlist(ctx, wanted); err != nil {
			return err
		}
	}
	gone, err := s.repo.gone(ctx, slices.Collect(maps.Values(wanted)))
	if err != nil || len(gone) == 0 {
		return err
	}
	if err := s.fenced(ctx); err != nil {
		return err // then a collection may have deleted them, as it may
	}
	s.repo.remember(gone)
	names := make([]string, 0, len(gone))
	for _, p := range gone {
		names = append(names, p.Name())
	}
	slices.Sort(names)
	if more := len(names) - 3; more > 0 {
		names = append(names[:3], fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("commit: %w: %s", ErrPackGone, strings.Join(names, ", "))
}

// foreign returns the packs of other sessions that the snapshot needs, by name.
func (s *Session) foreign() map[string]PackRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	packs := map[string]PackRef{}
	for p := range s.used {
		if !s.own[p.ID] {
			packs[p.Name()] = p
		}
	}
	return packs
}

// unlist takes out of packs what lists of their writers show. A list may be of a moment ago.
func (r *Repository) unlist(ctx context.Context, packs map[string]PackRef) error {
	prefixes := map[string]bool{}
	for _, p := range packs {
		prefixes[p.sealName()+"/"] = true
	}
	for _, prefix := range slices.Sorted(maps.Keys(prefixes)) {
		if err := r.backend.List(ctx, prefix, func(i Info) error {
			delete(packs, i.Name)
			return nil
		}); err != nil {
			return fmt.Errorf("list packs: %w", err)
		}
	}
	return nil
}

// gone returns those of the packs that are not stored.
func (r *Repository) gone(ctx context.Context, packs []PackRef) ([]PackRef, error) {
	var gone []PackRef
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, p := range packs {
		g.Go(func() error {
			there, err := r.hasObject(gctx, p.Name())
			if there || err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, p)
			return nil
		})
	}
	return gone, g.Wait()
}

// remember takes note of packs that are gone, for what is loaded next.
func (r *Repository) remember(gone []PackRef) {
	if len(gone) == 0 {
		return
	}
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	for _, p := range gone {
		if !slices.Contains(r.lost, p) {
			r.lost = append(r.lost, p)
		}
	}
	r.cache.put(goneRecord, marshalPackRefs(r.lost))
}

// stillGone returns the packs that were gone when this host last looked, and are. The caller holds loadMu.
func (r *Repository) stillGone(ctx context.Context) ([]PackRef, error) {
	if b, ok := r.cache.get(goneRecord); ok && len(r.lost) == 0 {
		r.lost, _ = parsePackRefs(b) // what cannot be read is found out again
	}
	if len(r.lost) == 0 {
		return nil, nil
	}
	gone, err := r.gone(ctx, r.lost)
	if err != nil {
		return nil, err
	}
	if len(gone) < len(r.lost) {
		r.cache.drop(goneRecord)
		if len(gone) > 0 {
			r.cache.put(goneRecord, marshalPackRefs(gone))
		}
	}
	r.lost = gone
	return gone, nil
}

// hasObject reports whether an object is stored. A put-only host may read what it put there itself, but for packs: whether one
// is there only a list tells it, or where lists lag nothing does, and it is taken for stored.
func (r *Repository) hasObject(ctx context.Context, name string) (bool, error) {
	if r.host != nil && (strings.HasPrefix(name, dataPrefix) || strings.HasPrefix(name, metaPrefix)) {
		if r.knownToLag() {
			return true, nil
		}
		return r.isListed(ctx, name)
	}
	_, err := r.backend.Stat(ctx, name)
	if errors.Is(err, ErrNotExist) || r.host != nil && errors.Is(err, ErrAccess) { // as stores answer that do not tell it what there is
		return false, nil
	}
	return err == nil, err
}
