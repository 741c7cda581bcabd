package importer_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
)

// drillFake is a fakeEngine that keeps labels, and what was asked of it.
type drillFake struct {
	*fakeEngine
	labels  map[string]map[string]string // by name of container, volume or network
	asked   map[string]map[string]any    // what containers were created from, by their name
	network map[string]map[string]any
	said    string // by commands
	code    int
}

var _ importer.DrillEngine = (*drillFake)(nil)

func newDrillFake(t *testing.T) *drillFake {
	return &drillFake{fakeEngine: newFake(t), labels: map[string]map[string]string{}, asked: map[string]map[string]any{}, network: map[string]map[string]any{}}
}

func (f *drillFake) Names(ctx context.Context) (snapshot.Names, error) {
	n, err := f.fakeEngine.Names(ctx)
	for _, list := range [][]snapshot.Existing{n.Containers, n.Volumes, n.Networks} {
		for i := range list {
			list[i].Labels = f.labels[list[i].Name]
		}
	}
	return n, err
}

func (f *drillFake) CreateVolume(ctx context.Context, v snapshot.Volume, name string, labels map[string]string) error {
	f.keep(name, v.Labels)
	return f.fakeEngine.CreateVolume(ctx, v, name, labels)
}

func (f *drillFake) CreateNetwork(ctx context.Context, n snapshot.Network, name string, labels map[string]string) (string, []string, error) {
	var inspect struct{ Labels map[string]string }
	if err := json.Unmarshal(n.Inspect, &inspect); err != nil {
		return "", nil, err
	}
	f.keep(name, inspect.Labels)
	var whole map[string]any
	if err := json.Unmarshal(n.Inspect, &whole); err != nil {
		return "", nil, err
	}
	f.network[name] = whole
	return f.fakeEngine.CreateNetwork(ctx, n, name, labels)
}

func (f *drillFake) CreateContainer(ctx context.Context, c snapshot.Container, p snapshot.Placement) (string, []string, error) {
	f.keep(p.Name, c.Labels)
	var inspect map[string]any
	if err := json.Unmarshal(c.Inspect, &inspect); err != nil {
		return "", nil, err
	}
	f.asked[p.Name] = inspect
	return f.fakeEngine.CreateContainer(ctx, c, p)
}

func (f *drillFake) keep(name string, labels map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.labels[name] = labels
}

func (f *drillFake) Exec(_ context.Context, _ string, argv []string, out io.Writer) (int, error) {
	defer f.mu.Unlock()
	if err := f.call("exec %s", argv[len(argv)-1]); err != nil {
		return 0, err
	}
	_, err := io.WriteString(out, f.said)
	return f.code, err
}

func probe(t *testing.T, text, expect string) importer.Probe {
	t.Helper()
	p, err := importer.ParseProbe(text, expect)
	ok(t, err)
	return p
}

func drillOptions(dir string, probes ...importer.Probe) importer.DrillOptions {
	return importer.DrillOptions{Dir: dir, Host: "home", Settle: time.Nanosecond, ProbeTimeout: time.Millisecond, Probes: probes}
}

// drillsLeft lists what is there below a state directory of drills.
func drillsLeft(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "drills", "*"))
	ok(t, err)
	return names
}

func newestRecord(t *testing.T, repo *chunkstore.Repository) importer.DrillRecord {
	t.Helper()
	all, err := repo.Records(t.Context())
	ok(t, err)
	if len(all) == 0 {
		t.Fatal("no record")
	}
	var r importer.DrillRecord
	ok(t, json.Unmarshal(all[len(all)-1].Body, &r))
	return r
}

