package importer

import (
	"cmp"
	"context"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// near is a directory of this host that holds much of what a tree holds: an earlier state of it, say. Which chunk may
// lie where in it, the tree's own records tell, and those of the trees that it was before. The reader of chunks holds
// each against its id, so what was changed since does no harm. It is a chunkstore.Near.
type near struct {
	repo   *chunkstore.Repository
	dir    *os.File
	pieces map[chunkstore.ID][]nearPiece // of the chunks that the tree needs
	used   func(int64)
}

var _ chunkstore.Near = (*near)(nil)

// nearPiece is where a piece of a chunk lies.
type nearPiece struct {
	path   string
	off    int64  // in the file
	at     uint32 // in the chunk
	length uint32
}

// nearPieces bounds the memory, to some 100 MiB: of what lies beyond in a tree of that many files, all is fetched.
const nearPieces = 1 << 20

// openNear learns what a directory may have of the tree wanted. It is nil, and has nothing, if the directory cannot be
// opened. used is told how much came from it. The caller closes it.
func openNear(ctx context.Context, repo *chunkstore.Repository, dir string, wanted chunkstore.Stream, older []chunkstore.Stream, used func(int64)) (*near, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, ctx.Err()
	}
	n := &near{repo: repo, dir: f, pieces: make(map[chunkstore.ID][]nearPiece), used: used}
	left := nearPieces
	err = n.learn(ctx, wanted, true, &left)
	for _, tree := range older {
		if err == nil && !sameTree(tree, wanted) {
			err = n.learn(ctx, tree, false, &left)
		}
	}
	if err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// learn notes where the chunks of a tree's files lie: all of them, or only those that were wanted already.
func (n *near) learn(ctx context.Context, tree chunkstore.Stream, all bool, left *int) error {
	for e, err := range archive.Records(ctx, n.repo, tree) {
		if err != nil {
			return err
		}
		var off int64
		for _, x := range e.Extents {
			for _, ref := range x.Refs {
				n.note(ref, nearPiece{e.Path, off, ref.Offset, ref.Length}, all, left)
				off += int64(ref.Length)
			}
			if x.Hole {
				off += x.Length
			}
		}
	}
	return nil
}

func (n *near) note(ref chunkstore.Ref, p nearPiece, all bool, left *int) {
	known, wanted := n.pieces[ref.ID]
	if *left == 0 || !wanted && !all || !all && slices.Contains(known, p) {
		return
	}
	*left--
	n.pieces[ref.ID] = append(known, p)
}

// Chunk implements chunkstore.Near.
func (n *near) Chunk(id chunkstore.ID, length uint32) []byte {
	pieces := n.pieces[id]
	for _, p := range pieces {
		if p.at != 0 || p.length != length {
			continue
		}
		if b := make([]byte, length); n.read(p, b) && n.repo.IsChunk(id, b) {
			return b
		}
	}
	return n.gather(id, pieces, length)
}

// gather puts a chunk together that several files share.
func (n *near) gather(id chunkstore.ID, pieces []nearPiece, length uint32) []byte {
	sorted := slices.SortedStableFunc(slices.Values(pieces), func(a, b nearPiece) int { return cmp.Compare(a.at, b.at) })
	if len(sorted) < 2 || length > leftoverChunk {
		return nil
	}
	b, filled := make([]byte, length), uint32(0)
	for _, p := range sorted {
		if end := p.at + p.length; p.at > filled || end <= filled || end > length || !n.read(p, b[p.at:end]) {
			continue
		}
		filled = p.at + p.length
	}
	if filled < length || !n.repo.IsChunk(id, b) {
		return nil
	}
	return b
}

// read fills b with a piece.
func (n *near) read(p nearPiece, b []byte) bool {
	f, err := openBeneath(n.dir, p.path)
	if err != nil {
		return false
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return false
	}
	_, err = f.ReadAt(b, p.off)
	return err == nil
}

// Used implements chunkstore.Near.
func (n *near) Used(bytes int64) { n.used(bytes) }

func (n *near) close() {
	if n != nil {
		n.dir.Close()
	}
}

// source is the near as a reader takes it.
func (n *near) source() chunkstore.Near {
	if n == nil {
		return nil
	}
	return n
}

// nearby opens what the directory dir may have of a tree, which older is an earlier state of; that may be nil. What is
// used of it counts as local instead of fetched.
func (r *restorer) nearby(ctx context.Context, dir string, wanted, older *snapshot.Archive) (*near, error) {
	if dir == "" || wanted.Bytes == 0 || !r.target.Facts.Local {
		return nil, nil
	}
	var trees []chunkstore.Stream
	if older != nil {
		trees = append(trees, older.Records)
	}
	return openNear(ctx, r.repo, dir, wanted.Records, trees, func(n int64) {
		r.local.Add(n)
		r.fetched.Add(-n)
	})
}

// nearVolume is nearby for a volume of the snapshot.
func (r *restorer) nearVolume(ctx context.Context, dir string, v snapshot.Volume) (*near, error) {
	for _, had := range r.before().Volumes {
		if had.Name == v.Name {
			return r.nearby(ctx, dir, v.Content, had.Content)
		}
	}
	return r.nearby(ctx, dir, v.Content, nil)
}

// nearBind is nearby for a bind mount of the snapshot.
func (r *restorer) nearBind(ctx context.Context, dir string, b snapshot.Bind) (*near, error) {
	if b.File {
		return nil, nil // beside it lies what is not its own
	}
	for _, had := range r.before().Binds {
		if had.Source == b.Source {
			return r.nearby(ctx, dir, b.Content, had.Content)
		}
	}
	return r.nearby(ctx, dir, b.Content, nil)
}

// nearChanges is nearby for a container's changes: those of the container that has its name now.
func (r *restorer) nearChanges(ctx context.Context, c *snapshot.Container) (*near, error) {
	i := slices.IndexFunc(r.target.Containers, func(o snapshot.Container) bool { return o.Name == c.Name })
	if i < 0 || r.opts.As != "" || !r.target.Facts.Local {
		return nil, nil
	}
	dir, err := r.engine.Upper(ctx, r.target.Containers[i])
	if err != nil {
		r.res.note("container "+c.Name, "what it has here of its changes is fetched all the same: "+err.Error())
		return nil, ctx.Err()
	}
	for _, had := range r.before().Containers {
		if had.Name == c.Name {
			return r.nearby(ctx, dir, c.Changes, had.Changes)
		}
	}
	return r.nearby(ctx, dir, c.Changes, nil)
}

// before is the system as the options say that this host had it.
func (r *restorer) before() snapshot.System {
	if r.opts.Had == nil {
		return snapshot.System{}
	}
	return r.opts.Had.System
}

// nears are several directories, which have what one of them has.
type nears []*near

var _ chunkstore.Near = nears(nil)

// Chunk implements chunkstore.Near.
func (ns nears) Chunk(id chunkstore.ID, length uint32) []byte {
	for _, n := range ns {
		if b := n.Chunk(id, length); b != nil {
			return b
		}
	}
	return nil
}

// Used implements chunkstore.Near.
func (ns nears) Used(bytes int64) { ns[0].Used(bytes) } // all count alike

func (ns nears) close() {
	for _, n := range ns {
		n.close()
	}
}

func (ns nears) source() chunkstore.Near {
	if len(ns) == 0 {
		return nil
	}
	return ns
}

// nearLayers is what the containers that are here have of layers that are not: where a stand-in ran, what they had
// changed is a layer of the image that it was restored to.
func (r *restorer) nearLayers(ctx context.Context) (nears, error) {
	var all nears
	for _, had := range r.before().Containers {
		if had.Changes == nil {
			continue
		}
		n, err := r.nearChanges(ctx, &had)
		if err != nil {
			all.close()
			return nil, err
		}
		if n != nil {
			all = append(all, n)
		}
	}
	return all, nil
}

// openBeneath opens a path below a directory for reading, through no symbolic link and into no other file system.
func openBeneath(dir *os.File, path string) (*os.File, error) {
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
