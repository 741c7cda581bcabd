package chunkstore_test

import (
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"config": true, "p/0a/x-1_2.3": true, "...": true, strings.Repeat("a", 200): true,
		"": false, "a/": false, "/a": false, "a//b": false, ".": false, "a/..": false, "../a": false, "./a": false,
		"A": false, "a~": false, "é": false, "a\x00": false, "\xff": false, strings.Repeat("a", 201): false,
	} {
		if err := chunkstore.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	for prefix, ok := range map[string]bool{
		"": true, "p": true, "p/": true, "p/.": true, "p/..": true, "p/0a/x": true,
		"/": false, "p//": false, "p/../": false, "P": false, strings.Repeat("a", 201): false,
	} {
		if err := chunkstore.CheckPrefix(prefix); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q): %v", prefix, err)
		}
	}
}

func TestSpan(t *testing.T) {
	const big = chunkstore.MaxObject
	for _, tc := range []struct {
		size, off, n, want int64
		ok                 bool
	}{
		{10, 0, -1, 10, true},
		{10, 3, -1, 7, true},
		{10, 10, -1, 0, true},
		{10, 3, 7, 7, true},
		{10, 10, 0, 0, true},
		{big + 5, 5, -1, big, true},
		{10, 3, 8, 0, false},
		{10, 11, -1, 0, false},
		{10, -1, -1, 0, false},
		{10, 1, 1<<63 - 1, 0, false},
		{big + 1, 0, -1, 0, false},
	} {
		if n, err := chunkstore.Span(tc.size, tc.off, tc.n); (err == nil) != tc.ok || tc.ok && n != tc.want {
			t.Errorf("Span(%d, %d, %d) = %d, %v", tc.size, tc.off, tc.n, n, err)
		}
	}
}
