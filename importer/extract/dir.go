package extract

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// enterRoot begins with the directory itself.
func (x *extractor) enterRoot(e *archive.Entry) error {
	fd, err := openDir(x.root, ".")
	if err != nil {
		return err
	}
	return x.enter(fd, e, true)
}

// makeDir makes a directory, or takes one that is there, and enters it.
func (x *extractor) makeDir(e *archive.Entry, name string) error {
	at, there := x.top().fd, false
	err := x.create(name, func() error {
		err := unix.Mkdirat(at, name, 0o700)
		there = err == unix.EEXIST && isDir(at, name)
		if there {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	fd, err := openDir(at, name)
	if err != nil {
		return err
	}
	return x.enter(fd, e, there)
}

// enter makes an open directory the one that is being filled.
func (x *extractor) enter(fd int, e *archive.Entry, there bool) error {
	x.stack = append(x.stack, level{Entry: *e, fd: fd, there: there})
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	x.top().ino, x.top().dev = st.Ino, uint64(st.Dev)
	if there {
		if err := x.meet(x.top()); err != nil {
			return err
		}
	}
	if i := len(x.stack) - 1 - openDirs; i >= 0 && x.stack[i].fd >= 0 {
		unix.Close(x.stack[i].fd)
		x.stack[i].fd = -1
	}
	return nil
}

// meet prepares a directory that was there before.
func (x *extractor) meet(l *level) error {
	if l.Path != "" || !x.opts.KeepRoot {
		// What is made in it shall not inherit.
		if err := unix.Fremovexattr(l.fd, "system.posix_acl_default"); err != nil && err != unix.ENODATA && err != unix.ENOTSUP {
			return fmt.Errorf("default ACL: %w", err)
		}
	}
	if x.opts.Existing != Remove {
		return nil
	}
	names, err := listNames(l.fd)
	if l.Path == "" {
		names = slices.DeleteFunc(names, func(name string) bool { return name == LostFound })
	}
	l.extra = names
	return err
}

// dropExtra removes from the directory that is being filled what lies before a name. The record of
// the name itself sees to that.
func (x *extractor) dropExtra(name string) error {
	l := x.top()
	for len(l.extra) > 0 && l.extra[0] <= name {
		if l.extra[0] < name {
			if err := x.remove(l.fd, l.extra[0]); err != nil {
				return err
			}
		}
		l.extra = l.extra[1:]
	}
	return nil
}

// leave ends the directory that is being filled, and makes its parent that again.
func (x *extractor) leave() error {
	l := x.top()
	for _, name := range l.extra {
		if err := x.remove(l.fd, name); err != nil {
			return fmt.Errorf("%q: %w", l.Path, err)
		}
	}
	if len(x.stack) > 1 {
		if err := reopen(&x.stack[len(x.stack)-2], l.fd); err != nil {
			return fmt.Errorf("%q: parent: %w", l.Path, err)
		}
	}
	if l.Path != "" || !x.opts.KeepRoot {
		if err := x.setAttributes(handle{fd: l.fd, there: l.there, at: l.fd, name: "."}, &l.Entry); err != nil {
			return fmt.Errorf("%q: %w", l.Path, err)
		}
	}
	err := unix.Close(l.fd)
	x.stack = x.stack[:len(x.stack)-1]
	return err
}

// reopen opens a level again from one of its children, if it was closed.
func reopen(l *level, child int) error {
	if l.fd >= 0 {
		return nil
	}
	fd, err := openDir(child, "..")
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return err
	}
	if st.Ino != l.ino || uint64(st.Dev) != l.dev {
		unix.Close(fd)
		return errors.New("was moved while it was filled")
	}
	l.fd = fd
	return nil
}

// remove removes a name from a directory, with what is in it.
func (x *extractor) remove(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == unix.EISDIR {
		err = removeAll(dir, name)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %q: %w", name, err)
	}
	return nil
}

// removeAll removes a directory, going through no symbolic link.
func removeAll(dir int, name string) error {
	root, err := os.OpenRoot(byFD(dir))
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(name), root.Close())
}

func openDir(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func isDir(at int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// listNames returns the sorted names in an open directory.
func listNames(fd int) ([]string, error) {
	at, err := openDir(fd, ".") // with a position of its own
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(at), "")
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, f.Close())
}

// byFD is a path to an open file, for system calls that do not take every kind of descriptor.
func byFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openParent opens the directory of a path of the tree, element by element, and returns the last
// element. The caller closes it.
func (x *extractor) openParent(path string) (fd int, name string, err error) {
	fd, err = openDir(x.root, ".")
	for err == nil {
		elem, rest, more := strings.Cut(path, "/")
		if elem == "" || elem == "." || elem == ".." {
			unix.Close(fd)
			return -1, "", errors.New("not a path of the tree")
		}
		if !more {
			return fd, elem, nil
		}
		var next int
		next, err = unix.Openat(fd, elem, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd, path = next, rest
	}
	return -1, "", err
}
