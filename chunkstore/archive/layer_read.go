package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// OpenLayer opens the stream of a layer of a domain and returns its size. The last byte is handed over, and
// io.EOF returned, only if all bytes have the digest that diffID names. The layer that is not there
// is an error that wraps fs.ErrNotExist. The reader must be closed.
func OpenLayer(ctx context.Context, repo *chunkstore.Repository, d chunkstore.Domain, diffID string) (io.ReadCloser, int64, error) {
	return OpenLayerNear(ctx, repo, d, diffID, nil)
}

// OpenLayerNear is OpenLayer that fetches only the content that near does not have. Nil has nothing.
func OpenLayerNear(ctx context.Context, repo *chunkstore.Repository, d chunkstore.Domain, diffID string, near chunkstore.Near) (io.ReadCloser, int64, error) {
	l, err := findLayer(ctx, repo, d, diffID)
	if err != nil {
		return nil, 0, err
	}
	want, err := digest(diffID)
	if err != nil {
		return nil, 0, err
	}
	ids, err := l.chunkIDs(ctx, repo)
	if err != nil {
		return nil, 0, err
	}
	recipe, err := repo.OpenStream(ctx, l.Recipe)
	if err != nil {
		return nil, 0, fmt.Errorf("layer %s: %w", diffID, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	return &layerReader{
		diffID: diffID, want: want, cancel: cancel,
		recipe: recipe, steps: newRecipeReader(recipe, ids),
		data: repo.ReadNear(ctx, l.contentRefs(ctx, repo, ids), near),
		hash: sha256.New(), unread: l.Size,
	}, l.Size, nil
}

// contentRefs iterates over the content that the recipe names. As for trees, this is a reading of
// its own beside that of the steps.
func (l *layer) contentRefs(ctx context.Context, repo *chunkstore.Repository, ids []chunkstore.ID) iter.Seq2[chunkstore.Ref, error] {
	return joinRefs(func(yield func(chunkstore.Ref, error) bool) {
		r, err := repo.OpenStream(ctx, l.Recipe)
		if err != nil {
			yield(chunkstore.Ref{}, err)
			return
		}
		defer r.Close()
		steps := newRecipeReader(r, ids)
		for {
			s, err := steps.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			for _, ref := range s.refs {
				if !yield(ref, nil) {
					return
				}
			}
		}
	})
}

// layerReader puts a layer together.
type layerReader struct {
	diffID string
	want   [sha256.Size]byte
	cancel context.CancelFunc
	recipe io.Closer
	steps  *recipeReader
	data   io.ReadCloser
	hash   hash.Hash

	raw    []byte // of the current step
	left   int64  // of the current step's content
	unread int64  // of the layer
	err    error
}

func (l *layerReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for n == 0 && l.err == nil {
		n, l.err = l.read(p)
	}
	l.hash.Write(p[:n])
	if l.unread -= int64(n); l.err == nil && l.unread == 0 {
		l.err = l.conclude()
	}
	switch {
	case l.err == nil:
		return n, nil
	case errors.Is(l.err, io.EOF):
		return n, io.EOF
	}
	return 0, fmt.Errorf("layer %s: %w", l.diffID, l.err)
}

// read reads from the current step, or takes the next one and reads nothing.
func (l *layerReader) read(p []byte) (int, error) {
	switch {
	case len(l.raw) > 0:
		n := copy(p, l.raw)
		l.raw = l.raw[n:]
		return n, l.over(n)
	case l.left > 0:
		n, err := l.data.Read(p[:min(int64(len(p)), l.left)])
		l.left -= int64(n)
		if n == 0 && errors.Is(err, io.EOF) {
			return 0, io.ErrUnexpectedEOF
		}
		if n > 0 {
			err = l.over(n)
		}
		return n, err
	}
	s, err := l.steps.next()
	if errors.Is(err, io.EOF) {
		return 0, l.conclude()
	}
	l.raw = s.raw
	for _, r := range s.refs {
		l.left += int64(r.Length)
	}
	return 0, err
}

// over refuses n bytes more than the descriptor gives the layer.
func (l *layerReader) over(n int) error {
	if int64(n) > l.unread {
		return fmt.Errorf("%w: longer than it should be", ErrFormat)
	}
	return nil
}

// conclude tells whether what was read is the layer.
func (l *layerReader) conclude() error {
	if got := l.hash.Sum(nil); l.unread != 0 || string(got) != string(l.want[:]) {
		return fmt.Errorf("%w: what was put together has the digest %s", ErrFormat, hex.EncodeToString(got))
	}
	return io.EOF
}

// Close ends the reading.
func (l *layerReader) Close() error {
	l.cancel()
	if l.err == nil {
		l.err = fs.ErrClosed
	}
	return errors.Join(l.recipe.Close(), l.data.Close())
}
