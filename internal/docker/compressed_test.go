package docker_test

import (
	"bytes"
	"encoding/json"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// layout collects the files of an OCI image layout.
type layout struct {
	t     *testing.T
	files map[string]string
}

// blob adds a blob and returns its descriptor.
func (l layout) blob(mediaType string, content []byte) map[string]any {
	l.files["blobs/sha256/"+digest(content)[len("sha256:"):]] = string(content)
	return map[string]any{"mediaType": mediaType, "digest": digest(content), "size": len(content)}
}

func (l layout) json(mediaType string, content map[string]any) map[string]any {
	content["schemaVersion"], content["mediaType"] = 2, mediaType
	raw, err := json.Marshal(content)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, raw)
}

// TestCompressedLayers reads an image as a pull leaves it on containerd's store: compressed layers,
// below an index that also lists a platform whose content is not there.
func TestCompressedLayers(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		if !e.Facts().Containerd {
			t.Skip("does not apply: graph drivers keep no blobs")
		}
		p := dockertest.Prefix(t, h)
		layers := [][]byte{dockertest.Layer(t, dockertest.File{Name: "one"}), dockertest.Layer(t, dockertest.File{Name: "two"})}
		config, err := json.Marshal(map[string]any{
			"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{"Cmd": []string{"x"}},
			"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layers[0]), digest(layers[1])}},
		})
		if err != nil {
			t.Fatal(err)
		}
		l := layout{t, map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}}
		here := l.json("application/vnd.oci.image.manifest.v1+json", map[string]any{
			"config": l.blob("application/vnd.oci.image.config.v1+json", config),
			"layers": []any{
				l.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzipped(t, layers[0])),
				l.blob("application/vnd.oci.image.layer.v1.tar+zstd", zstded(t, layers[1])),
			},
		})
		here["platform"] = map[string]string{"os": "linux", "architecture": runtime.GOARCH}
		elsewhere := map[string]any{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest([]byte("absent")), "size": 6,
			"platform": map[string]string{"os": "linux", "architecture": "s390x"},
		}
		index := l.json("application/vnd.oci.image.index.v1+json", map[string]any{"manifests": []any{elsewhere, here}})
		index["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/" + p + "/index:1"}
		top, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{index}})
		if err != nil {
			t.Fatal(err)
		}
		l.files["index.json"] = string(top)
		if err := e.Load(ctxOf(t), archive(t, l.files)); err != nil {
			t.Fatal(err)
		}
		dockertest.Create(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: p + "/index:1"}})
		for _, e := range []*docker.Engine{e, remote(t, h)} {
			img := imageOf(t, e, p)
			if img.Config != digest(config) || img.ID != index["digest"] || len(img.Layers) != 2 {
				t.Errorf("%+v", img)
			}
			for n := range layers {
				checkLayer(t, e, img, n)
			}
			if _, err := e.CheckImage(ctxOf(t), p+"/index:1", img); err != nil {
				t.Error(err)
			}
		}
	})
}

func gzipped(t *testing.T, b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstded(t *testing.T, b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}
