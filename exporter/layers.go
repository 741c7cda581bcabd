package exporter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// parallelLayers is how many layers are read at a time: each is one stream that one processor
// hashes, and more readers than that only make a disk seek.
const parallelLayers = 2

// layerRef is a layer of an image.
type layerRef struct {
	image int
	n     int
}

// saveLayers stores the layers that the repository lacks, each once, and notes the sizes of all. An
// image whose layers cannot be read is a problem of the snapshot; the repository's errors are
// returned.
func (x *export) saveLayers(ctx context.Context) error {
	images := x.snap.System.Images
	first := map[string]layerRef{} // of each DiffID
	var order []layerRef
	for i, img := range images {
		for n, l := range img.Layers {
			if _, seen := first[l.DiffID]; !seen {
				first[l.DiffID] = layerRef{i, n}
				order = append(order, layerRef{i, n})
			}
		}
	}
	sizes := make([]int64, len(order))
	unread := make([]error, len(order))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLayers)
	for i, ref := range order {
		g.Go(func() (err error) {
			sizes[i], unread[i], err = x.saveLayer(gctx, images[ref.image], ref.n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	known := map[string]int64{}
	for i, ref := range order {
		img := images[ref.image]
		if unread[i] != nil {
			x.problem("image "+imageName(img), "%v", unread[i])
			continue
		}
		known[img.Layers[ref.n].DiffID] = sizes[i]
		x.snap.Stats.Bytes += sizes[i]
	}
	for i := range images {
		for n := range images[i].Layers {
			l := &images[i].Layers[n]
			if size, ok := known[l.DiffID]; ok {
				l.Size = size
			}
		}
	}
	return nil
}

// imageName is how people know an image.
func imageName(img snapshot.Image) string {
	if len(img.Tags) > 0 {
		return img.Tags[0]
	}
	return fmt.Sprintf("%.12s", strings.TrimPrefix(img.ID, "sha256:"))
}

// saveLayer stores a layer unless the repository has it. unread says that the engine does not give
// it, or gives something else.
func (x *export) saveLayer(ctx context.Context, img snapshot.Image, n int) (size int64, unread, err error) {
	diffID := img.Layers[n].DiffID
	what := "layer " + diffID
	size, known, err := archive.HasLayer(ctx, x.session, diffID)
	if err != nil || known {
		return size, nil, err
	}
	x.notify("layers", what)
	stream, err := x.engine.OpenLayer(ctx, img, n)
	if err != nil {
		return 0, fmt.Errorf("layer %s: %w", diffID, err), ctx.Err()
	}
	in := &layerReader{r: stream, progress: x.progress("layers", what)}
	size, err = archive.SaveLayer(ctx, x.session, diffID, in)
	err = errors.Join(err, stream.Close())
	var wrong *archive.DigestError
	switch {
	case err == nil:
		return size, nil, nil
	case ctx.Err() != nil:
		return 0, nil, ctx.Err()
	case in.err != nil, errors.As(err, &wrong):
		return 0, err, nil // the engine's doing
	default:
		return 0, nil, err
	}
}

// layerReader counts what is read, and keeps the engine's error.
type layerReader struct {
	r        io.Reader
	progress func(int64)
	err      error
}

func (l *layerReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.progress(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		l.err = err
	}
	return n, err
}
