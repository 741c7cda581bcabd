package importer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

// errImage says that a snapshot's description of an image contradicts itself.
var errImage = errors.New("the snapshot's description of the image does not fit together")

// ociImage is an image as every engine and registry is sent it: its config byte for byte, and one
// canonical manifest over uncompressed layers, so that a layer's digest is its DiffID and the
// image has the same manifest digest, and so the same id in containerd's store, wherever and by
// whichever way it is restored.
type ociImage struct {
	image          snapshot.Image
	config         []byte
	configDigest   digest.Digest
	manifest       []byte
	manifestDigest digest.Digest
	platform       ocispec.Platform
}

// newOCIImage describes img. It holds the config to its digest and to the list of layers.
func newOCIImage(img snapshot.Image) (*ociImage, error) {
	o := &ociImage{image: img, config: img.RawConfig, configDigest: digest.FromBytes(img.RawConfig)}
	var cfg ocispec.Image
	if err := json.Unmarshal(img.RawConfig, &cfg); err != nil {
		return nil, fmt.Errorf("image %s: config: %w", imageName(img), err)
	}
	if img.Config != o.configDigest.String() {
		return nil, fmt.Errorf("image %s: %w: config has the digest %s", imageName(img), errImage, o.configDigest)
	}
	if !slices.Equal(cfg.RootFS.DiffIDs, diffDigests(img.Layers)) {
		return nil, fmt.Errorf("image %s: %w: config and list of layers differ", imageName(img), errImage)
	}
	o.platform = cfg.Platform
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: o.configDigest, Size: int64(len(o.config))},
		Layers:    make([]ocispec.Descriptor, len(img.Layers)),
	}
	for i, l := range img.Layers {
		d, err := digest.Parse(l.DiffID)
		if err != nil {
			return nil, fmt.Errorf("image %s: layer %q: %w", imageName(img), l.DiffID, err)
		}
		m.Layers[i] = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: l.Size}
	}
	var err error
	if o.manifest, err = json.Marshal(m); err != nil {
		return nil, fmt.Errorf("image %s: manifest: %w", imageName(img), err)
	}
	o.manifestDigest = digest.FromBytes(o.manifest)
	return o, nil
}

// descriptor describes the manifest.
func (o *ociImage) descriptor() ocispec.Descriptor {
	p := o.platform
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest,
		Digest:    o.manifestDigest,
		Size:      int64(len(o.manifest)),
		Platform:  &p,
	}
}

// served is the image for a registry, which opens its layers by open.
func (o *ociImage) served(open openLayer) *registry.Image {
	return &registry.Image{
		Config: o.config, ConfigDigest: o.configDigest, Manifest: o.manifest, ManifestDigest: o.manifestDigest,
		Layers: o.image.Layers, Open: open,
	}
}

func diffDigests(layers []snapshot.Layer) []digest.Digest {
	ds := make([]digest.Digest, len(layers))
	for i, l := range layers {
		ds[i] = digest.Digest(l.DiffID)
	}
	return ds
}

// imageName names an image in messages: by its first tag, else by its config digest.
func imageName(img snapshot.Image) string {
	if len(img.Tags) > 0 {
		return img.Tags[0]
	}
	return img.Config[:min(19, len(img.Config))]
}

// chainID names the first layers of an image, as the image specification defines it.
func chainID(layers []snapshot.Layer) string {
	if len(layers) == 0 {
		return ""
	}
	id := layers[0].DiffID
	for _, l := range layers[1:] {
		sum := sha256.Sum256([]byte(id + " " + l.DiffID))
		id = "sha256:" + hex.EncodeToString(sum[:])
	}
	return id
}

// layerChains lists the ChainIDs of every run of first layers of images: what need not be sent.
func layerChains(images []snapshot.Image) map[string]bool {
	chains := make(map[string]bool)
	for _, img := range images {
		for n := range img.Layers {
			chains[chainID(img.Layers[:n+1])] = true
		}
	}
	return chains
}

// knownLayers returns how many first layers of img are among chains.
func knownLayers(img snapshot.Image, chains map[string]bool) int {
	for n := len(img.Layers); n > 0; n-- {
		if chains[chainID(img.Layers[:n])] {
			return n
		}
	}
	return 0
}
