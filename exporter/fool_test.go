package exporter_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// saved is a Saver that keeps chunks by what they hold.
type saved struct {
	mu     sync.Mutex
	chunks map[chunkstore.ID][]byte
}

func newSaved() *saved { return &saved{chunks: map[chunkstore.ID][]byte{}} }

func (s *saved) Save(_ context.Context, _ chunkstore.Kind, plain []byte) (chunkstore.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := chunkstore.ID(sha256.Sum256(plain))
	s.chunks[id] = slices.Clone(plain)
	return id, nil
}

func (s *saved) Split(ctx context.Context, kind chunkstore.Kind, r io.Reader) ([]chunkstore.Ref, error) {
	plain, err := io.ReadAll(r)
	if err != nil || len(plain) == 0 {
		return nil, err
	}
	id, err := s.Save(ctx, kind, plain)
	return []chunkstore.Ref{{ID: id, Length: uint32(len(plain))}}, err
}

func (s *saved) Keep(ids ...chunkstore.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(ids, func(id chunkstore.ID) bool { return s.chunks[id] == nil })
}

// content is what the records say that a file holds.
func (s *saved) content(e archive.Entry) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := slices.Clone(e.Inline)
	for _, x := range e.Extents {
		if x.Hole {
			b = append(b, make([]byte, x.Length)...)
		}
		for _, r := range x.Refs {
			b = append(b, s.chunks[r.ID][r.Offset:][:r.Length]...)
		}
	}
	return string(b)
}

// night is one pass over a directory against the one before.
func night(t *testing.T, s *saved, dir string, before *archive.Spool) (*archive.Spool, archive.TreeStats) {
	t.Helper()
	spool, err := archive.NewSpool()
	check(t, err)
	var o archive.TreeOptions
	if before != nil {
		o.Previous = before.Records()
	}
	stats, err := archive.WriteTree(t.Context(), openDir(t, dir, exporter.DirOptions{}), s, spool, o)
	check(t, err)
	return spool, stats
}

func record(t *testing.T, spool *archive.Spool, path string) archive.Entry {
	t.Helper()
	for e, err := range spool.Records() {
		check(t, err)
		if e.Path == path {
			return e
		}
	}
	t.Fatalf("no record of %q", path)
	return archive.Entry{}
}

// mapped maps a file into memory, shared and to be written.
func mapped(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	st, err := f.Stat()
	check(t, err)
	m, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	t.Cleanup(func() { check(t, unix.Munmap(m)) })
	return m
}

