package exporter_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// drain reads a content: its bytes with holes filled, and its extents in words.
func drain(t testing.TB, c archive.Content) (content []byte, extents string) {
	t.Helper()
	for {
		n, hole, err := c.Next()
		if err == io.EOF {
			return content, strings.TrimSpace(extents)
		}
		check(t, err)
		data := make([]byte, 0, n)
		if hole {
			data = make([]byte, n)
			extents += fmt.Sprintf("hole %d ", n)
		} else {
			extents += fmt.Sprintf("data %d ", n)
		}
		rest, err := io.ReadAll(c)
		check(t, err)
		if data = append(data, rest...); int64(len(data)) != n {
			t.Fatalf("extent of %d bytes has %d", n, len(data))
		}
		content = append(content, data...)
	}
}

func open(t testing.TB, tree archive.Tree, path string) archive.Content {
	t.Helper()
	c, err := tree.Open(t.Context(), archive.Entry{Path: path, Type: archive.File})
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func readAll(t testing.TB, tree archive.Tree, e archive.Entry) string {
	t.Helper()
	content, _ := drain(t, open(t, tree, e.Path))
	return string(content)
}

func TestContentExtents(t *testing.T) {
	dir := t.TempDir()
	const k = 64 << 10
	type part struct {
		off  int64
		data []byte
	}
	block := bytes.Repeat([]byte("x"), k)
	for _, test := range []struct {
		name  string
		parts []part
		size  int64
		alloc int64
		want  string
	}{
		{name: "empty", want: ""},
		{name: "small", parts: []part{{0, []byte("small")}}, want: "data 5"},
		{name: "whole", parts: []part{{0, block}, {k, block}}, want: "data 131072"},
		{name: "odd", parts: []part{{0, block}, {k, []byte("y")}}, want: "data 65537"},
		{name: "only-a-hole", size: 10 << 30, want: "hole 10737418240"},
		{name: "small-hole", size: 5000, want: "hole 5000"},
		{name: "holes", parts: []part{{k, block}, {4 * k, block}}, size: 7 * k, want: "hole 65536 data 65536 hole 131072 data 65536 hole 131072"},
		{name: "at-the-end", parts: []part{{3 * k, block}}, want: "hole 196608 data 65536"},
		{name: "preallocated", parts: []part{{0, block}}, size: 4 * k, alloc: 4 * k, want: "data 65536 hole 196608"},
		{name: "preallocated-beyond", parts: []part{{0, block}}, alloc: 4 * k, want: "data 65536"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(dir, test.name)
			f, err := os.Create(path)
			check(t, err)
			if test.alloc > 0 {
				check(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, test.alloc))
			}
			for _, p := range test.parts {
				_, err := f.WriteAt(p.data, p.off)
				check(t, err)
			}
			if test.size > 0 {
				check(t, f.Truncate(test.size))
			}
			check(t, f.Close())
			d := openDir(t, dir, exporter.DirOptions{})
			if test.size > 1<<30 {
				if n, hole, err := open(t, d, test.name).Next(); n != test.size || !hole || err != nil {
					t.Errorf("%d, %v, %v", n, hole, err)
				}
				return
			}
			content, extents := drain(t, open(t, d, test.name))
			want, err := os.ReadFile(path)
			check(t, err)
			if !bytes.Equal(content, want) || extents != test.want {
				t.Errorf("extents %q, want %q; content equal: %v", extents, test.want, bytes.Equal(content, want))
			}
			for _, off := range []int64{1, k - 1, k, 3*k + 5, int64(len(want)), int64(len(want)) + 1} {
				c, err := d.OpenAt(t.Context(), archive.Entry{Path: test.name}, off)
				check(t, err)
				content, _ := drain(t, c)
				check(t, c.Close())
				if !bytes.Equal(content, want[min(off, int64(len(want))):]) {
					t.Errorf("from %d on: %d bytes, which are not those", off, len(content))
				}
			}
		})
	}
}