func TestDrill(t *testing.T) {
	repo, snap, conf := smallShop(t)
	for name, tt := range map[string]struct {
		said  string
		code  int
		probe importer.Probe
		want  string // in the failure; empty: it passes
	}{
		"passes":           {said: "rows: 7\n", probe: probe(t, "exec:db:count", "rows: 7")},
		"by a regexp":      {said: "rows: 7\n", probe: probe(t, "exec:shop-db-1:count", "/^rows: [1-9]/")},
		"wrong answer":     {said: "rows: 0\n", probe: probe(t, "exec:db:count", "/: [1-9]/"), want: "said something else than expected"},
		"command fails":    {code: 3, probe: probe(t, "exec:db:count", ""), want: "ended with code 3"},
		"no such one":      {probe: probe(t, "exec:dbx:count", ""), want: "there is no container dbx"},
		"page by the tool": {said: "ok", probe: probe(t, "http:web:80/health", "ok")},
	} {
		t.Run(name, func(t *testing.T) {
			f, dir := newDrillFake(t), t.TempDir()
			f.said, f.code = tt.said, tt.code
			before := f.state(t, conf)
			record, err := importer.Drill(t.Context(), repo, snap, f, drillOptions(dir, tt.probe))
			var failed *importer.DrillError
			if (tt.want != "") != errors.As(err, &failed) || tt.want != "" && !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("error %v, want %q", err, tt.want)
			}
			if diff := cmp.Diff(before, f.state(t, conf)); diff != "" || len(drillsLeft(t, dir)) > 0 {
				t.Errorf("left of it (-before +after):\n%s%v", diff, drillsLeft(t, dir))
			}
			if diff := cmp.Diff(*record, newestRecord(t, repo)); diff != "" {
				t.Errorf("on record is something else (-told +recorded):\n%s", diff)
			}
			if record.Passed != (tt.want == "") || record.RTO <= 0 || record.System != "shop" || record.Bytes == 0 || len(record.Probes) != 1 {
				t.Errorf("%+v", record)
			}
		})
	}
}

