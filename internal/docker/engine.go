// Package docker is the only package that speaks the Docker Engine API. It translates between the
// engine's words and those of package snapshot, reads what an engine stores where this process can
// see its files, and creates again what a snapshot describes.
//
// It knows engines from 20.10 (API 1.41) on, with graph drivers and with containerd's image store.
// Methods of Engine may be called from many goroutines at once. Errors read "operation object:
// cause" and wrap snapshot.ErrMissing, snapshot.ErrExists or snapshot.ErrState where those apply.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// ErrDown says that no engine answers; the text says where, and what to look at.
var ErrDown = errors.New("docker engine is not reachable")

// Options says which engine to speak to.
type Options struct {
	Host    string              // "unix:///path", "tcp://host:2376", "ssh://user@host"; empty: as Env says
	Env     func(string) string // environment for DOCKER_HOST, DOCKER_CONTEXT and their kin; nil: empty
	Program string              // a static linux binary for helper containers; empty: this program's own
	Logger  *slog.Logger        // nil: nothing is logged
}

// Engine is a connection to one Docker engine.
type Engine struct {
	api     *client.Client
	http    *http.Client // to the same engine, for what the client would not give unabridged
	scheme  string       // of URLs for http
	addr    string
	program string
	log     *slog.Logger
	facts   snapshot.Facts
	info    info

	mu         sync.Mutex
	containerd *containerd // connected when first needed
	blobs      string      // directory of containerd's image content
	savedPaths sync.Map    // image id and configuration to paths of its layers in an archive
}

