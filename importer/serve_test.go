package importer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/registry"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// served stores a snapshot in its repository and returns a server of it, with the snapshot's id.
func served(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot) (*registry.Server, string) {
	t.Helper()
	s, err := repo.Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	ok(t, err)
	for _, c := range snap.System.Containers {
		snap.Summary.Containers = append(snap.Summary.Containers, c.Name)
	}
	ok(t, snapshot.Commit(t.Context(), s, snap))
	server := registry.New(repo, importer.ContainerImages(repo, t.TempDir()), registry.Options{})
	t.Cleanup(func() { ok(t, server.Close()) })
	return server, snap.ID
}

// What a client pulls is the image that an export makes, by the container's name and its service, by tag and by digest.
func TestServe(t *testing.T) {
	repo, snap, _ := smallShop(t)
	handler, id := served(t, repo, snap)
	server := httptest.NewServer(handler)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	want, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToWriter(io.Discard), importer.ExportOptions{})
	ok(t, err)
	for _, what := range []string{"shop/web:latest", "shop/shop-web-1:" + id[:8], "shop/web:" + id} {
		ref, err := name.ParseReference(host + "/" + what)
		ok(t, err)
		img, err := remote.Image(ref)
		ok(t, err)
		ok(t, readImage(img))
		got, err := img.Digest()
		ok(t, err)
		if got.String() != want.Digest {
			t.Errorf("%s has digest %s, an export %s", what, got, want.Digest)
		}
		byDigest, err := name.ParseReference(ref.Context().Name() + "@" + want.Digest)
		ok(t, err)
		_, err = remote.Head(byDigest)
		ok(t, err)
	}
	checkServed(t, server.URL, want.Digest, snap.System.Images[1].Layers[1])
}

// A server that never heard of a digest finds the image all the same, under its own name only.
func TestServeByDigest(t *testing.T) {
	repo, snap, _ := smallShop(t)
	handler, id := served(t, repo, snap)
	want, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToWriter(io.Discard), importer.ExportOptions{})
	ok(t, err)
	_, later := served(t, repo, snap) // of the same system, with another image
	if later == id {
		t.Fatal("one snapshot")
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	for name, status := range map[string]int{"shop/web": 200, "shop/shop-web-1": 200, "shop/db": 404, "shop/none": 404} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/"+name+"/manifests/"+want.Digest, nil)
		ok(t, err)
		if got, body := answer(t, req); got != status || status == 200 && digestOf(body) != want.Digest {
			t.Errorf("%s: %d %s", name, got, body)
		}
	}
}

// Of an image that others have pushed out of the server's memory the blobs come all the same.
func TestServeForgotten(t *testing.T) {
	repo, snap, _ := smallShop(t)
	handler, first := served(t, repo, snap)
	server := httptest.NewServer(handler)
	defer server.Close()
	get := func(path string) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v2/shop/web/"+path, nil)
		ok(t, err)
		status, body := answer(t, req)
		if status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, body)
		}
		return body
	}
	var m struct{ Config struct{ Digest string } }
	ok(t, json.Unmarshal(get("manifests/"+first), &m))
	for range 17 {
		snap.Time = snap.Time.Add(time.Second) // and so another config
		_, id := served(t, repo, snap)
		get("manifests/" + id)
	}
	if digestOf(get("blobs/"+m.Config.Digest)) != m.Config.Digest {
		t.Error("the config comes back otherwise")
	}
}

