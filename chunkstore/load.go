package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// LoadIndex makes the index current: it reads the index objects and marks that came since the last
// call. Reading methods call it when they first need it.
func (r *Repository) LoadIndex(ctx context.Context) error {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	return r.loadIndex(ctx)
}

// loadReliably is LoadIndex for those who store what relies on it: it fails with ErrMarks where it is not known
// which packs collections delete.
func (r *Repository) loadReliably(ctx context.Context) error {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	if err := r.loadIndex(ctx); err != nil {
		return err
	}
	return r.obscured
}

func (r *Repository) needIndex(ctx context.Context) error {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	if r.loaded {
		return nil
	}
	return r.loadIndex(ctx)
}

// loadIndex lists marks before the index: a pack that was condemned in between then still counts
// as condemned (2-format: B2).
//
// Where an object is gone that was just listed, a collection has put others in its place: it lists anew.
func (r *Repository) loadIndex(ctx context.Context) error {
	condemned, deleted, err := r.condemned(ctx)
	if err != nil {
		return err
	}
	var names []string
	var l *listing
	if err := r.relist(ctx, func() error {
		if names, err = r.indexNames(ctx); err == nil {
			l, err = r.readIndex(ctx, names, condemned)
		}
		return err
	}); err != nil {
		return fmt.Errorf("load the index: %w", err)
	}
	l.deleted = deleted
	r.index.replace(l)
	if l.base.kept {
		names, _ = l.base.newer(names) // the others are in the base
	}
	r.cache.keep(deltaPrefix, names)
	r.cache.keep(segmentPrefix, names)
	r.loaded = true
	return nil
}

// indexNames returns the names of the index objects that there are.
func (r *Repository) indexNames(ctx context.Context) ([]string, error) {
	if r.knownToLag() {
		return r.settledIndex(ctx)
	}
	return r.listIndex(ctx)
}

// listIndex lists the index objects: those of sessions first, for a collection creates segments before
// it deletes what they replace. A new segment may sort before one that is just deleted, so a listing of
// segments that saw neither could be the result of two moments: it counts if the next one is the same.
func (r *Repository) listIndex(ctx context.Context) ([]string, error) {
	deltas, err := r.listDeltas(ctx)
	if err != nil {
		return nil, err
	}
	segments, err := listNames(ctx, r.backend, r.own(segmentPrefix))
	for stable := len(segments) == 0; err == nil && !stable; {
		var again []string
		again, err = listNames(ctx, r.backend, r.own(segmentPrefix))
		stable = slices.Equal(segments, again)
		segments = again
	}
	return append(deltas, segments...), err
}

// indexType returns the type of an index object, by its name.
func indexType(name string) crypto.Type {
	if strings.HasPrefix(name, segmentPrefix) {
		return crypto.TypeSegment
	}
	return crypto.TypeDelta
}

// readIndex makes a listing of the named index objects, by way of a base that has most of them if there
// is one.
func (r *Repository) readIndex(ctx context.Context, names []string, condemned map[PackID]bool) (*listing, error) {
	b, newer := r.findBase(names)
	l, err := r.gatherIndex(ctx, r.newGather(b), newer, condemned)
	if errors.Is(err, errScratch) {
		// The disk of the cache is full, perhaps, or fails: without it then.
		r.log.Warn("the index is read without the cache", "error", err)
		g := r.newGather(emptyBase())
		g.dir, g.keep = os.TempDir(), false
		l, err = r.gatherIndex(ctx, g, names, condemned)
	}
	return l, err
}

// findBase returns the best base there is and the names of the index objects that it lacks.
func (r *Repository) findBase(names []string) (*base, []string) {
	best, newer := emptyBase(), names
	if b := r.index.loaded.Load().base; b.entries > 0 {
		if lacking, ok := b.newer(names); ok && len(lacking) <= r.limits.objects {
			return b, lacking
		} else if ok {
			best, newer = b, lacking
		}
	}
	b, err := r.cachedBase()
	if err != nil {
		r.log.Debug("no local index is used", "reason", err)
		return best, newer
	}
	if lacking, ok := b.newer(names); ok && len(lacking) < len(newer) {
		return b, lacking
	}
	return best, newer
}

// cachedBase opens the base in the cache and verifies it.
func (r *Repository) cachedBase() (*base, error) {
	f, size, err := r.cache.open(baseName)
	if err != nil {
		return nil, err
	}
	b, err := readBase(f, size, r.keys.CacheMAC())
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b.kept = true
	return b, nil
}

func (r *Repository) newGather(b *base) *gather {
	g := &gather{base: b, dir: os.TempDir(), limits: r.limits, newMAC: r.keys.CacheMAC, numbers: map[PackID]uint32{}}
	if dir, ok := r.cache.makeDir(); ok {
		g.dir, g.keep = dir, true
	}
	return g
}

// gatherIndex adds the named index objects to g and ends it.
func (r *Repository) gatherIndex(ctx context.Context, g *gather, names []string, condemned map[PackID]bool) (*listing, error) {
	defer g.close()
	var mu sync.Mutex
	err := r.fetchAll(ctx, names, func(i int, d delta) error {
		mu.Lock()
		defer mu.Unlock()
		return g.add(names[i], d)
	})
	if err != nil {
		return nil, err
	}
	return g.listing(condemned)
}

// How many index objects are opened at once: of those of sessions many, and of the merged ones, of 25 MB sealed and as much again
// open, few.
const (
	deltasAtOnce   = 16
	segmentsAtOnce = 2
)

// fetchAll opens the named index objects, several at a time, by way of the cache, and gives what
// names[i] lists to use(i, ...), in no certain order, several at a time too. In a locked repository those that do not open are passed
// over, and so are those of put-only hosts: whoever can write there could put such an object and lock it for years. Chunks that only such a one lists are absent:
// a backup stores them again, reading them and collecting are errors.
func (r *Repository) fetchAll(ctx context.Context, names []string, use func(int, delta) error) error {
	for merged, atOnce := range map[bool]int{false: deltasAtOnce, true: segmentsAtOnce} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(atOnce)
		for i, name := range names {
			if strings.HasPrefix(name, segmentPrefix) != merged {
				continue
			}
			g.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				return r.fetchIndex(ctx, name, func(d delta) error { return use(i, d) })
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// fetchIndex is fetchAll of one object.
func (r *Repository) fetchIndex(ctx context.Context, name string, use func(delta) error) error {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return err
	}
	d, err := r.openIndex(name, object)
	if err == nil {
		return use(d)
	}
	r.cache.drop(name)
	if r.locker != nil || r.ofPutOnly(name) {
		r.log.Warn("a part of the index is passed over", "error", err)
		return nil
	}
	return err
}
