package chunkstore

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
)

// StreamAt reads a metadata stream at any place. It keeps the chunk that it read last, and 44 bytes for each. It may
// be used from several goroutines.
type StreamAt struct {
	r    *Repository
	refs []Ref
	ends []int64 // of the chunks, in the stream

	mu  sync.Mutex
	n   int // the chunk in cur
	cur []byte
}

// StreamAt opens a metadata stream for reading at any place.
func (r *Repository) StreamAt(ctx context.Context, st Stream) (*StreamAt, error) {
	if err := r.needIndex(ctx); err != nil {
		return nil, err
	}
	refs, err := r.streamRefs(ctx, st, func(Ref) {})
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	s := &StreamAt{r: r, refs: refs, n: -1}
	var end int64
	for _, ref := range refs {
		end += int64(ref.Length)
		s.ends = append(s.ends, end)
	}
	return s, nil
}

// ReadAt fills p from offset off on, or returns an error; io.ErrUnexpectedEOF beyond the end.
func (s *StreamAt) ReadAt(ctx context.Context, p []byte, off int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(p) > 0 {
		n, _ := slices.BinarySearch(s.ends, off+1)
		if n == len(s.ends) || off < 0 {
			return io.ErrUnexpectedEOF
		}
		if n != s.n {
			b, err := s.r.metaChunk(ctx, s.refs[n])
			if err != nil {
				return err
			}
			s.n, s.cur = n, b
		}
		copied := copy(p, s.cur[off-(s.ends[n]-int64(len(s.cur))):])
		p, off = p[copied:], off+int64(copied)
	}
	return nil
}
