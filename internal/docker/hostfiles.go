package docker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

// hostBlobs reads files of directories on the engine's host through the engine: out of a container
// that has the directory mounted and is never started. The container is removed with the file.
// Directories are tried in turn.
type hostBlobs struct {
	e    *Engine
	dirs []string
}

// hostMount is where the directory is mounted.
const hostMount = "/hakobune"

func (h hostBlobs) open(ctx context.Context, image, name string) (io.ReadCloser, error) {
	var errs []error
	for _, dir := range h.dirs {
		r, err := h.openIn(ctx, image, dir, name)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (h hostBlobs) openIn(ctx context.Context, image, dir, name string) (io.ReadCloser, error) {
	made, err := h.e.api.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: &container.Config{Image: image, Entrypoint: []string{"-"}, Labels: map[string]string{helperLabel: "read"}},
		HostConfig: &container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{ // unlike a bind, this never makes the directory
			{Type: mount.TypeBind, Source: dir, Target: hostMount, ReadOnly: true},
		}},
	})
	if err != nil {
		return nil, fail(err, nil, "read %s on the engine's host", dir)
	}
	remove := closer(func() error { return h.e.RemoveContainer(context.WithoutCancel(ctx), made.ID) })
	r, err := h.e.api.CopyFromContainer(ctx, made.ID, client.CopyFromContainerOptions{SourcePath: path.Join(hostMount, name)})
	if err != nil {
		return nil, errors.Join(fail(err, nil, "read %s/%s on the engine's host", dir, name), remove())
	}
	file := tar.NewReader(r.Content)
	if hdr, err := file.Next(); err != nil || hdr.Typeflag != tar.TypeReg {
		return nil, errors.Join(fmt.Errorf("read %s/%s on the engine's host: no plain file", dir, name), err, r.Content.Close(), remove())
	}
	return readClosers{file, []io.Closer{r.Content, remove}}, nil
}

// hostGraph reads configurations of a graph driver's images that way. Its layers are many files in
// no order, so they come from a save.
type hostGraph struct {
	savedFiles
	blobs hostBlobs
}

func (h hostGraph) config(ctx context.Context, want wanted) ([]byte, error) {
	return readMeta(ctx, h.blobs, want.id, want.id)
}
