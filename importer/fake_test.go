package importer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// fakeEngine is an engine in memory, with real directories for volumes and changes. It is held to
// what real engines do only as far as an undo depends on it.
type fakeEngine struct {
	facts snapshot.Facts
	root  string // of volumes and changes

	mu         sync.Mutex
	images     map[string]fakeEngineImage // by id
	tags       map[string]string
	blobs      map[string]bool // layers
	content    map[string][]byte
	compressed bool // it takes no archive that leaves a layer out, as containerd does of images that were pulled
	volumes    map[string]bool
	networks   map[string]string            // name by id
	labels     map[string]map[string]string // of volumes by name, of networks by id
	containers map[string]*fakeContainer
	next       int

	states func(name string, asked int) snapshot.State // nil: as it is
	asked  map[string]int
	puller func(ref string) (id string, layers []string, err error) // nil: the engine reaches no registry
	fault  func(call string) error                                  // nil: none; called before each call takes effect
}

type fakeContainer struct {
	Name, State, Image string
	Mounts             []snapshot.Mount
	Inspect            string
	Place              snapshot.Placement
	Restart            string
	Labels             map[string]string
}

var _ importer.Engine = (*fakeEngine)(nil)

func newFake(t testing.TB) *fakeEngine {
	t.Helper()
	return &fakeEngine{
		facts: snapshot.Facts{Engine: snapshot.Engine{OS: "linux", Arch: "amd64"}, Local: true},
		root:  t.TempDir(), images: map[string]fakeEngineImage{}, tags: map[string]string{}, blobs: map[string]bool{}, content: map[string][]byte{},
		asked: map[string]int{}, volumes: map[string]bool{}, networks: map[string]string{}, labels: map[string]map[string]string{}, containers: map[string]*fakeContainer{},
	}
}

// call begins a call of the engine.
func (f *fakeEngine) call(format string, args ...any) error {
	f.mu.Lock()
	if f.fault == nil {
		return nil
	}
	return f.fault(fmt.Sprintf(format, args...))
}

func (f *fakeEngine) newID(kind string) string {
	f.next++
	return fmt.Sprintf("%s-%d", kind, f.next)
}

// state is all that a restore could change, as text.
func (f *fakeEngine) state(t testing.TB, paths ...string) string {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, tag := range slices.Sorted(maps.Keys(f.tags)) {
		fmt.Fprintf(&b, "tag %s %s\n", tag, f.tags[tag])
	}
	for _, id := range slices.Sorted(maps.Keys(f.images)) {
		fmt.Fprintf(&b, "image %s\n", id)
	}
	for _, name := range slices.Sorted(maps.Keys(f.volumes)) {
		fmt.Fprintf(&b, "volume %s\n%s", name, listing(t, filepath.Join(f.root, name)))
	}
	for _, id := range slices.Sorted(maps.Keys(f.networks)) {
		fmt.Fprintf(&b, "network %s %s\n", id, f.networks[id])
	}
	for _, id := range slices.Sorted(maps.Keys(f.containers)) {
		c := f.containers[id]
		fmt.Fprintf(&b, "container %s %s %s %s", id, c.Name, c.State, c.Image)
		if c.Restart != "" {
			fmt.Fprintf(&b, " restart=%s", c.Restart)
		}
		b.WriteByte('\n')
	}
	for _, p := range paths {
		fmt.Fprintf(&b, "path %s\n%s", p, listing(t, p))
	}
	return b.String()
}

