package exporter

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// syscalls says which of the newer system calls there are: an old kernel or a container's seccomp
// filter may lack them.
type syscalls struct {
	openat2     bool // Linux 5.6
	listxattrat bool // Linux 6.13, half the cost of the way through /proc
}

func probeSyscalls(dir int) syscalls {
	var s syscalls
	fd, err := unix.Openat2(dir, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: beneathOnly})
	if s.openat2 = err == nil; s.openat2 {
		unix.Close(fd)
	}
	_, err = listxattrat(dir, ".", nil)
	s.listxattrat = err != unix.ENOSYS && err != unix.EPERM
	return s
}

// beneathOnly keeps the kernel below the directory that a path is resolved from.
const beneathOnly = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// maxPath is what one system call takes of a path: PATH_MAX, less the final zero.
const maxPath = 4095

// openBeneath opens a path of the tree, of any length, through no symbolic link and no mount.
func (d *Dir) openBeneath(name string, flags int) (int, error) {
	at := d.root
	for {
		head, tail := d.cut(name)
		f := flags
		if tail != "" {
			f = unix.O_PATH | unix.O_DIRECTORY
		}
		fd, err := d.openat(at, head, f)
		if at != d.root {
			unix.Close(at)
		}
		if err != nil || tail == "" {
			return fd, err
		}
		at, name = fd, tail
	}
}

// cut splits off as much of a path as can be opened at once without following links.
func (d *Dir) cut(name string) (head, tail string) {
	if d.syscalls.openat2 && len(name) <= maxPath {
		return name, ""
	}
	i := strings.IndexByte(name, '/')
	if d.syscalls.openat2 {
		i = strings.LastIndexByte(name[:maxPath+1], '/')
	}
	if i < 0 {
		return name, ""
	}
	return name[:i], name[i+1:]
}

// openat opens a part of a path that cut has split off, or one name.
func (d *Dir) openat(at int, name string, flags int) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC
	resolve := uint64(beneathOnly)
	if d.file != "" {
		resolve &^= unix.RESOLVE_NO_XDEV // see isMount
	}
	return uninterrupted(func() (int, error) {
		if d.syscalls.openat2 {
			return unix.Openat2(at, name, &unix.OpenHow{Flags: uint64(flags), Resolve: resolve})
		}
		return unix.Openat(at, name, flags, 0)
	})
}

// quietly opens without leaving a trace in the access time, where that is allowed: to the owner and
// to CAP_FOWNER.
func quietly(open func(flags int) (int, error)) (int, error) {
	fd, err := open(unix.O_NOATIME)
	if err == unix.EPERM {
		return open(0)
	}
	return fd, err
}

// uninterrupted calls f again for as long as a signal interrupts it.
func uninterrupted(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); err != unix.EINTR {
			return n, err
		}
	}
}

// isPath tells whether a string is the path of a node below the root of a tree.
func isPath(s string) bool {
	return s != "" && s != "." && s != ".." && s[0] != '/' && !strings.HasPrefix(s, "../") && path.Clean(s) == s
}

// isGone tells whether an error of opening a path beneath the root says that what was there is no
// longer: it was removed, replaced, or something was mounted on the way.
func isGone(err error) bool {
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV:
		return true
	}
	return false
}

