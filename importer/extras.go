package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// addExtras writes what an image layer cannot carry of a container's changes (sockets, holes, times
// before 1970, names that look like whiteouts) into the directory of its read-write layer, where
// that can be reached; else it is noted. The container has not been started yet.
func (r *restorer) addExtras(ctx context.Context, j *containerJob, id string) error {
	if j.changes == "" {
		return nil
	}
	records := j.container.Changes.Records
	x, err := pickExtras(archive.Records(ctx, r.repo, records), r.lost[j.changes])
	if err != nil || len(x.why) == 0 {
		return err
	}
	where := "container " + j.place.Name + ": "
	dir, err := r.upper(ctx, id)
	if err != nil {
		for _, path := range slices.Sorted(maps.Keys(x.why)) {
			r.res.note(where+path, fmt.Sprintf("an image layer cannot carry it: %s; and %v", x.why[path], err))
		}
		return nil
	}
	tree := newPickedTree(ctx, r.repo, x.entries(archive.Records(ctx, r.repo, records)))
	_, err = extract.Tree(ctx, tree, dir, extract.Options{Overlay: true, Existing: extract.Keep, Note: func(path, what string) {
		r.res.note(where+path, what)
	}})
	return errors.Join(err, tree.close())
}

// upper finds the directory of a container that was just created.
func (r *restorer) upper(ctx context.Context, id string) (string, error) {
	if !r.target.Facts.Local {
		return "", errors.New("the engine's files are not to be seen from here")
	}
	all, err := r.engine.Containers(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(c snapshot.Container) bool { return c.ID == id })
	if i < 0 {
		return "", fmt.Errorf("container %s: %w", shortDigest(id), snapshot.ErrMissing)
	}
	return r.engine.Upper(ctx, all[i])
}

// extras says which entries of a tree are written directly: those that need it, all names of a
// node that has several, and the directories above.
type extras struct {
	why   map[string]string // those that need it, and why
	paths map[string]bool   // all that are written
}

// pickExtras finds them: what was lost on the way into a layer, and files with holes. It remembers
// the names of nodes that have several: a hard link can come long after its first name.
func pickExtras(records iter.Seq2[archive.Entry, error], lost []archive.Lost) (extras, error) {
	x := extras{why: make(map[string]string), paths: make(map[string]bool)}
	for _, l := range lost {
		x.why[l.Path] = l.Why
	}
	names := make(map[string][]string) // of nodes with several names, by the first one
	first := make(map[string]string)
	for e, err := range records {
		if err != nil {
			return x, err
		}
		if e.Type == archive.Hardlink {
			names[e.Link] = append(names[e.Link], e.Path)
			first[e.Path] = e.Link
		}
		if slices.ContainsFunc(e.Extents, func(p archive.Extent) bool { return p.Hole }) && x.why[e.Path] == "" {
			x.why[e.Path] = "holes, which it has as zeros"
		}
	}
	for path := range x.why {
		path = cmp.Or(first[path], path)
		for _, name := range append(names[path], path) {
			x.add(name)
		}
	}
	return x, nil
}

func (x *extras) add(path string) {
	for ; !x.paths[path]; path = path[:max(0, strings.LastIndexByte(path, '/'))] {
		x.paths[path] = true
		if path == "" {
			return
		}
	}
}

// entries yields the entries that are written. No directory is opaque: what it hides is hidden by
// the layer, and what the layer has in it is to be seen.
func (x *extras) entries(records iter.Seq2[archive.Entry, error]) iter.Seq2[archive.Entry, error] {
	return func(yield func(archive.Entry, error) bool) {
		for e, err := range records {
			if err == nil && !x.paths[e.Path] {
				continue
			}
			e.Opaque = false
			if !yield(e, err) {
				return
			}
		}
	}
}

// pickedTree is some entries of a tree with their content, which is fetched for them alone. It is
// an extract.Source.
type pickedTree struct {
	read func(iter.Seq2[chunkstore.Ref, error]) io.ReadCloser
	next func() (archive.Entry, error, bool)
	stop func()
	data io.ReadCloser // of the current entry; nil: none
}

func newPickedTree(ctx context.Context, repo *chunkstore.Repository, entries iter.Seq2[archive.Entry, error]) *pickedTree {
	t := &pickedTree{read: func(refs iter.Seq2[chunkstore.Ref, error]) io.ReadCloser { return repo.Read(ctx, refs) }}
	t.next, t.stop = iter.Pull2(entries)
	return t
}

// Next returns the next entry, io.EOF after the last one.
func (t *pickedTree) Next() (archive.Entry, error) {
	if err := t.closeData(); err != nil {
		return archive.Entry{}, err
	}
	e, err, ok := t.next()
	if !ok {
		return archive.Entry{}, io.EOF
	}
	if err == nil && len(e.Extents) > 0 {
		t.data = t.read(dataRefs(e))
	}
	return e, err
}

// dataRefs yields the chunks of a file.
func dataRefs(e archive.Entry) iter.Seq2[chunkstore.Ref, error] {
	return func(yield func(chunkstore.Ref, error) bool) {
		for _, x := range e.Extents {
			for _, ref := range x.Refs {
				if !yield(ref, nil) {
					return
				}
			}
		}
	}
}

// Read reads the data of the current entry.
func (t *pickedTree) Read(p []byte) (int, error) {
	if t.data == nil {
		return 0, io.EOF
	}
	return t.data.Read(p)
}

func (t *pickedTree) closeData() error {
	if t.data == nil {
		return nil
	}
	err := t.data.Close()
	t.data = nil
	return err
}

func (t *pickedTree) close() error {
	t.stop()
	return t.closeData()
}
