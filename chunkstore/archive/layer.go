package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// layerVersion is the version of a descriptor.
const layerVersion = 1

// layer is the descriptor of a layer. It is stored as JSON under layerName, and is the same for all
// who save the same layer in one repository: the steps depend on the stream alone.
type layer struct {
	Version int               `json:"version"`
	DiffID  string            `json:"diff_id"`
	Size    int64             `json:"size"`
	Recipe  chunkstore.Stream `json:"recipe"`
	Chunks  chunkstore.Stream `json:"chunks"` // the ids of all chunks that the recipe names
}

func layerName(diffID string) string { return "layer:" + diffID }

// digest parses a DiffID.
func digest(diffID string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	h, ok := strings.CutPrefix(diffID, "sha256:")
	if !ok || len(h) != hex.EncodedLen(len(sum)) || strings.ToLower(h) != h {
		return sum, fmt.Errorf("layer %q: not a sha256 digest", diffID)
	}
	if _, err := hex.Decode(sum[:], []byte(h)); err != nil {
		return sum, fmt.Errorf("layer %q: not a sha256 digest", diffID)
	}
	return sum, nil
}

// findLayer returns the descriptor of a layer in a domain, fs.ErrNotExist if there is none.
func findLayer(ctx context.Context, repo *chunkstore.Repository, d chunkstore.Domain, diffID string) (l layer, err error) {
	if _, err := digest(diffID); err != nil {
		return l, err
	}
	value, ok, err := repo.Named(ctx, d, layerName(diffID))
	if err != nil {
		return l, fmt.Errorf("layer %s: %w", diffID, err)
	}
	if !ok {
		return l, fmt.Errorf("layer %s: %w", diffID, fs.ErrNotExist)
	}
	if l, err = parseLayer(diffID, value); err != nil {
		return l, err
	}
	for _, ref := range slices.Concat(l.Recipe.Chunks, l.Chunks.Chunks) {
		if !d.Has(ref.ID) {
			return l, fmt.Errorf("layer %s: %w: it needs chunk %v, which is of others", diffID, ErrFormat, ref.ID)
		}
	}
	return l, nil
}

// parseLayer reads the descriptor of a layer.
func parseLayer(diffID string, value []byte) (l layer, err error) {
	if err := frugal.Unmarshal(value, &l); err != nil {
		return l, fmt.Errorf("layer %s: %w: %w", diffID, ErrFormat, err)
	}
	if l.Version != layerVersion || l.DiffID != diffID || l.Size < 0 {
		return l, fmt.Errorf("layer %s: %w: descriptor of version %d, of %q, %d bytes", diffID, ErrFormat, l.Version, l.DiffID, l.Size)
	}
	return l, nil
}

// chunkIDs returns the list that steps of the recipe name chunks by.
func (l *layer) chunkIDs(ctx context.Context, repo *chunkstore.Repository) ([]chunkstore.ID, error) {
	list, err := repo.ReadStream(ctx, l.Chunks)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	const size = len(chunkstore.ID{})
	if len(list)%size != 0 {
		return nil, fmt.Errorf("layer %s: %w: list of chunks has %d bytes", l.DiffID, ErrFormat, len(list))
	}
	d, err := repo.StreamDomain(ctx, l.Chunks)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.DiffID, err)
	}
	ids := make([]chunkstore.ID, len(list)/size)
	for i := range ids {
		copy(ids[i][:], list[i*size:])
		if !d.Has(ids[i]) {
			return nil, fmt.Errorf("layer %s: %w: it needs chunk %v, which is of others", l.DiffID, ErrFormat, ids[i])
		}
	}
	return ids, nil
}

// HasLayer reports whether the repository has a layer whole, and if so its size. Everything that it
// consists of then belongs to the session's snapshot. What this same session saved moments ago may
// not be found yet. A put-only host can read none of that, and gets false.
func HasLayer(ctx context.Context, s *chunkstore.Session, diffID string) (size int64, ok bool, err error) {
	repo := s.Repository()
	if repo.IsPutOnly() {
		return 0, false, nil
	}
	l, err := findLayer(ctx, repo, repo.Domain(), diffID)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	named, err := repo.NamedID(repo.Domain(), layerName(diffID))
	if err != nil {
		return 0, false, err
	}
	ids := []chunkstore.ID{named}
	for _, st := range []chunkstore.Stream{l.Recipe, l.Chunks} {
		refs, err := repo.StreamRefs(ctx, st)
		if err != nil {
			return 0, false, missing(err)
		}
		for _, r := range refs {
			ids = append(ids, r.ID)
		}
	}
	content, err := l.chunkIDs(ctx, repo)
	if err != nil {
		return 0, false, missing(err)
	}
	if !s.Keep(append(ids, content...)...) {
		return 0, false, nil
	}
	return l.Size, true, nil
}

// missing drops an error that says no more than that chunks are not there.
func missing(err error) error {
	if errors.Is(err, chunkstore.ErrChunkMissing) {
		return nil
	}
	return err
}

// describe stores the descriptor. The first one under a name stays, so a different one must not be:
// that would be the same stream cut otherwise, and what the stored one names may be gone.
func describe(ctx context.Context, s *chunkstore.Session, l layer) error {
	value, err := json.Marshal(l)
	if err != nil {
		return err
	}
	repo, name := s.Repository(), layerName(l.DiffID)
	if !repo.IsPutOnly() { // such a host cannot look
		old, ok, err := repo.Named(ctx, repo.Domain(), name)
		if err != nil {
			return err
		}
		if ok && !bytes.Equal(old, value) {
			return errors.New("is stored already, and otherwise")
		}
	}
	_, err = s.SetNamed(ctx, name, value)
	return err
}

// LayerRefs iterates over everything that a layer consists of in a domain of the repository: the chunks of its
// descriptor, its recipe and its list of chunks, and the pieces of its content. An error comes last.
func LayerRefs(ctx context.Context, repo *chunkstore.Repository, d chunkstore.Domain, diffID string) iter.Seq2[chunkstore.Ref, error] {
	return func(yield func(chunkstore.Ref, error) bool) {
		err := layerRefs(ctx, repo, d, diffID, func(r chunkstore.Ref) bool { return yield(r, nil) })
		if err != nil {
			yield(chunkstore.Ref{}, err)
		}
	}
}

func layerRefs(ctx context.Context, repo *chunkstore.Repository, d chunkstore.Domain, diffID string, yield func(chunkstore.Ref) bool) error {
	l, err := findLayer(ctx, repo, d, diffID)
	if err != nil {
		return err
	}
	named, err := repo.NamedID(d, layerName(diffID))
	if err != nil {
		return err
	}
	refs := []chunkstore.Ref{{ID: named, Length: 1}}
	for _, st := range []chunkstore.Stream{l.Recipe, l.Chunks} {
		of, err := repo.StreamRefs(ctx, st)
		if err != nil {
			return fmt.Errorf("layer %s: %w", diffID, err)
		}
		refs = append(refs, of...)
	}
	for _, r := range refs {
		if !yield(r) {
			return nil
		}
	}
	ids, err := l.chunkIDs(ctx, repo)
	if err != nil {
		return err
	}
	for r, err := range l.contentRefs(ctx, repo, ids) {
		if err != nil {
			return err
		}
		if !yield(r) {
			return nil
		}
	}
	return nil
}
