package extract_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// TestExtractHostile extracts trees that want out of their directory, or make no sense.
func TestExtractHostile(t *testing.T) {
	hard := func(path, first string) node {
		return node{Entry: archive.Entry{Path: path, Type: archive.Hardlink, Link: first}}
	}
	short := fileNode("f", "1234")
	short.Data = "123"
	sized := fileNode("f", "1234")
	sized.Size = 5
	negative := fileNode("f", "1234")
	negative.Extents = []archive.Extent{{Length: 1 << 62}, {Length: 1 << 62}, {Length: 1 << 62}, {Length: 1 << 62}, {Length: 4}}
	both := fileNode("f", "1234")
	both.Inline = []byte("1234")
	late := dirNode("a")
	late.MTime = archive.Time{Sec: 1 << 62}
	unknown := dirNode("x")
	unknown.Type = 77
	link := linkNode("link", "../outside")
	for name, nodes := range map[string][]node{
		"nothing":              {},
		"no root":              {fileNode("f", "")},
		"root is a file":       {fileNode("", "")},
		"root is a link":       {linkNode("", "../outside")},
		"two roots":            {dirNode(""), dirNode("")},
		"dotdot":               {dirNode(""), fileNode("../outside/f", "")},
		"dotdot inside":        {dirNode(""), dirNode("a"), fileNode("a/../../outside/f", "")},
		"directory dotdot":     {dirNode(""), dirNode("..")},
		"below dotdot":         {dirNode(""), dirNode(".."), fileNode("../f", "")},
		"dot":                  {dirNode(""), dirNode("."), fileNode("./f", "")},
		"absolute":             {dirNode(""), fileNode("/tmp/hakobune-hostile", "")},
		"trailing slash":       {dirNode(""), dirNode("a/")},
		"double slash":         {dirNode(""), dirNode("a"), fileNode("a//f", "")},
		"zero byte":            {dirNode(""), fileNode("a\x00b", "")},
		"long name":            {dirNode(""), fileNode(strings.Repeat("n", 256), "")},
		"through a link":       {dirNode(""), link, fileNode("link/f", "")},
		"directory at a link":  {dirNode(""), link, dirNode("link"), fileNode("link/f", "")},
		"through a file":       {dirNode(""), fileNode("a", ""), fileNode("a/f", "")},
		"without parent":       {dirNode(""), fileNode("a/b/f", "")},
		"twice":                {dirNode(""), fileNode("f", ""), fileNode("f", "")},
		"out of order":         {dirNode(""), fileNode("b", ""), fileNode("a", "")},
		"back into a":          {dirNode(""), dirNode("a"), dirNode("b"), fileNode("a/f", "")},
		"hard link out":        {dirNode(""), hard("z", "../outside/file")},
		"hard link absolute":   {dirNode(""), hard("z", "/etc/passwd")},
		"hard link by a link":  {dirNode(""), link, hard("z", "link/file")},
		"hard link to nothing": {dirNode(""), hard("z", "a")},
		"hard link to a dir":   {dirNode(""), dirNode("a"), hard("z", "a")},
		"hard link to itself":  {dirNode(""), hard("z", "z")},
		"hard link to root":    {dirNode(""), hard("z", "")},
		"link to nothing":      {dirNode(""), linkNode("l", "")},
		"content too short":    {dirNode(""), short},
		"size too large":       {dirNode(""), sized},
		"extents overflow":     {dirNode(""), negative},
		"content twice":        {dirNode(""), both},
		"unknown type":         {dirNode(""), unknown},
		"file as device":       {dirNode(""), {Entry: archive.Entry{Path: "d", Type: 0}}},
	} {
		for _, existing := range []extract.Existing{extract.Refuse, extract.Keep, extract.Remove} {
			t.Run(fmt.Sprint(name, existing), func(t *testing.T) {
				top := t.TempDir()
				dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
				ok(t, os.MkdirAll(dir, 0o755))
				ok(t, os.MkdirAll(outside, 0o755))
				ok(t, os.WriteFile(filepath.Join(outside, "file"), []byte("file"), 0o600))
				before := capture(t, outside, exporter.DirOptions{})
				_, err := extract.Tree(t.Context(), &tree{nodes: nodes}, dir, extract.Options{Existing: existing})
				if err == nil {
					t.Error("no error")
				}
				if diff := cmp.Diff(before, capture(t, outside, exporter.DirOptions{})); diff != "" {
					t.Errorf("outside: %s", diff)
				}
				if names, err := os.ReadDir(top); err != nil || len(names) != 2 {
					t.Errorf("beside it: %v, %v", names, err)
				}
			})
		}
	}
	if _, err := os.Lstat("/tmp/hakobune-hostile"); err == nil {
		t.Error("an absolute path was made")
	}
}

