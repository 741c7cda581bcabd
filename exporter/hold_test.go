package exporter_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
)

// pausing and stopping make holds of containers whose ids are their names.
func pausing(names ...string) []exporter.Hold { return holds(snapshot.Pause, names) }

func stopping(names ...string) []exporter.Hold { return holds(snapshot.Stop, names) }

func holds(mode snapshot.QuiesceMode, names []string) []exporter.Hold {
	var list []exporter.Hold
	for _, n := range names {
		list = append(list, exporter.Hold{ID: n, Name: n, Mode: mode, Grace: 10 * time.Second})
	}
	return list
}

func TestHoldPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("db", "running", "web", "running", "user", "paused", "gone", "exited")
		f.delay = 20 * time.Millisecond
		h, err := exporter.HoldStill(t.Context(), f, nil, "", time.Minute, pausing("db", "web", "user", "gone", "lost"))
		if err != nil {
			t.Fatal(err)
		}
		if f.state("db") != "paused" || f.state("web") != "paused" {
			t.Fatalf("held: %v", f.states)
		}
		time.Sleep(300 * time.Millisecond)
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"db": "running", "web": "running", "user": "paused", "gone": "exited"}
		if diff := cmp.Diff(want, f.states); diff != "" {
			t.Errorf("afterwards (-want +got):\n%s", diff)
		}
		if span, longest := h.Still(); span != 320*time.Millisecond || longest != span {
			t.Errorf("stood still for %v, one at most %v, want 320ms", span, longest)
		}
		notes, expired := h.Outcome()
		if len(notes) != 3 || expired {
			t.Errorf("notes %v, expired %v", notes, expired)
		}
	})
}

// Docker 20.10 lets a container whose pause met the start of a health check go only when the check's time is up.
func TestHoldBetweenChecks(t *testing.T) {
	const every, takes = 2 * time.Second, 100 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		checked := func(offset time.Duration) func() time.Time { // its checks begin at offset, offset+every, ...
			return func() time.Time {
				n := (time.Since(start) - offset - takes + every) / every // checks that have ended
				return start.Add(offset + n*every)
			}
		}
		f := newFake("db", "running", "web", "running", "plain", "running")
		f.checks = map[string]func() time.Time{"db": checked(50 * time.Millisecond), "web": checked(350 * time.Millisecond)}
		hold := func(names ...string) time.Duration {
			before := time.Now()
			h, err := exporter.HoldStill(t.Context(), f, nil, "", time.Minute, pausing(names...))
			if err != nil {
				t.Fatal(err)
			}
			took := time.Since(before)
			if err := h.Release(); err != nil {
				t.Fatal(err)
			}
			return took
		}
		if took := hold("plain"); took != 0 {
			t.Errorf("without checks: waited %v", took)
		}
		if took := hold("db", "web", "plain"); took < 450*time.Millisecond || took > 600*time.Millisecond {
			t.Errorf("paused after %v, want it after the checks at 50 and 350 ms", took)
		}
		if took := hold("db", "web", "plain"); took != 0 {
			t.Errorf("between checks: waited %v", took)
		}
		f.checks["db"] = time.Now // always
		if took := hold("db"); took != 3*time.Second {
			t.Errorf("always checked: waited %v", took)
		}
	})
}

// The freezer of cgroup v1 gives up on a container that forks all the time; seen on Docker 20.10.
func TestHoldPauseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("db", "running", "web", "running")
		f.balks["db"] = 3
		h, err := exporter.HoldStill(t.Context(), f, nil, "", time.Minute, pausing("db", "web"))
		if err != nil {
			t.Fatal(err)
		}
		if f.state("db") != "paused" {
			t.Errorf("held: %v", f.states)
		}
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
		f.balks["db"] = 100
		if _, err := exporter.HoldStill(t.Context(), f, nil, "", time.Minute, pausing("db", "web")); err == nil {
			t.Error("held what cannot be paused")
		}
		if f.state("web") != "running" {
			t.Errorf("afterwards: %v", f.states)
		}
	})
}

func TestHoldStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("db", "running", "app", "running", "web", "running", "job", "exited")
		f.delay = time.Second
		list := append(stopping("db", "app", "job"), pausing("web")...)
		list[1].Needs = []string{"db"}
		f.health["db"] = time.Now().Add(20 * time.Second)
		h, err := exporter.HoldStill(t.Context(), f, nil, "", time.Minute, list)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
		want := "stop app, stop db, pause web, unpause web, start db, start app"
		if got := f.happened(); got != want {
			t.Errorf("happened: %s\nwant:     %s", got, want)
		}
		if span, _ := h.Still(); span < 20*time.Second || span > 21*time.Second {
			t.Errorf("stood still for %v, want the time until db is healthy", span)
		}
	})
}

