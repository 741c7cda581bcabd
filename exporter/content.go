package exporter

import (
	"context"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// Open implements archive.Tree.
func (d *Dir) Open(ctx context.Context, e archive.Entry) (archive.Content, error) {
	return d.OpenAt(ctx, e, 0)
}

// OpenAt implements archive.RangeOpener.
func (d *Dir) OpenAt(ctx context.Context, e archive.Entry, off int64) (archive.Content, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !isPath(e.Path) || off < 0 {
		return nil, fmt.Errorf("open %q at %d: not a part of a tree", e.Path, off)
	}
	name := e.Path
	if d.file != "" {
		if name != d.file {
			return nil, fmt.Errorf("open %q: %w", name, archive.ErrVanished)
		}
		name = d.real
	}
	// What became a FIFO or a device since it was seen does not make us wait.
	fd, err := quietly(func(noatime int) (int, error) {
		return d.openBeneath(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|noatime)
	})
	switch {
	case err == nil:
	case isGone(err) || err == unix.ENXIO || err == unix.ENODEV:
		return nil, fmt.Errorf("open %q: %w", e.Path, archive.ErrVanished)
	default:
		return nil, openError(e.Path, err)
	}
	st, err := statx(fd, "")
	if err != nil {
		unix.Close(fd)
		return nil, openError(e.Path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, fmt.Errorf("open %q: %w", e.Path, archive.ErrVanished)
	}
	protect(fd)
	return newContent(fd, e.Path, &st, off), nil
}

// protect sees to it that whatever is written to a file from now on changes its ctime. The kernel
// notices a write through a mapping only when it makes a clean page dirty: what follows on that page
// leaves no trace in any time until the page has been written to disk. So dirty pages, in the middle of
// being written or not, are sent there before the file is read. Of one without, this costs a look.
func protect(fd int) {
	// An error says that the file system has no such thing.
	_, _ = uninterrupted(func() (int, error) {
		return 0, unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE)
	})
}

// openError tells what concerns one file from what concerns all.
func openError(path string, err error) error {
	if isScarce(err) {
		return fmt.Errorf("open %q: %w", path, err)
	}
	return fmt.Errorf("open %q: %w: %w", path, archive.ErrUnreadable, err)
}

// content is the open content of a file of a Dir.
type content struct {
	fd     int
	path   string
	size   int64 // when it was opened
	off    int64 // of what is read next
	end    int64 // of the current extent
	hole   bool  // the current extent is one
	sparse bool  // there may be holes
}

// wholeBelow is the size from which on a file is asked for holes even though it has as many blocks
// as its size takes: preallocated space is a hole too.
const wholeBelow = 64 << 10

func newContent(fd int, path string, st *unix.Statx_t, off int64) *content {
	c := &content{fd: fd, path: path, size: int64(st.Size)}
	c.off = min(off, c.size)
	c.end = c.off
	c.sparse = c.size >= wholeBelow || int64(st.Blocks)*512 < c.size
	return c
}

// Next implements archive.Content.
func (c *content) Next() (length int64, hole bool, err error) {
	c.off = c.end
	if c.off == c.size {
		return 0, false, io.EOF
	}
	c.end, c.hole = c.size, false
	if c.sparse {
		c.end, c.hole = c.extent()
	}
	return c.end - c.off, c.hole, nil
}

// extent asks for the extent at off. A file system that does not know says that all is data; a file
// that shrank has a hole there, which is how it shall read.
func (c *content) extent() (end int64, hole bool) {
	data, err := unix.Seek(c.fd, c.off, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return c.size, true
	case err != nil:
		return c.size, false
	case data > c.off:
		return min(data, c.size), true
	}
	end, err = unix.Seek(c.fd, c.off, unix.SEEK_HOLE)
	if err != nil || end <= c.off || end > c.size {
		end = c.size
	}
	return end, false
}

// Read implements archive.Content.
func (c *content) Read(p []byte) (int, error) {
	if c.off == c.end || c.hole {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), c.end-c.off)]
	n, err := uninterrupted(func() (int, error) { return unix.Pread(c.fd, p, c.off) })
	if err != nil {
		return 0, fmt.Errorf("read %q at %d: %w: %w", c.path, c.off, archive.ErrUnreadable, err)
	}
	if n == 0 && len(p) > 0 { // it shrank
		clear(p)
		n = len(p)
	}
	c.off += int64(n)
	return n, nil
}

// Stat implements archive.Content.
func (c *content) Stat() (archive.Entry, error) {
	st, err := statx(c.fd, "")
	if err != nil {
		return archive.Entry{}, fmt.Errorf("stat %q: %w: %w", c.path, archive.ErrUnreadable, err)
	}
	e := entryOf(&st)
	e.Path = c.path
	return e, nil
}

// Close implements archive.Content.
func (c *content) Close() error { return unix.Close(c.fd) }
