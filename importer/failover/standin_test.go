package failover_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
)

// standIn is a place where the system runs until it is home. Its guard is the test's: see killed.
type standIn struct {
	repo    *chunkstore.Repository
	runs    bool
	held    bool // stopped, and to be started by the guard
	retired bool
	dies    bool         // a call that fails is the end of the process
	lacks   bool         // its snapshots lack something
	fault   func() error // called before each call takes effect; nil: none
	begun   string       // the calls, in order
}

var _ failover.StandIn = (*standIn)(nil)

func (s *standIn) call(name string) error {
	s.begun += " " + name
	if s.fault == nil {
		return nil
	}
	return s.fault()
}

// save stores a snapshot as the stand-in's site does.
func (s *standIn) save(ctx context.Context) (*snapshot.Snapshot, error) {
	owner, err := snapshot.Owner(ctx, s.repo, "shop")
	if err != nil {
		return nil, err
	}
	snap := shop(8080)
	snap.Summary.Site, snap.Summary.Term, snap.Summary.Time = owner.Site.Name, owner.Number, time.Now()
	if s.lacks {
		snap.Summary.Complete = false
		snap.System.Problems = []snapshot.Problem{{Where: "volume x", What: "cannot be read"}}
	}
	session, err := s.repo.Begin(ctx, chunkstore.BeginOptions{Host: "cloud"})
	if err == nil {
		err = snapshot.Commit(ctx, session, snap)
	}
	return snap, err
}

func (s *standIn) At(snapshot.Site) {}

func (s *standIn) Backup(ctx context.Context) (*snapshot.Snapshot, error) {
	if err := s.call("backup"); err != nil {
		return nil, err
	}
	return s.save(ctx)
}

func (s *standIn) Stop(ctx context.Context) (*snapshot.Snapshot, exporter.Stopped, error) {
	if err := s.call("stop"); err != nil {
		return nil, exporter.Stopped{}, err
	}
	s.runs, s.held = false, true
	was := exporter.Stopped{Since: time.Now(), Holds: []exporter.Hold{{ID: "away", Name: "shop-web"}}}
	snap, err := s.save(ctx)
	if err != nil && !s.dies {
		s.runs, s.held = true, false
	}
	return snap, was, err
}

func (s *standIn) Leave() error {
	if err := s.call("leave"); err != nil {
		return err
	}
	s.held = false
	return nil
}

func (s *standIn) Start(context.Context, exporter.Stopped) error {
	if err := s.call("start"); err != nil {
		return err
	}
	s.runs, s.held = true, false
	return nil
}

func (s *standIn) Runs(context.Context, exporter.Stopped) (bool, error) {
	return s.runs, s.call("runs")
}

func (s *standIn) Retire(context.Context, exporter.Stopped) error {
	err := s.call("retire")
	s.retired = err == nil
	return err
}

// killed is what the guard does once the process is no more.
func (s *standIn) killed() {
	if s.held {
		s.runs, s.held = true, false
	}
}

// comingHome is a store in which the system is the cloud's, and home with what it had before, stopped.
func comingHome(t *testing.T) (*mem.Store, func() *fake) {
	t.Helper()
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // it waits for the disk many times
	}
	store := protected(t)
	g, err := begin(t.Context(), store)
	ok(t, err)
	_, err = g.cat.Claim(t.Context(), snapshot.Term{System: "shop", Site: snapshot.Site{Name: "cloud"}, Why: snapshot.WhyFailover, Snapshot: g.snap.ID})
	ok(t, err)
	return store, func() *fake {
		e := newFake(t)
		_, err := importer.Restore(t.Context(), g.repo, g.snap, e, importer.Options{Settle: time.Nanosecond})
		ok(t, err)
		for _, c := range e.containers {
			c.State = "exited"
		}
		return e
	}
}

// homewards are the options of a failback with a stand-in.
func homewards(t testing.TB) failover.Options {
	o := to(t, "home")
	o.Why, o.Restore.Replace, o.Restore.KeepReplaced, o.Restore.Stage = snapshot.WhyFailback, true, true, o.StateDir
	return o
}

// atHome reports whether the system runs at home: once at most.
func atHome(t *testing.T, e *fake) bool {
	t.Helper()
	n := 0
	for _, c := range e.containers {
		if c.State == "running" {
			n++
		}
	}
	if n > 1 {
		t.Errorf("%d containers run at home: %v", n, e.state())
	}
	return n > 0
}

// comeHome runs a failback with the stand-in over a store.
func comeHome(ctx context.Context, b chunkstore.Backend, s *standIn, e *fake, o failover.Options) (*failover.Result, error) {
	g, err := begin(ctx, b)
	if err != nil {
		return nil, err
	}
	s.repo, o.StandIn = g.repo, s
	return g.run(ctx, e, o)
}

