package archive

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// A DigestError says that a stream is not the layer that it was said to be.
type DigestError struct{ Got string }

func (e *DigestError) Error() string { return "what was read has the digest " + e.Got }

// SaveLayer stores a layer, a tar stream, so that OpenLayer gives the same bytes again, and returns
// its size. What is read must have the digest that diffID names, or nothing is recorded and the
// error is a *DigestError. An error of r ends it and is wrapped.
//
// The stream is taken apart where a tar reader sees files: their contents become chunks, cut as
// those of trees are, and everything else goes into the recipe as it is. Each byte that was read
// goes either way, whatever the reader makes of it, so the parts always make up the stream: what is
// no tar, or one that the reader does not understand, costs deduplication and nothing else.
func SaveLayer(ctx context.Context, s *chunkstore.Session, diffID string, r io.Reader) (size int64, err error) {
	want, err := digest(diffID)
	if err != nil {
		return 0, err
	}
	l := layer{Version: layerVersion, DiffID: diffID}
	if err := l.store(ctx, s, r, want); err != nil {
		return 0, fmt.Errorf("layer %s: %w", diffID, err)
	}
	return l.Size, nil
}

// store stores the stream r, and then the descriptor.
func (l *layer) store(ctx context.Context, s *chunkstore.Session, r io.Reader, want [sha256.Size]byte) error {
	out := s.NewStream(ctx)
	w := newLayerWriter(s, out, r)
	err := w.save(ctx)
	recipe, errFinish := out.Finish()
	if err == nil {
		err = errFinish
	}
	if err != nil {
		return err
	}
	if got := w.hash.Sum(nil); string(got) != string(want[:]) {
		return &DigestError{Got: "sha256:" + hex.EncodeToString(got)}
	}
	l.Size, l.Recipe = w.size, recipe
	if l.Chunks, err = s.SaveStream(ctx, w.recipe.list); err != nil {
		return err
	}
	return describe(ctx, s, *l)
}

// layerWriter takes one stream apart.
type layerWriter struct {
	saver  Saver
	bundle bundle
	recipe *recipeWriter
	in     recorder
	hash   hash.Hash // of the steps, in order
	size   int64
	buf    []byte // for a small file

	wait    []*step // complete but for the ID of the bundle
	waitRaw int     // bytes in them
}

func newLayerWriter(s Saver, recipe io.Writer, r io.Reader) *layerWriter {
	return &layerWriter{
		saver: s, bundle: bundle{saver: s}, recipe: newRecipeWriter(recipe),
		in: recorder{r: bufio.NewReaderSize(r, 64<<10)}, hash: sha256.New(),
		buf: make([]byte, smallMax),
	}
}

// recorder passes the stream on to a tar reader and keeps what that reads by itself: headers,
// padding, and what it skips. While a content is read through it, it keeps nothing.
type recorder struct {
	r       io.Reader
	raw     []byte
	full    func() error // called when raw is long
	content bool
	err     error // of r, but for io.EOF
}

func (c *recorder) Read(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	if !c.content {
		c.raw = append(c.raw, p[:n]...)
		if len(c.raw) >= rawMax {
			c.err = errors.Join(c.err, c.full())
		}
	}
	return n, err
}

func (w *layerWriter) save(ctx context.Context) error {
	w.in.full = func() error { return w.spill(ctx) }
	tr := tar.NewReader(&w.in)
	for {
		h, err := tr.Next()
		if err != nil {
			break // the end, or no tar from here on: either way the rest is kept as it comes
		}
		if h.Size == 0 || sparse(h) {
			continue
		}
		if err := w.file(ctx, h, tr); err != nil {
			return err
		}
	}
	if err := w.rest(ctx); err != nil {
		return err
	}
	if w.in.err != nil {
		return w.in.err
	}
	if err := w.bundle.cut(ctx); err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	return w.recipe.end(w.size)
}

