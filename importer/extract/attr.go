package extract

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// handle is a node that is open, and a name of it.
type handle struct {
	fd    int
	path  bool // opened with O_PATH, as all but files and directories are
	there bool // it was there before, and may have attributes
	at    int  // the directory of name
	name  string
}

// setAttributes gives a node all that its record says beside its content. The order matters: a new
// owner takes away setuid bits and capabilities, an ACL changes the mode, and a mode may take away
// the right to do the rest.
func (x *extractor) setAttributes(h handle, e *archive.Entry) error {
	mode := e.Mode & 0o7777
	owned, err := x.setOwner(h.fd, e)
	if err != nil {
		return err
	}
	if !owned {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if h.there {
		x.dropXattrs(h.fd, e)
	}
	if err := x.setXattrs(h.fd, e); err != nil {
		return err
	}
	if err := setTime(h, e.MTime); err != nil {
		return err
	}
	if e.Type == archive.Symlink {
		return nil // all of them have 0777
	}
	if h.path {
		err = unix.Fchmodat(unix.AT_FDCWD, byFD(h.fd), mode, 0)
	} else {
		err = unix.Fchmod(h.fd, mode)
	}
	if err != nil {
		return fmt.Errorf("chmod %#o: %w", mode, err)
	}
	return nil
}

// setOwner tells whether the owner is the recorded one now.
func (x *extractor) setOwner(fd int, e *archive.Entry) (bool, error) {
	err := unix.Fchownat(fd, "", int(e.UID), int(e.GID), unix.AT_EMPTY_PATH)
	switch err {
	case nil:
		return true, nil
	case unix.EPERM, unix.EINVAL, unix.ENOTSUP: // not root, a user namespace, a file system of another kind
		if !x.alien {
			x.alien = true
			x.note("", "owners are not restored, nor setuid and setgid bits: %v (first %q)", err, e.Path)
		}
		return false, nil
	}
	return false, fmt.Errorf("chown %d:%d: %w", e.UID, e.GID, err)
}

func setTime(h handle, t archive.Time) error {
	mtime, err := unix.TimeToTimespec(time.Unix(t.Sec, int64(t.Nsec)))
	if err != nil {
		return fmt.Errorf("time %d.%09d: %w", t.Sec, t.Nsec, err)
	}
	atime := unix.Timespec{Nsec: unix.UTIME_OMIT}
	if err := unix.UtimesNanoAt(h.at, h.name, []unix.Timespec{atime, mtime}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

// The overlay driver's own attributes. Those of an overlay inside the container are escaped.
const (
	overlayPrefix  = "trusted.overlay."
	overlayEscaped = "trusted.overlay.overlay."
	overlayOpaque  = "trusted.overlay.opaque"
)

// isDriver tells whether an attribute would speak to the overlay driver: a record must not, it
// could make files of the host's other layers appear in the container.
func (x *extractor) isDriver(name string) bool {
	return x.opts.Overlay && strings.HasPrefix(name, overlayPrefix) && !strings.HasPrefix(name, overlayEscaped)
}

func (x *extractor) setXattrs(fd int, e *archive.Entry) error {
	if e.Opaque && x.opts.Overlay {
		if err := unix.Setxattr(byFD(fd), overlayOpaque, []byte("y"), 0); err != nil {
			return fmt.Errorf("make opaque: %w", err)
		}
	}
	for _, attr := range e.Xattrs {
		err := errors.New("it is the overlay driver's")
		if !x.isDriver(attr.Name) {
			err = unix.Setxattr(byFD(fd), attr.Name, attr.Value, 0)
		}
		if err != nil {
			x.note(e.Path, "attribute %s is not restored: %v", attr.Name, err)
		}
	}
	return nil
}

// dropXattrs removes the attributes that a record does not have.
func (x *extractor) dropXattrs(fd int, e *archive.Entry) {
	buf := make([]byte, 64<<10)
	n, err := unix.Listxattr(byFD(fd), buf)
	if n <= 0 || err != nil {
		return // none
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		switch {
		case slices.ContainsFunc(e.Xattrs, func(a archive.Xattr) bool { return a.Name == name }):
		case name == "security.selinux", name == "security.evm": // the host's
		case x.isDriver(name) && name != overlayOpaque: // where the directory came from
		default:
			if err := unix.Removexattr(byFD(fd), name); err != nil && err != unix.ENODATA {
				x.note(e.Path, "attribute %s is not removed: %v", name, err)
			}
		}
	}
}
