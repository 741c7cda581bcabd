package importer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// TestStartOrder has web wait for db to be healthy and for job to complete, and side for web to be
// started.
func TestStartOrder(t *testing.T) {
	repo, snap, _ := smallShop(t)
	cs := snap.System.Containers
	db, web, job, side := cs[0], cs[1], cs[2], cs[3]
	job.State = "running"
	web.DependsOn = append(web.DependsOn, snapshot.Dependency{Container: job.Name, Condition: "service_completed_successfully"})
	side.DependsOn = []snapshot.Dependency{{Container: web.Name, Condition: "service_started"}}
	snap.System.Containers = []snapshot.Container{db, job, web, side}
	f := newFake(t)
	f.states = func(name string, asked int) snapshot.State {
		switch {
		case name == job.Name && asked > 2:
			return snapshot.State{State: "exited"}
		case name == db.Name && asked > 3:
			return snapshot.State{State: "running", Health: "healthy"}
		case name == db.Name:
			return snapshot.State{State: "running", Health: "starting"}
		}
		return snapshot.State{State: "running"}
	}
	var order []string
	f.fault = func(call string) error {
		if id, is := strings.CutPrefix(call, "start "); is {
			order = append(order, f.containers[id].Name)
			if name := f.containers[id].Name; name == web.Name && (f.asked[db.Name] < 4 || f.asked[job.Name] < 3) {
				t.Errorf("%s is started too early: %v", name, f.asked)
			}
		}
		return nil
	}
	r, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	if diff := cmp.Diff([]string{db.Name, job.Name, web.Name, side.Name}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	for _, o := range r.Objects {
		if o.Kind == importer.KindContainer && o.Healthy == 0 {
			t.Errorf("%+v", o)
		}
	}
}

func TestStartFails(t *testing.T) {
	repo, snap, _ := smallShop(t)
	for _, tt := range []struct {
		name   string
		states func(name string, asked int) snapshot.State
		health string // of db in the snapshot
		want   string // part of the error; empty: none
	}{
		{"never healthy", func(string, int) snapshot.State {
			return snapshot.State{State: "running", Health: "starting", Log: "still recovering\n"}
		}, "healthy", "container shop-db-1: not healthy after 150ms (running starting); its last lines:\n  still recovering"},
		{"unhealthy for a while", func(_ string, asked int) snapshot.State {
			if asked < 3 {
				return snapshot.State{State: "running", Health: "unhealthy"}
			}
			return snapshot.State{State: "running", Health: "healthy"}
		}, "healthy", ""},
		{"as unhealthy as it was", func(string, int) snapshot.State {
			return snapshot.State{State: "running", Health: "unhealthy"}
		}, "unhealthy", "not healthy after 150ms (running unhealthy)"},
		{"ends", func(string, int) snapshot.State {
			return snapshot.State{State: "exited", ExitCode: 3, Error: "no such file", Log: "one\ntwo\n"}
		}, "", "container shop-db-1: ended with code 3: no such file; its last lines:\n  one\n  two"},
		{"starts over and over", func(string, int) snapshot.State {
			return snapshot.State{State: "restarting"}
		}, "", "container shop-db-1: not healthy after 150ms (restarting)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.states = tt.states
			own := *snap
			own.System.Containers = slices.Clone(snap.System.Containers)
			own.System.Containers[0].Health = tt.health
			own.System.Binds = nil
			o := quick
			o.HealthTimeout = 150 * time.Millisecond
			before := f.state(t)
			_, err := importer.Restore(t.Context(), repo, &own, f, o)
			var start *importer.StartError
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (!errors.As(err, &start) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Restore = %v, want a StartError with %q", err, tt.want)
			case tt.want != "" && f.state(t) != before:
				t.Errorf("something is left:\n%s", f.state(t))
			}
		})
	}
}

// TestStartAgain fails the first start of web: it is created anew, and so is side, which shares its
// network.
func TestStartAgain(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	failed := false
	f.fault = func(call string) error {
		if id, is := strings.CutPrefix(call, "start "); is && f.containers[id].Name == "shop-web-1" && !failed {
			failed = true
			return errInjected
		}
		return nil
	}
	r, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	ids := make(map[string]string)
	for id, c := range f.containers {
		ids[c.Name] = id
	}
	if got := f.containers[ids["shop-side-1"]].Place.Containers["id-web"]; got != ids["shop-web-1"] || len(f.containers) != 4 {
		t.Errorf("side shares the network of %s, want %s, of %d", got, ids["shop-web-1"], len(f.containers))
	}
	for _, o := range r.Objects {
		if o.Kind == importer.KindContainer && o.ID != ids[o.Name] {
			t.Errorf("%s is reported as %s, and is %s", o.Name, o.ID, ids[o.Name])
		}
	}
}
