package importer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// fillTarget is where a filler container has what it fills.
const fillTarget = "/hakobune"

// filler is an image of nothing, from which containers are created that are never started: the
// engine unpacks an archive into what is mounted in one of them. It is loaded when first needed.
type filler struct {
	mu   sync.Mutex
	ref  string // empty: not loaded
	made int    // containers
}

// fillThroughEngine writes a tree into a volume (a name) or a host path of the engine.
func (r *restorer) fillThroughEngine(ctx context.Context, source string, content *snapshot.Archive, opts archive.TarOptions, what string, m *meter) (err error) {
	c, p, err := r.filler.container(ctx, r, source)
	if err != nil {
		return err
	}
	if err := r.journal.intend(made{Kind: kindFiller, Name: p.Name}); err != nil {
		return err
	}
	id, _, err := r.createFiller(ctx, c, p)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := steady(ctx)
		defer cancel()
		err = errors.Join(err, r.engine.RemoveContainer(ctx, id))
	}()
	tree := archive.OpenTree(ctx, r.repo, content.Records)
	err = pipe(
		func(w io.Writer) error {
			lost, err := archive.WriteTar(ctx, tree, w, opts)
			r.fetched.Add(content.Bytes)
			for _, l := range lost {
				r.res.note(what+": "+l.Path, l.Why)
			}
			return err
		},
		func(pr io.Reader) error { return r.engine.PutArchive(ctx, id, fillTarget, m.reader(pr, what)) },
	)
	return errors.Join(err, tree.Close())
}

func (r *restorer) createFiller(ctx context.Context, c snapshot.Container, p snapshot.Placement) (string, []string, error) {
	ctx, cancel := steady(ctx)
	defer cancel()
	return r.engine.CreateContainer(ctx, c, p)
}

// container describes a container that has source mounted, and loads the image first if need be.
func (f *filler) container(ctx context.Context, r *restorer, source string) (snapshot.Container, snapshot.Placement, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ref == "" {
		ref := "hakobune/fill-" + r.run + ":1"
		if err := r.journal.intend(made{Kind: kindRef, Name: ref}); err != nil {
			return snapshot.Container{}, snapshot.Placement{}, err
		}
		if err := loadFiller(ctx, r.engine, r.target.Facts, ref); err != nil {
			return snapshot.Container{}, snapshot.Placement{}, err
		}
		f.ref = ref
	}
	f.made++
	inspect, err := json.Marshal(map[string]any{
		"Config":     map[string]any{"Cmd": []string{"/none"}},
		"HostConfig": map[string]any{"Binds": []string{source + ":" + fillTarget}, "NetworkMode": "none"},
	})
	name := "hakobune-fill-" + r.run + "-" + strconv.Itoa(f.made)
	return snapshot.Container{Name: name, Inspect: inspect}, snapshot.Placement{Name: name, Image: f.ref}, err
}

// loadFiller loads an image of one empty layer.
func loadFiller(ctx context.Context, e ImageStore, facts snapshot.Facts, ref string) error {
	layer := make([]byte, 1024) // the end mark of a tar
	sum := sha256.Sum256(layer)
	l := snapshot.Layer{DiffID: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(layer))}
	config, err := json.Marshal(map[string]any{
		"architecture": architecture(facts.Arch), "os": facts.OS, "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{l.DiffID}},
	})
	if err != nil {
		return err
	}
	img := snapshot.Image{Config: digest.FromBytes(config).String(), RawConfig: config, Layers: []snapshot.Layer{l}}
	oci, err := newOCIImage(img)
	if err != nil {
		return err
	}
	open := func(context.Context, string) (io.ReadCloser, int64, error) {
		return io.NopCloser(bytes.NewReader(layer)), l.Size, nil
	}
	if err := loadArchive(ctx, e, []sending{{oci: oci, refs: []string{ref}}}, open); err != nil {
		return fmt.Errorf("image of filler containers: %w", err)
	}
	return nil
}

// close removes the image.
func (f *filler) close(ctx context.Context, e ImageStore) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ref == "" {
		return nil
	}
	ctx, cancel := steady(ctx)
	defer cancel()
	return e.Untag(ctx, f.ref)
}
