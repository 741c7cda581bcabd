package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// CheckOptions say how deep a check goes.
type CheckOptions struct {
	// Walk yields every chunk that the body of a snapshot leads to, reading what it must; an error
	// of it is a fault of that snapshot. Required: chunkstore does not know what snapshots hold.
	Walk func(context.Context, Outcome) iter.Seq2[Ref, error]
	// Data selects the packs of which every byte is read. The zero Subset selects none.
	Data Subset
	// Immutable: whether what snapshots need is locked for long enough, and locks hold, is verified too. An error
	// that wraps ErrUnsupported says that nothing is locked there.
	Immutable bool
	// Progress is told the bytes of packs read so far and to read in all. May be nil.
	Progress func(done, total int64)
}

// Fault is something wrong in a repository.
type Fault struct {
	Object    string    // name of the object, or "" where a snapshot itself is at fault
	Err       error     // what is wrong; where IsPassing says so, only that it could not be looked at
	Snapshots []Outcome // that need it; empty where none does, or it cannot be told
}

// CheckReport is what a check found.
type CheckReport struct {
	Faults    []Fault
	Snapshots int   // good and bad ones
	Packs     int   // stored
	Chunks    int   // entries of the index
	Bytes     int64 // stored bytes of all packs
	ReadPacks int   // packs of which every byte was read
	ReadBytes int64
	Archived  int // packs that were selected but not read, because they would have to be thawed first
	Locks     int // objects of which the lock was looked at
	Unindexed int // packs that no index names: of a session that runs, or that was killed
}

// Check verifies the repository and repairs nothing. It reports every fault it can find rather
// than stop at the first; its error is for what kept it from looking. It must run on a Repository
// opened without a cache, or it would verify the cache.
//
// Structure: key slots, sessions, marks, index, outcomes, and records open; each writer's chain of outcomes has no gap; every
// indexed pack is stored with its right length; every chunk that a snapshot leads to is indexed in
// such a pack; all metadata can be read. Data: the selected packs are read whole, compared with
// their names, opened, and each chunk decoded and compared with its id.
//
// Where snapshots are forgotten or packs deleted by others while it looks, what it finds may be of two moments:
// then it looks again. So it does where it has found a fault and it is not known yet whether the store's lists lag.
func (r *Repository) Check(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	if r.host != nil {
		return nil, crypto.ErrPutOnly
	}
	for attempt := 1; ; attempt++ {
		before, err := r.removals(ctx)
		if err != nil {
			return nil, err
		}
		known := r.knownToLag()
		report, err := r.checkOnce(ctx, o)
		if err != nil || len(report.Faults) == 0 || attempt == loadAttempts {
			return report, err
		}
		if !known && r.lags(ctx) {
			continue // what seemed to be gone is not listed yet, perhaps
		}
		if after, err := r.removals(ctx); err != nil || slices.Equal(before, after) {
			return report, err
		}
	}
}

// removals lists what tells that something was taken out.
func (r *Repository) removals(ctx context.Context) ([]string, error) {
	forgets, err := listNames(ctx, r.backend, forgetPrefix)
	if err != nil {
		return nil, err
	}
	marks, err := listNames(ctx, r.backend, markPrefix)
	return append(forgets, marks...), err
}

func (r *Repository) checkOnce(ctx context.Context, o CheckOptions) (*CheckReport, error) {
	c := &checker{r: r, o: o, report: &CheckReport{}, users: map[PackID]map[int]bool{}, bad: map[string]error{}}
	for _, step := range []func(context.Context) error{c.slots, c.sessions, c.list, c.hosts, c.index, c.packs, c.claims, c.outcomes, c.records, c.locks, c.data} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	c.conclude()
	return c.report, nil
}

type checker struct {
	r      *Repository
	o      CheckOptions
	report *CheckReport

	unread    error            // why what is gone may be so rightly: the store did not give what may say that it was taken out
	stored    map[string]int64 // packs in the backend
	gone      map[PackID]bool  // packs that collections have deleted
	listed    []Outcome        // all that there were before the index was read
	forgets   forgets          // by then
	snapshots []Outcome
	users     map[PackID]map[int]bool // numbers of the snapshots that need a pack
	mu        sync.Mutex              // of bad and of the report while packs are read
	bad       map[string]error        // by name of the object
}

func (c *checker) fault(object string, err error, snapshots ...Outcome) {
	c.report.Faults = append(c.report.Faults, Fault{object, err, snapshots})
}

func (c *checker) slots(ctx context.Context) error {
	names, err := listNames(ctx, c.r.backend, slotPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		object, err := c.r.backend.Get(ctx, name, 0, -1)
		var info crypto.SlotInfo
		if err == nil {
			info, err = crypto.ReadSlotInfo(object)
		}
		if err == nil && slotPrefix+info.ID != name {
			err = fmt.Errorf("%w: it is slot %s under another name", crypto.ErrDamaged, info.ID)
		}
		if err := c.found(ctx, name, err); err != nil {
			return err
		}
	}
	return nil
}

