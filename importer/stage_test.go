package importer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// twoNights is a small system on two nights: on the second a file has grown, one has gone, one is new, one is only
// another's now, and the database's own changes are others.
func twoNights(t *testing.T) (repo *chunkstore.Repository, first, second *snapshot.Snapshot) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // a sync waits for the disk many times
	}
	b := newBuilder(t)
	large := strings.Repeat("the same every night\n", 20_000)
	tree := func(fill func(string)) *snapshot.Archive { return b.tree(false, fill) }
	night := func(dir string) {
		files(t, map[string]string{"large": large, "big": strings.ToUpper(large), "log": strings.Repeat("line\n", 200), "old/file": "old", "data/one": "1", "owned": "x"})(dir)
		ok(t, os.Link(filepath.Join(dir, "large"), filepath.Join(dir, "linked")))
		ok(t, os.Symlink("log", filepath.Join(dir, "link")))
	}
	img := b.image("app:1", map[string]any{"Cmd": []string{"/app"}}, b.layer(entry{name: "app", data: "program\n", mode: 0o755}))
	newer := b.image("app:1", map[string]any{"Cmd": []string{"/app"}}, b.layer(entry{name: "app", data: "new program\n", mode: 0o755}))
	make := func(id string, img snapshot.Image, changes map[string]string, fill func(string)) *snapshot.Snapshot {
		return &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: id, System: "shop", Complete: true},
			System: snapshot.System{
				Name: "shop", Images: []snapshot.Image{img},
				Containers: []snapshot.Container{{
					Name: "shop-db-1", Image: "app:1", ImageKey: img.Config, State: "running", Inspect: []byte(`{}`),
					Mounts:  []snapshot.Mount{{Type: "volume", Name: "shop_data", Destination: "/data"}},
					Changes: b.tree(true, files(t, changes)),
				}},
				Volumes: []snapshot.Volume{
					{Name: "shop_data", Driver: "local", Content: tree(fill)},
					{Name: "shop_same", Driver: "local", Content: tree(files(t, map[string]string{"file": strings.Repeat("s", 1000)}))},
				},
			},
		}
	}
	first = make("11111111111111111111", img, map[string]string{"etc/x": "1"}, night)
	second = make("22222222222222222222", newer, map[string]string{"etc/x": "2"}, func(dir string) {
		night(dir)
		ok(t, os.WriteFile(filepath.Join(dir, "log"), []byte(strings.Repeat("line\n", 300)), 0o600))
		ok(t, os.RemoveAll(filepath.Join(dir, "old")))
		ok(t, os.WriteFile(filepath.Join(dir, "data", "two"), []byte("2"), 0o644))
		ok(t, os.Chown(filepath.Join(dir, "owned"), 7, 8))
	})
	second.System.Volumes[1].Content = first.System.Volumes[1].Content
	return b.commit(), first, second
}

// steps are the actions of a sync, by the name of what they are about.
func steps(r *importer.StageResult) map[string]string {
	m := map[string]string{}
	for _, s := range r.Steps {
		m[fmt.Sprintf("%s %s %s", s.Action, s.Kind, s.Name)] = s.Detail
	}
	return m
}

func stage(t testing.TB, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, dir string) *importer.StageResult {
	t.Helper()
	r, err := importer.SyncStage(t.Context(), repo, snap, f, importer.StageOptions{Dir: dir})
	ok(t, err)
	return r
}

// restored is what an engine has after a restore, without what only a stage leaves there.
func restored(t testing.TB, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, dir string) (*importer.Result, string) {
	t.Helper()
	opts := quick
	opts.Stage = dir
	r, err := importer.Restore(t.Context(), repo, snap, f, opts)
	ok(t, err)
	return r, listing(t, filepath.Join(f.root, "shop_data")) + listing(t, filepath.Join(f.root, "shop_same"))
}

