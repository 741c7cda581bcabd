package chunkstore_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
)

// BenchmarkWrite takes new content through the whole write pipeline into memory.
func BenchmarkWrite(b *testing.B) {
	for name, content := range map[string][]byte{"noise": noise(30, 128<<20), "text": words(30, 128<<20)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				b.StopTimer()
				r := newRepository(b, mem.New(mem.Options{}), chunkstore.Options{})
				b.StartTimer()
				if _, err := backup(b.Context(), r, content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkKnown takes content that the repository has: cuts and ids only.
func BenchmarkKnown(b *testing.B) {
	content, store := noise(31, 128<<20), mem.New(mem.Options{})
	r := newRepository(b, store, chunkstore.Options{})
	if _, err := backup(b.Context(), r, content); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := backup(b.Context(), r, content); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead reads content back in order.
func BenchmarkRead(b *testing.B) {
	for name, content := range map[string][]byte{"noise": noise(32, 128<<20), "text": words(32, 128<<20)} {
		b.Run(name, func(b *testing.B) {
			r := newRepository(b, mem.New(mem.Options{}), chunkstore.Options{})
			s, err := r.Begin(b.Context(), chunkstore.BeginOptions{})
			if err != nil {
				b.Fatal(err)
			}
			refs, err := s.Split(b.Context(), chunkstore.Data, bytes.NewReader(content))
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Commit(b.Context(), "bench", nothing, chunkstore.Stream{}); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				if n := drain(b.Context(), r, refs); n != int64(len(content)) {
					b.Fatalf("read %d bytes", n)
				}
			}
		})
	}
}

func drain(ctx context.Context, r *chunkstore.Repository, refs []chunkstore.Ref) int64 {
	rd := r.Read(ctx, func(yield func(chunkstore.Ref, error) bool) {
		for _, ref := range refs {
			if !yield(ref, nil) {
				return
			}
		}
	})
	defer rd.Close()
	n, _ := io.Copy(io.Discard, rd)
	return n
}