// sessions opens what announces sessions. Nothing depends on it, but damage is damage.
func (c *checker) sessions(ctx context.Context) error {
	names, err := listNames(ctx, c.r.backend, sessionPrefix)
	if err != nil {
		return err
	}
	errs := make([]error, len(names))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, name := range names {
		g.Go(func() error {
			_, errs[i] = c.r.readSession(gctx, name)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, err := range errs {
		if err != nil && !errors.Is(err, ErrNotExist) { // those that ended are deleted
			c.fault(names[i], err)
		}
	}
	return nil
}

// found reports err as a fault of the object, unless ctx ended.
func (c *checker) found(ctx context.Context, object string, err error, snapshots ...Outcome) error {
	if err != nil && ctx.Err() == nil {
		c.fault(object, err, snapshots...)
	}
	return ctx.Err()
}

// loss returns err, which says that something is gone, or where that cannot be told what kept it from being told.
func (c *checker) loss(err error) error {
	if c.unread == nil {
		return err
	}
	return fmt.Errorf("%v; whether it was taken out cannot be told: %w", err, c.unread)
}

// list lists outcomes before the index is read, so that this has all that they need: of one that is created meanwhile it may not.
func (c *checker) list(ctx context.Context) error {
	var err error
	c.listed, c.forgets, err = c.r.allOutcomes(ctx)
	c.unread = firstPassing(c.forgets.bad)
	return err
}

// hosts reads what is on record of put-only hosts.
func (c *checker) hosts(ctx context.Context) error {
	_, bad, err := c.r.Hosts(ctx)
	for name, err := range bad {
		c.fault(name, err)
	}
	return err
}

// index loads every index object by itself, so that a damaged one does not hide the others.
func (c *checker) index(ctx context.Context) error {
	marks, damaged, err := c.r.readableMarks(ctx)
	if err != nil {
		return err
	}
	for name, err := range damaged {
		c.fault(name, err)
	}
	c.unread = cmp.Or(c.unread, firstPassing(damaged))
	condemned := packsOf(maps.Values(marks))
	c.gone = deletedBy(marks)
	var l *listing
	var bad map[string]error
	if err := c.r.relist(ctx, func() error {
		l, bad, err = c.readIndex(ctx, condemned)
		return err
	}); err != nil {
		return fmt.Errorf("load the index: %w", err)
	}
	for name, err := range bad {
		c.fault(name, err)
	}
	l.deleted = c.gone
	c.r.loadMu.Lock()
	defer c.r.loadMu.Unlock()
	c.r.loaded = true
	c.r.index.replace(l)
	return nil
}

// readIndex makes a listing of the index objects that can be read, and tells of the others.
func (c *checker) readIndex(ctx context.Context, condemned map[PackID]bool) (*listing, map[string]error, error) {
	names, err := c.r.indexNames(ctx)
	if err != nil {
		return nil, nil, err
	}
	bad := map[string]error{}
	g := c.r.newGather(emptyBase())
	defer g.close()
	for _, name := range names {
		var d delta
		object, err := c.r.backend.Get(ctx, name, 0, -1)
		if errors.Is(err, ErrNotExist) || IsPassing(err) || ctx.Err() != nil { // what snapshots need would seem to be lost
			return nil, nil, err
		}
		if err == nil {
			d, err = c.r.openIndex(name, object)
		}
		if err != nil {
			bad[name] = err
			continue
		}
		if err := g.add(name, d); err != nil {
			return nil, nil, err
		}
	}
	l, err := g.listing(condemned)
	return l, bad, err
}

// packs compares the index with what is stored.
func (c *checker) packs(ctx context.Context) error {
	c.stored = map[string]int64{}
	for _, prefix := range []string{dataPrefix, metaPrefix} {
		err := c.r.backend.List(ctx, prefix, func(i Info) error {
			c.stored[i.Name] = i.Size
			c.report.Bytes += i.Size
			return nil
		})
		if err != nil {
			return fmt.Errorf("list packs: %w", err)
		}
	}
	c.report.Packs = len(c.stored)
	indexed, missing := 0, map[PackID]bool{}
	err := c.r.index.packs(func(p packUse) {
		c.report.Chunks += p.chunks
		size, ok := c.stored[p.Name()]
		switch {
		case !ok && c.gone[p.ID]:
			return // the index will be without it after the next collection
		case !ok:
			c.bad[p.Name()] = c.loss(fmt.Errorf("pack: %w", ErrNotExist))
			missing[p.ID] = true
			return
		case size != p.storedSize():
			c.bad[p.Name()] = fmt.Errorf("%w: pack has %d bytes, its index says %d", crypto.ErrDamaged, size, p.storedSize())
		}
		indexed++
	})
	c.report.Unindexed = len(c.stored) - indexed
	if len(missing) > 0 { // it touches only snapshots that have nothing but what was in it
		c.r.index.lose(missing)
	}
	return err
}

// conclude turns bad packs into faults, each with the snapshots that need the pack.
func (c *checker) conclude() {
	for name, err := range c.bad {
		ref, _ := parsePackName(name)
		var users []Outcome
		for n := range c.users[ref.ID] {
			users = append(users, c.snapshots[n])
		}
		slices.SortFunc(users, func(a, b Outcome) int { return strings.Compare(a.Name, b.Name) })
		c.fault(name, err, users...)
	}
	slices.SortStableFunc(c.report.Faults, func(a, b Fault) int { return strings.Compare(a.Object, b.Object) })
}
