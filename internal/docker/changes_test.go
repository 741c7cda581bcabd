package docker_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// changed runs a container that has changed its files.
func changed(t *testing.T, h dockertest.Host) (id, name string) {
	name = dockertest.Prefix(t, h)
	id = dockertest.Run(t, h, client.ContainerCreateOptions{Name: name, Config: &container.Config{
		Image: dockertest.Busybox(t, h), StopSignal: "KILL",
		Cmd: []string{"sh", "-c", "echo new > /tmp/new; rm /etc/group; touch /ready; sleep 1000"},
	}})
	c := dockertest.Client(t, h)
	waitFor(t, func() bool {
		_, err := c.ContainerStatPath(t.Context(), id, client.ContainerStatPathOptions{Path: "/ready"})
		return err == nil
	})
	return id, name
}

// entries returns the names in a tar that must be whole.
func entries(t *testing.T, r io.Reader) []string {
	t.Helper()
	raw, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for files := tar.NewReader(bytes.NewReader(raw)); ; {
		hdr, err := files.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(names)
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag != tar.TypeDir {
			names = append(names, hdr.Name)
		}
	}
}

// TestCommitLayer reads changes from the engine's files and, as on a remote engine, from a save.
func TestCommitLayer(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, local *docker.Engine) {
		id, _ := changed(t, h)
		for _, e := range []*docker.Engine{local, remote(t, h)} {
			layer, err := e.CommitLayer(ctxOf(t), id)
			if e.Facts().Containerd {
				if err == nil {
					t.Error("no commits on containerd's store")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			names := slices.DeleteFunc(entries(t, layer), func(name string) bool { // later engines add these
				return slices.Contains([]string{"etc/hosts", "etc/hostname", "etc/resolv.conf"}, name)
			})
			if diff := cmp.Diff([]string{"etc/.wh.group", "ready", "tmp/new"}, names); diff != "" {
				t.Error(diff)
			}
			if err := layer.Close(); err != nil {
				t.Error(err)
			}
		}
		commits := client.Filters{}.Add("label", "io.github.hakobune-dr.helper=commit")
		waitFor(t, func() bool { // others' come and go
			left, err := dockertest.Client(t, h).ImageList(t.Context(), client.ImageListOptions{Filters: commits})
			return err == nil && len(left.Items) == 0
		})
	})
}

func TestCommitOfNoChanges(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		if e.Facts().Containerd {
			t.Skip("does not apply: no commits there")
		}
		id := dockertest.Create(t, h, client.ContainerCreateOptions{Name: dockertest.Prefix(t, h), Config: &container.Config{Image: dockertest.Busybox(t, h)}})
		layer, err := e.CommitLayer(ctxOf(t), id)
		if err != nil {
			t.Fatal(err)
		}
		defer layer.Close()
		if names := entries(t, layer); len(names) > 0 {
			t.Error(names)
		}
	})
}

func TestExportRootfs(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		id, _ := changed(t, h)
		if _, err := e.ExportRootfs(ctxOf(t), id); !errors.Is(err, snapshot.ErrState) {
			t.Errorf("export of a running container: %v", err)
		}
		if err := e.Pause(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		root, err := e.ExportRootfs(ctxOf(t), id)
		if err != nil {
			t.Fatal(err)
		}
		names := entries(t, root)
		if err := root.Close(); err != nil {
			t.Error(err)
		}
		if !slices.Contains(names, "tmp/new") || !slices.Contains(names, "bin/busybox") || slices.Contains(names, "etc/group") {
			t.Error(names)
		}
		abandoned, err := e.ExportRootfs(ctxOf(t), id)
		if err != nil {
			t.Fatal(err)
		}
		if err := abandoned.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Unpause(ctxOf(t), id); err != nil {
			t.Error(err)
		}
	})
}

// TestExportWithoutEndMark: an engine that loses the rest of an export still answers 200 and ends the
// stream as if all were well. No real engine can be made to do so on demand.
func TestExportWithoutEndMark(t *testing.T) {
	var whole bytes.Buffer
	w := tar.NewWriter(&whole)
	zeros := make([]byte, 4096) // a cut in zeros must not look like an end mark
	for _, name := range []string{"a", "b"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(zeros)), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{0, 100, 512, 512 + 4096, 600 + 4096, 1024 + 2*4096, 512 + 1024 + 2*4096} {
		e := fakeExport(t, whole.Bytes()[:cut])
		r, err := e.ExportRootfs(ctxOf(t), "x")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
		r.Close()
	}
	r, err := fakeExport(t, whole.Bytes()).ExportRootfs(ctxOf(t), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, whole.Bytes()) {
		t.Errorf("%d of %d bytes, %v", len(got), whole.Len(), err)
	}
}

// fakeExport is an engine of one paused container with this export.
func fakeExport(t *testing.T, export []byte) *docker.Engine {
	return fakeEngine(t, map[string]string{"/containers/x/json": `{"Id":"x","State":{"Status":"paused"}}`, "/containers/x/export": string(export)})
}
