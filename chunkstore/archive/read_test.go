package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
)

func newRepository(t testing.TB) *chunkstore.Repository {
	t.Helper()
	b, secret := mem.New(mem.Options{}), crypto.Passphrase([]byte("correct horse"))
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	if _, err := chunkstore.Init(t.Context(), b, secret, crypto.SlotInfo{Label: "test"}, cheap, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	r, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// session runs fn in a session and commits it with the stream that fn returns.
func session(t testing.TB, r *chunkstore.Repository, fn func(s *chunkstore.Session) (chunkstore.Stream, error)) chunkstore.Stream {
	t.Helper()
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "test"})
	if err != nil {
		t.Fatal(err)
	}
	st, err := fn(s)
	if err != nil {
		t.Fatal(errors.Join(err, s.Abort(t.Context())))
	}
	if err := s.Commit(t.Context(), "test", func(chunkstore.SessionStats) any { return nil }, st); err != nil {
		t.Fatal(err)
	}
	return st
}

// save commits a snapshot of one tree.
func save(t testing.TB, r *chunkstore.Repository, tr archive.Tree, prev iter.Seq2[archive.Entry, error]) (chunkstore.Stream, archive.TreeStats) {
	t.Helper()
	var stats archive.TreeStats
	st := session(t, r, func(s *chunkstore.Session) (chunkstore.Stream, error) {
		w := s.NewStream(t.Context())
		var err error
		if stats, err = archive.WriteTree(t.Context(), tr, s, w, archive.TreeOptions{Previous: prev}); err != nil {
			return chunkstore.Stream{}, err
		}
		return w.Finish()
	})
	return st, stats
}

func TestTreeInRepository(t *testing.T) {
	r, tr := newRepository(t), sample()
	tr.put(file("d/sparse", make([]byte, 1<<20)))
	n := tr.nodes["d/sparse"]
	n.holes = [][2]int64{{4096, 500 << 10}}
	copy(n.data, noise(4, 4096))
	st, stats := save(t, r, tr, nil)
	if stats.Entries != int64(len(tr.nodes)) {
		t.Errorf("%+v", stats)
	}
	again, stats := save(t, r, tr, archive.Records(t.Context(), r, st))
	if !same(stats) || stats.ReadFiles != 0 {
		t.Errorf("%+v", stats)
	}
	if d := cmp.Diff(st, again); d != "" {
		t.Error("the same tree gave another stream:", d)
	}

	rd := archive.OpenTree(t.Context(), r, st)
	defer rd.Close()
	seen := 0
	for {
		e, err := rd.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seen++
		if e.Type != archive.File || seen%5 == 0 { // some contents are passed over
			continue
		}
		got, err := io.ReadAll(rd.Filled(e))
		if err != nil || !bytes.Equal(got, tr.nodes[e.Path].data) {
			t.Fatalf("%s: %d bytes of %d, %v", e.Path, len(got), e.Size, err)
		}
	}
	if seen != len(tr.nodes) {
		t.Errorf("%d entries", seen)
	}
	if _, err := rd.Next(); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// Without holes: Read gives the data alone, as an extraction wants it.
func TestTreeReaderData(t *testing.T) {
	r, tr := newRepository(t), newTree(file("f", noise(1, 200<<10)), file("g", []byte("inline")))
	n := tr.nodes["f"]
	n.holes = [][2]int64{{0, 4096}, {100 << 10, 50 << 10}}
	clear(n.data[:4096])
	clear(n.data[100<<10 : 150<<10])
	st, _ := save(t, r, tr, nil)
	rd := archive.OpenTree(t.Context(), r, st)
	defer rd.Close()
	e, err := rd.Next()
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 0, e.Size)
	for _, x := range e.Extents {
		if x.Hole {
			got = append(got, make([]byte, x.Length)...)
			continue
		}
		b := make([]byte, x.Length)
		if _, err := io.ReadFull(rd, b); err != nil {
			t.Fatal(err)
		}
		got = append(got, b...)
	}
	if !bytes.Equal(got, n.data) {
		t.Error("content differs")
	}
	if n, err := rd.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Error("data beyond the file", n, err)
	}
}

// More entries between two contents than any buffer holds, and more content than is read ahead.
func TestTreeReaderFarApart(t *testing.T) {
	nodes := []node{file("a", noise(1, 34<<20))}
	for i := range 30_000 {
		nodes = append(nodes, dir(fmt.Sprintf("d%05d", i)))
	}
	nodes = append(nodes, file("z", noise(2, 1<<20)))
	r, tr := newRepository(t), newTree(nodes...)
	st, _ := save(t, r, tr, nil)
	rd := archive.OpenTree(t.Context(), r, st)
	defer rd.Close()
	for range nodes {
		e, err := rd.Next()
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == archive.File {
			if got, err := io.ReadAll(rd); err != nil || !bytes.Equal(got, tr.nodes[e.Path].data) {
				t.Fatal(e.Path, len(got), err)
			}
		}
	}
}

