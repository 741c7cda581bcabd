package archive

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Pattern says which names are sought. The zero Pattern matches nothing.
type Pattern struct {
	glob  string
	whole bool // it is held against the whole path, not against the last component
	fold  bool // without regard to case
}

// ParsePattern makes a Pattern of what path.Match understands: * ? [a-z] \. With a slash in it, it is
// held against whole paths in a tree, where a slash in front or at the end changes nothing more; else
// against their last components.
func ParsePattern(text string, ignoreCase bool) (Pattern, error) {
	p := Pattern{glob: strings.Trim(text, "/"), whole: strings.Contains(text, "/"), fold: ignoreCase}
	if ignoreCase {
		p.glob = strings.ToLower(p.glob)
	}
	if p.glob == "" {
		return Pattern{}, fmt.Errorf("pattern %q: names nothing", text)
	}
	if _, err := path.Match(p.glob, ""); err != nil {
		return Pattern{}, fmt.Errorf("pattern %q: %w", text, err)
	}
	return p, nil
}

// Match reports whether the entry of that path is sought. The root has no name, so it never is.
func (p Pattern) Match(name string) bool {
	if name == "" {
		return false
	}
	if !p.whole {
		name = path.Base(name)
	}
	if p.fold {
		name = strings.ToLower(name)
	}
	ok, err := path.Match(p.glob, name)
	return ok && err == nil // ParsePattern has refused what can fail
}

// searchRoom is how many finds a Searcher keeps, a few hundred bytes each.
const searchRoom = 50_000

// Searcher finds entries by name in one tree after the other. Most trees of a repository are the same
// night after night: what was found in one is kept, and one of the same records is not read again.
// Memory is bounded: a tree whose finds are too many to keep is read each time. Not for concurrent use.
type Searcher struct {
	records  func(context.Context, chunkstore.Stream) iter.Seq2[Entry, error]
	patterns []Pattern
	known    map[streamKey][]Entry
	room     int
}

// NewSearcher returns a Searcher for what matches any of the patterns.
func NewSearcher(repo *chunkstore.Repository, patterns ...Pattern) *Searcher {
	read := func(ctx context.Context, st chunkstore.Stream) iter.Seq2[Entry, error] { return Records(ctx, repo, st) }
	return &Searcher{records: read, patterns: patterns, known: map[streamKey][]Entry{}, room: searchRoom}
}

// Search iterates over the entries of a tree that are sought, in Compare order, without content and
// extended attributes. An error comes last.
func (s *Searcher) Search(ctx context.Context, st chunkstore.Stream) iter.Seq2[Entry, error] {
	key := keyOf(st)
	if found, ok := s.known[key]; ok {
		return func(yield func(Entry, error) bool) {
			for _, e := range found {
				if !yield(e, nil) {
					return
				}
			}
		}
	}
	return func(yield func(Entry, error) bool) { s.read(ctx, st, key, yield) }
}

func (s *Searcher) read(ctx context.Context, st chunkstore.Stream, key streamKey, yield func(Entry, error) bool) {
	var found []Entry
	room := true
	for e, err := range s.records(ctx, st) {
		if err != nil {
			yield(Entry{}, err)
			return
		}
		if !s.sought(e.Path) {
			continue
		}
		e.Inline, e.Extents, e.Xattrs = nil, nil, nil
		if room = room && len(found) < s.room; room {
			found = append(found, e)
		}
		if !yield(e, nil) {
			return // not all of it was seen, so there is nothing to remember
		}
	}
	if room {
		s.known[key] = found
		s.room -= len(found)
	}
}

func (s *Searcher) sought(name string) bool {
	return slices.ContainsFunc(s.patterns, func(p Pattern) bool { return p.Match(name) })
}

// streamKey is equal for two streams if they are made of the same chunks.
type streamKey [sha256.Size]byte

func keyOf(st chunkstore.Stream) streamKey {
	b := binary.AppendVarint(nil, st.Size)
	b = binary.AppendVarint(b, int64(st.Depth))
	for _, r := range st.Chunks {
		b = append(b, r.ID[:]...)
		b = binary.BigEndian.AppendUint32(b, r.Offset)
		b = binary.BigEndian.AppendUint32(b, r.Length)
	}
	return sha256.Sum256(b)
}
