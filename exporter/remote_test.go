package exporter_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// elsewhere is an engine whose files this process cannot see.
type elsewhere struct{ *docker.Engine }

func (e elsewhere) Facts() snapshot.Facts {
	f := e.Engine.Facts()
	f.Local = false
	return f
}

func (e elsewhere) Upper(context.Context, snapshot.Container) (string, error) {
	return "", errors.New("the engine is elsewhere")
}

// buildHelper builds the static stand-in for the program in helper containers.
func buildHelper(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "helper")
	build := exec.Command("go", "build", "-o", program, "./testdata/helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// TestExportRemote reads everything by helper containers: what they give is what a local engine's
// files give.
func TestExportRemote(t *testing.T) {
	program := buildHelper(t)
	onEngines(t, func(t *testing.T, h *engineHost) {
		engine, err := docker.Connect(t.Context(), docker.Options{Host: h.Host.Host, Program: program})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { engine.Close() })
		bind := t.TempDir()
		conf := filepath.Join(bind, "web.conf")
		if err := os.WriteFile(conf, []byte("port 80"), 0o600); err != nil {
			t.Fatal(err)
		}
		name := h.prefix + "-far"
		h.call("POST", "/volumes/create", map[string]any{"Name": name})
		id := h.run("-far", map[string]any{
			"sh": `mkdir -p /d/e; echo log >/d/e/f; rm /bin/true; echo rows >/data/table; touch /ready; exec sleep 1000`,
			"HostConfig": map[string]any{"Binds": []string{
				name + ":/data", bind + ":/conf", conf + ":/etc/web.conf", h.socket() + ":/sock", "/sys:/host/sys",
			}},
		})
		h.await("-far", "/ready")
		repo := memRepository(t)
		snap, err := exporter.Export(t.Context(), repo, elsewhere{engine}, discover(t, engine, name), exporter.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(snap.System.Problems) > 0 {
			t.Errorf("problems: %v", snap.System.Problems)
		}
		if got := h.state(id); got != "running" {
			t.Errorf("afterwards it is %s", got)
		}
		c := snap.System.Containers[0]
		changes := files(t, repo, c.Changes)
		if _, gone := changes["bin/true"]; !gone || changes["d/e/f"] != "log\n" {
			t.Errorf("changes by %s: %v", c.ChangesWay, changes)
		}
		if want := map[bool]string{true: "export", false: "helper"}[engine.Facts().Containerd]; c.ChangesWay != want {
			t.Errorf("changes by %s, want %s", c.ChangesWay, want)
		}
		if got := files(t, repo, snap.System.Volumes[0].Content)["table"]; got != "rows\n" {
			t.Errorf("volume: %q", got)
		}
		var binds []string
		for _, b := range snap.System.Binds {
			line := filepath.Base(b.Source) + ": " + b.Special
			if b.Content != nil {
				line += files(t, repo, b.Content)["web.conf"]
			}
			if b.File {
				line += " file"
			}
			binds = append(binds, line)
		}
		want := []string{"docker.sock: socket", filepath.Base(bind) + ": port 80", "sys: system path", "web.conf: port 80 file"}
		slices.Sort(binds)
		slices.Sort(want)
		if diff := cmp.Diff(want, binds); diff != "" {
			t.Errorf("binds (-want +got):\n%s", diff)
		}
	})
}

// TestHelperLost: a helper that ends while it is read loses its trees and nothing else.
func TestHelperLost(t *testing.T) {
	f := newFakeSystem(t, "db", "web")
	f.system.Volumes[0].Mountpoint = "" // so it cannot be seen from here
	f.system.Volumes[0].Driver = "local"
	lost := f.system.Volumes[0].Name
	dir := fill(t, 5, "far")
	var calls int
	f.helper = func(spec snapshot.HelperSpec) (io.ReadWriteCloser, error) {
		near, far := net.Pipe()
		if spec.Binds[0].Source != lost {
			return nil, errors.New("no such volume")
		}
		go func() {
			_ = exporter.ServeTree(context.Background(), far, func(req exporter.TreeRequest) (archive.Tree, error) {
				calls++
				return exporter.OpenDir(dir, req.Options)
			})
			far.Close()
		}()
		return near, nil
	}
	var helpers []io.Closer
	run := f.helper
	f.helper = func(spec snapshot.HelperSpec) (io.ReadWriteCloser, error) {
		rw, err := run(spec)
		helpers = append(helpers, rw)
		return rw, err
	}
	o := exporter.Options{Observer: during("rescan", func() {
		for _, h := range helpers {
			h.Close()
		}
	})}
	repo := memRepository(t)
	snap, err := exporter.Export(t.Context(), repo, f, discover(t, f, "shop"), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(snap.System.Problems) != 1 || !strings.Contains(snap.System.Problems[0].What, "could not be read in the last pass") {
		t.Errorf("problems: %v", snap.System.Problems)
	}
	if got := files(t, repo, snap.System.Volumes[0].Content)["00"]; got != "far 0\n" || calls == 0 {
		t.Errorf("the copy made before is gone: %q", got)
	}
	if !f.running() {
		t.Errorf("left %v", f.states)
	}
}
