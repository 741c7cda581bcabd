package dockertest

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

// busybox is where Debian's package busybox-static has its program.
const busybox = "/bin/busybox"

// File is an entry of a layer. A Name that ends in a slash is a directory, a Link makes a symbolic
// link.
type File struct {
	Name string
	Link string
	Mode int64 // 0: 0644 of a file, 0755 of a directory
	Data []byte
}

// Busybox gives the engine a tiny image with a static busybox and returns its reference. The image
// has the same bytes every time, so that tests may share it; it stays.
func Busybox(t testing.TB, h Host) string {
	t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		missing(t, err.Error())
		t.Skip("install busybox-static")
	}
	files := []File{
		{Name: "bin/"},
		{Name: "bin/busybox", Data: program, Mode: 0o755},
		{Name: "etc/"},
		{Name: "etc/passwd", Data: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")},
		{Name: "etc/group", Data: []byte("root:x:0:\nnobody:x:65534:\n")},
		{Name: "root/"},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "proc/"},
		{Name: "sys/"},
		{Name: "dev/"},
	}
	applets := "sh cat echo ls ln mkdir mknod mkfifo mv nc rm rmdir sleep stat sync tail tar test touch true false wget httpd " +
		"dd chmod chown cp date df env find free grep head hostname id ip kill md5sum mount nslookup ping printf ps pwd " +
		"route sed seq setsid sha256sum sort tr trap wc which xargs"
	for applet := range strings.FieldsSeq(applets) {
		files = append(files, File{Name: "bin/" + applet, Link: "busybox"})
	}
	config := map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/bin"}}
	ref := "hakobune-test/busybox:1"
	Image(t, h, ref, config, Layer(t, files...))
	return ref
}

// Layer returns the tar of a layer, the same bytes every time.
func Layer(t testing.TB, files ...File) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		hdr := &tar.Header{Name: f.Name, Linkname: f.Link, Mode: f.Mode, Size: int64(len(f.Data)), ModTime: time.Unix(1700000000, 0), Typeflag: tar.TypeReg}
		switch {
		case f.Link != "":
			hdr.Typeflag, hdr.Mode = tar.TypeSymlink, 0o777
		case strings.HasSuffix(f.Name, "/"):
			hdr.Typeflag = tar.TypeDir
			hdr.Mode = max(hdr.Mode, 0o755)
		case f.Mode == 0:
			hdr.Mode = 0o644
		}
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Image gives the engine an image of these layers under ref, with config as the "config" of its
// configuration file. It returns the digest of the configuration file and the DiffIDs.
func Image(t testing.TB, h Host, ref string, config map[string]any, layers ...[]byte) (string, []string) {
	t.Helper()
	diffIDs := make([]string, len(layers))
	history := make([]map[string]any, len(layers))
	for i, layer := range layers {
		diffIDs[i] = "sha256:" + sum(layer)
		history[i] = map[string]any{"created_by": fmt.Sprintf("test layer %d", i)}
	}
	raw, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "2023-11-14T22:13:20Z", "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs}, "history": history,
	})
	if err != nil {
		t.Fatal(err)
	}
	load(t, h, archive(t, ref, raw, layers))
	return "sha256:" + sum(raw), diffIDs
}

// archive makes an image archive as "docker save" of 20.10 writes it, which every engine reads.
func archive(t testing.TB, ref string, config []byte, layers [][]byte) []byte {
	t.Helper()
	files := []File{{Name: sum(config) + ".json", Data: config}}
	paths := make([]string, len(layers))
	for i, layer := range layers {
		paths[i] = sum(layer) + "/layer.tar"
		files = append(files, File{Name: paths[i], Data: layer})
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": files[0].Name, "RepoTags": []string{ref}, "Layers": paths}})
	if err != nil {
		t.Fatal(err)
	}
	return Layer(t, append(files, File{Name: "manifest.json", Data: manifest})...)
}

// load gives the engine an archive and requires that it says nothing of an error. Where containerd has the images, of two loads
// of a new one at the same moment one fails: test binaries run side by side, so that one is done again.
func load(t testing.TB, h Host, archive []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		resp, err := Client(t, h).ImageLoad(ctx, bytes.NewReader(archive), client.ImageLoadWithQuiet(true))
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(resp)
		resp.Close()
		switch {
		case err == nil && !bytes.Contains(said, []byte("rror")):
			return
		case err != nil || !bytes.Contains(said, []byte("AlreadyExists")):
			t.Fatalf("%s: load: %v: %s", h.Name, err, said)
		}
	}
}

// Import makes an image of one layer in the engine, as "docker import" does. Where containerd has the images that has the
// layer only compressed, as those do that were pulled or built.
func Import(t testing.TB, h Host, ref string, layer []byte) {
	t.Helper()
	resp, err := Client(t, h).ImageImport(t.Context(), client.ImageImportSource{Source: bytes.NewReader(layer), SourceName: "-"}, ref, client.ImageImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Close()
	if said, err := io.ReadAll(resp); err != nil || bytes.Contains(said, []byte("rror")) {
		t.Fatalf("%s: import: %v: %s", h.Name, err, said)
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Push has the engine push an image under a reference, which is removed again.
func Push(t testing.TB, h Host, image, ref string) {
	t.Helper()
	c := Client(t, h)
	if _, err := c.ImageTag(t.Context(), client.ImageTagOptions{Source: image, Target: ref}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := c.ImageRemove(context.WithoutCancel(t.Context()), ref, client.ImageRemoveOptions{}); err != nil {
			t.Error(err)
		}
	})
	resp, err := c.ImagePush(t.Context(), ref, client.ImagePushOptions{RegistryAuth: "e30="})
	if err == nil {
		err = resp.Wait(t.Context())
	}
	if err != nil {
		t.Fatalf("%s: push %s: %v", h.Name, ref, err)
	}
}
