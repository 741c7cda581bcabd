package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// CommitLayer commits the container, which the engine pauses for the whole of it, and opens the
// tar of the layer of its changes. Later engines put etc/hosts, etc/hostname and etc/resolv.conf into
// it, empty, on which they mount their own. Close removes the commit. Not to be used on engines with
// containerd's image store, where it is an error: there a commit reads the whole image twice.
func (e *Engine) CommitLayer(ctx context.Context, id string) (io.ReadCloser, error) {
	if e.facts.Containerd {
		return nil, fmt.Errorf("commit container %.12s: with this engine's image store that reads the whole image", id)
	}
	in, err := e.inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	base, _, err := e.inspectImage(ctx, in.Image, nil)
	if err != nil {
		return nil, err
	}
	committed, err := e.api.ContainerCommit(ctx, id, client.ContainerCommitOptions{Config: &container.Config{Labels: map[string]string{helperLabel: "commit"}}})
	if err != nil {
		return nil, fail(err, nil, "commit container %.12s", id)
	}
	layer, err := e.topLayer(ctx, committed.ID, len(base.RootFS.Layers))
	if err != nil {
		return nil, errors.Join(err, e.removeCommit(ctx, committed.ID))
	}
	return readClosers{layer, []io.Closer{layer, closer(func() error { return e.removeCommit(ctx, committed.ID) })}}, nil
}

// closer is a function as an io.Closer.
type closer func() error

func (c closer) Close() error { return c() }

// topLayer opens the layer that an image has on top of others. A commit of no changes adds none:
// then this is an empty tar.
func (e *Engine) topLayer(ctx context.Context, id string, below int) (io.ReadCloser, error) {
	in, _, err := e.inspectImage(ctx, id, nil)
	if err != nil {
		return nil, err
	}
	img := in.image()
	img.Config = img.ID
	if len(img.Layers) <= below {
		return io.NopCloser(bytes.NewReader(make([]byte, 1024))), nil
	}
	return e.OpenLayer(ctx, img, below)
}

// removeCommit removes an image that has no name, whatever has become of ctx.
func (e *Engine) removeCommit(ctx context.Context, id string) error {
	_, err := e.api.ImageRemove(context.WithoutCancel(ctx), id, client.ImageRemoveOptions{Force: true, PruneChildren: true})
	return unlessMissing(fail(err, nil, "remove commit %s", id))
}

// ExportRootfs opens a tar of the whole file system of a container that does not change: it must
// be paused or stopped, else this is snapshot.ErrState, for an export of a changing tree ends early
// without an error. Read returns io.EOF only behind the end mark of a complete tar.
func (e *Engine) ExportRootfs(ctx context.Context, id string) (io.ReadCloser, error) {
	in, err := e.inspect(ctx, id)
	if err != nil {
		return nil, err
	}
	if in.State.Status == "running" || in.State.Status == "restarting" {
		return nil, fmt.Errorf("export container %.12s: %w: %s", id, snapshot.ErrState, in.State.Status)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := e.api.ContainerExport(ctx, id, client.ContainerExportOptions{})
	if err != nil {
		cancel()
		return nil, fail(err, nil, "export container %.12s", id)
	}
	return assemble(cancel, func(w io.Writer) error {
		defer cancel()
		return errors.Join(followTar(stream, w), stream.Close())
	}), nil
}

// followTar copies a tar and reads along. It ends with io.ErrUnexpectedEOF unless the tar ends as one
// must.
func followTar(r io.Reader, w io.Writer) error {
	count := &countingReader{r: io.TeeReader(r, w)}
	entries := tar.NewReader(count)
	for {
		if _, err := io.Copy(io.Discard, entries); err != nil {
			return err
		}
		contents := (count.n + 511) / 512 * 512
		_, err := entries.Next()
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		// A reader takes the end of the stream for the end of the tar, too.
		if count.n < contents+1024 {
			return fmt.Errorf("tar without its end mark: %w", io.ErrUnexpectedEOF)
		}
		_, err = io.Copy(io.Discard, count)
		return err
	}
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