func TestStage(t *testing.T) {
	repo, first, second := twoNights(t)
	_, want := restored(t, repo, second, newFake(t), "")
	f, dir := newFake(t), t.TempDir()

	r := stage(t, repo, first, f, dir)
	if diff := cmp.Diff(map[string]string{"fill image app:1": "", "fill changes shop-db-1": "", "fill volume shop_data": "", "fill volume shop_same": ""}, steps(r)); diff != "" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	all := r.Fetched
	r = stage(t, repo, first, f, dir)
	if diff := cmp.Diff(map[string]string{"keep image app:1": "", "keep changes shop-db-1": "", "keep volume shop_data": "", "keep volume shop_same": ""}, steps(r)); diff != "" || r.Fetched != 0 {
		t.Errorf("again: %d bytes fetched (-want +got):\n%s", r.Fetched, diff)
	}
	r = stage(t, repo, second, f, dir)
	wantSteps := map[string]string{
		"fill image app:1": "", "fill changes shop-db-1": "", "update volume shop_data": "", "keep volume shop_same": "",
		"remove image hakobune/shop-db-1:11111111": "",
	}
	if diff := cmp.Diff(wantSteps, steps(r)); diff != "" {
		t.Errorf("second (-want +got):\n%s", diff)
	}
	if r.Fetched == 0 || r.Fetched > all/5 {
		t.Errorf("%d bytes fetched for the difference, %d for all", r.Fetched, all)
	}
	if n := len(f.images); n != 2 {
		t.Errorf("%d images, want that of the system and that with its changes", n)
	}

	res, got := restored(t, repo, second, f, dir)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("restored from the stage (-want +got):\n%s", diff)
	}
	var st unix.Stat_t
	if ok(t, unix.Stat(filepath.Join(f.root, "shop_data", "owned"), &st)); st.Uid != 7 || st.Gid != 8 {
		t.Errorf("owner %d:%d", st.Uid, st.Gid)
	}
	ok(t, unix.Stat(filepath.Join(f.root, "shop_data", "linked"), &st))
	if st.Nlink != 2 {
		t.Errorf("%d names", st.Nlink)
	}
	if content := second.System.Volumes[0].Content.Bytes + second.System.Volumes[1].Content.Bytes; res.Fetched != 0 || res.Staged < content {
		t.Errorf("%d bytes fetched, %d staged, the volumes hold %d", res.Fetched, res.Staged, content)
	}
	for name := range f.volumes {
		if strings.HasPrefix(name, "hakobune-stage") {
			t.Errorf("volume %s is left", name)
		}
	}
}

// A restore of a newer snapshot than the staged one fetches what differs.
func TestStageIsOlder(t *testing.T) {
	repo, first, second := twoNights(t)
	_, want := restored(t, repo, second, newFake(t), "")
	f, dir := newFake(t), t.TempDir()
	all := stage(t, repo, first, f, dir).Fetched
	res, got := restored(t, repo, second, f, dir)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if res.Fetched > all/5 || res.Staged < all/2 {
		t.Errorf("%d bytes fetched, %d staged, of %d", res.Fetched, res.Staged, all)
	}
}

// What somebody has changed in a staged volume is never restored, whether a sync or a restore meets it.
func TestStageChanged(t *testing.T) {
	repo, first, _ := twoNights(t)
	_, want := restored(t, repo, first, newFake(t), "")
	for what, change := range map[string]func(dir string) error{
		"content": func(dir string) error { // of the same length and time
			name := filepath.Join(dir, "data", "one")
			fi, err := os.Stat(name)
			return errors.Join(err, os.WriteFile(name, []byte("!"), 0o644), os.Chtimes(name, fi.ModTime(), fi.ModTime()))
		},
		"mode":    func(dir string) error { return os.Chmod(filepath.Join(dir, "log"), 0o666) },
		"new":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o644) },
		"removed": func(dir string) error { return os.Remove(filepath.Join(dir, "linked")) },
	} {
		t.Run(what, func(t *testing.T) {
			f, dir := newFake(t), t.TempDir()
			stage(t, repo, first, f, dir)
			ok(t, change(stageDir(t, f, "shop_data")))
			if r := stage(t, repo, first, f, dir); steps(r)["fill volume shop_data"] != "was changed by others" {
				t.Errorf("sync: %v", steps(r))
			}
			ok(t, change(stageDir(t, f, "shop_data")))
			if _, got := restored(t, repo, first, f, dir); got != want {
				t.Errorf("restored (-want +got):\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// What a killed sync left, or somebody changed, is held against the chunks' ids: only what is not right is fetched.
func TestStageResumes(t *testing.T) {
	repo, first, second := twoNights(t)
	_, want := restored(t, repo, second, newFake(t), "")
	for what, tt := range map[string]struct {
		change func(dir string) error
		most   int64
	}{
		"nothing": {func(string) error { return nil }, 425_000}, // a file of two names is not trusted
		"a byte": {func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "big"), os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte("x"), 1000)
			}
			return errors.Join(err, f.Close())
		}, 845_000},
		"a link instead": {func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "big"), filepath.Join(dir, "moved")), os.Symlink("moved", filepath.Join(dir, "big")))
		}, 845_000},
		"a linked directory": {func(dir string) error {
			return errors.Join(os.Rename(filepath.Join(dir, "data"), filepath.Join(dir, "moved")), os.Symlink("moved", filepath.Join(dir, "data")))
		}, 425_000},
	} {
		t.Run(what, func(t *testing.T) {
			f, dir := newFake(t), t.TempDir()
			stage(t, repo, first, f, dir)
			ok(t, tt.change(stageDir(t, f, "shop_data")))
			ok(t, os.RemoveAll(filepath.Join(dir, "standby")))
			r := stage(t, repo, second, f, dir)
			if r.Fetched > tt.most {
				t.Errorf("%d bytes fetched", r.Fetched)
			}
			if _, got := restored(t, repo, second, f, dir); got != want {
				t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
			}
		})
	}
}

