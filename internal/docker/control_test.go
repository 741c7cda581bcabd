package docker_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

func TestControl(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p, ctx := dockertest.Prefix(t, h), ctxOf(t)
		options := client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: dockertest.Busybox(t, h), StopSignal: "KILL", Cmd: []string{"sleep", "1000"}}, HostConfig: &container.HostConfig{RestartPolicy: container.RestartPolicy{Name: "always"}}}
		id := dockertest.Create(t, h, options)
		is := func(want string) {
			t.Helper()
			if s, err := e.State(ctx, id); err != nil || s.State != want {
				t.Errorf("%+v, %v; want %s", s, err, want)
			}
		}
		wrong := func(what string, err, want error) {
			t.Helper()
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		is("created")
		wrong("pause created", e.Pause(ctx, id), snapshot.ErrState)
		wrong("exec created", execErr(e.Exec(ctx, id, []string{"true"}, nil)), snapshot.ErrState)
		wrong("stop created", e.Stop(ctx, id), nil)
		wrong("start", e.Start(ctx, id), nil)
		wrong("start again", e.Start(ctx, id), nil)
		is("running")
		wrong("unpause running", e.Unpause(ctx, id), snapshot.ErrState)
		wrong("pause", e.Pause(ctx, id), nil)
		wrong("pause again", e.Pause(ctx, id), snapshot.ErrState)
		is("paused")
		wrong("exec paused", execErr(e.Exec(ctx, id, []string{"true"}, nil)), snapshot.ErrState)
		wrong("unpause", e.Unpause(ctx, id), nil)
		execs(t, e, id)

		wrong("rename", e.Rename(ctx, id, p+"-renamed"), nil)
		dockertest.Create(t, h, options)
		wrong("rename to the taken", e.Rename(ctx, id, p), snapshot.ErrExists)
		for _, policy := range []string{"no", "on-failure:3", "always"} {
			wrong("restart policy", e.SetRestartPolicy(ctx, id, policy), nil)
			if is, err := e.RestartPolicy(ctx, id); is != policy || err != nil {
				t.Errorf("restart policy %q, %v, want %q", is, err, policy)
			}
		}
		wrong("stop", e.Stop(ctx, id), nil)
		is("exited")
		wrong("remove", e.RemoveContainer(ctx, id), nil)
		wrong("remove again", e.RemoveContainer(ctx, id), nil)
		wrong("start removed", e.Start(ctx, id), snapshot.ErrMissing)
		wrong("pause removed", e.Pause(ctx, id), snapshot.ErrMissing)
		wrong("stop removed", e.Stop(ctx, id), snapshot.ErrMissing)
	})
}

func execErr(_ int, err error) error { return err }

func execs(t *testing.T, e *docker.Engine, id string) {
	var out bytes.Buffer
	code, err := e.Exec(ctxOf(t), id, []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, &out)
	if err != nil || code != 3 || !strings.Contains(out.String(), "out\n") || !strings.Contains(out.String(), "err\n") {
		t.Errorf("%d, %v, %q", code, err, out.String())
	}
	out.Reset()
	if code, err := e.Exec(ctxOf(t), id, []string{"dd", "if=/dev/zero", "bs=1000000", "count=1"}, &out); err != nil || code != 0 || out.Len() != 64<<10 {
		t.Errorf("%d, %v, %d bytes", code, err, out.Len())
	}
	ctx, cancel := context.WithTimeout(ctxOf(t), time.Second)
	defer cancel()
	if _, err := e.Exec(ctx, id, []string{"sleep", "60"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestState tells what a container that failed had to say.
func TestState(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		for name, tty := range map[string]bool{p + "-plain": false, p + "-tty": true} {
			id := dockertest.Run(t, h, client.ContainerCreateOptions{Name: name, Config: &container.Config{
				Image: dockertest.Busybox(t, h), Tty: tty,
				Cmd: []string{"sh", "-c", "for i in $(seq 30); do echo line $i; done; exit 4"},
			}})
			waitFor(t, func() bool { s, err := e.State(ctxOf(t), id); return err == nil && s.State == "exited" })
			s, err := e.State(ctxOf(t), id)
			if err != nil || s.ExitCode != 4 || !strings.HasPrefix(s.Log, "line 11") || !strings.HasSuffix(s.Log, "line 30") {
				t.Errorf("%+v, %v", s, err)
			}
		}
		sick := dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + "-sick", Config: &container.Config{
			Image: dockertest.Busybox(t, h), Cmd: []string{"sleep", "1000"}, StopSignal: "KILL",
			Healthcheck: &container.HealthConfig{Test: []string{"CMD", "false"}, Interval: 100 * time.Millisecond, Retries: 1, Timeout: 10 * time.Second},
		}})
		waitFor(t, func() bool { s, err := e.State(ctxOf(t), sick); return err == nil && s.Health == "unhealthy" })
		if _, err := e.State(ctxOf(t), p+"-none"); !errors.Is(err, snapshot.ErrMissing) {
			t.Error(err)
		}
	})
}

