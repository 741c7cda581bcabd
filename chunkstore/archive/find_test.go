package archive_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

func TestPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		fold    bool
		path    string
		want    bool
	}{
		{"hosts", false, "etc/hosts", true},
		{"hosts", false, "hosts", true},
		{"hosts", false, "hosts/other", false},
		{"*.sql", false, "dumps/a/shop.sql", true},
		{"*.sql", false, "dumps/a/shop.SQL", false},
		{"*.sql", true, "dumps/a/shop.SQL", true},
		{"*.SQL", true, "dumps/a/shop.sql", true},
		{"[a-c]?", false, "x/b1", true},
		{"/hosts", false, "hosts", true},
		{"/hosts", false, "etc/hosts", false},
		{"etc/hosts", false, "etc/hosts", true},
		{"/etc/*", false, "etc/hosts", true},
		{"/etc/*", false, "etc/a/b", false},
		{"etc/", false, "etc", true},
		{"etc/", false, "usr/etc", false},
		{`\*`, false, "a/*", true},
		{"*", false, "", false},
		{"*", false, "\xff\xfe", true},
		{"?", true, "\xff", true},
	} {
		p, err := archive.ParsePattern(tc.pattern, tc.fold)
		if err != nil {
			t.Errorf("%q: %v", tc.pattern, err)
			continue
		}
		if got := p.Match(tc.path); got != tc.want {
			t.Errorf("%q matches %q: %v, want %v", tc.pattern, tc.path, got, tc.want)
		}
	}
	for _, bad := range []string{"", "/", "[", "a[", `a\`} {
		if _, err := archive.ParsePattern(bad, false); err == nil {
			t.Errorf("%q is taken for a pattern", bad)
		}
	}
	if (archive.Pattern{}).Match("a") {
		t.Error("the zero pattern matches")
	}
}

// shelf gives streams of records by the length of the stream, and counts how often each is read.
type shelf struct {
	trees map[int64][]archive.Entry
	reads map[int64]int
	fail  error
}

func (s *shelf) records(_ context.Context, st chunkstore.Stream) iter.Seq2[archive.Entry, error] {
	return func(yield func(archive.Entry, error) bool) {
		s.reads[st.Size]++
		for _, e := range s.trees[st.Size] {
			if !yield(e, nil) {
				return
			}
		}
		if s.fail != nil {
			yield(archive.Entry{}, s.fail)
		}
	}
}

func names(t *testing.T, entries iter.Seq2[archive.Entry, error]) (all []string) {
	t.Helper()
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		if e.Inline != nil || e.Extents != nil || e.Xattrs != nil {
			t.Errorf("%q has content", e.Path)
		}
		all = append(all, e.Path)
	}
	return all
}

func TestSearcher(t *testing.T) {
	sh := &shelf{trees: map[int64][]archive.Entry{1: every(), 2: {{Path: "only"}}}, reads: map[int64]int{}}
	first, _ := archive.ParsePattern("inline*", false)
	second, _ := archive.ParsePattern("a/large", false)
	s := archive.SearcherOf(sh.records, 4, first, second)
	want := []string{"a/inline", "a/inline2", "a/large"}
	for range 3 {
		if got := names(t, s.Search(t.Context(), chunkstore.Stream{Size: 1})); !slices.Equal(got, want) {
			t.Fatalf("found %q, want %q", got, want)
		}
		if got := names(t, s.Search(t.Context(), chunkstore.Stream{Size: 2})); len(got) != 0 {
			t.Fatalf("found %q, want nothing", got)
		}
	}
	if sh.reads[1] != 1 || sh.reads[2] != 1 {
		t.Errorf("trees were read %v times, want once each", sh.reads)
	}
	// One place is left: three more finds are shown, but not kept.
	sh.trees[3] = every()
	for range 2 {
		if got := names(t, s.Search(t.Context(), chunkstore.Stream{Size: 3})); !slices.Equal(got, want) {
			t.Fatalf("found %q, want %q", got, want)
		}
	}
	if sh.reads[3] != 2 {
		t.Errorf("a tree for which there is no room was read %d times, want 2", sh.reads[3])
	}
}

// TestSearcherEnds: what was not seen to its end is read again.
func TestSearcherEnds(t *testing.T) {
	sh := &shelf{trees: map[int64][]archive.Entry{1: every()}, reads: map[int64]int{}, fail: errors.New("store is gone")}
	all, _ := archive.ParsePattern("*", false)
	s := archive.SearcherOf(sh.records, 100, all)
	for range 2 {
		var last error
		for _, err := range s.Search(t.Context(), chunkstore.Stream{Size: 1}) {
			last = err
		}
		if !errors.Is(last, sh.fail) {
			t.Fatalf("ended with %v", last)
		}
	}
	sh.fail = nil
	for range s.Search(t.Context(), chunkstore.Stream{Size: 1}) {
		break
	}
	if got := names(t, s.Search(t.Context(), chunkstore.Stream{Size: 1})); len(got) != len(every())-1 {
		t.Errorf("found %q", got)
	}
}
