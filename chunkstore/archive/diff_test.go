package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// chunks are read and counted.
type chunks struct {
	plain map[chunkstore.ID][]byte
	reads int
}

func (c *chunks) Chunk(_ context.Context, id chunkstore.ID) ([]byte, error) {
	c.reads++
	b, ok := c.plain[id]
	if !ok {
		return nil, chunkstore.ErrChunkMissing
	}
	return b, nil
}

func seq(entries []archive.Entry) iter.Seq2[archive.Entry, error] {
	return func(yield func(archive.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// lines gives the differences as "M a/large".
func lines(t *testing.T, differences iter.Seq2[archive.Difference, error]) (all []string) {
	t.Helper()
	for d, err := range differences {
		if err != nil {
			t.Fatal(err)
		}
		if d.Change != archive.Added && d.Old.Path != d.Path || d.Change != archive.Removed && d.New.Path != d.Path {
			t.Errorf("%c %q has the entries %q and %q", d.Change, d.Path, d.Old.Path, d.New.Path)
		}
		all = append(all, fmt.Sprintf("%c %s", d.Change, d.Path))
	}
	return all
}

func TestDiff(t *testing.T) {
	whole := every()
	edited := func(path string, edit func(*archive.Entry)) []archive.Entry {
		all := slices.Clone(whole)
		edit(&all[slices.IndexFunc(whole, func(e archive.Entry) bool { return e.Path == path })])
		return all
	}
	without := func(path string) []archive.Entry {
		return slices.DeleteFunc(slices.Clone(whole), func(e archive.Entry) bool { return e.Path == path })
	}
	last := whole[len(whole)-1].Path
	for name, tc := range map[string]struct {
		a, b []archive.Entry
		want []string
	}{
		"the same":             {whole, whole, nil},
		"both empty":           {nil, nil, nil},
		"one new":              {without("a/fifo"), whole, []string{"+ a/fifo"}},
		"one gone":             {whole, without("a/fifo"), []string{"- a/fifo"}},
		"the last is new":      {without(last), whole, []string{"+ " + last}},
		"the last is gone":     {whole, without(last), []string{"- " + last}},
		"one for another":      {without("a/fifo"), without("a/socket"), []string{"+ a/fifo", "- a/socket"}},
		"time":                 {whole, edited("a/large", func(e *archive.Entry) { e.MTime.Nsec-- }), []string{"U a/large"}},
		"mode":                 {whole, edited("a/large", func(e *archive.Entry) { e.Mode ^= 1 }), []string{"U a/large"}},
		"an attribute":         {whole, edited("a/inline", func(e *archive.Entry) { e.Xattrs = e.Xattrs[:1] }), []string{"U a/inline"}},
		"opaque":               {whole, edited("a", func(e *archive.Entry) { e.Opaque = false }), []string{"U a"}},
		"the root's mode":      {whole, edited("", func(e *archive.Entry) { e.Mode = 0o700 }), []string{"U "}},
		"a directory's time":   {whole, edited("a", func(e *archive.Entry) { e.MTime.Sec++ }), nil},
		"the target":           {whole, edited("a/symlink", func(e *archive.Entry) { e.Link += "x" }), []string{"M a/symlink"}},
		"another first name":   {whole, edited("a/inline2", func(e *archive.Entry) { e.Link = "a/empty" }), []string{"M a/inline2"}},
		"a device's number":    {whole, edited("a/char", func(e *archive.Entry) { e.Rdev = 7 }), []string{"M a/char"}},
		"another type":         {whole, edited("a/fifo", func(e *archive.Entry) { e.Type = archive.Socket }), []string{"T a/fifo"}},
		"inode and ctime":      {whole, edited("a/large", func(e *archive.Entry) { e.Ino, e.CTime = 1, archive.Time{} }), nil},
		"inline content":       {whole, edited("a/inline", func(e *archive.Entry) { e.Inline = []byte("world") }), []string{"M a/inline"}},
		"size":                 {whole, edited("a/inline", func(e *archive.Entry) { e.Inline, e.Size = []byte("hell"), 4 }), []string{"M a/inline"}},
		"chunks of large file": {whole, edited("a/large", func(e *archive.Entry) { e.Extents = e.Extents[:1] }), []string{"M a/large"}},
	} {
		c := &chunks{}
		if d := cmp.Diff(tc.want, lines(t, archive.Diff(t.Context(), c, seq(tc.a), seq(tc.b)))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		if c.reads > 0 {
			t.Errorf("%s: %d chunks were read", name, c.reads)
		}
	}
	var all []string
	for _, e := range whole {
		all = append(all, "+ "+e.Path)
	}
	if d := cmp.Diff(all, lines(t, archive.Diff(t.Context(), &chunks{}, seq(nil), seq(whole)))); d != "" {
		t.Errorf("all new (-want +got):\n%s", d)
	}
}

// TestDiffBundles: the same content in another bundle is the same, told by reading each bundle once.
func TestDiffBundles(t *testing.T) {
	c := &chunks{plain: map[chunkstore.ID][]byte{id(1): noise(1, 9000), id(2): noise(2, 9000)}}
	copy(c.plain[id(2)][3000:6000], c.plain[id(1)][:3000])
	piece := func(path string, n byte, offset uint32) archive.Entry {
		return archive.Entry{Path: path, Type: archive.File, Size: 3000, Extents: []archive.Extent{
			{Length: 3000, Refs: []chunkstore.Ref{{ID: id(n), Offset: offset, Length: 3000}}},
		}}
	}
	chmod := func(e archive.Entry) archive.Entry { e.Mode = 0o600; return e }
	a := []archive.Entry{piece("moved", 1, 0), piece("moved too", 1, 0), piece("other", 1, 3000)}
	b := []archive.Entry{chmod(piece("moved", 2, 3000)), piece("moved too", 2, 3000), piece("other", 2, 6000)}
	want := []string{"U moved", "M other"}
	if d := cmp.Diff(want, lines(t, archive.Diff(t.Context(), c, seq(a), seq(b)))); d != "" || c.reads != 2 {
		t.Errorf("%d chunks were read, want 2; (-want +got):\n%s", c.reads, d)
	}
	b[2] = piece("other", 3, 0)
	if err := lastError(archive.Diff(t.Context(), c, seq(a), seq(b))); !errors.Is(err, chunkstore.ErrChunkMissing) {
		t.Errorf("of a chunk that is missing: %v", err)
	}
	b[2] = piece("other", 2, 6001)
	if err := lastError(archive.Diff(t.Context(), c, seq(a), seq(b))); !errors.Is(err, archive.ErrFormat) {
		t.Errorf("of a piece beyond its chunk: %v", err)
	}
}

func lastError(differences iter.Seq2[archive.Difference, error]) (last error) {
	for _, err := range differences {
		last = err
	}
	return last
}

func TestDiffErrors(t *testing.T) {
	gone := errors.New("store is gone")
	broken := func(yield func(archive.Entry, error) bool) {
		_ = yield(every()[0], nil) && yield(archive.Entry{}, gone)
	}
	for name, d := range map[string]iter.Seq2[archive.Difference, error]{
		"a": archive.Diff(t.Context(), &chunks{}, broken, seq(every())),
		"b": archive.Diff(t.Context(), &chunks{}, seq(every()), broken),
	} {
		if err := lastError(d); !errors.Is(err, gone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lastError(archive.Diff(ctx, &chunks{}, seq(every()), seq(nil))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for range archive.Diff(t.Context(), &chunks{}, seq(every()), seq(nil)) {
		break // ends what reads ahead, too
	}
}

// TestDiffTrees: two nights in a repository, and parts of them.
func TestDiffTrees(t *testing.T) {
	r := newRepository(t)
	tr := newTree(dir(""), dir("a"), file("a/kept", noise(1, 5000)), file("a/edited", noise(2, 5000)), file("a/gone", noise(3, 200_000)),
		dir("b"), file("b/kept", noise(1, 5000)))
	first, _ := save(t, r, tr, nil)
	again, _ := save(t, r, tr, nil)
	tr.put(file("a/edited", noise(4, 5000)))
	delete(tr.nodes, "a/gone")
	tr.put(file("a/new", noise(5, 700)))
	second, _ := save(t, r, tr, archive.Records(t.Context(), r, first))
	for name, tc := range map[string]struct {
		a, b archive.Subtree
		want []string
	}{
		"the same records": {archive.Subtree{Tree: first}, archive.Subtree{Tree: again}, nil},
		"whole":            {archive.Subtree{Tree: first}, archive.Subtree{Tree: second}, []string{"M a/edited", "- a/gone", "+ a/new"}},
		"part":             {archive.Subtree{Tree: first, Path: "a"}, archive.Subtree{Tree: second, Path: "a"}, []string{"M edited", "- gone", "+ new"}},
		"file":             {archive.Subtree{Tree: first, Path: "a/edited"}, archive.Subtree{Tree: second, Path: "a/edited"}, []string{"M "}},
		"one beside other": {archive.Subtree{Tree: second, Path: "b"}, archive.Subtree{Tree: second, Path: "a"}, []string{"+ edited", "+ new"}},
		"only in one":      {archive.Subtree{Tree: first, Path: "a/new"}, archive.Subtree{Tree: second, Path: "a/new"}, []string{"+ "}},
	} {
		if d := cmp.Diff(tc.want, lines(t, archive.DiffTrees(t.Context(), r, tc.a, tc.b))); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	nowhere := archive.Subtree{Tree: first, Path: "c"}
	if err := lastError(archive.DiffTrees(t.Context(), r, nowhere, nowhere)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of a path that is nowhere: %v", err)
	}
	var stats archive.DiffStats
	for d := range archive.DiffTrees(t.Context(), r, archive.Subtree{Tree: first}, archive.Subtree{Tree: second}) {
		stats.Count(d)
	}
	want := archive.DiffStats{Added: 1, Removed: 1, Modified: 1, AddedBytes: 700, RemovedBytes: 200_000, ModifiedBytes: 5000}
	if stats != want {
		t.Errorf("counted %+v, want %+v", stats, want)
	}
}