// checkServed asks for what a client might, and for what it must not get.
func checkServed(t *testing.T, base, manifest string, layer snapshot.Layer) {
	t.Helper()
	size := fmt.Sprint(layer.Size)
	for _, tt := range []struct {
		method, path, byteRange string
		status                  int
		code                    string // of the error
	}{
		{"GET", "/v2/", "", 200, ""},
		{"GET", "/", "", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/shop/web/manifests/latest", "", 200, ""},
		{"HEAD", "/v2/shop/web/manifests/" + manifest, "", 200, ""},
		{"GET", "/v2/shop/db/manifests/" + manifest, "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/shop/web/manifests/none", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/shop/web/manifests/shop", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/shop/none/manifests/latest", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/none/web/manifests/latest", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/shop/web/extra/manifests/latest", "", 404, "MANIFEST_UNKNOWN"},
		{"GET", "/v2/shop/web/what/latest", "", 404, "NAME_UNKNOWN"},
		{"GET", "/v2/shop/web/blobs/sha256:" + strings.Repeat("0", 64), "", 404, "BLOB_UNKNOWN"},
		{"GET", "/v2/shop/db/blobs/" + layer.DiffID, "", 404, "BLOB_UNKNOWN"},
		{"HEAD", "/v2/shop/web/blobs/" + layer.DiffID, "", 200, ""},
		{"GET", "/v2/shop/web/blobs/" + layer.DiffID, "bytes=10-19", 206, ""},
		{"GET", "/v2/shop/web/blobs/" + layer.DiffID, "bytes=" + size + "-", 416, "BLOB_UNKNOWN"},
		{"GET", "/v2/none/web/tags/list", "", 404, "NAME_UNKNOWN"},
		{"POST", "/v2/shop/web/blobs/uploads/", "", 405, "UNSUPPORTED"},
		{"PUT", "/v2/shop/web/manifests/latest", "", 405, "UNSUPPORTED"},
		{"DELETE", "/v2/shop/web/manifests/" + manifest, "", 405, "UNSUPPORTED"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, base+tt.path, nil)
		ok(t, err)
		if tt.byteRange != "" {
			req.Header.Set("Range", tt.byteRange)
		}
		status, body := answer(t, req)
		var said struct{ Errors []struct{ Code string } }
		if tt.code != "" {
			ok(t, json.Unmarshal(body, &said))
		}
		if status != tt.status || tt.code != "" && (len(said.Errors) != 1 || said.Errors[0].Code != tt.code) {
			t.Errorf("%s %s %s: %d %s, want %+v", tt.method, tt.path, tt.byteRange, status, body, tt)
		}
		if tt.status == 206 && len(body) != 10 {
			t.Errorf("%s: %d bytes", tt.byteRange, len(body))
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/v2/shop/web/tags/list", nil)
	ok(t, err)
	_, body := answer(t, req)
	var list struct{ Tags []string }
	ok(t, json.Unmarshal(body, &list))
	if len(list.Tags) != 2 || !slices.Contains(list.Tags, "latest") {
		t.Errorf("tags %v", list.Tags)
	}
	req, err = http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/v2/_catalog", nil)
	ok(t, err)
	_, body = answer(t, req)
	var catalog struct{ Repositories []string }
	ok(t, json.Unmarshal(body, &catalog))
	if diff := cmp.Diff([]string{"shop/shop-db-1", "shop/shop-job-1", "shop/shop-side-1", "shop/shop-web-1"}, catalog.Repositories); diff != "" {
		t.Errorf("catalog (-want +got):\n%s", diff)
	}
}

func answer(t *testing.T, req *http.Request) (int, []byte) {
	t.Helper()
	resp, err := http.DefaultClient.Do(req)
	ok(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ok(t, err)
	return resp.StatusCode, body
}

// A real engine pulls a container with its changes, which run.
func TestServeToEngine(t *testing.T) {
	needRoot(t)
	h := dockertest.Engines(t)[0]
	prefix := dockertest.Prefix(t, h)
	e, err := docker.Connect(t.Context(), docker.Options{Host: h.Host})
	ok(t, err)
	t.Cleanup(func() { e.Close() })
	repo, snap, _ := realShop(t, prefix)
	handler, id := served(t, repo, snap)
	l := listenBeside(t, h)
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close() })
	ref := fmt.Sprintf("%s/%s/web:%s", l.Addr(), snap.System.Name, id[:8])
	ok(t, e.Pull(t.Context(), ref))
	t.Cleanup(func() { ok(t, e.Untag(context.WithoutCancel(t.Context()), ref)) })
	want, err := importer.ExportImage(t.Context(), repo, snap, "web", importer.ToWriter(io.Discard), importer.ExportOptions{})
	ok(t, err)
	images, err := e.Images(t.Context())
	ok(t, err)
	if !slices.ContainsFunc(images, func(img snapshot.Image) bool {
		return slices.Contains(img.Tags, ref) && (img.ID == want.ID || img.ID == want.Digest)
	}) {
		t.Errorf("no image %s with the id %s or %s", ref, want.ID, want.Digest)
	}
}

// takingPushes is a server that stores what is pushed in a repository of its own.
func takingPushes(t *testing.T) (*chunkstore.Repository, *registry.Server) {
	t.Helper()
	b := newBuilder(t)
	ok(t, b.session.Abort(t.Context()))
	server := registry.New(b.repo, importer.ContainerImages(b.repo, ""), registry.Options{TempDir: t.TempDir(), Writable: true, Host: "pusher"})
	t.Cleanup(func() { ok(t, server.Close()) })
	return b.repo, server
}

// newest loads the newest snapshot.
func newest(t *testing.T, repo *chunkstore.Repository) *snapshot.Snapshot {
	t.Helper()
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	ok(t, err)
	ok(t, repo.LoadIndex(t.Context()))
	snap, err := cat.Load(t.Context(), cat.Snapshots[0])
	ok(t, err)
	return snap
}

// A restore gives the engine an image that was pushed.
func TestRestorePushed(t *testing.T) {
	needRoot(t)
	repo, handler := takingPushes(t)
	server := httptest.NewServer(handler)
	defer server.Close()
	img, err := random.Image(3000, 3)
	ok(t, err)
	img, err = mutate.ConfigFile(img, platformed(t, img))
	ok(t, err)
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/team/app:v2")
	ok(t, err)
	ok(t, remote.Write(ref, img))
	f := newFake(t)
	_, err = importer.Restore(t.Context(), repo, newest(t, repo), f, quick)
	ok(t, err)
	id, err := img.ConfigName()
	ok(t, err)
	if got := f.state(t); got != fmt.Sprintf("tag team/app:v2 %s\nimage %s\n", id, id) {
		t.Errorf("the engine has\n%s", got)
	}
}

// platformed is the config of an image, which says where it runs.
func platformed(t *testing.T, img v1.Image) *v1.ConfigFile {
	t.Helper()
	file, err := img.ConfigFile()
	ok(t, err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	return file
}

// A real engine pushes an image, and another server has it as a restore wants it.
func TestPushFromEngine(t *testing.T) {
	needRoot(t)
	h := dockertest.Engines(t)[0]
	image := dockertest.Busybox(t, h)
	repo, handler := takingPushes(t)
	l := listenBeside(t, h)
	server := &http.Server{Handler: handler}
	go func() { _ = server.Serve(l) }() // ends with Close
	t.Cleanup(func() { server.Close() })
	dockertest.Push(t, h, image, l.Addr().String()+"/tiny/box:v1")
	other := registry.New(repo, importer.ContainerImages(repo, ""), registry.Options{})
	t.Cleanup(func() { ok(t, other.Close()) })
	beside := httptest.NewServer(other)
	defer beside.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(beside.URL, "http://") + "/tiny/box:v1")
	ok(t, err)
	got, err := remote.Image(ref)
	ok(t, err)
	ok(t, readImage(got))
	snap := newest(t, repo)
	id, err := got.ConfigName()
	ok(t, err)
	if list := snap.System.Images; len(list) != 1 || list[0].Config != id.String() || len(snap.System.Notes) > 0 {
		t.Errorf("images %v, notes %v; want %s", list, snap.System.Notes, id)
	}
	report, err := repo.Check(t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(repo), Data: chunkstore.Everything})
	ok(t, err)
	if len(report.Faults) > 0 {
		t.Errorf("check: %v", report.Faults)
	}
}

// listenBeside listens on the loopback interface of an engine: those of tests live in network namespaces of their own.
func listenBeside(t *testing.T, h dockertest.Host) net.Listener {
	t.Helper()
	type listening struct {
		l   net.Listener
		err error
	}
	done := make(chan listening, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		err := enterNamespace(strings.TrimPrefix(h.Host, "unix://"))
		var l net.Listener
		if err == nil {
			l, err = net.Listen("tcp", "127.0.0.1:0")
		}
		done <- listening{l, err}
	}()
	got := <-done
	ok(t, got.err)
	return got.l
}
