package exporter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// fakeSystem is a fakeEngine whose containers have files: directories of this host.
type fakeSystem struct {
	*fakeEngine
	facts   snapshot.Facts
	system  snapshot.System
	uppers  map[string]string // by id
	helper  func(snapshot.HelperSpec) (io.ReadWriteCloser, error)
	layers  map[string][]byte // tars by DiffID
	commits map[string][]byte // tars by container
	rootfs  map[string][]byte
}

// newFakeSystem has a running container for each name, with changes and a volume of its own that
// hold files.
func newFakeSystem(t testing.TB, names ...string) *fakeSystem {
	t.Helper()
	f := &fakeSystem{fakeEngine: newFake(), facts: snapshot.Facts{Host: "home", Local: true, RootDir: "/nonexistent/docker"}, uppers: map[string]string{}}
	for _, name := range names {
		f.states[name] = "running"
		f.uppers[name] = fill(t, 20, "log of "+name)
		dir := fill(t, 20, "rows of "+name)
		f.system.Containers = append(f.system.Containers, snapshot.Container{
			ID: name, Name: name, State: "running", Inspect: []byte(`{}`), Labels: map[string]string{prefix + "system": "shop"},
			Mounts: []snapshot.Mount{{Type: "volume", Name: name + "-data", Destination: "/data"}},
		})
		f.system.Volumes = append(f.system.Volumes, snapshot.Volume{Name: name + "-data", Driver: "local", Mountpoint: dir})
	}
	return f
}

// fill makes a directory with n files.
func fill(t testing.TB, n int, text string) string {
	t.Helper()
	dir := t.TempDir()
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d", i)), fmt.Appendf(nil, "%s %d\n", text, i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (f *fakeSystem) Facts() snapshot.Facts { return f.facts }

func (f *fakeSystem) Containers(context.Context) ([]snapshot.Container, error) {
	list := slices.Clone(f.system.Containers)
	for i := range list {
		list[i].State = f.state(list[i].ID)
	}
	return list, nil
}

func (f *fakeSystem) Surroundings(_ context.Context, cs []snapshot.Container) (*snapshot.System, error) {
	s := f.system
	s.Containers = slices.Clone(cs)
	return &s, nil
}

func (f *fakeSystem) Upper(_ context.Context, c snapshot.Container) (string, error) {
	if dir := f.uppers[c.ID]; dir != "" && f.facts.Local {
		return dir, nil
	}
	return "", errors.New("no upper directory")
}

func (f *fakeSystem) RemoteUpper(_ context.Context, c snapshot.Container) (string, error) {
	if dir := f.uppers[c.ID]; dir != "" {
		return dir, nil
	}
	return "", errors.New("no upper directory there")
}

func (f *fakeSystem) Helper(_ context.Context, spec snapshot.HelperSpec) (io.ReadWriteCloser, error) {
	if f.helper == nil {
		return nil, errors.New("no helper")
	}
	return f.helper(spec)
}

func (f *fakeSystem) OpenLayer(_ context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	return tarOf(f.layers, img.Layers[n].DiffID)
}

func (f *fakeSystem) CommitLayer(_ context.Context, id string) (io.ReadCloser, error) {
	return tarOf(f.commits, id)
}

func (f *fakeSystem) ExportRootfs(_ context.Context, id string) (io.ReadCloser, error) {
	return tarOf(f.rootfs, id)
}

func (f *fakeSystem) CreateContainer(_ context.Context, c snapshot.Container, p snapshot.Placement) (string, []string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.states[p.Name] = "created"
	f.rootfs[p.Name] = f.rootfs["image "+c.Image]
	return p.Name, nil, nil
}

func (f *fakeSystem) RemoveContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.states, id)
	return nil
}

func tarOf(tars map[string][]byte, name string) (io.ReadCloser, error) {
	b, ok := tars[name]
	if !ok {
		return nil, snapshot.ErrMissing
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// running reports whether every container of the system runs.
func (f *fakeSystem) running() bool {
	for _, c := range f.system.Containers {
		if f.state(c.ID) != "running" {
			return false
		}
	}
	return true
}