// stageDir is the directory in which a volume is staged.
func stageDir(t testing.TB, f *fakeEngine, volume string) string {
	t.Helper()
	for name := range f.volumes {
		if strings.HasPrefix(name, "hakobune-stage-shop-"+volume+"-") {
			return filepath.Join(f.root, name)
		}
	}
	t.Fatalf("volume %s is not staged: %v", volume, f.volumes)
	return ""
}

// A container that has a staged volume mounted keeps it from being touched.
func TestStageInUse(t *testing.T) {
	repo, first, second := twoNights(t)
	f, dir := newFake(t), t.TempDir()
	stage(t, repo, first, f, dir)
	volume := filepath.Base(stageDir(t, f, "shop_data"))
	f.containers["x"] = &fakeContainer{Name: "curious", State: "running", Mounts: []snapshot.Mount{{Type: "volume", Name: volume}}}
	before := listing(t, filepath.Join(f.root, volume))
	_, err := importer.SyncStage(t.Context(), repo, second, f, importer.StageOptions{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "curious") {
		t.Errorf("sync: %v", err)
	}
	if res, _ := restored(t, repo, first, f, dir); res.Fetched < 400_000 {
		t.Errorf("%d bytes fetched: the volume in use was taken", res.Fetched)
	}
	if after := listing(t, filepath.Join(f.root, volume)); after != before {
		t.Errorf("it was touched (-before +after):\n%s", cmp.Diff(before, after))
	}
}

// A sync that ends at any call of the engine leaves nothing that is taken for complete and is not, and the next one
// succeeds.
func TestStageEveryCallFails(t *testing.T) {
	repo, first, second := twoNights(t)
	_, want := restored(t, repo, second, newFake(t), "")
	step := 1
	if testing.Short() { // under the race detector; what runs at once does so whichever call fails
		step = 3
	}
	for n := 1; ; n += step {
		f, dir := newFake(t), t.TempDir()
		stage(t, repo, first, f, dir)
		fired := failOnly(f, n)
		_, err := importer.SyncStage(t.Context(), repo, second, f, importer.StageOptions{Dir: dir})
		if f.fault = nil; !*fired {
			ok(t, err)
			t.Logf("%d calls failed in turn", n-1)
			return
		}
		if n%2 == 0 { // else the restore finds what the sync left
			stage(t, repo, second, f, dir)
		}
		if _, got := restored(t, repo, second, f, dir); got != want {
			t.Fatalf("call %d: %v\n(-want +got):\n%s", n, err, cmp.Diff(want, got))
		}
	}
}

// A reference that a sync was about to give when it ended, and that names the user's own image since, stays the
// user's; one that it had given is its own.
func TestStageTakesNoOthersImage(t *testing.T) {
	repo, first, second := twoNights(t)
	for what, tt := range map[string]struct {
		at     string
		killed bool
		own    bool // the user has an image of the name
	}{
		"failed": {at: "tag app:1", own: true}, "killed": {at: "tag app:1", killed: true, own: true},
		"given": {at: "tag hakobune/shop-db-1", killed: true},
	} {
		t.Run(what, func(t *testing.T) {
			f, dir := newFake(t), t.TempDir()
			fired := false
			f.fault = func(call string) error {
				if at := strings.HasPrefix(call, tt.at); at || fired && tt.killed {
					fired = true
					return errInjected
				}
				return nil
			}
			if _, err := importer.SyncStage(t.Context(), repo, first, f, importer.StageOptions{Dir: dir}); err == nil || !fired {
				t.Fatalf("sync: %v", err)
			}
			f.fault = nil
			if tt.own {
				f.images["sha256:own"], f.tags["app:1"] = fakeEngineImage{}, "sha256:own"
			}
			r := stage(t, repo, second, f, dir)
			_, there := f.images["sha256:own"]
			if there != tt.own || (f.tags["app:1"] == "sha256:own") != tt.own || strings.Contains(fmt.Sprint(r.Notes), "names another image") != tt.own {
				t.Errorf("tags %v, notes %v", f.tags, r.Notes)
			}
		})
	}
}

// failOnly has the n-th call from now on fail.
func failOnly(f *fakeEngine, n int) *bool {
	fired := new(bool)
	f.fault = func(string) error {
		if n--; n == 0 {
			*fired = true
			return errInjected
		}
		return nil
	}
	return fired
}

// A restore that fails at any call of the engine puts back what it had taken, and what comes after is right.
func TestStageOfFailedRestore(t *testing.T) {
	repo, first, second := twoNights(t)
	_, want := restored(t, repo, second, newFake(t), "")
	step := 2
	if testing.Short() {
		step = 9
	}
	for n := 1; ; n += step {
		f, dir := newFake(t), t.TempDir()
		stage(t, repo, first, f, dir)
		opts := quick
		opts.Stage = dir
		fired := failOnly(f, n)
		r, err := importer.Restore(t.Context(), repo, second, f, opts)
		if f.fault = nil; !*fired {
			ok(t, err)
			return
		}
		if err == nil {
			continue // it came after the system ran
		}
		if f.volumes["shop_data"] || f.volumes["shop_same"] || len(r.Left) > 0 {
			t.Fatalf("call %d: %v: volumes %v, left %v", n, err, f.volumes, r.Left)
		}
		if _, got := restored(t, repo, second, f, dir); got != want {
			t.Fatalf("call %d: %v\n(-want +got):\n%s", n, err, cmp.Diff(want, got))
		}
	}
}

// A sync that is cancelled while it writes leaves the volume it was at out of the stage.
func TestStageCancelled(t *testing.T) {
	repo, first, second := twoNights(t)
	_, want := restored(t, repo, second, newFake(t), "")
	f, dir := newFake(t), t.TempDir()
	stage(t, repo, first, f, dir)
	ctx, cancel := context.WithCancel(t.Context())
	f.fault = func(call string) error {
		if strings.HasPrefix(call, "mountpoint") && slices.Contains(strings.Fields(call), filepath.Base(stageDirLocked(f))) {
			defer cancel()
		}
		return nil
	}
	_, err := importer.SyncStage(ctx, repo, second, f, importer.StageOptions{Dir: dir})
	if f.fault = nil; !errors.Is(err, context.Canceled) {
		t.Fatalf("sync: %v", err)
	}
	if _, got := restored(t, repo, second, f, dir); got != want {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want, got))
	}
}