// isScarce tells whether an error concerns this process or machine rather than one node.
func isScarce(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// statx describes a name in a directory, or with an empty name the open file itself.
func statx(dir int, name string) (st unix.Statx_t, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	for {
		err = unix.Statx(dir, name, flags, unix.STATX_BASIC_STATS, &st)
		if err != unix.EINTR {
			return st, err
		}
	}
}

// entryOf is what stat says of a node.
func entryOf(st *unix.Statx_t) archive.Entry {
	e := archive.Entry{
		Mode:  uint32(st.Mode) & 0o7777,
		UID:   st.Uid,
		GID:   st.Gid,
		MTime: archive.Time{Sec: st.Mtime.Sec, Nsec: int32(st.Mtime.Nsec)},
		CTime: archive.Time{Sec: st.Ctime.Sec, Nsec: int32(st.Ctime.Nsec)},
		Ino:   st.Ino,
		Dev:   unix.Mkdev(st.Dev_major, st.Dev_minor),
		Nlink: st.Nlink,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = archive.Dir
	case unix.S_IFREG:
		e.Type, e.Size = archive.File, int64(st.Size)
	case unix.S_IFLNK:
		e.Type = archive.Symlink
	case unix.S_IFCHR:
		e.Type, e.Rdev = archive.CharDevice, unix.Mkdev(st.Rdev_major, st.Rdev_minor)
	case unix.S_IFBLK:
		e.Type, e.Rdev = archive.BlockDevice, unix.Mkdev(st.Rdev_major, st.Rdev_minor)
	case unix.S_IFIFO:
		e.Type = archive.FIFO
	case unix.S_IFSOCK:
		e.Type = archive.Socket
	}
	return e
}

// isMount tells whether something is mounted at a node, other than at the root. Kernels before 5.8
// do not say so: there it is told by the device, which misses a bind mount from the same one. A
// single file that was opened as a tree is asked for by its own name, so it may well be a mount (as
// it is in a helper container): what is mounted there is what is meant.
func (d *Dir) isMount(st *unix.Statx_t) bool {
	if d.file != "" {
		return false
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor) != d.dev
}

// listDir returns the names of an open directory, sorted, as far as they could be read.
func listDir(fd int, buf []byte) (names []string, err error) {
	for {
		n, err := uninterrupted(func() (int, error) { return unix.Getdents(fd, buf) })
		if n <= 0 || err != nil {
			slices.Sort(names)
			return slices.Compact(names), err // a name that moves meanwhile may be met twice
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}

// xattrMax is the most that a list of attributes takes, and a value.
const xattrMax = 64 << 10

// xattrs reads the extended attributes of a node into its entry.
func (d *Dir) xattrs(dir int, name string, e *archive.Entry, buf []byte) error {
	n, err := d.listxattr(dir, name, buf)
	if n <= 0 || err != nil {
		if err == unix.ENOTSUP {
			err = nil
		}
		return err
	}
	var errs []error
	attrs := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(attrs)
	for _, attr := range attrs {
		if attr == "security.selinux" || attr == "security.evm" {
			continue
		}
		n, err := unix.Lgetxattr(byFD(dir, name), attr, buf)
		switch {
		case err == unix.ENODATA: // gone since it was listed
		case err != nil:
			errs = append(errs, fmt.Errorf("attribute %s: %w", attr, err))
		case d.opts.Overlay && strings.HasPrefix(attr, overlayPrefix):
			errs = append(errs, overlayXattr(e, attr, buf[:n]))
		default:
			e.Xattrs = append(e.Xattrs, archive.Xattr{Name: attr, Value: append([]byte{}, buf[:n]...)})
		}
	}
	return errors.Join(errs...)
}

// trust says what a ctime that has not changed shows of a node on a file system.
type trust struct {
	content bool // it was not written to, see protect
	xattrs  bool // no extended attribute was changed
}

// trustOf returns how far the file system of a directory can be trusted. What the directory holds lies
// there too: a walk does not pass mount points.
func trustOf(fd int) trust {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) != nil {
		return trust{}
	}
	switch int64(st.Type) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return trust{content: true, xattrs: true}
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		// In memory no page ever becomes clean, and an overlay hides the pages of what lies below it.
		return trust{}
	}
	return trust{content: true}
}

func (d *Dir) listxattr(dir int, name string, buf []byte) (int, error) {
	return uninterrupted(func() (int, error) {
		if d.syscalls.listxattrat {
			return listxattrat(dir, name, buf)
		}
		return unix.Llistxattr(byFD(dir, name), buf)
	})
}

// byFD is a path to a name in an open directory, for system calls that know no descriptors.
func byFD(dir int, name string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + name
}

// listxattrat is listxattrat(2), which package unix does not have yet.
func listxattrat(dir int, name string, buf []byte) (int, error) {
	p, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	n, _, errno := unix.Syscall6(unix.SYS_LISTXATTRAT, uintptr(dir), uintptr(unsafe.Pointer(p)),
		unix.AT_SYMLINK_NOFOLLOW, uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
