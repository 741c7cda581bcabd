package docker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// imageInspection is what this package reads of GET /images/ID/json.
type imageInspection struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Os           string
	Architecture string
	Size         int64
	RootFS       struct{ Layers []string }
	Manifests    []struct {
		ID        string
		Available bool
		Kind      string
	}
}

// addImages describes the images that the containers run, and names them in the containers. So are those by which Compose
// recognises containers that were restored: what these run has their changes in it, what Compose knows has not.
func (e *Engine) addImages(ctx context.Context, s *snapshot.System) error {
	if err := e.addRunImages(ctx, s); err != nil {
		return err
	}
	for _, c := range s.Containers {
		id := c.Labels[composeImage]
		if id == "" || id == c.ImageID || slices.ContainsFunc(s.Images, func(img snapshot.Image) bool { return img.ID == id }) {
			continue
		}
		img, err := e.describeImage(ctx, wanted{id: id})
		if ctx.Err() != nil {
			return err
		}
		same := func(other snapshot.Image) bool { return other.Config == img.Config }
		if err == nil && !slices.ContainsFunc(s.Images, same) { // after an error it is gone, and Compose makes the container anew in any case
			s.Images = append(s.Images, img)
		}
	}
	slices.SortFunc(s.Images, func(a, b snapshot.Image) int { return cmp.Compare(a.Config, b.Config) })
	return nil
}

// addRunImages is addImages for what the containers run.
func (e *Engine) addRunImages(ctx context.Context, s *snapshot.System) error {
	var keys []wanted
	places := make([]int, len(s.Containers)) // container to key
	for i, c := range s.Containers {
		want := wanted{id: c.ImageID, manifest: platformManifest(c)}
		same := func(other wanted) bool { return other.id == want.id && other.manifest == want.manifest }
		if places[i] = slices.IndexFunc(keys, same); places[i] < 0 {
			places[i], keys = len(keys), append(keys, want)
		}
	}
	found, failures, err := askEach(ctx, keys, e.describeImage)
	if err != nil {
		return err
	}
	addProblems(s, keys, failures, func(want wanted) string { return "image " + want.id })
	for i := range s.Containers {
		if img := found[places[i]]; img != nil {
			s.Containers[i].ImageKey = img.Config
		}
	}
	for _, img := range found {
		same := func(other snapshot.Image) bool { return img != nil && other.Config == img.Config }
		if img != nil && !slices.ContainsFunc(s.Images, same) {
			s.Images = append(s.Images, *img)
		}
	}
	return nil
}

// platformManifest is the manifest that a container was made from, where its engine tells: its image
// may be an index of several platforms.
func platformManifest(c snapshot.Container) string {
	var in inspection
	if err := json.Unmarshal(c.Inspect, &in); err != nil || in.ImageManifestDescriptor == nil {
		return ""
	}
	return in.ImageManifestDescriptor.Digest
}

// inspectImage asks for an image and returns the answer also as it came.
func (e *Engine) inspectImage(ctx context.Context, ref string, query url.Values) (imageInspection, json.RawMessage, error) {
	var in imageInspection
	raw, err := e.get(ctx, "/images/"+ref+"/json", query)
	if err != nil {
		return in, nil, fail(err, nil, "inspect image %s", ref)
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return in, nil, fmt.Errorf("inspect image %s: %w", ref, err)
	}
	return in, bytes.TrimSpace(raw), nil
}

// image is what an inspection says of an image.
func (in imageInspection) image() snapshot.Image {
	img := snapshot.Image{ID: in.ID, Tags: in.RepoTags, Digests: in.RepoDigests, OS: in.Os, Arch: in.Architecture, Size: in.Size}
	for _, id := range in.RootFS.Layers {
		img.Layers = append(img.Layers, snapshot.Layer{DiffID: id})
	}
	return img
}

// describeImage describes an image in full, with its configuration file. How large its layers are is
// not looked for: of a graph driver that would mean to read what it keeps of each file.
func (e *Engine) describeImage(ctx context.Context, want wanted) (snapshot.Image, error) {
	in, raw, err := e.inspectImage(ctx, want.id, nil)
	if err != nil {
		return snapshot.Image{}, err
	}
	img := in.image()
	img.Inspect = raw
	want.diffIDs = in.RootFS.Layers
	if img.RawConfig, err = e.readConfig(ctx, want); err != nil {
		return snapshot.Image{}, fmt.Errorf("configuration of image %s: %w", want.id, err)
	}
	config, err := parseConfig(img.RawConfig)
	if err != nil {
		return snapshot.Image{}, fmt.Errorf("configuration of image %s: %w", want.id, err)
	}
	img.Config, img.OS, img.Arch = digestOf(img.RawConfig), config.OS, config.Architecture
	img.Layers = make([]snapshot.Layer, len(config.RootFS.DiffIDs)) // of the container's platform
	for i, id := range config.RootFS.DiffIDs {
		img.Layers[i].DiffID = id
	}
	return img, nil
}

