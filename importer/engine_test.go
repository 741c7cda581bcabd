package importer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

var _ importer.Engine = (*docker.Engine)(nil)

// brisk are options of a restore of containers that need no time to come up.
var brisk = importer.Options{Settle: 300 * time.Millisecond}

// onEngines runs a test on every real engine.
func onEngines(t *testing.T, test func(t *testing.T, e *docker.Engine, prefix string)) {
	needRoot(t)
	for _, h := range dockertest.Engines(t) {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			prefix := dockertest.Prefix(t, h)
			e, err := docker.Connect(t.Context(), docker.Options{Host: h.Host})
			ok(t, err)
			t.Cleanup(func() { e.Close() })
			t.Cleanup(func() { untagAll(t, e, prefix) })
			test(t, e, prefix)
		})
	}
}

// untagAll removes the images that a test made, once their containers are gone. Other test binaries restore to the engine at
// the same time, and kill what does: only of its own images a test says what is left.
func untagAll(t *testing.T, e *docker.Engine, prefix string) {
	ctx := context.Background()
	cs, err := e.Names(ctx)
	ok(t, err)
	for _, c := range cs.Containers {
		if strings.HasPrefix(c.Name, prefix) {
			ok(t, e.RemoveContainer(ctx, c.ID))
		}
	}
	all, err := e.Images(ctx)
	ok(t, err)
	for _, img := range all {
		own := slices.ContainsFunc(img.Tags, func(tag string) bool { return strings.Contains(tag, prefix) })
		for _, tag := range img.Tags {
			if strings.Contains(tag, prefix) {
				ok(t, e.Untag(ctx, tag))
			}
			if own && strings.Contains(tag, "incoming") || strings.Contains(tag, "hakobune/fill") || strings.Contains(tag, "hakobune/old") {
				t.Errorf("image %s is left", tag)
			}
		}
	}
}

// program is a static busybox, as a layer's entries.
func program(t testing.TB) []entry {
	t.Helper()
	data, err := os.ReadFile("/bin/busybox")
	if err != nil && os.Getenv("HAKOBUNE_TEST_REQUIRE") == "" {
		t.Skip("install busybox-static")
	}
	if err != nil {
		t.Fatal(err)
	}
	entries := []entry{{name: "bin/"}, {name: "bin/busybox", data: string(data), mode: 0o755}}
	for applet := range strings.FieldsSeq("sh cat ls sleep test stat trap true false") {
		entries = append(entries, entry{name: "bin/" + applet, link: "busybox"})
	}
	return append(entries,
		entry{name: "etc/"}, entry{name: "etc/os", data: "base\n", mode: 0o644}, entry{name: "etc/deleted", data: "base\n", mode: 0o644},
		entry{name: "opaque/"}, entry{name: "opaque/below", data: "base\n", mode: 0o644}, entry{name: "tmp/"})
}

