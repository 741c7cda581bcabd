package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// store keeps chunks in memory and counts what is asked of it.
type store struct {
	mu     sync.Mutex
	chunks map[chunkstore.ID][]byte
	saves  int
	splits int
	gone   map[chunkstore.ID]bool // Keep says no
	fail   error                  // of every Save
}

func newStore() *store {
	return &store{chunks: map[chunkstore.ID][]byte{}, gone: map[chunkstore.ID]bool{}}
}

func (s *store) Save(_ context.Context, _ chunkstore.Kind, plain []byte) (chunkstore.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return chunkstore.ID{}, s.fail
	}
	id := chunkstore.ID(sha256.Sum256(plain))
	s.saves++
	delete(s.gone, id)
	s.chunks[id] = bytes.Clone(plain)
	return id, nil
}

// Split cuts after a byte that says so, at 64 KiB on average, so that small tests have many chunks.
func (s *store) Split(ctx context.Context, k chunkstore.Kind, r io.Reader) ([]chunkstore.Ref, error) {
	all, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.splits++
	s.mu.Unlock()
	var refs []chunkstore.Ref
	for len(all) > 0 {
		n := min(len(all), 16<<10)
		for n < len(all) && n < 256<<10 && (all[n] != 7 || all[n-1] < 192) {
			n++
		}
		id, err := s.Save(ctx, k, all[:n])
		if err != nil {
			return nil, err
		}
		refs = append(refs, chunkstore.Ref{ID: id, Length: uint32(n)})
		all = all[n:]
	}
	return refs, nil
}

func (s *store) Keep(ids ...chunkstore.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if _, ok := s.chunks[id]; !ok || s.gone[id] {
			return false
		}
	}
	return true
}

// node is a node of a fake tree.
type node struct {
	archive.Entry
	data    []byte
	holes   [][2]int64 // offset and length of the holes in data
	onOpen  func(n *node) error
	onRead  func(n *node) // once, when all was read
	readErr error
}

// tree is a Tree in memory. Nodes are walked as they were when the walk came by.
type tree struct {
	mu    sync.Mutex
	nodes map[string]*node
	opens map[string]int
	fail  error // of Walk, at the end
}

func newTree(nodes ...node) *tree {
	t := &tree{nodes: map[string]*node{}, opens: map[string]int{}}
	for _, n := range nodes {
		t.put(n)
	}
	return t
}

// put adds or replaces a node; a file gets its size, and what else is missing.
func (t *tree) put(n node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.Type == 0 {
		n.Type = archive.File
	}
	if n.Type == archive.File {
		n.Size = int64(len(n.data))
	}
	if n.MTime.Sec == 0 {
		n.MTime = archive.Time{Sec: 1_700_000_000, Nsec: 123}
	}
	if n.CTime.Sec == 0 {
		n.CTime = archive.Time{Sec: 1_700_000_000, Nsec: 456}
	}
	if n.Ino == 0 {
		n.Ino = uint64(1000 + len(t.nodes))
	}
	t.nodes[n.Path] = &n
}

func (t *tree) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	t.mu.Lock()
	paths := slices.SortedFunc(maps.Keys(t.nodes), archive.Compare)
	t.mu.Unlock()
	for _, p := range paths {
		t.mu.Lock()
		n, ok := t.nodes[p]
		var e archive.Entry
		if ok {
			e = n.Entry
		}
		t.mu.Unlock()
		if !ok {
			continue
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return errors.Join(t.fail, ctx.Err())
}

func (t *tree) Open(_ context.Context, e archive.Entry) (archive.Content, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opens[e.Path]++
	n, ok := t.nodes[e.Path]
	if !ok {
		return nil, fmt.Errorf("open %q: %w", e.Path, archive.ErrVanished)
	}
	if n.onOpen != nil {
		if err := n.onOpen(n); err != nil {
			return nil, err
		}
	}
	return &content{t: t, path: e.Path, size: int64(len(n.data)), holes: n.holes}, nil
}

// opened counts the opens and forgets them.
func (t *tree) opened() map[string]int {
	o := t.opens
	t.opens = map[string]int{}
	return o
}

// rangeTree can open in the middle.
type rangeTree struct{ *tree }

func (t rangeTree) OpenAt(ctx context.Context, e archive.Entry, off int64) (archive.Content, error) {
	c, err := t.Open(ctx, e)
	if err == nil {
		c.(*content).pos, c.(*content).end = off, off
	}
	return c, err
}

// content reads a node through the lock, so that it can change underneath.
type content struct {
	t        *tree
	path     string
	size     int64
	holes    [][2]int64
	pos, end int64 // of the current extent
}

func (c *content) Next() (int64, bool, error) {
	c.pos = c.end
	if c.pos >= c.size {
		return 0, false, io.EOF
	}
	end := c.size
	for _, h := range c.holes {
		if c.pos >= h[0] && c.pos < h[0]+h[1] {
			n := h[0] + h[1] - c.pos
			c.pos += n
			c.end = c.pos
			return n, true, nil
		}
		if h[0] > c.pos {
			end = min(end, h[0])
		}
	}
	c.end = end
	return end - c.pos, false, nil
}

func (c *content) Read(p []byte) (int, error) {
	if c.pos == c.end {
		return 0, io.EOF
	}
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	n := int(min(int64(len(p)), c.end-c.pos))
	clear(p[:n])
	if nd, ok := c.t.nodes[c.path]; ok {
		if nd.readErr != nil {
			return 0, nd.readErr
		}
		if c.pos < int64(len(nd.data)) {
			copy(p[:n], nd.data[c.pos:])
		}
	}
	c.pos += int64(n)
	return n, nil
}

func (c *content) Stat() (archive.Entry, error) {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	n, ok := c.t.nodes[c.path]
	if !ok {
		return archive.Entry{Type: archive.File}, nil // an unlinked file
	}
	if n.onRead != nil {
		f := n.onRead
		n.onRead = nil
		f(n)
	}
	e := n.Entry
	e.Path, e.Xattrs = "", nil
	return e, nil
}

func (c *content) Close() error { return nil }

// noise gives n bytes that do not repeat.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	r.Read(b)
	return b
}

func dir(path string) node {
	return node{Entry: archive.Entry{Path: path, Type: archive.Dir, Mode: 0o755}}
}

func file(path string, data []byte) node {
	return node{Entry: archive.Entry{Path: path, Type: archive.File, Mode: 0o644}, data: data}
}

// decode reads a stream of records.
func decode(t *testing.T, b []byte) []archive.Entry {
	t.Helper()
	var all []archive.Entry
	d := archive.NewDecoder(bytes.NewReader(b))
	for {
		e, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
}

// data puts a file's content together.
func (s *store) data(t *testing.T, e archive.Entry) []byte {
	t.Helper()
	if len(e.Inline) > 0 {
		return e.Inline
	}
	var b []byte
	for _, x := range e.Extents {
		if x.Hole {
			b = append(b, make([]byte, x.Length)...)
		}
		for _, r := range x.Refs {
			c, ok := s.chunks[r.ID]
			if !ok {
				t.Fatalf("%s: chunk %v is not there", e.Path, r.ID)
			}
			b = append(b, c[r.Offset:r.Offset+r.Length]...)
		}
	}
	return b
}
