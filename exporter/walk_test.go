package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// needRoot passes a test over that only root can run.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("HAKOBUNE_TEST_REQUIRE") != "" {
		t.Fatal("not root")
	}
	t.Skip("not root")
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDir(t testing.TB, path string, opts exporter.DirOptions) *exporter.Dir {
	t.Helper()
	d, err := exporter.OpenDir(path, opts)
	check(t, err)
	t.Cleanup(func() { check(t, d.Close()) })
	return d
}

// walk returns what a walk of a tree reports, and checks its order.
func walk(t testing.TB, tree archive.Tree) []archive.Entry {
	t.Helper()
	var all []archive.Entry
	check(t, tree.Walk(t.Context(), func(e archive.Entry) error {
		if n := len(all); n > 0 && archive.Compare(all[n-1].Path, e.Path) >= 0 {
			t.Errorf("walk reports %q after %q", e.Path, all[n-1].Path)
		}
		all = append(all, e)
		return nil
	}))
	return all
}

// still clears what differs from run to run.
func still(entries []archive.Entry) []archive.Entry {
	for i := range entries {
		entries[i].CTime, entries[i].Ino, entries[i].Dev = archive.Time{}, 0, 0
		if entries[i].Type == archive.Dir {
			entries[i].Nlink = 0
		}
	}
	return entries
}

func paths(entries []archive.Entry) []string {
	var p []string
	for _, e := range entries {
		p = append(p, e.Path)
	}
	return p
}

func write(t testing.TB, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(filepath.Base(name)), 0o644))
	}
}

func setTimes(t testing.TB, path string, at archive.Time) {
	t.Helper()
	ts := unix.Timespec{Sec: at.Sec, Nsec: int64(at.Nsec)}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// An ACL that gives user 1000 more, as the kernel stores it, and a capability of a file.
var (
	acl        = "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

func TestWalkFidelity(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	at := archive.Time{Sec: 1234567890, Nsec: 123456789}
	long := strings.Repeat("n", 255)
	var want []archive.Entry
	// add makes a node by mk, gives it the owner, mode and time of e, and expects e.
	add := func(e archive.Entry, mk func(path string) error) {
		t.Helper()
		path := filepath.Join(dir, e.Path)
		check(t, mk(path))
		check(t, os.Lchown(path, int(e.UID), int(e.GID)))
		if e.Type != archive.Symlink {
			check(t, unix.Chmod(path, e.Mode))
		}
		for _, x := range e.Xattrs {
			check(t, unix.Lsetxattr(path, x.Name, x.Value, 0))
		}
		if e.MTime == (archive.Time{}) {
			e.MTime = at
		}
		setTimes(t, path, e.MTime)
		if e.Nlink == 0 && e.Type != archive.Dir {
			e.Nlink = 1
		}
		want = append(want, e)
	}
	file := func(content string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(content), 0o600) }
	}
	mknod := func(mode uint32, dev uint64) func(string) error {
		return func(path string) error { return unix.Mknod(path, mode|0o600, int(dev)) }
	}
	mkdir := func(path string) error { return os.Mkdir(path, 0o700) }

	add(archive.Entry{Path: "Dir-0", Type: archive.Dir, Mode: 0o1777, UID: 4_000_000_000, GID: 65537}, mkdir)
	add(archive.Entry{Path: "\xff\xfe not utf-8\n", Type: archive.File, Mode: 0o644, Size: 1}, file("x"))
	add(archive.Entry{Path: long, Type: archive.File, Mode: 0o4755, Size: 2, UID: 1, GID: 2}, file("22"))
	add(archive.Entry{Path: "acl", Type: archive.File, Mode: 0o674, Xattrs: []archive.Xattr{
		{Name: "security.capability", Value: []byte(capability)},
		{Name: "system.posix_acl_access", Value: []byte(acl)},
		{Name: "trusted.t", Value: []byte("kept")},
		{Name: "user.empty", Value: []byte{}},
		{Name: "user.overlay.opaque", Value: []byte("y")},
	}}, file(""))
	add(archive.Entry{Path: "block", Type: archive.BlockDevice, Mode: 0o660, Rdev: unix.Mkdev(259, 1_000_000)}, mknod(unix.S_IFBLK, unix.Mkdev(259, 1_000_000)))
	add(archive.Entry{Path: "char", Type: archive.CharDevice, Mode: 0o666, Rdev: unix.Mkdev(1, 3)}, mknod(unix.S_IFCHR, unix.Mkdev(1, 3)))
	add(archive.Entry{Path: "char00", Type: archive.CharDevice, Mode: 0o600}, mknod(unix.S_IFCHR, 0))
	add(archive.Entry{Path: "fifo", Type: archive.FIFO, Mode: 0o2600}, mknod(unix.S_IFIFO, 0))
	add(archive.Entry{Path: "old", Type: archive.File, Mode: 0o600, MTime: archive.Time{Sec: -1_000_000_000, Nsec: 1}}, file(""))
	add(archive.Entry{Path: "one", Type: archive.File, Mode: 0o600, Size: 3, Nlink: 2}, file("one"))
	check(t, os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "two")))
	add(archive.Entry{Path: "socket", Type: archive.Socket, Mode: 0o700}, mknod(unix.S_IFSOCK, 0))
	add(archive.Entry{Path: "symlink", Type: archive.Symlink, Mode: 0o777, UID: 5, Link: strings.Repeat("../", 200) + "\xff"},
		func(path string) error { return os.Symlink(strings.Repeat("../", 200)+"\xff", path) })
	two := want[len(want)-3]
	two.Path = "two"
	want = append(want, two)
	slices.SortFunc(want, func(a, b archive.Entry) int { return archive.Compare(a.Path, b.Path) })
	add(archive.Entry{Path: "", Type: archive.Dir, Mode: 0o750, UID: 7, GID: 8, Xattrs: []archive.Xattr{{Name: "user.root", Value: []byte("r")}}},
		func(path string) error { return nil })
	want = append(want[len(want)-1:], want[:len(want)-1]...)

	for _, old := range []bool{false, true} {
		d := openDir(t, dir, exporter.DirOptions{})
		if old {
			d.ForgetSyscalls()
		}
		got := walk(t, d)
		ino := map[string]uint64{}
		for _, e := range got {
			ino[e.Path] = e.Ino
		}
		if ino["one"] != ino["two"] || ino["one"] == ino["old"] {
			t.Errorf("inodes do not tell the hard link: %v", ino)
		}
		if diff := cmp.Diff(want, still(got)); diff != "" {
			t.Errorf("walk (old kernel: %v) differs (-want +got):\n%s", old, diff)
		}
	}
}

