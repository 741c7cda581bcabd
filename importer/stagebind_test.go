package importer_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// boundNights is a system with a bind mount of a directory that is not there, on two nights.
func boundNights(t *testing.T) (repo *chunkstore.Repository, first, second *snapshot.Snapshot, path string) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // a sync waits for the disk many times
	}
	b := newBuilder(t)
	path = filepath.Join(t.TempDir(), "srv", "conf")
	img := b.image("app:1", map[string]any{"Cmd": []string{"/app"}}, b.layer(entry{name: "app", data: "program\n", mode: 0o755}))
	make := func(id string, content map[string]string) *snapshot.Snapshot {
		return &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: id, System: "shop", Complete: true},
			System: snapshot.System{
				Name: "shop", Images: []snapshot.Image{img},
				Containers: []snapshot.Container{{
					Name: "shop-web", Image: "app:1", ImageKey: img.Config, State: "running", Inspect: []byte(`{}`),
					Mounts: []snapshot.Mount{{Type: "bind", Source: path, Destination: "/conf"}, {Type: "bind", Source: path + ".key", Destination: "/key"}},
				}},
				Binds: []snapshot.Bind{
					{Source: path, Content: b.tree(false, func(dir string) {
						files(t, content)(dir)
						ok(t, os.Chmod(dir, 0o750))
					})},
					{Source: path + ".key", File: true, Content: b.tree(false, files(t, map[string]string{"conf.key": "secret"}))},
				},
			},
		}
	}
	large := noise(9, 300<<10)
	first = make("11111111111111111111", map[string]string{"large": large, "site": "listen 80", "gone": "x"})
	second = make("22222222222222222222", map[string]string{"large": large, "site": "listen 443", "new/file": "y"})
	return b.commit(), first, second, path
}

// around is what lies beside a bind mount's path and above it, without what a stage is called.
func around(t testing.TB, path string) string {
	t.Helper()
	return listing(t, filepath.Dir(filepath.Dir(path)))
}

// restoreBound restores a system of boundNights from its stage.
func restoreBound(t testing.TB, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, dir string) *importer.Result {
	t.Helper()
	o := quick
	o.Stage = dir
	r, err := importer.Restore(t.Context(), repo, snap, f, o)
	ok(t, err)
	return r
}

// A bind mount that is staged is renamed to its path, brought up to date, and nothing is left of the stage.
func TestStageBind(t *testing.T) {
	repo, first, second, path := boundNights(t)
	restoreBound(t, repo, second, newFake(t), "")
	want := around(t, path)
	for name, tt := range map[string]struct {
		before func()                   // the sync
		after  func(stage string) error // it
		most   int64                    // bytes that the restore fetches
		update bool                     // the stage has the first night
	}{
		"not there":    {most: 20},
		"older":        {most: 100, update: true},
		"empty":        {before: func() { ok(t, os.MkdirAll(path, 0o755)) }, most: 20},
		"parent there": {before: func() { ok(t, os.MkdirAll(filepath.Dir(path), 0o755)) }, most: 20},
		"changed": {most: 400 << 10, after: func(stage string) error {
			return os.WriteFile(filepath.Join(stage, "content", "site"), []byte("listen 444"), 0o644)
		}},
		"gone": {most: 400 << 10, after: func(stage string) error { return os.RemoveAll(filepath.Join(stage, "content")) }},
	} {
		t.Run(name, func(t *testing.T) {
			ok(t, os.RemoveAll(filepath.Dir(path)))
			if tt.before != nil {
				tt.before()
			}
			f, dir, snap := newFake(t), t.TempDir(), second
			if tt.update {
				snap = first
			}
			r := stage(t, repo, snap, f, dir)
			if got := steps(r); got["fill bind "+path] != "" || got["skip bind "+path+".key"] != "is a single file" {
				t.Errorf("steps %v", got)
			}
			if again := stage(t, repo, snap, f, dir); again.Fetched != 0 {
				t.Errorf("again: %d bytes fetched, %v", again.Fetched, steps(again))
			}
			held := stagedAt(t, path)
			if fi, err := os.Stat(held); err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("others can look at the stage: %v, %v", fi.Mode(), err)
			}
			if tt.after != nil {
				ok(t, tt.after(held))
			}
			res := restoreBound(t, repo, second, f, dir)
			if diff := cmp.Diff(want, around(t, path)); diff != "" && tt.after == nil {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := listing(t, path); !strings.Contains(want, "listen 443") || !strings.Contains(got, "listen 443") || strings.Contains(got, "gone") {
				t.Errorf("restored:\n%s", got)
			}
			if res.Fetched > tt.most || (tt.after == nil) != (res.Staged >= 300<<10) {
				t.Errorf("%d bytes fetched, %d staged", res.Fetched, res.Staged)
			}
			stage(t, repo, withoutBinds(second), f, dir) // whatever is left goes
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(path)), "*", ".hakobune-stage-*")); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// stagedAt is the directory in which a bind mount is staged.
func stagedAt(t testing.TB, path string) string {
	t.Helper()
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if found, err := filepath.Glob(filepath.Join(dir, ".hakobune-stage-*")); err == nil && len(found) == 1 {
			return found[0]
		}
	}
	t.Fatal("the bind mount is not staged")
	return ""
}

