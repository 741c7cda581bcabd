package importer_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

var errKilled = errors.New("killed")

// killedAt restores until the n-th call of the engine: this and all later ones fail, those of the undo too, and the
// journal is what it was at that moment, and the bind too, which the undo does not need the engine for. It reports
// whether there were so many calls.
func killedAt(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, o importer.Options, n int) (reached bool) {
	t.Helper()
	journals := map[string][]byte{}
	calls := 0
	bind := snap.System.Binds[0].Source
	f.fault = func(string) error {
		if calls++; calls < n {
			return nil
		}
		if calls == n {
			names, _ := filepath.Glob(filepath.Join(o.StateDir, "restores", "*"))
			for _, name := range names {
				text, err := os.ReadFile(name)
				ok(t, err)
				journals[name] = text
			}
			_ = os.Rename(bind, bind+".kept")
		}
		return errKilled
	}
	_, err := importer.Restore(t.Context(), repo, snap, f, o)
	f.fault = nil
	if calls < n {
		ok(t, err)
		return false
	}
	for name, text := range journals {
		ok(t, os.WriteFile(name, text, 0o600))
	}
	_ = os.Rename(bind+".kept", bind)
	return true
}

var numbered = regexp.MustCompile(`(container|network)-\d+`)

// A restore that is killed at any call of the engine and run again ends as if it had not been killed, and leaves
// nothing else behind.
func TestKilled(t *testing.T) {
	repo, snap, conf := smallShop(t)
	want := ""
	for n := 1; ; n++ {
		ok(t, os.RemoveAll(filepath.Dir(conf)))
		ok(t, os.Mkdir(filepath.Dir(conf), 0o755))
		f := newFake(t)
		o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
		reached := killedAt(t, repo, snap, f, o, n)
		r, err := importer.Restore(t.Context(), repo, snap, f, o)
		if !reached {
			if err == nil {
				t.Error("what a complete restore made was made once more")
			}
			t.Logf("killed at %d calls in turn", n-1)
			break
		}
		if err != nil {
			t.Fatalf("killed at call %d, and run again: %v\n%v", n, err, r.Notes)
		}
		got := numbered.ReplaceAllString(f.state(t, conf), "$1")
		lines := strings.Split(got, "\n")
		slices.Sort(lines) // the order of ids
		got = strings.Join(lines, "\n")
		if want == "" {
			want = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("killed at call %d, and run again (-want +got):\n%s\n%v", n, diff, r.Notes)
		}
		if left, err := os.ReadDir(filepath.Join(o.StateDir, "restores")); err != nil || len(left) > 0 {
			t.Errorf("call %d: journals left: %v, %v", n, left, err)
		}
	}
}

// callOf returns the number of the first call that begins with the text.
func callOf(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot, conf, text string) int {
	t.Helper()
	f, n, calls := newFake(t), 0, 0
	f.fault = func(call string) error {
		if calls++; n == 0 && strings.HasPrefix(call, text) {
			n = calls
		}
		return nil
	}
	_, err := importer.Restore(t.Context(), repo, snap, f, importer.Options{Settle: quick.Settle, StateDir: t.TempDir()})
	ok(t, err)
	ok(t, os.RemoveAll(conf))
	if n == 0 {
		t.Fatalf("no call %s", text)
	}
	return n
}

// What somebody else made meanwhile under the names of a killed restore is not touched.
func TestKilledSpares(t *testing.T) {
	repo, snap, conf := smallShop(t)
	n := callOf(t, repo, snap, conf, "create container")
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, n) {
		t.Fatal("not killed")
	}
	ok(t, f.RemoveVolume(t.Context(), "shop_data"))
	ok(t, f.CreateVolume(t.Context(), snapshot.Volume{}, "shop_data", nil))
	mine := filepath.Join(f.root, "shop_data", "mine")
	ok(t, os.WriteFile(mine, nil, 0o600))
	found, err := importer.Recover(t.Context(), f, o.StateDir, "")
	ok(t, err)
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("another's volume is gone: %v; removed %v", err, found.Removed)
	}
	if len(found.Removed) == 0 || len(found.Left) > 0 || len(f.networks) > 0 {
		t.Errorf("removed %v, left %v, networks %v", found.Removed, found.Left, f.networks)
	}
	again, err := importer.Recover(t.Context(), f, o.StateDir, "")
	ok(t, err)
	if len(again.Removed)+len(again.Left) > 0 {
		t.Errorf("a second time: %v", again)
	}
}

// Once containers run nothing is taken back: somebody may use them. Only the same restore goes on.
func TestKilledRunning(t *testing.T) {
	repo, snap, conf := smallShop(t)
	n := callOf(t, repo, snap, conf, "start ") + 1
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, n) {
		t.Fatal("not killed")
	}
	before := f.state(t)
	found, err := importer.Recover(t.Context(), f, o.StateDir, "")
	ok(t, err)
	var unfinished *importer.UnfinishedError
	if len(found.Unfinished) != 1 || len(found.Removed) > 0 {
		t.Errorf("found %v", found)
	}
	other := o
	other.Ports = map[string]string{"8080": "18080"}
	if _, err := importer.Restore(t.Context(), repo, snap, f, other); !errors.As(err, &unfinished) || unfinished.Hint() == "" {
		t.Errorf("another restore: %v", err)
	}
	if diff := cmp.Diff(before, f.state(t)); diff != "" {
		t.Errorf("something was touched (-before +after):\n%s", diff)
	}
	done := 0
	o.Done = func(*importer.Result) error { done++; return nil }
	r, err := importer.Restore(t.Context(), repo, snap, f, o)
	ok(t, err)
	if done != 1 || r.Healthy == 0 || !strings.Contains(fmt.Sprint(r.Notes), "went on") {
		t.Errorf("done %d times, healthy after %v, notes %v", done, r.Healthy, r.Notes)
	}
}

