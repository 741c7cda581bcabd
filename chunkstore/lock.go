package chunkstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// ErrLocked says that the store keeps an object from being deleted, for a time.
var ErrLocked = errors.New("the object is locked")

// LockMode says who may lift a lock.
type LockMode string

// The modes of locks, as S3 has them.
const (
	Compliance LockMode = "compliance" // nobody, before its time
	Governance LockMode = "governance" // whoever has a permission of its own for that
)

// Lock says how the objects of a repository are locked: so that each snapshot, with all that it needs, can be
// neither deleted nor replaced for some days from when it was made, by whoever has the keys of the store either.
// It stands in the config.
type Lock struct {
	Mode LockMode `json:"mode"`
	Days int      `json:"days"`
}

// MaxLockDays bounds the retention, to a hundred years: what is locked by mistake is paid for.
const MaxLockDays = 36525

func (l Lock) validate() error {
	if l.Mode != Compliance && l.Mode != Governance || l.Days < 1 || l.Days > MaxLockDays {
		return fmt.Errorf("object lock %q for %d days is out of bounds", l.Mode, l.Days)
	}
	return nil
}

// Retention is for how long a snapshot is locked at least.
func (l Lock) Retention() time.Duration { return time.Duration(l.Days) * 24 * time.Hour }

// Span is for how long an object is locked when it is put, and when its lock is extended: longer than the
// retention by at most 30 days, so that what snapshot after snapshot needs is extended once in that time.
func (l Lock) Span() time.Duration { return l.Retention() + min(l.Retention(), 30*24*time.Hour) }

// Locker is implemented by backends that can lock objects (S3 Object Lock), and by all decorators, which answer
// ErrUnsupported where what they decorate cannot.
type Locker interface {
	// Lock returns the backend as a locked repository uses it. What is put under a name that is Lasting is locked
	// for l.Span(). Get, Stat and List see of each name what was put there first, whatever was put over it or
	// deleted since; so does PutIfAbsent. Delete deletes all that was ever put under a name, and is ErrLocked where
	// it may not. The zero Lock is for reading.
	Lock(l Lock) (Backend, error)
	// Retain locks an object for that long from now, by the store's clock.
	Retain(ctx context.Context, name string, span time.Duration) error
	// Retained returns for how long the object is locked from now; not more than 0: it is not.
	Retained(ctx context.Context, name string) (time.Duration, error)
	// Attack puts a locked object of no meaning and tries, with all that the credentials allow, to delete and to
	// replace it. It returns what could be done that must not be; nil: nothing.
	Attack(ctx context.Context) (broken []string, err error)
}

// Lasting reports whether an object of that name is locked in a locked repository: all but signs of life and probes.
func Lasting(name string) bool {
	return !strings.HasPrefix(name, sessionPrefix) && !strings.HasPrefix(name, probePrefix) && !strings.HasSuffix(name, runSuffix)
}

// lockerOf returns what locks objects at b; its methods answer ErrUnsupported if nothing does.
func lockerOf(b Backend) Locker {
	if l, ok := b.(Locker); ok {
		return l
	}
	return noLocker{}
}

type noLocker struct{}

func (noLocker) Lock(Lock) (Backend, error)                              { return nil, ErrUnsupported }
func (noLocker) Retain(context.Context, string, time.Duration) error     { return ErrUnsupported }
func (noLocker) Retained(context.Context, string) (time.Duration, error) { return 0, ErrUnsupported }

func (noLocker) Attack(context.Context) ([]string, error) { return nil, ErrUnsupported }

// Exists reports whether a repository is at b, also one that was deleted where the store keeps what was there.
func Exists(ctx context.Context, b Backend) (bool, error) {
	_, err := b.Stat(ctx, configName)
	if errors.Is(err, ErrNotExist) {
		if first, lockErr := lockerOf(b).Lock(Lock{}); lockErr == nil {
			if c, _, lockErr := readConfig(ctx, first); lockErr == nil && c.Lock != nil {
				return true, nil
			}
		}
		return false, nil
	}
	return err == nil, err
}

// view returns b as the repository there uses it, as far as its config tells without a key.
func view(ctx context.Context, b Backend) Backend {
	first, err := lockerOf(b).Lock(Lock{})
	if err != nil {
		return b
	}
	c, _, err := readConfig(ctx, first)
	if err != nil || c.Lock == nil {
		return b
	}
	if locked, err := lockerOf(b).Lock(*c.Lock); err == nil {
		return locked
	}
	return b
}

