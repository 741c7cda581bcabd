package importer_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

var update = flag.Bool("update", false, "write the golden files anew")

// empty is a fresh engine on this host.
func empty() importer.Target {
	return importer.Target{
		Facts: snapshot.Facts{
			Engine: snapshot.Engine{OS: "linux", Arch: "x86_64"}, Local: true,
			VolumeDrivers: []string{"local"}, NetDrivers: []string{"bridge", "host", "null"},
		},
		Paths: map[string]importer.PathState{"/var/run/docker.sock": importer.PathFile},
	}
}

// home is the engine on which the shop runs as it did when the snapshot was taken.
func home(snap *snapshot.Snapshot) importer.Target {
	t := empty()
	for _, c := range snap.System.Containers {
		t.Names.Containers = append(t.Names.Containers, snapshot.Existing{Name: c.Name, ID: c.ID, State: c.State})
	}
	for _, v := range snap.System.Volumes {
		t.Names.Volumes = append(t.Names.Volumes, snapshot.Existing{Name: v.Name, ID: v.Name})
	}
	for _, n := range snap.System.Networks {
		t.Names.Networks = append(t.Names.Networks, snapshot.Existing{Name: n.Name, ID: "net-" + n.Name})
	}
	t.Names.Ports = []snapshot.PortInUse{
		{HostIP: "0.0.0.0", HostPort: 8080, Proto: "tcp", Container: "shop-web-1"},
		{HostIP: "127.0.0.1", HostPort: 8443, Proto: "tcp", Container: "shop-web-1"},
	}
	t.Containers = snap.System.Containers
	t.Images = snap.System.Images
	t.Paths["/srv/shop/conf"] = importer.PathDir
	return t
}

func TestPlan(t *testing.T) {
	snap := shop(t)
	tests := []struct {
		name   string
		target importer.Target
		opts   importer.Options
		change func(*importer.Target)
		snap   func(*snapshot.Snapshot)
	}{
		{name: "empty", target: empty()},
		{name: "no-start", target: empty(), opts: importer.Options{NoStart: true}},
		{name: "home", target: home(snap)},
		{name: "replace", target: home(snap), opts: importer.Options{Replace: true}},
		{name: "skip-existing", target: home(snap), opts: importer.Options{SkipExisting: true}},
		{name: "as", target: home(snap), opts: importer.Options{As: "test"}},
		{name: "as-remapped", target: home(snap), opts: importer.Options{
			As: "test", Ports: map[string]string{"8080": "18080", "8443/tcp": "-", "99": "100"},
			Binds:    map[string]string{"/srv": "/srv/test", "/nowhere": "/x"},
			Networks: map[string]string{"proxy": "proxy", "nonesuch": "x"},
		}},
		{name: "only-volumes", target: empty(), opts: importer.Options{Only: []string{"volumes"}}},
		{name: "only-web", target: empty(), opts: importer.Options{Only: []string{"web"}}},
		{name: "only-side", target: empty(), opts: importer.Options{Only: []string{"side"}}},
		{name: "only-containers", target: empty(), opts: importer.Options{Only: []string{"containers"}}},
		{name: "only-db-data", target: empty(), opts: importer.Options{Only: []string{"shop-db-1", "volumes", "changes"}}},
		{name: "without-binds", target: empty(), opts: importer.Options{WithoutBinds: true, Only: []string{"web"}}},
		{name: "known-layers", target: empty(), change: func(t *importer.Target) {
			img := snap.System.Images[1]
			t.Images = []snapshot.Image{
				{ID: "sha256:other", Tags: []string{"other:1", "mariadb:11"}, Layers: img.Layers[:2]},
				{ID: "sha256:part", Layers: snap.System.Images[0].Layers[1:]},
			}
		}},
		{name: "moved-tag", target: empty(), opts: importer.Options{Replace: true}, change: func(t *importer.Target) {
			t.Images = []snapshot.Image{{ID: "sha256:0123456789abcdef", Tags: []string{"mariadb:11"}}}
		}},
		{name: "misfit", target: empty(), change: misfits},
		{name: "fit", target: empty(), opts: importer.Options{Fit: true}, change: misfits},
		{name: "other-machine", target: empty(), change: func(t *importer.Target) { t.Facts.Arch = "aarch64" }},
		{name: "remote", target: empty(), change: func(t *importer.Target) { t.Facts.Local, t.Paths = false, nil }},
		{name: "remote-replace", target: home(snap), opts: importer.Options{Replace: true}, change: func(t *importer.Target) { t.Facts.Local, t.Paths = false, nil }},
		{name: "undescribed", snap: func(s *snapshot.Snapshot) {
			s.System.Volumes, s.System.Networks = s.System.Volumes[:1], s.System.Networks[:1]
			s.System.Problems = []snapshot.Problem{{Where: "volume x", What: "no such driver"}}
		}, target: home(snap), opts: importer.Options{As: "test", SkipExisting: true, Ports: map[string]string{"8080": "", "8443": "-"}}},
		{name: "replace-rm", target: home(snap), opts: importer.Options{Replace: true}, change: func(t *importer.Target) {
			t.Containers = slices.Clone(t.Containers)
			t.Containers[0].Inspect = []byte(`{"HostConfig":{"AutoRemove":true}}`)
		}},
		{name: "volume-in-use", target: home(snap), opts: importer.Options{Replace: true}, change: func(t *importer.Target) {
			t.Containers = append(t.Containers, snapshot.Container{
				Name: "stranger", State: "running", Mounts: []snapshot.Mount{{Type: "volume", Name: "shop_data"}},
			})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			target := tt.target
			if tt.change != nil {
				tt.change(&target)
			}
			snap := snap
			if tt.snap != nil {
				snap = shop(t)
				tt.snap(snap)
			}
			plan, err := importer.NewPlan(snap, target, tt.opts)
			var clash *importer.ClashError
			if err != nil && !errors.As(err, &clash) {
				t.Fatal(err)
			}
			if (clash != nil) != (len(plan.Clashes) > 0) {
				t.Errorf("error %v with %d clashes", err, len(plan.Clashes))
			}
			golden(t, tt.name, plan.String())
		})
	}
}

