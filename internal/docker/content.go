package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// contentFiles reads the image store of an engine that keeps images in containerd: every index,
// manifest, configuration and layer is a file named by its digest. Layers may be compressed.
type contentFiles struct {
	blobs blobs
	known *sync.Map // image id and configuration to manifest
}

// manifest is an image manifest or an index of such, of OCI or of Docker: they differ in nothing
// that is read here.
type manifest struct {
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
	Manifests []descriptor `json:"manifests"`
}

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
}

func (c contentFiles) config(ctx context.Context, want wanted) ([]byte, error) {
	start := want.id
	if want.manifest != "" {
		start = want.manifest
	}
	var found []byte
	m, err := c.find(ctx, want.id, start, func(_ manifest, config []byte) bool {
		parsed, err := parseConfig(config)
		found = config
		return err == nil && (want.manifest != "" || slices.Equal(parsed.RootFS.DiffIDs, want.diffIDs))
	})
	if err != nil {
		return nil, err
	}
	c.known.Store(want.id+m.Config.Digest, m)
	return found, nil
}

// find looks through a manifest, or all those that an index lists, for the one that is meant.
// Manifests of other platforms need not be there.
func (c contentFiles) find(ctx context.Context, image, digest string, meant func(m manifest, config []byte) bool) (manifest, error) {
	raw, err := readMeta(ctx, c.blobs, image, digest)
	if err != nil {
		return manifest{}, err
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return manifest{}, fmt.Errorf("manifest %s: %w", digest, err)
	}
	if m.Config.Digest != "" {
		config, err := readMeta(ctx, c.blobs, image, m.Config.Digest)
		if err == nil && !meant(m, config) {
			err = fmt.Errorf("manifest %s: is of another image", digest)
		}
		return m, err
	}
	errs := []error{fmt.Errorf("index %s: the image is not in it", digest)}
	for _, child := range m.Manifests {
		found, err := c.find(ctx, image, child.Digest, meant)
		if err == nil {
			return found, nil
		}
		errs = append(errs, err)
	}
	return manifest{}, errors.Join(errs...)
}

// blob finds the layer's descriptor.
func (c contentFiles) blob(ctx context.Context, img snapshot.Image, n int) (descriptor, error) {
	var m manifest
	if known, found := c.known.Load(img.ID + img.Config); found {
		m = known.(manifest)
	} else {
		var err error
		m, err = c.find(ctx, img.ID, img.ID, func(m manifest, _ []byte) bool { return m.Config.Digest == img.Config })
		if err != nil {
			return descriptor{}, err
		}
		c.known.Store(img.ID+img.Config, m)
	}
	if n >= len(m.Layers) {
		return descriptor{}, fmt.Errorf("manifest of %s: has only %d layers", img.ID, len(m.Layers))
	}
	return m.Layers[n], nil
}

func (c contentFiles) layer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	blob, err := c.blob(ctx, img, n)
	if err != nil {
		return nil, err
	}
	name, err := hexOf(blob.Digest)
	if err != nil {
		return nil, err
	}
	r, err := c.blobs.open(ctx, img.ID, name)
	if err != nil {
		return nil, err
	}
	return decompress(r)
}
