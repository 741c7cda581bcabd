package importer_test

import (
	"context"
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

// killedAt restores until the n-th call of the engine that begins with the text: this one and all that come later fail,
// nothing is undone, and the journal stays. It reports whether there were so many calls.
func killedAt(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, o importer.Options, n int, text string) (reached bool) {
	t.Helper()
	calls := 0
	kept := filepath.Join(t.TempDir(), "journal")
	at := ""
	f.fault = func(call string) error {
		if calls < n && strings.HasPrefix(call, text) {
			if calls++; calls == n {
				reached = true
			}
		}
		if !reached {
			return nil
		}
		if at == "" {
			if all, _ := filepath.Glob(filepath.Join(o.StateDir, "restores", "*")); len(all) > 0 {
				at = all[0]
				ok(t, os.Link(at, kept)) // what other goroutines do yet is in it too
			}
		}
		return errKilled
	}
	o.Keep = true
	_, err := importer.Restore(t.Context(), repo, snap, f, o)
	f.fault = nil
	if !reached {
		ok(t, err)
	}
	if at != "" {
		ok(t, os.Rename(kept, at))
	}
	return reached
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
		reached := killedAt(t, repo, snap, f, o, n, "")
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

// What somebody else made meanwhile under the names of a killed restore is not touched.
func TestKilledSpares(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, 1, "create container") {
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
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, 2, "start ") {
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
	f := newFake(t)
	o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, 1, "create container") {
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

// What somebody wrote without a container into what a killed restore had filled, or was about to fill, is his: it stays and
// is named, once. So is a container that he has started.
func TestKilledWritten(t *testing.T) {
	repo, snap, conf := smallShop(t)
	empty := snap.System.Volumes[1].Name
	write := func(path ...string) func(*testing.T, *fakeEngine) {
		return func(t *testing.T, f *fakeEngine) {
			name := filepath.Join(path...)
			if !filepath.IsAbs(name) {
				name = filepath.Join(f.root, name)
			}
			ok(t, os.WriteFile(name, []byte("mine"), 0o600))
		}
	}
	for _, tt := range []struct {
		name, at string // the call that it is killed at
		change   func(*testing.T, *fakeEngine)
		left     string
	}{
		{"file in a volume", "create container", write("shop_data", "mine"), "volume shop_data: somebody has written there"},
		{"file changed in a volume", "create container", write("shop_data", "table"), "volume shop_data: somebody has written there"},
		{"file gone from a volume", "create container", func(t *testing.T, f *fakeEngine) {
			ok(t, os.Remove(filepath.Join(f.root, "shop_data", "table")))
			write("shop_data", "other")(t, f)
		}, "volume shop_data: somebody has written there"},
		{"mode", "create container", func(t *testing.T, f *fakeEngine) {
			ok(t, os.Chmod(filepath.Join(f.root, "shop_data", "table"), 0o777))
		}, "volume shop_data: somebody has written there"},
		{"volume that is not filled yet", "mountpoint shop_data", write("shop_data", "mine"), "volume shop_data: somebody has written there"},
		{"volume that was empty", "create container", write(empty, "mine"), "volume " + empty + ": somebody has written there"},
		{"the same, cleared already", "start ", write(empty, "mine"), ""},
		{"bind", "create container", write(conf, "mine"), "bind " + conf + ": somebody has written there"},
		{"container", "create container shop-web-1", func(_ *testing.T, f *fakeEngine) {
			for _, c := range f.containers {
				c.State = "exited"
			}
		}, "container shop-db-1: it has been started"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, o := newFake(t), importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
			t.Cleanup(func() { ok(t, os.RemoveAll(conf)) })
			if !killedAt(t, repo, snap, f, o, 1, tt.at) {
				t.Fatal("not killed")
			}
			tt.change(t, f)
			written := f.state(t, conf)
			found, err := importer.Recover(t.Context(), f, o.StateDir, "")
			ok(t, err)
			if text := fmt.Sprint(found.Left); tt.left == "" && len(found.Unfinished) == 0 || !strings.Contains(text, tt.left) {
				t.Errorf("left %v, removed %v", found.Left, found.Removed)
			}
			for line := range strings.Lines(written) {
				if strings.Contains(line, "mine") && !strings.Contains(f.state(t, conf), line) {
					t.Errorf("%s is gone; removed %v", line, found.Removed)
				}
			}
		})
	}
}

// What is a person's now is told once, and stands in the way of the same restore like anything else of his.
func TestKilledWrittenClashes(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f, o := newFake(t), importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, 1, "create container") {
		t.Fatal("not killed")
	}
	mine := filepath.Join(f.root, "shop_data", "mine")
	ok(t, os.WriteFile(mine, nil, 0o600))
	var clash *importer.ClashError
	r, err := importer.Restore(t.Context(), repo, snap, f, o)
	if !errors.As(err, &clash) || len(clash.Clashes) != 1 || clash.Clashes[0].Name != "shop_data" || !strings.Contains(fmt.Sprint(r.Notes), "volume shop_data: somebody has written there") {
		t.Errorf("%v; notes %v", err, r.Notes)
	}
	if r, err = importer.Restore(t.Context(), repo, snap, f, o); !errors.As(err, &clash) || strings.Contains(fmt.Sprint(r.Notes), "somebody") {
		t.Errorf("the second time: %v; notes %v", err, r.Notes)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
	o.SkipExisting = true
	_, err = importer.Restore(t.Context(), repo, snap, f, o)
	ok(t, err)
	if _, err := os.Stat(mine); err != nil {
		t.Error(err)
	}
}

// unheard is an engine whose answer to a call is not heard any more: what it makes is made, and then the restore is killed.
type unheard struct {
	*fakeEngine
	kind string
	die  func() error
}

func (u *unheard) CreateVolume(ctx context.Context, v snapshot.Volume, name string, labels map[string]string) error {
	err := u.fakeEngine.CreateVolume(ctx, v, name, labels)
	if err == nil && u.kind == "volume" {
		err = u.die()
	}
	return err
}

func (u *unheard) CreateNetwork(ctx context.Context, n snapshot.Network, name string, labels map[string]string) (string, []string, error) {
	id, warnings, err := u.fakeEngine.CreateNetwork(ctx, n, name, labels)
	if err == nil && u.kind == "network" {
		err = u.die()
	}
	return id, warnings, err
}

func (u *unheard) CreateContainer(ctx context.Context, c snapshot.Container, p snapshot.Placement) (string, []string, error) {
	id, warnings, err := u.fakeEngine.CreateContainer(ctx, c, p)
	if err == nil && u.kind == "container" {
		err = u.die()
	}
	return id, warnings, err
}

// Of what a killed restore was about to make it is known whether it has made it: what it has is removed, also where the
// answer of the engine was never heard, and what others made since under the name is not.
func TestKilledUnheard(t *testing.T) {
	repo, snap, conf := smallShop(t)
	for _, kind := range []string{"volume", "network", "container"} {
		for _, mine := range []bool{false, true} {
			t.Run(fmt.Sprint(kind, mine), func(t *testing.T) {
				f, o := newFake(t), importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
				kept, at := filepath.Join(t.TempDir(), "journal"), ""
				die := func() error {
					f.mu.Lock()
					defer f.mu.Unlock()
					if at == "" {
						all, _ := filepath.Glob(filepath.Join(o.StateDir, "restores", "*"))
						at = all[0]
						ok(t, os.Link(at, kept))
					}
					f.fault = func(string) error { return errKilled }
					return errKilled
				}
				killed := o
				killed.Keep = true
				_, err := importer.Restore(t.Context(), repo, snap, &unheard{f, kind, die}, killed)
				if !errors.Is(err, errKilled) {
					t.Fatal(err)
				}
				ok(t, os.Rename(kept, at))
				f.fault = nil
				if mine { // he has removed it, and made his own
					for name := range f.volumes {
						f.labels[name] = nil
					}
					for id := range f.networks {
						f.labels[id] = nil
					}
					for _, c := range f.containers {
						c.State = "exited"
					}
				}
				_, err = importer.Recover(t.Context(), f, o.StateDir, "")
				ok(t, err)
				if got := len(f.volumes) + len(f.networks) + len(f.containers); (got > 0) != mine {
					t.Errorf("volumes %v, networks %v, %d containers", f.volumes, f.networks, len(f.containers))
				}
				ok(t, os.RemoveAll(conf))
			})
		}
	}
}

// A volume that somebody made anew under its name is not taken for the restore's.
func TestKilledVolumeMadeAnew(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f, o := newFake(t), importer.Options{Settle: quick.Settle, StateDir: t.TempDir()}
	completed(t, repo, snap, f, o)
	f.labels["shop_data"] = nil
	var clash *importer.ClashError
	if _, err := importer.Restore(t.Context(), repo, snap, f, o); !errors.As(err, &clash) || clash.Clashes[0].Name != "shop_data" {
		t.Errorf("%v, want a clash", err)
	}
}

// Of an engine on another host nothing can be seen of what a volume holds. Killed at any call, each volume that is left is
// named, and nothing else is left.
func TestKilledRemote(t *testing.T) {
	repo, snap, _ := smallShop(t)
	named := 0
	for n := 1; ; n++ {
		f := newFake(t)
		f.facts.Local = false
		o := importer.Options{Settle: quick.Settle, StateDir: t.TempDir(), WithoutBinds: true}
		if !killedAt(t, repo, snap, f, o, n, "") {
			break
		}
		found, err := importer.Recover(t.Context(), f, o.StateDir, "")
		ok(t, err)
		if len(found.Unfinished) > 0 {
			continue
		}
		for name := range f.volumes {
			if named++; !strings.Contains(fmt.Sprint(found.Left), "volume "+name+": what is in it cannot be looked at from here") {
				t.Errorf("killed at call %d: volume %s is there, left %v", n, name, found.Left)
			}
		}
		if len(f.networks)+len(f.containers) > 0 || strings.Contains(f.state(t), "hakobune/fill") {
			t.Errorf("killed at call %d: networks %v, %d containers\n%s", n, f.networks, len(f.containers), f.state(t))
		}
	}
	if named == 0 {
		t.Error("no kill left a volume")
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
