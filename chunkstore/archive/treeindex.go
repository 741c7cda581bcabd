package archive

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// TreeIndex finds the entries of a tree by their paths, in any order. Of each it keeps the name and where its record
// lies, about 60 bytes; the records are read again when they are asked for. It may be used from several goroutines.
type TreeIndex struct {
	stream *chunkstore.StreamAt
	dirs   map[string][]child // in order of the names
	root   int64              // where the record of the root lies; -1: there is none
	links  map[string]uint32  // further names of a node, by its first one
	size   int64              // of the stream
	count  int
}

type child struct {
	name string
	at   int64 // where its record lies; -1: of a directory that only what is beneath it tells of
}

// IndexTree reads the records of a tree once.
func IndexTree(ctx context.Context, repo *chunkstore.Repository, st chunkstore.Stream) (*TreeIndex, error) {
	stream, err := repo.StreamAt(ctx, st)
	if err != nil {
		return nil, err
	}
	in, err := repo.OpenStream(ctx, st)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	domain, err := repo.StreamDomain(ctx, st)
	if err != nil {
		return nil, err
	}
	x := &TreeIndex{stream: stream, dirs: map[string][]child{"": nil}, root: -1, links: map[string]uint32{}, size: st.Size}
	for d := NewDecoder(in); ; {
		e, err := d.Decode()
		if errors.Is(err, io.EOF) {
			return x, nil
		}
		if err == nil {
			err = e.within(domain)
		}
		if err != nil {
			return nil, err
		}
		x.add(&e, d.at)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

func (x *TreeIndex) add(e *Entry, at int64) {
	x.count++
	if e.Path == "" {
		x.root = at
		return
	}
	if e.Type == Hardlink {
		x.links[e.Link]++
	}
	x.put(e.Path, at)
	if e.Type == Dir {
		x.dirs[e.Path] = nil
	}
}

// put makes a path known to the directory that it is in, and that one to its own.
func (x *TreeIndex) put(p string, at int64) {
	dir, name := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	if _, known := x.dirs[dir]; !known {
		x.put(dir, -1)
	}
	x.dirs[dir] = append(x.dirs[dir], child{name, at})
}

// Len returns the number of records.
func (x *TreeIndex) Len() int { return x.count }

// Children returns the names in a directory, in order; none for what is no directory.
func (x *TreeIndex) Children(dir string) []string {
	names := make([]string, len(x.dirs[dir]))
	for i, c := range x.dirs[dir] {
		names[i] = c.name
	}
	return names
}

// Node is an entry of a tree as a file system has it.
type Node struct {
	Entry        // of a further name what the first one has, but for its own Path; never a Hardlink
	ID    int64  // the same for all names of a node, and for no other node of the tree; below the size of the stream
	Links uint32 // names
}

// Lookup returns the node of a path. A directory that has no record of its own is one of mode 0755. The error wraps
// fs.ErrNotExist where there is none.
func (x *TreeIndex) Lookup(ctx context.Context, p string) (Node, error) {
	at, err := x.find(p)
	if err != nil {
		return Node{}, err
	}
	if at < 0 {
		return Node{Entry: Entry{Path: p, Type: Dir, Mode: 0o755}, ID: -1, Links: 1}, nil
	}
	e, err := x.record(ctx, at)
	if err == nil && e.Type == Hardlink {
		if at, err = x.find(e.Link); err == nil {
			e, err = x.record(ctx, at)
		}
	}
	if err != nil {
		return Node{}, fmt.Errorf("look up %q: %w", p, err)
	}
	n := Node{e, at, 1 + x.links[e.Path]}
	n.Path = p
	return n, nil
}

// find returns where the record of a path lies.
func (x *TreeIndex) find(p string) (int64, error) {
	if p == "" {
		return x.root, nil
	}
	dir, name := path.Split(p)
	in := x.dirs[strings.TrimSuffix(dir, "/")]
	i, ok := slices.BinarySearchFunc(in, name, func(c child, name string) int { return strings.Compare(c.name, name) })
	if !ok {
		return 0, &fs.PathError{Op: "look up", Path: p, Err: fs.ErrNotExist}
	}
	return in[i].at, nil
}

// record reads the record at an offset of the stream.
func (x *TreeIndex) record(ctx context.Context, at int64) (Entry, error) {
	var head [binary.MaxVarintLen64]byte
	n := min(int64(len(head)), x.size-at)
	if at < 0 || n <= 0 {
		return Entry{}, fmt.Errorf("%w: no record at %d", ErrFormat, at)
	}
	if err := x.stream.ReadAt(ctx, head[:n], at); err != nil {
		return Entry{}, err
	}
	size, used := uvarint(head[:n])
	if used <= 0 || size == 0 || size > maxRecord || at+int64(used)+int64(size) > x.size {
		return Entry{}, fmt.Errorf("%w: no record at %d", ErrFormat, at)
	}
	body := make([]byte, size)
	if err := x.stream.ReadAt(ctx, body, at+int64(used)); err != nil {
		return Entry{}, err
	}
	e, err := parseRecord(body)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return e, nil
}