// realShop is a system that runs: a database with a health check, and a web server that waits for
// it. Its names start with prefix.
func realShop(t testing.TB, prefix string) (*chunkstore.Repository, *snapshot.Snapshot, string) {
	t.Helper()
	b := newBuilder(t)
	system := prefix + "-shop"
	app := b.image(prefix+"-app:1", map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/bin"}},
		b.layer(program(t)...), b.layer(entry{name: "etc/second", data: "layer\n", mode: 0o644}))
	conf := filepath.Join(t.TempDir(), "conf")
	volume, network := system+"_data", system+"_default"
	loop := []string{"/bin/sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.1; done"}
	container := func(service string, config, host map[string]any, mounts ...snapshot.Mount) snapshot.Container {
		name := system + "-" + service + "-1"
		config["Image"], config["Cmd"], config["Env"] = prefix+"-app:1", loop, []string{"PATH=/bin", "SERVICE=" + service}
		config["Labels"] = map[string]string{"com.docker.compose.project": system, "com.docker.compose.image": "sha256:home"}
		config["StopTimeout"] = 1
		host["NetworkMode"] = network
		var shown []map[string]any
		for _, m := range mounts {
			shown = append(shown, map[string]any{"Type": m.Type, "Name": m.Name, "Source": m.Source, "Destination": m.Destination, "RW": true})
		}
		inspect, err := json.Marshal(map[string]any{
			"Id": strings.Repeat("0", 60) + service, "Name": "/" + name, "Config": config, "HostConfig": host, "Mounts": shown,
			"NetworkSettings": map[string]any{"Networks": map[string]any{network: map[string]any{"Aliases": []string{service}}}},
		})
		ok(t, err)
		return snapshot.Container{
			ID: strings.Repeat("0", 60) + service, Name: name, Service: service, Image: prefix + "-app:1", ImageKey: app.Config, State: "running",
			Labels: map[string]string{"com.docker.compose.project": system}, Mounts: mounts, Networks: []string{network}, Inspect: inspect,
			Changes: b.tree(true, awkward(t)),
		}
	}
	db := container("db", map[string]any{"Healthcheck": map[string]any{
		"Test": []string{"CMD", "test", "-f", "/data/table"}, "Interval": 300 * time.Millisecond, "Timeout": 10 * time.Second, "Retries": 3,
	}}, map[string]any{"Binds": []string{volume + ":/data"}}, snapshot.Mount{Type: "volume", Name: volume, Destination: "/data"})
	web := container("web", map[string]any{}, map[string]any{
		"Binds":        []string{conf + ":/conf"},
		"PortBindings": map[string]any{"80/tcp": []any{map[string]any{"HostPort": "18099"}}},
	}, snapshot.Mount{Type: "bind", Source: conf, Destination: "/conf"})
	web.DependsOn = []snapshot.Dependency{{Container: db.Name, Condition: "service_healthy"}}
	web.Ports = []snapshot.Port{{Container: "80/tcp", HostPort: "18099"}}
	network64, err := json.Marshal(map[string]any{
		"Name": network, "Driver": "bridge", "IPAM": map[string]any{}, "Labels": map[string]string{"com.docker.compose.project": system},
	})
	ok(t, err)
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{ID: "fedcba9876543210fedc", System: system, Host: "home", Time: time.Unix(1.7e9, 0)},
		System: snapshot.System{
			Name: system, Source: snapshot.ByCompose, Images: []snapshot.Image{app}, Containers: []snapshot.Container{db, web},
			Volumes: []snapshot.Volume{{Name: volume, Driver: "local", Content: b.tree(false, files(t, map[string]string{"table": "rows\n"}))}},
			Binds:   []snapshot.Bind{{Source: conf, Content: b.tree(false, files(t, map[string]string{"site.conf": "listen\n"}))}},
			Networks: []snapshot.Network{
				{Name: network, Driver: "bridge", Inspect: network64},
			},
		},
	}
	return b.commit(), snap, conf
}

// run runs a shell command in a container and returns what it writes.
func run(t testing.TB, e *docker.Engine, container, command string) string {
	t.Helper()
	var out bytes.Buffer
	code, err := e.Exec(t.Context(), container, []string{"/bin/sh", "-c", command}, &out)
	ok(t, err)
	if code != 0 {
		t.Errorf("%s: %s: code %d: %s", container, command, code, out.String())
	}
	return out.String()
}

const look = `cat /etc/os /etc/second /etc/changed /opaque/new; test ! -e /etc/deleted; test ! -e /opaque/below; ` +
	`ls -A /var; stat -c '%n %s %b' /var/sparse; stat -c '%n %F' /var/socket; stat -c '%n %Y %h' /var/old /var/second`

const looked = `base
layer
changed
new
.wh.real
old
plain
second
socket
sparse
/var/sparse 131072 8
/var/socket socket
/var/old -86400 1
/var/second `

func TestSystemOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		repo, snap, conf := realShop(t, prefix)
		db, web := snap.System.Containers[0].Name, snap.System.Containers[1].Name
		r, err := importer.Restore(t.Context(), repo, snap, e, brisk)
		ok(t, err)
		t.Logf("healthy after %v, notes %v", r.Healthy, r.Notes)
		if got := run(t, e, web, look); !strings.HasPrefix(got, looked) {
			t.Errorf("changes (-want +got):\n%s", cmp.Diff(looked, got))
		}
		if got := run(t, e, db, "cat /data/table") + run(t, e, web, "cat /conf/site.conf"); got != "rows\nlisten\n" {
			t.Errorf("volume and bind hold %q", got)
		}
		for _, o := range r.Objects {
			if o.Kind == importer.KindContainer && (o.State != "running" || len(o.Addresses) == 0) {
				t.Errorf("%+v", o)
			}
		}
		checkComposeImage(t, e, prefix)

		var clash *importer.ClashError
		if _, err := importer.Restore(t.Context(), repo, snap, e, brisk); !errors.As(err, &clash) {
			t.Fatalf("a second restore: %v, want a clash", err)
		}
		_, err = importer.Restore(t.Context(), repo, snap, e, importer.Options{SkipExisting: true, Settle: brisk.Settle})
		ok(t, err)

		run(t, e, db, "echo newer > /data/table; echo more > /data/more")
		r, err = importer.Restore(t.Context(), repo, snap, e, importer.Options{Replace: true, Settle: brisk.Settle})
		ok(t, err)
		if got := run(t, e, db, "cat /data/*") + run(t, e, web, "cat /conf/*"); got != "rows\nlisten\n" || len(r.Left) > 0 {
			t.Errorf("replaced volume and bind hold %q; left %v", got, r.Left)
		}
		checkNothingAside(t, e, prefix, conf)

		r, err = importer.Restore(t.Context(), repo, snap, e, importer.Options{
			As: prefix + "-copy", Settle: brisk.Settle, Ports: map[string]string{"18099": "18098"}, Binds: map[string]string{conf: conf + "-copy"},
		})
		ok(t, err)
		if got := run(t, e, prefix+"-copy-db-1", "cat /data/*") + run(t, e, prefix+"-copy-web-1", "cat /conf/*"); got != "rows\nlisten\n" {
			t.Errorf("volume and bind of the copy hold %q; %v", got, r.Notes)
		}
	})
}

