package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// walkStat is walk by WalkStat.
func walkStat(t testing.TB, d *exporter.Dir, known func(*archive.Entry) bool) []archive.Entry {
	t.Helper()
	var all []archive.Entry
	check(t, d.WalkStat(t.Context(), known, func(e archive.Entry) error {
		all = append(all, e)
		return nil
	}))
	return all
}

// TestWalkStat: whatever is known, WalkStat tells what Walk tells, but for attributes that are known.
func TestWalkStat(t *testing.T) {
	dir := t.TempDir()
	for i := range 700 { // several batches
		write(t, dir, fmt.Sprintf("wide/%03d", i), fmt.Sprintf("many/%03d/f", i))
	}
	deep := dir
	for range 90 { // more than are kept open
		deep = filepath.Join(deep, "deep")
		write(t, deep, "a", "z")
	}
	for i := 0; i < 700; i += 7 {
		check(t, unix.Setxattr(filepath.Join(dir, fmt.Sprintf("wide/%03d", i)), "user.mark", []byte{byte(i)}, 0))
	}
	check(t, os.Symlink("wide", filepath.Join(dir, "wide/link")))
	d := openDir(t, dir, exporter.DirOptions{})
	want := walk(t, d)
	for name, known := range map[string]func(*archive.Entry) bool{
		"nothing":    func(*archive.Entry) bool { return false },
		"everything": func(*archive.Entry) bool { return true },
		"some":       func(e *archive.Entry) bool { return e.Ino%3 == 0 },
	} {
		bare := map[string]bool{}
		got := walkStat(t, d, func(e *archive.Entry) bool {
			bare[e.Path] = known(e)
			return bare[e.Path]
		})
		var expect []archive.Entry
		for _, e := range want {
			if bare[e.Path] {
				e.Xattrs = nil
			}
			expect = append(expect, e)
		}
		if diff := cmp.Diff(expect, got); diff != "" {
			t.Errorf("%s known: %s", name, diff)
		}
	}
}

// diskDir returns an empty directory where ctimes are trusted. Elsewhere nothing is looked at ahead.
func diskDir(t *testing.T) string {
	t.Helper()
	for _, parent := range []string{os.TempDir(), "/var/tmp", "/var/lib"} {
		dir, err := os.MkdirTemp(parent, "hakobune-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
		if onDisk(t, dir) {
			return dir
		}
	}
	t.Fatal("no directory lies on a disk")
	return ""
}

// TestWalkStatChanges changes files between the look ahead and the moment at which they would be told.
func TestWalkStatChanges(t *testing.T) {
	dir := diskDir(t)
	write(t, dir, "a", "gone", "grown", "is-dir", "is-link", "moved/f", "z")
	at := func(name string) string { return filepath.Join(dir, name) }
	var reports []string
	d := openDir(t, dir, exporter.DirOptions{Report: func(path string, err error) {
		reports = append(reports, path+": "+err.Error())
	}})
	got := map[string]archive.Type{}
	check(t, d.WalkStat(t.Context(), func(e *archive.Entry) bool {
		if e.Path == "a" { // the whole directory is one batch: the look ahead is through
			check(t, os.Remove(at("gone")))
			check(t, os.WriteFile(at("grown"), make([]byte, 1000), 0o644))
			check(t, os.Remove(at("is-dir")))
			check(t, os.Mkdir(at("is-dir"), 0o755))
			check(t, os.Remove(at("is-link")))
			check(t, os.Symlink("z", at("is-link")))
			check(t, os.Rename(at("moved"), at("zz")))
			check(t, os.Symlink("zz", at("moved")))
		}
		return false
	}, func(e archive.Entry) error {
		got[e.Path] = e.Type
		if e.Path == "grown" && e.Size != 1000 {
			t.Errorf("%s is told with %d bytes", e.Path, e.Size)
		}
		return nil
	}))
	want := map[string]archive.Type{
		"": archive.Dir, "a": archive.File, "grown": archive.File, "is-link": archive.Symlink, "moved": archive.Dir, "z": archive.File,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"is-dir: replaced while it was read"}, reports); diff != "" {
		t.Error(diff)
	}
}

// TestWalkStatStops ends walks from both sides, with the look ahead far from its end.
func TestWalkStatStops(t *testing.T) {
	dir := t.TempDir()
	for i := range 2000 {
		write(t, dir, fmt.Sprintf("%04d", i))
	}
	d := openDir(t, dir, exporter.DirOptions{})
	none := func(*archive.Entry) bool { return false }
	stop := errors.New("stop")
	seen := 0
	if err := d.WalkStat(t.Context(), none, func(archive.Entry) error { seen++; return stop }); err != stop || seen != 1 {
		t.Errorf("%v after %d entries", err, seen)
	}
	ctx, cancel := context.WithCancel(t.Context())
	seen = 0
	if err := d.WalkStat(ctx, none, func(archive.Entry) error { seen++; cancel(); return nil }); !errors.Is(err, context.Canceled) || seen == 2001 {
		t.Errorf("cancelled: %v after %d entries", err, seen)
	}
}
