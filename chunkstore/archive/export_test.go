package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// ParseLayer reads the descriptor of a layer.
func ParseLayer(diffID string, value []byte) error {
	_, err := parseLayer(diffID, value)
	return err
}

// ReadRecipe reads a recipe to its end, and returns the size of its stream.
func ReadRecipe(b []byte, chunks []chunkstore.ID) (int64, error) {
	r := newRecipeReader(bytes.NewReader(b), chunks)
	for {
		_, err := r.next()
		if errors.Is(err, io.EOF) {
			return r.size, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

// WriteRecipe writes a recipe of raw bytes and references in turn.
func WriteRecipe(raw [][]byte, refs [][]chunkstore.Ref) ([]byte, error) {
	var b bytes.Buffer
	w := newRecipeWriter(&b)
	var size int64
	for i := range raw {
		for _, s := range []step{{raw: raw[i]}, {refs: refs[i]}} {
			if err := w.write(&s); err != nil {
				return nil, err
			}
		}
		size += int64(len(raw[i]))
		for _, r := range refs[i] {
			size += int64(r.Length)
		}
	}
	err := w.end(size)
	return b.Bytes(), err
}

// SkimLayer takes a stream apart for a Saver and keeps no recipe.
func SkimLayer(s Saver, r io.Reader) error {
	return newLayerWriter(s, io.Discard, r).save(context.Background())
}

// TakeApart takes a stream apart and puts it together again, with chunks from fetch.
func TakeApart(s Saver, r io.Reader, fetch func(chunkstore.ID) []byte) ([]byte, error) {
	var recipe, out bytes.Buffer
	w := newLayerWriter(s, &recipe, r)
	if err := w.save(context.Background()); err != nil {
		return nil, err
	}
	ids := make([]chunkstore.ID, len(w.recipe.chunks))
	for id, n := range w.recipe.chunks {
		ids[n] = id
	}
	steps := newRecipeReader(&recipe, ids)
	for {
		s, err := steps.next()
		if errors.Is(err, io.EOF) {
			return out.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		out.Write(s.raw)
		for _, ref := range s.refs {
			out.Write(fetch(ref.ID)[ref.Offset:][:ref.Length])
		}
	}
}

// SearcherOf is NewSearcher for records from anywhere, with room for so many finds.
func SearcherOf(records func(context.Context, chunkstore.Stream) iter.Seq2[Entry, error], room int, patterns ...Pattern) *Searcher {
	return &Searcher{records: records, patterns: patterns, known: map[streamKey][]Entry{}, room: room}
}
