package exporter_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// overlay mounts an overlay whose lower directory is filled by lower.
func overlay(t testing.TB, options string, lower func(dir string)) (merged, upper string) {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work", "merged"} {
		check(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	lower(filepath.Join(dir, "lower"))
	merged = filepath.Join(dir, "merged")
	data := fmt.Sprintf("lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work%s", dir, options)
	check(t, unix.Mount("overlay", merged, "overlay", 0, data))
	t.Cleanup(func() { check(t, unix.Unmount(merged, unix.MNT_DETACH)) })
	return merged, filepath.Join(dir, "upper")
}

func TestWalkOverlay(t *testing.T) {
	merged, upper := overlay(t, "", func(dir string) {
		write(t, dir, "gone1", "gone2", "gone3", "emptied/x", "kept/file", "kept/gone", "replaced/x", "chmod", "linked", "d/e/f")
	})
	at := func(name string) string { return filepath.Join(merged, name) }
	for _, name := range []string{"gone1", "gone2", "gone3", "emptied", "kept/gone", "replaced"} {
		check(t, os.RemoveAll(at(name)))
	}
	check(t, os.Mkdir(at("emptied"), 0o755))
	check(t, os.WriteFile(at("replaced"), nil, 0o644))
	check(t, os.Chmod(at("chmod"), 0o600))
	check(t, os.Link(at("linked"), at("linked2")))
	check(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	write(t, merged, "d/e/new")
	check(t, unix.Setxattr(at("d/e"), "user.overlay.opaque", []byte("y"), 0))
	check(t, unix.Setxattr(filepath.Join(upper, "d"), "trusted.overlay.opaque", []byte("x"), 0))
	// What a kernel writes when an overlay is mounted on this one.
	check(t, unix.Setxattr(filepath.Join(upper, "d"), "trusted.overlay.overlay.opaque", []byte("y"), 0))
	check(t, unix.Setxattr(filepath.Join(upper, "replaced"), "trusted.overlay.whiteout", []byte("y"), 0))
	var st [2]unix.Stat_t
	check(t, unix.Lstat(filepath.Join(upper, "gone1"), &st[0]))
	check(t, unix.Lstat(filepath.Join(upper, "gone2"), &st[1]))
	if st[0].Ino != st[1].Ino {
		t.Log("this kernel gives each whiteout an inode of its own")
	}

	type node struct {
		Path   string
		Type   archive.Type
		Opaque bool
		Xattrs []archive.Xattr
		Nlink  uint32
	}
	var got []node
	for _, e := range walk(t, openDir(t, upper, exporter.DirOptions{Overlay: true})) {
		if e.Type == archive.Dir {
			e.Nlink = 0
		}
		if e.Type == archive.Whiteout {
			if diff := cmp.Diff(archive.Entry{Path: e.Path, Type: e.Type}, e); diff != "" {
				t.Error(diff)
			}
		}
		got = append(got, node{e.Path, e.Type, e.Opaque, e.Xattrs, e.Nlink})
	}
	want := []node{
		{Path: "", Type: archive.Dir},
		{Path: "chmod", Type: archive.File, Nlink: 1},
		{Path: "d", Type: archive.Dir, Xattrs: []archive.Xattr{{Name: "trusted.overlay.overlay.opaque", Value: []byte("y")}}},
		{Path: "d/e", Type: archive.Dir, Xattrs: []archive.Xattr{{Name: "user.overlay.opaque", Value: []byte("y")}}},
		{Path: "d/e/new", Type: archive.File, Nlink: 1},
		{Path: "emptied", Type: archive.Dir, Opaque: true},
		{Path: "gone1", Type: archive.Whiteout},
		{Path: "gone2", Type: archive.Whiteout},
		{Path: "gone3", Type: archive.Whiteout},
		{Path: "kept", Type: archive.Dir},
		{Path: "kept/gone", Type: archive.Whiteout},
		{Path: "linked", Type: archive.File, Nlink: 2},
		{Path: "linked2", Type: archive.File, Nlink: 2},
		{Path: "null", Type: archive.CharDevice, Nlink: 1},
		{Path: "replaced", Type: archive.Whiteout},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestWalkForeign: a layer whose nodes point elsewhere is refused, not read wrongly.
func TestWalkForeign(t *testing.T) {
	merged, upper := overlay(t, ",metacopy=on,redirect_dir=on", func(dir string) { write(t, dir, "big", "dir/file") })
	refused := func(want exporter.ForeignError) {
		t.Helper()
		d := openDir(t, upper, exporter.DirOptions{Overlay: true, Report: func(path string, err error) { t.Error(path, err) }})
		err := d.Walk(t.Context(), func(archive.Entry) error { return nil })
		var foreign *exporter.ForeignError
		if !errors.As(err, &foreign) || *foreign != want {
			t.Errorf("walk: %v, want %v", err, &want)
		}
	}
	check(t, os.Rename(filepath.Join(merged, "dir"), filepath.Join(merged, "renamed")))
	refused(exporter.ForeignError{Path: "renamed", Xattr: "trusted.overlay.redirect"})
	check(t, os.Chmod(filepath.Join(merged, "big"), 0o600))
	refused(exporter.ForeignError{Path: "big", Xattr: "trusted.overlay.metacopy"})
}

// TestOverlayNeedsTrusted: without the right to see what is opaque the layer is not read.
func TestOverlayNeedsTrusted(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	done := make(chan error)
	go func() { // on a thread that ends with its goroutine, because it stays locked to it
		runtime.LockOSThread()
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&hdr, &data[0])
		data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
		err = errors.Join(err, unix.Capset(&hdr, &data[0]))
		if err == nil {
			_, err = exporter.OpenDir(dir, exporter.DirOptions{Overlay: true})
		}
		// The process's first thread does not end, and what /proc says of the process is what it says
		// of that one.
		data[0].Effective |= 1 << unix.CAP_SYS_ADMIN
		if back := unix.Capset(&hdr, &data[0]); back != nil {
			panic(back)
		}
		done <- err
	}()
	if err := <-done; !errors.Is(err, exporter.ErrNoTrusted) {
		t.Errorf("open without CAP_SYS_ADMIN: %v", err)
	}
}
