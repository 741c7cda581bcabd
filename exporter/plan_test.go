package exporter_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
)

// plan plans a system of what setup makes of one running container "web".
func plan(t *testing.T, setup func(f *fakeSystem, c *snapshot.Container, o *exporter.Options)) *exporter.Plan {
	t.Helper()
	f := newFakeSystem(t, "web")
	f.system.Volumes, f.system.Containers[0].Mounts = nil, nil
	var o exporter.Options
	setup(f, &f.system.Containers[0], &o)
	p, err := exporter.MakePlan(t.Context(), f, discover(t, f, "shop"), o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanBinds(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"app/cache", "app/data", "docker/volumes/v/_data", "docker/containers", "repo"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]int64{"app/conf": 10, "app/data/large": 5000} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	listener, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, tt := range []struct {
		name    string
		source  string
		options exporter.Options
		label   string // of exclusion, the bind being at /mnt
		ways    string
		exclude string
		special string
		file    bool
		note    string
		problem string
	}{
		{name: "directory", source: in("app"), ways: "directory helper"},
		{name: "file", source: in("app/conf"), ways: "directory helper", file: true},
		{name: "socket", source: in("s"), special: "socket", note: "a socket"},
		{name: "device", source: "/dev/null", special: "system path", note: "kernel"},
		{name: "kernel", source: "/proc/sys", special: "system path", note: "kernel"},
		{name: "host", source: "/", special: "system path", note: "belongs to the host"},
		{name: "not quite the kernel's", source: "/procs", problem: "does not exist"},
		{name: "engine", source: in("docker/containers"), special: "system path", note: "belongs to the engine"},
		{name: "one volume of the engine", source: in("docker/volumes/v/_data"), ways: "directory helper"},
		{name: "above the engine", source: dir, ways: "directory helper", exclude: "skip docker", note: "left out in it: docker"},
		{name: "missing", source: in("gone"), problem: "does not exist"},
		{name: "large", source: in("app/data"), options: exporter.Options{MaxBind: 4000}, special: "too large", problem: "more than 3.906 KiB"},
		{name: "large and wanted", source: in("app/data"), options: exporter.Options{MaxBind: 4000, Include: []string{in("app/data")}}, ways: "directory helper"},
		{name: "large but for what is excluded", source: in("app"), options: exporter.Options{MaxBind: 4000, Exclude: []string{in("app/data/**")}}, ways: "directory helper", exclude: "data/**", note: "left out in it"},
		{name: "excluded", source: in("app"), options: exporter.Options{Exclude: []string{in("app")}}, special: "excluded", note: "excluded by an option"},
		{name: "excluded above", source: in("app"), options: exporter.Options{Exclude: []string{dir}}, special: "excluded", note: "excluded by an option"},
		{name: "excluded in part", source: in("app"), options: exporter.Options{Exclude: []string{in("*/cache"), "**/*.tmp", "web/x"}}, ways: "directory helper", exclude: "cache **/*.tmp", note: "left out in it"},
		{name: "excluded by label", source: in("app"), label: "/mnt", special: "excluded", note: "a label of container web"},
		{name: "excluded in part by label", source: in("app"), label: "/mnt/cache, /mn, /mnt/data/*", ways: "directory helper", exclude: "cache data/*", note: "left out in it"},
		{name: "own", source: in("repo"), options: exporter.Options{Own: []string{in("repo")}}, special: "excluded", note: "belongs to this program"},
		{name: "holds own", source: in("app"), options: exporter.Options{Own: []string{in("app/cache/k")}}, ways: "directory helper", exclude: "skip cache/k", note: "left out in it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := plan(t, func(f *fakeSystem, c *snapshot.Container, o *exporter.Options) {
				*o = tt.options
				f.facts.RootDir = in("docker")
				f.system.Binds = []snapshot.Bind{{Source: tt.source}}
				c.Mounts = []snapshot.Mount{{Type: "bind", Source: tt.source, Destination: "/mnt"}}
				c.Labels[prefix+"exclude"] = tt.label
			})
			got := bindOf(p)
			if got.ways != tt.ways || got.exclude != tt.exclude || p.System.Binds[0].Special != tt.special || p.System.Binds[0].File != tt.file {
				t.Errorf("ways %q, excluded %q, special %q, file %v", got.ways, got.exclude, p.System.Binds[0].Special, p.System.Binds[0].File)
			}
			checkTold(t, "notes", p.System.Notes, tt.note, "bind "+tt.source)
			checkTold(t, "problems", p.System.Problems, tt.problem, "bind "+tt.source)
		})
	}
}