func TestWalkOrder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/z", "a/b/c", "a!", "a-b/x", "a.b", "ab", "B/x", "a/b.c", "a/b!/y", "\x01")
	want := []string{"", "\x01", "B", "B/x", "a", "a/b", "a/b/c", "a/b!", "a/b!/y", "a/b.c", "a/z", "a!", "a-b", "a-b/x", "a.b", "ab"}
	if diff := cmp.Diff(want, paths(walk(t, openDir(t, dir, exporter.DirOptions{})))); diff != "" {
		t.Error(diff)
	}
}

func TestWalkExclude(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "log/a.log", "log/b.txt", "var/log/c.log", "var/cache/x/y", "cache", "tmp/\xff\n", "tmp/k", "a/b/c/d", "[x]", "run/f")
	for _, test := range []struct {
		exclude, skip []string
		want          string // what is left, beside what is not named by the others
	}{
		{want: "[x] a a/b a/b/c a/b/c/d cache log log/a.log log/b.txt run run/f tmp tmp/k tmp/\xff\n var var/cache var/cache/x var/cache/x/y var/log var/log/c.log"},
		{exclude: []string{"*.log", "cache"}, want: "[x] a a/b a/b/c a/b/c/d log log/a.log log/b.txt run run/f tmp tmp/k tmp/\xff\n var var/cache var/cache/x var/cache/x/y var/log var/log/c.log"},
		{exclude: []string{"**/*.log", "/**/cache/"}, want: "[x] a a/b a/b/c a/b/c/d log log/b.txt run run/f tmp tmp/k tmp/\xff\n var var/log"},
		{exclude: []string{"log", "var/**", "a/**/d", "tmp/?\n", "*/f", `\[x]`}, want: "a a/b a/b/c cache run tmp tmp/k var"},
		{exclude: []string{"**"}, want: ""},
		{skip: []string{"/log/", "var/log/c.log", "a/b", "tmp", "./cache", "run"}, want: "[x] a var var/cache var/cache/x var/cache/x/y var/log"},
	} {
		got := paths(walk(t, openDir(t, dir, exporter.DirOptions{Exclude: test.exclude, SkipPaths: test.skip})))[1:]
		if diff := cmp.Diff(strings.Split(test.want, " "), append(got, make([]string, max(0, 1-len(got)))...)); diff != "" {
			t.Errorf("without %q and %q (-want +got):\n%s", test.exclude, test.skip, diff)
		}
	}
	for _, bad := range []string{"", "/", "!a", "a/[", "../"} {
		if _, err := exporter.OpenDir(dir, exporter.DirOptions{Exclude: []string{bad}}); err == nil {
			t.Errorf("pattern %q is accepted", bad)
		}
	}
}

