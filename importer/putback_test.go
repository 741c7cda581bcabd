package importer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

var (
	runID      = regexp.MustCompile(`hakobune([-/]old-)[0-9a-f]{8}`)
	imageLines = regexp.MustCompile(`(?m)^(tag|image) .*\n`)
)

// A restore that replaces a running system is killed at every call of the engine in turn. Run again it ends as if it had not
// been; taken back instead, the system is there and runs as before, unless containers of the new one were being started.
func TestKilledReplace(t *testing.T) {
	repo, snap, conf := smallShop(t)
	begin := func() (*fakeEngine, importer.Options) {
		ok(t, os.RemoveAll(filepath.Dir(conf)))
		ok(t, os.Mkdir(filepath.Dir(conf), 0o755))
		return runningShop(t, repo, snap, conf), importer.Options{Replace: true, Settle: quick.Settle, StateDir: t.TempDir()}
	}
	state := func(f *fakeEngine) string { return runID.ReplaceAllString(settled(t, f, filepath.Dir(conf)), "$1") }
	for _, keep := range []bool{false, true} {
		t.Run(fmt.Sprint("kept ", keep), func(t *testing.T) {
			if keep && testing.Short() {
				t.Skip("the same with what was replaced kept")
			}
			f, o := begin()
			before := imageLines.ReplaceAllString(state(f), "")
			o.KeepReplaced = keep
			_, err := importer.Restore(t.Context(), repo, snap, f, o)
			ok(t, err)
			want := state(f)
			back, unfinished := 0, 0
			for n := 1; ; n++ {
				f, o := begin()
				o.KeepReplaced = keep
				if !killedAt(t, repo, snap, f, o, n, "") {
					break
				}
				if keep && complete(t, o.StateDir) {
					break // what is run again replaces the new system
				}
				var r *importer.Result
				if r, err = importer.Restore(t.Context(), repo, snap, f, o); err != nil {
					t.Fatalf("killed at call %d, and run again: %v\n%v", n, err, r.Notes)
				}
				if diff := cmp.Diff(want, state(f)); diff != "" {
					t.Fatalf("killed at call %d, and run again (-want +got):\n%s\n%v", n, diff, r.Notes)
				}
				if left, err := os.ReadDir(filepath.Join(o.StateDir, "restores")); err != nil || len(left) > 0 {
					t.Errorf("call %d: journals left: %v, %v", n, left, err)
				}
				if keep {
					continue
				}
				f, o = begin()
				killedAt(t, repo, snap, f, o, n, "")
				found, err := importer.Recover(t.Context(), f, o.StateDir, "")
				ok(t, err)
				switch got := imageLines.ReplaceAllString(state(f), ""); {
				case len(found.Unfinished) > 0:
					unfinished++
				case got == imageLines.ReplaceAllString(want, ""): // it was complete
				case len(found.Left) > 0 || got != before:
					t.Fatalf("killed at call %d, and taken back: left %v (-before +after):\n%s", n, found.Left, cmp.Diff(before, got))
				default:
					back++
				}
			}
			t.Logf("killed: %d times it was as before, %d times it was to be gone on with", back, unfinished)
		})
	}
}

// complete reports whether the journal that is there says that the restore went well.
func complete(t *testing.T, stateDir string) bool {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(stateDir, "restores", "*"))
	if err != nil || len(all) == 0 {
		return false
	}
	text, err := os.ReadFile(all[0])
	ok(t, err)
	return strings.Contains(string(text), `"complete":true`)
}

// Where somebody has written to a volume since, what was in it is not put back over that: it is named, and so are the
// containers that need it. When he has made room, all is put back.
func TestKilledReplaceWritten(t *testing.T) {
	repo, snap, conf := smallShop(t)
	f := runningShop(t, repo, snap, conf)
	before := imageLines.ReplaceAllString(settled(t, f, filepath.Dir(conf)), "")
	o := importer.Options{Replace: true, Settle: quick.Settle, StateDir: t.TempDir()}
	if !killedAt(t, repo, snap, f, o, 1, "create container") {
		t.Fatal("not killed")
	}
	dir := filepath.Join(f.root, "shop_data")
	ok(t, os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600))
	for range 2 {
		found, err := importer.Recover(t.Context(), f, o.StateDir, "")
		ok(t, err)
		text := fmt.Sprint(found.Left)
		for _, want := range []string{"former content of volume shop_data: somebody has written to " + dir, "former container shop-db-1: what it uses is not back"} {
			if !strings.Contains(text, want) {
				t.Errorf("left %v", found.Left)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
			t.Error(err)
		}
		for _, c := range f.containers {
			if !snapshot.IsAside(c.Name) || c.State == "running" {
				t.Errorf("container %s is %s", c.Name, c.State)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	ok(t, err)
	for _, e := range entries {
		ok(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	found, err := importer.Recover(t.Context(), f, o.StateDir, "")
	ok(t, err)
	if diff := cmp.Diff(before, imageLines.ReplaceAllString(settled(t, f, filepath.Dir(conf)), "")); diff != "" || len(found.Left) > 0 || len(found.Returned) == 0 {
		t.Errorf("left %v, returned %v (-before +after):\n%s", found.Left, found.Returned, diff)
	}
}