// listing is what lies below a path, files with their content.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var data []byte
		if fi.Mode().IsRegular() {
			if data, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		fmt.Fprintf(&b, "  %s %v %q\n", rel, fi.Mode(), data)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func (f *fakeEngine) Facts() snapshot.Facts { return f.facts }

func (f *fakeEngine) Misfits(snapshot.Container) []snapshot.Misfit { return nil }

func (f *fakeEngine) Names(context.Context) (n snapshot.Names, err error) {
	defer f.mu.Unlock()
	if err := f.call("names"); err != nil {
		return n, err
	}
	for id, c := range f.containers {
		n.Containers = append(n.Containers, snapshot.Existing{Name: c.Name, ID: id, State: c.State})
	}
	for name := range f.volumes {
		n.Volumes = append(n.Volumes, snapshot.Existing{Name: name, ID: name, Labels: f.labels[name]})
	}
	for id, name := range f.networks {
		n.Networks = append(n.Networks, snapshot.Existing{Name: name, ID: id, Labels: f.labels[id]})
	}
	return n, nil
}

func (f *fakeEngine) Containers(context.Context) (cs []snapshot.Container, err error) {
	defer f.mu.Unlock()
	if err := f.call("containers"); err != nil {
		return nil, err
	}
	for id, c := range f.containers {
		cs = append(cs, snapshot.Container{ID: id, Name: c.Name, State: c.State, Labels: c.Labels, ImageID: c.Image, Mounts: c.Mounts, Inspect: []byte(c.Inspect)})
	}
	return cs, nil
}

func (f *fakeEngine) CreateVolume(_ context.Context, v snapshot.Volume, name string, labels map[string]string) error {
	defer f.mu.Unlock()
	if err := f.call("create volume %s", name); err != nil {
		return err
	}
	if f.volumes[name] {
		return fmt.Errorf("create volume %s: %w", name, snapshot.ErrExists)
	}
	f.volumes[name], f.labels[name] = true, labels
	return os.Mkdir(filepath.Join(f.root, name), 0o755)
}

func (f *fakeEngine) VolumeMountpoint(_ context.Context, name string) (string, error) {
	defer f.mu.Unlock()
	return filepath.Join(f.root, name), f.call("mountpoint %s", name)
}

func (f *fakeEngine) RemoveVolume(_ context.Context, name string) error {
	defer f.mu.Unlock()
	if err := f.call("remove volume %s", name); err != nil {
		return err
	}
	for _, c := range f.containers {
		for _, m := range c.Mounts {
			if m.Name == name {
				return fmt.Errorf("remove volume %s: container %s uses it", name, c.Name)
			}
		}
	}
	delete(f.volumes, name)
	return os.RemoveAll(filepath.Join(f.root, name))
}

func (f *fakeEngine) CreateNetwork(_ context.Context, _ snapshot.Network, name string, labels map[string]string) (string, []string, error) {
	defer f.mu.Unlock()
	if err := f.call("create network %s", name); err != nil {
		return "", nil, err
	}
	id := f.newID("network")
	f.networks[id], f.labels[id] = name, labels
	return id, []string{"has other subnets"}, nil
}

func (f *fakeEngine) RemoveNetwork(_ context.Context, id string) error {
	defer f.mu.Unlock()
	if err := f.call("remove network %s", id); err != nil {
		return err
	}
	delete(f.networks, id)
	return nil
}

func (f *fakeEngine) CreateContainer(_ context.Context, c snapshot.Container, p snapshot.Placement) (string, []string, error) {
	defer f.mu.Unlock()
	if err := f.call("create container %s", p.Name); err != nil {
		return "", nil, err
	}
	if f.named(p.Name) {
		return "", nil, fmt.Errorf("create container %s: %w", p.Name, snapshot.ErrExists)
	}
	if f.resolve(p.Image) == "" {
		return "", nil, fmt.Errorf("create container %s: image %q: %w", p.Name, p.Image, snapshot.ErrMissing)
	}
	n := &fakeContainer{Name: p.Name, State: "created", Image: p.Image, Inspect: "{}", Place: p}
	for _, m := range c.Mounts {
		if to, ok := p.Volumes[m.Name]; ok {
			m.Name = to
		}
		if m.Type == "volume" && !f.volumes[m.Name] {
			return "", nil, fmt.Errorf("create container %s: volume %s: %w", p.Name, m.Name, snapshot.ErrMissing)
		}
		n.Mounts = append(n.Mounts, m)
	}
	for _, m := range n.Mounts { // what an image has at the place of an empty volume is copied into it
		dir := filepath.Join(f.root, m.Name)
		if entries, err := os.ReadDir(dir); m.Type == "volume" && err == nil && len(entries) == 0 {
			if err := os.WriteFile(filepath.Join(dir, "from-image"), nil, 0o644); err != nil {
				return "", nil, err
			}
		}
	}
	id := f.newID("container")
	f.containers[id] = n
	return id, []string{"blkio weight dropped"}, os.Mkdir(filepath.Join(f.root, id), 0o755)
}

func (f *fakeEngine) named(name string) bool {
	for _, c := range f.containers {
		if c.Name == name {
			return true
		}
	}
	return false
}

func (f *fakeEngine) Rename(_ context.Context, id, name string) error {
	defer f.mu.Unlock()
	if err := f.call("rename %s", name); err != nil {
		return err
	}
	if f.named(name) {
		return fmt.Errorf("rename %s: %w", name, snapshot.ErrExists)
	}
	f.containers[id].Name = name
	return nil
}

func (f *fakeEngine) RemoveContainer(_ context.Context, id string) error {
	defer f.mu.Unlock()
	if err := f.call("remove container %s", id); err != nil {
		return err
	}
	delete(f.containers, id)
	return os.RemoveAll(filepath.Join(f.root, id))
}

func (f *fakeEngine) Upper(_ context.Context, c snapshot.Container) (string, error) {
	defer f.mu.Unlock()
	return filepath.Join(f.root, c.ID), f.call("upper %s", c.ID)
}

func (f *fakeEngine) PutArchive(_ context.Context, id, path string, r io.Reader) error {
	defer f.mu.Unlock()
	if err := f.call("put archive"); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

func (f *fakeEngine) Start(_ context.Context, id string) error {
	defer f.mu.Unlock()
	if err := f.call("start %s", id); err != nil {
		return err
	}
	f.containers[id].State = "running"
	return nil
}

func (f *fakeEngine) Stop(_ context.Context, id string) error {
	defer f.mu.Unlock()
	if err := f.call("stop %s", id); err != nil {
		return err
	}
	f.containers[id].State = "exited"
	return nil
}

func (f *fakeEngine) RestartPolicy(_ context.Context, id string) (string, error) {
	defer f.mu.Unlock()
	if err := f.call("restart policy %s", id); err != nil {
		return "", err
	}
	return f.containers[id].Restart, nil
}

func (f *fakeEngine) SetRestartPolicy(_ context.Context, id, policy string) error {
	defer f.mu.Unlock()
	if err := f.call("set restart policy %s", id); err != nil {
		return err
	}
	f.containers[id].Restart = policy
	return nil
}

func (f *fakeEngine) State(_ context.Context, id string) (snapshot.State, error) {
	defer f.mu.Unlock()
	if err := f.call("state"); err != nil {
		return snapshot.State{}, err
	}
	c := f.containers[id]
	if c == nil {
		return snapshot.State{}, fmt.Errorf("container %s: %w", id, snapshot.ErrMissing)
	}
	if f.states == nil || c.State != "running" {
		return snapshot.State{State: c.State}, nil
	}
	f.asked[c.Name]++
	return f.states(c.Name, f.asked[c.Name]), nil
}
