package mem_test

import (
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
