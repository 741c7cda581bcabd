package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/restic/chunker"

	"github.com/hakobune-dr/hakobune/crypto"
)

// chunkBuffers holds the buffers into which chunks are cut.
var chunkBuffers = sync.Pool{New: func() any { return new(make([]byte, 0, MaxChunk)) }}

// Split cuts r by content, saves the chunks and returns them in order. An empty r gives none. Every
// call has its own chunker: calls may run at once, and the cuts depend on r's bytes alone.
func (s *Session) Split(ctx context.Context, kind Kind, r io.Reader) ([]Ref, error) {
	buf := chunkBuffers.Get().(*[]byte)
	defer chunkBuffers.Put(buf)
	cut := s.repo.chunker(kind, r)
	var refs []Ref
	for {
		c, err := cut.Next(*buf)
		if errors.Is(err, io.EOF) {
			return refs, nil
		}
		if err != nil {
			return nil, err
		}
		id, err := s.Save(ctx, kind, c.Data)
		if err != nil {
			return nil, err
		}
		refs = append(refs, Ref{ID: id, Length: uint32(c.Length)})
	}
}

// chunker returns a chunker with the repository's parameters for the kind.
func (r *Repository) chunker(kind Kind, rd io.Reader) *chunker.Chunker {
	p := r.config.Chunker
	if kind != Data {
		p = metaChunker
	}
	return chunker.New(rd, r.pol, chunker.WithBoundaries(uint(p.Min), uint(p.Max)), chunker.WithAverageBits(int(p.Bits)))
}

// inlineChunks is how many chunks a Stream lists itself before its list becomes a stream.
const inlineChunks = 64

// StreamWriter stores what is written to it as metadata chunks. It is not for concurrent use.
type StreamWriter struct {
	pipe *io.PipeWriter
	size int64
	done chan struct{}
	refs []Ref
	err  error
	s    *Session
	ctx  context.Context
}

// NewStream begins a metadata stream. Finish must be called, or ctx end.
func (s *Session) NewStream(ctx context.Context) *StreamWriter {
	r, w := io.Pipe()
	sw := &StreamWriter{pipe: w, done: make(chan struct{}), s: s, ctx: ctx}
	stop := context.AfterFunc(ctx, func() { w.CloseWithError(ctx.Err()) })
	go func() {
		defer close(sw.done)
		defer stop()
		sw.refs, sw.err = s.Split(ctx, Meta, r)
		r.CloseWithError(sw.err)
	}()
	return sw
}

// Write appends to the stream.
func (w *StreamWriter) Write(p []byte) (int, error) {
	n, err := w.pipe.Write(p)
	w.size += int64(n)
	return n, err
}

// Finish ends the stream and returns what names it.
func (w *StreamWriter) Finish() (Stream, error) {
	w.pipe.Close()
	<-w.done
	if w.err != nil {
		return Stream{}, w.err
	}
	st := Stream{Size: w.size, Chunks: w.refs}
	if len(st.Chunks) <= inlineChunks {
		return st, nil
	}
	list := w.s.NewStream(w.ctx)
	if _, err := list.Write(marshalRefs(st.Chunks)); err != nil {
		return Stream{}, errors.Join(err, list.pipe.CloseWithError(err))
	}
	outer, err := list.Finish()
	return Stream{Size: st.Size, Depth: outer.Depth + 1, Chunks: outer.Chunks}, err
}

// SaveStream stores b as a metadata stream.
func (s *Session) SaveStream(ctx context.Context, b []byte) (Stream, error) {
	w := s.NewStream(ctx)
	if _, err := w.Write(b); err != nil {
		return Stream{}, err
	}
	return w.Finish()
}

// A list of whole chunks is stored as 36 bytes for each: id, length.
const listedRefSize = 32 + 4

func marshalRefs(refs []Ref) []byte {
	b := make([]byte, 0, len(refs)*listedRefSize)
	for _, r := range refs {
		b = append(b, r.ID[:]...)
		b = binary.BigEndian.AppendUint32(b, r.Length)
	}
	return b
}

// maxStreamDepth bounds what a damaged or hostile snapshot can make a reader do: 2^20 chunks of
// 64 KiB at least already hold 2^16 more at each level.
const maxStreamDepth = 4

// streamRefs returns the chunks of the stream itself, by way of its lists.
func (r *Repository) streamRefs(ctx context.Context, st Stream, visit func(Ref)) ([]Ref, error) {
	if st.Depth > maxStreamDepth || st.Depth < 0 {
		return nil, fmt.Errorf("%w: stream of depth %d", crypto.ErrDamaged, st.Depth)
	}
	refs := st.Chunks
	for range st.Depth {
		var list bytes.Buffer
		for _, ref := range refs {
			visit(ref)
			b, err := r.metaChunk(ctx, ref)
			if err != nil {
				return nil, err
			}
			list.Write(b)
		}
		if list.Len()%listedRefSize != 0 {
			return nil, fmt.Errorf("%w: list of chunks has %d bytes", crypto.ErrDamaged, list.Len())
		}
		refs = make([]Ref, 0, list.Len()/listedRefSize)
		for b := list.Bytes(); len(b) > 0; b = b[listedRefSize:] {
			refs = append(refs, Ref{ID: ID(b[:32]), Length: binary.BigEndian.Uint32(b[32:])})
		}
	}
	return refs, nil
}

// StreamRefs returns every chunk that the stream needs: its own and those of its lists.
func (r *Repository) StreamRefs(ctx context.Context, st Stream) ([]Ref, error) {
	var all []Ref
	refs, err := r.streamRefs(ctx, st, func(ref Ref) { all = append(all, ref) })
	return append(all, refs...), err
}

// OpenStream returns the bytes of a metadata stream. They are verified; the reader ends with
// io.EOF only after exactly st.Size bytes.
func (r *Repository) OpenStream(ctx context.Context, st Stream) (io.ReadCloser, error) {
	if err := r.needIndex(ctx); err != nil {
		return nil, err
	}
	refs, err := r.streamRefs(ctx, st, func(Ref) {})
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	var size int64
	for _, ref := range refs {
		size += int64(ref.Length)
	}
	if size != st.Size {
		return nil, fmt.Errorf("open stream: %w: chunks of %d bytes for a stream of %d", crypto.ErrDamaged, size, st.Size)
	}
	return &streamReader{r: r, ctx: ctx, refs: refs}, nil
}

type streamReader struct {
	r    *Repository
	ctx  context.Context // of this one read: io.Reader has no place for it
	refs []Ref
	cur  []byte
	err  error
}

func (s *streamReader) Read(p []byte) (int, error) {
	for len(s.cur) == 0 && s.err == nil {
		if len(s.refs) == 0 {
			s.err = io.EOF
			break
		}
		s.cur, s.err = s.r.metaChunk(s.ctx, s.refs[0])
		s.refs = s.refs[1:]
	}
	if s.err != nil {
		return 0, s.err
	}
	n := copy(p, s.cur)
	s.cur = s.cur[n:]
	return n, nil
}

// Close ends the reading.
func (s *streamReader) Close() error {
	s.err, s.cur = io.ErrClosedPipe, nil
	return nil
}

// ReadStream returns a whole metadata stream. It is for streams that are held in memory anyway; the
// chunks that the stream names must exist before memory for them is taken.
func (r *Repository) ReadStream(ctx context.Context, st Stream) ([]byte, error) {
	rd, err := r.OpenStream(ctx, st)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rd)
	return b, errors.Join(err, rd.Close())
}
