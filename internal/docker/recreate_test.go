package docker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// system is a set of containers with about every option there is, made on one engine.
type system struct {
	prefix string
	subnet netip.Prefix
	port   string // published
	bind   string // host directory
	*snapshot.System
}

// makeSystem makes it. Its subnet and port differ from those made on other engines, so that the tests may
// run at once.
func makeSystem(t *testing.T, h dockertest.Host, e *docker.Engine, n int) system {
	s := system{prefix: dockertest.Prefix(t, h), subnet: netip.MustParsePrefix(fmt.Sprintf("10.213.%d.0/24", n)), port: fmt.Sprint(18080 + n), bind: t.TempDir()}
	image, c := dockertest.Busybox(t, h), dockertest.Client(t, h)
	_, err := c.NetworkCreate(t.Context(), s.prefix+"-front", client.NetworkCreateOptions{
		Driver: "bridge", Labels: map[string]string{"com.docker.compose.network": "front"}, Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
		IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{Subnet: s.subnet, Gateway: s.subnet.Addr().Next()}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.NetworkCreate(t.Context(), s.prefix+"-back", client.NetworkCreateOptions{Internal: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.VolumeCreate(t.Context(), client.VolumeCreateOptions{Name: s.prefix + "-data", Labels: map[string]string{"com.docker.compose.volume": "data"}}); err != nil {
		t.Fatal(err)
	}
	dockertest.Run(t, h, client.ContainerCreateOptions{Name: s.prefix + "-db", Config: &container.Config{
		Image: image, Cmd: []string{"sleep", "1000"}, StopSignal: "KILL", Volumes: map[string]struct{}{"/anonymous": {}},
	}, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(s.prefix + "-back"), IpcMode: "shareable", Binds: []string{s.bind + ":/shared:ro"}}})
	dockertest.Run(t, h, s.web(image))
	if _, err := c.NetworkConnect(t.Context(), s.prefix+"-back", client.NetworkConnectOptions{
		Container:      s.prefix + "-web",
		EndpointConfig: &network.EndpointSettings{Aliases: []string{"backdoor"}, Links: []string{s.prefix + "-db:database"}},
	}); err != nil {
		t.Fatal(err)
	}
	dockertest.Run(t, h, client.ContainerCreateOptions{Name: s.prefix + "-side", Config: &container.Config{
		Image: image, Cmd: []string{"sleep", "1000"}, StopSignal: "KILL",
	}, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode("container:" + s.prefix + "-web"), PidMode: container.PidMode("container:" + s.prefix + "-web")}})

	var own []snapshot.Container
	for _, name := range []string{"db", "web", "side"} {
		own = append(own, find(t, e, s.prefix+"-"+name))
	}
	if s.System, err = e.Surroundings(ctxOf(t), own); err != nil || len(s.Problems) > 0 {
		t.Fatal(err, s.Problems)
	}
	return s
}

// web has about all options of a container.
func (s system) web(image string) client.ContainerCreateOptions {
	http := network.MustParsePort("80/tcp")
	config := &container.Config{
		Image: image, Hostname: "webhost", Domainname: "example.org", User: "65534:65534", Env: []string{"A=1", "EMPTY=", "UML=ä"},
		Entrypoint: []string{"sh", "-c"}, Cmd: []string{"trap 'exit 0' TERM; sleep 1000 & wait"}, WorkingDir: "/tmp", Tty: true, OpenStdin: true, StdinOnce: true,
		StopSignal: "SIGTERM", StopTimeout: new(3), ExposedPorts: network.PortSet{http: {}, network.MustParsePort("53/udp"): {}},
		Labels:      map[string]string{"com.docker.compose.project": s.prefix, "com.docker.compose.image": "sha256:source", "note": "a,b=c"},
		Healthcheck: &container.HealthConfig{Test: []string{"CMD", "true"}, Interval: 5 * time.Second, Timeout: time.Second, Retries: 2, StartPeriod: time.Second},
	}
	host := &container.HostConfig{
		Binds: []string{s.prefix + "-data:/data:ro", s.bind + ":/host"}, VolumesFrom: []string{s.prefix + "-db:ro"},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: s.bind, Target: "/host2", ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationPrivate}},
			{Type: mount.TypeVolume, Source: s.prefix + "-data", Target: "/data2", VolumeOptions: &mount.VolumeOptions{NoCopy: true}},
			{Type: mount.TypeVolume, Target: "/nameless"},
		},
		Tmpfs:        map[string]string{"/run": "size=1m,mode=700"},
		PortBindings: network.PortMap{http: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: s.port}, {HostPort: "0"}}},
		NetworkMode:  container.NetworkMode(s.prefix + "-front"), RestartPolicy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3},
		CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{"CAP_MKNOD"}, DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		DNSOptions: []string{"ndots:2"}, DNSSearch: []string{"example.org"}, ExtraHosts: []string{"other:192.0.2.7"}, GroupAdd: []string{"100"},
		IpcMode: "private", OomScoreAdj: 100, ReadonlyRootfs: true, SecurityOpt: []string{"no-new-privileges"}, ShmSize: 32 << 20,
		Sysctls: map[string]string{"net.core.somaxconn": "512"}, Init: new(true),
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "1m", "max-file": "2"}},
		Resources: container.Resources{
			Memory: 64 << 20, MemoryReservation: 32 << 20, MemorySwap: 128 << 20, NanoCPUs: 5e8, CPUShares: 512, CpusetCpus: "0", PidsLimit: new(int64(100)),
			Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1024, Hard: 2048}}, Devices: []container.DeviceMapping{{PathOnHost: "/dev/null", PathInContainer: "/dev/xnull", CgroupPermissions: "r"}},
		},
	}
	four := s.subnet.Addr().Next().Next().Next().Next()
	nets := &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{s.prefix + "-front": {
		Aliases: []string{"www", "frontdoor"}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: four},
	}}}
	return client.ContainerCreateOptions{Name: s.prefix + "-web", Config: config, HostConfig: host, NetworkingConfig: nets}
}

