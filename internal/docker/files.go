package docker

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// imageFiles reads what an engine stores of images.
type imageFiles interface {
	// config returns the configuration file of an image, byte for byte.
	config(ctx context.Context, want wanted) ([]byte, error)
	// layer opens the uncompressed tar of a layer.
	layer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error)
}

// wanted says which image is meant: an id may stand for one image a platform.
type wanted struct {
	id       string   // the engine's
	manifest string   // of the platform, where a container says which; else empty
	diffIDs  []string // of the platform, where there is no manifest
}

// imageConfig is what this package reads of an image's configuration file.
type imageConfig struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	RootFS       struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

func parseConfig(raw []byte) (imageConfig, error) {
	var c imageConfig
	err := json.Unmarshal(raw, &c)
	return c, err
}

// digestOf returns "sha256:..." of b.
func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// hexOf returns the hex digits of a SHA-256 digest, which are then safe as a file name.
func hexOf(digest string) (string, error) {
	digits, found := strings.CutPrefix(digest, "sha256:")
	if b, err := hex.DecodeString(digits); !found || err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("%q is no SHA-256 digest", digest)
	}
	return digits, nil
}

// maxMeta bounds a configuration file or a manifest.
const maxMeta = 16 << 20

// blobs opens files that an engine stores under the hex digits of their digests. The image is any
// that the engine has, for ways that need one.
type blobs interface {
	open(ctx context.Context, image, name string) (io.ReadCloser, error)
}

// localBlobs is a directory of this host.
type localBlobs string

func (dir localBlobs) open(_ context.Context, _, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(dir), name))
}

// readMeta reads a small blob.
func readMeta(ctx context.Context, from blobs, image, digest string) ([]byte, error) {
	name, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	r, err := from.open(ctx, image, name)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxMeta))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	if got := digestOf(raw); got != digest {
		return nil, fmt.Errorf("blob %s: its digest is %s", digest, got)
	}
	return raw, nil
}

// decompress uncompresses a layer blob, by its first bytes rather than by what its media type
// promises: engines have been known to mix that up. Closing the result closes r.
func decompress(r io.ReadCloser) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 128<<10)
	start, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, []byte{0x1f, 0x8b}):
		unzip, err := gzip.NewReader(buffered)
		if err != nil {
			r.Close()
			return nil, err
		}
		return readClosers{unzip, []io.Closer{unzip, r}}, nil
	case bytes.Equal(start, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		unzip, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
		if err != nil {
			r.Close()
			return nil, err
		}
		return readClosers{unzip, []io.Closer{unzip.IOReadCloser(), r}}, nil
	}
	return readClosers{buffered, []io.Closer{r}}, nil
}

// readClosers is a reader with what is to be closed behind it, in order.
type readClosers struct {
	io.Reader
	closers []io.Closer
}

func (r readClosers) Close() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