// What is changed so that size and mtime stay is found all the same. (What nothing but a full read
// could find, such as a clock that was set back to the nanosecond of the last change, is what --rescan
// is for.)
func TestStatIsNotFooled(t *testing.T) {
	const size = 3000
	old, changed := string(slices.Repeat([]byte("old "), size/4)), string(slices.Repeat([]byte("new "), size/4))
	overwrite := func(t *testing.T, path, content string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		check(t, err)
		_, err = f.WriteString(content)
		check(t, err)
		check(t, f.Close())
	}
	for name, trick := range map[string]struct {
		prepare func(t *testing.T, path string)
		change  func(t *testing.T, path string) // the mtime is put back after it
		content string
		xattr   string
		hasty   bool // no time passes between the changes and the passes
	}{
		"nothing":      {content: old},
		"same size":    {content: changed, change: func(t *testing.T, path string) { overwrite(t, path, changed) }},
		"at once":      {content: changed, hasty: true, change: func(t *testing.T, path string) { overwrite(t, path, changed) }},
		"another file": {content: changed, change: func(t *testing.T, path string) { overwrite2(t, path, changed) }},
		"grown and cut": {content: old, change: func(t *testing.T, path string) {
			check(t, os.Truncate(path, 2*size))
			check(t, os.Truncate(path, size))
		}},
		"attribute":       {content: old, xattr: "set", change: func(t *testing.T, path string) { check(t, unix.Setxattr(path, "user.a", []byte("set"), 0)) }},
		"attribute again": {content: old, xattr: "two", prepare: func(t *testing.T, path string) { check(t, unix.Setxattr(path, "user.a", []byte("one"), 0)) }, change: func(t *testing.T, path string) { check(t, unix.Setxattr(path, "user.a", []byte("two"), 0)) }},
		"attribute gone":  {content: old, prepare: func(t *testing.T, path string) { check(t, unix.Setxattr(path, "user.a", []byte("one"), 0)) }, change: func(t *testing.T, path string) { check(t, unix.Removexattr(path, "user.a")) }},
		"attribute kept":  {content: old, xattr: "one", prepare: func(t *testing.T, path string) { check(t, unix.Setxattr(path, "user.a", []byte("one"), 0)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, s := t.TempDir(), newSaved()
			path := filepath.Join(dir, "f")
			check(t, os.WriteFile(path, []byte(old), 0o644))
			if trick.prepare != nil {
				trick.prepare(t, path)
			}
			st, err := os.Stat(path)
			check(t, err)
			wait := func() {
				if !trick.hasty {
					time.Sleep(50 * time.Millisecond) // more than the clock of time stamps is coarse
				}
			}
			wait()
			first, _ := night(t, s, dir, nil)
			wait()
			if trick.change != nil {
				trick.change(t, path)
				check(t, os.Chtimes(path, time.Time{}, st.ModTime()))
			}
			second, stats := night(t, s, dir, first)
			e := record(t, second, "f")
			if got := s.content(e); got != trick.content {
				t.Errorf("the content is %.12q, want %.12q", got, trick.content)
			}
			xattr := ""
			if len(e.Xattrs) > 0 {
				xattr = string(e.Xattrs[0].Value)
			}
			if xattr != trick.xattr {
				t.Errorf("the attribute is %q, want %q", xattr, trick.xattr)
			}
			if trick.change == nil && stats.ReadFiles != 0 && onDisk(t, dir) {
				t.Errorf("of what is unchanged %d files were read", stats.ReadFiles)
			}
		})
	}
}

// onDisk tells whether a directory lies where ctimes are trusted.
func onDisk(t *testing.T, dir string) bool {
	t.Helper()
	var st unix.Statfs_t
	check(t, unix.Statfs(dir, &st))
	return st.Type != unix.TMPFS_MAGIC && st.Type != unix.OVERLAYFS_SUPER_MAGIC
}

// overwrite2 puts another file of the same size and time in the place of one.
func overwrite2(t *testing.T, path, content string) {
	t.Helper()
	check(t, os.WriteFile(path+".new", []byte(content), 0o644))
	check(t, os.Rename(path+".new", path))
}

// In memory nothing tells what was written through a mapping: files there are read each time, and are
// not taken for torn because of it.
func TestMemoryIsNotTrusted(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "hakobune-test-")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	var st unix.Statfs_t
	if check(t, unix.Statfs(dir, &st)); st.Type != unix.TMPFS_MAGIC {
		t.Fatalf("/dev/shm is no tmpfs but %#x", st.Type)
	}
	s, path := newSaved(), filepath.Join(dir, "f")
	check(t, os.WriteFile(path, make([]byte, 5000), 0o644))
	m := mapped(t, path)
	copy(m, "first")
	time.Sleep(50 * time.Millisecond)
	first, stats := night(t, s, dir, nil)
	if stats.Torn != 0 {
		t.Errorf("%d files are torn", stats.Torn)
	}
	copy(m, "later")
	second, _ := night(t, s, dir, first)
	if got := s.content(record(t, second, "f"))[:5]; got != "later" {
		t.Errorf("the second pass has %q, the mapping %q", got, m[:5])
	}
}

// Whoever writes through a mapping is noticed by the kernel when a page becomes dirty: what is written
// to a page that is dirty already changes no time until that was written to disk.
func TestMappedWritesAreSeen(t *testing.T) {
	for i := range 5 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			dir, s := t.TempDir(), newSaved()
			path := filepath.Join(dir, "f")
			check(t, os.WriteFile(path, make([]byte, 300<<10), 0o644))
			m := mapped(t, path)
			copy(m, "first")
			time.Sleep(50 * time.Millisecond)
			first, _ := night(t, s, dir, nil)
			time.Sleep(50 * time.Millisecond)
			copy(m, "later")
			second, _ := night(t, s, dir, first)
			if got := s.content(record(t, second, "f"))[:5]; got != "later" {
				t.Errorf("the second pass has %q, the mapping %q", got, m[:5])
			}
		})
	}
}
