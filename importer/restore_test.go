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
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// quick are options of a restore to an engine whose containers are healthy at once.
var quick = importer.Options{Settle: time.Nanosecond}

// runningShop is an engine on which another state of the shop runs.
func runningShop(t testing.TB, repo *chunkstore.Repository, snap *snapshot.Snapshot, conf string) *fakeEngine {
	t.Helper()
	f := newFake(t)
	_, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	for _, path := range []string{filepath.Join(f.root, "shop_data", "table"), filepath.Join(conf, "site.conf")} {
		ok(t, os.WriteFile(path, []byte("newer\n"), 0o644))
	}
	f.images["sha256:other"] = fakeEngineImage{}
	f.tags["mariadb:11"] = "sha256:other"
	for _, c := range f.containers {
		c.Restart = "always"
	}
	return f
}

func TestRestore(t *testing.T) {
	repo, snap, conf := smallShop(t)
	f := newFake(t)
	r, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	digests := regexp.MustCompile(`sha256:[0-9a-f]{64}`)
	golden(t, "../restored", digests.ReplaceAllString(strings.ReplaceAll(f.state(t, conf), conf, "CONF"), "sha256:..."))
	if r.Healthy == 0 || len(r.Left) > 0 {
		t.Errorf("healthy after %v, left %v", r.Healthy, r.Left)
	}
	var got []string
	for _, o := range r.Objects {
		got = append(got, fmt.Sprintf("%s %s %s %s", o.Action, o.Kind, strings.ReplaceAll(o.Name, conf, "CONF"), o.State))
	}
	slices.Sort(got)
	want := []string{
		"create bind CONF ",
		"create changes hakobune/shop-db-1:01234567 ",
		"create changes hakobune/shop-job-1:01234567 ",
		"create changes hakobune/shop-side-1:01234567 ",
		"create changes hakobune/shop-web-1:01234567 ",
		"create container shop-db-1 running",
		"create container shop-job-1 created",
		"create container shop-side-1 running",
		"create container shop-web-1 running",
		"create image mariadb:11 ",
		"create image nginx:1.25 ",
		"create network proxy ",
		"create network shop_default ",
		"create volume " + snap.System.Volumes[1].Name + " ",
		"create volume shop_data ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// TestUndo fails every single call of the engine in turn, until a restore runs through: each time
// everything has to be as it was before, or done, with a word about what went wrong.
func TestUndo(t *testing.T) {
	repo, snap, conf := smallShop(t)
	for _, tt := range []struct {
		name string
		opts importer.Options
		old  bool // another state of the system runs already
	}{
		{"fresh", importer.Options{}, false},
		{"beside", importer.Options{As: "test", Binds: map[string]string{conf: conf + "-test"}}, true},
		{"replace", importer.Options{Replace: true}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.opts.Settle = quick.Settle
			start := func() (*fakeEngine, string) {
				ok(t, os.RemoveAll(filepath.Dir(conf)))
				ok(t, os.Mkdir(filepath.Dir(conf), 0o755))
				f := newFake(t)
				if tt.old {
					f = runningShop(t, repo, snap, conf)
				}
				return f, f.state(t, filepath.Dir(conf))
			}
			f, before := start()
			n := 1
			for ; ; n++ {
				r, failed, err := restoreFailing(t.Context(), repo, snap, f, tt.opts, n)
				if failed == "" {
					ok(t, err)
					break
				}
				if err == nil {
					if text := fmt.Sprint(r.Notes, r.Left); !strings.Contains(text, errInjected.Error()) {
						t.Errorf("call %d, %s: no error, and no word about it: %s", n, failed, text)
					}
					f, before = start()
					continue
				}
				if after := f.state(t, filepath.Dir(conf)); after != before || len(r.Left) > 0 {
					t.Fatalf("call %d, %s: %v\nleft %v\n(-before +after):\n%s", n, failed, err, r.Left, cmp.Diff(before, after))
				}
			}
			t.Logf("%d calls failed in turn", n-1)
		})
	}
}

// TestCancel ends the context of a restore at every single call of the engine in turn.
func TestCancel(t *testing.T) {
	repo, snap, conf := smallShop(t)
	opts := importer.Options{Replace: true, Settle: quick.Settle}
	f := runningShop(t, repo, snap, conf)
	before := f.state(t, filepath.Dir(conf))
	for n := 1; ; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		f.fault = func(string) error {
			if calls++; calls == n {
				cancel()
			}
			return nil
		}
		_, err := importer.Restore(ctx, repo, snap, f, opts)
		f.fault = nil
		cancel()
		if err == nil {
			break // it came too late
		}
		if after := f.state(t, filepath.Dir(conf)); after != before || !errors.Is(err, context.Canceled) {
			t.Fatalf("call %d: %v\n(-before +after):\n%s", n, err, cmp.Diff(before, after))
		}
	}
}