// withoutBinds is a snapshot without its bind mounts.
func withoutBinds(s *snapshot.Snapshot) *snapshot.Snapshot {
	other := *s
	other.System.Binds = nil
	return &other
}

// A sync or a restore that fails at any call of the engine leaves nothing that is taken for the system's and is not; what
// was staged is staged again, and the same command again goes well.
func TestStageBindEveryCallFails(t *testing.T) {
	repo, first, second, path := boundNights(t)
	restoreBound(t, repo, second, newFake(t), "")
	want := listing(t, path)
	for n := 1; ; n++ {
		ok(t, os.RemoveAll(filepath.Dir(path)))
		f, dir := newFake(t), t.TempDir()
		stage(t, repo, first, f, dir)
		fired := failOnly(f, n)
		_, err := importer.SyncStage(t.Context(), repo, second, f, importer.StageOptions{Dir: dir})
		if !*fired {
			ok(t, err)
			o := quick
			o.Stage = dir
			_, err = importer.Restore(t.Context(), repo, second, f, o)
			if err != nil && pathThere(path) {
				t.Fatalf("call %d: %v: something is at %s:\n%s", n, err, path, listing(t, path))
			}
		}
		if f.fault = nil; !*fired {
			ok(t, err)
			t.Logf("%d calls failed in turn", n-1)
			return
		}
		if err == nil {
			continue // it came after the system ran, or was not needed
		}
		restoreBound(t, repo, second, f, dir)
		if diff := cmp.Diff(want, listing(t, path)); diff != "" {
			t.Fatalf("call %d: %v (-want +got):\n%s", n, err, diff)
		}
	}
}

func pathThere(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

// A container that has a staged directory mounted keeps it from being touched.
func TestStageBindInUse(t *testing.T) {
	repo, first, second, path := boundNights(t)
	f, dir := newFake(t), t.TempDir()
	stage(t, repo, first, f, dir)
	held := stagedAt(t, path)
	f.containers["x"] = &fakeContainer{Name: "curious", State: "running", Mounts: []snapshot.Mount{{Type: "bind", Source: filepath.Join(held, "content")}}}
	before := listing(t, held)
	if _, err := importer.SyncStage(t.Context(), repo, second, f, importer.StageOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "curious") {
		t.Errorf("sync: %v", err)
	}
	if r := restoreBound(t, repo, first, f, dir); r.Fetched < 300<<10 || listing(t, held) != before {
		t.Errorf("%d bytes fetched, the directory in use: %s", r.Fetched, listing(t, held))
	}
}
