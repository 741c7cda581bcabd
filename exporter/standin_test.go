package exporter_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/exporter"
)

// standInSystem is a fakeSystem of which restart policies can be taken.
type standInSystem struct {
	*fakeSystem
	left []string
}

func (s *standInSystem) SetRestartPolicy(_ context.Context, id, policy string) error {
	if policy == "no" {
		s.left = append(s.left, id)
	}
	return nil
}

// newStandIn is a system of a database, a web server that needs it healthy, and a job that has ended.
func newStandIn(t testing.TB) *standInSystem {
	t.Helper()
	f := newFakeSystem(t, "db", "job", "web")
	f.states["job"] = "exited"
	f.system.Containers[2].DependsOn = []snapshot.Dependency{{Container: "db", Condition: "service_healthy"}}
	return &standInSystem{fakeSystem: f}
}

// all are the states of the system's containers.
func (s *standInSystem) all() string {
	return s.state("db") + " " + s.state("job") + " " + s.state("web")
}

const (
	up   = "running exited running"
	down = "exited exited exited"
)

// What was stopped for its last snapshot runs in it, and stays stopped, or starts again in order.
func TestStandIn(t *testing.T) {
	repo, f := memRepository(t), newStandIn(t)
	o := exporter.Options{StateDir: t.TempDir()}
	s := exporter.NewStandIn(repo, f, "shop", o)
	if _, err := s.Backup(t.Context()); err != nil || f.all() != up {
		t.Fatalf("backup: %v, %s", err, f.all())
	}
	snap, was, err := s.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var states []string
	for _, c := range snap.System.Containers {
		states = append(states, c.Name+" "+c.State)
	}
	if diff := cmp.Diff([]string{"db running", "job exited", "web running"}, states); diff != "" || !snap.Complete {
		t.Errorf("complete %v, problems %v (-want +got):\n%s", snap.Complete, snap.System.Problems, diff)
	}
	if f.all() != down || len(was.Holds) != 2 || time.Since(was.Since) > time.Minute {
		t.Errorf("stopped: %s, %+v", f.all(), was)
	}
	if log := f.happened(); !strings.HasSuffix(log, "stop web, stop db") {
		t.Errorf("happened: %s", log)
	}
	if err := s.Leave(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(o.StateDir, "holds", "*")); len(left) > 0 || f.all() != down {
		t.Errorf("left: %s, journals %q", f.all(), left)
	}
	other := exporter.NewStandIn(repo, f, "shop", o) // another process
	if runs, err := other.Runs(t.Context(), was); runs || err != nil {
		t.Errorf("runs %v, %v", runs, err)
	}
	if err := other.Retire(t.Context(), was); err != nil || !slices.Equal(f.left, []string{"db", "web"}) {
		t.Errorf("retired %q, %v", f.left, err)
	}
	if err := other.Start(t.Context(), was); err != nil || f.all() != up {
		t.Errorf("started: %v, %s", err, f.all())
	}
	if log := f.happened(); !strings.HasSuffix(log, "start db, start web") {
		t.Errorf("happened: %s", log)
	}
	if runs, err := other.Runs(t.Context(), was); !runs || err != nil {
		t.Errorf("runs %v, %v", runs, err)
	}
}

