package importer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// ToWriter writes an image as an archive that docker load takes on every engine. It is not closed.
func ToWriter(w io.Writer) Sink { return writerSink{w} }

type writerSink struct{ w io.Writer }

func (s writerSink) put(ctx context.Context, img exportedImage) (string, error) {
	return "", writeArchive(ctx, s.w, []sending{{oci: img.oci, refs: img.refs}}, img.metered())
}

// metered opens layers and tells the observer of the progress.
func (img exportedImage) metered() openLayer {
	m := &meter{observer: img.observer, event: snapshot.Event{
		Phase: "images", Total: unsent(img.oci.image.Layers, 0, make(map[string]bool)),
	}}
	return m.layers(img.open)
}

// ToFile writes such an archive to a file, readable by its owner alone. The file has its name only
// once it is complete; one that exists is replaced then.
func ToFile(name string) Sink { return fileSink{name} }

type fileSink struct{ name string }

func (s fileSink) put(ctx context.Context, img exportedImage) (string, error) {
	err := WriteFile(s.name, func(w io.Writer) error {
		buffered := bufio.NewWriterSize(w, 1<<20)
		_, err := ToWriter(buffered).put(ctx, img)
		return errors.Join(err, buffered.Flush())
	})
	return s.name, err
}

// ToLayout writes an image as an OCI image layout into a directory, which must be empty or not
// exist, and has its name only once it is complete.
func ToLayout(dir string) Sink { return layoutSink{dir} }

type layoutSink struct{ dir string }

func (s layoutSink) put(ctx context.Context, img exportedImage) (_ string, err error) {
	if state, err := pathState(s.dir); err != nil {
		return "", err
	} else if state != PathAbsent && state != PathEmpty {
		return "", fmt.Errorf("directory %s: %w", s.dir, extract.ErrNotEmpty)
	}
	parent := filepath.Dir(filepath.Clean(s.dir))
	tmp, err := os.MkdirTemp(parent, ".hakobune-*")
	if err != nil {
		return "", err
	}
	if err := writeLayout(ctx, tmp, img); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	if err := rename(tmp, s.dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	return s.dir, syncDir(parent)
}

func writeLayout(ctx context.Context, dir string, img exportedImage) error {
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return fmt.Errorf("image layout: %w", err)
	}
	image, err := img.v1(ctx)
	if err != nil {
		return err
	}
	if err := path.WriteImage(image); err != nil {
		return fmt.Errorf("image layout: %w", err)
	}
	for _, ref := range img.refs {
		d, err := descriptorV1(img.oci, ref)
		if err != nil {
			return err
		}
		if err := path.AppendDescriptor(d); err != nil {
			return fmt.Errorf("image layout: %w", err)
		}
	}
	return syncTree(dir)
}

func descriptorV1(o *ociImage, ref string) (v1.Descriptor, error) {
	d := o.descriptor()
	h, err := v1.NewHash(d.Digest.String())
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("image layout: %w", err)
	}
	_, tag := splitTag(ref)
	return v1.Descriptor{
		MediaType: manifestType, Digest: h, Size: d.Size,
		Platform:    &v1.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant},
		Annotations: map[string]string{annotationName: fullReference(ref), ocispec.AnnotationRefName: tag},
	}, nil
}

// syncTree makes the files below a directory durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return syncDir(path) // works for files just as well
	})
}