// failbacks are the records of failbacks.
func failbacks(t testing.TB, b chunkstore.Backend) (all []failover.Record) {
	t.Helper()
	list, err := open(t, b).Records(t.Context())
	ok(t, err)
	for _, r := range list {
		if r.Kind == failover.KindFailback {
			var body failover.Record
			ok(t, json.Unmarshal(r.Body, &body))
			all = append(all, body)
		}
	}
	return all
}

// The stand-in is stopped for its last snapshot, that is what home gets, and how long it took is on record.
func TestStandIn(t *testing.T) {
	store, newHome := comingHome(t)
	s, e, o := &standIn{runs: true}, newHome(), homewards(t)
	o.Gates = gates(t, "exec:shop-web:true")
	r, err := comeHome(t.Context(), store, s, e, o)
	ok(t, err)
	if !atHome(t, e) || s.runs || !s.retired || len(r.Kept) != 1 || s.begun != " backup stop leave retire" {
		t.Errorf("at home %v, stand-in runs %v, retired %v; it did%s", e.state(), s.runs, s.retired, s.begun)
	}
	g, err := begin(t.Context(), store)
	ok(t, err)
	if owner := g.cat.Owner("shop"); owner.Site.Name != "home" || owner.Number != 2 || owner.Snapshot != g.cat.Snapshots[0].ID || r.Snapshot != owner.Snapshot {
		t.Errorf("owner %+v, restored %s", owner, r.Snapshot)
	}
	for _, snap := range g.cat.Snapshots {
		if snap.Stray {
			t.Errorf("snapshot %s of %s is a stray", snap.ID, snap.Site)
		}
	}
	if got := failbacks(t, store); len(got) != 1 || got[0].Downtime != r.Downtime || r.Downtime <= 0 || r.Downtime > r.RTO || r.RPO != 0 {
		t.Errorf("downtime %v, RTO %v, RPO %v, records %+v", r.Downtime, r.RTO, r.RPO, got)
	}
	if left, err := filepath.Glob(filepath.Join(o.StateDir, "failovers", "*")); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v", left)
	}
}

// killOrFail returns what is called before each call of the engine, the store and the stand-in: at the n-th it fails, and
// from then on where the process is killed. left then has the state directory of that moment.
func killOrFail(n int, killed bool, state, left string) (fault func() error, calls *int) {
	var mu sync.Mutex
	calls = new(int)
	return func() error {
		mu.Lock()
		defer mu.Unlock()
		*calls++
		switch {
		case *calls < n, *calls > n && !killed:
			return nil
		case *calls == n && killed:
			if err := os.CopyFS(left, os.DirFS(state)); err != nil {
				return err
			}
		}
		return errKilled
	}, calls
}

// over is a store each of whose calls meets a fault first.
func over(b chunkstore.Backend, fault func() error) chunkstore.Backend {
	return storetest.Intercept(b, func(_ context.Context, _ storetest.Call, next func() error) error {
		if err := fault(); err != nil {
			return err
		}
		return next()
	})
}

// Killed at any call of engines or store, and run again: the system is at home, there alone, and home's.
func TestStandInKilled(t *testing.T) {
	whole, newHome := comingHome(t)
	step := 1
	if testing.Short() {
		step = 13
	}
	for n := 1; ; n += step {
		store, e, s, o := whole.Clone(), newHome(), &standIn{runs: true, dies: true}, homewards(t)
		left := filepath.Join(t.TempDir(), "state")
		fault, calls := killOrFail(n, true, o.StateDir, left)
		e.fault, s.fault = fault, fault
		_, err := comeHome(t.Context(), over(store, fault), s, e, o)
		if *calls < n {
			ok(t, err)
			t.Logf("killed at %d calls in turn", n-1)
			return
		}
		e.fault, s.fault = nil, nil
		s.killed()
		if s.runs && atHome(t, e) {
			t.Fatalf("killed at call %d: %v; it runs twice: %v", n, err, e.state())
		}
		o.StateDir, o.Restore.Stage = left, left
		r, err := comeHome(t.Context(), store, s, e, o)
		if err != nil {
			t.Fatalf("killed at call %d, and run again: %v\n%v", n, err, e.state())
		}
		for _, c := range e.containers {
			if snapshot.IsAside(c.Name) && !slices.Contains(r.Kept, "container "+c.Name) {
				t.Errorf("killed at call %d: %s is kept, and not named: %q", n, c.Name, r.Kept)
			}
		}
		owner, err := snapshot.Owner(t.Context(), open(t, store), "shop")
		if err != nil || owner.Site.Name != "home" || !atHome(t, e) || s.runs {
			t.Fatalf("killed at call %d, and run again: owner %+v, %v; at home %v, stand-in runs %v", n, owner, err, e.state(), s.runs)
		}
		if got := len(failbacks(t, store)); got != 1 {
			t.Errorf("killed at call %d: %d records", n, got)
		}
	}
}

