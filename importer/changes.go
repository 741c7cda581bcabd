package importer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// changesLayer makes one image layer of a container's changes, and says what of them it could not
// hold. The caller closes its file. The same changes always give the same layer. What near has need not be fetched; it may
// be nil.
func changesLayer(ctx context.Context, repo *chunkstore.Repository, c *snapshot.Container, near *near, dir string) (snapshot.Layer, spooledLayer, []archive.Lost, error) {
	f, err := unlinkedFile(dir)
	if err != nil {
		return snapshot.Layer{}, spooledLayer{}, nil, err
	}
	h := sha256.New()
	buffered := bufio.NewWriterSize(f, 1<<20)
	size := &counter{w: io.MultiWriter(buffered, h)}
	tree := archive.OpenTreeNear(ctx, repo, c.Changes.Records, near.source())
	lost, err := archive.WriteTar(ctx, tree, size, archive.TarOptions{Layer: true})
	err = errors.Join(err, tree.Close(), buffered.Flush())
	if err != nil {
		return snapshot.Layer{}, spooledLayer{}, nil, errors.Join(fmt.Errorf("changes of container %s: %w", c.Name, err), f.Close())
	}
	l := snapshot.Layer{DiffID: "sha256:" + hex.EncodeToString(h.Sum(nil)), Size: size.n}
	return l, spooledLayer{file: f, size: size.n}, lost, nil
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// withLayer describes the image that base and one more layer make: base's config with the layer
// added to its DiffIDs and its history, everything else as it is.
func withLayer(base *ociImage, l snapshot.Layer, s snapshot.Summary) (*ociImage, error) {
	config, err := addLayer(base.config, l.DiffID, s)
	if err != nil {
		return nil, fmt.Errorf("image %s: config: %w", imageName(base.image), err)
	}
	return newOCIImage(snapshot.Image{
		Config:    digest.FromBytes(config).String(),
		OS:        base.image.OS,
		Arch:      base.image.Arch,
		Size:      base.image.Size + l.Size,
		RawConfig: config,
		Layers:    append(slices.Clone(base.image.Layers), l),
	})
}

func addLayer(config []byte, diffID string, s snapshot.Summary) ([]byte, error) {
	var whole map[string]json.RawMessage // fields that nobody here knows stay as they are
	if err := json.Unmarshal(config, &whole); err != nil {
		return nil, err
	}
	rootfs, history := map[string]json.RawMessage{}, []json.RawMessage{}
	var diffIDs []string
	for _, f := range []struct {
		from json.RawMessage
		into any
	}{
		{whole["rootfs"], &rootfs},
		{whole["history"], &history},
	} {
		if f.from != nil {
			if err := json.Unmarshal(f.from, f.into); err != nil {
				return nil, err
			}
		}
	}
	if err := json.Unmarshal(rootfs["diff_ids"], &diffIDs); err != nil {
		return nil, err
	}
	created := s.Time.UTC().Format(time.RFC3339Nano)
	for _, f := range []struct {
		into  map[string]json.RawMessage
		key   string
		value any
	}{
		{rootfs, "diff_ids", append(diffIDs, diffID)},
		{whole, "rootfs", rootfs},
		{whole, "created", created},
	} {
		if err := setJSON(f.into, f.key, f.value); err != nil {
			return nil, err
		}
	}
	entry, err := json.Marshal(map[string]string{"created": created, "created_by": "hakobune " + s.ID})
	if err != nil {
		return nil, err
	}
	if err := setJSON(whole, "history", append(history, entry)); err != nil {
		return nil, err
	}
	return json.Marshal(whole)
}

func setJSON(into map[string]json.RawMessage, key string, value any) error {
	data, err := json.Marshal(value)
	into[key] = data
	return err
}
