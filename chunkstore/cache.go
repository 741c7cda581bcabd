package chunkstore

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// cache keeps copies of whole objects as they are stored, in files named like them. What it returns
// is not to be trusted before it is verified: content-named objects by their hash, others by
// opening them. Every failure counts as a miss: the cache can only cost time.
type cache struct {
	dir string // "" for none
}

func newCache(dir, repo string) *cache {
	if dir == "" {
		return &cache{}
	}
	return &cache{filepath.Join(dir, repo)}
}

func (c *cache) path(name string) string { return filepath.Join(c.dir, filepath.FromSlash(name)) }

func (c *cache) get(name string) ([]byte, bool) {
	if c.dir == "" {
		return nil, false
	}
	b, err := os.ReadFile(c.path(name))
	return b, err == nil && len(b) > 0
}

// open opens a file too large to be read whole, and returns its size.
func (c *cache) open(name string) (*os.File, int64, error) {
	if c.dir == "" {
		return nil, 0, os.ErrNotExist
	}
	f, err := os.Open(c.path(name))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// makeDir returns the cache's directory, which it makes if need be, for files that are written in
// place.
func (c *cache) makeDir() (string, bool) {
	return c.dir, c.dir != "" && os.MkdirAll(c.dir, 0o700) == nil
}

// put stores a copy; whole or not at all, so that processes may share the directory.
func (c *cache) put(name string, data []byte) {
	if c.dir == "" {
		return
	}
	path := c.path(name)
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return
	}
	_, err = tmp.Write(data)
	if tmp.Close() != nil || err != nil || os.Rename(tmp.Name(), path) != nil {
		os.Remove(tmp.Name())
	}
}

func (c *cache) drop(name string) {
	if c.dir != "" {
		os.Remove(c.path(name))
	}
}

// keep drops the cached objects under prefix that are not among names: the repository no longer
// has them.
func (c *cache) keep(prefix string, names []string) {
	if c.dir == "" {
		return
	}
	wanted := make(map[string]bool, len(names))
	for _, n := range names {
		wanted[n] = true
	}
	filepath.WalkDir(c.path(prefix), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), ".tmp-") {
			return nil // another process may be at work in the directory
		}
		if name, err := filepath.Rel(c.dir, path); err == nil && !wanted[filepath.ToSlash(name)] {
			os.Remove(path)
		}
		return nil
	})
}