// sparse says whether the reader would show a file otherwise than its bytes lie in the stream.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// file stores the content of the file that the tar reader is at.
func (w *layerWriter) file(ctx context.Context, h *tar.Header, tr *tar.Reader) error {
	if h.Size <= InlineMax {
		return nil // the reader skips it, into raw
	}
	if err := w.endRaw(ctx); err != nil {
		return err
	}
	w.in.content = true
	defer func() { w.in.content = false }()
	if h.Size > smallMax {
		return w.large(ctx, tr)
	}
	n, _ := io.ReadFull(tr, w.buf[:h.Size]) // an error comes again, and what was read before it counts
	return w.small(ctx, w.buf[:n], strings.TrimPrefix(path.Clean("/"+h.Name), "/"))
}

func (w *layerWriter) small(ctx context.Context, data []byte, name string) error {
	if len(data) == 0 {
		return nil
	}
	ref, err := w.bundle.add(ctx, data)
	if err != nil {
		return err
	}
	s := &step{refs: []chunkstore.Ref{ref}}
	w.bundle.await(s.refs)
	w.hash.Write(data)
	if err := w.add(ctx, s, len(data)); err != nil {
		return err
	}
	if endsBundle(name) {
		if err := w.bundle.cut(ctx); err != nil {
			return err
		}
		return w.flush()
	}
	return nil
}

// large stores what r still has, in segments.
func (w *layerWriter) large(ctx context.Context, r io.Reader) error {
	if err := w.bundle.cut(ctx); err != nil {
		return err
	}
	for {
		segment := &ended{r: io.TeeReader(io.LimitReader(r, segmentSize), w.hash)}
		refs, err := w.saver.Split(ctx, chunkstore.Data, segment)
		if err != nil || len(refs) == 0 {
			return err
		}
		n := 0
		for _, ref := range refs {
			n += int(ref.Length)
		}
		if err := w.add(ctx, &step{refs: refs}, n); err != nil {
			return err
		}
	}
}

// ended makes every error of a reader its end: what was read before it counts.
type ended struct{ r io.Reader }

func (e *ended) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	if err != nil {
		err = io.EOF
	}
	return n, err
}

// rest keeps what follows the tar, or is none: the usual padding raw, more of it as content.
func (w *layerWriter) rest(ctx context.Context) error {
	_, err := io.CopyN(io.Discard, &w.in, smallMax)
	if errR := w.endRaw(ctx); errR != nil || err != nil {
		return errR // an error of the stream is kept in the recorder
	}
	w.in.content = true
	return w.large(ctx, &w.in)
}

// endRaw makes a step of what was kept raw.
func (w *layerWriter) endRaw(ctx context.Context) error {
	raw := w.in.raw
	if len(raw) == 0 {
		return nil
	}
	w.in.raw = nil
	w.hash.Write(raw)
	return w.add(ctx, &step{raw: raw}, len(raw))
}

// spill makes content of what was kept raw: a header is never that long.
func (w *layerWriter) spill(ctx context.Context) error {
	raw := w.in.raw
	w.in.raw = nil
	id, err := w.saver.Save(ctx, chunkstore.Data, raw)
	if err != nil {
		return err
	}
	w.hash.Write(raw)
	return w.add(ctx, &step{refs: []chunkstore.Ref{{ID: id, Length: uint32(len(raw))}}}, len(raw))
}

// add adds the next step, n bytes of the stream. It is written when the bundle is.
func (w *layerWriter) add(ctx context.Context, s *step, n int) error {
	w.size += int64(n)
	w.wait = append(w.wait, s)
	if w.waitRaw += len(s.raw); w.waitRaw > rawMax {
		if err := w.bundle.cut(ctx); err != nil {
			return err
		}
	}
	if w.bundle.empty() {
		return w.flush()
	}
	return nil
}

func (w *layerWriter) flush() error {
	for _, s := range w.wait {
		if err := w.recipe.write(s); err != nil {
			return err
		}
	}
	clear(w.wait)
	w.wait, w.waitRaw = w.wait[:0], 0
	return nil
}
