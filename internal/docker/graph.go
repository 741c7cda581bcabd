package docker

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// graphFiles reads the image store of a graph driver that keeps layers as directories. A layer's
// tar was taken apart when it came: what is not content lies in tar-split.json.gz, the contents in
// the layer's directory. Put together again they are the same bytes.
//
//	ROOT/image/DRIVER/imagedb/content/sha256/CONFIG
//	ROOT/image/DRIVER/layerdb/sha256/CHAIN/{cache-id,tar-split.json.gz}
//	ROOT/DRIVER/CACHE-ID/diff
type graphFiles struct {
	root, driver string
}

// graphDrivers keep layers as directories in the way above.
var graphDrivers = []string{"overlay2", "fuse-overlayfs"}

func (g graphFiles) config(ctx context.Context, want wanted) ([]byte, error) {
	return readMeta(ctx, localBlobs(imageDB(g.root, g.driver)), want.id, want.id)
}

// imageDB is where a graph driver's configuration files lie.
func imageDB(root, driver string) string {
	return filepath.Join(root, "image", driver, "imagedb", "content", "sha256")
}

// chainID names a layer on top of the ones below it.
func chainID(diffIDs []string) string {
	chain := diffIDs[0]
	for _, id := range diffIDs[1:] {
		chain = digestOf([]byte(chain + " " + id))
	}
	return chain
}

// meta is the directory that describes a layer.
func (g graphFiles) meta(img snapshot.Image, n int) (string, error) {
	ids := make([]string, n+1)
	for i := range ids {
		ids[i] = img.Layers[i].DiffID
	}
	name, err := hexOf(chainID(ids))
	return filepath.Join(g.root, "image", g.driver, "layerdb", "sha256", name), err
}

func (g graphFiles) layer(_ context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	meta, err := g.meta(img, n)
	if err != nil {
		return nil, err
	}
	id, err := os.ReadFile(filepath.Join(meta, "cache-id"))
	if err != nil {
		return nil, err
	}
	dir, err := os.OpenRoot(filepath.Join(g.root, g.driver, strings.TrimSpace(string(id)), "diff"))
	if err != nil {
		return nil, err
	}
	split, err := openSplit(meta)
	if err != nil {
		dir.Close()
		return nil, err
	}
	return assemble(func() {}, func(w io.Writer) error {
		err := asm.WriteOutputTarStream(rootGetter{dir}, storage.NewJSONUnpacker(split), w)
		return errors.Join(err, split.Close(), dir.Close())
	}), nil
}

// assembly is a stream that a goroutine writes. Close makes it stop and waits for it.
type assembly struct {
	*io.PipeReader
	stop func()
	done chan struct{}
}

// assembled is how much is written before the reader is woken: tar-split writes headers, padding and
// contents one by one, and a hand-over costs more than what most of them hold.
const assembled = 256 << 10

// assemble reads what write writes; its error is what Read ends with. Stop interrupts whatever write
// may be waiting for other than its reader.
func assemble(stop func(), write func(io.Writer) error) *assembly {
	pr, pw := io.Pipe()
	a := &assembly{PipeReader: pr, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		w := bufio.NewWriterSize(pw, assembled)
		err := write(w)
		if err == nil {
			err = w.Flush()
		}
		pw.CloseWithError(err)
	}()
	return a
}

func (a *assembly) Close() error {
	a.stop()
	err := a.PipeReader.Close()
	<-a.done
	return err
}

// openSplit opens what is not content of a layer's tar.
func openSplit(meta string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(meta, "tar-split.json.gz"))
	if err != nil {
		return nil, err
	}
	return decompress(f)
}

// rootGetter opens files below a layer's directory, and nothing outside whatever links lie in it.
type rootGetter struct{ dir *os.Root }

func (g rootGetter) Get(name string) (io.ReadCloser, error) {
	return g.dir.Open(filepath.Clean("./" + name))
}
