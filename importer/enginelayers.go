package importer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// engineLayers are layers of images that the engine has, whatever they are called, for what has to be sent with all its layers:
// an engine with containerd's image store has those of a pulled or built image compressed, under other digests, and takes
// no archive that leaves them out; and one with a graph driver knows a layer only by those below it. They are read from there
// instead of fetched. It may be used from several goroutines at once.
type engineLayers struct {
	engine ImageStore
	layers map[string]engineLayer // by DiffID
	local  *atomic.Int64          // counts what is read
	wrong  atomic.Bool            // one of them was not what it should be: none is read any more
}

// engineLayer is a layer of an image of the engine.
type engineLayer struct {
	img  snapshot.Image
	n    int
	size int64
}

// layersThere finds layers of the snapshot in the engine's images. From an engine of another host they are not read: that is
// no nearer than the repository.
func (r *restorer) layersThere() *engineLayers {
	there := &engineLayers{engine: r.engine, layers: make(map[string]engineLayer), local: &r.local}
	if !r.target.Facts.Local {
		return there
	}
	sizes := make(map[string]int64)
	for _, img := range r.snap.System.Images {
		for _, l := range img.Layers {
			sizes[l.DiffID] = l.Size
		}
	}
	for _, img := range r.target.Images {
		for n, l := range img.Layers {
			if size := sizes[l.DiffID]; size > 0 {
				there.layers[l.DiffID] = engineLayer{img, n, size}
			}
		}
	}
	return there
}

// open opens a layer, verified as it is read; nil if there is none that can be opened.
func (e *engineLayers) open(ctx context.Context, diffID string) (io.ReadCloser, int64) {
	if e == nil || e.wrong.Load() { // nil: nothing was looked for
		return nil, 0
	}
	l, ok := e.layers[diffID]
	if !ok {
		return nil, 0
	}
	r, err := e.engine.OpenLayer(ctx, l.img, l.n)
	if err != nil {
		return nil, 0 // it is fetched
	}
	return &engineLayerReader{ReadCloser: r, of: e, diffID: diffID, hash: sha256.New(), left: l.size}, l.size
}

// failed reports whether a layer was not what it should be. From then on all are fetched.
func (e *engineLayers) failed() bool { return e.wrong.Load() }

// engineLayerReader hands the last byte over only if all of them have the digest that they should have.
type engineLayerReader struct {
	io.ReadCloser
	of     *engineLayers
	diffID string
	hash   hash.Hash
	left   int64
}

func (r *engineLayerReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.hash.Write(p[:n])
	r.left -= int64(n)
	switch {
	case r.left == 0 && "sha256:"+hex.EncodeToString(r.hash.Sum(nil)) != r.diffID:
		err = errors.New("has another digest")
	case r.left == 0, err == nil:
		r.of.local.Add(int64(n))
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	r.of.wrong.Store(true)
	return 0, fmt.Errorf("layer %s of the engine's: %w", r.diffID, err)
}
