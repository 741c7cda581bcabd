package importer

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// openLayer opens the uncompressed tar of a layer and says how long it is. The last byte is handed
// over only once the whole has been held to the DiffID.
type openLayer func(ctx context.Context, diffID string) (io.ReadCloser, int64, error)

// sending is an image on its way into an archive.
type sending struct {
	oci  *ociImage
	refs []string // by which it is to be known
	omit int      // first layers that are left out because the receiver has them
}

// dockerManifest is an item of manifest.json, as docker save writes it.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// annotationName is where containerd looks for an image's whole name in an index.
const annotationName = "io.containerd.image.name"

// writeArchive writes images as one archive for docker load: manifest.json for engines with a graph
// driver and an OCI index for those with containerd's store, over the same blobs. Each layer is
// written once, uncompressed. Layers that are left out keep their right sizes in the manifests:
// containerd's store notes them down.
func writeArchive(ctx context.Context, w io.Writer, images []sending, open openLayer) error {
	a := &archiveWriter{tar: tar.NewWriter(w), written: make(map[digest.Digest]bool)}
	if err := a.metadata(images); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	for _, s := range images {
		for _, l := range s.oci.image.Layers[s.omit:] {
			if err := a.layer(ctx, l, open); err != nil {
				return fmt.Errorf("image archive: layer %s: %w", l.DiffID, err)
			}
		}
	}
	if err := a.tar.Close(); err != nil {
		return fmt.Errorf("image archive: %w", err)
	}
	return nil
}

type archiveWriter struct {
	tar     *tar.Writer
	written map[digest.Digest]bool
}

// metadata writes all but the layers. It comes first: a reader that streams knows what follows.
func (a *archiveWriter) metadata(images []sending) error {
	for _, dir := range []string{ocispec.ImageBlobsDir + "/", ocispec.ImageBlobsDir + "/sha256/"} {
		if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	layout, index, manifests := describe(images)
	for _, f := range []struct {
		name  string
		value any
	}{
		{ocispec.ImageLayoutFile, layout},
		{ocispec.ImageIndexFile, index},
		{"manifest.json", manifests},
	} {
		data, err := json.Marshal(f.value)
		if err != nil {
			return err
		}
		if err := a.file(f.name, data); err != nil {
			return err
		}
	}
	for _, s := range images {
		if err := a.blob(s.oci.configDigest, s.oci.config); err != nil {
			return err
		}
		if err := a.blob(s.oci.manifestDigest, s.oci.manifest); err != nil {
			return err
		}
	}
	return nil
}

// describe makes the three files that list what an archive holds.
func describe(images []sending) (ocispec.ImageLayout, ocispec.Index, []dockerManifest) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	manifests := make([]dockerManifest, 0, len(images))
	for _, s := range images {
		m := dockerManifest{Config: blobPath(s.oci.configDigest), RepoTags: s.refs, Layers: []string{}}
		for _, l := range s.oci.image.Layers {
			m.Layers = append(m.Layers, blobPath(digest.Digest(l.DiffID)))
		}
		manifests = append(manifests, m)
		for _, ref := range s.refs {
			d := s.oci.descriptor()
			_, tag := splitTag(ref)
			d.Annotations = map[string]string{annotationName: fullReference(ref), ocispec.AnnotationRefName: tag}
			index.Manifests = append(index.Manifests, d)
		}
		if len(s.refs) == 0 {
			index.Manifests = append(index.Manifests, s.oci.descriptor())
		}
	}
	return ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}, index, manifests
}

func blobPath(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func (a *archiveWriter) header(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)})
}

func (a *archiveWriter) file(name string, data []byte) error {
	if err := a.header(name, int64(len(data))); err != nil {
		return err
	}
	_, err := a.tar.Write(data)
	return err
}

func (a *archiveWriter) blob(d digest.Digest, data []byte) error {
	if a.written[d] {
		return nil
	}
	a.written[d] = true
	return a.file(blobPath(d), data)
}

func (a *archiveWriter) layer(ctx context.Context, l snapshot.Layer, open openLayer) error {
	d := digest.Digest(l.DiffID)
	if a.written[d] {
		return nil
	}
	a.written[d] = true
	r, size, err := open(ctx, l.DiffID)
	if err != nil {
		return err
	}
	defer r.Close()
	if size != l.Size {
		return fmt.Errorf("%w: it has %d bytes, the image says %d", errImage, size, l.Size)
	}
	if err := a.header(blobPath(d), size); err != nil {
		return err
	}
	n, err := io.Copy(a.tar, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}
