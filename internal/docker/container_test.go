package docker_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// find returns the description of a container by name.
func find(t testing.TB, e *docker.Engine, name string) snapshot.Container {
	t.Helper()
	all, err := e.Containers(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no container %s", name)
	return snapshot.Container{}
}

func TestContainers(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		image, p := dockertest.Busybox(t, h), dockertest.Prefix(t, h)
		project := map[string]string{"com.docker.compose.project": p, "com.docker.compose.service": "db"}
		db := dockertest.Run(t, h, client.ContainerCreateOptions{
			Name:       p + "-db",
			Config:     &container.Config{Image: image, Cmd: []string{"sleep", "1000"}, Labels: project, Volumes: map[string]struct{}{"/anonymous": {}}},
			HostConfig: &container.HostConfig{Binds: []string{p + "-data:/data:ro", "/etc/hostname:/x"}, Tmpfs: map[string]string{"/run": ""}},
		})
		dockertest.Create(t, h, client.ContainerCreateOptions{
			Name: p + "-web",
			Config: &container.Config{Image: image, Cmd: []string{"true"}, Labels: map[string]string{
				"com.docker.compose.project": p, "com.docker.compose.service": "web", "com.docker.compose.depends_on": "db:service_healthy:true,gone:service_started:false",
			}},
			HostConfig: &container.HostConfig{
				VolumesFrom: []string{db}, NetworkMode: container.NetworkMode("container:" + p + "-db"),
				Mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/nameless"}},
			},
		})
		c := find(t, e, p+"-db")
		if c.ID != db || c.Service != "db" || c.State != "running" || c.Pid == 0 || c.Health != "" || c.Image != image || !slices.Equal(c.Networks, []string{"bridge"}) {
			t.Errorf("%+v", c)
		}
		anonymous := c.Mounts[0].Name
		want := []snapshot.Mount{
			{Type: "volume", Name: anonymous, Destination: "/anonymous", Anonymous: true},
			{Type: "volume", Name: p + "-data", Destination: "/data", ReadOnly: true},
			{Type: "tmpfs", Destination: "/run"},
			{Type: "bind", Source: "/etc/hostname", Destination: "/x"},
		}
		if diff := cmp.Diff(want, c.Mounts); diff != "" {
			t.Error(diff)
		}
		web := find(t, e, p+"-web")
		if diff := cmp.Diff([]snapshot.Dependency{{Container: p + "-db", Condition: "service_healthy"}}, web.DependsOn); diff != "" {
			t.Error(diff)
		}
		if web.State != "created" {
			t.Errorf("state %s", web.State)
		}

		s, err := e.Surroundings(ctxOf(t), []snapshot.Container{c, web})
		if err != nil || len(s.Problems) > 0 {
			t.Fatal(err, s.Problems)
		}
		if len(s.Images) != 1 || s.Containers[0].ImageKey != s.Images[0].Config || s.Images[0].Layers[0].DiffID == "" || s.Images[0].OS != "linux" {
			t.Errorf("%+v", s.Images)
		}
		if len(s.Networks) != 1 || !s.Networks[0].Predefined || s.Networks[0].Driver != "bridge" {
			t.Errorf("%+v", s.Networks)
		}
		var volumes []string
		for _, v := range s.Volumes {
			volumes = append(volumes, fmt.Sprintf("%v %v %s", v.Name == p+"-data", v.Anonymous, v.Driver))
		}
		slices.Sort(volumes)
		if diff := cmp.Diff([]string{"false true local", "false true local", "true false local"}, volumes); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]snapshot.Bind{{Source: "/etc/hostname"}}, s.Binds); diff != "" {
			t.Error(diff)
		}
	})
}

// TestSurroundingsUnlabelled: which restore made a thing is not the user's label, and is not described.
func TestSurroundingsUnlabelled(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p, ctx := dockertest.Prefix(t, h), ctxOf(t)
		labels := map[string]string{"mine": "1", snapshot.LabelRestore: "run"}
		if err := e.CreateVolume(ctx, snapshot.Volume{Driver: "local"}, p, labels); err != nil {
			t.Fatal(err)
		}
		if _, _, err := e.CreateNetwork(ctx, snapshot.Network{Name: "n", Inspect: []byte(`{"Driver":"bridge","Internal":true}`)}, p, labels); err != nil {
			t.Fatal(err)
		}
		names, err := e.Names(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []snapshot.Existing{existing(names.Volumes, p), existing(names.Networks, p)} {
			if x.Labels[snapshot.LabelRestore] != "run" {
				t.Errorf("listed: %+v", x)
			}
		}
		s, err := e.Surroundings(ctx, []snapshot.Container{{Mounts: []snapshot.Mount{{Type: "volume", Name: p}}, Networks: []string{p}}})
		if err != nil || len(s.Volumes) != 1 || len(s.Networks) != 1 {
			t.Fatal(err, s)
		}
		if diff := cmp.Diff(map[string]string{"mine": "1"}, s.Volumes[0].Labels); diff != "" {
			t.Error(diff)
		}
		for _, inspect := range []string{string(s.Volumes[0].Inspect), string(s.Networks[0].Inspect)} {
			if strings.Contains(inspect, snapshot.LabelRestore) || !strings.Contains(inspect, `"mine":"1"`) {
				t.Errorf("%s", inspect)
			}
		}
	})
}

// TestSurroundingsOfTheVanished: what is gone is a problem, not a failure.
func TestSurroundingsOfTheVanished(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		c := snapshot.Container{
			ImageID: "sha256:" + strings.Repeat("0", 64), Inspect: []byte("{}"), Networks: []string{"hakotest-none"},
			Mounts: []snapshot.Mount{{Type: "volume", Name: "hakotest-none", Destination: "/x"}},
		}
		s, err := e.Surroundings(ctxOf(t), []snapshot.Container{c})
		if err != nil || len(s.Problems) != 3 {
			t.Fatal(err, s)
		}
	})
}