// TestContentChanges changes a file between opening and reading it.
func TestContentChanges(t *testing.T) {
	block := bytes.Repeat([]byte("x"), 200_000)
	for _, test := range []struct {
		name   string
		change func(path string) error
		want   int // bytes of the old content, the rest is zeros
	}{
		{"nothing", func(string) error { return nil }, 200_000},
		{"shrinks", func(p string) error { return os.Truncate(p, 1000) }, 1000},
		{"emptied", func(p string) error { return os.Truncate(p, 0) }, 0},
		{"grows", func(p string) error { return os.Truncate(p, 1<<20) }, 200_000},
		{"removed", os.Remove, 200_000},
		{"replaced", func(p string) error {
			return errors.Join(os.WriteFile(p+"2", nil, 0o600), os.Rename(p+"2", p))
		}, 200_000},
		{"hidden", func(p string) error { return os.Chmod(p, 0) }, 200_000},
	} {
		for _, started := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, started), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "f")
				check(t, os.WriteFile(path, block, 0o644))
				c := open(t, openDir(t, dir, exporter.DirOptions{}), "f")
				before, err := c.Stat()
				check(t, err)
				if started { // the whole is one extent then
					_, _, err := c.Next()
					check(t, err)
					check(t, test.change(path))
					content, err := io.ReadAll(c)
					check(t, err)
					checkTorn(t, content, test.want)
				} else {
					check(t, test.change(path))
					content, _ := drain(t, c)
					checkTorn(t, content, test.want)
				}
				after, err := c.Stat()
				check(t, err)
				if (before.CTime == after.CTime) != (test.name == "nothing") {
					t.Errorf("ctime was %v, is %v", before.CTime, after.CTime)
				}
			})
		}
	}
}

func checkTorn(t *testing.T, content []byte, kept int) {
	t.Helper()
	if len(content) != 200_000 {
		t.Fatalf("%d bytes", len(content))
	}
	if strings.Trim(string(content[:kept]), "x") != "" || strings.Trim(string(content[kept:]), "\x00") != "" {
		t.Errorf("not %d bytes and then zeros", kept)
	}
}

// TestOpenReplaced puts something else in the place of a file that Walk has seen.
func TestOpenReplaced(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	check(t, os.Mkdir(outside, 0o755))
	write(t, outside, "file", "dir/file")
	for name, replace := range map[string]func(file, dir string) error{
		"nothing": func(file, dir string) error { return os.RemoveAll(dir) },
		"fifo":    func(file, dir string) error { return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)) },
		"socket": func(file, dir string) error {
			return errors.Join(os.Remove(file), unix.Mknod(file, unix.S_IFSOCK|0o600, 0))
		},
		"directory":   func(file, dir string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o700)) },
		"symlink":     func(file, dir string) error { return errors.Join(os.Remove(file), os.Symlink(outside+"/file", file)) },
		"parent link": func(file, dir string) error { return errors.Join(os.RemoveAll(dir), os.Symlink(outside, dir)) },
		"parent link inside": func(file, dir string) error {
			return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(filepath.Base(dir)+"2", dir))
		},
		"parent file": func(file, dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600)) },
	} {
		for _, old := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " ", old), func(t *testing.T) {
				dir := t.TempDir()
				write(t, dir, "dir/file")
				d := openDir(t, dir, exporter.DirOptions{})
				if old {
					d.ForgetSyscalls()
				}
				got := walk(t, d)
				check(t, replace(filepath.Join(dir, "dir/file"), filepath.Join(dir, "dir")))
				c, err := d.Open(t.Context(), got[2])
				if !errors.Is(err, archive.ErrVanished) {
					t.Errorf("%v, %v", c, err)
				}
			})
		}
	}
}

func TestOpenOutside(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "in/file", "out")
	for _, old := range []bool{false, true} {
		d := openDir(t, filepath.Join(dir, "in"), exporter.DirOptions{})
		if old {
			d.ForgetSyscalls()
		}
		for _, path := range []string{"", ".", "..", "../out", "/etc/passwd", "file/../../out", "./file", "file/", "a//b", "file\x00"} {
			if c, err := d.Open(t.Context(), archive.Entry{Path: path}); err == nil {
				t.Errorf("%q opens: %v", path, c)
			}
		}
	}
}

// TestContentDoesNotTouch: reading leaves the access time alone.
func TestContentDoesNotTouch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "d/file")
	atime := func(name string) unix.StatxTimestamp {
		var st unix.Statx_t
		check(t, unix.Statx(unix.AT_FDCWD, filepath.Join(dir, name), 0, unix.STATX_ATIME, &st))
		return st.Atime
	}
	setTimes(t, filepath.Join(dir, "d/file"), archive.Time{Sec: 5})
	setTimes(t, filepath.Join(dir, "d"), archive.Time{Sec: 5})
	d := openDir(t, dir, exporter.DirOptions{})
	for _, e := range walk(t, d) {
		if e.Type == archive.File {
			readAll(t, d, e)
		}
	}
	for _, name := range []string{"d", "d/file"} {
		if diff := cmp.Diff(int64(5), atime(name).Sec); diff != "" {
			t.Errorf("%s was accessed: %s", name, diff)
		}
	}
}
