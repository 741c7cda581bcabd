package docker_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

func TestCheckImage(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		config, ids, _ := layered(t, h, p+"/layered:1")
		want := snapshot.Image{Config: config}
		for _, id := range ids {
			want.Layers = append(want.Layers, snapshot.Layer{DiffID: id})
		}
		for _, e := range []*docker.Engine{e, remote(t, h), older(t, h, "1.47")} {
			id, err := e.CheckImage(ctxOf(t), p+"/layered:1", want)
			if err != nil || !strings.HasPrefix(id, "sha256:") || (id == config) == e.Facts().Containerd {
				t.Errorf("%s, %v", id, err)
			}
		}
		if _, err := e.CheckImage(ctxOf(t), p+"/other:1", want); !errors.Is(err, snapshot.ErrMissing) {
			t.Error(err)
		}
		other := want
		other.Config = "sha256:" + strings.Repeat("0", 64)
		if _, err := e.CheckImage(ctxOf(t), p+"/layered:1", other); err == nil {
			t.Error("another configuration went unnoticed")
		}
		other = want
		other.Layers = want.Layers[:2]
		if _, err := e.CheckImage(ctxOf(t), p+"/layered:1", other); err == nil {
			t.Error("other layers went unnoticed")
		}

		images, err := e.Images(ctxOf(t))
		if err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(images, func(img snapshot.Image) bool { return slices.Contains(img.Tags, p+"/layered:1") })
		if at < 0 || images[at].Config != config || len(images[at].Layers) != 3 || images[at].Layers[1].DiffID != ids[1] {
			t.Errorf("%d: %+v", at, images)
		}
		tagAndUntag(t, e, p)
		waitFor(t, func() bool { return len(labelled(t, h, "check", "")) == 0 }) // others' come and go
	})
}

// older connects as a client of an older API does: before 1.48 engines do not tell what content they
// have, before 1.46 not where their containerd is.
func older(t *testing.T, h dockertest.Host, version string) *docker.Engine {
	t.Helper()
	if h.Name == "E20" {
		version = "1.41"
	}
	e, err := docker.Connect(ctxOf(t), docker.Options{Host: h.Host, Env: func(name string) string {
		return map[string]string{"DOCKER_API_VERSION": version}[name]
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func tagAndUntag(t *testing.T, e *docker.Engine, p string) {
	if err := e.Tag(ctxOf(t), p+"/layered:1", p+"/more:2"); err != nil {
		t.Error(err)
	}
	if err := e.Tag(ctxOf(t), p+"/none:1", p+"/more:2"); !errors.Is(err, snapshot.ErrMissing) {
		t.Error(err)
	}
	for range 2 {
		if err := e.Untag(ctxOf(t), p+"/more:2"); err != nil {
			t.Error(err)
		}
	}
}

// TestLoadOfTheIncomplete: the engine answers 200 in all these cases.
func TestLoadOfTheIncomplete(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		layer := dockertest.Layer(t, dockertest.File{Name: "only here", Data: []byte(p)})
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		manifest := func(ref string) string {
			return `[{"Config":"config.json","RepoTags":["` + p + ref + `"],"Layers":["layer.tar"]}]`
		}
		for name, files := range map[string]map[string]string{
			"no layer":      {"config.json": string(config), "manifest.json": manifest("/none:1")},
			"another layer": {"config.json": string(config), "manifest.json": manifest("/another:1"), "layer.tar": string(dockertest.Layer(t, dockertest.File{Name: "x"}))},
			"nothing":       {},
		} {
			if err := e.Load(ctxOf(t), archive(t, files)); err == nil {
				t.Errorf("%s: loaded", name)
			}
		}
		want := snapshot.Image{Config: digest(config), Layers: []snapshot.Layer{{DiffID: digest(layer)}}}
		files := map[string]string{"config.json": string(config), "manifest.json": manifest("/whole:1"), "layer.tar": string(layer)}
		if err := e.Load(ctxOf(t), archive(t, files)); err != nil {
			t.Fatal(err)
		}
		if _, err := e.CheckImage(ctxOf(t), p+"/whole:1", want); err != nil {
			t.Error(err)
		}
	})
}

func archive(t *testing.T, files map[string]string) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

// TestFailureInsideAnswer covers the ways in which engines say so.
func TestFailureInsideAnswer(t *testing.T) {
	for answer, want := range map[string]string{
		`{"stream":"Loaded image: x"}`:                         "",
		`{"errorDetail":{"message":"deep"},"error":"shallow"}`: "deep",
		`{"error":"shallow"}`:                                  "shallow",
		`{"stream":"Loaded image: x\n"}` + "\n" + `{"stream":"Error unpacking image x: gone\n"}`: "Error unpacking image x: gone",
		`{"stream":`:      "answer of the engine",
		`<html>no</html>`: "answer of the engine",
	} {
		err := fakeEngine(t, map[string]string{"/images/load": answer}).Load(ctxOf(t), strings.NewReader(""))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", answer, err)
		}
	}
}

func TestPull(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		if err := e.Pull(ctxOf(t), "127.0.0.1:1/hakotest/none:1"); err == nil || !strings.Contains(err.Error(), "pull image 127.0.0.1:1/hakotest/none:1") {
			t.Error(err)
		}
	})
}

// TestUntagOfTheUsed: the engine keeps what a container runs.
func TestUntagOfTheUsed(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		p := dockertest.Prefix(t, h)
		layered(t, h, p+"/used:1")
		dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: p + "/used:1"}})
		if err := e.Untag(ctxOf(t), p+"/used:1"); err == nil {
			if _, err := e.CheckImage(ctxOf(t), find(t, e, p).ImageID, snapshot.Image{}); errors.Is(err, snapshot.ErrMissing) {
				t.Error("the image of a container is gone")
			}
		}
	})
}
