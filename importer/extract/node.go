package extract

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// make makes the node of a record in the directory that is being filled. It is false if that could
// not be done and was noted.
func (x *extractor) make(ctx context.Context, e *archive.Entry, name string) (bool, error) {
	switch e.Type {
	case archive.Dir:
		return true, x.makeDir(e, name)
	case archive.File:
		if e.Kept {
			return true, x.keepFile(e, name)
		}
		return true, x.makeFile(ctx, e, name)
	case archive.Symlink:
		return true, x.makeSymlink(e, name)
	case archive.Hardlink:
		return x.makeHardlink(e, name)
	case archive.CharDevice:
		return x.makeNode(e, name, unix.S_IFCHR)
	case archive.BlockDevice:
		return x.makeNode(e, name, unix.S_IFBLK)
	case archive.FIFO:
		return x.makeNode(e, name, unix.S_IFIFO)
	case archive.Socket:
		return x.makeNode(e, name, unix.S_IFSOCK)
	case archive.Whiteout:
		return x.makeWhiteout(e, name)
	}
	return false, fmt.Errorf("unknown type %d", e.Type)
}

// create calls mk, which makes a name that must not exist, and again once the name is free, if what
// exists may be replaced.
func (x *extractor) create(name string, mk func() error) error {
	err := mk()
	if err != unix.EEXIST || x.opts.Existing == Refuse {
		return err
	}
	if err := x.remove(x.top().fd, name); err != nil {
		return err
	}
	return mk()
}

// makeFile makes a file. One that cannot be written wholly is removed again.
func (x *extractor) makeFile(ctx context.Context, e *archive.Entry, name string) error {
	if err := checkSize(e); err != nil {
		return err
	}
	at, fd := x.top().fd, -1
	err := x.create(name, func() (err error) {
		fd, err = unix.Openat(at, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = x.writeContent(ctx, fd, e)
	if err == nil {
		err = x.setAttributes(handle{fd: fd, at: at, name: name}, e)
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return errors.Join(err, x.remove(at, name))
	}
	return nil
}

// keepFile gives a file whose content is there already all else that its record says.
func (x *extractor) keepFile(e *archive.Entry, name string) error {
	at := x.top().fd
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != e.Size) {
		err = errors.New("is not the file of the older tree")
	}
	if err == nil {
		err = x.setAttributes(handle{fd: fd, there: true, at: at, name: name}, e)
	}
	return errors.Join(err, unix.Close(fd))
}

func (x *extractor) writeContent(ctx context.Context, fd int, e *archive.Entry) error {
	if err := x.write(fd, e.Inline, 0); err != nil {
		return err
	}
	var off int64
	for _, extent := range e.Extents {
		if !extent.Hole {
			if err := x.writeData(ctx, fd, off, extent.Length); err != nil {
				return err
			}
		}
		off += extent.Length
	}
	if n := len(e.Extents); n > 0 && e.Extents[n-1].Hole {
		if err := unix.Ftruncate(fd, e.Size); err != nil {
			return fmt.Errorf("truncate to %d: %w", e.Size, err)
		}
	}
	return nil
}

// writeData writes n bytes of the current content from off on.
func (x *extractor) writeData(ctx context.Context, fd int, off, n int64) error {
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := x.buf[:min(n, copyBuffer)]
		if _, err := io.ReadFull(x.tree, p); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("content at %d: %w", off, err)
		}
		if err := x.write(fd, p, off); err != nil {
			return err
		}
		off += int64(len(p))
		n -= int64(len(p))
	}
	return nil
}

func (x *extractor) write(fd int, p []byte, off int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write at %d: %w", off, err)
		}
		p = p[n:]
		off += int64(n)
		x.stats.Bytes += int64(n)
	}
	return nil
}

func (x *extractor) makeSymlink(e *archive.Entry, name string) error {
	at := x.top().fd
	err := x.create(name, func() error { return unix.Symlinkat(e.Link, at, name) })
	if err != nil {
		return err
	}
	return x.finish(e, name)
}

func (x *extractor) makeHardlink(e *archive.Entry, name string) (bool, error) {
	if archive.Compare(e.Link, e.Path) >= 0 {
		return false, fmt.Errorf("hard link to %q, which does not come before it", e.Link)
	}
	if x.none[e.Link] {
		x.note(e.Path, "not made: neither was its first name %q", e.Link)
		return false, nil
	}
	dir, first, err := x.openParent(e.Link)
	if err == nil {
		err = x.create(name, func() error { return unix.Linkat(dir, first, x.top().fd, name, 0) })
		unix.Close(dir)
	}
	if err != nil {
		return false, fmt.Errorf("hard link to %q: %w", e.Link, err)
	}
	return true, nil
}

// makeNode makes a device, a FIFO or a socket.
func (x *extractor) makeNode(e *archive.Entry, name string, kind uint32) (bool, error) {
	at := x.top().fd
	err := x.create(name, func() error { return unix.Mknodat(at, name, kind|0o600, int(e.Rdev)) })
	if err == unix.EPERM {
		x.note(e.Path, "not made: a device needs root")
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, x.finish(e, name)
}

func (x *extractor) makeWhiteout(e *archive.Entry, name string) (bool, error) {
	if !x.opts.Overlay {
		x.note(e.Path, "not made: that a name is deleted has a meaning in a read-write layer only")
		return false, nil
	}
	at := x.top().fd
	return true, x.create(name, func() error { return unix.Mknodat(at, name, unix.S_IFCHR, 0) })
}

// finish gives a node that was just made its attributes.
func (x *extractor) finish(e *archive.Entry, name string) error {
	at := x.top().fd
	fd, err := unix.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(x.setAttributes(handle{fd: fd, path: true, at: at, name: name}, e), unix.Close(fd))
}