// TestWalkDeep walks a chain of directories whose path is much longer than a system call takes,
// with a file and a second directory at each level so that every level is come back to.
func TestWalkDeep(t *testing.T) {
	dir := t.TempDir()
	const depth = 300
	name := strings.Repeat("d", 99)
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	check(t, err)
	for range depth {
		check(t, unix.Mkdirat(at, name, 0o755))
		check(t, unix.Mkdirat(at, "z", 0o755))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		check(t, err)
		check(t, unix.Close(at))
		at = next
	}
	fd, err := unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY, 0o600)
	check(t, err)
	_, err = unix.Write(fd, []byte("deep"))
	check(t, errors.Join(err, unix.Close(fd), unix.Close(at)))
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })

	for _, old := range []bool{false, true} {
		d := openDir(t, dir, exporter.DirOptions{})
		if old {
			d.ForgetSyscalls()
		}
		got := walk(t, d)
		if len(got) != 2*depth+2 {
			t.Fatalf("%d entries, want %d", len(got), 2*depth+2)
		}
		file := got[depth+1]
		if !strings.HasSuffix(file.Path, name+"/file") {
			t.Fatalf("no file at the bottom, but %q", file.Path)
		}
		if content := readAll(t, d, file); content != "deep" {
			t.Errorf("content %q", content)
		}
	}
}

