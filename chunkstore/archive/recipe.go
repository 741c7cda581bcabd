package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// recipeMagic opens the recipe of a layer. Its last byte is the version.
const recipeMagic = "HKLAYER\x01"

// The steps of a recipe.
const (
	stepEnd     = 0
	stepRaw     = 1 // bytes of the stream
	stepContent = 2 // pieces of chunks
)

// rawMax bounds the bytes of one raw step. Longer runs become content.
const rawMax = 1 << 20

// refsMax bounds the pieces of one content step: those of a segment are far fewer.
const refsMax = 1 << 16

// step is one step of a recipe: a part of the stream, in order.
type step struct {
	raw  []byte
	refs []chunkstore.Ref
}

// recipeWriter writes a recipe, and with it the list of the chunks that it uses: steps name a chunk
// by its place in the list.
type recipeWriter struct {
	w      *bufio.Writer
	buf    []byte
	chunks map[chunkstore.ID]uint64
	list   []byte
}

func newRecipeWriter(w io.Writer) *recipeWriter {
	r := &recipeWriter{w: bufio.NewWriterSize(w, 64<<10), chunks: map[chunkstore.ID]uint64{}}
	r.buf = append(r.buf, recipeMagic...)
	return r
}

func (r *recipeWriter) write(s *step) error {
	if len(s.refs) == 0 {
		r.buf = append(r.buf, stepRaw)
		r.buf = binary.AppendUvarint(r.buf, uint64(len(s.raw)))
		r.buf = append(r.buf, s.raw...)
		return r.flush()
	}
	r.buf = append(r.buf, stepContent)
	r.buf = binary.AppendUvarint(r.buf, uint64(len(s.refs)))
	for _, ref := range s.refs {
		n, ok := r.chunks[ref.ID]
		if !ok {
			n = uint64(len(r.chunks))
			r.chunks[ref.ID] = n
			r.list = append(r.list, ref.ID[:]...)
		}
		r.buf = binary.AppendUvarint(r.buf, n)
		r.buf = binary.AppendUvarint(r.buf, uint64(ref.Offset))
		r.buf = binary.AppendUvarint(r.buf, uint64(ref.Length))
	}
	return r.flush()
}

func (r *recipeWriter) flush() error {
	_, err := r.w.Write(r.buf)
	r.buf = r.buf[:0]
	return err
}

// end completes the recipe of a stream of size bytes.
func (r *recipeWriter) end(size int64) error {
	r.buf = binary.AppendUvarint(append(r.buf, stepEnd), uint64(size))
	return errors.Join(r.flush(), r.w.Flush())
}

// recipeReader reads what a recipeWriter wrote.
type recipeReader struct {
	r      *bufio.Reader
	chunks []chunkstore.ID
	begun  bool
	raw    []byte           // of the last step, reused
	left   uint64           // pieces of the last content step that next has not returned
	refs   []chunkstore.Ref // of the last step, reused
	size   int64            // of the steps so far
}

func newRecipeReader(r io.Reader, chunks []chunkstore.ID) *recipeReader {
	return &recipeReader{r: bufio.NewReaderSize(r, 64<<10), chunks: chunks}
}

// piecesMax is how many pieces of a content step are returned at a time: a few bytes name one, which takes more here.
const piecesMax = 256

// next returns the next step, or a part of a long one, valid until the call after, and io.EOF after the last one of a
// complete recipe.
func (r *recipeReader) next() (step, error) {
	if !r.begun {
		if err := r.begin(); err != nil {
			return step{}, err
		}
		r.begun = true
	}
	if r.left > 0 {
		return r.pieces()
	}
	kind, err := r.r.ReadByte()
	if err != nil {
		return step{}, recipeError(err)
	}
	switch kind {
	case stepEnd:
		return step{}, r.end()
	case stepRaw:
		return r.rawStep()
	case stepContent:
		return r.contentStep()
	}
	return step{}, fmt.Errorf("%w: unknown step %d of a recipe", ErrFormat, kind)
}