// planned is a tree of a plan as text.
type planned struct{ ways, exclude string }

func bindOf(p *exporter.Plan) planned {
	for _, t := range p.Trees {
		if t.Kind == exporter.Bind {
			return describe(t)
		}
	}
	return planned{}
}

func describe(t exporter.TreePlan) planned {
	var ways []string
	for _, w := range t.Ways {
		ways = append(ways, string(w))
	}
	exclude := strings.Join(t.Exclude, " ")
	if len(t.Skip) > 0 {
		exclude = strings.TrimSpace(exclude + " skip " + strings.Join(t.Skip, " "))
	}
	return planned{strings.Join(ways, " "), exclude}
}

// checkTold wants one problem at a place that says something, or none.
func checkTold(t *testing.T, what string, got []snapshot.Problem, want, where string) {
	t.Helper()
	got = slices.DeleteFunc(slices.Clone(got), func(p snapshot.Problem) bool { return p.Where != where })
	if want == "" && len(got) == 0 {
		return
	}
	if len(got) != 1 || want == "" || !strings.Contains(got[0].What, want) {
		t.Errorf("%s: %v, want %q", what, got, want)
	}
}

func TestPlanVolumes(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name    string
		volume  snapshot.Volume
		options exporter.Options
		label   string
		far     bool // the engine's files are not to be seen
		path    string
		ways    string
		note    string
		problem string
	}{
		{name: "local", volume: snapshot.Volume{Driver: "local", Mountpoint: dir}, path: dir, ways: "directory helper"},
		{name: "local, far away", volume: snapshot.Volume{Driver: "local", Mountpoint: "/far"}, far: true, path: "/far", ways: "helper"},
		{name: "missing", volume: snapshot.Volume{Driver: "local", Mountpoint: dir + "/gone"}, problem: "does not exist"},
		{name: "memory", volume: snapshot.Volume{Driver: "local", Mountpoint: dir, Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}}, note: "memory"},
		{name: "network", volume: snapshot.Volume{Driver: "local", Mountpoint: dir, Options: map[string]string{"type": "nfs", "device": ":/export"}}, note: "nfs"},
		{
			name: "network, wanted, not mounted", volume: snapshot.Volume{Driver: "local", Mountpoint: dir, Options: map[string]string{"type": "nfs", "device": ":/export"}},
			options: exporter.Options{Include: []string{"data"}}, problem: "none does",
		},
		{
			name: "directory elsewhere", volume: snapshot.Volume{Driver: "local", Mountpoint: "/nonexistent", Options: map[string]string{"type": "none", "o": "ro,bind", "device": dir}},
			path: dir, ways: "directory helper",
		},
		{name: "disk, not mounted", volume: snapshot.Volume{Driver: "local", Mountpoint: dir, Options: map[string]string{"type": "ext4", "device": "/dev/sdz1"}}, problem: "/dev/sdz1 is mounted only while"},
		{name: "driver that tells", volume: snapshot.Volume{Driver: "local-persist", Mountpoint: dir}, path: dir, ways: "directory helper"},
		{name: "driver that does not", volume: snapshot.Volume{Driver: "rexray"}, problem: "rexray does not tell"},
		{name: "excluded", volume: snapshot.Volume{Driver: "local", Mountpoint: dir}, options: exporter.Options{Exclude: []string{"data"}}, note: "excluded by an option"},
		{name: "excluded by label", volume: snapshot.Volume{Driver: "local", Mountpoint: dir}, label: "/var", note: "excluded by a label"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := plan(t, func(f *fakeSystem, c *snapshot.Container, o *exporter.Options) {
				*o = tt.options
				f.facts.Local = !tt.far
				tt.volume.Name = "data"
				f.system.Volumes = []snapshot.Volume{tt.volume}
				c.Mounts = []snapshot.Mount{{Type: "volume", Name: "data", Destination: "/var/lib"}}
				c.Labels[prefix+"exclude"] = tt.label
			})
			var path, ways string
			for _, tree := range p.Trees {
				if tree.Kind == exporter.Volume {
					path, ways = tree.Path, describe(tree).ways
				}
			}
			if path != tt.path || ways != tt.ways {
				t.Errorf("read %q by %q", path, ways)
			}
			checkTold(t, "notes", p.System.Notes, tt.note, "volume data")
			checkTold(t, "problems", p.System.Problems, tt.problem, "volume data")
		})
	}
}