// TestRecreate makes a system on every engine and creates it again on every engine: under its own
// names on another one, under other names beside itself.
func TestRecreate(t *testing.T) {
	t.Parallel()
	hosts := dockertest.Engines(t)
	for i, from := range hosts {
		t.Run(from.Name, func(t *testing.T) {
			t.Parallel()
			source := makeSystem(t, from, connect(t, from), i)
			for _, to := range hosts {
				t.Run(to.Name, func(t *testing.T) { recreateOn(t, source, from == to, to) })
			}
		})
	}
}

func recreateOn(t *testing.T, s system, beside bool, h dockertest.Host) {
	e, suffix := connect(t, h), ""
	if beside {
		suffix = "-again"
	}
	dockertest.RemoveLater(t, h, s.prefix, beside)
	p := snapshot.Placement{
		Image: dockertest.Busybox(t, h), ImageID: "sha256:target", Labels: map[string]string{"restored": "yes"},
		Volumes: map[string]string{}, Networks: map[string]string{}, Containers: map[string]string{},
	}
	if beside {
		p.Without = []snapshot.Part{snapshot.PartAddresses}
		p.Ports = map[string]string{s.port + "/tcp": "127.0.0.2:19090"}
	}
	for _, v := range s.Volumes {
		p.Volumes[v.Name] = v.Name + suffix
		if err := e.CreateVolume(ctxOf(t), v, v.Name+suffix, map[string]string{dockertest.Label: s.prefix}); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range s.Networks {
		p.Networks[n.Name] = n.Name + suffix
		if _, _, err := e.CreateNetwork(ctxOf(t), n, n.Name+suffix, map[string]string{"restored": "yes"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range s.Containers {
		p.Name = c.Name + suffix
		p.Containers[c.ID], p.Containers[c.Name] = p.Name, p.Name
		id, warnings, err := e.CreateContainer(ctxOf(t), c, p)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(warnings, func(w string) bool { return !strings.Contains(w, "swap") }) {
			t.Logf("%s: %q", c.Name, warnings)
		}
		if err := e.Start(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.CreateContainer(ctxOf(t), c, p); !errors.Is(err, snapshot.ErrExists) {
			t.Errorf("a second %s: %v", p.Name, err)
		}
	}
	for _, c := range s.Containers {
		got := find(t, e, c.Name+suffix)
		want, have := facts(t, c), facts(t, got)
		if diff := cmp.Diff(expect(s, want, suffix), strings.Split(have, "\n")); diff != "" {
			t.Errorf("%s: %s", c.Name, diff)
		}
		checkMounts(t, c, got, p)
		if got.State != "running" || !slices.Equal(placed(c.Networks, p.Networks), got.Networks) {
			t.Errorf("%s: %s, networks %v", c.Name, got.State, got.Networks)
		}
	}
}

// placed maps names, in order.
func placed(names []string, to map[string]string) []string {
	var out []string
	for _, name := range names {
		out = append(out, cmpOr(to[name], name))
	}
	slices.Sort(out)
	return out
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// checkMounts: the same destinations hold the same things, however they came to be asked for.
func checkMounts(t *testing.T, c, got snapshot.Container, p snapshot.Placement) {
	t.Helper()
	var want []snapshot.Mount
	for _, m := range c.Mounts {
		m.Name, m.Anonymous = p.Volumes[m.Name], false
		want = append(want, m)
	}
	if diff := cmp.Diff(want, got.Mounts); diff != "" {
		t.Errorf("%s: %s", c.Name, diff)
	}
}

// ignored are the parts of an inspection that are generated, differ by nature from engine to
// engine, or are checked otherwise.
var ignored = []string{
	"Config.Image", "Config.Hostname", "Config.MacAddress", "HostConfig.Binds", "HostConfig.Mounts", "HostConfig.VolumesFrom", "HostConfig.NetworkMode",
	"HostConfig.PidMode", "HostConfig.KernelMemory", "HostConfig.ConsoleSize", "HostConfig.MaskedPaths", "Config.Volumes", "HostConfig.ReadonlyPaths",
	"HostConfig.OomKillDisable", "HostConfig.CgroupnsMode", "HostConfig.Umask",
}

// facts flattens what an inspection says that a user asked for to sorted lines "path: value", without
// anything empty.
func facts(t *testing.T, c snapshot.Container) string {
	t.Helper()
	var in map[string]any
	if err := json.Unmarshal(c.Inspect, &in); err != nil {
		t.Fatal(err)
	}
	lines := map[string]bool{}
	for _, part := range []string{"Config", "HostConfig"} {
		flatten(part, in[part], lines)
	}
	endpoints := in["NetworkSettings"].(map[string]any)["Networks"].(map[string]any)
	for name, endpoint := range endpoints {
		settings := endpoint.(map[string]any)
		aliases, _ := settings["Aliases"].([]any)
		aliases = slices.DeleteFunc(aliases, func(a any) bool { return a == c.ID[:12] || a == "webhost" })
		flatten("Networks", map[string]any{fmt.Sprintf("%q", name): map[string]any{"IPAMConfig": settings["IPAMConfig"], "Links": settings["Links"], "Aliases": aliases}}, lines)
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "\n")
}

func flatten(path string, value any, lines map[string]bool) {
	if slices.Contains(ignored, path) {
		return
	}
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			flatten(path+"."+key, child, lines)
		}
	case []any:
		for _, child := range v {
			raw, _ := json.Marshal(child)
			lines[path+"[]: "+string(raw)] = true
		}
	default:
		// "no" is what later engines make of an empty restart policy.
		if text := fmt.Sprint(v); v != nil && !slices.Contains([]string{"", "0", "false", "no"}, text) {
			lines[path+": "+text] = true
		}
	}
}

// expect says what the placement changes.
func expect(s system, want, suffix string) []string {
	changes := []string{"sha256:source", "sha256:target", `"HostPort":"0"`, `"HostPort":""`}
	if suffix != "" {
		changes = append(changes, s.port, "19090", "127.0.0.1", "127.0.0.2", s.prefix+"-db:", s.prefix+"-db"+suffix+":",
			s.prefix+`-front"`, s.prefix+"-front"+suffix+`"`, s.prefix+`-back"`, s.prefix+"-back"+suffix+`"`)
	}
	lines := append(strings.Split(strings.NewReplacer(changes...).Replace(want), "\n"), "Config.Labels.restored: yes")
	if suffix != "" {
		lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "IPAMConfig") })
	}
	slices.Sort(lines)
	return lines
}

// TestBindsMove covers the placement of host paths.
func TestBindsMove(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p, old, moved := dockertest.Prefix(t, h), t.TempDir(), t.TempDir()
		if err := os.WriteFile(filepath.Join(moved, "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		dockertest.Create(t, h, client.ContainerCreateOptions{
			Name: p + "-a", Config: &container.Config{Image: dockertest.Busybox(t, h), Cmd: []string{"ls", "/one/f", "/two/f"}},
			HostConfig: &container.HostConfig{Binds: []string{old + ":/one"}, Mounts: []mount.Mount{{Type: mount.TypeBind, Source: old, Target: "/two"}}},
		})
		id, _, err := e.CreateContainer(ctxOf(t), find(t, e, p+"-a"), snapshot.Placement{Name: p + "-b", Image: dockertest.Busybox(t, h), Binds: map[string]string{old: moved}})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { s, err := e.State(ctxOf(t), id); return err == nil && s.State == "exited" })
		if s, err := e.State(ctxOf(t), id); err != nil || s.ExitCode != 0 || !strings.Contains(s.Log, "/two/f") {
			t.Errorf("%+v, %v", s, err)
		}
	})
}