// layered gives the engine an image of three layers, one of which occurs twice.
func layered(t testing.TB, h dockertest.Host, ref string) (string, []string, [][]byte) {
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	base := dockertest.Layer(t, dockertest.File{Name: "a/"}, dockertest.File{Name: "a/big", Data: big}, dockertest.File{Name: "a/link", Link: "/a"})
	top := dockertest.Layer(t, dockertest.File{Name: "b/"}, dockertest.File{Name: "b/" + strings.Repeat("long", 60), Data: []byte("x")}, dockertest.File{Name: "a/.wh.link"})
	layers := [][]byte{base, top, base}
	config, ids := dockertest.Image(t, h, ref, map[string]any{"Cmd": []string{"x"}}, layers...)
	return config, ids, layers
}

func TestLayersAreByteExact(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		config, ids, layers := layered(t, h, p+"/layered:1")
		dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: p + "/layered:1"}})
		img := imageOf(t, e, p)
		if img.Config != config || img.Config != digest(img.RawConfig) || len(img.Layers) != 3 {
			t.Fatalf("%+v", img)
		}
		for n := range layers {
			if img.Layers[n] != (snapshot.Layer{DiffID: ids[n]}) {
				t.Errorf("layer %d is %+v", n, img.Layers[n])
			}
			checkLayer(t, e, img, n)
			checkLayer(t, remote(t, h), img, n)
			checkLayer(t, older(t, h, "1.45"), img, n) // its containerd is not told
		}
		far := imageOf(t, remote(t, h), p)
		if far.Config != config || !bytes.Equal(far.RawConfig, img.RawConfig) {
			t.Errorf("%+v", far)
		}
		if _, err := e.OpenLayer(ctxOf(t), img, 3); err == nil {
			t.Error("there is no layer 3")
		}
	})
}

// TestImagesOfARemoteEngine: without a save of the whole image, its configuration can be read, and on
// containerd's store its layers, too.
func TestImagesOfARemoteEngine(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		config, _, layers := layered(t, h, p+"/layered:1")
		dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: p + "/layered:1"}})
		upper, err := e.Upper(ctxOf(t), find(t, e, p))
		if err != nil {
			t.Fatal(err)
		}
		root, _, _ := strings.Cut(upper, "/io.containerd.")
		far := withoutSave(t, h, root)
		img := imageOf(t, far, p)
		if img.Config != config || digest(img.RawConfig) != config {
			t.Errorf("%+v", img)
		}
		if e.Facts().Containerd {
			for n := range layers {
				checkLayer(t, far, img, n)
			}
		} else if _, err := io.ReadAll(must(far.OpenLayer(ctxOf(t), img, 0))); err == nil || !strings.Contains(err.Error(), "no saves here") {
			t.Error(err)
		}
		waitFor(t, func() bool { return len(labelled(t, h, "read", "")) == 0 })
	})
}

// must is r, or a reader of err.
func must(r io.ReadCloser, err error) io.Reader {
	if err != nil {
		return iotest.ErrReader(err)
	}
	return r
}

// imageOf describes the image of a container.
func imageOf(t testing.TB, e *docker.Engine, name string) snapshot.Image {
	t.Helper()
	s, err := e.Surroundings(ctxOf(t), []snapshot.Container{find(t, e, name)})
	if err != nil || len(s.Problems) > 0 || len(s.Images) != 1 {
		t.Fatal(err, s)
	}
	return s.Images[0]
}

func checkLayer(t testing.TB, e *docker.Engine, img snapshot.Image, n int) {
	t.Helper()
	r, err := e.OpenLayer(ctxOf(t), img, n)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != img.Layers[n].DiffID {
		t.Errorf("layer %d is %s, want %s", n, got, img.Layers[n].DiffID)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// TestUpper finds the changes of a container that runs, is stopped, and never ran.
func TestUpper(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		image, p := dockertest.Busybox(t, h), dockertest.Prefix(t, h)
		id := dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{
			Image: image, StopSignal: "KILL",
			Cmd: []string{"sh", "-c", "echo here > /tmp/mark; rm /etc/group; sleep 1000"},
		}})
		created, err := e.Upper(ctxOf(t), find(t, e, p))
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Start(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		running, err := e.Upper(ctxOf(t), find(t, e, p))
		if err != nil || running != created {
			t.Errorf("%v: %s, created %s", err, running, created)
		}
		waitFor(t, func() bool { _, err := os.Lstat(filepath.Join(running, "etc/group")); return err == nil })
		if mark, err := os.ReadFile(filepath.Join(running, "tmp/mark")); err != nil || string(mark) != "here\n" {
			t.Errorf("%v: %q", err, mark)
		}
		if dir, err := older(t, h, "1.45").Upper(ctxOf(t), find(t, e, p)); err != nil || dir != created { // from its mounts
			t.Errorf("%v: %s, created %s", err, dir, created)
		}
		if err := e.Stop(ctxOf(t), id); err != nil {
			t.Fatal(err)
		}
		stopped, err := e.Upper(ctxOf(t), find(t, e, p))
		if err != nil || stopped != created {
			t.Errorf("%v: %s, created %s", err, stopped, created)
		}
		far := remote(t, h)
		if _, err := far.Upper(ctxOf(t), find(t, e, p)); err == nil {
			t.Error("the files of a remote engine are not to be seen")
		}
		if dir, err := far.RemoteUpper(ctxOf(t), find(t, e, p)); (err == nil) == e.Facts().Containerd || err == nil && dir != created {
			t.Errorf("%v: %s, created %s", err, dir, created)
		}
	})
}
