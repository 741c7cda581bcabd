package importer_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

func TestIntoDir(t *testing.T) {
	repo, snap, conf := smallShop(t)
	web := filepath.Join("containers", "shop-web-1")
	dir := filepath.Join(t.TempDir(), "new")
	notes, err := importer.IntoDir(t.Context(), repo, snap, dir, nil)
	ok(t, err)
	if len(notes) > 0 {
		t.Errorf("notes %v", notes)
	}
	for path, want := range map[string]string{
		"volumes/shop_data/table":                 "rows\n",
		"volumes/shop_data/sub/index":             "1 2 3\n",
		"binds" + conf + "/site.conf":             "listen 80\n",
		web + "/rootfs-changes/etc/changed":       "changed\n",
		web + "/rootfs-changes/var/.wh.real":      "a file of that name\n",
		web + "/rootfs-deleted":                   "deleted \"etc/deleted\"\nreplaced \"opaque\"\n",
		"inspect/containers/shop-side-1.json":     "{\n  \"HostConfig\": {\n    \"NetworkMode\": \"container:id-web\"\n  }\n}\n",
		"inspect/networks/proxy.json":             "{}\n",
		"containers/shop-db-1/rootfs-deleted":     "",
		"containers/shop-job-1/rootfs-changes/.":  "",
		"containers/shop-side-1/rootfs-changes/.": "",
	} {
		if strings.HasSuffix(path, "/.") {
			if fi, err := os.Stat(filepath.Join(dir, path)); err != nil || !fi.IsDir() {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		got, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
		}
	}
	if fi, err := os.Lstat(filepath.Join(dir, web, "rootfs-changes/var/socket")); err != nil || fi.Mode().Type() != fs.ModeSocket {
		t.Errorf("socket: %v, %v", fi, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "system.json"))
	ok(t, err)
	var again snapshot.Snapshot
	ok(t, json.Unmarshal(text, &again))
	compact(t, &again.System)
	compact(t, &snap.System)
	if diff := cmp.Diff(*snap, again); diff != "" {
		t.Errorf("system.json (-want +got):\n%s", diff)
	}
	if _, err := importer.IntoDir(t.Context(), repo, snap, dir, nil); !errors.Is(err, extract.ErrNotEmpty) {
		t.Errorf("once more into the same directory: %v", err)
	}
}

// compact forgets how JSON in a description was indented.
func compact(t testing.TB, sys *snapshot.System) {
	t.Helper()
	for i := range sys.Containers {
		sys.Containers[i].Inspect = nil
	}
	for i := range sys.Networks {
		sys.Networks[i].Inspect = nil
	}
	for i := range sys.Volumes {
		sys.Volumes[i].Inspect = nil
	}
	for i := range sys.Images {
		sys.Images[i].Inspect = nil
	}
}

// TestIntoDirStaysInside gives names that would lead out of the directory.
func TestIntoDirStaysInside(t *testing.T) {
	repo, snap, _ := smallShop(t)
	for name, change := range map[string]func(*snapshot.System){
		"container": func(s *snapshot.System) { s.Containers[0].Name = "../../escaped" },
		"volume":    func(s *snapshot.System) { s.Volumes[0].Name = "../escaped" },
		"network":   func(s *snapshot.System) { s.Networks[0].Name = "../../../escaped" },
		"bind":      func(s *snapshot.System) { s.Binds[0].Source = "../../../escaped" },
	} {
		t.Run(name, func(t *testing.T) {
			hostile := *snap
			hostile.System.Containers = slices.Clone(snap.System.Containers)
			hostile.System.Volumes = slices.Clone(snap.System.Volumes)
			hostile.System.Networks = slices.Clone(snap.System.Networks)
			hostile.System.Binds = slices.Clone(snap.System.Binds)
			change(&hostile.System)
			outside := t.TempDir()
			dir := filepath.Join(outside, "a", "b")
			_, err := importer.IntoDir(t.Context(), repo, &hostile, dir, nil)
			if err == nil && name != "bind" {
				t.Error("no error")
			}
			if err != nil {
				if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the directory is left: %v", err)
				}
			}
			for _, d := range []string{outside, filepath.Join(outside, "a")} {
				entries, err := os.ReadDir(d)
				ok(t, err)
				if len(entries) > 1 {
					t.Errorf("%s holds %v", d, entries)
				}
			}
		})
	}
}