// TestHoldReleases: whatever ends the holding, nothing stays held, also where the engine carries
// out a pause that nobody waits for any more.
func TestHoldReleases(t *testing.T) {
	boom := errors.New("boom")
	for _, tt := range []struct {
		name    string
		delay   time.Duration
		within  time.Duration
		cancel  time.Duration // when ctx ends; 0: never
		fail    string
		list    []exporter.Hold
		err     error // of hold
		expired bool
	}{
		{name: "cancelled while held", cancel: time.Second, list: pausing("db", "web")},
		{name: "time up while held", within: time.Second, list: pausing("db", "web"), expired: true},
		{name: "cancelled while pausing", delay: 2 * time.Second, cancel: time.Second, list: pausing("db", "web"), err: context.Canceled},
		{name: "cancelled while stopping", delay: 8 * time.Second, cancel: 10 * time.Second, list: stopping("db", "web"), err: context.Canceled},
		{name: "time up while stopping", delay: 8 * time.Second, within: 10 * time.Second, list: stopping("db", "web")},
		{name: "pause fails", fail: "pause web", list: pausing("db", "web"), err: boom},
		{name: "stop fails", fail: "stop db", list: stopping("db", "web"), err: boom},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake("db", "running", "web", "running")
				f.delay = tt.delay
				if tt.fail != "" {
					f.fail[tt.fail] = boom
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.cancel > 0 {
					time.AfterFunc(tt.cancel, cancel)
				}
				if tt.within == 0 {
					tt.within = time.Hour
				}
				h, err := exporter.HoldStill(ctx, f, nil, "", tt.within, tt.list)
				if tt.err != nil && !errors.Is(err, tt.err) {
					t.Errorf("hold: %v, want %v", err, tt.err)
				}
				if err == nil {
					time.Sleep(3 * time.Second)
					if err := h.Release(); err != nil {
						t.Error(err)
					}
					if _, expired := h.Outcome(); expired != tt.expired {
						t.Errorf("expired %v, want %v", expired, tt.expired)
					}
				} else if tt.name == "time up while stopping" && !strings.Contains(err.Error(), "time in which") {
					t.Errorf("hold: %v", err)
				}
				time.Sleep(time.Minute)
				if f.state("db") != "running" || f.state("web") != "running" {
					t.Errorf("left: %v after %s", f.states, f.happened())
				}
			})
		})
	}
}

func TestHoldRelaysFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake("db", "running", "web", "running")
		h, err := exporter.HoldStill(t.Context(), f, nil, "", time.Minute, pausing("db", "web"))
		if err != nil {
			t.Fatal(err)
		}
		f.mu.Lock()
		f.fail["unpause web"] = errors.New("engine is ill")
		f.mu.Unlock()
		err = h.Release()
		if err == nil || !strings.Contains(err.Error(), "container web") || strings.Contains(err.Error(), "container db") {
			t.Errorf("release: %v", err)
		}
		if f.state("db") != "running" {
			t.Error("one that cannot be let go keeps the others")
		}
	})
}

func TestJournal(t *testing.T) {
	dir := t.TempDir()
	f := newFake("db", "running", "web", "running")
	h, err := exporter.HoldStill(t.Context(), f, nil, dir, time.Minute, pausing("db"))
	if err != nil {
		t.Fatal(err)
	}
	if freed, err := exporter.RecoverDir(t.Context(), f, dir); err != nil || len(freed) > 0 || f.state("db") != "paused" {
		t.Fatalf("recover while in use: %v, %v, db is %s", freed, err, f.state("db"))
	}
	// Another backup of the same container waits for this one; one of others does not.
	other, err := exporter.HoldStill(t.Context(), f, nil, dir, time.Minute, pausing("web"))
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := exporter.HoldStill(short, f, nil, dir, time.Minute, pausing("web", "db")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hold what another backup holds: %v", err)
	}
	for _, h := range []*exporter.Holding{h, other} {
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.happened(); got != "pause db, pause web, unpause db, unpause web" {
		t.Errorf("happened: %s", got)
	}
}
