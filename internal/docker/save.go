package docker

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// savedFiles reads an image out of the archive that the engine makes of it (GET /images/get). This
// works everywhere and is slow: the engine first writes or reads the whole image, and a file can
// only be picked out of the stream by letting the rest pass.
type savedFiles struct {
	e *Engine
}

// saved is an entry of the manifest.json of an archive.
type saved struct {
	Config string
	Layers []string
}

// walk calls fn for every file of the archive of an image until fn says stop.
func (s savedFiles) walk(ctx context.Context, id string, fn func(hdr *tar.Header, r io.Reader) (stop bool, err error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.e.api.ImageSave(ctx, []string{id})
	if err != nil {
		return fail(err, nil, "save image %s", id)
	}
	defer stream.Close()
	files := tar.NewReader(stream)
	for {
		hdr, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("save image %s: %w", id, err)
		}
		if stop, err := fn(hdr, files); stop || err != nil {
			return err
		}
	}
}

// scan is what one pass over an archive finds.
type scan struct {
	small map[string][]byte // the small files, by path
	bytes int               // in them
	top   string            // path of the topmost layer in an archive of before API 1.44
}

// note keeps a small file: the manifests come late in an archive.
func (s *scan) note(name string, hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag != tar.TypeReg || hdr.Size > 1<<20 || s.bytes > maxMeta {
		return nil
	}
	raw, err := io.ReadAll(r)
	s.small[name] = raw
	s.bytes += len(raw)
	// Old archives describe every layer in a file before it, and only the topmost one in full.
	var layer struct{ Architecture string }
	if path.Base(name) == "json" && json.Unmarshal(raw, &layer) == nil && layer.Architecture != "" {
		s.top = path.Join(path.Dir(name), "layer.tar")
	}
	return err
}

// manifest finds the configuration that is meant, and the entry of manifest.json that names it.
func (s *scan) manifest(meant func(config []byte) bool) (saved, []byte, error) {
	var list []saved
	if err := json.Unmarshal(s.small["manifest.json"], &list); err != nil {
		return saved{}, nil, fmt.Errorf("manifest.json: %w", err)
	}
	for _, entry := range list {
		if config := s.small[path.Clean(entry.Config)]; config != nil && meant(config) {
			return entry, config, nil
		}
	}
	return saved{}, nil, errors.New("the archive has no such configuration")
}

func (s savedFiles) config(ctx context.Context, want wanted) ([]byte, error) {
	found := scan{small: map[string][]byte{}}
	err := s.walk(ctx, want.id, func(hdr *tar.Header, r io.Reader) (bool, error) {
		return false, found.note(path.Clean(hdr.Name), hdr, r)
	})
	if err != nil {
		return nil, err
	}
	_, config, err := found.manifest(func(config []byte) bool {
		parsed, err := parseConfig(config)
		return err == nil && slices.Equal(parsed.RootFS.DiffIDs, want.diffIDs)
	})
	if err != nil {
		return nil, fmt.Errorf("save image %s: %w", want.id, err)
	}
	return config, nil
}

func (s savedFiles) layer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	return decompress(assemble(cancel, func(w io.Writer) error {
		defer cancel()
		return s.copyLayer(ctx, img, n, w)
	}))
}

// copyLayer copies a layer out of the archive: in one pass where its name in the archive can be told
// beforehand, as for every uncompressed layer since API 1.44 and for the topmost before. Else one
// pass finds the name. A layer that occurs twice may be a link to where it stands, which may be
// earlier: that takes another one.
func (s savedFiles) copyLayer(ctx context.Context, img snapshot.Image, n int, w io.Writer) error {
	digits, err := hexOf(img.Layers[n].DiffID)
	if err != nil {
		return err
	}
	name := "blobs/sha256/" + digits
	if paths, known := s.e.savedPaths.Load(img.ID + img.Config); known {
		name = paths.([]string)[n]
	}
	for range 3 {
		found := scan{small: map[string][]byte{}}
		link, copied, err := s.copyFile(ctx, img.ID, w, &found, func(file string) bool {
			return file == name || file == found.top && n == len(img.Layers)-1
		})
		if err != nil || copied {
			return err
		}
		if name = link; link == "" {
			entry, _, err := found.manifest(func(config []byte) bool { return digestOf(config) == img.Config })
			if err != nil || len(entry.Layers) != len(img.Layers) {
				return fmt.Errorf("save image %s: %w", img.ID, errors.Join(err, errors.New("its layers are not in the archive")))
			}
			s.e.savedPaths.Store(img.ID+img.Config, entry.Layers)
			name = entry.Layers[n]
		}
	}
	return fmt.Errorf("save image %s: no layer %d in the archive", img.ID, n)
}

// copyFile makes a pass and copies one file, if it is there and no link.
func (s savedFiles) copyFile(ctx context.Context, id string, w io.Writer, found *scan, meant func(file string) bool) (link string, copied bool, err error) {
	err = s.walk(ctx, id, func(hdr *tar.Header, r io.Reader) (bool, error) {
		name := path.Clean(hdr.Name)
		if !meant(name) {
			return false, found.note(name, hdr, r)
		}
		switch hdr.Typeflag {
		case tar.TypeSymlink:
			link = path.Join(path.Dir(name), hdr.Linkname)
		case tar.TypeLink:
			link = path.Clean(hdr.Linkname)
		default:
			copied = true
			_, err := io.Copy(w, r)
			return true, err
		}
		return true, nil
	})
	return link, copied, err
}
