package exporter_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// tarOnly is an engine that gives nothing but tars: commits, or else exports.
type tarOnly struct {
	elsewhere
	commits bool
}

func (e tarOnly) RemoteUpper(context.Context, snapshot.Container) (string, error) {
	return "", errors.New("no helper may see it")
}

func (e tarOnly) CommitLayer(ctx context.Context, id string) (io.ReadCloser, error) {
	if !e.commits {
		return nil, errors.New("no commits")
	}
	return e.elsewhere.CommitLayer(ctx, id)
}

// entries reads the records of a tree: type, mode, owner and content of each path. Directories above
// changes have what the engine thinks of them, so only their type counts.
func entries(t testing.TB, snap *snapshot.Snapshot, read func(*snapshot.Archive) map[string]string, records func(*snapshot.Archive) []archive.Entry) map[string]string {
	t.Helper()
	a := snap.System.Containers[0].Changes
	if a == nil {
		t.Fatalf("no changes: %v", snap.System.Problems)
	}
	content, found := read(a), map[string]string{}
	for _, e := range records(a) {
		switch e.Type {
		case archive.Dir:
			found[e.Path] = "directory"
		case archive.File, archive.Hardlink:
			found[e.Path] = content[e.Path] + e.Link
		case archive.Symlink:
			found[e.Path] = "-> " + e.Link
		case archive.Whiteout:
			found[e.Path] = "gone"
		default:
			found[e.Path] = "special"
		}
	}
	return found
}

// TestWays reads one container's changes in every way that an engine allows: what they carry is the
// same.
func TestWays(t *testing.T) {
	onEngines(t, func(t *testing.T, h *engineHost) {
		id := h.run("-ways", map[string]any{
			"sh": `mkdir -p /d/e /d/f; echo one >/d/e/1; ln /d/e/1 /d/e/2; ln -s e/1 /d/link; mkfifo /d/pipe; chmod 750 /d/f
				rm /bin/true; cp /bin/busybox /bin/copy; chown 1:2 /etc/passwd; rm -r /etc/dir; mkdir /etc/dir; echo new >/etc/dir/new
				rm -r /etc/file; mkdir /etc/file; : >/etc/file/in; touch /ready; exec sleep 1000`,
			"Image": h.layered(),
		})
		h.await("-ways", "/ready")
		name := h.prefix + "-ways"
		repo := memRepository(t)
		read := func(a *snapshot.Archive) map[string]string { return files(t, repo, a) }
		records := func(a *snapshot.Archive) []archive.Entry {
			var list []archive.Entry
			for e, err := range archive.Records(t.Context(), repo, a.Records) {
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, e)
			}
			return list
		}
		export := func(e exporter.Engine, want string) map[string]string {
			snap, err := exporter.Export(t.Context(), repo, e, discover(t, h, name), exporter.Options{TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			c := snap.System.Containers[0]
			if c.ChangesWay != want || !snap.Complete || len(c.WayLacks) == 0 {
				t.Errorf("by %s, want %s; problems %v", c.ChangesWay, want, snap.System.Problems)
			}
			if got := h.state(id); got != "running" {
				t.Fatalf("after %s it is %s", want, got)
			}
			t.Logf("%s: paused %v, notes %v", want, snap.Stats.Paused, snap.System.Notes)
			return entries(t, snap, read, records)
		}
		program := buildHelper(t)
		engine, err := docker.Connect(t.Context(), docker.Options{Host: h.Host.Host, Program: program})
		if err != nil {
			t.Fatal(err)
		}
		defer engine.Close()
		upper := export(h.Engine, "upperdir")
		delete(upper, "") // the engines' tars do not have it
		byExport := export(tarOnly{elsewhere{engine}, false}, "export")
		if diff := cmp.Diff(plain(upper), plain(byExport)); diff != "" {
			t.Errorf("upperdir and export (-upper +export):\n%s", diff)
		}
		if h.Facts().Containerd {
			return
		}
		byCommit := export(tarOnly{elsewhere{engine}, true}, "commit")
		if diff := cmp.Diff(plain(upper), plain(byCommit)); diff != "" {
			t.Errorf("upperdir and commit (-upper +commit):\n%s", diff)
		}
	})
}

// plain drops what ways may tell differently and mean the same: which of several names of a node
// comes as the link, and the deletion of what lies in a directory that was made anew.
func plain(tree map[string]string) map[string]string {
	tree = maps.Clone(tree)
	maps.DeleteFunc(tree, func(path, what string) bool { return what == "gone" && strings.HasPrefix(path, "etc/dir/") })
	return tree
}

// layered makes an image with files to change, and with a volume that nothing must come of.
func (h *engineHost) layered() string {
	h.t.Helper()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		h.t.Fatal(err)
	}
	files := []dockertest.File{{Name: "bin/"}, {Name: "bin/busybox", Mode: 0o755, Data: program}}
	for applet := range strings.FieldsSeq("sh ls cat touch sleep mkdir ln rm cp chmod chown mkfifo true test") {
		files = append(files, dockertest.File{Name: "bin/" + applet, Link: "busybox"})
	}
	files = append(files,
		dockertest.File{Name: "etc/"}, dockertest.File{Name: "etc/passwd", Data: []byte("root:x:0:0::/:/bin/sh\n")},
		dockertest.File{Name: "etc/dir/"}, dockertest.File{Name: "etc/dir/old", Data: []byte("old\n")},
		dockertest.File{Name: "etc/file", Data: []byte("a file\n")}, dockertest.File{Name: "data/"},
	)
	ref := h.prefix + "-layered:latest"
	config := map[string]any{"Cmd": []string{"/bin/sh"}, "Volumes": map[string]any{"/data": map[string]any{}}}
	dockertest.Image(h.t, h.Host, ref, config, dockertest.Layer(h.t, files...))
	return ref
}
