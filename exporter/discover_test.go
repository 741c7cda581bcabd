package exporter_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
)

// listing is an engine that has these containers.
type listing []snapshot.Container

func (l listing) Containers(context.Context) ([]snapshot.Container, error) { return l, nil }

const prefix = "io.github.hakobune-dr."

func labels(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return m
}

func dependsOn(names ...string) []snapshot.Dependency {
	var d []snapshot.Dependency
	for _, n := range names {
		d = append(d, snapshot.Dependency{Container: n})
	}
	return d
}

func host() listing {
	const project, oneoff = "com.docker.compose.project", "com.docker.compose.oneoff"
	return listing{
		{ID: "aaaa1111", Name: "shop-web-1", Labels: labels(project, "shop"), DependsOn: dependsOn("shop-db-1", "shop-cache-1")},
		{ID: "aaaa2222", Name: "shop-db-1", Labels: labels(project, "shop")},
		{ID: "aaaa3333", Name: "shop-cache-1", Labels: labels(project, "shop"), DependsOn: dependsOn("shop-db-1")},
		{ID: "aaaa4444", Name: "shop-run-77", Labels: labels(project, "shop", oneoff, "True")},
		{ID: "aaaa5555", Name: "shop-debug-1", Labels: labels(project, "shop", prefix+"enable", "false")},
		{ID: "aaaa6666", Name: "shop-mail-1", Labels: labels(project, "shop", prefix+"system", "mail")},
		{ID: "aaaa7777", Name: "shop-db-1.hakobune-old-e395ec1c", Labels: labels(project, "shop")},
		{ID: "bbbb1111", Name: "postfix", Labels: labels(prefix+"system", "mail")},
		{ID: "bbbb2222", Name: "wiki"},
		{ID: "bbbb3333", Name: "scratch", Labels: labels(prefix+"enable", "no")},
		{ID: "bbbb4444", Name: "hakobune-helper-1", Labels: labels(prefix+"helper", "")},
		{ID: "cccc1111", Name: "ring-a", Labels: labels(project, "ring"), DependsOn: dependsOn("ring-b")},
		{ID: "cccc2222", Name: "ring-b", Labels: labels(project, "ring"), DependsOn: dependsOn("ring-a")},
		{ID: "dddd1111", Name: "misspelt", Labels: labels(prefix+"system", "a b", prefix+"stop", "maybe", prefix+"pre", `["unclosed`)},
	}
}

// outline is a system as one line: name, source, containers in order.
func outline(s snapshot.System) string {
	words := []string{s.Name, string(s.Source)}
	for _, c := range s.Containers {
		words = append(words, c.Name)
	}
	return strings.Join(words, " ")
}

func TestDiscover(t *testing.T) {
	for _, tt := range []struct {
		name  string
		names []string
		all   bool
		want  []string
	}{
		{name: "project", names: []string{"shop"}, want: []string{"shop compose shop-db-1 shop-cache-1 shop-web-1"}},
		{name: "label", names: []string{"mail"}, want: []string{"mail label postfix shop-mail-1"}},
		{name: "container", names: []string{"wiki"}, want: []string{"wiki container wiki"}},
		{name: "container of a project", names: []string{"shop-web-1"}, want: []string{"shop-web-1 container shop-web-1"}},
		{name: "container left out otherwise", names: []string{"scratch"}, want: []string{"scratch container scratch"}},
		{name: "id", names: []string{"bbbb2"}, want: []string{"wiki container wiki"}},
		{name: "list", names: []string{"mine=wiki,shop-web-1,wiki,bbbb1"}, want: []string{"mine container postfix shop-web-1 wiki"}},
		{name: "several, once each", names: []string{"wiki", "shop", "wiki"}, want: []string{
			"wiki container wiki", "shop compose shop-db-1 shop-cache-1 shop-web-1",
		}},
		{name: "all", all: true, want: []string{
			"mail label postfix shop-mail-1", "misspelt container misspelt", "ring compose ring-b ring-a",
			"shop compose shop-db-1 shop-cache-1 shop-web-1", "wiki container wiki",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			systems, err := exporter.Discover(t.Context(), host(), tt.names, tt.all)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range systems {
				got = append(got, outline(s))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("systems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDiscoverNotes(t *testing.T) {
	systems, err := exporter.Discover(t.Context(), host(), []string{"shop", "ring", "misspelt"}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []snapshot.Problem{
		{Where: "container shop-run-77", What: `left out: made by "compose run" for one command`},
		{Where: "container shop-debug-1", What: "left out by its label io.github.hakobune-dr.enable"},
		{Where: "container shop-db-1.hakobune-old-e395ec1c", What: "left out: a restore moved it aside"},
	}
	if diff := cmp.Diff(want, systems[0].Notes); diff != "" {
		t.Errorf("shop's notes (-want +got):\n%s", diff)
	}
	want = []snapshot.Problem{{Where: "system ring", What: "its containers depend on each other in a circle: ring-a -> ring-b -> ring-a"}}
	if diff := cmp.Diff(want, systems[1].Notes); diff != "" {
		t.Errorf("ring's notes (-want +got):\n%s", diff)
	}
	want = []snapshot.Problem{
		{Where: "container misspelt", What: `label io.github.hakobune-dr.stop="maybe" is not true or false`},
		{Where: "container misspelt", What: `label io.github.hakobune-dr.pre="[\"unclosed" is not a command: unexpected end of JSON input`},
		{Where: "container misspelt", What: `label io.github.hakobune-dr.system="a b" is not a name (letters, digits, and _ . - behind the first)`},
	}
	if diff := cmp.Diff(want, systems[2].Problems); diff != "" {
		t.Errorf("misspelt's problems (-want +got):\n%s", diff)
	}
}

func TestDiscoverErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		near []string // nil: not an UnknownSystemError
	}{
		{"shpo", []string{"shop"}},
		{"postfx", []string{"postfix"}},
		{"mine=wikki", []string{"wiki"}},
		{"aaaa", nil},
		{"mine=", nil},
		{"a b=wiki", nil},
	} {
		_, err := exporter.Discover(t.Context(), host(), []string{tt.name}, false)
		if err == nil {
			t.Errorf("%s: no error", tt.name)
			continue
		}
		var unknown *exporter.UnknownSystemError
		if errors.As(err, &unknown) != (tt.near != nil) {
			t.Errorf("%s: %v", tt.name, err)
		} else if unknown != nil && cmp.Diff(tt.near, unknown.Near) != "" {
			t.Errorf("%s: near %v, want %v", tt.name, unknown.Near, tt.near)
		}
	}
	if _, err := exporter.Discover(t.Context(), host(), nil, false); err == nil {
		t.Error("no name and not all: no error")
	}
	gone := listing{{Name: "x-1", Labels: labels("com.docker.compose.project", "x", prefix+"enable", "false")}}
	if _, err := exporter.Discover(t.Context(), gone, []string{"x"}, false); err == nil {
		t.Error("a system of which nothing is left: no error")
	}
}
