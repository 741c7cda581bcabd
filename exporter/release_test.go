package exporter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/exporter"
)

// during returns an observer that calls fn when the phase begins.
func during(phase string, fn func()) snapshot.Observer {
	return func(e snapshot.Event) {
		if e.Phase == phase && e.What == "system shop" {
			fn()
		}
	}
}

// TestExportReleases: whatever ends an export, the containers run afterwards, nothing is left in the
// journal, and a snapshot is there or not, whole.
func TestExportReleases(t *testing.T) {
	type run struct {
		f      *fakeSystem
		o      *exporter.Options
		cancel context.CancelFunc
	}
	for _, tt := range []struct {
		name  string
		setup func(r run)
		want  string // in the error or panic; empty: a snapshot
		lacks string // in its problems
	}{
		{name: "all is well", setup: func(run) {}},
		{name: "panic while held", want: "boom", setup: func(r run) {
			r.o.Observer = during("rescan", func() { panic("boom") })
		}},
		{name: "panic while copying", want: "boom", setup: func(r run) {
			r.o.Observer = during("copy", func() { panic("boom") })
		}},
		{name: "cancelled while held", want: "context canceled", setup: func(r run) {
			r.o.Observer = during("rescan", r.cancel)
		}},
		{name: "cancelled while copying", want: "context canceled", setup: func(r run) {
			r.o.Observer = during("copy", r.cancel)
		}},
		{name: "cancelled while pausing", want: "context canceled", setup: func(r run) {
			r.f.delay = time.Hour
			r.o.Observer = during("pause", func() { time.AfterFunc(50*time.Millisecond, r.cancel) })
			r.f.delay = 200 * time.Millisecond
		}},
		{name: "too long", lacks: "longer than the 50ms", setup: func(r run) {
			r.o.MaxPause = 50 * time.Millisecond
			r.o.Observer = during("rescan", func() { time.Sleep(100 * time.Millisecond) })
		}},
		{name: "one cannot be paused", lacks: "could not be held still", setup: func(r run) {
			r.f.fail["pause web"] = errors.New("no freezer")
		}},
		{name: "one is stopped", setup: func(r run) {
			r.f.system.Containers[0].Labels[prefix+"stop"] = "true"
		}},
		{name: "not held", setup: func(r run) { r.o.Mode = snapshot.None }},
		{name: "command fails", want: "exit code 3: tables are locked", setup: func(r run) {
			r.o.Pre = map[string][]string{"db": {"dump"}}
			r.f.exec = says(3, "tables are locked")
		}},
		{name: "command fails and is ignored", lacks: "exit code 3", setup: func(r run) {
			r.o.Pre, r.o.IgnoreHookErrors = map[string][]string{"db": {"dump"}}, true
			r.f.exec = says(3, "tables are locked")
		}},
		{name: "command does not end", want: "did not end in 20ms", setup: func(r run) {
			r.o.Post, r.o.HookTime = map[string][]string{"web": {"wait"}}, 20*time.Millisecond
			r.f.exec = func(string, []string, io.Writer) (int, error) {
				time.Sleep(40 * time.Millisecond)
				return 0, context.DeadlineExceeded
			}
		}},
		{name: "container vanishes", lacks: "was removed while", setup: func(r run) {
			r.o.Observer = during("pause", func() { r.f.system.Containers = r.f.system.Containers[:1] })
		}},
		{name: "container appears", lacks: "was created while", setup: func(r run) {
			r.o.Observer = during("pause", func() {
				r.f.system.Containers = append(r.f.system.Containers, snapshot.Container{ID: "new", Name: "new", Labels: map[string]string{prefix + "system": "shop"}})
				r.f.states["new"] = "running"
			})
		}},
		{name: "volume is missing", lacks: "does not exist", setup: func(r run) {
			r.f.system.Volumes[0].Mountpoint += "/gone"
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeSystem(t, "db", "web")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := exporter.Options{StateDir: t.TempDir()}
			tt.setup(run{f, &o, cancel})
			repo := memRepository(t)
			snap, err := protected(func() (*snapshot.Snapshot, error) {
				return exporter.Export(ctx, repo, f, discover(t, f, "shop"), o)
			})
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if err == nil {
				problems := fmt.Sprint(snap.System.Problems)
				if snap.Complete != (tt.lacks == "") || !strings.Contains(problems, tt.lacks) {
					t.Errorf("complete %v, problems %s, want %q", snap.Complete, problems, tt.lacks)
				}
			}
			checkReleased(t, f, o.StateDir)
			catalog, err := snapshot.ReadCatalog(t.Context(), repo)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(catalog.Snapshots); got != map[bool]int{true: 1, false: 0}[snap != nil] {
				t.Errorf("%d snapshots", got)
			}
		})
	}
}

