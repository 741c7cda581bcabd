package chunkstore_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
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