// readConfig reads the configuration of an image from the first place that has it.
func (e *Engine) readConfig(ctx context.Context, want wanted) ([]byte, error) {
	var errs []error
	for _, files := range e.files(ctx) {
		raw, err := files.config(ctx, want)
		if err == nil {
			return raw, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// OpenLayer opens the uncompressed tar of img.Layers[n], from the engine's own files where they
// can be read, else out of a save of the image. The bytes are not verified: the caller holds them
// to the DiffID. The caller closes the reader.
func (e *Engine) OpenLayer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	if n < 0 || n >= len(img.Layers) {
		return nil, fmt.Errorf("layer %d of image %s: it has %d", n, img.ID, len(img.Layers))
	}
	var errs []error
	for _, files := range e.files(ctx) {
		r, err := files.layer(ctx, img, n)
		if err == nil {
			return r, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("layer %s of image %s: %w", img.Layers[n].DiffID, img.ID, errors.Join(errs...))
}

// files are the ways to read images, best first.
func (e *Engine) files(ctx context.Context) []imageFiles {
	graph := !e.facts.Containerd && slices.Contains(graphDrivers, e.info.Driver)
	root, driver := e.info.DockerRootDir, e.info.Driver
	var ways []imageFiles
	switch {
	case graph && e.facts.Local:
		ways = append(ways, graphFiles{root: root, driver: driver})
	case graph:
		ways = append(ways, hostGraph{savedFiles{e}, hostBlobs{e, []string{imageDB(root, driver)}}})
	case e.facts.Containerd && e.facts.Local:
		dir, err := e.contentDir(ctx)
		if err != nil {
			e.log.Warn("image content is read through the engine, which is slow", "cause", err)
			break
		}
		ways = append(ways, contentFiles{localBlobs(dir), &e.manifests})
	case e.facts.Containerd:
		ways = append(ways, contentFiles{hostBlobs{e, e.contentDirs()}, &e.manifests})
	}
	return append(ways, savedFiles{e})
}

// contentDir returns the directory of containerd's image content on this host.
func (e *Engine) contentDir(ctx context.Context) (string, error) {
	if e.containerdRoot != "" {
		return blobDir(e.containerdRoot), nil
	}
	e.mu.Lock()
	dir := e.content
	e.mu.Unlock()
	if dir != "" {
		return dir, nil
	}
	c, err := e.dialContainerd()
	if err != nil {
		return "", err
	}
	root, err := c.contentRoot(ctx)
	if err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.content = filepath.Join(root, "blobs", "sha256")
	return e.content, nil
}

// contentDirs returns where that directory may be on a host that is not to be seen.
func (e *Engine) contentDirs() []string {
	if e.containerdRoot != "" {
		return []string{blobDir(e.containerdRoot)}
	}
	return []string{blobDir("/var/lib/containerd"), blobDir(filepath.Join(e.info.DockerRootDir, "containerd", "daemon"))}
}

// blobDir is the directory of image content below a containerd's root.
func blobDir(root string) string {
	return filepath.Join(root, "io.containerd.content.v1.content", "blobs", "sha256")
}

// Images describes every image of the engine, without RawConfig and the sizes of layers. Config is
// empty where the engine does not tell it.
func (e *Engine) Images(ctx context.Context) ([]snapshot.Image, error) {
	raw, err := e.get(ctx, "/images/json", nil)
	if err != nil {
		return nil, fail(err, nil, "list images")
	}
	var list []struct{ ID string }
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	found, failures, err := askEach(ctx, list, func(ctx context.Context, one struct{ ID string }) (snapshot.Image, error) {
		return e.listedImage(ctx, one.ID)
	})
	if err != nil {
		return nil, err
	}
	var images []snapshot.Image
	for i, img := range found {
		if err := failures[i]; err != nil && !errors.Is(err, snapshot.ErrMissing) { // it may vanish meanwhile
			return nil, err
		}
		if img != nil {
			images = append(images, *img)
		}
	}
	return images, nil
}

// listedImage describes an image without reading more than its configuration.
func (e *Engine) listedImage(ctx context.Context, id string) (snapshot.Image, error) {
	in, raw, err := e.inspectImage(ctx, id, nil)
	if err != nil {
		return snapshot.Image{}, err
	}
	img := in.image()
	img.Inspect = raw
	if !e.facts.Containerd {
		img.Config = img.ID
		return img, nil
	}
	if config, err := e.localConfig(ctx, in); err == nil {
		img.Config = digestOf(config)
	}
	return img, nil
}

// localConfig reads the configuration of an image in containerd's store if that lies on this host:
// it is not worth a save of the image.
func (e *Engine) localConfig(ctx context.Context, in imageInspection) ([]byte, error) {
	for _, files := range e.files(ctx) {
		if content, found := files.(contentFiles); found && e.facts.Local {
			return content.config(ctx, wanted{id: in.ID, diffIDs: in.RootFS.Layers})
		}
	}
	return nil, errors.ErrUnsupported
}
