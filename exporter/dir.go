package exporter

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// DirOptions are options of OpenDir. The zero value reads a directory as it is.
type DirOptions struct {
	// Overlay says that the directory is the upper directory of an overlay mount, so a container's
	// read-write layer: devices 0:0 are whiteouts, trusted.overlay.opaque is Entry.Opaque, and what
	// else the overlay driver keeps in trusted.overlay.* is left out.
	Overlay bool

	// Exclude holds patterns of what is left out, with all that lies below. They are written as in a
	// .dockerignore file: relative to the top of the tree (a slash in front changes nothing), with
	// * ? [a-z] and \ inside a component, and ** for any number of components, none too. There are
	// no exceptions ("!"): a backup had better not guess which of two rules was meant.
	Exclude []string

	// SkipPaths holds paths that are left out, with all that lies below. They are no patterns.
	SkipPaths []string

	// Report is told of every node that Walk could not read, or not wholly (of a directory, what it
	// holds is then missing; of another node, an extended attribute), and of mount points, where
	// err is ErrMountPoint. It is called by Walk's goroutine. Without it such an error ends Walk.
	Report func(path string, err error)
}

var (
	// ErrMountPoint says that something is mounted at a node. A directory is then recorded as empty,
	// and any other node left out.
	ErrMountPoint = errors.New("something else is mounted here: not read")

	// ErrNoTrusted says that this process may not read the attributes of the overlay driver. It
	// needs CAP_SYS_ADMIN in the machine's first user namespace; without it opaque directories
	// would silently look like others.
	ErrNoTrusted = errors.New("trusted.* attributes cannot be read: CAP_SYS_ADMIN is missing")
)

// A ForeignError says that a node of a read-write layer is not whole: the overlay driver keeps the
// rest of it elsewhere (redirect_dir or metacopy is on). The layer has to be read in another way.
type ForeignError struct {
	Path  string
	Xattr string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("read layer: %q is not whole: it has %s", e.Path, e.Xattr)
}

// Dir is a directory of this host as an archive.Tree. Every path is resolved from the directory
// that was opened, below it, following no symbolic link, so whoever can write there can neither
// lead the walk away nor make it wait. Dir can be used by several goroutines at once, but each of
// its trees is walked by one.
//
// Two attributes of Linux are never part of a tree, because they belong to the host and not to the
// file: security.selinux (a label of the host's policy; engines label volumes themselves) and
// security.evm (a seal over the inode). Flags set by chattr are not kept either.
type Dir struct {
	root     int
	dev      uint64 // of the root
	opts     DirOptions
	exclude  []pattern
	skip     map[string]bool
	syscalls syscalls
	trust    trust

	// Of a single file that was opened as a tree: its name, and what the name leads to. Else "".
	file, real string
}

var (
	_ archive.Tree        = (*Dir)(nil)
	_ archive.StatWalker  = (*Dir)(nil)
	_ archive.RangeOpener = (*Dir)(nil)
)

// OpenDir opens a directory as a tree. Where path is a single file (the source of a bind mount may
// be one) the tree is its directory with nothing but that file in it, under the base name of path.
// path itself may lead through symbolic links. The caller closes the Dir.
func OpenDir(path string, opts DirOptions) (*Dir, error) {
	d := &Dir{opts: opts, skip: map[string]bool{}, root: -1}
	for _, p := range opts.SkipPaths {
		d.skip[strings.Trim(filepath.Clean(p), "/")] = true
	}
	for _, p := range opts.Exclude {
		pat, err := parsePattern(p)
		if err != nil {
			return nil, err
		}
		d.exclude = append(d.exclude, pat)
	}
	if err := d.open(filepath.Clean(path)); err != nil {
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	return d, nil
}

func (d *Dir) open(path string) error {
	if d.opts.Overlay && !readsTrusted() {
		return ErrNoTrusted
	}
	fd, err := openRoot(path)
	if err == unix.ENOTDIR && !d.opts.Overlay {
		fd, err = d.openFile(path)
	}
	if err != nil {
		return err
	}
	d.root = fd
	d.syscalls = probeSyscalls(fd)
	d.trust = trustOf(fd)
	st, err := statx(fd, ".")
	if err != nil {
		return errors.Join(err, d.Close())
	}
	d.dev = entryOf(&st).Dev
	return nil
}

// openFile opens the directory of a single file, behind its symbolic links.
func (d *Dir) openFile(path string) (int, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return -1, err
	}
	d.file, d.real = filepath.Base(path), filepath.Base(target)
	return openRoot(filepath.Dir(target))
}

func openRoot(path string) (int, error) {
	return uninterrupted(func() (int, error) {
		return unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

// Close closes the directory. Contents that are open stay so.
func (d *Dir) Close() error {
	if d.root < 0 {
		return nil
	}
	fd := d.root
	d.root = -1
	return unix.Close(fd)
}

// excluded tells whether a path below the root is to be left out.
func (d *Dir) excluded(path string) bool {
	if d.skip[path] {
		return true
	}
	if len(d.exclude) == 0 {
		return false
	}
	name := strings.Split(path, "/")
	return slices.ContainsFunc(d.exclude, func(p pattern) bool { return p.match(name) })
}
