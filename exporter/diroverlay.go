package exporter

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// overlayPrefix begins the attributes in which the overlay driver of Linux keeps its own notes.
const overlayPrefix = "trusted.overlay."

// overlayXattr takes in one attribute of the overlay driver, as described in the kernel's
// Documentation/filesystems/overlayfs.rst.
func overlayXattr(e *archive.Entry, attr string, value []byte) error {
	switch note := strings.TrimPrefix(attr, overlayPrefix); {
	case note == "opaque":
		// "x" would say that xattr whiteouts may be inside, and is not opaque.
		e.Opaque = e.Type == archive.Dir && string(value) == "y"
	case note == "redirect", note == "metacopy":
		return &ForeignError{Path: e.Path, Xattr: attr}
	case note == "whiteout" && e.Type == archive.File && e.Size == 0:
		*e = whiteout(e.Path)
	case strings.HasPrefix(note, "overlay."):
		// Not the driver's: the escaped attribute of an overlay mount inside the container.
		e.Xattrs = append(e.Xattrs, archive.Xattr{Name: attr, Value: append([]byte{}, value...)})
	}
	return nil
}

// whiteout is the entry of a deleted name. It has nothing but its path: the driver links all
// whiteouts of a layer to one inode, whose owner, times and link count mean nothing.
func whiteout(path string) archive.Entry {
	return archive.Entry{Path: path, Type: archive.Whiteout}
}

// isWhiteout tells whether an entry of an upper directory says that the name below is deleted.
func isWhiteout(e *archive.Entry) bool { return e.Type == archive.CharDevice && e.Rdev == 0 }

// readsTrusted tells whether this process sees trusted.* attributes. Where it may not, the kernel
// hides them without an error, so this asks by writing one to a file in memory.
func readsTrusted() bool {
	fd, err := unix.MemfdCreate("trusted", unix.MFD_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	err = unix.Fsetxattr(fd, "trusted.hakobune", []byte("y"), 0)
	return err == nil || err == unix.ENOTSUP && hasSysAdmin()
}

// hasSysAdmin tells whether CAP_SYS_ADMIN is in effect, for kernels whose files in memory have no
// attributes.
func hasSysAdmin() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}
