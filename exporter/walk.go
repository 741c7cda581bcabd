package exporter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// Walk implements archive.Tree. It holds the names of the directories on the way from the root to
// where it is, and at most openDirs of them open.
func (d *Dir) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	return newWalker(d, fn).walk(ctx)
}

// openDirs is how many directories a walk keeps open. Those further up are opened again when the
// walk comes back to them.
const openDirs = 64

// walker is one walk.
type walker struct {
	*Dir
	fn    func(archive.Entry) error
	bare  bool    // files are told without their attributes
	flat  bool    // no directory is entered: it took the place of something else
	stack []level // from the root down
	path  []byte  // of the last level
	buf   []byte
}

func newWalker(d *Dir, fn func(archive.Entry) error) *walker {
	return &walker{Dir: d, fn: fn, buf: make([]byte, xattrMax)}
}

func (w *walker) walk(ctx context.Context) error {
	defer w.close()
	if err := w.begin(); err != nil {
		return err
	}
	for len(w.stack) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.step(); err != nil {
			return err
		}
	}
	return nil
}

// level is a directory that is being walked.
type level struct {
	fd       int      // -1: closed meanwhile
	names    []string // to be visited yet
	path     int      // length of its path
	ino, dev uint64
}

// errReplaced says that a node turned into one of another type while it was looked at.
var errReplaced = errors.New("replaced while it was read")

// errRootGone says that there is no tree any more.
var errRootGone = fmt.Errorf("walk: the directory itself is gone: %w", fs.ErrNotExist)

// begin visits the root. A tree without one is none.
func (w *walker) begin() error {
	e, _, err := w.node(w.root, ".", "")
	if err != nil && e.Type != 0 {
		err = w.report("", err)
	}
	if err == nil {
		err = w.descend(w.root, ".", e)
	}
	if err == nil && len(w.stack) == 0 {
		err = errRootGone
	}
	if err == nil && w.file != "" {
		w.stack[0].names = []string{w.file}
	}
	return err
}

// step visits the next name of the last level, or leaves it.
func (w *walker) step() error {
	l := &w.stack[len(w.stack)-1]
	if len(l.names) == 0 {
		w.leave()
		return nil
	}
	name := l.names[0]
	l.names = l.names[1:]
	path := name
	if l.path > 0 {
		path = string(w.path[:l.path]) + "/" + name
	}
	if w.excluded(path) {
		return nil
	}
	if ok, err := w.reopen(l); !ok {
		return err
	}
	if w.file != "" {
		name = w.real
	}
	return w.visit(l.fd, name, path)
}

// visit reports one node, and enters it if it is a directory.
func (w *walker) visit(dir int, name, path string) error {
	for range 3 {
		if err := w.try(dir, name, path); err != errReplaced {
			return err
		}
	}
	return w.report(path, errReplaced)
}

func (w *walker) try(dir int, name, path string) error {
	e, mounted, err := w.node(dir, name, path)
	if err == unix.ENOENT || err == errReplaced {
		return onlyReplaced(err)
	}
	if err == nil && mounted {
		err = ErrMountPoint
	}
	if err != nil {
		if err := w.report(path, err); err != nil {
			return err
		}
		e.CTime = archive.Time{} // what could not be read now is to be tried, and told, again
	}
	switch {
	case e.Type == 0, mounted && e.Type != archive.Dir:
		return nil
	case mounted, e.Type != archive.Dir:
		return w.fn(e)
	case w.flat:
		return errReplaced
	}
	return w.descend(dir, name, e)
}

// node reads what there is to know of a node without its content. With an error its type is zero,
// or something is missing of its attributes.
func (w *walker) node(dir int, name, path string) (e archive.Entry, mounted bool, err error) {
	st, err := statx(dir, name)
	if err != nil {
		return e, false, err
	}
	e = entryOf(&st)
	e.Path = path
	if !w.trust.content {
		e.CTime = archive.Time{}
	}
	if w.opts.Overlay && isWhiteout(&e) {
		return whiteout(path), false, nil
	}
	if e.Type == archive.Symlink {
		n, err := unix.Readlinkat(dir, name, w.buf)
		if err == unix.EINVAL {
			err = errReplaced
		}
		if err != nil {
			return archive.Entry{}, false, err
		}
		e.Link = string(w.buf[:n])
	}
	if e.Type == archive.File && w.bare {
		return e, w.isMount(&st), nil
	}
	err = w.xattrs(dir, name, &e, w.buf)
	return e, w.isMount(&st), err
}

// descend reports a directory and makes it the last level.
func (w *walker) descend(dir int, name string, e archive.Entry) error {
	fd, err := quietly(func(noatime int) (int, error) {
		return w.openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|noatime)
	})
	switch err {
	case nil:
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return onlyReplaced(err)
	default:
		if err := w.report(e.Path, err); err != nil {
			return err
		}
		return w.fn(e)
	}
	w.enter(level{fd: fd, path: len(e.Path), ino: e.Ino, dev: e.Dev}, e.Path)
	if err := w.fn(e); err != nil {
		return err
	}
	names, err := listDir(fd, w.buf)
	switch {
	case err == unix.ENOENT && e.Path == "":
		return errRootGone
	case err != nil && err != unix.ENOENT: // removed since it was opened
		if err := w.report(e.Path, err); err != nil {
			return err
		}
	}
	w.stack[len(w.stack)-1].names = names
	return nil
}

// onlyReplaced turns an error that says a node is not what it was into nil, if it is gone, or
// errReplaced.
func onlyReplaced(err error) error {
	if err == unix.ENOENT {
		return nil
	}
	return errReplaced
}

func (w *walker) enter(l level, path string) {
	w.path = append(w.path[:0], path...)
	w.stack = append(w.stack, l)
	if i := len(w.stack) - 1 - openDirs; i >= 0 && w.stack[i].fd >= 0 {
		unix.Close(w.stack[i].fd)
		w.stack[i].fd = -1
	}
}

func (w *walker) leave() {
	last := len(w.stack) - 1
	if fd := w.stack[last].fd; fd >= 0 {
		unix.Close(fd)
	}
	w.stack = w.stack[:last]
}

func (w *walker) close() {
	for len(w.stack) > 0 {
		w.leave()
	}
}

// reopen opens a level again if it was closed. It is false, and the level at its end, if there is
// another directory in its place now, or none.
func (w *walker) reopen(l *level) (bool, error) {
	if l.fd >= 0 {
		return true, nil
	}
	path := string(w.path[:l.path])
	fd, err := quietly(func(noatime int) (int, error) {
		return w.openBeneath(cmp.Or(path, "."), unix.O_RDONLY|unix.O_DIRECTORY|noatime)
	})
	if err == nil {
		st, serr := statx(fd, ".")
		if e := entryOf(&st); serr == nil && e.Ino == l.ino && e.Dev == l.dev {
			l.fd = fd
			return true, nil
		}
		unix.Close(fd)
	}
	l.names = nil
	if err == nil || isGone(err) {
		return false, nil
	}
	return false, w.report(path, err)
}

// report passes on what could not be read, unless it concerns more than the one node.
func (w *walker) report(path string, err error) error {
	var foreign *ForeignError
	if errors.As(err, &foreign) {
		return foreign
	}
	if w.opts.Report == nil || isScarce(err) {
		return fmt.Errorf("read %q: %w", path, err)
	}
	w.opts.Report(path, err)
	return nil
}
