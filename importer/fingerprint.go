package importer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// fingerprint is equal for a directory as long as nobody has changed anything in it: it is made of what lstat says
// of every node, with the inode and the time of its last change, which nobody can set. Of the directory itself, which
// is a mount point for others, only what is in it counts.
func fingerprint(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t) // Linux has no other
		h.Write(append([]byte(path[len(dir):]), 0))
		return binary.Write(h, binary.BigEndian, []int64{
			int64(st.Ino), int64(st.Nlink), int64(st.Mode), int64(st.Uid), int64(st.Gid), int64(st.Rdev), st.Size,
			st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec,
		})
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// contentPrint is the fingerprint of a directory; of a file it is made of its content too, for it stays the same when the
// file is renamed.
func contentPrint(path string) (string, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	if fi.IsDir() {
		return fingerprint(path)
	}
	st := fi.Sys().(*syscall.Stat_t)
	h := sha256.New()
	if err := binary.Write(h, binary.BigEndian, []int64{
		int64(st.Ino), int64(st.Mode), int64(st.Uid), int64(st.Gid), int64(st.Rdev), st.Size, st.Mtim.Sec, st.Mtim.Nsec,
	}); err != nil {
		return "", err
	}
	if fi.Mode().IsRegular() {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		if _, err := io.Copy(h, f); err != nil {
			return "", errors.Join(err, f.Close())
		}
		return hex.EncodeToString(h.Sum(nil)), f.Close()
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// deviceOf returns the file system that a node is in.
func deviceOf(fi fs.FileInfo) uint64 { return uint64(fi.Sys().(*syscall.Stat_t).Dev) }
