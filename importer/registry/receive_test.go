package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/transfer"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/compose"
	"github.com/hakobune-dr/hakobune/importer/registry"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func digestOf(data []byte) string { return digest.FromBytes(data).String() }

// target is a registry that takes pushes.
type target struct {
	t    *testing.T
	repo *chunkstore.Repository
	url  string
	dir  string // for temporary files
}

func newTarget(t *testing.T, repo *chunkstore.Repository) target {
	t.Helper()
	dir := t.TempDir()
	handler := registry.New(repo, importer.ContainerImages(repo, dir), registry.Options{TempDir: dir, Writable: true, Host: "pusher", Program: "test"})
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.Close()
		ok(t, handler.Close())
	})
	return target{t, repo, server.URL, dir}
}

func (g target) ref(what string) name.Reference {
	g.t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(g.url, "http://") + "/" + what)
	ok(g.t, err)
	return ref
}

// emptyRepository has no snapshots.
func emptyRepository(t *testing.T) *chunkstore.Repository {
	t.Helper()
	backend, secret := mem.New(mem.Options{}), crypto.Passphrase([]byte("correct horse"))
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	_, err := chunkstore.Init(t.Context(), backend, secret, crypto.SlotInfo{Label: "test"}, cheap, chunkstore.ChunkerParams{})
	ok(t, err)
	repo, err := chunkstore.Open(t.Context(), backend, secret, chunkstore.Options{})
	ok(t, err)
	return repo
}

// backedUp stores a system of one container, web, and returns the snapshot's id.
func backedUp(t *testing.T, repo *chunkstore.Repository) string {
	t.Helper()
	s, err := repo.Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	ok(t, err)
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Containers: []string{"web"}},
		System:  snapshot.System{Name: "shop", Containers: []snapshot.Container{{Name: "web"}}},
	}
	ok(t, snapshot.Commit(t.Context(), s, snap))
	return snap.ID
}

// do makes a request and returns the answer, without its body, and the code of its error.
func (g target) do(method, path string, header http.Header, body string) (*http.Response, string) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.url+path, strings.NewReader(body))
	ok(g.t, err)
	if header != nil {
		req.Header = header
	}
	resp, err := http.DefaultClient.Do(req)
	ok(g.t, err)
	text, err := io.ReadAll(resp.Body)
	ok(g.t, errors.Join(err, resp.Body.Close()))
	var said struct{ Errors []struct{ Code string } }
	if json.Unmarshal(text, &said) == nil && len(said.Errors) == 1 {
		return resp, said.Errors[0].Code
	}
	return resp, ""
}

// blob asks for a blob.
func (g target) blob(image, digest string) (status int, body []byte) {
	g.t.Helper()
	req, err := http.NewRequestWithContext(g.t.Context(), http.MethodGet, g.url+"/v2/"+image+"/blobs/"+digest, nil)
	ok(g.t, err)
	resp, err := http.DefaultClient.Do(req)
	ok(g.t, err)
	body, err = io.ReadAll(resp.Body)
	ok(g.t, errors.Join(err, resp.Body.Close()))
	return resp.StatusCode, body
}

// catalog reads what is stored.
func (g target) catalog() *snapshot.Catalog {
	g.t.Helper()
	cat, err := snapshot.ReadCatalog(g.t.Context(), g.repo)
	ok(g.t, err)
	return cat
}

// whole checks that what is stored is all there.
func (g target) whole() {
	g.t.Helper()
	report, err := g.repo.Check(g.t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(g.repo), Data: chunkstore.Everything})
	ok(g.t, err)
	if len(report.Faults) > 0 {
		g.t.Errorf("check: %v", report.Faults)
	}
}

// pushable is a small image as a builder makes it, its layers gzipped.
func pushable(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(3000, 3)
	ok(t, err)
	img, err = mutate.Config(img, v1.Config{Cmd: []string{"/run"}})
	ok(t, err)
	file, err := img.ConfigFile()
	ok(t, err)
	file.OS, file.Architecture = "linux", "amd64"
	img, err = mutate.ConfigFile(img, file)
	ok(t, err)
	return img
}