// TestHealthAfterPause: a backup pauses containers, and what it stores of their health decides what a restore waits for.
func TestHealthAfterPause(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p, ctx := dockertest.Prefix(t, h), ctxOf(t)
		run := func(name, check string, retries int) string {
			return dockertest.Run(t, h, client.ContainerCreateOptions{Name: p + name, Config: &container.Config{
				Image: dockertest.Busybox(t, h), Cmd: []string{"sleep", "1000"}, StopSignal: "KILL",
				Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", check}, Interval: time.Second, Retries: retries, Timeout: 10 * time.Second},
			}})
		}
		for id, want := range map[string]string{run("-well", "true", 0): "healthy", run("-sick", "false", 1): "unhealthy"} {
			waitFor(t, func() bool { s, err := e.State(ctx, id); return err == nil && s.Health == want })
			if s, err := e.State(ctx, id); err != nil || time.Until(s.NextCheck).Abs() > 10*time.Second {
				t.Errorf("%+v, %v; want the next of the checks, one a second", s, err)
			}
			if err := e.Pause(ctx, id); err != nil {
				t.Fatal(err)
			}
			if s, err := e.State(ctx, id); err != nil || s.Health != want {
				t.Errorf("paused: %+v, %v; want %s", s, err, want)
			}
			if err := e.Unpause(ctx, id); err != nil {
				t.Fatal(err)
			}
			if s, err := e.State(ctx, id); err != nil || s.Health != want {
				t.Errorf("going on: %+v, %v; want %s", s, err, want)
			}
		}
	})
}

func TestPutArchive(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		id := dockertest.Create(t, h, client.ContainerCreateOptions{
			Name: p, Config: &container.Config{Image: dockertest.Busybox(t, h), Cmd: []string{"cat", "/v/in/side"}},
			HostConfig: &container.HostConfig{Binds: []string{p + ":/v"}},
		})
		files := dockertest.Layer(t, dockertest.File{Name: "in/"}, dockertest.File{Name: "in/side", Data: []byte("put here")})
		if err := e.PutArchive(ctxOf(t), id, "/v", bytes.NewReader(files)); err != nil {
			t.Fatal(err)
		}
		if err := e.Start(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { s, err := e.State(ctxOf(t), id); return err == nil && s.State == "exited" })
		if s, err := e.State(ctxOf(t), id); err != nil || s.Log != "put here" {
			t.Errorf("%+v, %v", s, err)
		}
		if err := e.PutArchive(ctxOf(t), id, "/no/such", bytes.NewReader(files)); !errors.Is(err, snapshot.ErrMissing) {
			t.Error(err)
		}
	})
}

func TestVolumes(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p, ctx := dockertest.Prefix(t, h), ctxOf(t)
		v := snapshot.Volume{Driver: "local", Options: map[string]string{"type": "tmpfs", "device": "tmpfs"}, Labels: map[string]string{"a": "1", "b": "1"}}
		if err := e.CreateVolume(ctx, v, p, map[string]string{"b": "2"}); err != nil {
			t.Fatal(err)
		}
		if err := e.CreateVolume(ctx, v, p, nil); !errors.Is(err, snapshot.ErrExists) {
			t.Error(err)
		}
		at, err := e.VolumeMountpoint(ctx, p)
		if err != nil || !strings.HasPrefix(at, e.Facts().RootDir) {
			t.Error(at, err)
		}
		names, err := e.Names(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := existing(names.Volumes, p); got.Labels["a"] != "1" || got.Labels["b"] != "2" {
			t.Errorf("%+v", got)
		}
		for range 2 {
			if err := e.RemoveVolume(ctx, p); err != nil {
				t.Error(err)
			}
		}
		if _, err := e.VolumeMountpoint(ctx, p); !errors.Is(err, snapshot.ErrMissing) {
			t.Error(err)
		}
	})
}

