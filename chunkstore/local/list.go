package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// List implements chunkstore.Backend. Directories are read one at a time, so memory is bounded by
// the largest one. It removes stale temporary files where it meets them.
func (s *Store) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	if err := chunkstore.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	parent, _ := path.Split(prefix)
	var failed error // fn's, which goes back as it is
	err := s.walk(ctx, parent, prefix, func(info chunkstore.Info) error {
		failed = fn(info)
		return failed
	})
	if err != nil && failed == nil {
		return fmt.Errorf("list %s: %w", prefix, s.explain(err))
	}
	return err
}

// walk lists what is below dir, which ends in a slash or is empty, and begins with prefix.
func (s *Store) walk(ctx context.Context, dir, prefix string, fn func(chunkstore.Info) error) error {
	names, err := s.readDir(ctx, dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		full := dir + name
		switch {
		case strings.HasSuffix(name, "/"):
			if !strings.HasPrefix(full, prefix) && !strings.HasPrefix(prefix, full) {
				continue
			}
			if err := s.walk(ctx, full, prefix, fn); err != nil {
				return err
			}
		case strings.HasPrefix(full, prefix):
			if err := s.visit(ctx, full, fn); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// visit calls fn for the object unless it has gone or is none.
func (s *Store) visit(ctx context.Context, name string, fn func(chunkstore.Info) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fi, err := s.root.Stat(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return nil
	}
	return fn(chunkstore.Info{Name: name, Size: fi.Size(), Modified: fi.ModTime()})
}

// readDir returns the names in dir in the order in which their objects' full names sort:
// directories carry a slash at the end, which is more than '-' and '.' and less than letters. A
// directory that does not exist is empty.
func (s *Store) readDir(ctx context.Context, dir string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := s.entries(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		switch {
		case strings.HasPrefix(name, tempPrefix):
			s.removeStale(dir+name, e)
		case chunkstore.CheckName(name) != nil: // not ours: lost+found/, .DS_Store is harmless
		case s.isDir(dir+name, e):
			names = append(names, name+"/")
		default:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (s *Store) entries(dir string) ([]fs.DirEntry, error) {
	d, err := s.openDir(path.Clean(dir))
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrNotExist) && !s.gone() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.ReadDir(-1)
}

// isDir reports whether the entry is a directory or a symbolic link to one.
func (s *Store) isDir(name string, e fs.DirEntry) bool {
	if e.Type()&fs.ModeSymlink == 0 {
		return e.IsDir()
	}
	fi, err := s.root.Stat(filepath.FromSlash(name))
	return err == nil && fi.IsDir()
}

// removeStale removes a temporary file that nobody can still be writing. What cannot be removed,
// say on a medium that is read-only, only stays.
func (s *Store) removeStale(name string, e os.DirEntry) {
	if fi, err := e.Info(); err == nil && fi.Mode().IsRegular() && time.Since(fi.ModTime()) > s.stale {
		s.root.Remove(filepath.FromSlash(name))
	}
}
