package test

// Trees of files as the host sees them, to be compared.

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// tree is what a directory holds, by path; the directory itself is ".".
type tree map[string]node

// node is all that must come back of one name.
type node struct {
	Mode     uint32 // with the type
	UID, GID uint32
	Links    uint64 // not of a directory
	First    string // of a node with several names: the one that sorts first
	Size     int64  // not of a directory
	Blocks   int64  // of 512 bytes, of a file
	Data     []span // of a file: where it is not a hole
	Sum      string // of the data
	Target   string // of a symbolic link
	Device   uint64
	Xattrs   map[string]string
	Sec      int64
	Nsec     int64
}

// span is a part of a file: from, up to.
type span [2]int64

// readTree reads a tree but for some paths, and what is beneath them; without "." only the
// directory itself is left out.
func readTree(t testing.TB, dir string, except ...string) tree {
	t.Helper()
	all, firsts := tree{}, map[[2]uint64]string{}
	// The slash makes it go through the symbolic link that /proc/PID/root is.
	err := filepath.WalkDir(dir+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if slices.Contains(except, name) {
			if name != "." && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		all[name], err = readNode(path, name, firsts)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readNode(path, name string, firsts map[[2]uint64]string) (node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return node{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	n := node{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Device: st.Rdev, Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}
	var err error
	n.Xattrs, err = readXattrs(path)
	kind := st.Mode & unix.S_IFMT
	if err != nil || kind == unix.S_IFDIR {
		return n, err
	}
	n.Size, n.Links = st.Size, st.Nlink
	if st.Nlink > 1 {
		key := [2]uint64{st.Dev, st.Ino}
		if firsts[key] == "" {
			firsts[key] = name
		}
		n.First = firsts[key]
	}
	switch kind {
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		n.Blocks = st.Blocks
		n.Data, n.Sum, err = readData(path, st.Size)
	}
	return n, err
}

func readXattrs(path string) (map[string]string, error) {
	all, buf := map[string]string{}, make([]byte, 64<<10)
	size, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// readData reads a file without its holes.
func readData(path string, size int64) (data []span, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	h := sha256.New()
	for at := int64(0); at < size; {
		from, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, "", err
		}
		if at, err = unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE); err != nil {
			return nil, "", err
		}
		part := make([]byte, at-from)
		if _, err := f.ReadAt(part, from); err != nil {
			return nil, "", err
		}
		h.Write(part)
		data = append(data, span{from, at})
	}
	return data, hex.EncodeToString(h.Sum(nil)), nil
}

// compareTrees reports each difference by its name.
func compareTrees(t testing.TB, got, want map[string]tree) {
	t.Helper()
	for place, w := range want {
		names := maps.Clone(w)
		maps.Copy(names, got[place])
		for _, name := range slices.Sorted(maps.Keys(names)) {
			g, there := got[place][name]
			n, wanted := w[name]
			switch {
			case !there:
				t.Errorf("%s: %q is missing", place, name)
			case !wanted:
				t.Errorf("%s: %q should not be there", place, name)
			default:
				if diff := cmp.Diff(n, g); diff != "" {
					t.Errorf("%s: %q (-want +got)\n%s", place, name, diff)
				}
			}
		}
	}
}
