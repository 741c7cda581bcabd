package importer_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
)

// builder puts a snapshot together in a repository in memory.
type builder struct {
	t       testing.TB
	repo    *chunkstore.Repository
	session *chunkstore.Session
}

func newBuilder(t testing.TB) *builder {
	t.Helper()
	return newBuilderOf(t, chunkstore.ChunkerParams{})
}

// newBuilderOf is newBuilder with other sizes of chunks.
func newBuilderOf(t testing.TB, chunks chunkstore.ChunkerParams) *builder {
	t.Helper()
	b, secret := mem.New(mem.Options{}), crypto.Passphrase([]byte("correct horse"))
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	_, err := chunkstore.Init(t.Context(), b, secret, crypto.SlotInfo{Label: "test"}, cheap, chunks)
	ok(t, err)
	repo, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{})
	ok(t, err)
	s, err := repo.Begin(t.Context(), chunkstore.BeginOptions{Host: "test"})
	ok(t, err)
	return &builder{t, repo, s}
}

// commit ends the session, so that what was saved can be read.
func (b *builder) commit() *chunkstore.Repository {
	b.t.Helper()
	body, err := b.session.SaveStream(b.t.Context(), []byte("{}"))
	ok(b.t, err)
	ok(b.t, b.session.Commit(b.t.Context(), "test", func(chunkstore.SessionStats) any { return nil }, body))
	return b.repo
}

// tree saves a tree that fill makes in a directory.
func (b *builder) tree(overlay bool, fill func(dir string)) *snapshot.Archive {
	b.t.Helper()
	dir := b.t.TempDir()
	fill(dir)
	d, err := exporter.OpenDir(dir, exporter.DirOptions{Overlay: overlay})
	ok(b.t, err)
	defer d.Close()
	w := b.session.NewStream(b.t.Context())
	stats, err := archive.WriteTree(b.t.Context(), d, b.session, w, archive.TreeOptions{})
	ok(b.t, err)
	records, err := w.Finish()
	ok(b.t, err)
	return &snapshot.Archive{Records: records, Entries: stats.Entries, Bytes: stats.Bytes}
}

// files is a fill of tree: files by path, with their content.
func files(t testing.TB, content map[string]string) func(string) {
	return func(dir string) {
		for name, data := range content {
			path := filepath.Join(dir, name)
			ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
			ok(t, os.WriteFile(path, []byte(data), 0o644))
		}
	}
}

// awkward is a fill of a read-write layer: what an image layer can and cannot carry.
func awkward(t testing.TB) func(string) {
	return func(dir string) {
		files(t, map[string]string{
			"etc/changed": "changed\n", "var/.wh.real": "a file of that name\n", "var/old": "old\n", "var/plain": "plain\n",
		})(dir)
		ok(t, unix.Mknod(filepath.Join(dir, "etc/deleted"), unix.S_IFCHR, 0))
		ok(t, os.Mkdir(filepath.Join(dir, "opaque"), 0o750))
		ok(t, unix.Setxattr(filepath.Join(dir, "opaque"), "trusted.overlay.opaque", []byte("y"), 0))
		ok(t, os.WriteFile(filepath.Join(dir, "opaque/new"), []byte("new\n"), 0o600))
		ok(t, unix.Mknod(filepath.Join(dir, "var/socket"), unix.S_IFSOCK|0o700, 0))
		ok(t, os.Link(filepath.Join(dir, "var/.wh.real"), filepath.Join(dir, "var/second")))
		old := time.Unix(-86400, 123456789)
		ok(t, os.Chtimes(filepath.Join(dir, "var/old"), old, old))
		f, err := os.Create(filepath.Join(dir, "var/sparse"))
		ok(t, err)
		ok(t, f.Truncate(128<<10))
		_, err = f.WriteAt([]byte("end"), 128<<10-3)
		ok(t, err)
		ok(t, f.Close())
	}
}

// entry is a member of a layer. A name that ends in a slash is a directory.
type entry struct {
	name string
	data string
	mode int64
	link string
}

// layer saves an image layer.
func (b *builder) layer(entries ...entry) snapshot.Layer {
	b.t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 0)}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.name[len(e.name)-1] == '/':
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		ok(b.t, tw.WriteHeader(h))
		_, err := tw.Write([]byte(e.data))
		ok(b.t, err)
	}
	ok(b.t, tw.Close())
	return b.save(buf.Bytes())
}

// save saves a layer.
func (b *builder) save(layer []byte) snapshot.Layer {
	b.t.Helper()
	diffID := digestOf(layer)
	size, err := archive.SaveLayer(b.t.Context(), b.session, diffID, bytes.NewReader(layer))
	ok(b.t, err)
	return snapshot.Layer{DiffID: diffID, Size: size}
}

// image describes an image of layers.
func (b *builder) image(tag string, config map[string]any, layers ...snapshot.Layer) snapshot.Image {
	b.t.Helper()
	img := snapshot.Image{OS: "linux", Arch: "amd64", Tags: []string{tag}, Layers: layers}
	var diffs []string
	for _, l := range layers {
		diffs = append(diffs, l.DiffID)
		img.Size += l.Size
	}
	setConfig(b.t, &img, map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2026-11-01T00:00:00Z", "config": config,
		"rootfs":  map[string]any{"type": "layers", "diff_ids": diffs},
		"history": []map[string]string{{"created_by": "test"}},
		"x-other": "kept", // fields that nobody knows stay
	})
	return img
}

// smallShop is the shop with contents, small ones.
func smallShop(t *testing.T) (*chunkstore.Repository, *snapshot.Snapshot, string) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // a restore waits for the disk many times
	}
	b := newBuilder(t)
	snap := shop(t)
	base := b.layer(entry{name: "etc/"}, entry{name: "etc/os", data: "test os\n", mode: 0o644})
	db := b.image("mariadb:11", map[string]any{"Cmd": []string{"/db"}}, base, b.layer(entry{name: "db", data: "db program\n", mode: 0o755}))
	web := b.image("nginx:1.25", map[string]any{"Cmd": []string{"/web"}}, base, b.layer(entry{name: "web", data: "web program\n", mode: 0o755}))
	snap.System.Images = []snapshot.Image{db, web}
	conf := filepath.Join(t.TempDir(), "srv", "conf")
	snap.System.Binds = []snapshot.Bind{{Source: conf, Content: b.tree(false, files(t, map[string]string{"site.conf": "listen 80\n"}))}}
	for i := range snap.System.Containers {
		c := &snap.System.Containers[i]
		c.ImageKey = web.Config
		if c.Service == "db" {
			c.ImageKey = db.Config
		}
		if c.Service == "web" {
			c.Mounts = []snapshot.Mount{{Type: "bind", Source: conf, Destination: "/etc/nginx/conf.d"}}
		}
		c.Health = ""
		c.Changes = b.tree(true, files(t, map[string]string{"etc/changed": c.Name}))
		if c.Service == "web" {
			c.Changes = b.tree(true, awkward(t))
		}
	}
	snap.System.Volumes[0].Content = b.tree(false, files(t, map[string]string{"table": "rows\n", "sub/index": "1 2 3\n"}))
	snap.System.Volumes[1].Content = b.tree(false, func(string) {})
	return b.commit(), snap, conf
}