// Whatever goes wrong before it is left, the system runs again.
func TestStandInGoesOn(t *testing.T) {
	for name, tt := range map[string]struct {
		setup func(f *standInSystem, o *exporter.Options, cancel context.CancelFunc)
		want  string
	}{
		"started by the caller": {func(*standInSystem, *exporter.Options, context.CancelFunc) {}, ""},
		"cancelled while it stands": {func(_ *standInSystem, o *exporter.Options, cancel context.CancelFunc) {
			o.Observer = during("rescan", cancel)
		}, "context canceled"},
		"panic while it stands": {func(_ *standInSystem, o *exporter.Options, _ context.CancelFunc) {
			o.Observer = during("rescan", func() { panic("boom") })
		}, "boom"},
		"it takes too long": {func(_ *standInSystem, o *exporter.Options, _ context.CancelFunc) {
			o.MaxStop = time.Nanosecond
		}, "time in which containers may stand still was up"},
		"one is paused": {func(f *standInSystem, _ *exporter.Options, _ context.CancelFunc) { f.states["web"] = "paused" }, "container web is paused"},
		"one is not kept": {func(f *standInSystem, _ *exporter.Options, _ context.CancelFunc) {
			f.system.Containers[0].Inspect = []byte(`{"HostConfig":{"AutoRemove":true}}`)
		}, "its engine would remove it"},
		"nothing runs": {func(f *standInSystem, _ *exporter.Options, _ context.CancelFunc) {
			f.states["web"], f.states["db"] = "exited", "exited"
		}, "no container of it runs"},
	} {
		t.Run(name, func(t *testing.T) {
			f, o := newStandIn(t), exporter.Options{StateDir: t.TempDir()}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			tt.setup(f, &o, cancel)
			before := f.all()
			s := exporter.NewStandIn(memRepository(t), f, "shop", o)
			was, err := stopped(ctx, s)
			if err == nil && tt.want == "" {
				err = s.Start(ctx, was)
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if f.all() != before {
				t.Errorf("%s, before %s", f.all(), before)
			}
			if left, _ := filepath.Glob(filepath.Join(o.StateDir, "holds", "*")); len(left) > 0 {
				t.Errorf("journals %q", left)
			}
		})
	}
}

// stopped stops a stand-in; a panic is an error.
func stopped(ctx context.Context, s *exporter.StandIn) (was exporter.Stopped, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	_, was, err = s.Stop(ctx)
	return was, err
}

// A last snapshot that cannot be stored is none: at each call of the store that fails the system runs again.
func TestStandInStoreFails(t *testing.T) {
	whole := mem.New(mem.Options{})
	newRepository(t, whole)
	step := 1
	if testing.Short() {
		step = 8
	}
	for n := 1; ; n += step {
		f := newStandIn(t)
		fault := &storetest.Faulty{N: n}
		repo, err := chunkstore.Open(t.Context(), fault.Wrap(whole.Clone()), secret, chunkstore.Options{})
		if err == nil {
			_, _, err = exporter.NewStandIn(repo, f, "shop", exporter.Options{}).Stop(t.Context())
		}
		want := up
		if err == nil {
			want = down
		}
		if f.all() != want {
			t.Fatalf("call %d: %v: %s", n, err, f.all())
		}
		if !fault.Fired() {
			if err != nil || n < 5 {
				t.Errorf("without a fault: %v, after %d", err, n)
			}
			return
		}
	}
}

// What was stopped runs again when the time is up before it is left, and that is told.
func TestStandInLeftTooLate(t *testing.T) {
	f := newStandIn(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := exporter.NewStandIn(memRepository(t), f, "shop", exporter.Options{})
	if _, _, err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	cancel() // as when the time is up
	for f.all() != up {
		time.Sleep(time.Millisecond)
	}
	if err := s.Leave(); err == nil || f.all() != up {
		t.Errorf("left: %v, %s", err, f.all())
	}
}

// A crash that left nothing but the journal: whoever asks whether it runs has it started.
func TestStandInAfterCrash(t *testing.T) {
	f, dir := newStandIn(t), t.TempDir()
	was := exporter.Stopped{Holds: []exporter.Hold{{ID: "db", Name: "db", Mode: snapshot.Stop}, {ID: "web", Name: "web", Mode: snapshot.Stop}}}
	f.states["db"], f.states["web"] = "exited", "exited"
	if err := os.Mkdir(filepath.Join(dir, "holds"), 0o700); err != nil {
		t.Fatal(err)
	}
	text := `{"engine":"home:/nonexistent/docker","holds":[{"id":"db","name":"db","mode":"stop"},{"id":"web","name":"web","mode":"stop"}]}`
	if err := os.WriteFile(filepath.Join(dir, "holds", "x.hold"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := exporter.NewStandIn(memRepository(t), f, "shop", exporter.Options{StateDir: dir})
	if runs, err := s.Runs(t.Context(), was); !runs || err != nil || f.all() != up {
		t.Errorf("runs %v, %v: %s", runs, err, f.all())
	}
}
