package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

// ErrNoChanges says that a snapshot holds no changes of a container: its image can be exported
// only as it was, with ExportOptions.Base.
var ErrNoChanges = errors.New("the container's changes are not in the snapshot")

// ExportOptions are options of ExportImage. The zero value exports a container's image with its
// changes on top.
type ExportOptions struct {
	Base     bool     // the image as it was, without the changes
	Refs     []string // references the image is to have in an archive or layout; empty: as a restore names it
	TempDir  string   // where the changes are spooled, as an unlinked file; empty: os.TempDir
	Observer snapshot.Observer
}

// Exported says what ExportImage wrote.
type Exported struct {
	Refs     []string           `json:"refs"`
	ID       string             `json:"id"`     // digest of the config: the id on engines with a graph driver
	Digest   string             `json:"digest"` // of the manifest: the id in containerd's store, and the registry's digest
	Layers   int                `json:"layers"`
	Bytes    int64              `json:"bytes"` // of its layers, uncompressed
	Location string             `json:"location"`
	Notes    []snapshot.Problem `json:"notes,omitempty"` // what an image cannot carry of the changes
}

// Sink is where an exported image goes: see ToWriter, ToFile, ToLayout and ToRegistry.
type Sink interface {
	// put writes the image and returns where it is.
	put(ctx context.Context, img exportedImage) (location string, err error)
}

// exportedImage is an image on its way out.
type exportedImage struct {
	oci      *ociImage
	refs     []string
	open     openLayer
	observer snapshot.Observer
}

// ExportImage writes the image of a container, named by its name or its Compose service, to a sink.
// No engine is needed. The image is the very one that a restore would make: same config, same
// manifest.
func ExportImage(ctx context.Context, repo *chunkstore.Repository, snap *snapshot.Snapshot, container string, to Sink, o ExportOptions) (_ *Exported, err error) {
	c, img, err := findExport(&snap.System, container)
	if err != nil {
		return nil, err
	}
	layers := &layerStore{repo: repo, domain: snap.System.Domain, fetched: new(atomic.Int64)}
	defer func() { err = errors.Join(err, layers.close()) }()
	oci, notes, err := exportImage(ctx, layers, snap, c, img, o)
	if err != nil {
		return nil, fmt.Errorf("export container %s: %w", c.Name, err)
	}
	out := exportedImage{oci: oci, refs: exportRefs(snap, c, img, o), open: layers.open, observer: o.Observer}
	result := &Exported{
		Refs: out.refs, ID: oci.configDigest.String(), Digest: oci.manifestDigest.String(),
		Layers: len(oci.image.Layers), Bytes: unsent(oci.image.Layers, 0, make(map[string]bool)), Notes: notes,
	}
	if result.Location, err = to.put(ctx, out); err != nil {
		return nil, fmt.Errorf("export container %s: %w", c.Name, err)
	}
	return result, nil
}

// ContainerImages makes the images that registry.Server serves of containers: each as ExportImage makes it, as it was where
// a snapshot holds no changes. They are spooled in tempDir as unlinked files; empty: os.TempDir.
func ContainerImages(repo *chunkstore.Repository, tempDir string) registry.Builder {
	return func(ctx context.Context, snap *snapshot.Snapshot, container string) (*registry.Image, func() error, error) {
		c, img, err := findExport(&snap.System, container)
		if err != nil {
			return nil, nil, err
		}
		layers := &layerStore{repo: repo, domain: snap.System.Domain, fetched: new(atomic.Int64)}
		oci, _, err := exportImage(ctx, layers, snap, c, img, ExportOptions{Base: c.Changes == nil, TempDir: tempDir})
		if err != nil {
			return nil, nil, errors.Join(err, layers.close())
		}
		return oci.served(layers.open), layers.close, nil
	}
}

func findExport(sys *snapshot.System, name string) (*snapshot.Container, snapshot.Image, error) {
	i := slices.IndexFunc(sys.Containers, func(c snapshot.Container) bool { return c.Name == name })
	if i < 0 {
		i = slices.IndexFunc(sys.Containers, func(c snapshot.Container) bool { return c.Service == name && name != "" })
	}
	if i < 0 {
		return nil, snapshot.Image{}, fmt.Errorf("export container %s: %w in %s, which has %s", name, snapshot.ErrMissing,
			sys.Name, strings.Join(sys.ContainerNames(), ", "))
	}
	c := &sys.Containers[i]
	k := slices.IndexFunc(sys.Images, func(img snapshot.Image) bool { return img.Config == c.ImageKey })
	if k < 0 {
		return nil, snapshot.Image{}, fmt.Errorf("export container %s: its image %s is not in the snapshot", c.Name, c.Image)
	}
	return c, sys.Images[k], nil
}

func exportImage(ctx context.Context, layers *layerStore, snap *snapshot.Snapshot, c *snapshot.Container, img snapshot.Image, o ExportOptions) (*ociImage, []snapshot.Problem, error) {
	base, err := newOCIImage(img)
	if err != nil || o.Base {
		return base, nil, err
	}
	if c.Changes == nil {
		return nil, nil, ErrNoChanges
	}
	o.Observer.Notify(snapshot.Event{Phase: "images", What: "changes of " + c.Name})
	l, file, lost, err := changesLayer(ctx, layers.repo, c, nil, o.TempDir)
	if err != nil {
		return nil, nil, err
	}
	if err := layers.keep(l.DiffID, file); err != nil {
		return nil, nil, err
	}
	var notes []snapshot.Problem
	for _, n := range lost {
		notes = append(notes, snapshot.Problem{Where: "container " + c.Name + ": " + n.Path, What: n.Why})
	}
	oci, err := withLayer(base, l, snap.Summary)
	return oci, notes, err
}

func exportRefs(snap *snapshot.Snapshot, c *snapshot.Container, img snapshot.Image, o ExportOptions) []string {
	switch {
	case len(o.Refs) > 0:
		return o.Refs
	case !o.Base:
		return []string{ChangesRef(snap.Summary, c.Name)}
	case len(img.Tags) > 0:
		return img.Tags
	}
	return []string{keptRef(snap.Summary, img)}
}