func existing(list []snapshot.Existing, name string) snapshot.Existing {
	for _, one := range list {
		if one.Name == name {
			return one
		}
	}
	return snapshot.Existing{}
}

// TestNetworksOverlap: a network whose subnet is taken gets another one, and says so.
func TestNetworksOverlap(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p, ctx := dockertest.Prefix(t, h), ctxOf(t)
		n := snapshot.Network{Name: "n", Inspect: []byte(`{"Name":"n","Id":"x","Scope":"local","Driver":"bridge","EnableIPv6":false,"IPAM":{"Driver":"default","Options":null,
			"Config":[{"Subnet":"10.214.7.0/24","Gateway":"10.214.7.1/24"}]},"Internal":true,"Options":{},"Labels":{"a":"1"}}`)}
		id, warnings, err := e.CreateNetwork(ctx, n, p+"-1", nil)
		if err != nil || len(warnings) != 0 {
			t.Fatal(warnings, err)
		}
		if _, _, err := e.CreateNetwork(ctx, n, p+"-1", nil); !errors.Is(err, snapshot.ErrExists) {
			t.Error(err)
		}
		if _, warnings, err = e.CreateNetwork(ctx, n, p+"-2", map[string]string{"b": "2"}); err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "10.214.7.0/24") {
			t.Error(warnings, err)
		}
		names, err := e.Names(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := existing(names.Networks, p+"-2"); got.Labels["a"] != "1" || got.Labels["b"] != "2" {
			t.Errorf("%+v", got)
		}
		for range 2 {
			if err := e.RemoveNetwork(ctx, id); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNamesOfContainers(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		port := network.MustParsePort("80/tcp")
		id := dockertest.Run(t, h, client.ContainerCreateOptions{
			Name: p, Config: &container.Config{
				Image: dockertest.Busybox(t, h), Cmd: []string{"sleep", "1000"}, StopSignal: "KILL",
				Labels: map[string]string{"mine": "yes"}, ExposedPorts: network.PortSet{port: {}},
			},
			HostConfig: &container.HostConfig{PortBindings: network.PortMap{port: {{HostPort: ""}}}},
		})
		names, err := e.Names(ctxOf(t))
		if err != nil {
			t.Fatal(err)
		}
		if got := existing(names.Containers, p); got.ID != id || got.State != "running" || got.Labels["mine"] != "yes" {
			t.Errorf("%+v", got)
		}
		found := false
		for _, one := range names.Ports {
			found = found || one.Container == p && one.HostPort > 1024 && one.Proto == "tcp"
		}
		if !found {
			t.Errorf("%+v", names.Ports)
		}
	})
}

func TestMisfits(t *testing.T) {
	each(t, func(t *testing.T, _ dockertest.Host, e *docker.Engine) {
		for inspect, want := range map[string]snapshot.Part{
			`{}`: "",
			`{"HostConfig":{"NanoCpus":500000000,"CpusetCpus":"0","Runtime":"runc","LogConfig":{"Type":"json-file"}}}`: "",
			`{"HostConfig":{"NanoCpus":4096000000000}}`:                                                                snapshot.PartCPU,
			`{"HostConfig":{"CpusetCpus":"0,1-4000"}}`:                                                                 snapshot.PartCPU,
			`{"HostConfig":{"Runtime":"nvidia"}}`:                                                                      snapshot.PartRuntime,
			`{"HostConfig":{"LogConfig":{"Type":"tarpit"}}}`:                                                           snapshot.PartLogDriver,
			`{"HostConfig":{"CgroupParent":"system.slice"}}`:                                                           snapshot.PartCgroup,
			`{"HostConfig":{"Devices":[{"PathOnHost":"/dev/ttyUSB0"}]}}`:                                               snapshot.PartDevices,
			`{"HostConfig":{"DeviceRequests":[{"Driver":"nvidia"}]}}`:                                                  snapshot.PartDevices,
		} {
			got := e.Misfits(snapshot.Container{Inspect: []byte(inspect)})
			if (len(got) == 0) != (want == "") || len(got) > 0 && got[0].Part != want {
				t.Errorf("%s: %+v", inspect, got)
			}
		}
	})
}