// openFirst opens the repository by what was put first under each name, after err by what is there now: somebody
// may have put or deleted something over it. It counts if the repository is a locked one.
func openFirst(ctx context.Context, b Backend, secret crypto.Secret, opts Options, err error) (*Repository, error) {
	if !slices.ContainsFunc([]error{ErrNoRepository, crypto.ErrDamaged, crypto.ErrNewer, crypto.ErrWrongKey}, func(is error) bool { return errors.Is(err, is) }) {
		return nil, err
	}
	first, lockErr := lockerOf(b).Lock(Lock{})
	if lockErr != nil {
		return nil, err
	}
	if c, _, lockErr := readConfig(ctx, first); lockErr != nil || c.Lock == nil {
		return nil, err
	}
	r, lockErr := openAt(ctx, first, secret, opts)
	if lockErr != nil || r.config.Lock == nil {
		return nil, err
	}
	r.log.Warn("somebody has put or deleted something over the repository; what was there first counts", "instead of", err)
	return r, nil
}

// useLock makes r see and store objects as its config says, if b, where it lies, can lock them.
func (r *Repository) useLock(ctx context.Context, b Backend, secret crypto.Secret) error {
	if r.config.Lock == nil {
		return nil
	}
	if err := r.lockObjects(ctx, b); err != nil || r.locker == nil {
		return err
	}
	// The slot that a rotation has made may be hidden or covered at b, and an older one have been opened.
	payload, err := unlock(ctx, r.backend, secret)
	if err == nil && len(payload.Masters) > int(r.keys.Epoch()) {
		r.keys, err = crypto.NewKeys(payload.Repository, payload.Masters...)
	}
	return err
}

// lockObjects makes r see and store objects as its config, which says that they are locked, has it.
func (r *Repository) lockObjects(ctx context.Context, b Backend) error {
	locked, err := lockerOf(b).Lock(*r.config.Lock)
	if err == nil {
		_, err = locked.Stat(ctx, configName)
	}
	switch {
	case errors.Is(err, ErrUnsupported) || errors.Is(err, ErrNotExist): // a copy in a directory, or where there are no versions
		r.log.Debug("objects are not locked at this place", "place", b.Location())
		return nil
	case err != nil:
		return err
	}
	r.backend, r.locker = locked, lockerOf(locked)
	return nil
}

// lockRecord is the file of the cache that says until when objects are locked, so that the store need not be asked
// for each of them again.
const lockRecord = "locks"

// extendLocks sees to it that all that the session's snapshot needs is locked for the retention from now, but for
// what the session has put itself, which is.
func (s *Session) extendLocks(ctx context.Context) error {
	if s.repo.locker == nil {
		return nil
	}
	names, err := s.lockable(ctx)
	if err != nil {
		return err
	}
	l := &extension{r: s.repo, lock: *s.repo.config.Lock, until: map[string]int64{}}
	return l.extend(ctx, names)
}