// TestMACAddress: a MAC address that was asked for stays, one that an engine made up does not become
// one that was asked for, between engines that keep it in different places.
func TestMACAddress(t *testing.T) {
	t.Parallel()
	hosts := dockertest.Engines(t)
	for i, from := range hosts {
		t.Run(from.Name, func(t *testing.T) {
			t.Parallel()
			prefix, e := dockertest.Prefix(t, from), connect(t, from)
			mac := fmt.Sprintf("02:42:ac:11:ee:%02x", i)
			inspect := fmt.Sprintf(`{"Config":{"Cmd":["sleep","1000"],"StopSignal":"KILL","MacAddress":%q},"HostConfig":{"NetworkMode":"default"},"NetworkSettings":{"Networks":{"bridge":{}}}}`, mac)
			asked := snapshot.Container{ID: strings.Repeat("a", 64), Inspect: []byte(inspect)}
			made := snapshot.Container{ID: asked.ID, Inspect: []byte(strings.Replace(inspect, mac, "", 1))}
			for name, c := range map[string]snapshot.Container{prefix + "-asked": asked, prefix + "-made": made} {
				if err := e.Start(ctxOf(t), create(t, e, from, c, name)); err != nil { // which makes an address up
					t.Fatal(err)
				}
			}
			for _, to := range hosts {
				e2 := connect(t, to)
				dockertest.RemoveLater(t, to, prefix, from == to)
				create(t, e2, to, find(t, e, prefix+"-asked"), prefix+"-asked2")
				create(t, e2, to, find(t, e, prefix+"-made"), prefix+"-made2")
				if got := macOf(t, find(t, e2, prefix+"-asked2")); got != mac {
					t.Errorf("%s: %q was asked for, now it is %q", to.Name, mac, got)
				}
				if got := macOf(t, find(t, e2, prefix+"-made2")); got != "" {
					t.Errorf("%s: %q was not asked for", to.Name, got)
				}
				for _, name := range []string{"-asked2", "-made2"} {
					if err := e2.RemoveContainer(ctxOf(t), prefix+name); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// create creates a container again.
func create(t *testing.T, e *docker.Engine, h dockertest.Host, c snapshot.Container, name string) string {
	t.Helper()
	id, _, err := e.CreateContainer(ctxOf(t), c, snapshot.Placement{Name: name, Image: dockertest.Busybox(t, h)})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// macOf returns the MAC address that was asked for.
func macOf(t *testing.T, c snapshot.Container) string {
	t.Helper()
	var in struct{ Config struct{ MacAddress string } }
	if err := json.Unmarshal(c.Inspect, &in); err != nil {
		t.Fatal(err)
	}
	return in.Config.MacAddress
}
