package snapshot_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// night returns three nights of two systems, as two hosts took them.
func nights() []snapshot.Summary {
	at := func(s string) time.Time {
		t, err := time.Parse(time.RFC3339, s)
		if err != nil {
			panic(err)
		}
		return t
	}
	return []snapshot.Summary{
		{ID: "1f0c9a5200112233aabb", System: "shop", Host: "home", Time: at("2026-11-19T02:00:00Z"), Tags: []string{"nightly"}},
		{ID: "1f0c9a5300112233aabb", System: "shop", Host: "home", Time: at("2026-11-20T02:00:00Z"), Tags: []string{"nightly", "keep"}},
		{ID: "77aa000000112233aabb", System: "wiki", Host: "attic", Time: at("2026-11-20T23:30:00Z")},
		{ID: "cafe000000112233aabb", System: "shop", Host: "home", Time: at("2026-11-21T02:00:00Z")},
		{ID: "0bad000000112233aabb", System: "cafe", Host: "home", Time: at("2026-11-18T02:00:00Z")},
	}
}

func TestSelect(t *testing.T) {
	utc, tokyo := time.UTC, time.FixedZone("JST", 9*3600)
	for _, tt := range []struct {
		selector string
		filter   snapshot.Filter
		loc      *time.Location
		want     string
		part     string
		path     string
	}{
		{selector: "latest", want: "cafe000000112233aabb"},
		{selector: "latest", filter: snapshot.Filter{Host: "attic"}, want: "77aa000000112233aabb"},
		{selector: "latest", filter: snapshot.Filter{System: "wiki"}, want: "77aa000000112233aabb"},
		{selector: "latest", filter: snapshot.Filter{Tags: []string{"nightly", "keep"}}, want: "1f0c9a5300112233aabb"},
		{selector: "shop", want: "cafe000000112233aabb"},
		{selector: "shop@2026-11-20", want: "1f0c9a5300112233aabb"},
		{selector: "shop@2026-11-20T02:00", want: "1f0c9a5300112233aabb"},
		{selector: "shop@2026-11-20T01:59", want: "1f0c9a5200112233aabb"},
		{selector: "shop@2026-11-20T02:00:00", want: "1f0c9a5300112233aabb"},
		{selector: "shop@2026-11-20 01:59:59", want: "1f0c9a5200112233aabb"},
		{selector: "shop@2026-11-20T02:59:59+01:00", want: "1f0c9a5200112233aabb"},
		{selector: "shop@2026-11-20T03:00:00+01:00", want: "1f0c9a5300112233aabb"},
		{selector: "wiki@2026-11-21", loc: tokyo, want: "77aa000000112233aabb"},
		{selector: "shop@2026-11-20:db/var/lib", want: "1f0c9a5300112233aabb", part: "db", path: "var/lib"},
		{selector: "shop@2026-11-20T02:00:db", want: "1f0c9a5300112233aabb", part: "db"},
		{selector: "latest@2026-11-19", want: "1f0c9a5200112233aabb"},
		{selector: "latest:web/etc/nginx.conf", want: "cafe000000112233aabb", part: "web", path: "etc/nginx.conf"},
		{selector: "latest:web/a@b", want: "cafe000000112233aabb", part: "web", path: "a@b"},
		{selector: "latest:web/", want: "cafe000000112233aabb", part: "web"},
		{selector: "wiki:/etc/wiki.conf", want: "77aa000000112233aabb", part: "/etc/wiki.conf"},
		{selector: "77aa", want: "77aa000000112233aabb"},
		{selector: "77AA0000", want: "77aa000000112233aabb"},
		{selector: "1f0c9a52", want: "1f0c9a5200112233aabb"},
		{selector: "1f0c9a5300112233aabb:db", want: "1f0c9a5300112233aabb", part: "db"},
		{selector: "cafe", filter: snapshot.Filter{System: "shop"}, want: "cafe000000112233aabb"},
		{selector: "cafe", filter: snapshot.Filter{System: "cafe"}, want: "0bad000000112233aabb"},
	} {
		t.Run(tt.selector, func(t *testing.T) {
			loc := tt.loc
			if loc == nil {
				loc = utc
			}
			got, err := snapshot.Select(nights(), tt.selector, tt.filter, loc)
			if err != nil {
				t.Fatal(err)
			}
			if got.Summary.ID != tt.want || got.Part != tt.part || got.Path != tt.path {
				t.Errorf("got %s %q %q, want %s %q %q", got.Summary.ID, got.Part, got.Path, tt.want, tt.part, tt.path)
			}
		})
	}
}

func TestSelectUnknown(t *testing.T) {
	for _, tt := range []struct {
		selector string
		list     []snapshot.Summary
		near     []string
		empty    bool
	}{
		{selector: "shpo", list: nights(), near: []string{"shop"}},
		{selector: "wiki2", list: nights(), near: []string{"wiki"}},
		{selector: "nothing-like-it", list: nights()},
		{selector: "1f0", list: nights()}, // too short for an id
		{selector: "shop@2026-11-01", list: nights()},
		{selector: "latest", empty: true},
	} {
		t.Run(tt.selector, func(t *testing.T) {
			_, err := snapshot.Select(tt.list, tt.selector, snapshot.Filter{}, time.UTC)
			var unknown *snapshot.UnknownError
			if !errors.As(err, &unknown) {
				t.Fatalf("got %v, want an UnknownError", err)
			}
			if diff := cmp.Diff(tt.near, unknown.Near); diff != "" || unknown.Empty != tt.empty {
				t.Errorf("empty %v, near (-want +got):\n%s", unknown.Empty, diff)
			}
		})
	}
}

func TestSelectAmbiguous(t *testing.T) {
	for selector, want := range map[string][]string{
		"1f0c": {"1f0c9a5300112233aabb", "1f0c9a5200112233aabb"},
		"cafe": {"0bad000000112233aabb", "cafe000000112233aabb"}, // a system's name and an id
	} {
		_, err := snapshot.Select(nights(), selector, snapshot.Filter{}, time.UTC)
		var ambiguous *snapshot.AmbiguousError
		if !errors.As(err, &ambiguous) {
			t.Fatalf("%s: got %v, want an AmbiguousError", selector, err)
		}
		var got []string
		for _, s := range ambiguous.Candidates {
			got = append(got, s.ID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", selector, diff)
		}
	}
}

func TestSelectBadDate(t *testing.T) {
	for _, selector := range []string{"shop@", "shop@yesterday", "shop@2026-13-01", "shop@2026-11-20T25:00"} {
		if _, err := snapshot.Select(nights(), selector, snapshot.Filter{}, time.UTC); err == nil {
			t.Errorf("%s: no error", selector)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"shop", "shop-staging", "shop", "wiki", "mail", "Nextcloud"}
	for name, want := range map[string][]string{
		"shop":      {"shop", "shop-staging"},
		"nextclout": {"Nextcloud"},
		"mial":      {"mail"},
		"maill":     {"mail"},
		"x":         nil,
	} {
		if diff := cmp.Diff(want, snapshot.Nearest(name, known)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