// checkComposeImage wants the label by which Compose recognises a container to name the image there.
func checkComposeImage(t *testing.T, e *docker.Engine, prefix string) {
	t.Helper()
	images, err := e.Images(t.Context())
	ok(t, err)
	id := ""
	for _, img := range images {
		for _, tag := range img.Tags {
			if tag == prefix+"-app:1" {
				id = img.ID
			}
		}
	}
	cs, err := e.Containers(t.Context())
	ok(t, err)
	for _, c := range cs {
		if strings.HasPrefix(c.Name, prefix) && c.Labels["com.docker.compose.image"] != id {
			t.Errorf("container %s: label names image %s, want %s", c.Name, c.Labels["com.docker.compose.image"], id)
		}
	}
}

func checkNothingAside(t *testing.T, e *docker.Engine, prefix, conf string) {
	t.Helper()
	names, err := e.Names(t.Context())
	ok(t, err)
	for _, x := range append(names.Containers, names.Volumes...) {
		if strings.HasPrefix(x.Name, prefix) && strings.Contains(x.Name, "hakobune-old") {
			t.Errorf("%s is left", x.Name)
		}
	}
	beside, err := os.ReadDir(filepath.Dir(conf))
	ok(t, err)
	for _, x := range beside {
		if strings.Contains(x.Name(), "hakobune") {
			t.Errorf("%s is left", x.Name())
		}
	}
}

// TestUnhealthyOnEngines restores a system that does not become healthy over one that is: the old
// one has to run again.
func TestUnhealthyOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		repo, snap, _ := realShop(t, prefix)
		_, err := importer.Restore(t.Context(), repo, snap, e, brisk)
		ok(t, err)
		db, web := snap.System.Containers[0].Name, snap.System.Containers[1].Name
		run(t, e, db, "echo newer > /data/table")
		sick := *snap
		sick.System.Containers = []snapshot.Container{snap.System.Containers[0], snap.System.Containers[1]}
		c := &sick.System.Containers[1]
		c.Inspect = bytes.Replace(c.Inspect, []byte(`trap 'exit 0' TERM;`), []byte(`echo words of farewell; exit 7;`), 1)
		_, err = importer.Restore(t.Context(), repo, &sick, e, importer.Options{Replace: true, Settle: brisk.Settle})
		var start *importer.StartError
		if !errors.As(err, &start) || start.Container != web || !strings.Contains(err.Error(), "code 7") || !strings.Contains(err.Error(), "words of farewell") {
			t.Fatalf("Restore = %v, want a StartError of %s with its last words", err, web)
		}
		if got := run(t, e, db, "cat /data/table") + run(t, e, web, "cat /conf/site.conf"); got != "newer\nlisten\n" {
			t.Errorf("put back was %q", got)
		}
	})
}

// remoteEngine is an engine whose files this process pretends not to see.
type remoteEngine struct{ *docker.Engine }

func (e remoteEngine) Facts() snapshot.Facts {
	f := e.Engine.Facts()
	f.Local = false
	return f
}

func TestRemoteOnEngines(t *testing.T) {
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		repo, snap, _ := realShop(t, prefix)
		db, web := snap.System.Containers[0].Name, snap.System.Containers[1].Name
		r, err := importer.Restore(t.Context(), repo, snap, remoteEngine{e}, importer.Options{Replace: true, Settle: brisk.Settle})
		ok(t, err)
		if got := run(t, e, db, "cat /data/table") + run(t, e, web, "cat /conf/site.conf"); got != "rows\nlisten\n" {
			t.Errorf("volume and bind hold %q", got)
		}
		var lost strings.Builder
		for _, n := range r.Notes {
			lost.WriteString(n.Where + "\n")
		}
		for _, path := range []string{"var/socket", "var/sparse", "var/old", "var/.wh.real"} {
			if !strings.Contains(lost.String(), "container "+web+": "+path+"\n") {
				t.Errorf("no note of %s in %s", path, lost.String())
			}
		}
		names, err := e.Names(t.Context())
		ok(t, err)
		for _, c := range names.Containers {
			if strings.Contains(c.Name, "hakobune-fill") {
				t.Errorf("container %s is left", c.Name)
			}
		}
	})
}
