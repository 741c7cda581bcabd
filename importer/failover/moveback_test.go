package failover_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/failover"
)

// unfit are the options of a failback whose gate is never passed.
func unfit(t testing.TB) failover.Options {
	o := homewards(t)
	o.Gates, o.GateTimeout = gates(t, "exec:shop-web:false"), time.Millisecond
	return o
}

// ownerOf returns whose the system is.
func ownerOf(t testing.TB, store *mem.Store) snapshot.Term {
	t.Helper()
	owner, err := snapshot.Owner(t.Context(), open(t, store), "shop")
	ok(t, err)
	return *owner
}

// A system that does not do its work at home is stopped there, then the stand-in's, then runs there, in this order. What was
// written to it at home stays, and is kept by the failback that goes well.
func TestMovesBack(t *testing.T) {
	store, newHome := comingHome(t)
	s, e, o := &standIn{runs: true}, newHome(), unfit(t)
	s.fault = func() error {
		if owner := ownerOf(t, store); strings.HasSuffix(s.begun, " start") && (atHome(t, e) || owner.Site.Name != "cloud" || owner.Number != 3) {
			t.Errorf("the stand-in starts while at home there is %v, and %+v owns it", e.state(), owner)
		}
		return nil
	}
	r, err := comeHome(t.Context(), store, s, e, o)
	var back *failover.StandInError
	var gate *failover.GateError
	if !errors.As(err, &back) || !back.Back || back.Hint() == "" || !errors.As(err, &gate) {
		t.Errorf("%v", err)
	}
	if !s.runs || s.retired || s.begun != " backup stop leave start" || atHome(t, e) || len(failbacks(t, store)) > 0 {
		t.Errorf("stand-in runs %v, retired %v, it did%s; at home %v", s.runs, s.retired, s.begun, e.state())
	}
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.HasSuffix(n, "keeps it: volume shop_data, container shop-web") }) || len(r.Kept) != 1 {
		t.Errorf("notes %q, kept %q", r.Notes, r.Kept)
	}
	if left, err := filepath.Glob(filepath.Join(o.StateDir, "failovers", "*")); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v", left)
	}
	o.Gates = nil
	r, err = comeHome(t.Context(), store, s, e, o)
	if err != nil || !atHome(t, e) || s.runs || ownerOf(t, store).Number != 4 || len(r.Kept) != 2 {
		t.Errorf("again: %v; at home %v, stand-in runs %v, kept %q", err, e.state(), s.runs, r.Kept)
	}
}

// Killed at any call of engines or store, and run again where it does its work: the system is at home, there alone, and home's.
func TestMovesBackKilled(t *testing.T) {
	for name, spoil := range map[string]func(e *fake){
		"gate": func(*fake) {},
		"health": func(e *fake) {
			e.started = func() error { return errors.New("no such device") }
		},
	} {
		t.Run(name, func(t *testing.T) { movesBackKilled(t, spoil) })
	}
}

func movesBackKilled(t *testing.T, spoil func(e *fake)) {
	whole, newHome := comingHome(t)
	step := 1
	if testing.Short() {
		step = 17
	}
	for n := 1; ; n += step {
		store, e, s, o := whole.Clone(), newHome(), &standIn{runs: true, dies: true}, unfit(t)
		spoil(e)
		left := filepath.Join(t.TempDir(), "state")
		fault, calls := killOrFail(n, true, o.StateDir, left)
		e.fault, s.fault = fault, fault
		_, err := comeHome(t.Context(), over(store, fault), s, e, o)
		if *calls < n {
			t.Logf("killed at %d calls in turn; then: %v", n-1, err)
			return
		}
		e.fault, s.fault, e.started = nil, nil, nil
		s.killed()
		if s.runs && atHome(t, e) {
			t.Fatalf("killed at call %d: %v; it runs twice: %v", n, err, e.state())
		}
		o.StateDir, o.Restore.Stage, o.Gates = left, left, nil
		if _, err := comeHome(t.Context(), store, s, e, o); err != nil {
			t.Fatalf("killed at call %d, and run again: %v\n%v, stand-in did%s", n, err, e.state(), s.begun)
		}
		if owner := ownerOf(t, store); owner.Site.Name != "home" || !atHome(t, e) || s.runs || len(failbacks(t, store)) != 1 {
			t.Fatalf("killed at call %d, and run again: owner %+v; at home %v, stand-in runs %v", n, owner, e.state(), s.runs)
		}
	}
}

