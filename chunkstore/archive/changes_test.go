package archive_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

func TestCountChanges(t *testing.T) {
	whole := every()
	at := func(path string) int {
		return slices.IndexFunc(whole, func(e archive.Entry) bool { return e.Path == path })
	}
	edited := func(path string, edit func(*archive.Entry)) []archive.Entry {
		all := slices.Clone(whole)
		edit(&all[at(path)])
		return all
	}
	without := func(path string) []archive.Entry { return slices.Delete(slices.Clone(whole), at(path), at(path)+1) }
	last := whole[len(whole)-1].Path
	for name, tc := range map[string]struct {
		earlier, later []archive.Entry
		want           int64
	}{
		"the same":              {whole, whole, 0},
		"both empty":            {nil, nil, 0},
		"all new":               {nil, whole, int64(len(whole))},
		"all gone":              {whole, nil, int64(len(whole))},
		"one new":               {without("a/fifo"), whole, 1},
		"one gone":              {whole, without("a/fifo"), 1},
		"the last is new":       {without(last), whole, 1},
		"the last is gone":      {whole, without(last), 1},
		"one for another":       {without("a/fifo"), without("a/socket"), 2},
		"time":                  {whole, edited("a/large", func(e *archive.Entry) { e.MTime.Nsec-- }), 1},
		"mode":                  {whole, edited("a/large", func(e *archive.Entry) { e.Mode ^= 1 }), 1},
		"an attribute":          {whole, edited("a/inline", func(e *archive.Entry) { e.Xattrs = e.Xattrs[:1] }), 1},
		"the target":            {whole, edited("a/symlink", func(e *archive.Entry) { e.Link += "x" }), 1},
		"another type":          {whole, edited("a/fifo", func(e *archive.Entry) { e.Type = archive.Socket }), 1},
		"inode":                 {whole, edited("a/large", func(e *archive.Entry) { e.Ino++ }), 0},
		"what was trusted":      {whole, edited("a/large", func(e *archive.Entry) { e.CTime = archive.Time{} }), 0},
		"same and another time": {edited("a/large", func(e *archive.Entry) { e.Ino++ }), without("a/torn"), 1},
	} {
		got, err := archive.CountChanges(bytes.NewReader(encode(t, tc.earlier)), bytes.NewReader(encode(t, tc.later)))
		if err != nil || got != tc.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, tc.want)
		}
	}
}

func TestCountChangesDamage(t *testing.T) {
	whole := every()
	b := encode(t, whole)
	n, err := archive.CountChanges(bytes.NewReader(b[:len(b)/2]), bytes.NewReader(b))
	if err != nil || n == 0 || n > int64(len(whole)) {
		t.Errorf("of half an earlier stream: %d, %v", n, err)
	}
	for cut := range b {
		if _, err := archive.CountChanges(bytes.NewReader(b), bytes.NewReader(b[:cut])); !errors.Is(err, archive.ErrFormat) {
			t.Fatalf("of %d bytes of a later stream of %d: %v", cut, len(b), err)
		}
	}
}
