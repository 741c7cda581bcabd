package importer

import (
	"context"
	"io"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Surveyed is what can be asked of an engine before a restore. Nothing here changes anything.
type Surveyed interface {
	// Facts says what the engine and its host are.
	Facts() snapshot.Facts
	// Names lists the containers, volumes, networks and published ports that are there.
	Names(ctx context.Context) (snapshot.Names, error)
	// Containers describes the containers that are there, running or not.
	Containers(ctx context.Context) ([]snapshot.Container, error)
	// Images describes the images that are there; Config, RawConfig and layer sizes may be missing.
	Images(ctx context.Context) ([]snapshot.Image, error)
	// Misfits says which parts of c the engine would refuse or be unable to start.
	Misfits(c snapshot.Container) []snapshot.Misfit
}

// ImageStore is how images get into an engine.
type ImageStore interface {
	// Load gives the engine an archive as docker load takes it.
	Load(ctx context.Context, archive io.Reader) error
	// Pull has the engine pull ref.
	Pull(ctx context.Context, ref string) error
	// Tag gives the image (an id or a reference) one more reference.
	Tag(ctx context.Context, image, ref string) error
	// Untag removes a reference, and the image with its last one; no error if it is not there.
	Untag(ctx context.Context, ref string) error
	// OpenLayer opens the uncompressed tar of a layer of an image that is there. The caller closes it, and holds it against
	// the layer's DiffID.
	OpenLayer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error)
	// CheckImage returns the engine's id of ref, and an error if its layers are not those of want
	// or not all there; snapshot.ErrMissing if there is no ref.
	CheckImage(ctx context.Context, ref string, want snapshot.Image) (id string, err error)
}

// Storage is where volumes and networks are made.
type Storage interface {
	// CreateVolume creates v under a name; snapshot.ErrExists if that is taken.
	CreateVolume(ctx context.Context, v snapshot.Volume, name string, labels map[string]string) error
	// VolumeMountpoint returns the directory of a volume on the engine's host.
	VolumeMountpoint(ctx context.Context, name string) (string, error)
	// RemoveVolume removes a volume that no container uses; no error if it is not there.
	RemoveVolume(ctx context.Context, name string) error
	// CreateNetwork creates n under a name; snapshot.ErrExists if that is taken.
	CreateNetwork(ctx context.Context, n snapshot.Network, name string, labels map[string]string) (id string, warnings []string, err error)
	// RemoveNetwork removes a network that no container uses; no error if it is not there.
	RemoveNetwork(ctx context.Context, id string) error
}

// ContainerStore is where containers are made.
type ContainerStore interface {
	// CreateContainer creates c again where and how p says and does not start it.
	CreateContainer(ctx context.Context, c snapshot.Container, p snapshot.Placement) (id string, warnings []string, err error)
	// Rename gives a container another name; snapshot.ErrExists if that is taken.
	Rename(ctx context.Context, id, name string) error
	// RemoveContainer ends and removes a container; no error if it is not there.
	RemoveContainer(ctx context.Context, id string) error
	// Upper finds the directory of this host that holds a container's changes.
	Upper(ctx context.Context, c snapshot.Container) (dir string, err error)
	// PutArchive unpacks a tar below path in a container, running or not.
	PutArchive(ctx context.Context, id, path string, tar io.Reader) error
}

// Runner runs containers.
type Runner interface {
	// Start starts a container. After an error it is to be created anew, not started again.
	Start(ctx context.Context, id string) error
	// Stop stops a container and waits until it stands; no error if it does not run.
	Stop(ctx context.Context, id string) error
	// RestartPolicy says when the engine starts a container by itself: "no", "always", "on-failure:3".
	RestartPolicy(ctx context.Context, id string) (string, error)
	// SetRestartPolicy gives a container another one, as RestartPolicy says it.
	SetRestartPolicy(ctx context.Context, id, policy string) error
	// State says how a container is doing.
	State(ctx context.Context, id string) (snapshot.State, error)
}

// Engine is the Docker engine that a system is restored to. Its methods may be called from several
// goroutines at once.
type Engine interface {
	Surveyed
	ImageStore
	Storage
	ContainerStore
	Runner
}
