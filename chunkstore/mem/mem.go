// Package mem is a backend in memory, for tests. It keeps the whole contract of a store that
// behaves well: conditional writes are atomic and listings are complete.
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

// Store is a store in memory. Several repositories may share one, as hosts share a bucket.
type Store struct {
	now     func() time.Time
	mu      sync.RWMutex
	objects map[string]object // contents are never modified once stored
}

type object struct {
	data     []byte
	modified time.Time
}

// Options adjust a Store. The zero value is usable.
type Options struct {
	Now func() time.Time // the store's clock, for Info.Modified; default time.Now
}

var (
	_ chunkstore.Backend = (*Store)(nil)
	_ chunkstore.Creator = (*Store)(nil)
)

// New returns an empty store.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{now: o.Now, objects: make(map[string]object)}
}

// Clone returns an independent store with the objects and the clock of s: the state that an
// attacker would put back, or from which one run of a test after the other starts.
func (s *Store) Clone() *Store {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return &Store{now: s.now, objects: maps.Clone(s.objects)}
}

// Put implements chunkstore.Backend. It replaces an object of that name, as S3 does.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data, true)
}

// PutIfAbsent implements chunkstore.Creator.
func (s *Store) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data, false)
}

func (s *Store) put(ctx context.Context, name string, data []byte, replace bool) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := chunkstore.CheckSize(int64(len(data))); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	data = bytes.Clone(data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[name]; taken && !replace {
		return fmt.Errorf("put %s: %w", name, chunkstore.ErrExist)
	}
	s.objects[name] = object{data, s.now()}
	return nil
}

// Get implements chunkstore.Backend.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	o, err := s.object(ctx, name)
	return o.read(name, off, n, err)
}

// Stat implements chunkstore.Backend.
func (s *Store) Stat(ctx context.Context, name string) (chunkstore.Info, error) {
	o, err := s.object(ctx, name)
	if err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	return o.info(name), nil
}

func (s *Store) object(ctx context.Context, name string) (object, error) {
	if err := check(ctx, name); err != nil {
		return object{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[name]
	if !ok {
		return object{}, chunkstore.ErrNotExist
	}
	return o, nil
}

func (o object) info(name string) chunkstore.Info {
	return chunkstore.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified}
}

// read returns a part of an object, unless looking for it ended with an error.
func (o object) read(name string, off, n int64, err error) ([]byte, error) {
	if err == nil {
		n, err = chunkstore.Span(int64(len(o.data)), off, n)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return append(make([]byte, 0, n), o.data[off:off+n]...), nil
}

// list lists what infos returns of a prefix, by name.
func list(ctx context.Context, prefix string, infos func(string) []chunkstore.Info, fn func(chunkstore.Info) error) error {
	if err := chunkstore.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	all := infos(prefix)
	slices.SortFunc(all, func(a, b chunkstore.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range all {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	return nil
}

// List implements chunkstore.Backend. It lists the state at the moment of the call; fn may use the
// store.
func (s *Store) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	return list(ctx, prefix, s.infos, fn)
}

func (s *Store) infos(prefix string) []chunkstore.Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var infos []chunkstore.Info
	for name, o := range s.objects {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, o.info(name))
		}
	}
	return infos
}

// Delete implements chunkstore.Backend.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}

// Location implements chunkstore.Backend.
func (s *Store) Location() string { return fmt.Sprintf("mem:%p", s) }

func check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return chunkstore.CheckName(name)
}
