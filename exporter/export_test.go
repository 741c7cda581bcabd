package exporter_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
)

var secret = crypto.Passphrase([]byte("correct horse"))

// newRepository creates a repository on a backend.
func newRepository(t testing.TB, b chunkstore.Backend) *chunkstore.Repository {
	t.Helper()
	cost := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	if _, err := chunkstore.Init(context.Background(), b, secret, crypto.SlotInfo{Label: "test"}, cost, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	return openRepository(t, b)
}

func openRepository(t testing.TB, b chunkstore.Backend) *chunkstore.Repository {
	t.Helper()
	repo, err := chunkstore.Open(context.Background(), b, secret, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func memRepository(t testing.TB) *chunkstore.Repository {
	return newRepository(t, mem.New(mem.Options{}))
}

// discover finds one system.
func discover(t testing.TB, e exporter.Lister, name string) snapshot.System {
	t.Helper()
	systems, err := exporter.Discover(context.Background(), e, []string{name}, false)
	if err != nil {
		t.Fatal(err)
	}
	return systems[0]
}

// files reads a tree back: a line for each path, the content of files behind it.
func files(t testing.TB, repo *chunkstore.Repository, a *snapshot.Archive) map[string]string {
	t.Helper()
	if a == nil {
		t.Error("no archive")
		return nil
	}
	found := map[string]string{}
	r := archive.OpenTree(context.Background(), repo, a.Records)
	defer r.Close()
	for {
		e, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r.Filled(e))
		if err != nil {
			t.Fatal(err)
		}
		found[e.Path] = string(content)
	}
}

// compose are the labels of a container of a Compose project.
func compose(project, service string, more ...string) map[string]any {
	labels := map[string]any{"com.docker.compose.project": project, "com.docker.compose.service": service}
	for i := 0; i < len(more); i += 2 {
		labels[more[i]] = more[i+1]
	}
	return labels
}

// shop starts a system of two running containers and one that has ended.
func shop(h *engineHost, bind string) string {
	name := h.prefix + "-shop"
	h.call("POST", "/volumes/create", map[string]any{"Name": name + "_db"})
	h.run("-shop-db-1", map[string]any{
		"Labels": compose(name, "db"),
		"sh":     `echo rows >/var/lib/db/table; echo log >/etc/db.log; rm /bin/true; touch /ready; exec sleep 1000`,
		"HostConfig": map[string]any{
			"Binds": []string{name + "_db:/var/lib/db", h.socket() + ":/sock", "/proc/version:/version"},
			"Tmpfs": map[string]string{"/scratch": ""},
		},
	})
	h.run("-shop-web-1", map[string]any{
		"Labels":     compose(name, "web", "com.docker.compose.depends_on", "db:service_started:false"),
		"sh":         `echo page >/www; touch /ready; exec sleep 1000`,
		"HostConfig": map[string]any{"Binds": []string{bind + ":/conf:ro", name + "_db:/var/lib/db"}},
	})
	h.run("-shop-init-1", map[string]any{"Labels": compose(name, "init"), "sh": `echo done >/done`})
	h.await("-shop-db-1", "/ready")
	h.await("-shop-web-1", "/ready")
	return name
}

// await waits until a container has a file.
func (h *engineHost) await(name, file string) {
	h.t.Helper()
	for range 300 {
		code, err := h.Exec(context.Background(), h.prefix+name, []string{"/bin/sh", "-c", "test -e " + file + " || { sleep 0.1; exit 1; }"}, nil)
		if err == nil && code == 0 {
			return
		}
	}
	h.t.Fatalf("%s has no %s", name, file)
}

func TestExport(t *testing.T) {
	onEngines(t, func(t *testing.T, h *engineHost) {
		bind := t.TempDir()
		if err := os.WriteFile(filepath.Join(bind, "web.conf"), []byte("port 80"), 0o600); err != nil {
			t.Fatal(err)
		}
		name := shop(h, bind)
		repo := memRepository(t)
		guard, err := startGuard(h.Host.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer guard.Close()
		o := exporter.Options{Program: "test", Tags: []string{"a"}, StateDir: t.TempDir(), Guard: guard}
		snap, err := exporter.Export(t.Context(), repo, h, discover(t, h, name), o)
		if err != nil {
			t.Fatal(err)
		}
		checkShop(t, repo, snap, name, bind, h.socket())
		if snap.Stats.Paused <= 0 || snap.Stats.Paused > 5e9 {
			t.Errorf("paused for %v", snap.Stats.Paused)
		}
		t.Logf("first:  read %d, new %d, passes %d, paused %v, took %v", snap.Stats.Read, snap.Stats.NewBytes, snap.System.Quiesce.Passes, snap.Stats.Paused, snap.Took)
		again, err := exporter.Export(t.Context(), repo, h, discover(t, h, name), o)
		if err != nil {
			t.Fatal(err)
		}
		checkShop(t, repo, again, name, bind, h.socket())
		if again.Stats.Read > 4096 || again.Stats.NewBytes > 64<<10 {
			t.Errorf("the second time: %+v", again.Stats)
		}
		t.Logf("second: read %d, new %d, passes %d, paused %v, changed %d, took %v", again.Stats.Read, again.Stats.NewBytes, again.System.Quiesce.Passes, again.Stats.Paused, again.Stats.Changed, again.Took)
		for _, c := range again.System.Containers {
			want := map[bool]string{true: "exited", false: "running"}[strings.HasSuffix(c.Name, "init-1")]
			if got := h.state(c.ID); got != want {
				t.Errorf("afterwards %s is %s", c.Name, got)
			}
		}
	})
}

func checkShop(t *testing.T, repo *chunkstore.Repository, made *snapshot.Snapshot, name, bind, socket string) {
	t.Helper()
	catalog, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	found, err := snapshot.Select(catalog.Snapshots, made.ID, snapshot.Filter{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := catalog.Load(t.Context(), found.Summary)
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Complete || len(snap.System.Problems) > 0 {
		t.Errorf("problems: %v", snap.System.Problems)
	}
	containers := map[string]snapshot.Container{}
	var order []string
	for _, c := range snap.System.Containers {
		short := strings.TrimSuffix(strings.TrimPrefix(c.Name, name+"-"), "-1")
		containers[short] = c
		order = append(order, short)
	}
	if slices.Index(order, "db") > slices.Index(order, "web") {
		t.Errorf("order of containers: %v", order)
	}
	db := files(t, repo, containers["db"].Changes)
	if db["etc/db.log"] != "log\n" {
		t.Errorf("changes of db: %v", db)
	}
	if _, gone := db["bin/true"]; !gone {
		t.Errorf("changes of db lack the deletion: %v", db)
	}
	if got := files(t, repo, containers["init"].Changes)["done"]; got != "done\n" {
		t.Errorf("changes of init: %q", got)
	}
	if got := files(t, repo, snap.System.Volumes[0].Content)["table"]; got != "rows\n" || len(snap.System.Volumes) != 1 {
		t.Errorf("volume: %q", got)
	}
	specials := map[string]string{}
	for _, b := range snap.System.Binds {
		specials[b.Source] = b.Special
		if b.Source == bind && files(t, repo, b.Content)["web.conf"] != "port 80" {
			t.Errorf("bind: %v", files(t, repo, b.Content))
		}
	}
	if specials[socket] != "socket" || specials["/proc/version"] != "system path" || specials[bind] != "" {
		t.Errorf("binds: %v", specials)
	}
	for _, img := range snap.System.Images {
		for _, l := range img.Layers {
			r, _, err := archive.OpenLayer(t.Context(), repo, chunkstore.Domain{}, l.DiffID)
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != l.Size {
				t.Errorf("layer %s: %d of %d bytes: %v", l.DiffID, n, l.Size, err)
			}
			r.Close()
		}
	}
}
