package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// contentFiles reads the image store of an engine that keeps images in containerd: every index,
// manifest, configuration and layer is a file named by its digest. Layers may be compressed.
type contentFiles struct {
	blobs string // directory of the files
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

func (c contentFiles) config(_ context.Context, want wanted) ([]byte, error) {
	start := want.id
	if want.manifest != "" {
		start = want.manifest
	}
	var found []byte
	_, err := c.find(start, func(_ manifest, config []byte) bool {
		parsed, err := parseConfig(config)
		found = config
		return err == nil && (want.manifest != "" || slices.Equal(parsed.RootFS.DiffIDs, want.diffIDs))
	})
	return found, err
}

// find looks through a manifest, or all those that an index lists, for the one that is meant.
// Manifests of other platforms need not be there.
func (c contentFiles) find(digest string, meant func(m manifest, config []byte) bool) (manifest, error) {
	raw, err := readMeta(c.blobs, digest)
	if err != nil {
		return manifest{}, err
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return manifest{}, fmt.Errorf("manifest %s: %w", digest, err)
	}
	if m.Config.Digest != "" {
		config, err := readMeta(c.blobs, m.Config.Digest)
		if err == nil && !meant(m, config) {
			err = fmt.Errorf("manifest %s: is of another image", digest)
		}
		return m, err
	}
	errs := []error{fmt.Errorf("index %s: the image is not in it", digest)}
	for _, child := range m.Manifests {
		found, err := c.find(child.Digest, meant)
		if err == nil {
			return found, nil
		}
		errs = append(errs, err)
	}
	return manifest{}, errors.Join(errs...)
}

// blob finds the layer's descriptor.
func (c contentFiles) blob(img snapshot.Image, n int) (descriptor, error) {
	m, err := c.find(img.ID, func(m manifest, _ []byte) bool { return m.Config.Digest == img.Config })
	if err != nil {
		return descriptor{}, err
	}
	if n >= len(m.Layers) {
		return descriptor{}, fmt.Errorf("manifest of %s: has only %d layers", img.ID, len(m.Layers))
	}
	return m.Layers[n], nil
}

func (c contentFiles) layer(_ context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	blob, err := c.blob(img, n)
	if err != nil {
		return nil, err
	}
	name, err := hexOf(blob.Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(c.blobs, name))
	if err != nil {
		return nil, err
	}
	return decompress(f)
}

// size is known of a layer that is not compressed: its digest is its DiffID.
func (c contentFiles) size(_ context.Context, img snapshot.Image, n int) int64 {
	blob, err := c.blob(img, n)
	if err != nil || blob.Digest != img.Layers[n].DiffID {
		return 0
	}
	return blob.Size
}
