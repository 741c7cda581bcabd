package importer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/extract"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// members reads a tar.
func members(t testing.TB, r io.Reader) map[string]string {
	t.Helper()
	all := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		ok(t, err)
		data, err := io.ReadAll(tr)
		ok(t, err)
		if _, twice := all[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		all[h.Name] = string(data)
	}
}

// readImage reads an image with go-containerregistry and holds every layer to its digests. Its own
// validate package takes every layer for a gzipped one.
func readImage(img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return err
	}
	for i, l := range layers {
		want, err := l.Digest()
		if err != nil {
			return err
		}
		size, err := l.Size()
		if err != nil {
			return err
		}
		if err := holds(l.Compressed, want, size); err != nil {
			return err
		}
		if err := holds(l.Uncompressed, config.RootFS.DiffIDs[i], -1); err != nil {
			return err
		}
	}
	return nil
}

func holds(open func() (io.ReadCloser, error), want v1.Hash, size int64) error {
	r, err := open()
	if err != nil {
		return err
	}
	got, n, err := v1.SHA256(r)
	if err == nil && (got != want || size >= 0 && n != size) {
		err = fmt.Errorf("%d bytes with the digest %s, want %d with %s", n, got, size, want)
	}
	return errors.Join(err, r.Close())
}

func TestExportArchive(t *testing.T) {
	repo, snap, _ := smallShop(t)
	name := filepath.Join(t.TempDir(), "image.tar")
	ok(t, os.WriteFile(name, []byte("older"), 0o644))
	x, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToFile(name), importer.ExportOptions{})
	ok(t, err)
	f, err := os.Open(name)
	ok(t, err)
	defer f.Close()
	all := members(t, f)
	for path, data := range all {
		if sum, is := strings.CutPrefix(path, "blobs/sha256/"); is && sum != "" && digestOf([]byte(data)) != "sha256:"+sum {
			t.Errorf("%s has the digest %s", path, digestOf([]byte(data)))
		}
	}
	blob := func(digest string) string { return all["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] }
	var config map[string]any
	ok(t, json.Unmarshal([]byte(blob(x.ID)), &config))
	base := snap.System.Images[1]
	history, _ := config["history"].([]any)
	if config["x-other"] != "kept" || len(history) != 2 || config["created"] != "2026-11-20T03:00:00Z" {
		t.Errorf("config is %v", config)
	}
	diffs, _ := config["rootfs"].(map[string]any)["diff_ids"].([]any)
	if len(diffs) != len(base.Layers)+1 || diffs[1] != base.Layers[1].DiffID || x.Layers != 3 {
		t.Errorf("layers are %v", diffs)
	}
	var manifest struct {
		Layers []struct {
			MediaType, Digest string
			Size              int
		}
	}
	ok(t, json.Unmarshal([]byte(blob(x.Digest)), &manifest))
	for i, l := range manifest.Layers {
		if l.Digest != diffs[i] || l.Size != len(blob(l.Digest)) || l.MediaType != "application/vnd.oci.image.layer.v1.tar" {
			t.Errorf("layer %d is %+v, with %d bytes", i, l, len(blob(l.Digest)))
		}
	}
	changes := members(t, strings.NewReader(blob(manifest.Layers[2].Digest)))
	for _, want := range []string{"etc/changed", "etc/.wh.deleted", "opaque/.wh..wh..opq", "opaque/new", "var/old"} {
		if _, is := changes[want]; !is {
			t.Errorf("the changes lack %s", want)
		}
	}
	var lost []string
	for _, n := range x.Notes {
		lost = append(lost, n.Where)
	}
	for _, want := range []string{"var/socket", "var/.wh.real", "var/old"} {
		if !slices.Contains(lost, "container shop-web-1: "+want) {
			t.Errorf("no note of %s in %q", want, lost)
		}
	}
	// As another program reads it.
	img, err := tarball.ImageFromPath(name, nil)
	ok(t, err)
	ok(t, readImage(img))
	if fi, err := f.Stat(); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
}

func TestExportIsWhatARestoreMakes(t *testing.T) {
	repo, snap, _ := smallShop(t)
	f := newFake(t)
	_, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	for _, c := range snap.System.Containers {
		x, err := importer.ExportImage(t.Context(), repo, snap, c.Name, importer.ToWriter(io.Discard), importer.ExportOptions{})
		ok(t, err)
		if f.tags[x.Refs[0]] != x.ID {
			t.Errorf("%s is %s, and %s in the engine", x.Refs[0], x.ID, f.tags[x.Refs[0]])
		}
	}
}

func TestExportBase(t *testing.T) {
	repo, snap, _ := smallShop(t)
	var buf bytes.Buffer
	x, err := importer.ExportImage(t.Context(), repo, snap, "db", importer.ToWriter(&buf), importer.ExportOptions{Base: true})
	ok(t, err)
	if want := snap.System.Images[0]; x.ID != want.Config || x.Refs[0] != "mariadb:11" {
		t.Errorf("exported %+v, want %s", x, want.Config)
	}
}

func TestExportLayout(t *testing.T) {
	repo, snap, _ := smallShop(t)
	dir := t.TempDir()
	x, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToLayout(dir), importer.ExportOptions{Refs: []string{"example.com/a:1", "b"}})
	ok(t, err)
	index, err := layout.ImageIndexFromPath(dir)
	ok(t, err)
	m, err := index.IndexManifest()
	ok(t, err)
	var names []string
	for _, d := range m.Manifests {
		img, err := index.Image(d.Digest)
		ok(t, err)
		ok(t, readImage(img))
		names = append(names, d.Annotations["io.containerd.image.name"]+" "+d.Annotations["org.opencontainers.image.ref.name"])
		if d.Digest.String() != x.Digest || d.Platform.String() != "linux/amd64" {
			t.Errorf("descriptor %+v, want digest %s", d, x.Digest)
		}
	}
	if diff := cmp.Diff([]string{"example.com/a:1 1", "docker.io/library/b:latest latest"}, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if _, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToLayout(dir), importer.ExportOptions{}); !errors.Is(err, extract.ErrNotEmpty) {
		t.Errorf("a second layout in the same directory: %v", err)
	}
}