// completed restores, and leaves what a restore leaves that was killed in its last moment.
func completed(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, o importer.Options) (leave func()) {
	t.Helper()
	name, text := "", []byte(nil)
	o.Done = func(*importer.Result) error {
		all, err := filepath.Glob(filepath.Join(o.StateDir, "restores", "*"))
		ok(t, err)
		name = all[0]
		text, err = os.ReadFile(name)
		return err
	}
	_, err := importer.Restore(t.Context(), repo, snap, f, o)
	ok(t, err)
	leave = func() { ok(t, os.WriteFile(name, text, 0o600)) }
	leave()
	return leave
}

// What a killed restore has started may be in use for long: going on with it undoes nothing of it, whatever fails.
func TestKilledResumeFails(t *testing.T) {
	repo, snap, conf := smallShop(t)
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	leave := completed(t, repo, snap, f, o)
	ok(t, os.WriteFile(filepath.Join(f.root, "shop_data", "mine"), nil, 0o600))
	state := func() string { // but for images, of which it may send one again
		_, rest, _ := strings.Cut(f.state(t, conf), "\nvolume ")
		return rest
	}
	before := state()
	for n := 1; ; n++ {
		r, failed, err := restoreFailing(t.Context(), repo, snap, f, o, n)
		if diff := cmp.Diff(before, state()); diff != "" {
			t.Fatalf("call %d, %s: %v (-before +after):\n%s", n, failed, err, diff)
		}
		if failed == "" {
			ok(t, err)
			if n < 5 || !strings.Contains(fmt.Sprint(r.Notes), "went on") {
				t.Errorf("only %d calls; %v", n, r.Notes)
			}
			return
		}
		if err == nil {
			leave()
		}
	}
}

// A container that somebody made anew under its name is not taken for the restore's.
func TestKilledMadeAnew(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	completed(t, repo, snap, f, o)
	for id, c := range maps.Clone(f.containers) {
		delete(f.containers, id)
		f.containers[f.newID("container")] = c
		break
	}
	before := f.state(t)
	var clash *importer.ClashError
	if _, err := importer.Restore(t.Context(), repo, snap, f, o); !errors.As(err, &clash) {
		t.Errorf("%v, want a clash", err)
	}
	if diff := cmp.Diff(before, f.state(t)); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}

// What a killed restore has filled, and somebody runs a container on by now, is that one's.
func TestKilledInUse(t *testing.T) {
	repo, snap, conf := smallShop(t)
	n := callOf(t, repo, snap, conf, "create container")
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, n) {
		t.Fatal("not killed")
	}
	f.containers["mine"] = &fakeContainer{Name: "mine", State: "exited", Inspect: "{}", Mounts: []snapshot.Mount{
		{Type: "bind", Source: filepath.Join(conf, "below"), Destination: "/a"}, {Type: "volume", Name: "shop_data", Destination: "/b"},
	}}
	found, err := importer.Recover(t.Context(), f, o.StateDir, "")
	ok(t, err)
	if text := fmt.Sprint(found.Left); !strings.Contains(text, "volume shop_data: container mine uses it") || !strings.Contains(text, conf+": container mine uses it") {
		t.Errorf("left %v, removed %v", found.Left, found.Removed)
	}
	if _, err := os.Stat(filepath.Join(conf, "site.conf")); err != nil || !f.volumes["shop_data"] {
		t.Errorf("%v; volumes %v", err, f.volumes)
	}
}

// One restore of a system at a time on an engine.
func TestRestoreAtOnce(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	o.Done = func(*importer.Result) error {
		inner := o
		inner.Done = nil
		if _, err := importer.Restore(t.Context(), repo, snap, f, inner); err == nil || !strings.Contains(err.Error(), "is running") {
			t.Errorf("a second one: %v", err)
		}
		return nil
	}
	_, err := importer.Restore(t.Context(), repo, snap, f, o)
	ok(t, err)
}

// A journal of which not even the beginning was written is of a restore that had made nothing.
func TestKilledAtOnce(t *testing.T) {
	f, dir := newFake(t), t.TempDir()
	torn := filepath.Join(dir, "restores", "x.restore")
	ok(t, os.Mkdir(filepath.Dir(torn), 0o700))
	ok(t, os.WriteFile(torn, []byte(`{"version":1,"eng`), 0o600))
	systems, err := importer.Killed(f.Facts(), dir)
	ok(t, err)
	if _, err := os.Stat(torn); len(systems) > 0 || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("systems %q, journal %v", systems, err)
	}
}
