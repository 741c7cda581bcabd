package failover_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fake is an engine in memory that has the image of the system already.
type fake struct {
	importer.Engine // what is not needed: a call panics
	root            string
	image           snapshot.Image

	mu         sync.Mutex
	containers map[string]*snapshot.Container // by id
	volumes    map[string]bool
	networks   map[string]string
	labels     map[string]map[string]string // of volumes by name, of networks by id
	next       int
	execs      []string
	started    func() error // called when a container is started; nil: nothing else happens
	execed     func()       // called when a command is run; nil: nothing else happens
	fault      func() error // called before each call takes effect; nil: none
}

var _ failover.Engine = (*fake)(nil)

func newFake(t testing.TB) *fake {
	t.Helper()
	return &fake{root: t.TempDir(), image: image(), containers: map[string]*snapshot.Container{}, volumes: map[string]bool{}, networks: map[string]string{}, labels: map[string]map[string]string{}}
}

// image has no layers: nothing is sent.
func image() snapshot.Image {
	raw := []byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`)
	sum := sha256.Sum256(raw)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	return snapshot.Image{Config: digest, ID: digest, Tags: []string{"app:1"}, OS: "linux", Arch: "amd64", RawConfig: raw}
}

func (f *fake) call() error {
	f.mu.Lock()
	if f.fault == nil {
		return nil
	}
	return f.fault()
}

func (f *fake) id(kind string) string {
	f.next++
	return fmt.Sprintf("%s-%d", kind, f.next)
}

// state is what is there, without ids.
func (f *fake) state() []string {
	var all []string
	for _, c := range f.containers {
		all = append(all, "container "+c.Name+" "+c.State)
	}
	for name := range f.volumes {
		all = append(all, "volume "+name)
	}
	all = slices.AppendSeq(all, maps.Values(f.networks))
	slices.Sort(all)
	return all
}

func (f *fake) Facts() snapshot.Facts {
	return snapshot.Facts{Engine: snapshot.Engine{OS: "linux", Arch: "amd64"}, Host: "engine", Local: true}
}
func (f *fake) Misfits(snapshot.Container) []snapshot.Misfit { return nil }

func (f *fake) Names(context.Context) (n snapshot.Names, err error) {
	defer f.mu.Unlock()
	for id, c := range f.containers {
		n.Containers = append(n.Containers, snapshot.Existing{Name: c.Name, ID: id, State: c.State})
	}
	for name := range f.volumes {
		n.Volumes = append(n.Volumes, snapshot.Existing{Name: name, ID: name, Labels: f.labels[name]})
	}
	for id, name := range f.networks {
		n.Networks = append(n.Networks, snapshot.Existing{Name: name, ID: id, Labels: f.labels[id]})
	}
	return n, f.call()
}

func (f *fake) Containers(context.Context) (all []snapshot.Container, err error) {
	err = f.call()
	defer f.mu.Unlock()
	for _, c := range f.containers {
		all = append(all, *c)
	}
	return all, err
}

func (f *fake) Images(context.Context) ([]snapshot.Image, error) {
	err := f.call()
	defer f.mu.Unlock()
	return []snapshot.Image{f.image}, err
}

func (f *fake) CheckImage(context.Context, string, snapshot.Image) (string, error) {
	err := f.call()
	defer f.mu.Unlock()
	return f.image.ID, err
}

func (f *fake) CreateVolume(_ context.Context, _ snapshot.Volume, name string, labels map[string]string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	if f.volumes[name] {
		return snapshot.ErrExists
	}
	f.volumes[name], f.labels[name] = true, labels
	return os.Mkdir(filepath.Join(f.root, name), 0o755)
}

func (f *fake) VolumeMountpoint(_ context.Context, name string) (string, error) {
	err := f.call()
	defer f.mu.Unlock()
	return filepath.Join(f.root, name), err
}

func (f *fake) RemoveVolume(_ context.Context, name string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err != nil {
		return err
	}
	delete(f.volumes, name)
	return os.RemoveAll(filepath.Join(f.root, name))
}

func (f *fake) CreateNetwork(_ context.Context, _ snapshot.Network, name string, labels map[string]string) (string, []string, error) {
	err := f.call()
	defer f.mu.Unlock()
	id := f.id("network")
	if err == nil {
		f.networks[id], f.labels[id] = "network "+name, labels
	}
	return id, nil, err
}

func (f *fake) RemoveNetwork(_ context.Context, id string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.networks, id)
	}
	return err
}

func (f *fake) CreateContainer(_ context.Context, c snapshot.Container, p snapshot.Placement) (string, []string, error) {
	err := f.call()
	defer f.mu.Unlock()
	id := f.id("container")
	if err == nil {
		f.containers[id] = &snapshot.Container{ID: id, Name: p.Name, State: "created", Inspect: []byte(
			`{"NetworkSettings":{"Networks":{"n":{"IPAddress":"10.0.0.7"}},"Ports":{"80/tcp":[{"HostIP":"0.0.0.0","HostPort":"8080"}]}}}`)}
	}
	return id, nil, err
}

func (f *fake) RemoveContainer(_ context.Context, id string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err == nil {
		delete(f.containers, id)
	}
	return err
}

func (f *fake) Start(_ context.Context, id string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err == nil && f.started != nil {
		err = f.started()
	}
	if err == nil {
		f.containers[id].State = "running"
	}
	return err
}

func (f *fake) State(_ context.Context, id string) (s snapshot.State, err error) {
	err = f.call()
	defer f.mu.Unlock()
	if c := f.containers[id]; c != nil {
		s.State = c.State
	} else if err == nil {
		err = snapshot.ErrMissing
	}
	return s, err
}

func (f *fake) Exec(_ context.Context, id string, argv []string, out io.Writer) (int, error) {
	err := f.call()
	defer f.mu.Unlock()
	if f.execed != nil {
		f.execed()
	}
	f.execs = append(f.execs, argv[len(argv)-1])
	if argv[len(argv)-1] == "false" {
		fmt.Fprintln(out, "it is not so")
		return 1, err
	}
	return 0, err
}

var secret = crypto.KeyFile(crypto.NewKeyFile())

// protected returns a store with a snapshot of a small system, two hours old.
func protected(t testing.TB) *mem.Store {
	t.Helper()
	return protectedAt(t, 8080)
}

// protectedAt is protected with the port of the host at which the system is reached.
func protectedAt(t testing.TB, port int) *mem.Store {
	t.Helper()
	store := mem.New(mem.Options{})
	_, err := chunkstore.Init(t.Context(), store, secret, crypto.SlotInfo{Label: "test"}, crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}, chunkstore.ChunkerParams{})
	ok(t, err)
	snap := shop(port)
	s, err := open(t, store).Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	ok(t, err)
	ok(t, snapshot.Commit(t.Context(), s, snap))
	return store
}

// shop is a snapshot of a system that is reached at a port of its host.
func shop(port int) *snapshot.Snapshot {
	img := image()
	return &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Host: "home", Time: time.Now().Add(-2 * time.Hour), Complete: true},
		System: snapshot.System{
			Name: "shop", Images: []snapshot.Image{img},
			Containers: []snapshot.Container{{
				ID: "id-web", Name: "shop-web", Image: "app:1", ImageKey: img.Config, State: "running", Inspect: []byte(`{}`), Networks: []string{"shop_net"},
				Ports:  []snapshot.Port{{Container: "80/tcp", HostPort: strconv.Itoa(port)}},
				Mounts: []snapshot.Mount{{Type: "volume", Name: "shop_data", Destination: "/data"}},
			}},
			Volumes:  []snapshot.Volume{{Name: "shop_data", Driver: "local"}},
			Networks: []snapshot.Network{{Name: "shop_net", Driver: "bridge", Inspect: []byte(`{}`)}},
		},
	}
}

func open(t testing.TB, b chunkstore.Backend) *chunkstore.Repository {
	t.Helper()
	repo, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{})
	ok(t, err)
	return repo
}

func (f *fake) simple() error {
	defer f.mu.Unlock()
	return f.call()
}

func (f *fake) Load(context.Context, io.Reader) error     { return f.simple() }
func (f *fake) Tag(context.Context, string, string) error { return f.simple() }
func (f *fake) Untag(context.Context, string) error       { return f.simple() }

func (f *fake) RestartPolicy(context.Context, string) (string, error) { return "no", f.simple() }

func (f *fake) SetRestartPolicy(context.Context, string, string) error { return f.simple() }

func (f *fake) Rename(_ context.Context, id, name string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err == nil {
		f.containers[id].Name = name
	}
	return err
}

func (f *fake) Stop(_ context.Context, id string) error {
	err := f.call()
	defer f.mu.Unlock()
	if err == nil {
		f.containers[id].State = "exited"
	}
	return err
}