func (r *recipeReader) begin() error {
	magic := make([]byte, len(recipeMagic))
	if _, err := io.ReadFull(r.r, magic); err != nil {
		return recipeError(err)
	}
	n := len(recipeMagic) - 1
	switch {
	case string(magic[:n]) != recipeMagic[:n]:
		return fmt.Errorf("%w: not a recipe", ErrFormat)
	case magic[n] != recipeMagic[n]:
		return fmt.Errorf("%w: recipe of version %d, this program knows %d", ErrFormat, magic[n], recipeMagic[n])
	}
	return nil
}

func (r *recipeReader) rawStep() (step, error) {
	n, err := r.number(1, rawMax)
	if err != nil {
		return step{}, err
	}
	if r.raw == nil {
		r.raw = make([]byte, 0, 64<<10)
	}
	if n > uint64(cap(r.raw)) { // it grows with what is read: a length that lies costs no memory
		b := bytes.NewBuffer(r.raw[:0])
		_, err = io.CopyN(b, r.r, int64(n))
		r.raw = b.Bytes()
	} else {
		r.raw = r.raw[:n]
		_, err = io.ReadFull(r.r, r.raw)
	}
	if err != nil {
		return step{}, recipeError(err)
	}
	return step{raw: r.raw}, r.count(int64(n))
}

func (r *recipeReader) contentStep() (step, error) {
	n, err := r.number(1, refsMax)
	if err != nil {
		return step{}, err
	}
	r.left = n
	return r.pieces()
}

// pieces returns the next pieces of the current content step.
func (r *recipeReader) pieces() (step, error) {
	r.refs = r.refs[:0]
	for ; r.left > 0 && len(r.refs) < piecesMax; r.left-- {
		ref, err := r.ref()
		if err != nil {
			return step{}, err
		}
		r.refs = append(r.refs, ref)
		if err := r.count(int64(ref.Length)); err != nil {
			return step{}, err
		}
	}
	return step{refs: r.refs}, nil
}

func (r *recipeReader) ref() (ref chunkstore.Ref, err error) {
	chunk, err := r.number(0, math.MaxInt64)
	if err != nil {
		return ref, err
	}
	if chunk >= uint64(len(r.chunks)) {
		return ref, fmt.Errorf("%w: recipe names chunk %d of %d", ErrFormat, chunk, len(r.chunks))
	}
	off, err := r.number(0, maxRefEnd)
	if err != nil {
		return ref, err
	}
	n, err := r.number(1, maxRefEnd)
	if err == nil && off+n > maxRefEnd {
		err = fmt.Errorf("%w: piece of %d bytes at %d", ErrFormat, n, off)
	}
	return chunkstore.Ref{ID: r.chunks[chunk], Offset: uint32(off), Length: uint32(n)}, err
}

// count adds up the size of the stream.
func (r *recipeReader) count(n int64) error {
	if r.size > math.MaxInt64-n {
		return fmt.Errorf("%w: recipe of too large a stream", ErrFormat)
	}
	r.size += n
	return nil
}

func (r *recipeReader) end() error {
	size, err := r.number(0, math.MaxInt64)
	if err != nil {
		return err
	}
	if int64(size) != r.size {
		return fmt.Errorf("%w: recipe of %d bytes says %d", ErrFormat, r.size, size)
	}
	if _, err := r.r.ReadByte(); err == nil {
		return fmt.Errorf("%w: bytes after the end of a recipe", ErrFormat)
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return io.EOF
}

func (r *recipeReader) number(low, high uint64) (uint64, error) {
	v, err := readUvarint(r.r)
	if err == nil && (v < low || v > high) {
		err = fmt.Errorf("%w: number %d in a recipe", ErrFormat, v)
	}
	return v, recipeError(err)
}

// recipeError makes a stream that ends early a broken one.
func recipeError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: recipe ends early", ErrFormat)
	}
	return err
}

// readUvarint reads a number in its shortest form.
func readUvarint(r io.ByteReader) (uint64, error) {
	var p [binary.MaxVarintLen64]byte
	for i := range p {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		p[i] = b
		if b < 0x80 {
			v, n := uvarint(p[:i+1])
			if n != i+1 {
				break
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: malformed number", ErrFormat)
}