func TestWalkWide(t *testing.T) {
	if testing.Short() {
		t.Skip("100000 files")
	}
	needRoot(t)
	dir := t.TempDir()
	check(t, unix.Mount("none", dir, "tmpfs", 0, "")) // many times faster to fill
	t.Cleanup(func() { check(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	check(t, err)
	defer unix.Close(at)
	const n = 100_000
	for i := range n {
		check(t, unix.Mknodat(at, fmt.Sprint("f", i), unix.S_IFREG|0o600, 0))
	}
	if got := walk(t, openDir(t, dir, exporter.DirOptions{})); len(got) != n+1 {
		t.Errorf("%d entries, want %d", len(got), n+1)
	}
}

func TestWalkStops(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b", "c")
	d := openDir(t, dir, exporter.DirOptions{})
	stop := errors.New("stop")
	seen := 0
	err := d.Walk(t.Context(), func(e archive.Entry) error {
		if seen++; e.Path == "a" {
			return stop
		}
		return nil
	})
	if err != stop || seen != 2 {
		t.Errorf("%v after %d entries", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = d.Walk(ctx, func(archive.Entry) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestWalkVanish removes and replaces nodes just before they would be met.
func TestWalkVanish(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "b/file", "c", "d/e/f", "g/h", "i")
	at := func(name string) string { return filepath.Join(dir, name) }
	d := openDir(t, dir, exporter.DirOptions{})
	var got []string
	check(t, d.Walk(t.Context(), func(e archive.Entry) error {
		got = append(got, e.Path)
		switch e.Path {
		case "a":
			check(t, os.RemoveAll(at("b")))
			check(t, os.Remove(at("c")))
		case "d/e":
			check(t, os.RemoveAll(at("d")))
			check(t, os.Rename(at("g"), at("G")))
			check(t, os.Symlink("/", at("g")))
		}
		return nil
	}))
	if diff := cmp.Diff([]string{"", "a", "d", "d/e", "g", "i"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWalkRootGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	write(t, dir, "f")
	d := openDir(t, dir, exporter.DirOptions{Report: func(path string, err error) { t.Error(path, err) }})
	file := openDir(t, dir+"/f", exporter.DirOptions{})
	check(t, os.RemoveAll(dir))
	for _, tree := range []archive.Tree{d, file} {
		err := tree.Walk(t.Context(), func(e archive.Entry) error { return nil })
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("walk of what was removed: %v", err)
		}
	}
}

// TestWalkMoved moves a directory away, and another in its place, while the walk is far below it.
func TestWalkMoved(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/"+strings.Repeat("d/", 80)+"bottom", "a/z", "b/z")
	d := openDir(t, dir, exporter.DirOptions{})
	var got []string
	check(t, d.Walk(t.Context(), func(e archive.Entry) error {
		got = append(got, e.Path)
		if strings.HasSuffix(e.Path, "bottom") {
			check(t, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")))
			check(t, os.Rename(filepath.Join(dir, "b"), filepath.Join(dir, "a")))
		}
		return nil
	}))
	if last := got[len(got)-1]; !strings.HasSuffix(last, "bottom") {
		t.Errorf("walk went on to %q", last)
	}
}

func TestWalkUnreadable(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir, "a/file", "locked/file", "z")
	check(t, os.Chmod(filepath.Join(dir, "locked"), 0o700))
	check(t, os.Chmod(filepath.Join(dir, "z"), 0o600))
	reported := map[string]error{}
	d := openDir(t, dir, exporter.DirOptions{Report: func(path string, err error) { reported[path] = err }})
	silent := openDir(t, dir, exporter.DirOptions{})

	// This thread becomes nobody to the file system, and ends with the test.
	runtime.LockOSThread()
	check(t, unix.Setfsuid(65534))
	got := walk(t, d)
	_, openErr := d.Open(t.Context(), got[len(got)-1])
	silentErr := silent.Walk(t.Context(), func(archive.Entry) error { return nil })
	check(t, unix.Setfsuid(0))
	runtime.UnlockOSThread()

	if diff := cmp.Diff([]string{"", "a", "a/file", "locked", "z"}, paths(got)); diff != "" {
		t.Error(diff)
	}
	if len(reported) != 1 || reported["locked"] != unix.EACCES {
		t.Errorf("reported: %v", reported)
	}
	if !errors.Is(openErr, archive.ErrUnreadable) || !errors.Is(openErr, os.ErrPermission) {
		t.Errorf("open: %v", openErr)
	}
	if !errors.Is(silentErr, os.ErrPermission) || !strings.Contains(silentErr.Error(), `"locked"`) {
		t.Errorf("without Report: %v", silentErr)
	}
}

func TestWalkMountPoint(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir, "bind/hidden", "tmpfs/hidden", "file", "source/inner", "z")
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		check(t, unix.Mount(source, filepath.Join(dir, target), kind, flags, ""))
		t.Cleanup(func() { check(t, unix.Unmount(filepath.Join(dir, target), unix.MNT_DETACH)) })
	}
	mount(filepath.Join(dir, "source"), "bind", "", unix.MS_BIND)
	mount("none", "tmpfs", "tmpfs", 0)
	mount(filepath.Join(dir, "z"), "file", "", unix.MS_BIND)
	write(t, dir, "tmpfs/inner")

	var reported []string
	d := openDir(t, dir, exporter.DirOptions{Report: func(path string, err error) {
		if err != exporter.ErrMountPoint {
			t.Error(path, err)
		}
		reported = append(reported, path)
	}})
	if diff := cmp.Diff([]string{"", "bind", "source", "source/inner", "tmpfs", "z"}, paths(walk(t, d))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"bind", "file", "tmpfs"}, reported); diff != "" {
		t.Error(diff)
	}
	// The root may be a mount point itself, as that of a volume on a disk of its own is.
	if diff := cmp.Diff([]string{"", "inner"}, paths(walk(t, openDir(t, filepath.Join(dir, "tmpfs"), exporter.DirOptions{})))); diff != "" {
		t.Error(diff)
	}
	_, err := d.Open(t.Context(), archive.Entry{Path: "tmpfs/inner", Type: archive.File})
	if !errors.Is(err, archive.ErrVanished) {
		t.Errorf("open across a mount: %v", err)
	}
}

// TestOpenDirMountedFile: in a helper container the file to read is a mount point itself.
func TestOpenDirMountedFile(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir, "source", "target")
	target := filepath.Join(dir, "target")
	check(t, unix.Mount(filepath.Join(dir, "source"), target, "", unix.MS_BIND, ""))
	t.Cleanup(func() { check(t, unix.Unmount(target, unix.MNT_DETACH)) })
	for _, old := range []bool{false, true} {
		d := openDir(t, target, exporter.DirOptions{})
		if old {
			d.ForgetSyscalls()
		}
		got := walk(t, d)
		if diff := cmp.Diff([]string{"", "target"}, paths(got)); diff != "" {
			t.Fatal(diff)
		}
		if content := readAll(t, d, got[1]); content != "source" {
			t.Errorf("content %q", content)
		}
	}
}

func TestOpenDirFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "real/conf", "real/other")
	check(t, os.Symlink("real/conf", filepath.Join(dir, "link")))
	for path, want := range map[string]string{"real/conf": "conf", "link": "link"} {
		d := openDir(t, filepath.Join(dir, path), exporter.DirOptions{})
		got := walk(t, d)
		if diff := cmp.Diff([]string{"", want}, paths(got)); diff != "" {
			t.Fatal(diff)
		}
		if got[1].Type != archive.File || readAll(t, d, got[1]) != "conf" {
			t.Errorf("%s: %+v", path, got[1])
		}
		if _, err := d.Open(t.Context(), archive.Entry{Path: "other", Type: archive.File}); !errors.Is(err, archive.ErrVanished) {
			t.Errorf("%s: a file beside it: %v", path, err)
		}
	}
	if _, err := exporter.OpenDir(filepath.Join(dir, "none"), exporter.DirOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
