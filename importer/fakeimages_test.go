package importer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

type fakeEngineImage struct{ layers []string }

func (f *fakeEngine) Images(context.Context) (all []snapshot.Image, err error) {
	defer f.mu.Unlock()
	if err := f.call("images"); err != nil {
		return nil, err
	}
	for id, img := range f.images {
		s := snapshot.Image{ID: id, Config: id}
		for _, l := range img.layers {
			s.Layers = append(s.Layers, snapshot.Layer{DiffID: l})
		}
		for tag, of := range f.tags {
			if of == id {
				s.Tags = append(s.Tags, tag)
			}
		}
		all = append(all, s)
	}
	return all, nil
}

// Load reads an archive as an engine with a graph driver does.
func (f *fakeEngine) Load(_ context.Context, r io.Reader) error {
	err := f.call("load")
	f.mu.Unlock() // an engine answers others while it reads
	if err != nil {
		_, _ = io.CopyN(io.Discard, r, 2000) // it reads some before it fails
		return err
	}
	files, err := imageFiles(r)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var manifests []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifests); err != nil {
		return err
	}
	for _, m := range manifests {
		var config struct {
			RootFS struct {
				DiffIDs []string `json:"diff_ids"`
			} `json:"rootfs"`
		}
		if err := json.Unmarshal(files[m.Config], &config); err != nil {
			return err
		}
		for i, l := range config.RootFS.DiffIDs {
			data, sent := files[m.Layers[i]]
			if !sent && (!f.blobs[l] || f.compressed) {
				return fmt.Errorf("layer %s not found", l)
			}
			if sent {
				f.content[l] = data
			}
			f.blobs[l] = true
		}
		id := digestOf(files[m.Config])
		f.images[id] = fakeEngineImage{layers: config.RootFS.DiffIDs}
		for _, tag := range m.RepoTags {
			f.tags[tag] = id
		}
	}
	return nil
}

// imageFiles reads an archive of images.
func imageFiles(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return nil, err
		}
		files[h.Name] = data
		if sum, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && sum != "" && digestOf(data) != "sha256:"+sum {
			return nil, fmt.Errorf("blob %s has another digest", sum)
		}
	}
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (f *fakeEngine) OpenLayer(_ context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	defer f.mu.Unlock()
	if err := f.call("open layer %d of %s", n, img.ID); err != nil {
		return nil, err
	}
	data, ok := f.content[img.Layers[n].DiffID]
	if !ok {
		return nil, snapshot.ErrMissing
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (f *fakeEngine) Pull(_ context.Context, ref string) error {
	defer f.mu.Unlock()
	if err := f.call("pull"); err != nil {
		return err
	}
	if f.puller == nil {
		return fmt.Errorf("pull %s: connection refused", ref)
	}
	id, layers, err := f.puller(ref)
	if err != nil {
		return err
	}
	f.images[id], f.tags[ref] = fakeEngineImage{layers: layers}, id
	for _, l := range layers {
		f.blobs[l] = true
	}
	return nil
}

func (f *fakeEngine) resolve(ref string) string {
	if id, ok := f.tags[ref]; ok {
		return id
	}
	if _, ok := f.images[ref]; ok {
		return ref
	}
	return ""
}

func (f *fakeEngine) Tag(_ context.Context, image, ref string) error {
	defer f.mu.Unlock()
	if err := f.call("tag %s", ref); err != nil {
		return err
	}
	id := f.resolve(image)
	if id == "" {
		return fmt.Errorf("tag %s: %w", image, snapshot.ErrMissing)
	}
	f.tags[ref] = id
	return nil
}

func (f *fakeEngine) Untag(_ context.Context, ref string) error {
	defer f.mu.Unlock()
	if err := f.call("untag %s", ref); err != nil {
		return err
	}
	id, ok := f.tags[ref]
	if !ok {
		return nil
	}
	last := true
	for tag, of := range f.tags {
		last = last && (of != id || tag == ref)
	}
	if last {
		for _, c := range f.containers {
			if f.resolve(c.Image) == id {
				return fmt.Errorf("untag %s: a container uses the image", ref)
			}
		}
		delete(f.images, id)
	}
	delete(f.tags, ref)
	return nil
}

func (f *fakeEngine) CheckImage(_ context.Context, ref string, want snapshot.Image) (string, error) {
	defer f.mu.Unlock()
	if err := f.call("check %s", ref); err != nil {
		return "", err
	}
	id := f.resolve(ref)
	switch {
	case id == "":
		return "", fmt.Errorf("image %s: %w", ref, snapshot.ErrMissing)
	case id != want.Config:
		return "", fmt.Errorf("image %s: has another configuration", ref)
	}
	return id, nil
}
