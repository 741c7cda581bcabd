package mount

import (
	"context"
	"path"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// node is a node of a tree. It holds nothing but its path: the kernel may remember very many.
type node struct {
	fs.Inode
	p    *part
	path string
}

// look returns what is recorded of a path.
func (n *node) look(ctx context.Context, path string) (archive.Node, syscall.Errno) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	x, err := n.p.tree(ctx)
	if err != nil {
		return archive.Node{}, n.p.v.errno("tree", err)
	}
	e, err := x.Lookup(ctx, path)
	return e, n.p.v.errno(path, err)
}

// kinds maps types of nodes. A whiteout is what overlayfs has in its place.
var kinds = map[archive.Type]uint32{
	archive.Dir: unix.S_IFDIR, archive.File: unix.S_IFREG, archive.Symlink: unix.S_IFLNK, archive.CharDevice: unix.S_IFCHR,
	archive.BlockDevice: unix.S_IFBLK, archive.FIFO: unix.S_IFIFO, archive.Socket: unix.S_IFSOCK, archive.Whiteout: unix.S_IFCHR,
}

// fill says to the kernel what is recorded.
func fill(e archive.Node, out *fuse.Attr) {
	out.Mode, out.Nlink = kinds[e.Type]|e.Mode, e.Links
	out.Owner = fuse.Owner{Uid: e.UID, Gid: e.GID}
	out.Size = uint64(e.Size)
	out.Blksize, out.Blocks = 4096, (stored(e)+511)/512
	if e.Type == archive.Symlink {
		out.Size, out.Mode = uint64(len(e.Link)), out.Mode|0o777
	}
	out.Mtime, out.Mtimensec = uint64(e.MTime.Sec), uint32(e.MTime.Nsec)
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec
	out.Rdev = uint32(e.Rdev)
}

// stored returns the bytes of a file that are no holes.
func stored(e archive.Node) uint64 {
	n := uint64(len(e.Inline))
	for _, x := range e.Extents {
		if !x.Hole {
			n += uint64(x.Length)
		}
	}
	return n
}

// number is the inode number: the same for all names of a node.
func (n *node) number(e archive.Node) uint64 {
	if e.ID < 0 {
		return 0 // a new one each time
	}
	return n.p.number<<40 + uint64(e.ID)
}

func (n *node) Getattr(ctx context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	e, errno := n.look(ctx, n.path)
	if errno == fs.OK {
		fill(e, &out.Attr)
	}
	return errno
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	p := path.Join(n.path, name)
	e, errno := n.look(ctx, p)
	if errno != fs.OK {
		return nil, errno
	}
	fill(e, &out.Attr)
	return n.NewInode(ctx, &node{p: n.p, path: p}, fs.StableAttr{Mode: kinds[e.Type], Ino: n.number(e)}), fs.OK
}

func (n *node) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	x, err := n.p.tree(ctx)
	if err != nil {
		return nil, n.p.v.errno("tree", err)
	}
	names := x.Children(n.path)
	list := make([]fuse.DirEntry, len(names))
	for i, name := range names {
		e, err := x.Lookup(ctx, path.Join(n.path, name))
		if err != nil {
			return nil, n.p.v.errno(name, err)
		}
		list[i] = fuse.DirEntry{Name: name, Mode: kinds[e.Type], Ino: n.number(e)}
	}
	return fs.NewListDirStream(list), fs.OK
}

func (n *node) Readlink(ctx context.Context) ([]byte, syscall.Errno) {
	e, errno := n.look(ctx, n.path)
	return []byte(e.Link), errno
}

// file is an open file.
type file struct{ e archive.Node }

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&(syscall.O_WRONLY|syscall.O_RDWR|syscall.O_TRUNC) != 0 {
		return nil, 0, syscall.EROFS
	}
	e, errno := n.look(ctx, n.path)
	return &file{e}, fuse.FOPEN_KEEP_CACHE, errno
}

func (n *node) Read(ctx context.Context, h fs.FileHandle, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	e := &h.(*file).e
	if off >= e.Size {
		return fuse.ReadResultData(nil), fs.OK
	}
	dest = dest[:min(int64(len(dest)), e.Size-off)]
	clear(dest)
	copy(dest, e.Inline[min(off, int64(len(e.Inline))):])
	if err := n.p.v.read(ctx, e.Extents, dest, off); err != nil {
		return nil, n.p.v.errno(n.path, err)
	}
	return fuse.ReadResultData(dest), fs.OK
}

// read copies the data of extents that lies in dest, which has the bytes from off on.
func (v *view) read(ctx context.Context, extents []archive.Extent, dest []byte, off int64) error {
	end, at := off+int64(len(dest)), int64(0)
	for _, x := range extents {
		if at >= end {
			break
		}
		next := at + x.Length
		for _, ref := range x.Refs {
			from, to := max(off, at), min(end, at+int64(ref.Length))
			if from < to {
				b, err := v.chunk(ctx, ref.ID)
				if err != nil {
					return err
				}
				if int64(ref.Offset)+int64(ref.Length) > int64(len(b)) {
					return syscall.EIO
				}
				copy(dest[from-off:to-off], b[int64(ref.Offset)+from-at:])
			}
			at += int64(ref.Length)
		}
		at = next
	}
	return nil
}

// attributes returns the extended attributes of a node. An opaque directory is one as overlayfs has it.
func (n *node) attributes(ctx context.Context) ([]archive.Xattr, syscall.Errno) {
	e, errno := n.look(ctx, n.path)
	if e.Opaque {
		e.Xattrs = append(e.Xattrs, archive.Xattr{Name: "trusted.overlay.opaque", Value: []byte("y")})
	}
	return e.Xattrs, errno
}

func (n *node) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	xs, errno := n.attributes(ctx)
	if errno != fs.OK {
		return 0, errno
	}
	for _, x := range xs {
		if x.Name == name {
			return give(dest, x.Value)
		}
	}
	return 0, syscall.ENODATA
}

func (n *node) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	xs, errno := n.attributes(ctx)
	var names []byte
	for _, x := range xs {
		names = append(append(names, x.Name...), 0)
	}
	if errno != fs.OK {
		return 0, errno
	}
	return give(dest, names)
}

// give copies value if there is room for it, and says how long it is.
func give(dest, value []byte) (uint32, syscall.Errno) {
	if len(dest) < len(value) {
		return uint32(len(value)), syscall.ERANGE
	}
	return uint32(copy(dest, value)), fs.OK
}