func misfits(t *importer.Target) {
	t.Misfits = map[string][]snapshot.Misfit{"shop-db-1": {
		{Part: snapshot.PartCPU, Why: "8 processors wanted, the host has 2"},
		{Part: snapshot.PartLogDriver, Why: "log driver journald is not known there"},
	}}
	t.Facts.VolumeDrivers = []string{"nfs"}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "plan", name+".txt")
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("plan differs (-want +got):\n%s", diff)
	}
}

func TestPlanUsage(t *testing.T) {
	tests := []struct {
		name string
		opts importer.Options
		want string
	}{
		{"bad name", importer.Options{As: "Test"}, "as"},
		{"both", importer.Options{Replace: true, SkipExisting: true}, "replace"},
		{"unknown container", importer.Options{Only: []string{"wbe"}}, "only"},
		{"bad port", importer.Options{Ports: map[string]string{"http": "80"}}, "port"},
		{"bad protocol", importer.Options{Ports: map[string]string{"80/icmp": "80"}}, "port"},
		{"bad new port", importer.Options{Ports: map[string]string{"80": "127.0.0.1:"}}, "port"},
		{"port zero", importer.Options{Ports: map[string]string{"0": "80"}}, "port"},
		{"relative path", importer.Options{Binds: map[string]string{"/srv": "srv"}}, "bind"},
		{"no network", importer.Options{Networks: map[string]string{"a": ""}}, "network"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := importer.NewPlan(shop(t), empty(), tt.opts)
			var usage *importer.UsageError
			if plan != nil || !errors.As(err, &usage) || usage.Option != tt.want {
				t.Errorf("NewPlan = %v, %v; want a usage error about %s", plan, err, tt.want)
			}
		})
	}
}

func TestPlanRefusesAnImageThatContradictsItself(t *testing.T) {
	for name, change := range map[string]func(*snapshot.Image){
		"config":  func(img *snapshot.Image) { img.RawConfig = append(img.RawConfig, ' ') },
		"layers":  func(img *snapshot.Image) { img.Layers = img.Layers[1:] },
		"no json": func(img *snapshot.Image) { img.RawConfig = nil },
	} {
		t.Run(name, func(t *testing.T) {
			snap := shop(t)
			change(&snap.System.Images[1])
			if _, err := importer.NewPlan(snap, empty(), importer.Options{}); err == nil || !strings.Contains(err.Error(), "nginx:1.25") {
				t.Errorf("NewPlan = %v, want an error that names the image", err)
			}
		})
	}
}
