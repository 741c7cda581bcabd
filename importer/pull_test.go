package importer_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// largeImage is a system of one image that is large enough to be pulled.
func largeImage(t *testing.T) (*chunkstore.Repository, *snapshot.Snapshot) {
	t.Helper()
	needRoot(t)
	b := newBuilder(t)
	img := b.image("large:1", map[string]any{"Cmd": []string{"/x"}},
		b.layer(entry{name: "first", data: "first\n", mode: 0o644}),
		b.layer(entry{name: "zeros", data: strings.Repeat("0123456789abcdef", 3<<20), mode: 0o644}))
	return b.commit(), &snapshot.Snapshot{
		Summary: snapshot.Summary{ID: "0123456789abcdef0123", System: "large"},
		System:  snapshot.System{Name: "large", Images: []snapshot.Image{img}},
	}
}

// TestPull restores to an engine that pulls as go-containerregistry does.
func TestPull(t *testing.T) {
	repo, snap := largeImage(t)
	img := snap.System.Images[0]
	f := newFake(t)
	f.puller = func(ref string) (string, []string, error) {
		r, err := name.ParseReference(ref)
		if err != nil {
			return "", nil, err
		}
		got, err := remote.Image(r)
		if err != nil {
			return "", nil, err
		}
		if err := readImage(got); err != nil {
			return "", nil, err
		}
		checkHTTP(t, ref, img.Layers[1])
		id, err := got.ConfigName()
		return id.String(), []string{img.Layers[0].DiffID, img.Layers[1].DiffID}, err
	}
	r, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	if o := r.Objects[0]; o.Way != importer.WayPull || o.ID != img.Config || o.Bytes != img.Layers[0].Size+img.Layers[1].Size {
		t.Errorf("%+v", o)
	}
	if got := f.state(t); got != fmt.Sprintf("tag large:1 %s\nimage %s\n", img.Config, img.Config) {
		t.Errorf("the engine has\n%s", got)
	}
}

// checkHTTP asks a registry for what a client might.
func checkHTTP(t *testing.T, ref string, layer snapshot.Layer) {
	t.Helper()
	host, rest, _ := strings.Cut(ref, "/")
	repository, tag, _ := strings.Cut(rest, ":")
	base := "http://" + host + "/v2/" + repository
	size := fmt.Sprint(layer.Size)
	for _, tt := range []struct {
		method, url, byteRange string
		status                 int
		length, contentRange   string
	}{
		{"GET", "http://" + host + "/v2/", "", 200, "2", ""},
		{"GET", "http://" + host + "/v2/image/manifests/" + tag, "", 404, "", ""},
		{"HEAD", base + "/manifests/" + tag, "", 200, "", ""},
		{"GET", base + "/manifests/none", "", 404, "", ""},
		{"GET", base + "/blobs/sha256:" + strings.Repeat("0", 64), "", 404, "", ""},
		{"GET", base + "/tags/list", "", 404, "", ""},
		{"POST", base + "/blobs/uploads/", "", 405, "", ""},
		{"HEAD", base + "/blobs/" + layer.DiffID, "", 200, size, ""},
		{"GET", base + "/blobs/" + layer.DiffID, "bytes=10-19", 206, "10", "bytes 10-19/" + size},
		{"GET", base + "/blobs/" + layer.DiffID, "bytes=-512", 206, "512", fmt.Sprintf("bytes %d-%d/%s", layer.Size-512, layer.Size-1, size)},
		{"GET", base + "/blobs/" + layer.DiffID, fmt.Sprintf("bytes=%d-", layer.Size-1), 206, "1", fmt.Sprintf("bytes %d-%d/%s", layer.Size-1, layer.Size-1, size)},
		{"HEAD", base + "/blobs/" + layer.DiffID, "bytes=0-", 200, size, ""},
		{"HEAD", base + "/blobs/" + layer.DiffID, "bytes=0-1,5-6", 200, size, ""},
		{"GET", base + "/blobs/" + layer.DiffID, "bytes=" + size + "-", 416, "", "bytes */" + size},
		{"GET", base + "/blobs/" + layer.DiffID, "bytes=5-4", 416, "", "bytes */" + size},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, tt.url, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if tt.byteRange != "" {
			req.Header.Set("Range", tt.byteRange)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		err = errors.Join(err, resp.Body.Close())
		length := resp.Header.Get("Content-Length")
		if err != nil || resp.StatusCode != tt.status || tt.length != "" && (length != tt.length || tt.method == "GET" && fmt.Sprint(len(body)) != tt.length) ||
			resp.Header.Get("Content-Range") != tt.contentRange {
			t.Errorf("%s %s %s: status %d, length %s, range %q, error %v; want %+v", tt.method, tt.url, tt.byteRange, resp.StatusCode, length, resp.Header.Get("Content-Range"), err, tt)
		}
	}
}

// TestPullFails restores to an engine that breaks off pulling: the images are then loaded.
func TestPullFails(t *testing.T) {
	repo, snap := largeImage(t)
	f := newFake(t)
	f.puller = func(ref string) (string, []string, error) {
		resp, err := http.Get("http://" + strings.Replace(strings.Replace(ref, "/", "/v2/", 1), ":", "/manifests/", 2))
		if err == nil {
			err = resp.Body.Close()
		}
		return "", nil, errors.Join(err, errInjected)
	}
	r, err := importer.Restore(t.Context(), repo, snap, f, quick)
	ok(t, err)
	if r.Objects[0].Way != importer.WayLoad {
		t.Errorf("%+v", r.Objects[0])
	}
}
