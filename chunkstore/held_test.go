package chunkstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// Whoever writes a snapshot cannot make others take all memory for it: a stream that names one chunk again and again is refused
// before it is read, whether it is long itself or its lists are.
func TestStreamsOfOneChunk(t *testing.T) {
	b := mem.New(mem.Options{})
	s, err := newRepository(t, b, chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	chunk, err := s.SaveStream(t.Context(), noise(1, 64<<10))
	if err != nil {
		t.Fatal(err)
	}
	ref := chunk.Chunks[0]
	list, err := s.SaveStream(t.Context(), bytes.Repeat(binary.BigEndian.AppendUint32(ref.ID[:], ref.Length), 1000))
	if err == nil {
		err = s.Commit(t.Context(), "test", func(chunkstore.SessionStats) any { return nil }, list)
	}
	if err != nil || len(list.Chunks) != 1 {
		t.Fatal(list, err)
	}
	r := reopen(t, b, chunkstore.Options{})
	long := func(n int, of chunkstore.Ref) []chunkstore.Ref { return slices.Repeat([]chunkstore.Ref{of}, n) }
	if got, err := r.ReadStream(t.Context(), chunkstore.Stream{Size: 20 * int64(ref.Length), Chunks: long(20, ref)}); err != nil || len(got) != 20*int(ref.Length) {
		t.Fatal(len(got), err)
	}
	for name, st := range map[string]chunkstore.Stream{
		"itself":         {Size: 5000 * int64(ref.Length), Depth: 1, Chunks: long(5, list.Chunks[0])},
		"a list":         {Size: 1, Depth: 1, Chunks: long(8000, list.Chunks[0])},
		"a list of them": {Size: 1, Depth: 4, Chunks: long(8, list.Chunks[0])},
	} {
		if _, err := r.ReadStream(t.Context(), st); !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := r.StreamRefs(t.Context(), st); name != "itself" && !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("the chunks of %s: %v", name, err)
		}
	}
}

// Of the merged objects of an index, which are large, two are held at a time.
func TestSegmentsAreReadByTwos(t *testing.T) {
	b := mem.New(mem.Options{})
	r := newRepository(t, b, chunkstore.Options{})
	for n := range 8 {
		entry := chunkstore.IndexEntry{ID: chunkstore.ID{byte(n)}, Pack: uint32(n)}
		if err := chunkstore.PutIndex(t.Context(), r, fmt.Sprintf("x/%016x/%032x-%d", 1, 1, n), []chunkstore.IndexEntry{entry}); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	var read, now, most int
	store := storetest.Intercept(b, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Op != storetest.Get || !strings.HasPrefix(c.Name, "x/") {
			return next()
		}
		mu.Lock()
		read, now = read+1, now+1
		most = max(most, now)
		mu.Unlock()
		time.Sleep(time.Millisecond) // so that others come, where they may
		mu.Lock()
		now--
		mu.Unlock()
		return next()
	})
	if err := reopen(t, store, chunkstore.Options{}).LoadIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	if read != 8 || most > 2 {
		t.Errorf("%d were read, %d at once", read, most)
	}
}
