package importer

import (
	"bytes"
	"context"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// The media types of images as they are sent.
const (
	manifestType = types.OCIManifestSchema1
	layerType    = types.OCIUncompressedLayer
)

// v1 is the image as go-containerregistry sees it. Its layers are opened under ctx.
func (img exportedImage) v1(ctx context.Context) (v1.Image, error) {
	core := imageCore{config: img.oci.config, manifest: img.oci.manifest, layers: make(map[v1.Hash]partial.CompressedLayer)}
	open := img.metered()
	for _, l := range img.oci.image.Layers {
		h, err := v1.NewHash(l.DiffID)
		if err != nil {
			return nil, fmt.Errorf("layer %q: %w", l.DiffID, err)
		}
		core.layers[h] = rawLayer{hash: h, layer: l, open: func() (io.ReadCloser, error) {
			r, _, err := open(ctx, l.DiffID)
			return r, err
		}}
	}
	return newImageV1(core)
}

// manifestV1 parses the image's manifest.
func (img exportedImage) manifestV1() (*v1.Manifest, error) {
	return v1.ParseManifest(bytes.NewReader(img.oci.manifest))
}

func newImageV1(core imageCore) (v1.Image, error) { return partial.CompressedToImage(core) }

// imageCore is a config and a manifest, byte for byte, and layers by the digests in the manifest.
type imageCore struct {
	config, manifest []byte
	layers           map[v1.Hash]partial.CompressedLayer
}

func (c imageCore) RawConfigFile() ([]byte, error)      { return c.config, nil }
func (c imageCore) RawManifest() ([]byte, error)        { return c.manifest, nil }
func (c imageCore) MediaType() (types.MediaType, error) { return manifestType, nil }
func (c imageCore) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	l, ok := c.layers[h]
	if !ok {
		return nil, fmt.Errorf("layer %s: %w", h, snapshot.ErrMissing)
	}
	return l, nil
}

// rawLayer is a layer that is sent as it is: what go-containerregistry calls compressed is the
// plain tar.
type rawLayer struct {
	hash  v1.Hash
	layer snapshot.Layer
	open  func() (io.ReadCloser, error)
}

func (l rawLayer) Digest() (v1.Hash, error)            { return l.hash, nil }
func (l rawLayer) DiffID() (v1.Hash, error)            { return l.hash, nil }
func (l rawLayer) Size() (int64, error)                { return l.layer.Size, nil }
func (l rawLayer) MediaType() (types.MediaType, error) { return layerType, nil }
func (l rawLayer) Compressed() (io.ReadCloser, error)  { return l.open() }