// pulled pulls an image, reads all of it, and holds it to what was pushed.
func (g target) pulled(what string, want v1.Image) {
	g.t.Helper()
	got, err := remote.Image(g.ref(what))
	ok(g.t, err)
	ok(g.t, validate.Image(got))
	wantDigest, err := want.Digest()
	ok(g.t, err)
	digest, err := got.Digest()
	ok(g.t, err)
	if digest != wantDigest {
		g.t.Errorf("%s has the digest %s, pushed was %s", what, digest, wantDigest)
	}
}

// What is pushed is a snapshot: another server has it byte for byte, and a check and a prune know what it needs.
func TestPush(t *testing.T) {
	repo := emptyRepository(t)
	g, img := newTarget(t, repo), pushable(t)
	ok(t, remote.Write(g.ref("team/app:v1"), img))
	g.pulled("team/app:v1", img)
	ok(t, remote.Write(g.ref("team/app:v1"), img)) // nothing new
	ok(t, remote.Tag(g.ref("team/app:v1").Context().Tag("v2"), img))
	_, err := repo.Collect(t.Context(), chunkstore.CollectOptions{Host: "test", Walk: importer.RefsOnce(repo), MinAge: -1, MaxUnused: -1})
	ok(t, err)
	g.whole()

	cat := g.catalog()
	digest, err := img.Digest()
	ok(t, err)
	var list []string
	for _, s := range cat.Snapshots {
		list = append(list, fmt.Sprintln(s.System, s.Tags, s.Complete, s.Host, s.Pushed.Name, s.Pushed.Digest == digest.String()))
	}
	want := []string{"pushed/team/app [v2] true pusher team/app true\n", "pushed/team/app [v1] true pusher team/app true\n"}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	again := newTarget(t, repo)
	again.pulled("team/app:v2", img)
	again.pulled("team/app:"+cat.Snapshots[1].ID[:8], img)
	again.pulled("team/app@"+digest.String(), img)
	tags, err := remote.List(again.ref("team/app").Context())
	ok(t, err)
	if diff := cmp.Diff([]string{"v1", "v2"}, tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
}

// A copy in another repository is pulled as the original; of an image nothing runs.
func TestPushCopied(t *testing.T) {
	g, img := newTarget(t, emptyRepository(t)), pushable(t)
	ok(t, remote.Write(g.ref("app:v1"), img))
	cat, other := g.catalog(), emptyRepository(t)
	c, err := transfer.New(t.Context(), g.repo, cat, other, transfer.Options{Host: "test"})
	ok(t, err)
	_, err = c.Copy(t.Context(), cat.Snapshots[0], nil)
	ok(t, err)
	copied := newTarget(t, other)
	copied.pulled("app:v1", img)
	copied.whole()
	snap, err := cat.Load(t.Context(), cat.Snapshots[0])
	ok(t, err)
	if _, _, err := compose.File(snap, compose.Options{}); err == nil {
		t.Error("a Compose file was made")
	}
	if _, err := importer.Drill(t.Context(), g.repo, snap, nil, importer.DrillOptions{}); err == nil {
		t.Error("a drill passed")
	}
}

// An index brings all its images; each is restored under the name of its platform.
func TestPushIndex(t *testing.T) {
	g := newTarget(t, emptyRepository(t))
	index := mutate.IndexMediaType(v1.ImageIndex(emptyIndex(t)), types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		img := pushable(t)
		file, err := img.ConfigFile()
		ok(t, err)
		file.Architecture = arch
		img, err = mutate.ConfigFile(img, file)
		ok(t, err)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ok(t, remote.WriteIndex(g.ref("multi:1"), index))
	g.whole()
	again := newTarget(t, g.repo)
	got, err := remote.Index(again.ref("multi:1"))
	ok(t, err)
	want, err := index.Digest()
	ok(t, err)
	if d, err := got.Digest(); err != nil || d != want {
		t.Errorf("digest %s, %v, want %s", d, err, want)
	}
	m, err := got.IndexManifest()
	ok(t, err)
	for _, d := range m.Manifests {
		img, err := got.Image(d.Digest)
		ok(t, err)
		ok(t, validate.Image(img))
	}
	snap, err := g.catalog().Load(t.Context(), g.catalog().Snapshots[0])
	ok(t, err)
	if tags := fmt.Sprint(snap.System.Images[0].Tags, snap.System.Images[1].Tags); tags != "[multi:1-linux-amd64] [multi:1-linux-arm64]" {
		t.Error(tags)
	}
}

func emptyIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	index, err := random.Index(10, 1, 0)
	ok(t, err)
	return index
}

// A layer may be as it is, in zstd, or no layer at all: what was pushed comes back; and what a restore can do with it is known.
func TestPushKinds(t *testing.T) {
	repo := emptyRepository(t)
	plain := layerTar(t, "file", strings.Repeat("content\n", 300))
	enc, err := zstd.NewWriter(nil)
	ok(t, err)
	for _, tt := range []struct {
		name     string
		blob     []byte
		kind     types.MediaType
		diffID   string
		restored bool
	}{
		{"plain", plain, types.OCIUncompressedLayer, digestOf(plain), true},
		{"zstd", enc.EncodeAll(plain, nil), types.OCILayerZStd, digestOf(plain), true},
		{"another", enc.EncodeAll(plain, nil), types.OCILayerZStd, digestOf([]byte("another")), false},
		{"broken", []byte("\x1f\x8b and no more"), types.OCILayer, digestOf([]byte("broken")), false},
		{"sha512", plain, types.OCIUncompressedLayer, "sha512:" + strings.Repeat("0", 128), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newTarget(t, repo)
			d, diff := digestOf(tt.blob), tt.diffID
			config := fmt.Sprintf(`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[%q]},"author":%q}`, diff, tt.name)
			g.upload("kinds/"+tt.name, string(tt.blob))
			g.upload("kinds/"+tt.name, config)
			manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
				types.OCIConfigJSON, digestOf([]byte(config)), len(config), tt.kind, d, len(tt.blob))
			if resp, code := g.put("kinds/"+tt.name, "v1", manifest); resp.StatusCode != http.StatusCreated {
				t.Fatal(resp.Status, code)
			}
			again := newTarget(t, repo)
			if status, body := again.blob("kinds/"+tt.name, d); status != http.StatusOK || !bytes.Equal(body, tt.blob) {
				t.Errorf("the blob comes back as %d, %q", status, body)
			}
			snap, err := g.catalog().Load(t.Context(), g.catalog().Snapshots[0])
			ok(t, err)
			if got := len(snap.System.Images) == 1 && len(snap.System.Notes) == 0; got != tt.restored || !got && len(snap.System.Notes) != 1 {
				t.Errorf("images %d, notes %v", len(snap.System.Images), snap.System.Notes)
			}
			g.whole()
		})
	}
}