// says is a command in a container.
func says(code int, text string) func(string, []string, io.Writer) (int, error) {
	return func(_ string, _ []string, out io.Writer) (int, error) {
		_, err := io.Copy(out, bytes.NewBufferString(text))
		return code, err
	}
}

// protected turns a panic into an error.
func protected(fn func() (*snapshot.Snapshot, error)) (snap *snapshot.Snapshot, err error) {
	defer func() {
		if p := recover(); p != nil {
			snap, err = nil, fmt.Errorf("panic: %v", p)
		}
	}()
	return fn()
}

func checkReleased(t *testing.T, f *fakeSystem, state string) {
	t.Helper()
	if !f.running() {
		t.Errorf("left %v after %s", f.states, f.happened())
	}
	if left, err := filepath.Glob(filepath.Join(state, "holds", "*.hold")); err != nil || len(left) > 0 {
		t.Errorf("journals left: %v %v", left, err)
	}
}

// TestExportLostStore fails every single call of the store, once each.
func TestExportLostStore(t *testing.T) {
	f := newFakeSystem(t, "db", "web")
	store := mem.New(mem.Options{})
	newRepository(t, store)
	failed := 0
	for n := 1; ; n++ {
		opened := false
		fault := &storetest.Faulty{N: n, Match: func(storetest.Call) bool { return opened }}
		repo := openRepository(t, fault.Wrap(store.Clone()))
		opened = true
		state := t.TempDir()
		snap, err := exporter.Export(t.Context(), repo, f, discover(t, f, "shop"), exporter.Options{StateDir: state})
		if err != nil {
			failed++
		} else if !snap.Complete {
			t.Errorf("call %d: problems %v", n, snap.System.Problems)
		}
		checkReleased(t, f, state)
		if !fault.Fired() {
			if err != nil {
				t.Errorf("without a fault: %v", err)
			}
			break
		}
	}
	if failed < 4 {
		t.Errorf("only %d calls mattered", failed)
	}
}

// TestHooks: commands run around the hold, those behind also where the export fails.
func TestHooks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		labels []string // of db
		fail   bool     // the export, while held
		want   string
	}{
		{
			name: "around", labels: []string{prefix + "pre", "dump --all", prefix + "post", `["thaw","now"]`},
			want: "exec db /bin/sh -c dump --all, pause, unpause, exec db thaw now",
		},
		{
			name: "after a failure", labels: []string{prefix + "pre", "dump", prefix + "post", "thaw"}, fail: true,
			want: "exec db /bin/sh -c dump, pause, unpause, exec db /bin/sh -c thaw",
		},
		{name: "none", want: "pause, unpause"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeSystem(t, "db")
			maps.Copy(f.system.Containers[0].Labels, labels(tt.labels...))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := exporter.Options{}
			if tt.fail {
				o.Observer = during("rescan", cancel)
			}
			_, err := exporter.Export(ctx, memRepository(t), f, discover(t, f, "shop"), o)
			if (err != nil) != tt.fail {
				t.Fatal(err)
			}
			got := strings.NewReplacer("unpause db", "unpause", "pause db", "pause").Replace(f.happened())
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("happened (-want +got):\n%s", diff)
			}
		})
	}
}