// Any single call fails on the way there and back: the system runs at one place at most, and where it runs nowhere, or is
// not its site's, that is said. The same command again brings it home.
func TestMovesBackEveryCallFails(t *testing.T) {
	whole, newHome := comingHome(t)
	step := 1
	if testing.Short() {
		step = 17
	}
	nowhere := 0
	for n := 1; ; n += step {
		store, e, s, o := whole.Clone(), newHome(), &standIn{runs: true}, unfit(t)
		fault, calls := killOrFail(n, false, "", "")
		e.fault, s.fault = fault, fault
		_, err := comeHome(t.Context(), over(store, fault), s, e, o)
		if *calls < n {
			break
		}
		here, owner := atHome(t, e), ownerOf(t, store).Site.Name
		var told *failover.StandInError
		switch {
		case err == nil:
			t.Fatalf("call %d: the gate was passed", n)
		case here && s.runs:
			t.Fatalf("call %d: %v; it runs twice: %v", n, err, e.state())
		case errors.As(err, &told) && told.Back:
			if !s.runs || owner != "cloud" {
				t.Fatalf("call %d: %v; stand-in runs %v, owner %s", n, err, s.runs, owner)
			}
		case !here && !s.runs:
			if nowhere++; told == nil || !strings.Contains(err.Error(), "RUNS NOWHERE") && !strings.Contains(told.Hint(), "not started again") {
				t.Fatalf("call %d: %v; it runs nowhere", n, err)
			}
		case s.runs && owner != "cloud":
			if told == nil || !strings.Contains(told.Hint(), "hakobune handover --site home --to cloud shop") {
				t.Fatalf("call %d: %v; the stand-in runs, and %s owns it", n, err, owner)
			}
		}
		o.Gates = nil
		if _, err := comeHome(t.Context(), store, s, e, o); err != nil || !atHome(t, e) || s.runs || ownerOf(t, store).Site.Name != "home" {
			t.Fatalf("call %d failed, and run again: %v; at home %v, stand-in runs %v", n, err, e.state(), s.runs)
		}
	}
	if nowhere == 0 && !testing.Short() {
		t.Error("no call failed between the two places")
	}
}

// Who does not want it back, or from whom it is not known where it was, is told how to give it back by hand.
func TestStays(t *testing.T) {
	for name, standsIn := range map[string]bool{"as asked": true, "without a stand-in": false} {
		t.Run(name, func(t *testing.T) {
			store, newHome := comingHome(t)
			s, e, o := &standIn{runs: true}, newHome(), unfit(t)
			o.Stay = true
			g, err := begin(t.Context(), store)
			ok(t, err)
			if s.repo = g.repo; standsIn {
				o.StandIn = s
			}
			_, err = g.run(t.Context(), e, o)
			var gate *failover.GateError
			if !errors.As(err, &gate) || !atHome(t, e) || ownerOf(t, store).Site.Name != "home" || s.runs == standsIn {
				t.Fatalf("%v; at home %v, stand-in runs %v", err, e.state(), s.runs)
			}
			for _, want := range []string{
				"docker update --restart no shop-web && docker stop shop-web\n", "hakobune handover --site home --to cloud shop\n", "at cloud: docker start shop-web",
			} {
				if !strings.Contains(gate.Hint(), want) {
					t.Errorf("the hint lacks %q:\n%s", want, gate.Hint())
				}
			}
			if o.Gates = nil; !standsIn {
				o.StandIn = nil
			}
			g, err = begin(t.Context(), store)
			ok(t, err)
			r, err := g.run(t.Context(), e, o)
			ok(t, err)
			if !r.Resumed || len(failbacks(t, store)) != 1 {
				t.Errorf("resumed %v, records %v", r.Resumed, failbacks(t, store))
			}
		})
	}
}

// A third site takes the system while home waits for a gate: it runs neither at home nor at the stand-in then.
func TestMovesBackToNobody(t *testing.T) {
	store, newHome := comingHome(t)
	s, e, o := &standIn{runs: true}, newHome(), unfit(t)
	taken := false
	e.execed = func() {
		if !taken {
			g, err := begin(t.Context(), store)
			ok(t, err)
			_, err = g.cat.Claim(t.Context(), snapshot.Term{System: "shop", Site: snapshot.Site{Name: "third"}, Why: snapshot.WhyFailover})
			ok(t, err)
			taken = true
		}
	}
	_, err := comeHome(t.Context(), store, s, e, o)
	var owned *snapshot.OwnedError
	if !errors.As(err, &owned) || owned.Term.Site.Name != "third" || s.runs || atHome(t, e) {
		t.Errorf("%v; at home %v, stand-in runs %v", err, e.state(), s.runs)
	}
}

// A run is killed while it waits for a gate, and so is the system: home gets the last snapshot once more, and what it had
// written meanwhile is kept.
func TestComesHomeAgain(t *testing.T) {
	store, newHome := comingHome(t)
	s, e, o := &standIn{runs: true}, newHome(), unfit(t)
	o.Stay = true
	_, err := comeHome(t.Context(), store, s, e, o)
	if err == nil {
		t.Fatal("the gate was passed")
	}
	for _, c := range e.containers {
		c.State = "exited"
	}
	o.Gates = nil
	r, err := comeHome(t.Context(), store, s, e, o)
	if err != nil || !atHome(t, e) || s.runs || len(r.Kept) != 2 || ownerOf(t, store).Number != 2 {
		t.Errorf("%v; at home %v, stand-in runs %v", err, e.state(), s.runs)
	}
}