// asNobody calls f on a thread that is no longer root.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		var err error
		for _, call := range [][4]uintptr{
			{unix.SYS_SETGROUPS, 0, 0, 0},
			{unix.SYS_SETRESGID, 65534, 65534, 65534},
			{unix.SYS_SETRESUID, 65534, 65534, 65534},
		} {
			if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				err = errors.Join(err, errno)
			}
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	ok(t, <-done)
}

func TestExtractWithoutRoot(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	ok(t, os.Chown(dir, 65534, 65534))
	ok(t, os.Chmod(filepath.Dir(dir), 0o755))
	var notes []string
	var err error
	asNobody(t, func() {
		_, err = extract.Tree(t.Context(), &tree{nodes: sample()}, dir, extract.Options{
			Note: func(path, what string) {
				what, _, _ = strings.Cut(what, " (first") // which is that does not matter
				notes = append(notes, path+": "+what)
			},
		})
	})
	ok(t, err)
	want := []string{
		": owners are not restored, nor setuid and setgid bits: operation not permitted",
		"block: not made: a device needs root",
		"capable: attribute security.capability is not restored: operation not permitted",
		"capable: attribute trusted.t is not restored: operation not permitted",
		"char: not made: a device needs root",
		"link1: attribute trusted.l is not restored: operation not permitted",
	}
	slices.Sort(notes)
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	var all []node
	for _, n := range sample() {
		if n.Path == "block" || n.Path == "char" {
			continue
		}
		if n.Type != archive.Hardlink {
			n.UID, n.GID = 65534, 65534
			n.Mode &^= 0o6000
			n.Xattrs = slices.DeleteFunc(slices.Clone(n.Xattrs), func(a archive.Xattr) bool {
				return strings.HasPrefix(a.Name, "trusted.") || strings.HasPrefix(a.Name, "security.")
			})
		}
		if len(n.Xattrs) == 0 {
			n.Xattrs = nil
		}
		all = append(all, n)
	}
	if diff := cmp.Diff(all, capture(t, dir, exporter.DirOptions{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestExtractRaced extracts into a directory where somebody else, who may be in a container, puts
// links to the outside in the place of what is made.
func TestExtractRaced(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	ok(t, unix.Mount("none", top, "tmpfs", 0, "")) // where a sync costs nothing
	defer unix.Unmount(top, unix.MNT_DETACH)
	dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
	ok(t, os.MkdirAll(filepath.Join(outside, "f"), 0o755))
	ok(t, os.Mkdir(dir, 0o755))
	inside, err := os.OpenRoot(dir)
	ok(t, err)
	defer inside.Close()
	ok(t, os.WriteFile(filepath.Join(outside, "g"), []byte("g"), 0o600))
	before := capture(t, outside, exporter.DirOptions{})
	nodes := []node{dirNode(""), dirNode("a"), dirNode("a/b"), dirNode("a/b/f"), fileNode("a/b/f/g", "hostile"), fileNode("a/b/g", "hostile"), linkNode("a/c", "x"), {Entry: archive.Entry{Path: "a/p", Type: archive.FIFO, Mode: 0o666}}}
	for i := range nodes {
		nodes[i].UID, nodes[i].Mode = 1234, nodes[i].Mode|0o4000
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, name := range []string{"a", "a/b", "a/b/f", "a/b/g", "a/b/f/g", "a/c", "a/p"} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				inside.Rename(name, fmt.Sprint(name, ".", i%3))
				inside.Symlink(filepath.Join(outside, []string{"", "f", "g"}[i%3]), name)
				time.Sleep(time.Duration(i%7) * 20 * time.Microsecond)
			}
		})
	}
	runs, fine := 0, 0
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); runs++ {
		if _, err := extract.Tree(t.Context(), &tree{nodes: nodes}, dir, extract.Options{Existing: extract.Existing(1 + runs%2)}); err == nil {
			fine++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d of %d extractions succeeded", fine, runs)
	if diff := cmp.Diff(before, capture(t, outside, exporter.DirOptions{})); diff != "" {
		t.Errorf("outside: %s", diff)
	}
}

// hostile is a source of records made from arbitrary bytes.
type hostile struct{ in []byte }

func (h *hostile) take(n int) []byte {
	n = min(n, len(h.in))
	b := h.in[:n]
	h.in = h.in[n:]
	return b
}

func (h *hostile) string() string {
	var n [1]byte
	copy(n[:], h.take(1))
	return string(h.take(int(n[0] & 31)))
}

func (h *hostile) Next() (archive.Entry, error) {
	head := make([]byte, 16)
	if copy(head, h.take(len(head))) == 0 {
		return archive.Entry{}, io.EOF
	}
	e := archive.Entry{
		Type: archive.Type(head[0] % 11), Mode: uint32(binary.LittleEndian.Uint16(head[1:])), UID: uint32(head[3]), GID: uint32(head[4]),
		Opaque: head[5]&1 != 0, Rdev: uint64(head[6]), MTime: archive.Time{Sec: int64(int8(head[7])), Nsec: int32(head[8])},
		Path: h.string(), Link: h.string(),
	}
	if head[9]&1 != 0 {
		e.Xattrs = []archive.Xattr{{Name: h.string(), Value: h.take(3)}}
	}
	for i := range int(head[10] & 3) {
		n := int64(int8(head[11+i]))
		e.Extents = append(e.Extents, archive.Extent{Length: n, Hole: head[14]&1 != 0})
		e.Size += n
	}
	return e, nil
}

func (h *hostile) Read(p []byte) (int, error) {
	if len(h.in) == 0 {
		return 0, io.EOF
	}
	return copy(p, h.take(len(p))), nil
}

// FuzzExtract: nothing outside of the directory is touched, whatever the records.
func FuzzExtract(f *testing.F) {
	record := func(typ archive.Type, path, link string) []byte {
		b := make([]byte, 16)
		b[0], b[1] = byte(typ), 0xed
		b = append(append(b, byte(len(path))), path...)
		return append(append(b, byte(len(link))), link...)
	}
	root := record(archive.Dir, "", "")
	f.Add(slices.Concat(root, record(archive.Symlink, "l", "../outside"), record(archive.File, "l/f", "")))
	f.Add(slices.Concat(root, record(archive.Dir, "a", ""), record(archive.File, "a/f", ""), record(archive.Hardlink, "b", "a/f")))
	f.Add(slices.Concat(root, record(archive.Dir, "..", ""), record(archive.File, "../f", "")))
	f.Add(slices.Concat(root, record(archive.Hardlink, "z", "../outside/file")))
	f.Fuzz(func(t *testing.T, in []byte) {
		top := t.TempDir()
		dir, outside := filepath.Join(top, "dir"), filepath.Join(top, "outside")
		ok(t, os.Mkdir(outside, 0o755))
		ok(t, os.WriteFile(filepath.Join(outside, "file"), []byte("file"), 0o600))
		before := capture(t, outside, exporter.DirOptions{})
		extract.Tree(t.Context(), &hostile{in}, dir, extract.Options{Overlay: len(in)&1 != 0})
		if diff := cmp.Diff(before, capture(t, outside, exporter.DirOptions{})); diff != "" {
			t.Error(diff)
		}
		if names, err := os.ReadDir(top); err != nil || len(names) != 2 {
			t.Errorf("beside it: %v, %v", names, err)
		}
		os.Chmod(dir, 0o700) // for the clean-up
	})
}