func TestExportRegistry(t *testing.T) {
	repo, snap, _ := smallShop(t)
	var uploads atomic.Int64
	store := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			uploads.Add(1)
		}
		store.ServeHTTP(w, r)
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	push := func(ref string, o importer.PushOptions) (*importer.Exported, v1.Image) {
		x, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToRegistry(ref, o), importer.ExportOptions{})
		ok(t, err)
		r, err := name.ParseReference(ref)
		ok(t, err)
		img, err := remote.Image(r)
		ok(t, err)
		ok(t, readImage(img))
		return x, img
	}
	x, img := push(host+"/shop/web:1", importer.PushOptions{})
	if d, err := img.Digest(); err != nil || d.String() != x.Digest || x.Location != host+"/shop/web@"+x.Digest {
		t.Errorf("the registry has %s, exported %+v", d, x)
	}
	first := uploads.Swap(0)
	push(host+"/shop/web:2", importer.PushOptions{})
	if n := uploads.Load(); n != 0 || first != 4 {
		t.Errorf("%d uploads, then %d", first, n)
	}
	y, small := push(host+"/shop/web:small", importer.PushOptions{Compress: true})
	config, err := small.ConfigName()
	ok(t, err)
	if config.String() != y.ID || y.ID != x.ID {
		t.Errorf("compressed image has the config %s, want %s", config, x.ID)
	}
	if d, err := small.Digest(); err != nil || !strings.HasSuffix(y.Location, d.String()) {
		t.Errorf("the registry has %s, exported %+v", d, y)
	}
}

func TestExportErrors(t *testing.T) {
	repo, snap, _ := smallShop(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "image.tar")
	export := func(container string, to importer.Sink, o importer.ExportOptions) error {
		_, err := importer.ExportImage(t.Context(), repo, snap, container, to, o)
		return err
	}
	if err := export("nonesuch", importer.ToFile(file), importer.ExportOptions{}); !errors.Is(err, snapshot.ErrMissing) || !strings.Contains(err.Error(), "shop-web-1") {
		t.Errorf("an unknown container: %v", err)
	}
	snap.System.Containers[0].Changes = nil
	if err := export("db", importer.ToFile(file), importer.ExportOptions{}); !errors.Is(err, importer.ErrNoChanges) {
		t.Errorf("without changes: %v", err)
	}
	full := errors.New("no space left")
	if err := export("web", importer.ToWriter(failingWriter{full}), importer.ExportOptions{}); !errors.Is(err, full) {
		t.Errorf("a full disk: %v", err)
	}
	snap.System.Images[1].Layers[1].Size++ // what the description says is not what the layer is
	if err := export("web", importer.ToFile(file), importer.ExportOptions{Base: true}); err == nil {
		t.Error("a layer of another size: no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left in the directory: %v", left)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// TestExportedArchiveOnEngines loads an exported image as docker load does.
func TestExportedArchiveOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		repo, snap, _ := realShop(t, prefix)
		r, w := io.Pipe()
		var x *importer.Exported
		go func() {
			var err error
			x, err = importer.ExportImage(context.Background(), repo, snap, "web", importer.ToWriter(w), importer.ExportOptions{})
			w.CloseWithError(err)
		}()
		ok(t, e.Load(t.Context(), r))
		images, err := e.Images(t.Context())
		ok(t, err)
		i := slices.IndexFunc(images, func(img snapshot.Image) bool { return slices.Contains(img.Tags, x.Refs[0]) })
		if i < 0 {
			t.Fatalf("%s is not there", x.Refs[0])
		}
		if id := images[i].ID; id != x.ID && id != x.Digest {
			t.Errorf("the engine has the id %s, exported %+v", id, x)
		}
	})
}
