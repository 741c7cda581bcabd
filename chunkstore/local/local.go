// Package local is a backend in a directory.
//
// An object is a file of the same name below the directory, mode 0400, in directories of mode
// 0700. It is written to a temporary file beside its final place, synced, and linked to its name
// with link(2), which never replaces; then the directory is synced, and before the first object in
// a directory also everything above it. So after a crash at any moment a name holds the whole
// object or nothing, and what Put reported is there. Temporary files begin with "~", which no
// name contains; whoever lists a directory removes those that a crash left behind a day before.
//
// File systems without hard links (FAT, some network shares) get renameat2(2) with
// RENAME_NOREPLACE instead. Where that is missing too, Put renames and PutIfAbsent is
// chunkstore.ErrUnsupported.
//
// The directory is held open: an object never lands on what lies under an unmounted disk, and
// symbolic links inside are followed only as long as they stay inside.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Store is a repository's directory.
type Store struct {
	dir   string
	root  *os.Root
	stale time.Duration
	link  func(dir *os.File, old, name string) error // nothing but link(2), but for a test

	mu      sync.Mutex
	durable map[string]bool // directories that this Store has synced into the one above
}

// Options adjust a Store. The zero value is usable.
type Options struct {
	// StaleAfter is the age from which a temporary file belongs to nobody and is removed when seen.
	// Default 24 hours: no write of one object takes that long.
	StaleAfter time.Duration
}

var (
	_ chunkstore.Backend = (*Store)(nil)
	_ chunkstore.Creator = (*Store)(nil)
)

// Create makes the directory, and those above it, unless it is there already.
func Create(dir string) error {
	if err := makeDurable(dir); err != nil {
		return fmt.Errorf("create repository directory %s: %w", dir, explain(err))
	}
	return nil
}

// makeDurable makes dir and what is missing above it, and syncs each new one into its parent.
func makeDurable(dir string) error {
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeDurable(filepath.Dir(filepath.Clean(dir))); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	case errors.Is(err, fs.ErrExist):
		return needDir(os.Stat(dir))
	}
	if err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(filepath.Clean(dir)))
	if err != nil {
		return err
	}
	return errors.Join(syncDir(parent), parent.Close())
}

// syncDir makes the names in d durable. Some file systems cannot and say so; there nothing is left
// to be done.
func syncDir(d *os.File) error {
	err := d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		return nil
	}
	return err
}

func needDir(fi fs.FileInfo, err error) error {
	if err == nil && !fi.IsDir() {
		return syscall.ENOTDIR
	}
	return err
}

// Open returns the backend in dir. A missing directory is chunkstore.ErrNoStore. Close releases it.
func Open(dir string, o Options) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open repository directory %s: %w", dir, err)
	}
	root, err := os.OpenRoot(abs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open repository directory %s: %w", dir, chunkstore.ErrNoStore)
	}
	if err != nil {
		return nil, fmt.Errorf("open repository directory %s: %w", dir, explain(err))
	}
	if o.StaleAfter == 0 {
		o.StaleAfter = 24 * time.Hour
	}
	return &Store{dir: abs, root: root, stale: o.StaleAfter, link: link, durable: map[string]bool{".": true}}, nil
}

// Close releases the directory. The Store must not be used any more.
func (s *Store) Close() error { return s.root.Close() }

// Location implements chunkstore.Backend: the directory's absolute path.
func (s *Store) Location() string { return s.dir }

// Get implements chunkstore.Backend.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := check(ctx, name); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	data, err := s.get(ctx, name, off, n)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, s.explain(err))
	}
	return data, nil
}

func (s *Store) get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	// Without O_NONBLOCK a FIFO in place of an object would block for ever.
	f, err := s.root.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, chunkstore.ErrNotExist
	}
	if n, err = chunkstore.Span(fi.Size(), off, n); err != nil {
		return nil, err
	}
	data := make([]byte, n)
	const piece = 4 << 20 // between two looks at ctx
	for done := int64(0); done < n; done += piece {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := data[done:min(done+piece, n)]
		if m, err := f.ReadAt(part, off+done); m < len(part) {
			return nil, fmt.Errorf("at offset %d: %w", off+done+int64(m), noEOF(err))
		}
	}
	return data, nil
}

// noEOF turns the end of a file that is shorter than its size said into an error that no caller
// takes for the regular end.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Stat implements chunkstore.Backend.
func (s *Store) Stat(ctx context.Context, name string) (chunkstore.Info, error) {
	if err := check(ctx, name); err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	fi, err := s.root.Stat(filepath.FromSlash(name))
	if err == nil && !fi.Mode().IsRegular() {
		err = chunkstore.ErrNotExist
	}
	if err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", name, s.explain(err))
	}
	return chunkstore.Info{Name: name, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

// Delete implements chunkstore.Backend. It leaves empty directories, since another host may be
// about to write into them.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if err := s.explain(s.unlink(name)); err != nil && !errors.Is(err, chunkstore.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

// unlink removes a file, never a directory, and makes that durable: an object that came back after
// a crash could refer to others that have gone.
func (s *Store) unlink(name string) error {
	dir, err := s.openDir(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Unlinkat(int(dir.Fd()), path.Base(name), 0)
	if err == unix.EISDIR {
		return fs.ErrNotExist
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

// openDir opens the directory dir.
func (s *Store) openDir(dir string) (*os.File, error) {
	return s.root.OpenFile(filepath.FromSlash(dir), os.O_RDONLY|syscall.O_DIRECTORY, 0)
}

func check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return chunkstore.CheckName(name)
}

// explain is the function explain, except that what is missing because the whole directory was
// removed is ErrNoStore.
func (s *Store) explain(err error) error {
	err = explain(err)
	if errors.Is(err, chunkstore.ErrNotExist) && s.gone() {
		return fmt.Errorf("%s: %w", s.dir, chunkstore.ErrNoStore)
	}
	return err
}

// gone reports whether the directory, which is held open, has been removed.
func (s *Store) gone() bool {
	fi, err := s.root.Stat(".")
	if err != nil {
		return true
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && st.Nlink == 0
}

// explain gives an error of the operating system the sentinel that callers look for.
func explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%w (%w)", chunkstore.ErrNotExist, err)
	case errors.Is(err, fs.ErrPermission): // EACCES, EPERM
		return fmt.Errorf("%w (%w)", chunkstore.ErrAccess, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the file system is mounted read-only: %w (%w)", chunkstore.ErrAccess, err)
	case errors.Is(err, syscall.ENOSPC):
		return chunkstore.Permanent(fmt.Errorf("the file system is full: %w", err))
	case errors.Is(err, syscall.EDQUOT):
		return chunkstore.Permanent(fmt.Errorf("the disk quota is used up: %w", err))
	}
	return err
}
