package importer_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// fakeDigest is a digest that nothing has, for layers whose content a test does not need.
func fakeDigest(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// fakeImage describes an image whose layers are named, not stored.
func fakeImage(t testing.TB, tag string, layers ...string) snapshot.Image {
	t.Helper()
	img := snapshot.Image{OS: "linux", Arch: "amd64", Tags: []string{tag}}
	diffs := []string{}
	for i, name := range layers {
		l := snapshot.Layer{DiffID: fakeDigest(name), Size: int64(i+1) << 20}
		img.Layers = append(img.Layers, l)
		diffs = append(diffs, l.DiffID)
		img.Size += l.Size
	}
	setConfig(t, &img, map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{"Cmd": []string{"/run"}, "Labels": map[string]string{"of": tag}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	return img
}

func setConfig(t testing.TB, img *snapshot.Image, config any) {
	t.Helper()
	raw, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	img.RawConfig, img.Config = raw, "sha256:"+hex.EncodeToString(sum[:])
	img.ID = img.Config
}

// shop is a system as Compose makes it: a database, a web server that waits for it, a finished
// job, and a proxy that shares the web server's network.
func shop(t testing.TB) *snapshot.Snapshot {
	t.Helper()
	db := fakeImage(t, "mariadb:11", "debian", "mariadb")
	web := fakeImage(t, "nginx:1.25", "debian", "nginx", "modules")
	compose := func(service string) map[string]string {
		return map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": service}
	}
	anonymous := fmt.Sprintf("%064x", 0xabc)
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{
			ID: "0123456789abcdef0123", System: "shop", Host: "home.example", Complete: true,
			Time: time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC),
		},
		System: snapshot.System{Name: "shop", Source: snapshot.ByCompose},
	}
	snap.System.Images = []snapshot.Image{db, web}
	snap.System.Containers = []snapshot.Container{
		{
			ID: "id-db", Name: "shop-db-1", Service: "db", Image: "mariadb:11", ImageKey: db.Config, State: "running", Health: "healthy",
			Labels: compose("db"), Networks: []string{"shop_default"},
			Mounts: []snapshot.Mount{
				{Type: "volume", Name: "shop_data", Destination: "/var/lib/mysql"},
				{Type: "volume", Name: anonymous, Destination: "/tmp/db", Anonymous: true},
			},
			Inspect: []byte(`{}`), Changes: &snapshot.Archive{Entries: 3, Bytes: 4096},
		},
		{
			ID: "id-web", Name: "shop-web-1", Service: "web", Image: "nginx:1.25", ImageKey: web.Config, State: "running",
			Labels: compose("web"), Networks: []string{"shop_default", "proxy"},
			DependsOn: []snapshot.Dependency{{Container: "shop-db-1", Condition: "service_healthy"}},
			Mounts: []snapshot.Mount{
				{Type: "bind", Source: "/srv/shop/conf", Destination: "/etc/nginx/conf.d", ReadOnly: true},
				{Type: "bind", Source: "/var/run/docker.sock", Destination: "/var/run/docker.sock"},
			},
			Ports:   []snapshot.Port{{Container: "80/tcp", HostPort: "8080"}, {Container: "443/tcp", HostIP: "127.0.0.1", HostPort: "8443"}},
			Inspect: []byte(`{}`), Changes: &snapshot.Archive{Entries: 1},
		},
		{
			ID: "id-job", Name: "shop-job-1", Service: "job", Image: "nginx:1.25", ImageKey: web.Config, State: "exited",
			Labels: compose("job"), Inspect: []byte(`{}`), Changes: &snapshot.Archive{Entries: 1},
		},
		{
			ID: "id-side", Name: "shop-side-1", Service: "side", Image: "nginx:1.25", ImageKey: web.Config, State: "running",
			Labels: compose("side"), Inspect: []byte(`{"HostConfig":{"NetworkMode":"container:id-web"}}`),
		},
	}
	snap.System.Volumes = []snapshot.Volume{
		{Name: "shop_data", Driver: "local", Labels: map[string]string{"com.docker.compose.project": "shop"}, Content: &snapshot.Archive{Entries: 200, Bytes: 300 << 20}},
		{Name: anonymous, Driver: "local", Anonymous: true, Content: &snapshot.Archive{Entries: 1}},
	}
	snap.System.Binds = []snapshot.Bind{
		{Source: "/srv/shop/conf", Content: &snapshot.Archive{Entries: 2, Bytes: 100}},
		{Source: "/var/run/docker.sock", Special: "socket"},
	}
	snap.System.Networks = []snapshot.Network{
		{Name: "shop_default", Driver: "bridge", Inspect: []byte(`{"Labels":{"com.docker.compose.project":"shop"}}`)},
		{Name: "proxy", Driver: "bridge", Inspect: []byte(`{}`)},
		{Name: "bridge", Driver: "bridge", Predefined: true},
	}
	return snap
}
