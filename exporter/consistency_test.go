package exporter_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
)

// TestConsistency copies two containers that write all the time. The first numbers lines in a
// volume and then in its own layer, and then tells the second through the volume, which notes in
// its own layer what it was told. In a copy of one moment each file is at most one line ahead of
// what it is told to; a copy made file by file is not like that.
func TestConsistency(t *testing.T) {
	onEngines(t, func(t *testing.T, h *engineHost) {
		name := h.prefix + "-pair"
		h.call("POST", "/volumes/create", map[string]any{"Name": name})
		config := func(script string) map[string]any {
			return map[string]any{
				"Labels": compose(name, "x"), "sh": script,
				"HostConfig": map[string]any{"Binds": []string{name + ":/shared"}},
			}
		}
		first := h.run("-pair-1", config(`i=0; while :; do i=$((i+1)); echo $i >>/shared/a; echo $i >>/b; echo $i >/shared/c.new; mv /shared/c.new /shared/c; done`))
		second := h.run("-pair-2", config(`while :; do read n </shared/c && echo $n >>/d; done 2>/dev/null`))
		h.await("-pair-2", "/d")
		repo := memRepository(t)
		guard, err := startGuard(h.Host.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer guard.Close()
		for range 3 {
			snap, err := exporter.Export(t.Context(), repo, h, discover(t, h, name), exporter.Options{Guard: guard, StateDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			checkPair(t, repo, snap)
			q := snap.System.Quiesce
			t.Logf("passes %d, paused %v together, %v at most", q.Passes, q.Paused.Round(time.Millisecond), snap.Stats.Paused.Round(time.Millisecond))
			if h.state(first) != "running" || h.state(second) != "running" {
				t.Fatal("the containers do not run")
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}

func checkPair(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot) {
	t.Helper()
	if !snap.Complete {
		t.Errorf("problems: %v", snap.System.Problems)
	}
	for _, n := range snap.System.Notes {
		if !strings.Contains(n.What, "vanished") {
			t.Errorf("note: %v", n)
		}
	}
	volume := files(t, repo, snap.System.Volumes[0].Content)
	a, c := numbered(t, volume["a"], true), numbered(t, volume["c"], false)
	b := numbered(t, files(t, repo, snap.System.Containers[0].Changes)["b"], true)
	d := numbered(t, files(t, repo, snap.System.Containers[1].Changes)["d"], false)
	if a < b || a > b+1 || b < c || b > c+1 || d > c {
		t.Errorf("not of one moment: %d in the volume, %d in the layer, %d told, %d heard", a, b, c, d)
	}
	t.Logf("%d in the volume, %d in the layer, %d told, %d heard", a, b, c, d)
}

// numbered returns the last number of a file of numbered lines, all of which must be there.
func numbered(t *testing.T, text string, all bool) int {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	last, err := strconv.Atoi(lines[len(lines)-1])
	if err != nil || all && last != len(lines) {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
	return last
}
