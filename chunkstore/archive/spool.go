package archive

import (
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/klauspost/compress/zstd"
)

// Spool keeps the records of one pass over a tree in memory, compressed, for the next pass to
// compare with. A million records of small files take about 35 MB. It is written first, by one
// goroutine, and read afterwards.
type Spool struct {
	blocks blocks
	zw     *zstd.Encoder // nil once complete
	err    error
}

// NewSpool returns an empty Spool.
func NewSpool() (*Spool, error) {
	s := &Spool{}
	var err error
	s.zw, err = zstd.NewWriter(&s.blocks, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(spoolWindow))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return s, nil
}

const spoolWindow = 1 << 20

// Write adds a part of a stream of records.
func (s *Spool) Write(p []byte) (int, error) {
	if s.zw == nil {
		return 0, errors.New("spool: write after reading began")
	}
	return s.zw.Write(p)
}

// Open reads the stream back as it was written, as often as wanted. Closing the reader never fails.
func (s *Spool) Open() (io.ReadCloser, error) {
	if s.zw != nil {
		s.err = s.zw.Close()
		s.zw = nil
	}
	if s.err != nil {
		return nil, fmt.Errorf("spool: %w", s.err)
	}
	zr, err := zstd.NewReader(s.blocks.reader(), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(spoolWindow))
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return zr.IOReadCloser(), nil
}

// Records reads the records back, as often as wanted. What was not a complete stream ends with an
// error.
func (s *Spool) Records() iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		r, err := s.Open()
		if err != nil {
			yield(Entry{}, err)
			return
		}
		defer r.Close()
		decodeAll(r, yield)
	}
}

// decodeAll yields every record of r, and an error last if there is one.
func decodeAll(r io.Reader, yield func(Entry, error) bool) {
	d := NewDecoder(r)
	for {
		e, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return
		}
		if !yield(e, err) || err != nil {
			return
		}
	}
}

// blocks is a buffer that grows without copying what it holds.
type blocks [][]byte

const blockSize = 256 << 10

func (b *blocks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		last := len(*b) - 1
		if last < 0 || len((*b)[last]) == blockSize {
			*b = append(*b, make([]byte, 0, blockSize))
			last++
		}
		k := min(len(p), blockSize-len((*b)[last]))
		(*b)[last] = append((*b)[last], p[:k]...)
		p = p[k:]
	}
	return n, nil
}

func (b *blocks) reader() io.Reader { return &blockReader{left: *b} }

type blockReader struct {
	left [][]byte
	off  int
}

func (r *blockReader) Read(p []byte) (int, error) {
	for len(r.left) > 0 && r.off == len(r.left[0]) {
		r.left, r.off = r.left[1:], 0
	}
	if len(r.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.left[0][r.off:])
	r.off += n
	return n, nil
}
