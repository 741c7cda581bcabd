package snapshot_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// growing are five snapshots of two systems, newest first.
func growing() []snapshot.Summary {
	var list []snapshot.Summary
	for i, system := range []string{"shop", "wiki", "shop", "shop", "wiki"} {
		list = append(list, snapshot.Summary{
			ID: fmt.Sprint(i), System: system, Time: time.Date(2026, 11, 20+i, 2, 0, 0, 0, time.UTC),
			Stats: snapshot.Stats{Stored: 100 >> i},
		})
	}
	slices.Reverse(list)
	return list
}

func TestGrow(t *testing.T) {
	var got []string
	for _, g := range snapshot.Grow(growing()) {
		got = append(got, fmt.Sprintf("%s %s +%d %d %d", g.Summary.ID, g.Summary.System, g.Added, g.Sum, g.SystemSum))
	}
	want := []string{"0 shop +100 100 100", "1 wiki +50 150 50", "2 shop +25 175 125", "3 shop +12 187 137", "4 wiki +6 193 56"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := snapshot.Grow(nil); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

func TestNewestOfEach(t *testing.T) {
	var got []string
	for _, s := range snapshot.NewestOfEach(growing()) {
		got = append(got, s.ID)
	}
	if want := []string{"4", "3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
