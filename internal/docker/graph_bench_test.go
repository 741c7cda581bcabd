package docker

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// BenchmarkTarSplit puts a layer together from a graph driver's files, which the system has in memory.
func BenchmarkTarSplit(b *testing.B) {
	g := graphFiles{root: b.TempDir(), driver: "overlay2"}
	layer := benchLayer(b, filepath.Join(g.root, "overlay2", "layer", "diff"))
	img := snapshot.Image{Layers: []snapshot.Layer{{DiffID: digestOf(layer)}}}
	meta, err := g.meta(img, 0)
	ok(b, err)
	ok(b, os.MkdirAll(meta, 0o755))
	ok(b, os.WriteFile(filepath.Join(meta, "cache-id"), []byte("layer"), 0o644))
	var split bytes.Buffer
	zw := gzip.NewWriter(&split)
	in, done, err := asm.NewInputTarStreamWithDone(bytes.NewReader(layer), storage.NewJSONPacker(zw), nil)
	ok(b, err)
	_, err = io.Copy(io.Discard, in)
	ok(b, err)
	ok(b, <-done)
	ok(b, in.Close())
	ok(b, zw.Close())
	ok(b, os.WriteFile(filepath.Join(meta, "tar-split.json.gz"), split.Bytes(), 0o644))

	b.SetBytes(int64(len(layer)))
	for b.Loop() {
		r, err := g.layer(b.Context(), img, 0)
		ok(b, err)
		n, err := io.Copy(io.Discard, r)
		ok(b, err)
		if ok(b, r.Close()); n != int64(len(layer)) {
			b.Fatalf("%d of %d bytes", n, len(layer))
		}
	}
}

func ok(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// benchLayer makes a layer of files as packages bring them, most of them small, in dir and as a tar.
func benchLayer(b *testing.B, dir string) []byte {
	var out bytes.Buffer
	w, rng := tar.NewWriter(&out), rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		name := fmt.Sprintf("usr/share/d%02d/f%04d", i/50, i)
		data := []byte(strings.Repeat(fmt.Sprintf("line %d of a file\n", i), rng.IntN(2000)))
		ok(b, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		ok(b, os.WriteFile(filepath.Join(dir, name), data, 0o644))
		ok(b, w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}))
		_, err := w.Write(data)
		ok(b, err)
	}
	ok(b, w.Close())
	return out.Bytes()
}
