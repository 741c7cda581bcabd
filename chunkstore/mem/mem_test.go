package mem_test

import (
	"errors"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) chunkstore.Backend { return mem.New(mem.Options{}) })
}

func TestClock(t *testing.T) {
	now := time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)
	s := mem.New(mem.Options{Now: func() time.Time { return now }})
	if err := s.Put(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	if info, err := s.Stat(t.Context(), "a"); err != nil || !info.Modified.Equal(now.Add(-time.Hour)) {
		t.Errorf("Stat = %+v, %v; want the time of the Put", info, err)
	}
}

// A clone is the state of one moment: neither sees what the other does afterwards.
func TestClone(t *testing.T) {
	ctx := t.Context()
	s := mem.New(mem.Options{})
	if err := s.Put(ctx, "a", []byte("before")); err != nil {
		t.Fatal(err)
	}
	c := s.Clone()
	if err := s.Put(ctx, "a", []byte("after")); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Get(ctx, "a", 0, -1); err != nil || string(got) != "before" {
		t.Errorf("the clone holds %q, %v", got, err)
	}
	if s.Location() == c.Location() {
		t.Error("two stores have one location")
	}
}

// A bucket keeps the contract of a store, seen with locks or without; and what was there first, as long as it is locked.
func TestBucket(t *testing.T) {
	lock := chunkstore.Lock{Mode: chunkstore.Compliance, Days: 1}
	storetest.Run(t, func(*testing.T) chunkstore.Backend { return mem.NewBucket(mem.Options{}) })
	ctx, now := t.Context(), time.Now()
	b := mem.NewBucket(mem.Options{Now: func() time.Time { return now }})
	locked, err := b.Lock(lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := locked.Put(ctx, "a", []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := b.Delete(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.PutIfAbsent(ctx, "a", []byte("second")); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(ctx, "a", 0, -1); err != nil || string(got) != "second" {
		t.Errorf("the newest: %q, %v", got, err)
	}
	if got, err := locked.Get(ctx, "a", 0, -1); err != nil || string(got) != "first" {
		t.Errorf("the first: %q, %v", got, err)
	}
	if err := locked.Delete(ctx, "a"); !errors.Is(err, chunkstore.ErrLocked) {
		t.Errorf("deleted: %v", err)
	}
	now = now.Add(lock.Span() + time.Second)
	if err := locked.Delete(ctx, "a"); err != nil {
		t.Error(err)
	}
	if _, err := locked.Stat(ctx, "a"); !errors.Is(err, chunkstore.ErrNotExist) {
		t.Errorf("after its time: %v", err)
	}
}
