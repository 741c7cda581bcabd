package exporter_test

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// makeTar makes a tar of lines: "dir/", "file=content", "link->target", "name=>hard link", each with
// an optional " @seconds".
func makeTar(t testing.TB, lines ...string) *archive.TarTree {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, line := range lines {
		h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1700000000, 0)}
		line, later := strings.CutSuffix(line, " @")
		if later {
			h.ModTime = h.ModTime.Add(time.Hour)
		}
		var content string
		switch name, target, _ := strings.Cut(line, "->"); {
		case strings.Contains(line, "=>"):
			h.Name, h.Linkname, _ = strings.Cut(line, "=>")
			h.Typeflag = tar.TypeLink
		case target != "":
			h.Typeflag, h.Name, h.Linkname = tar.TypeSymlink, name, target
		case strings.HasSuffix(line, "/"):
			h.Typeflag, h.Name = tar.TypeDir, line
		default:
			h.Name, content, _ = strings.Cut(line, "=")
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tree, err := archive.NewTarTree(&buf, archive.TarTreeOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tree.Close() })
	return tree
}

func TestDiffTree(t *testing.T) {
	for _, tt := range []struct {
		name string
		base []string
		now  []string
		want []string
	}{
		{name: "nothing", base: []string{"a/", "a/b=x"}, now: []string{"a/", "a/b=x"}},
		{name: "new", base: []string{"a/"}, now: []string{"a/", "a/b=x", "c/", "c/d=y"}, want: []string{"a", "a/b", "c", "c/d"}},
		{name: "content of the same size and time", base: []string{"a=x"}, now: []string{"a=y"}, want: []string{"a"}},
		{name: "time", base: []string{"a=x"}, now: []string{"a=x @"}, want: []string{"a"}},
		{name: "gone", base: []string{"a/", "a/b=x", "c=y"}, now: []string{"a/"}, want: []string{"a", "a/b gone", "c gone"}},
		{name: "gone with what it held", base: []string{"a/", "a/b/", "a/b/c=x", "a/bc=y"}, now: []string{"a/"}, want: []string{"a", "a/b gone", "a/bc gone"}},
		{name: "directory becomes file", base: []string{"a/", "a/b=x", "c=y"}, now: []string{"a=z", "c=y"}, want: []string{"a"}},
		{name: "file becomes directory", base: []string{"a=z"}, now: []string{"a/", "a/b=x"}, want: []string{"a", "a/b"}},
		{name: "names of one node", base: []string{"a=x", "b=>a", "c=x"}, now: []string{"a=xx", "b=>a", "c=x"}, want: []string{"a", "b"}},
		{name: "new name of a node", base: []string{"a=x"}, now: []string{"a=x", "b=>a"}, want: []string{"a", "b"}},
		{name: "link", base: []string{"a->b"}, now: []string{"a->c"}, want: []string{"a"}},
		{name: "order", base: []string{"a/", "a/x=1", "a-b=2"}, now: []string{"a/", "a/y=1", "a-c=2"}, want: []string{"a", "a/x gone", "a/y", "a-b gone", "a-c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree, err := exporter.NewDiffTree(t.Context(), makeTar(t, tt.base...), makeTar(t, tt.now...))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			err = tree.Walk(t.Context(), func(e archive.Entry) error {
				if e.Type == archive.Whiteout {
					e.Path += " gone"
				}
				got = append(got, e.Path)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}
