package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// tempPrefix begins the names of temporary files. No object's name contains its character.
const tempPrefix = "~"

// Put implements chunkstore.Backend. It leaves an object of that name as it is.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	err := s.put(ctx, name, data, true)
	if err != nil && !errors.Is(err, chunkstore.ErrExist) {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// PutIfAbsent implements chunkstore.Creator.
func (s *Store) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	if err := s.put(ctx, name, data, false); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// put returns ErrExist, with the object that is there made durable, when the name is taken. If
// replace it may instead replace the object on file systems that can do nothing better.
func (s *Store) put(ctx context.Context, name string, data []byte, replace bool) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	if err := chunkstore.CheckSize(int64(len(data))); err != nil {
		return err
	}
	parent, base := path.Split(name)
	dir, err := s.makeDir(path.Clean(parent))
	if err != nil {
		return s.explain(err)
	}
	defer dir.Close()
	temp, err := s.writeTemp(ctx, parent, data)
	if err != nil {
		return s.explain(err)
	}
	err = s.link(dir, path.Base(temp), base)
	if errors.Is(err, chunkstore.ErrUnsupported) && replace {
		err = s.root.Rename(filepath.FromSlash(temp), filepath.FromSlash(name))
	}
	taken := errors.Is(err, fs.ErrExist)
	if err != nil && !taken {
		return errors.Join(s.explain(err), s.removeTemp(temp))
	}
	if err := errors.Join(s.removeTemp(temp), syncDir(dir)); err != nil {
		return s.explain(err)
	}
	if taken {
		return chunkstore.ErrExist
	}
	return nil
}

// link gives old, in dir, the name of an object unless that is taken: then the error is
// fs.ErrExist. Afterwards old may or may not be there. ErrUnsupported means that the file system
// offers no way that could not replace an object.
func link(dir *os.File, old, name string) error {
	fd := int(dir.Fd())
	err := unix.Linkat(fd, old, fd, name, 0)
	if lacks(err) {
		err = unix.Renameat2(fd, old, fd, name, unix.RENAME_NOREPLACE)
	}
	if lacks(err) {
		return fmt.Errorf("%w: the file system has neither hard links nor RENAME_NOREPLACE", chunkstore.ErrUnsupported)
	}
	if err != nil {
		return &fs.PathError{Op: "link", Path: name, Err: err}
	}
	return nil
}

// lacks reports whether err is what file systems answer for an operation that they do not have.
// EPERM is what link(2) documents for it; other reasons for EPERM show in the rename that follows.
func lacks(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EOPNOTSUPP) ||
		errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS)
}

// writeTemp writes data durably to a new temporary file in dir, which ends in a slash or is empty,
// and returns its name.
func (s *Store) writeTemp(ctx context.Context, dir string, data []byte) (string, error) {
	temp := dir + tempPrefix + rand.Text()
	f, err := s.root.OpenFile(filepath.FromSlash(temp), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return "", err
	}
	err = errors.Join(writeAll(ctx, f, data), f.Close())
	if err != nil {
		return "", errors.Join(err, s.removeTemp(temp))
	}
	return temp, nil
}

func writeAll(ctx context.Context, f *os.File, data []byte) error {
	const piece = 4 << 20 // between two looks at ctx
	for len(data) > 0 {
		n, err := f.Write(data[:min(piece, len(data))])
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		data = data[n:]
	}
	return f.Sync()
}

func (s *Store) removeTemp(temp string) error {
	if err := s.root.Remove(filepath.FromSlash(temp)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeDir opens the directory of an object, made and synced into those above it.
func (s *Store) makeDir(dir string) (*os.File, error) {
	if err := s.ensureDir(dir); err != nil {
		return nil, err
	}
	d, err := s.openDir(dir)
	if !errors.Is(err, fs.ErrNotExist) || s.gone() {
		return d, err
	}
	// Somebody tidied empty directories away.
	s.mu.Lock()
	s.durable = map[string]bool{".": true}
	s.mu.Unlock()
	if err := s.ensureDir(dir); err != nil {
		return nil, err
	}
	return s.openDir(dir)
}

// ensureDir makes dir unless it is there, and syncs its parent once: somebody else may have made
// it a moment ago and not have synced it yet.
func (s *Store) ensureDir(dir string) error {
	s.mu.Lock()
	known := s.durable[dir]
	s.mu.Unlock()
	if known {
		return nil
	}
	parent := path.Dir(dir)
	if err := s.ensureDir(parent); err != nil {
		return err
	}
	if err := s.root.Mkdir(filepath.FromSlash(dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := s.openDir(parent)
	if err != nil {
		return err
	}
	if err := errors.Join(syncDir(d), d.Close()); err != nil {
		return err
	}
	s.mu.Lock()
	s.durable[dir] = true
	s.mu.Unlock()
	return nil
}