// Any single call fails: the system runs at one of the two places, and is that one's; the same command again brings it home.
func TestStandInEveryCallFails(t *testing.T) {
	whole, newHome := comingHome(t)
	step, back := 1, 0
	if testing.Short() {
		step = 13
	}
	for n := 1; ; n += step {
		store, e, s, o := whole.Clone(), newHome(), &standIn{runs: true}, homewards(t)
		fault, calls := killOrFail(n, false, "", "")
		e.fault, s.fault = fault, fault
		_, err := comeHome(t.Context(), over(store, fault), s, e, o)
		if *calls < n {
			ok(t, err)
			break
		}
		here := atHome(t, e)
		owner, oerr := snapshot.Owner(t.Context(), open(t, store), "shop")
		ok(t, oerr)
		if here == s.runs || (owner.Site.Name == "home") != here {
			t.Fatalf("call %d: %v; at home %v, stand-in runs %v, owner %s", n, err, e.state(), s.runs, owner.Site.Name)
		}
		var told *failover.StandInError
		if err != nil && strings.Contains(s.begun, " start") && !errors.As(err, &told) {
			t.Errorf("call %d: %v: does not say that the stand-in runs again", n, err)
		}
		if strings.Contains(s.begun, " start") {
			back++
		}
		if err == nil {
			continue
		}
		if _, err := comeHome(t.Context(), store, s, e, o); err != nil || !atHome(t, e) || s.runs {
			t.Fatalf("call %d failed, and run again: %v; at home %v, stand-in runs %v", n, err, e.state(), s.runs)
		}
	}
	if back < 20/step {
		t.Errorf("the stand-in was started again %d times only", back)
	}
}

// What stands against a failback is told, and leaves the system where it is.
func TestStandInStays(t *testing.T) {
	for name, tt := range map[string]struct {
		setup func(s *standIn, e *fake, o *failover.Options)
		want  string
		begun string
	}{
		"lacks something": {func(s *standIn, _ *fake, _ *failover.Options) { s.lacks = true }, "volume x: cannot be read", " backup stop start"},
		"not healthy": {func(_ *standIn, e *fake, _ *failover.Options) {
			e.started = func() error { return errors.New("no such device") }
		}, "no such device", " backup stop leave start"},
		"clash": {func(_ *standIn, e *fake, _ *failover.Options) {
			for _, c := range e.containers {
				c.State, c.Inspect = "running", []byte(`{"HostConfig":{"AutoRemove":true}}`)
			}
		}, "--rm", ""},
	} {
		t.Run(name, func(t *testing.T) {
			store, newHome := comingHome(t)
			s, e, o := &standIn{runs: true}, newHome(), homewards(t)
			tt.setup(s, e, &o)
			_, err := comeHome(t.Context(), store, s, e, o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || s.begun != tt.begun || !s.runs {
				t.Errorf("%v, want %q; it did%s", err, tt.want, s.begun)
			}
			if owner, err := snapshot.Owner(t.Context(), open(t, store), "shop"); err != nil || owner.Site.Name != "cloud" {
				t.Errorf("owner %+v, %v", owner, err)
			}
		})
	}
}

// A system of which a run has stopped the stand-in is not brought home from an older snapshot.
func TestStandInIsNeededAgain(t *testing.T) {
	store, newHome := comingHome(t)
	s, e, o := &standIn{runs: true}, newHome(), homewards(t)
	left := filepath.Join(t.TempDir(), "state")
	dead := false
	s.fault = func() error {
		if dead || strings.HasSuffix(s.begun, " leave") {
			if !dead {
				ok(t, os.CopyFS(left, os.DirFS(o.StateDir)))
			}
			dead = true
			return errKilled
		}
		return nil
	}
	if _, err := comeHome(t.Context(), store, s, e, o); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	s.fault = nil
	o.StateDir = left
	g, err := begin(t.Context(), store)
	ok(t, err)
	var needed *failover.StandInError
	if _, err := g.run(t.Context(), e, o); !errors.As(err, &needed) || needed.Hint() == "" {
		t.Errorf("%v", err)
	}
}

// Who brings a system home that has come home already is told so: what was written there since stays in its place.
func TestHomeAlready(t *testing.T) {
	store, home := comingHome(t)
	e, o := home(), homewards(t)
	g, err := begin(t.Context(), store)
	ok(t, err)
	_, err = g.run(t.Context(), e, o)
	ok(t, err)
	before := e.state()
	g, err = begin(t.Context(), store)
	ok(t, err)
	var not *failover.NotReadyError
	if _, err := g.run(t.Context(), e, o); !errors.As(err, &not) {
		t.Errorf("again: %v", err)
	}
	if diff := cmp.Diff(before, e.state()); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
}