// TestUndoKeepsWhatIsAside: where the old content of a volume cannot be put back, it stays where it is.
func TestUndoKeepsWhatIsAside(t *testing.T) {
	needRoot(t)
	repo, snap, conf := smallShop(t)
	f := runningShop(t, repo, snap, conf)
	busy := filepath.Join(f.root, "shop_data", "busy")
	old := maps.Clone(f.containers)
	f.fault = func(call string) error {
		id, start := strings.CutPrefix(call, "start ")
		if !start || old[id] != nil {
			return nil
		}
		if os.Mkdir(busy, 0o755) == nil {
			ok(t, unix.Mount("none", busy, "tmpfs", 0, "size=4k"))
			t.Cleanup(func() { _ = unix.Unmount(busy, 0) })
		}
		return errInjected
	}
	r, err := importer.Restore(t.Context(), repo, snap, f, importer.Options{Replace: true, Settle: quick.Settle})
	if err == nil || !strings.Contains(fmt.Sprint(r.Left), "volume shop_data.hakobune-old-") {
		t.Fatalf("%v; left %v", err, r.Left)
	}
	for name := range f.volumes {
		if text, err := os.ReadFile(filepath.Join(f.root, name, "table")); snapshot.IsAside(name) && string(text) == "newer\n" && err == nil {
			return
		}
	}
	t.Errorf("what was in the volume is gone:\n%s", f.state(t))
}

// TestReplacedStayDown: what is kept aside names volumes that are the new system's.
func TestReplacedStayDown(t *testing.T) {
	repo, snap, conf := smallShop(t)
	f := runningShop(t, repo, snap, conf)
	r, err := importer.Restore(t.Context(), repo, snap, f, importer.Options{Replace: true, KeepReplaced: true, Settle: quick.Settle})
	ok(t, err)
	kept := 0
	for _, c := range f.containers {
		if snapshot.IsAside(c.Name) {
			kept++
			if c.Restart != "no" || c.State == "running" {
				t.Errorf("%s: %s, restart policy %s", c.Name, c.State, c.Restart)
			}
		}
	}
	if kept == 0 {
		t.Errorf("nothing is kept: %v", r.Left)
	}
}

// TestKeptIsNotComposes: what is kept of a container loses the labels that Compose goes by, and whichever call fails of those
// that this takes, what the container wrote is kept, by the name that is told.
func TestKeptIsNotComposes(t *testing.T) {
	for n := 0; ; n++ {
		repo, snap, conf := smallShop(t)
		f := runningShop(t, repo, snap, conf)
		for id, c := range f.containers {
			c.Labels = map[string]string{"com.docker.compose.project": "shop", "mine": "yes"}
			ok(t, os.WriteFile(filepath.Join(f.root, id, "written"), []byte(c.Name), 0o644))
		}
		calls, failed := 0, ""
		o := importer.Options{Replace: true, KeepReplaced: true, Settle: quick.Settle}
		o.Done = func(*importer.Result) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.fault = func(call string) error {
				if calls++; calls == n {
					failed = call
					return errInjected
				}
				return nil
			}
			return nil
		}
		r, err := importer.Restore(t.Context(), repo, snap, f, o)
		ok(t, err)
		if n > 0 && failed == "" {
			t.Logf("%d calls failed in turn", n-1)
			return
		}
		kept := 0
		for id, c := range f.containers {
			if !snapshot.IsAside(c.Name) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(f.root, id, "written"))
			if failed == "" && (err != nil || c.Labels["com.docker.compose.project"] != "") {
				t.Errorf("%s: %v, labels %v", c.Name, err, c.Labels)
			}
			if err == nil && strings.HasPrefix(c.Name, string(text)+".hakobune-old-") {
				kept++
			}
		}
		if kept != len(snap.System.Containers) || failed != "" && !strings.Contains(fmt.Sprint(r.Notes), "docker compose") {
			t.Errorf("%q failed: %d are kept, left %v, notes %v", failed, kept, r.Left, r.Notes)
		}
	}
}

func TestKeep(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	f.fault = func(call string) error {
		if strings.HasPrefix(call, "start") {
			return errInjected
		}
		return nil
	}
	r, err := importer.Restore(t.Context(), repo, snap, f, importer.Options{Keep: true, Settle: quick.Settle})
	var start *importer.StartError
	if !errors.As(err, &start) || start.Container != "shop-db-1" || !errors.Is(err, errInjected) {
		t.Fatalf("Restore = %v, want a StartError of shop-db-1", err)
	}
	for _, want := range []string{"volume shop_data", "network shop_default", "container shop-db-1", "image nginx:1.25"} {
		if !slices.Contains(r.Left, want) {
			t.Errorf("left %q lacks %s", r.Left, want)
		}
	}
	if strings.Contains(fmt.Sprint(r.Left), "incoming") {
		t.Errorf("left %q tells of what is gone", r.Left)
	}
	if len(f.containers) != 4 {
		t.Errorf("%d containers are there, want 4", len(f.containers))
	}
}

func TestClashChangesNothing(t *testing.T) {
	repo, snap, conf := smallShop(t)
	f := runningShop(t, repo, snap, conf)
	before := f.state(t, filepath.Dir(conf))
	r, err := importer.Restore(t.Context(), repo, snap, f, quick)
	var clash *importer.ClashError
	if !errors.As(err, &clash) || r.Plan == nil {
		t.Fatalf("Restore = %v, want a clash", err)
	}
	if after := f.state(t, filepath.Dir(conf)); after != before {
		t.Errorf("something was changed (-before +after):\n%s", cmp.Diff(before, after))
	}
}

var errInjected = errors.New("injected")

// restoreFailing restores while the n-th call fails, which it names.
func restoreFailing(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, f *fakeEngine, o importer.Options, n int) (_ *importer.Result, failed string, err error) {
	calls := 0
	f.fault = func(call string) error {
		if calls++; calls == n {
			failed = call
			return errInjected
		}
		return nil
	}
	r, err := importer.Restore(ctx, repo, snap, f, o)
	f.mu.Lock()
	f.fault = nil
	f.mu.Unlock()
	return r, failed, err
}
