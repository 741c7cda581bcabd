package importer_test

import (
	"context"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// TestImagesOnEngines restores images that share layers with what is there, in several orders.
func TestImagesOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		b := newBuilder(t)
		base := []snapshot.Layer{b.layer(program(t)...), b.layer(entry{name: "etc/two", data: prefix, mode: 0o644})}
		config := map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/bin"}}
		first := b.image(prefix+"-first:1", config, base...)
		second := b.image(prefix+"-second:1", config, base[0], base[1], b.layer(entry{name: "etc/three", data: prefix, mode: 0o644}))
		alike := b.image(prefix+"-alike:1", map[string]any{"Cmd": []string{"/bin/other"}}, base...)
		repo := b.commit()
		send := func(o importer.Options, images ...snapshot.Image) *importer.Result {
			t.Helper()
			snap := &snapshot.Snapshot{
				Summary: snapshot.Summary{ID: "00112233445566778899", System: prefix},
				System:  snapshot.System{Name: prefix, Images: images},
			}
			r, err := importer.Restore(t.Context(), repo, snap, e, o)
			ok(t, err)
			for _, img := range images {
				if _, err := e.CheckImage(t.Context(), img.Tags[0], img); err != nil {
					t.Error(err)
				}
			}
			return r
		}
		r := send(importer.Options{}, first)
		if o := r.Objects[0]; o.Action != importer.Create || o.Bytes != first.Size {
			t.Errorf("the first: %+v", o)
		}
		r = send(importer.Options{}, first, second)
		if a, b := r.Objects[0], r.Objects[1]; a.Action != importer.Reuse || b.Action != importer.Create || b.Bytes != second.Layers[2].Size {
			t.Errorf("the second: %+v", r.Objects)
		}
		r = send(importer.Options{}, alike)
		if o := r.Objects[0]; o.Action != importer.Create || o.Bytes != 0 || len(r.Notes) > 0 {
			t.Errorf("one of the same layers: %+v, %v", o, r.Notes)
		}
		moveReference(t, e, repo, prefix, first, alike)
	})
}

// moveReference restores an image of which the reference names another one.
func moveReference(t *testing.T, e *docker.Engine, repo *chunkstore.Repository, prefix string, first, alike snapshot.Image) {
	moved := alike
	moved.Tags = []string{prefix + "-first:1"}
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{ID: "00112233445566778899", System: prefix},
		System:  snapshot.System{Name: prefix, Images: []snapshot.Image{moved}},
	}
	r, err := importer.Restore(t.Context(), repo, snap, e, importer.Options{})
	ok(t, err)
	if _, err := e.CheckImage(t.Context(), moved.Tags[0], first); err != nil || len(r.Notes) != 1 {
		t.Errorf("the reference does not name what it did: %v; notes %v", err, r.Notes)
	}
	r, err = importer.Restore(t.Context(), repo, snap, e, importer.Options{Replace: true})
	ok(t, err)
	if _, err := e.CheckImage(t.Context(), moved.Tags[0], alike); err != nil || len(r.Left) > 0 {
		t.Errorf("the reference does not name what it should: %v; left %v", err, r.Left)
	}
}

// A layer that the engine has, be it in a form in which it cannot be built upon, is not fetched.
func TestOwnLayersOnEngines(t *testing.T) {
	hosts := make(map[string]dockertest.Host)
	for _, h := range dockertest.Engines(t) {
		hosts[h.Name] = h
	}
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		_, name, _ := strings.Cut(t.Name(), "/")
		data := []byte(noise(9, 1<<20) + prefix)
		layer := dockertest.Layer(t, dockertest.File{Name: "own", Data: data})
		dockertest.Import(t, hosts[name], prefix+"-imported:1", layer)
		b := newBuilder(t)
		own := b.save(layer)
		img := b.image(prefix+"-own:1", map[string]any{"Cmd": []string{"/x"}}, own, b.layer(entry{name: "more", data: prefix, mode: 0o644}))
		snap := &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: "00112233445566778899", System: prefix},
			System:  snapshot.System{Name: prefix, Images: []snapshot.Image{img}},
		}
		r, err := importer.Restore(t.Context(), b.commit(), snap, e, importer.Options{})
		ok(t, err)
		if r.Fetched >= own.Size || r.Local != 0 && r.Local < own.Size {
			t.Errorf("%d bytes fetched, %d were here; %v", r.Fetched, r.Local, r.Notes)
		}
		_, err = e.CheckImage(t.Context(), img.Tags[0], img)
		ok(t, err)
	})
}

// TestUnknownLayersOnEngines claims that the engine has layers which it has not: they are sent after
// all.
func TestUnknownLayersOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		b := newBuilder(t)
		img := b.image(prefix+"-liar:1", map[string]any{"Cmd": []string{"/x"}},
			b.layer(entry{name: "a", data: prefix + "a", mode: 0o644}), b.layer(entry{name: "b", data: prefix + "b", mode: 0o644}))
		snap := &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: "00112233445566778899", System: prefix},
			System:  snapshot.System{Name: prefix, Images: []snapshot.Image{img}},
		}
		liar := lyingEngine{e, snapshot.Image{ID: "sha256:" + strings.Repeat("1", 64), Layers: img.Layers[:1]}}
		r, err := importer.Restore(t.Context(), b.commit(), snap, liar, importer.Options{})
		ok(t, err)
		if len(r.Notes) != 1 || !strings.Contains(r.Notes[0].What, "sent again with all layers") {
			t.Errorf("notes %v", r.Notes)
		}
		_, err = e.CheckImage(t.Context(), img.Tags[0], img)
		ok(t, err)
	})
}

// lyingEngine lists an image that it has not.
type lyingEngine struct {
	*docker.Engine
	lie snapshot.Image
}

func (e lyingEngine) Images(ctx context.Context) ([]snapshot.Image, error) {
	all, err := e.Engine.Images(ctx)
	return append(all, e.lie), err
}