func TestTreeReaderCloseEarly(t *testing.T) {
	r, tr := newRepository(t), sample()
	st, _ := save(t, r, tr, nil)
	for n := range 50 {
		rd := archive.OpenTree(t.Context(), r, st)
		for range n {
			if _, err := rd.Next(); err != nil {
				t.Fatal(err)
			}
		}
		if err := rd.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := rd.Next(); !errors.Is(err, fs.ErrClosed) {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	rd := archive.OpenTree(ctx, r, st)
	defer rd.Close()
	var err error
	for err == nil {
		if _, err = rd.Next(); err == nil {
			_, err = io.ReadAll(rd)
		}
	}
	if errors.Is(err, io.EOF) {
		t.Error("a cancelled reading came to its end")
	}
}

func TestRefs(t *testing.T) {
	r, tr := newRepository(t), sample()
	st, stats := save(t, r, tr, nil)
	seen := map[chunkstore.ID]bool{}
	var bytes, pieces int64
	for ref, err := range archive.Refs(t.Context(), r, st) {
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Chunk(t.Context(), ref.ID); err != nil {
			t.Fatal(err)
		}
		seen[ref.ID] = true
		bytes += int64(ref.Length)
		pieces++
	}
	inline := int64(0)
	for e, err := range archive.Records(t.Context(), r, st) {
		if err != nil {
			t.Fatal(err)
		}
		inline += int64(len(e.Inline))
	}
	if want := st.Size + stats.Bytes - inline; bytes != want {
		t.Errorf("references of %d bytes, want %d", bytes, want)
	}
	if pieces != int64(len(seen)) {
		t.Errorf("%d pieces of %d chunks: neighbours were not joined", pieces, len(seen))
	}
}

func TestSubtree(t *testing.T) {
	linked := func(path string, ino uint64) node {
		n := file(path, noise(ino, 1000))
		n.Ino, n.Dev, n.Nlink = ino, 1, 4
		return n
	}
	tr := newTree(
		dir(""), dir("a"), linked("a/x", 50), linked("a/y", 51), linked("a/z", 50),
		dir("b"), linked("b/c", 50), dir("b/d"), linked("b/d/e", 51), linked("b/f", 50), linked("b/g", 52), linked("b/h", 52),
		file("b!", nil), dir("c"),
	)
	r := newRepository(t)
	st, _ := save(t, r, tr, nil)
	for root, want := range map[string][]string{
		"b":    {"b", "b/c", "b/d", "b/d/e", "b/f = b/c", "b/g", "b/h = b/g"},
		"b/f":  {"b/f"},
		"b/h":  {"b/h"},
		"a":    {"a", "a/x", "a/y", "a/z = a/x"},
		"c":    {"c"},
		"none": nil,
	} {
		rd, err := archive.OpenSubtree(t.Context(), r, st, root)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			e, err := rd.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			what := e.Path
			if e.Type == archive.Hardlink {
				what += " = " + e.Link
			}
			got = append(got, what)
			if e.Type == archive.File {
				if b, err := io.ReadAll(rd); err != nil || !bytes.Equal(b, tr.nodes[e.Path].data) {
					t.Errorf("%s: %d bytes, %v", e.Path, len(b), err)
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", root, d)
		}
		rd.Close()
	}
}

func TestFind(t *testing.T) {
	tr := newTree(dir(""), dir("a"), file("a/f", noise(1, 200<<10)), file("a/empty", nil), file("a.b", []byte("x")))
	tr.nodes["a/f"].Ino, tr.nodes["a/f"].Nlink = 5, 2
	link := *tr.nodes["a/f"]
	link.Path = "z"
	tr.put(link)
	r := newRepository(t)
	st, _ := save(t, r, tr, nil)
	for _, path := range []string{"", "a", "a/f", "a/empty", "a.b", "z"} {
		e, rd, err := archive.Find(t.Context(), r, st, path)
		if err != nil {
			t.Fatal(path, err)
		}
		b, err := io.ReadAll(rd)
		if err != nil || !bytes.Equal(b, tr.nodes[path].data) || e.Path != path || e.Type != tr.nodes[path].Type {
			t.Errorf("%q: %d bytes, %v, %+v", path, len(b), err, e)
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{"b", "a/g", "a/f/x", "A"} {
		if _, _, err := archive.Find(t.Context(), r, st, path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// What is not a tree is an error, and never an empty tree.
func TestReadGarbage(t *testing.T) {
	r := newRepository(t)
	st := session(t, r, func(s *chunkstore.Session) (chunkstore.Stream, error) {
		return s.SaveStream(t.Context(), []byte("this is not a tree"))
	})
	rd := archive.OpenTree(t.Context(), r, st)
	defer rd.Close()
	if _, err := rd.Next(); !errors.Is(err, archive.ErrFormat) {
		t.Error(err)
	}
	missing := chunkstore.Stream{Size: 5, Chunks: []chunkstore.Ref{{ID: id(1), Length: 5}}}
	for _, err := range archive.Records(t.Context(), r, missing) {
		if !errors.Is(err, chunkstore.ErrChunkMissing) {
			t.Error(err)
		}
	}
	if _, err := archive.OpenSubtree(t.Context(), r, missing, "a"); !errors.Is(err, chunkstore.ErrChunkMissing) {
		t.Error(err)
	}
}