// What is booted reaches nothing of the host and nothing outside, whatever the system has at home.
func TestDrillIsolates(t *testing.T) {
	repo, snap, conf := smallShop(t)
	web := &snap.System.Containers[1]
	web.Mounts = append(web.Mounts, snapshot.Mount{Type: "bind", Source: "/var/run/docker.sock", Destination: "/run/docker.sock"})
	snap.System.Binds = append(snap.System.Binds, snapshot.Bind{Source: "/var/run/docker.sock", Special: "socket"})
	snap.System.Volumes[0].Driver, snap.System.Volumes[0].Options = "local", map[string]string{"type": "nfs", "o": "addr=10.0.0.1", "device": ":/data"}
	web.Inspect = []byte(`{"Config":{"Labels":{"traefik.enable":"true"},"Env":["A=1"]},"HostConfig":{"NetworkMode":"host","PidMode":"host","IpcMode":"host","Privileged":true,
		"Devices":[{"PathOnHost":"/dev/kvm"}],"RestartPolicy":{"Name":"always"},"AutoRemove":true,"CapAdd":["NET_ADMIN","SYS_ADMIN"],"CgroupParent":"/x","Memory":12345678901234567,
		"PortBindings":{"80/tcp":[{"HostPort":"8080"}]},"PublishAllPorts":true,"LogConfig":{"Type":"syslog"},
		"Binds":["` + conf + `:/etc/nginx/conf.d","/var/run/docker.sock:/run/docker.sock","shop_data:/data"],"Mounts":[{"Type":"bind","Source":"/etc","Target":"/host"}]},
		"Mounts":[{"Type":"bind","Source":"/var/run/docker.sock","Destination":"/run/docker.sock"}],"NetworkSettings":{"Networks":{"host":{}}}}`)
	web.Networks = []string{"host"}
	db := &snap.System.Containers[0]
	db.Inspect = []byte(`{"HostConfig":{"NetworkMode":"shop_default"},"NetworkSettings":{"Networks":{"shop_default":{"Aliases":["db"],"IPAMConfig":{"IPv4Address":"172.30.0.9"},"MacAddress":"02:42:ac:1e:00:09"}}}}`)
	f := newDrillFake(t)
	record, err := importer.Drill(t.Context(), repo, snap, f, drillOptions(t.TempDir()))
	ok(t, err)
	id := ""
	for name := range f.asked {
		id = strings.SplitN(strings.TrimPrefix(name, "hakobune-drill-"), "-", 2)[0]
	}
	prefix := "hakobune-drill-" + id
	got := f.asked[prefix+"-web-1"]
	labels := map[string]any{"io.github.hakobune-dr.drill": id, "io.github.hakobune-dr.drill-of": got["Config"].(map[string]any)["Labels"].(map[string]any)["io.github.hakobune-dr.drill-of"]}
	want := map[string]any{
		"Config":          map[string]any{"Labels": labels, "Env": []any{"A=1"}},
		"HostConfig":      map[string]any{"NetworkMode": "isolated", "CapAdd": []any{"NET_ADMIN"}, "Memory": 12345678901234567.0, "Binds": []any{conf + ":/etc/nginx/conf.d", "shop_data:/data"}, "Mounts": []any{}},
		"Mounts":          []any{},
		"NetworkSettings": map[string]any{"Networks": map[string]any{"isolated": map[string]any{"Aliases": []any{"shop-web-1"}, "NetworkID": nil, "Links": nil}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("web is created from (-want +got):\n%s", diff)
	}
	endpoint := f.asked[prefix+"-db-1"]["NetworkSettings"].(map[string]any)["Networks"].(map[string]any)["shop_default"]
	if diff := cmp.Diff(map[string]any{"Aliases": []any{"db", "shop-db-1"}, "NetworkID": nil}, endpoint); diff != "" {
		t.Errorf("db's network (-want +got):\n%s", diff)
	}
	for name, n := range f.network {
		if n["Internal"] != true || !strings.HasPrefix(name, prefix) {
			t.Errorf("network %s is %v", name, n)
		}
	}
	for name, l := range f.labels {
		if l["io.github.hakobune-dr.drill"] != id {
			t.Errorf("%s has labels %v", name, l)
		}
	}
	var notes []string
	for _, n := range record.Notes {
		if n.What != "has other subnets" && n.What != "blkio weight dropped" && !strings.Contains(n.Where, ": ") {
			notes = append(notes, strings.ReplaceAll(n.Where+" "+n.What, prefix, "DRILL"))
		}
	}
	for _, told := range []string{"docker.sock", "all privileges", "devices of the host", "capabilities", "(PidMode)", "(IpcMode)", "instead of the host's", "volume shop_data is a plain one"} {
		if !strings.Contains(strings.Join(notes, "\n"), told) {
			t.Errorf("no word of %s in:\n%s", told, strings.Join(notes, "\n"))
		}
	}
}

// Who shares namespaces with a container of another system gets its own, though that one lives on the engine; who
// shares them with one of the system, by whatever it is called, shares them with the drill's copy.
func TestDrillSharesWithNoStranger(t *testing.T) {
	repo, snap, _ := smallShop(t)
	web, side := &snap.System.Containers[1], &snap.System.Containers[3]
	web.ID = strings.Repeat("0123456789abcdef", 4)
	for name, tt := range map[string]struct {
		ref    string
		shared bool
	}{
		"a stranger's name": {"vpn", false}, "a stranger's id": {"id-vpn", false}, "one that is gone": {"ffffffffffff", false}, "nothing": {"", false},
		"name": {web.Name, true}, "name as engines show it": {"/" + web.Name, true}, "id": {web.ID, true}, "short id": {web.ID[:12], true},
	} {
		t.Run(name, func(t *testing.T) {
			mode := "container:" + tt.ref
			side.Inspect = []byte(`{"Config":{"Hostname":"vpn"},"HostConfig":{"NetworkMode":"` + mode + `","PidMode":"` + mode + `","IpcMode":"` + mode + `","UTSMode":"` + mode + `","Cgroup":"` + mode + `"}}`)
			f := newDrillFake(t)
			f.containers["id-vpn"] = &fakeContainer{Name: "vpn", State: "running"}
			record, err := importer.Drill(t.Context(), repo, snap, f, drillOptions(t.TempDir()))
			ok(t, err)
			var got map[string]any
			for name, asked := range f.asked {
				if strings.HasSuffix(name, "-side-1") {
					got = asked
				}
			}
			host, notes := got["HostConfig"].(map[string]any), fmt.Sprint(record.Notes)
			if tt.shared {
				own := "container:" + web.Name // placed when it is created
				for _, key := range []string{"NetworkMode", "PidMode", "IpcMode", "UTSMode"} {
					if host[key] != own {
						t.Errorf("%s is %v, want %s", key, host[key], own)
					}
				}
				if strings.Contains(notes, "not of the system") {
					t.Errorf("notes %s", notes)
				}
				return
			}
			for key, value := range host {
				if mode, _ := value.(string); strings.HasPrefix(mode, "container:") {
					t.Errorf("%s is %s", key, mode)
				}
			}
			networks, _ := got["NetworkSettings"].(map[string]any)["Networks"].(map[string]any)
			if host["NetworkMode"] != "isolated" || len(networks) != 1 || networks["isolated"] == nil || got["Config"].(map[string]any)["Hostname"] != nil {
				t.Errorf("created from %v", got)
			}
			for _, told := range []string{"in a network of its own", "(PidMode)", "(IpcMode)", "(UTSMode)"} {
				if !strings.Contains(notes, told) {
					t.Errorf("no word of %s in %s", told, notes)
				}
			}
		})
	}
}

// A drill during which any one call of the engine fails leaves nothing in the end: what it could not remove by itself
// the next one does. The same when the process was killed at that call.
func TestDrillLeavesNothing(t *testing.T) {
	repo, snap, conf := smallShop(t)
	snap.System.Containers = snap.System.Containers[:1]
	snap.System.Images, snap.System.Volumes = snap.System.Images[:1], snap.System.Volumes[:1]
	snap.System.Containers[0].Mounts, snap.System.Networks = snap.System.Containers[0].Mounts[:1], snap.System.Networks[:1]
	for what, killed := range map[string]bool{"one call fails": false, "killed": true} {
		t.Run(what, func(t *testing.T) {
			for n := 1; ; n++ {
				f, dir := newDrillFake(t), t.TempDir()
				before, calls := f.state(t, conf), 0
				f.fault = func(call string) error {
					if calls++; calls == n || killed && calls > n {
						return fmt.Errorf("%s: call %d fails", call, n)
					}
					return nil
				}
				_, err := importer.Drill(t.Context(), repo, snap, f, drillOptions(dir, probe(t, "exec:db:count", "")))
				reached := calls >= n
				f.fault = nil
				if !reached {
					ok(t, err)
					break
				}
				_, err = importer.CleanDrills(t.Context(), f, dir, "home")
				ok(t, err)
				if diff := cmp.Diff(before, f.state(t, conf)); diff != "" || len(drillsLeft(t, dir)) > 0 {
					t.Fatalf("call %d: left of it (-before +after):\n%s%v", n, diff, drillsLeft(t, dir))
				}
			}
		})
	}
}

// Drills of others, and those that run, are nobody's to remove.
func TestCleanDrillsSpares(t *testing.T) {
	f, dir := newDrillFake(t), t.TempDir()
	for name, labels := range map[string]map[string]string{
		"ours":     {"io.github.hakobune-dr.drill": "0000000a", "io.github.hakobune-dr.drill-of": "home:" + dir},
		"others":   {"io.github.hakobune-dr.drill": "0000000b", "io.github.hakobune-dr.drill-of": "away:" + dir},
		"odd":      {"io.github.hakobune-dr.drill": "../../..", "io.github.hakobune-dr.drill-of": "home:" + dir},
		"somebody": nil,
	} {
		ok(t, f.CreateVolume(t.Context(), snapshot.Volume{Labels: labels}, name, nil))
	}
	away := filepath.Join(dir, "drills", "0000000c") // of another engine
	ok(t, os.MkdirAll(away, 0o700))
	ok(t, os.WriteFile(filepath.Join(away, "engine"), []byte("another /var/lib/docker"), 0o600))
	ids, err := importer.CleanDrills(t.Context(), f, dir, "home")
	ok(t, err)
	if diff := cmp.Diff([]string{"0000000a"}, ids); diff != "" {
		t.Errorf("removed (-want +got):\n%s", diff)
	}
	if got := slices.Sorted(maps.Keys(f.volumes)); !slices.Equal(got, []string{"odd", "others", "somebody"}) || len(drillsLeft(t, dir)) != 1 {
		t.Errorf("there are %v and %v", got, drillsLeft(t, dir))
	}
}

func TestParseProbe(t *testing.T) {
	for _, bad := range []string{"", "exec", "exec:", "exec:db", "exec::true", "http:web:", "http:web:x/y", "http:web:0", "tcp:web:80"} {
		if _, err := importer.ParseProbe(bad, ""); err == nil {
			t.Errorf("probe %q is taken", bad)
		}
	}
	if _, err := importer.ParseProbe("exec:db:true", "/(/"); err == nil {
		t.Error("a bad regular expression is taken")
	}
}
