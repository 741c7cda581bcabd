package mem

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Bucket is a store in memory that keeps versions and locks them, as an S3 bucket with Object Lock does: what is
// put over an object or deleted stays below it, and Lock sees what was there first. A Bucket itself is as whoever
// knows nothing of locks sees it, or an attacker.
type Bucket struct {
	*versions
	lock *chunkstore.Lock // nil: the newest versions are seen, and nothing is locked
}

type versions struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[string][]version // the oldest first; slices are never modified in place
}

type version struct {
	object
	marker bool      // of a deletion
	until  time.Time // it is locked
}

var (
	_ chunkstore.Backend = (*Bucket)(nil)
	_ chunkstore.Creator = (*Bucket)(nil)
	_ chunkstore.Locker  = (*Bucket)(nil)
)

// NewBucket returns an empty bucket.
func NewBucket(o Options) *Bucket {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Bucket{versions: &versions{now: o.Now, of: map[string][]version{}}}
}

// Clone returns an independent bucket with the versions, the clock, and the view of b.
func (b *Bucket) Clone() *Bucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &Bucket{&versions{now: b.now, of: maps.Clone(b.of)}, b.lock}
}

// Lock implements chunkstore.Locker.
func (b *Bucket) Lock(l chunkstore.Lock) (chunkstore.Backend, error) {
	return &Bucket{b.versions, &l}, nil
}

// seen returns which version of a name counts, or -1.
func (b *Bucket) seen(name string) int {
	all := b.of[name]
	if b.lock != nil {
		return slices.IndexFunc(all, func(v version) bool { return !v.marker })
	}
	if n := len(all) - 1; n >= 0 && !all[n].marker {
		return n
	}
	return -1
}

func (b *Bucket) find(ctx context.Context, name string) (version, error) {
	if err := check(ctx, name); err != nil {
		return version{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.seen(name)
	if n < 0 {
		return version{}, chunkstore.ErrNotExist
	}
	return b.of[name][n], nil
}

// Put implements chunkstore.Backend.
func (b *Bucket) Put(ctx context.Context, name string, data []byte) error {
	return b.put(ctx, name, data, true)
}

// PutIfAbsent implements chunkstore.Creator.
func (b *Bucket) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return b.put(ctx, name, data, false)
}

func (b *Bucket) put(ctx context.Context, name string, data []byte, replace bool) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := chunkstore.CheckSize(int64(len(data))); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !replace && b.seen(name) >= 0 {
		return fmt.Errorf("put %s: %w", name, chunkstore.ErrExist)
	}
	v := version{object: object{bytes.Clone(data), b.now()}}
	if b.lock != nil && b.lock.Days > 0 && chunkstore.Lasting(name) {
		v.until = v.modified.Add(b.lock.Span())
	}
	b.of[name] = append(slices.Clone(b.of[name]), v)
	return nil
}

// Get implements chunkstore.Backend.
func (b *Bucket) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	v, err := b.find(ctx, name)
	return v.read(name, off, n, err)
}

// Stat implements chunkstore.Backend.
func (b *Bucket) Stat(ctx context.Context, name string) (chunkstore.Info, error) {
	v, err := b.find(ctx, name)
	if err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return v.info(name), nil
}

// List implements chunkstore.Backend.
func (b *Bucket) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	return list(ctx, prefix, b.infos, fn)
}

func (b *Bucket) infos(prefix string) []chunkstore.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	var infos []chunkstore.Info
	for name, all := range b.of {
		if n := b.seen(name); n >= 0 && strings.HasPrefix(name, prefix) {
			infos = append(infos, all[n].info(name))
		}
	}
	return infos
}

// Delete implements chunkstore.Backend: it puts a marker over the object, and of a locked view deletes all versions.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := b.seen(name); {
	case n < 0:
	case b.lock == nil:
		b.of[name] = append(slices.Clone(b.of[name]), version{marker: true})
	case slices.ContainsFunc(b.of[name], func(v version) bool { return v.until.After(b.now()) }):
		return fmt.Errorf("delete %s: %w", name, chunkstore.ErrLocked)
	default:
		delete(b.of, name)
	}
	return nil
}

// Retain implements chunkstore.Locker.
func (b *Bucket) Retain(ctx context.Context, name string, span time.Duration) error {
	if _, err := b.find(ctx, name); err != nil {
		return fmt.Errorf("lock %s: %w", name, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Clone(b.of[name])
	if n := b.seen(name); n >= 0 {
		all[n].until = b.now().Add(span)
		b.of[name] = all
	}
	return nil
}

// Retained implements chunkstore.Locker.
func (b *Bucket) Retained(ctx context.Context, name string) (time.Duration, error) {
	v, err := b.find(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("look at the lock of %s: %w", name, err)
	}
	return v.until.Sub(b.now()), nil
}

// Attack implements chunkstore.Locker: locks hold here.
func (b *Bucket) Attack(context.Context) ([]string, error) { return nil, nil }

// Rot flips a bit of all versions of an object, as a disk does that fails.
func (b *Bucket) Rot(name string, at int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Clone(b.of[name])
	for i, v := range all {
		all[i].data = bytes.Clone(v.data)
		all[i].data[at] ^= 1
	}
	b.of[name] = all
}

// Location implements chunkstore.Backend.
func (b *Bucket) Location() string { return fmt.Sprintf("mem-bucket:%p", b.versions) }