// lockable returns the names of what the snapshot needs.
func (s *Session) lockable(ctx context.Context) ([]string, error) {
	names := append(slices.Collect(maps.Keys(s.foreign())), configName)
	slots, err := s.repo.lastingSlots(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range slots {
		names = append(names, i.Name)
	}
	prefixes := []string{s.repo.own(deltaPrefix), s.repo.own(segmentPrefix), markPrefix, claimPrefix}
	if s.repo.host == nil { // a put-only host has no business with these; without them its snapshot is there too
		prefixes = append(prefixes, forgetPrefix, hostPrefix)
	}
	for _, prefix := range prefixes {
		listed, err := listNames(ctx, s.repo.backend, prefix)
		if err != nil {
			return nil, err
		}
		names = append(names, slices.DeleteFunc(listed, func(n string) bool { return !Lasting(n) })...)
	}
	return names, nil
}

// lastingSlots lists the key slots but for those that are to go: nobody wants to lock them again and
// again. They are those that were there, by the store's clock, before the first slot of the newest epoch,
// if that is there; and those that are on record as removed.
func (r *Repository) lastingSlots(ctx context.Context) ([]Info, error) {
	var slots []Info
	var began time.Time
	first := slotPrefix + slotID(r.keys, int(r.keys.Epoch()), "")
	err := r.backend.List(ctx, slotPrefix, func(i Info) error {
		if i.Name == first {
			began = i.Modified
		}
		slots = append(slots, i)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list key slots: %w", err)
	}
	old, err := r.oldSlots(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slots, func(i Info) bool { return i.Modified.Before(began) || old[i.Name] }), nil
}

type extension struct {
	r     *Repository
	lock  Lock
	mu    sync.Mutex
	until map[string]int64 // by the host's clock, seconds since 1970
}

func (x *extension) extend(ctx context.Context, names []string) error {
	known := map[string]int64{}
	if b, ok := x.r.cache.get(lockRecord); ok {
		_ = json.Unmarshal(bytes.TrimSpace(b), &known) // what cannot be read is asked for
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, name := range names {
		if left := time.Until(time.Unix(known[name], 0)); left >= x.lock.Retention() && left <= x.lock.Span() {
			x.note(name, left)
			continue
		}
		g.Go(func() error { return x.one(gctx, name) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	text, err := json.Marshal(x.until)
	if err == nil {
		x.r.cache.put(lockRecord, text)
	}
	return err
}

func (x *extension) note(name string, left time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.until[name] = time.Now().Add(left).Unix()
}

// one extends the lock of one object if need be.
func (x *extension) one(ctx context.Context, name string) error {
	left, err := x.r.locker.Retained(ctx, name)
	if err == nil && left < x.lock.Retention() {
		left = x.lock.Span()
		err = x.r.locker.Retain(ctx, name, left)
	}
	if errors.Is(err, ErrNotExist) { // packs are looked for afterwards; of other objects others have come in the place
		x.r.log.Debug("an object is gone before it could be locked", "object", name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	x.note(name, left)
	return nil
}

// unlocked takes those packs out of dead that are locked still: they stay until their time is up.
func (c *collector) unlocked(ctx context.Context) error {
	if c.r.locker == nil {
		return nil
	}
	sizes := map[PackID]int64{}
	for id, p := range c.stored {
		sizes[id] = p.size
	}
	var free []PackRef
	for _, p := range c.dead {
		left, err := c.r.locker.Retained(ctx, p.Name())
		switch {
		case err != nil && !errors.Is(err, ErrNotExist):
			return fmt.Errorf("lock of %s: %w", p.Name(), err)
		case left > 0:
			c.report.Locked.add(sizes[p.ID])
		default:
			free = append(free, p)
		}
	}
	c.dead = free
	return nil
}

// delete deletes an object unless it is locked, and reports whether it did.
func (r *Repository) delete(ctx context.Context, name string) (bool, error) {
	err := r.backend.Delete(ctx, name)
	if errors.Is(err, ErrLocked) {
		return false, nil
	}
	return err == nil, err
}

// locks verifies that what snapshots need is locked, for the retention from when the snapshot was made, and that
// locks hold against this host's credentials.
func (c *checker) locks(ctx context.Context) error {
	if !c.o.Immutable {
		return nil
	}
	if c.r.locker == nil {
		return fmt.Errorf("%s: its objects are not locked: %w", c.r.backend.Location(), ErrUnsupported)
	}
	broken, err := c.r.locker.Attack(ctx)
	if err != nil {
		return fmt.Errorf("try to delete a locked object: %w", err)
	}
	for _, what := range broken {
		c.fault("", fmt.Errorf("locks do not hold: a locked object %s", what))
	}
	needs, err := c.lockNeeds(ctx)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		g.Go(func() error {
			left, err := c.r.locker.Retained(gctx, name)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.report.Locks++
			switch need := time.Until(needs[name]); {
			case gctx.Err() != nil:
				return gctx.Err()
			case errors.Is(err, ErrNotExist): // told by whoever looked for it
			case err != nil:
				return fmt.Errorf("lock of %s: %w", name, err)
			case left < need-lockTolerance:
				c.fault(name, fmt.Errorf("is locked for %v, and should be for %v", left.Round(time.Minute), need.Round(time.Minute)))
			}
			return nil
		})
	}
	return g.Wait()
}

// lockTolerance is how much shorter than it should be a lock may seem, for clocks differ.
const lockTolerance = time.Hour

// lockNeeds returns until when objects must be locked.
func (c *checker) lockNeeds(ctx context.Context) (map[string]time.Time, error) {
	needs, newest := map[string]time.Time{}, time.Time{}
	need := func(name string, until time.Time) {
		if until.After(needs[name]) {
			needs[name] = until
		}
	}
	until := func(o Outcome) time.Time { return o.Modified.Add(c.r.config.Lock.Retention()) }
	for _, o := range c.snapshots {
		need(o.Name, until(o))
		if o.Modified.After(newest) {
			newest = o.Modified
		}
	}
	err := c.r.index.packs(func(p packUse) {
		for n := range c.users[p.ID] {
			need(p.Name(), until(c.snapshots[n]))
		}
	})
	if err != nil || newest.IsZero() {
		return needs, err
	}
	need(configName, newest.Add(c.r.config.Lock.Retention()))
	common := func(i Info) error {
		if !i.Modified.After(newest) {
			need(i.Name, newest.Add(c.r.config.Lock.Retention()))
		}
		return nil
	}
	slots, err := c.r.lastingSlots(ctx)
	for _, i := range slots {
		_ = common(i) // which never fails
	}
	for _, prefix := range []string{deltaPrefix, segmentPrefix} {
		if err == nil {
			err = c.r.backend.List(ctx, prefix, common)
		}
	}
	return needs, err
}
