package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Split cuts r by content, saves the chunks and returns them in order. An empty r gives none. Calls may
// run at once, and the cuts depend on r's bytes alone. A chunk is saved as soon as r has given its bytes;
// how r divides them does not matter. An error of r is returned, and then what r gave since the last cut
// makes no chunk. Beside what Save takes, a call holds up to 1 MiB more than the longest chunk, and of short
// contents not much more than their length.
func (s *Session) Split(ctx context.Context, kind Kind, r io.Reader) ([]Ref, error) {
	p := s.repo.config.Chunker
	if kind != Data {
		p = metaChunker
	}
	cuts, err := s.repo.cuts()
	if err != nil {
		return nil, err
	}
	cut := newCutter(r, cuts.scanner(p), int(p.Max))
	defer cut.close()
	var refs []Ref
	for {
		b, err := cut.next()
		if err == io.EOF {
			return refs, nil
		}
		if err != nil {
			return nil, err
		}
		id, err := s.Save(ctx, kind, b)
		if err != nil {
			return nil, err
		}
		refs = append(refs, Ref{ID: id, Length: uint32(len(b))})
	}
}

// readSize is how much a cutter reads at once: what lies in the processor's cache until it is scanned.
const readSize = 512 << 10

// cutBuffers holds the buffers of cutters.
var cutBuffers = sync.Pool{New: func() any { return new(make([]byte, 256<<10)) }}

// cutter cuts the bytes of a reader into chunks.
type cutter struct {
	r    io.Reader
	err  error // from r, behind the bytes read
	scan scanner

	pooled     *[]byte
	buf        []byte
	limit      int // of its length
	start, end int // of what was read and belongs to no chunk yet
	seen       int // how much of that the scanner has seen
}

// newCutter returns a cutter for chunks of at most longest bytes. It must be closed.
func newCutter(r io.Reader, s scanner, longest int) *cutter {
	pooled := cutBuffers.Get().(*[]byte)
	return &cutter{r: r, scan: s, pooled: pooled, buf: *pooled, limit: longest + 2*readSize}
}

// close gives the memory back.
func (c *cutter) close() {
	*c.pooled = c.buf
	cutBuffers.Put(c.pooled)
	c.pooled, c.buf = nil, nil
}

// next returns the next chunk, which is valid until the next call, or io.EOF after the last one, or r's error.
func (c *cutter) next() ([]byte, error) {
	for {
		b := c.buf[c.start:c.end]
		n := c.scan.next(b, c.seen)
		if n == 0 && c.err == io.EOF {
			n = len(b)
		}
		if n > 0 {
			c.start += n
			c.seen = 0
			return b[:n], nil
		}
		if c.err != nil {
			return nil, c.err
		}
		c.seen = len(b)
		c.read()
	}
}

// read reads once, behind what is there.
func (c *cutter) read() {
	if c.start == c.end {
		c.start, c.end = 0, 0
	}
	if c.end == len(c.buf) {
		c.makeRoom()
	}
	var n int
	n, c.err = c.r.Read(c.buf[c.end:min(len(c.buf), c.end+readSize)])
	c.end += n
}

// makeRoom moves what is there to the front, of a longer buffer if it is more than half of this one. There is
// always less than the longest chunk, for in that the scanner finds a cut: at the limit, there is room.
func (c *cutter) makeRoom() {
	rest := c.buf[c.start:c.end]
	if len(rest) > len(c.buf)/2 && len(c.buf) < c.limit {
		c.buf = make([]byte, min(2*len(c.buf), c.limit))
	}
	c.start, c.end = 0, copy(c.buf, rest)
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
	listed := marshalRefs(st.Chunks)
	if len(listed) > maxHeld {
		return Stream{}, fmt.Errorf("save stream: %d chunks are too many", len(st.Chunks))
	}
	list := w.s.NewStream(w.ctx)
	if _, err := list.Write(listed); err != nil {
		return Stream{}, errors.Join(err, list.pipe.CloseWithError(err))
	}
	outer, err := list.Finish()
	return Stream{Size: st.Size, Depth: outer.Depth + 1, Chunks: outer.Chunks}, err
}

// SaveStream stores b, of at most 256 MiB, as a metadata stream for ReadStream.
func (s *Session) SaveStream(ctx context.Context, b []byte) (Stream, error) {
	if len(b) > maxHeld {
		return Stream{}, fmt.Errorf("save stream: %d bytes are too many", len(b))
	}
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

// maxHeld bounds what of one stream is held in memory: the list of its chunks, at each level, and the whole of what ReadStream reads.
// Chunks may be named again and again, so that little which is stored could take all memory. It suffices for 7 million chunks.
const maxHeld = 256 << 20

// streamRefs returns the chunks of the stream itself, by way of its lists.
func (r *Repository) streamRefs(ctx context.Context, st Stream, visit func(Ref)) ([]Ref, error) {
	if st.Depth > maxStreamDepth || st.Depth < 0 {
		return nil, fmt.Errorf("%w: stream of depth %d", crypto.ErrDamaged, st.Depth)
	}
	refs := st.Chunks
	d, err := r.StreamDomain(ctx, st)
	if err != nil && !errors.Is(err, ErrChunkMissing) { // which whoever reads it is told
		return nil, err
	}
	for range st.Depth {
		if size := sizeOf(refs); size > maxHeld {
			return nil, fmt.Errorf("%w: list of chunks has %d bytes", crypto.ErrDamaged, size)
		}
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
		if err := d.all(refs); err != nil {
			return nil, err
		}
	}
	return refs, nil
}

func sizeOf(refs []Ref) int64 {
	var size int64
	for _, ref := range refs {
		size += int64(ref.Length)
	}
	return size
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
	if size := sizeOf(refs); size != st.Size {
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

// ReadStream returns a whole metadata stream, of at most 256 MiB. It is for streams that are held in memory anyway; the
// chunks that the stream names must exist before memory for them is taken.
func (r *Repository) ReadStream(ctx context.Context, st Stream) ([]byte, error) {
	if st.Size > maxHeld {
		return nil, fmt.Errorf("%w: stream of %d bytes", crypto.ErrDamaged, st.Size)
	}
	rd, err := r.OpenStream(ctx, st)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(rd)
	return b, errors.Join(err, rd.Close())
}