// Connect speaks to the engine that o names and learns what Facts tells. The caller closes the
// Engine.
func Connect(ctx context.Context, o Options) (*Engine, error) {
	if o.Env == nil {
		o.Env = func(string) string { return "" }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ep, err := findEndpoint(o.Host, o.Env)
	if err != nil {
		return nil, err
	}
	e, err := open(ep)
	if err != nil {
		return nil, fmt.Errorf("docker host %s: %w", ep.host, err)
	}
	e.program, e.log = o.Program, o.Logger
	if err := e.learn(ctx, ep); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// open makes the clients of an engine without speaking to it.
func open(ep endpoint) (*Engine, error) {
	tr, err := ep.transport()
	if err != nil {
		return nil, err
	}
	e := &Engine{http: &http.Client{Transport: tr}, scheme: "http", addr: client.DummyHost}
	if tr.TLSClientConfig != nil {
		e.scheme = "https"
	}
	if addr, tcp := strings.CutPrefix(ep.host, "tcp://"); tcp {
		e.addr = addr
	}
	e.api, err = client.New(ep.clientOptions(tr.Clone())...)
	return e, err
}

// Close releases the connections.
func (e *Engine) Close() error {
	e.http.CloseIdleConnections()
	if e.containerd != nil {
		e.containerd.close()
	}
	return e.api.Close()
}

// Facts says what the engine and its host were when Connect returned.
func (e *Engine) Facts() snapshot.Facts { return e.facts }

// Pause holds all processes of a running container still. It is snapshot.ErrState if the container
// is paused already or does not run.
func (e *Engine) Pause(ctx context.Context, id string) error { return errors.ErrUnsupported }

// Unpause lets a paused container go on. It is snapshot.ErrState if the container is not paused.
func (e *Engine) Unpause(ctx context.Context, id string) error { return errors.ErrUnsupported }

// Stop stops a container, with its own stop signal and grace period, and waits until it stands.
// Stopping one that does not run does nothing.
func (e *Engine) Stop(ctx context.Context, id string) error { return errors.ErrUnsupported }

// Start starts a container. Starting one that runs does nothing. After an error the container must
// be removed and created again, never just started again: engines from 29 on drop a network from
// the container when joining it fails.
func (e *Engine) Start(ctx context.Context, id string) error { return errors.ErrUnsupported }

// Exec runs argv in a running container and returns its exit code. At most 64 KiB of what it
// writes (to both its outputs) go to out, the rest is dropped; out may be nil. When ctx ends the
// command is left to itself, for the engine has no way to end it.
func (e *Engine) Exec(ctx context.Context, id string, argv []string, out io.Writer) (int, error) {
	return 0, errors.ErrUnsupported
}

// Helper runs this program in a container on the engine's host. What is written to the stream is
// the program's input, what is read from it is its output, and Read ends with io.EOF only if the
// program ended with code 0: else with an error that holds the last lines of its error output.
// CloseWrite, which the stream has, ends the input. Close ends the program and removes the
// container, and the image if it was made for it and no other helper needs it.
func (e *Engine) Helper(ctx context.Context, spec snapshot.HelperSpec) (io.ReadWriteCloser, error) {
	return nil, errors.ErrUnsupported
}

// CommitLayer commits the container, which the engine pauses for the whole of it, and opens the
// tar of the layer of its changes. Close removes the commit. Not to be used on engines with
// containerd's image store, where it is an error: there a commit reads the whole image twice.
func (e *Engine) CommitLayer(ctx context.Context, id string) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// ExportRootfs opens a tar of the whole file system of a container that does not change: it must
// be paused or stopped, else this is snapshot.ErrState, for an export of a changing tree ends early
// without an error. Read returns io.EOF only behind the end mark of a complete tar.
func (e *Engine) ExportRootfs(ctx context.Context, id string) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

// Load gives the engine an image archive. It fails also where the engine reports a failure inside
// a successful answer. What was loaded is to be held against CheckImage.
func (e *Engine) Load(ctx context.Context, r io.Reader) error { return errors.ErrUnsupported }

// Pull has the engine pull an image.
func (e *Engine) Pull(ctx context.Context, ref string) error { return errors.ErrUnsupported }

// Tag gives the image (an id or a reference) one more reference.
func (e *Engine) Tag(ctx context.Context, image, ref string) error { return errors.ErrUnsupported }

// Untag removes a reference, and the image with it if that was its last one and no container uses
// it. A reference that is not there is no error.
func (e *Engine) Untag(ctx context.Context, ref string) error { return errors.ErrUnsupported }

// CheckImage returns the engine's id of the image ref. It is snapshot.ErrMissing if there is none,
// and an error if its layers are not those of want or not all there.
func (e *Engine) CheckImage(ctx context.Context, ref string, want snapshot.Image) (string, error) {
	return "", errors.ErrUnsupported
}

// CreateVolume creates v under a name, with labels added to its own. It is snapshot.ErrExists if
// there is a volume of that name.
func (e *Engine) CreateVolume(ctx context.Context, v snapshot.Volume, name string, labels map[string]string) error {
	return errors.ErrUnsupported
}

// VolumeMountpoint returns the directory of a volume on the engine's host.
func (e *Engine) VolumeMountpoint(ctx context.Context, name string) (string, error) {
	return "", errors.ErrUnsupported
}

// RemoveVolume removes a volume that no container uses. One that is not there is no error.
func (e *Engine) RemoveVolume(ctx context.Context, name string) error { return errors.ErrUnsupported }

// CreateNetwork creates n under a name, with labels added to its own. Where its subnets are taken
// it gets others, which a warning tells. It is snapshot.ErrExists if there is a network of that
// name.
func (e *Engine) CreateNetwork(ctx context.Context, n snapshot.Network, name string, labels map[string]string) (id string, warnings []string, err error) {
	return "", nil, errors.ErrUnsupported
}

// RemoveNetwork removes a network that no container uses. One that is not there is no error.
func (e *Engine) RemoveNetwork(ctx context.Context, id string) error { return errors.ErrUnsupported }

// Misfits says which parts of c this engine would refuse or be unable to start, as far as it tells:
// more processors than it has, an unknown runtime or log driver, devices that are not there.
func (e *Engine) Misfits(c snapshot.Container) []snapshot.Misfit { return nil }

// CreateContainer creates c again, from everything its inspection said, where and how p says. It
// does not start it. Networks, volumes and the containers that it refers to must be there. The
// warnings are the engine's, and what of the configuration had to be left out. It is
// snapshot.ErrExists if the name is taken, and nothing is left behind after an error.
func (e *Engine) CreateContainer(ctx context.Context, c snapshot.Container, p snapshot.Placement) (id string, warnings []string, err error) {
	return "", nil, errors.ErrUnsupported
}

// Rename gives a container another name; snapshot.ErrExists if that is taken.
func (e *Engine) Rename(ctx context.Context, id, name string) error { return errors.ErrUnsupported }

// RemoveContainer ends and removes a container, not its volumes. One that is not there is no error.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error { return errors.ErrUnsupported }

// State says how a container is doing.
func (e *Engine) State(ctx context.Context, id string) (snapshot.State, error) {
	return snapshot.State{}, errors.ErrUnsupported
}

// PutArchive unpacks a tar below path in a container, running or not. Whiteouts in it would become
// plain files.
func (e *Engine) PutArchive(ctx context.Context, id, path string, tar io.Reader) error {
	return errors.ErrUnsupported
}

// Names lists what the engine has.
func (e *Engine) Names(ctx context.Context) (snapshot.Names, error) {
	return snapshot.Names{}, errors.ErrUnsupported
}
