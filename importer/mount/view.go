package mount

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sync/singleflight"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Bounds of memory.
const (
	keptBytes   = 64 << 20 // of chunks
	keptChunks  = 1024
	keptEntries = 4 << 20 // of the indexes of trees
)

// view is what all nodes of a mount share.
type view struct {
	repo *chunkstore.Repository
	cat  *snapshot.Catalog
	log  *slog.Logger

	numbers atomic.Uint64 // of parts
	loading singleflight.Group

	mu     sync.Mutex // of the fields below
	chunks []chunk    // the one read last comes last
	bytes  int
	loaded []*part // the one used last comes last
}

type chunk struct {
	id    chunkstore.ID
	bytes []byte
}

func newView(repo *chunkstore.Repository, cat *snapshot.Catalog, log *slog.Logger) *view {
	return &view{repo: repo, cat: cat, log: log}
}

// chunk returns a chunk, which several may want at once.
func (v *view) chunk(ctx context.Context, id chunkstore.ID) ([]byte, error) {
	if b := v.kept(id); b != nil {
		return b, nil
	}
	// Who asked first may give up while others wait.
	got := v.loading.DoChan(id.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		b, err := v.repo.Chunk(ctx, id)
		if err == nil {
			v.keep(id, b)
		}
		return b, err
	})
	select {
	case r := <-got:
		b, _ := r.Val.([]byte)
		return b, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (v *view) kept(id chunkstore.ID) []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.chunks, func(c chunk) bool { return c.id == id })
	if i < 0 {
		return nil
	}
	c := v.chunks[i]
	v.chunks = append(slices.Delete(v.chunks, i, i+1), c)
	return c.bytes
}

func (v *view) keep(id chunkstore.ID, b []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.chunks = append(v.chunks, chunk{id, b})
	for v.bytes += len(b); (v.bytes > keptBytes || len(v.chunks) > keptChunks) && len(v.chunks) > 1; {
		v.bytes -= len(v.chunks[0].bytes)
		v.chunks = slices.Delete(v.chunks, 0, 1)
	}
}

// part is one tree.
type part struct {
	v       *view
	number  uint64
	records chunkstore.Stream

	load  sync.Mutex
	index *archive.TreeIndex // changes under v.mu, too
}

func (v *view) part(records chunkstore.Stream) *part {
	return &part{v: v, number: v.numbers.Add(1), records: records}
}

// tree returns the index of the part, which is made when it is not there.
func (p *part) tree(ctx context.Context) (*archive.TreeIndex, error) {
	p.load.Lock()
	defer p.load.Unlock()
	p.v.mu.Lock()
	x := p.index
	p.v.mu.Unlock()
	if x == nil {
		var err error
		if x, err = archive.IndexTree(ctx, p.v.repo, p.records); err != nil {
			return nil, err
		}
	}
	p.v.use(p, x)
	return x, nil
}

// use notes that a part was used, and lets indexes go that were not for long.
func (v *view) use(p *part, x *archive.TreeIndex) {
	v.mu.Lock()
	defer v.mu.Unlock()
	p.index = x
	v.loaded = append(slices.DeleteFunc(v.loaded, func(o *part) bool { return o == p }), p)
	entries := 0
	for i := len(v.loaded) - 1; i >= 0; i-- {
		entries += v.loaded[i].index.Len()
		if entries > keptEntries && i < len(v.loaded)-1 {
			for _, old := range v.loaded[:i+1] {
				old.index = nil
			}
			v.loaded = slices.Delete(v.loaded, 0, i+1)
			return
		}
	}
}

// errno is what the kernel is told of an error.
func (v *view) errno(what string, err error) syscall.Errno {
	switch {
	case err == nil:
		return fs.OK
	case errors.Is(err, iofs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	}
	v.log.Warn("cannot be read", "what", what, "error", err)
	return syscall.EIO
}

// item is something in a static directory.
type item struct {
	name string
	mode uint32 // type
	make func() fs.InodeEmbedder
}

// static is a directory of this package's own making. What is in it is found out once, when somebody asks.
type static struct {
	fs.Inode
	v    *view
	find func(context.Context) ([]item, error)

	mu    sync.Mutex
	known bool
	items []item
}

var (
	_ fs.NodeLookuper    = (*static)(nil)
	_ fs.NodeReaddirer   = (*static)(nil)
	_ fs.NodeGetattrer   = (*static)(nil)
	_ fs.NodeLookuper    = (*node)(nil)
	_ fs.NodeReaddirer   = (*node)(nil)
	_ fs.NodeGetattrer   = (*node)(nil)
	_ fs.NodeReadlinker  = (*node)(nil)
	_ fs.NodeOpener      = (*node)(nil)
	_ fs.NodeReader      = (*node)(nil)
	_ fs.NodeGetxattrer  = (*node)(nil)
	_ fs.NodeListxattrer = (*node)(nil)
)

func (v *view) fixed(find func(context.Context) ([]item, error)) *static {
	return &static{v: v, find: find}
}

func (s *static) list(ctx context.Context) ([]item, syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known {
		return s.items, fs.OK
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	items, err := s.find(ctx)
	if err != nil {
		return nil, s.v.errno("directory "+s.Path(nil), err)
	}
	s.items, s.known = items, true
	return items, fs.OK
}

func (s *static) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	out.Mode, out.Nlink = 0o555, 1
	return fs.OK
}

func (s *static) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	items, errno := s.list(ctx)
	if errno != fs.OK {
		return nil, errno
	}
	list := make([]fuse.DirEntry, len(items))
	for i, it := range items {
		list[i] = fuse.DirEntry{Name: it.name, Mode: it.mode}
	}
	return fs.NewListDirStream(list), fs.OK
}

func (s *static) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	items, errno := s.list(ctx)
	if errno != fs.OK {
		return nil, errno
	}
	i := slices.IndexFunc(items, func(it item) bool { return it.name == name })
	if i < 0 {
		return nil, syscall.ENOENT
	}
	child := s.GetChild(name)
	if child == nil {
		child = s.NewInode(ctx, items[i].make(), fs.StableAttr{Mode: items[i].mode})
	}
	var attr fuse.AttrOut
	if g, ok := child.Operations().(fs.NodeGetattrer); ok {
		if errno := g.Getattr(ctx, nil, &attr); errno != fs.OK {
			return nil, errno
		}
	}
	out.Attr = attr.Attr
	return child, fs.OK
}
