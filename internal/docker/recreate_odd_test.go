package docker_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// again describes a container, creates it again beside itself, and describes that.
func again(t *testing.T, e *docker.Engine, name string, p snapshot.Placement) snapshot.Container {
	t.Helper()
	p.Name = name + "-again"
	if _, _, err := e.CreateContainer(ctxOf(t), find(t, e, name), p); err != nil {
		t.Fatal(err)
	}
	return find(t, e, p.Name)
}

// TestLegacyLinks: containers on the default bridge are linked by another mechanism.
func TestLegacyLinks(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		image, p := dockertest.Busybox(t, h), dockertest.Prefix(t, h)
		config := &container.Config{Image: image, Cmd: []string{"sleep", "1000"}, StopSignal: "KILL"}
		dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + "-db", Config: config})
		dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + "-db2", Config: config})
		dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + "-web", Config: config, HostConfig: &container.HostConfig{Links: []string{p + "-db:database"}}})
		if diff := cmp.Diff([]snapshot.Dependency{{Container: p + "-db", Condition: "service_started"}}, find(t, e, p+"-web").DependsOn); diff != "" {
			t.Error(diff)
		}
		got := again(t, e, p+"-web", snapshot.Placement{Image: image, Containers: map[string]string{p + "-db": p + "-db2"}})
		if diff := cmp.Diff([]snapshot.Dependency{{Container: p + "-db2", Condition: "service_started"}}, got.DependsOn); diff != "" {
			t.Error(diff)
		}
		if !strings.Contains(string(got.Inspect), "/database\"") {
			t.Errorf("the alias is lost: %s", got.Inspect)
		}
		names, err := e.Names(ctxOf(t))
		if err != nil || existing(names.Containers, p+"-db").Name == "" { // listed also as /web/database
			t.Error(names, err)
		}
	})
}

// TestNetworksLeft: the network that a container was created with need not be the one it is in.
func TestNetworksLeft(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		image, p, c := dockertest.Busybox(t, h), dockertest.Prefix(t, h), dockertest.Client(t, h)
		ids := map[string]string{}
		for _, name := range []string{p + "-a", p + "-b"} {
			made, err := c.NetworkCreate(t.Context(), name, client.NetworkCreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ids[name] = made.ID
		}
		config := &container.Config{Image: image, Cmd: []string{"sleep", "1000"}, StopSignal: "KILL"}
		dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + "-by-id", Config: config, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(ids[p+"-a"])}})
		left := dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + "-left", Config: config, HostConfig: &container.HostConfig{NetworkMode: container.NetworkMode(p + "-a")}})
		if _, err := c.NetworkConnect(t.Context(), p+"-b", client.NetworkConnectOptions{Container: left}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.NetworkDisconnect(t.Context(), p+"-a", client.NetworkDisconnectOptions{Container: left}); err != nil {
			t.Fatal(err)
		}
		if got := again(t, e, p+"-by-id", snapshot.Placement{Image: image}); !slices.Equal(got.Networks, []string{p + "-a"}) {
			t.Errorf("by id: %v", got.Networks)
		}
		if got := again(t, e, p+"-by-id-again", snapshot.Placement{Image: image, Networks: map[string]string{p + "-a": p + "-b"}}); !slices.Equal(got.Networks, []string{p + "-b"}) {
			t.Errorf("moved: %v", got.Networks)
		}
		if got := again(t, e, p+"-left", snapshot.Placement{Image: image}); !slices.Equal(got.Networks, []string{p + "-b"}) {
			t.Errorf("left: %v", got.Networks)
		}
	})
}

// TestPortsMove covers what a placement may say of a published port.
func TestPortsMove(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		image, p := dockertest.Busybox(t, h), dockertest.Prefix(t, h)
		bindings, exposed := network.PortMap{}, network.PortSet{}
		for inside, outside := range map[string]string{"1/tcp": "1001", "2/tcp": "1002", "3/udp": "1003", "4/tcp": "1004", "5/tcp": "1005", "6/tcp": "1006"} {
			port := network.MustParsePort(inside)
			bindings[port], exposed[port] = []network.PortBinding{{HostPort: outside}}, struct{}{}
		}
		dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: image, ExposedPorts: exposed}, HostConfig: &container.HostConfig{PortBindings: bindings}})
		got := again(t, e, p, snapshot.Placement{Image: image, Ports: map[string]string{
			"1002/tcp": "2002", "1003/udp": "127.0.0.1:2003", "1003/tcp": "9", "1004/tcp": snapshot.Unpublished, "1005/tcp": "", "1006/tcp": "[::1]:2006",
		}})
		want := []snapshot.Port{
			{Container: "1/tcp", HostPort: "1001"},
			{Container: "2/tcp", HostPort: "2002"},
			{Container: "3/udp", HostIP: "127.0.0.1", HostPort: "2003"},
			{Container: "5/tcp"},
			{Container: "6/tcp", HostIP: "::1", HostPort: "2006"},
		}
		if diff := cmp.Diff(want, got.Ports); diff != "" {
			t.Error(diff)
		}
	})
}

// TestPartsLeftOut: a placement leaves parts to the engine's defaults, also those that it would refuse.
func TestPartsLeftOut(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		image, p := dockertest.Busybox(t, h), dockertest.Prefix(t, h)
		inspect := `{"Id":"x","Config":{"Cmd":["sleep","1000"]},"HostConfig":{"NanoCpus":4096000000000,"CpusetCpus":"4000","Memory":67108864,"Runtime":"nvidia","LogConfig":{"Type":"tarpit"},
			"Devices":[{"PathOnHost":"/dev/no-such","PathInContainer":"/dev/x","CgroupPermissions":"r"}],"CgroupParent":"x.slice/","RestartPolicy":{"Name":"always"},
			"PortBindings":{"1/tcp":[{"HostIp":"192.0.2.1","HostPort":"1"}]}},"NetworkSettings":{"Networks":{}}}`
		c := snapshot.Container{ID: "x", Inspect: []byte(inspect)}
		place := snapshot.Placement{Name: p, Image: image}
		if _, _, err := e.CreateContainer(ctxOf(t), c, place); err == nil {
			t.Fatal("the engine was to refuse this")
		}
		place.Without = []snapshot.Part{snapshot.PartCPU, snapshot.PartMemory, snapshot.PartRuntime, snapshot.PartLogDriver, snapshot.PartDevices, snapshot.PartCgroup, snapshot.PartRestart, snapshot.PartHostIPs}
		id, _, err := e.CreateContainer(ctxOf(t), c, place)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		got := find(t, e, p)
		if got.Restart != "no" || len(e.Misfits(got)) > 0 || got.Ports[0].HostIP != "" {
			t.Errorf("%+v, %v", got, e.Misfits(got))
		}
	})
}

// TestNoEntrypoint: that a container has none is more than that it asks for none.
func TestNoEntrypoint(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		dockertest.Image(t, h, p+"/entry:1", map[string]any{"Entrypoint": []string{"/entry"}}, dockertest.Layer(t, dockertest.File{Name: "x"}))
		dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: p + "/entry:1", Entrypoint: []string{""}, Cmd: []string{"own"}}})
		var in struct {
			Config struct{ Entrypoint, Cmd []string }
		}
		if err := json.Unmarshal(again(t, e, p, snapshot.Placement{Image: p + "/entry:1"}).Inspect, &in); err != nil {
			t.Fatal(err)
		}
		if len(in.Config.Entrypoint) != 0 || !slices.Equal(in.Config.Cmd, []string{"own"}) {
			t.Errorf("%+v", in.Config)
		}
	})
}