// stageDirLocked is stageDir for a fault, which is called with the engine's lock held.
func stageDirLocked(f *fakeEngine) string {
	for name := range f.volumes {
		if strings.HasPrefix(name, "hakobune-stage-shop-shop_data-") {
			return name
		}
	}
	return "none"
}

// A stage that another process works on is not touched by a sync, and not used by a restore.
func TestStageBusy(t *testing.T) {
	repo, first, _ := twoNights(t)
	f, dir := newFake(t), t.TempDir()
	stage(t, repo, first, f, dir)
	locks, err := filepath.Glob(filepath.Join(dir, "standby", "*.lock"))
	ok(t, err)
	lock, err := os.Open(locks[0])
	ok(t, err)
	defer lock.Close()
	ok(t, unix.Flock(int(lock.Fd()), unix.LOCK_EX))
	if _, err := importer.SyncStage(t.Context(), repo, first, f, importer.StageOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("sync: %v", err)
	}
	if res, _ := restored(t, repo, first, f, dir); res.Fetched < 400_000 || !strings.Contains(fmt.Sprint(res.Notes), "another process") {
		t.Errorf("%d bytes fetched, notes %v", res.Fetched, res.Notes)
	}
}

// A dry run changes nothing.
func TestStageDryRun(t *testing.T) {
	repo, first, second := twoNights(t)
	f, dir := newFake(t), t.TempDir()
	stage(t, repo, first, f, dir)
	before := f.state(t, dir)
	r, err := importer.SyncStage(t.Context(), repo, second, f, importer.StageOptions{Dir: dir, DryRun: true})
	ok(t, err)
	if after := f.state(t, dir); after != before || r.Fetched != 0 {
		t.Errorf("%d bytes fetched (-before +after):\n%s", r.Fetched, cmp.Diff(before, after))
	}
	if _, ok := steps(r)["update volume shop_data"]; !ok {
		t.Errorf("steps: %v", steps(r))
	}
	if _, err := importer.SyncStage(t.Context(), repo, second, f, importer.StageOptions{}); err == nil {
		t.Error("staged without a directory")
	}
}