func TestPlanHolds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		state   string
		mode    snapshot.QuiesceMode
		label   string
		inspect string
		want    string // mode and grace, empty: not held
		plan    snapshot.QuiesceMode
		note    string
	}{
		{name: "running", state: "running", want: "pause 10s", plan: snapshot.Pause},
		{name: "stop", state: "running", mode: snapshot.Stop, inspect: `{"Config":{"StopTimeout":90}}`, want: "stop 1m30s", plan: snapshot.Stop},
		{name: "stop by label", state: "running", label: "true", want: "stop 10s", plan: snapshot.Stop},
		{name: "removed when stopped", state: "running", label: "true", inspect: `{"HostConfig":{"AutoRemove":true}}`, want: "pause 10s", plan: snapshot.Pause, note: "remove it"},
		{name: "none", state: "running", mode: snapshot.None, label: "true", plan: snapshot.None},
		{name: "paused", state: "paused", plan: snapshot.None, note: "stays so"},
		{name: "restarting", state: "restarting", plan: snapshot.None, note: "cannot be held"},
		{name: "exited", state: "exited", plan: snapshot.None},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := plan(t, func(f *fakeSystem, c *snapshot.Container, o *exporter.Options) {
				o.Mode = tt.mode
				f.states["web"] = tt.state
				if tt.label != "" {
					c.Labels[prefix+"stop"] = tt.label
				}
				if tt.inspect != "" {
					c.Inspect = []byte(tt.inspect)
				}
			})
			var got string
			for _, h := range p.Holds {
				got = fmt.Sprint(h.Mode, " ", h.Grace)
			}
			if got != tt.want || p.Mode != tt.plan {
				t.Errorf("held %q, mode %s", got, p.Mode)
			}
			checkTold(t, "notes", p.System.Notes, tt.note, "container web")
		})
	}
}

// TestPlanChanges: the ways to read changes, and what is excluded.
func TestPlanChanges(t *testing.T) {
	for _, tt := range []struct {
		name       string
		far        bool
		nowhere    bool
		containerd bool
		label      string
		exclude    []string
		want       planned
	}{
		{name: "here", want: planned{ways: "upperdir commit export"}},
		{name: "far away", far: true, want: planned{ways: "helper commit export"}},
		{name: "nobody knows where", nowhere: true, want: planned{ways: "commit export"}},
		{name: "nobody knows where, containerd", nowhere: true, containerd: true, want: planned{ways: "export"}},
		{name: "excluded in part", label: "/tmp,/var/cache/**", exclude: []string{"web/srv/*", "**/.git", "/srv", "other/x"}, want: planned{"upperdir commit export", "srv/* **/.git tmp var/cache/**"}},
		{name: "bad pattern", label: "/tmp/[", want: planned{ways: "upperdir commit export"}},
		{name: "excluded", exclude: []string{"web"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := plan(t, func(f *fakeSystem, c *snapshot.Container, o *exporter.Options) {
				f.facts.Local, f.facts.Containerd = !tt.far, tt.containerd
				if tt.nowhere {
					f.uppers = nil
				}
				o.Exclude = tt.exclude
				c.Labels[prefix+"exclude"] = tt.label
			})
			var got planned
			for _, tree := range p.Trees {
				got = describe(tree)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(planned{})); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			if bad := tt.name == "bad pattern"; bad != (len(p.System.Problems) > 0) {
				t.Errorf("problems: %v", p.System.Problems)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	f := newFakeSystem(t, "web")
	for name, o := range map[string]exporter.Options{
		"mode":    {Mode: "freeze"},
		"pattern": {Exclude: []string{"["}},
		"time":    {MaxPause: -1},
	} {
		if _, err := exporter.MakePlan(t.Context(), f, f.system, o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