func layerTar(t *testing.T, name, content string) []byte {
	t.Helper()
	img, err := mutate.AppendLayers(pushable(t), static.NewLayer([]byte(content), types.OCIUncompressedLayer))
	ok(t, err)
	layers, err := img.Layers()
	ok(t, err)
	r, err := layers[0].Uncompressed()
	ok(t, err)
	data, err := io.ReadAll(r)
	ok(t, errors.Join(err, r.Close()))
	return data
}

// upload sends a blob in one request.
func (g target) upload(image, blob string) {
	g.t.Helper()
	resp, code := g.do(http.MethodPost, "/v2/"+image+"/blobs/uploads/?digest="+digestOf([]byte(blob)), nil, blob)
	if resp.StatusCode != http.StatusCreated {
		g.t.Fatal(resp.Status, code)
	}
}

// put sends a manifest.
func (g target) put(image, ref, manifest string) (*http.Response, string) {
	g.t.Helper()
	return g.do(http.MethodPut, "/v2/"+image+"/manifests/"+ref, http.Header{"Content-Type": {string(types.OCIManifestSchema1)}}, manifest)
}

// What must not be taken is not, and leaves nothing: no snapshot, no file.
func TestPushRefused(t *testing.T) {
	repo := emptyRepository(t)
	id := backedUp(t, repo)
	g := newTarget(t, repo)
	before := len(g.catalog().Snapshots)
	config := `{"os":"linux"}`
	sum := digestOf([]byte(config))
	g.upload("a/b", config)
	manifest := func(digest string, size int) string {
		return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"x","digest":%q,"size":%d},"layers":[]}`, digest, size)
	}
	good, none := manifest(sum, len(config)), "sha256:"+strings.Repeat("0", 64)
	begun, _ := g.do(http.MethodPost, "/v2/a/b/blobs/uploads/", nil, "")
	upload := begun.Header.Get("Location")
	for _, tt := range []struct {
		what, method, path, kind, contentRange, body string
		status                                       int
		code                                         string
	}{
		{"name", "POST", "/v2/A/b/blobs/uploads/", "", "", "", 400, "NAME_INVALID"},
		{"long name", "POST", "/v2/" + strings.Repeat("a/", 200) + "b/blobs/uploads/", "", "", "", 400, "NAME_INVALID"},
		{"digest of a blob", "POST", "/v2/a/b/blobs/uploads/?digest=" + none, "", "", "x", 400, "DIGEST_INVALID"},
		{"kind of digest", "POST", "/v2/a/b/blobs/uploads/?digest=md5:00", "", "", "x", 400, "DIGEST_INVALID"},
		{"upload", "PATCH", "/v2/a/b/blobs/uploads/0123", "", "", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"upload of another image", "PATCH", strings.Replace(upload, "a/b", "a/c", 1), "", "", "x", 404, "BLOB_UPLOAD_UNKNOWN"},
		{"range", "PATCH", upload, "", "5-5", "x", 416, "BLOB_UPLOAD_INVALID"},
		{"no range", "PATCH", upload, "", "bytes", "x", 416, "BLOB_UPLOAD_INVALID"},
		{"end without digest", "PUT", upload, "", "", "x", 400, "DIGEST_INVALID"},
		{"tag", "PUT", "/v2/a/b/manifests/-v1", "oci", "", good, 400, "TAG_INVALID"},
		{"digest of a manifest", "PUT", "/v2/a/b/manifests/" + none, "oci", "", good, 400, "DIGEST_INVALID"},
		{"kind", "PUT", "/v2/a/b/manifests/v1", "text/plain", "", good, 400, "MANIFEST_INVALID"},
		{"no JSON", "PUT", "/v2/a/b/manifests/v1", "oci", "", "{", 400, "MANIFEST_INVALID"},
		{"no config", "PUT", "/v2/a/b/manifests/v1", "oci", "", "{}", 400, "MANIFEST_INVALID"},
		{"blob", "PUT", "/v2/a/b/manifests/v1", "oci", "", manifest(none, 1), 400, "MANIFEST_BLOB_UNKNOWN"},
		{"blob of another image", "PUT", "/v2/a/c/manifests/v1", "oci", "", good, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"size", "PUT", "/v2/a/b/manifests/v1", "oci", "", manifest(sum, 1), 400, "MANIFEST_INVALID"},
		{"length", "PUT", "/v2/a/b/manifests/v1", "oci", "", strings.Repeat(" ", 5<<20), 413, "SIZE_INVALID"},
		{"manifest below", "PUT", "/v2/a/b/manifests/v1", "index", "", `{"manifests":[{"digest":"` + none + `"}]}`, 400, "MANIFEST_BLOB_UNKNOWN"},
		{"container", "PUT", "/v2/shop/web/manifests/v1", "oci", "", good, 403, "DENIED"},
		{"deletion", "DELETE", "/v2/shop/web/manifests/" + id, "", "", "", 405, "UNSUPPORTED"},
		{"referrers", "GET", "/v2/a/b/referrers/x", "", "", "", 400, "DIGEST_INVALID"},
	} {
		header := http.Header{}
		if kind, ok := map[string]types.MediaType{"oci": types.OCIManifestSchema1, "index": types.OCIImageIndex}[tt.kind]; ok {
			header.Set("Content-Type", string(kind))
		}
		if tt.contentRange != "" {
			header.Set("Content-Range", tt.contentRange)
		}
		if resp, code := g.do(tt.method, tt.path, header, tt.body); resp.StatusCode != tt.status || code != tt.code {
			t.Errorf("%s: %s %s, want %d %s", tt.what, resp.Status, code, tt.status, tt.code)
		}
	}
	if list := g.catalog().Snapshots; len(list) != before {
		t.Errorf("snapshots %v", list)
	}
	left, err := os.ReadDir(g.dir)
	ok(t, err)
	if len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}
