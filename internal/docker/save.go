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

// manifests reads the manifest.json, which comes late, and all small files before it.
func (s savedFiles) manifests(ctx context.Context, id string) ([]saved, map[string][]byte, error) {
	small := map[string][]byte{}
	total := 0
	err := s.walk(ctx, id, func(hdr *tar.Header, r io.Reader) (bool, error) {
		if hdr.Typeflag != tar.TypeReg || hdr.Size > 1<<20 || total > maxMeta {
			return false, nil
		}
		raw, err := io.ReadAll(r)
		small[hdr.Name], total = raw, total+len(raw)
		return false, err
	})
	if err != nil {
		return nil, nil, err
	}
	var list []saved
	if err := json.Unmarshal(small["manifest.json"], &list); err != nil {
		return nil, nil, fmt.Errorf("save image %s: manifest.json: %w", id, err)
	}
	return list, small, nil
}

func (s savedFiles) config(ctx context.Context, want wanted) ([]byte, error) {
	list, small, err := s.manifests(ctx, want.id)
	if err != nil {
		return nil, err
	}
	for _, entry := range list {
		raw := small[entry.Config]
		if parsed, err := parseConfig(raw); err == nil && slices.Equal(parsed.RootFS.DiffIDs, want.diffIDs) {
			return raw, nil
		}
	}
	return nil, fmt.Errorf("save image %s: the archive has no configuration of these layers", want.id)
}

// find returns where in the archive the layers of an image are, which takes a pass over all of it
// the first time.
func (s savedFiles) find(ctx context.Context, img snapshot.Image) ([]string, error) {
	if paths, found := s.e.savedPaths.Load(img.ID + img.Config); found {
		return paths.([]string), nil
	}
	list, small, err := s.manifests(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	for _, entry := range list {
		if digestOf(small[entry.Config]) == img.Config && len(entry.Layers) == len(img.Layers) {
			s.e.savedPaths.Store(img.ID+img.Config, entry.Layers)
			return entry.Layers, nil
		}
	}
	return nil, fmt.Errorf("save image %s: the archive has no such configuration", img.ID)
}

func (s savedFiles) layer(ctx context.Context, img snapshot.Image, n int) (io.ReadCloser, error) {
	paths, err := s.find(ctx, img)
	if err != nil {
		return nil, err
	}
	pr, pw := io.Pipe()
	a := &assembly{PipeReader: pr, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		pw.CloseWithError(s.copy(ctx, img.ID, paths[n], pw))
	}()
	return decompress(a)
}

// copy copies one file of the archive. A layer that occurs twice is a link to where it stands, which
// may be earlier in the archive: then that takes one more pass.
func (s savedFiles) copy(ctx context.Context, id, name string, w io.Writer) error {
	for range 3 {
		var found bool
		var link string
		err := s.walk(ctx, id, func(hdr *tar.Header, r io.Reader) (bool, error) {
			if path.Clean(hdr.Name) != name {
				return false, nil
			}
			switch hdr.Typeflag {
			case tar.TypeSymlink:
				link = path.Join(path.Dir(name), hdr.Linkname)
			case tar.TypeLink:
				link = path.Clean(hdr.Linkname)
			default:
				found = true
				_, err := io.Copy(w, r)
				return true, err
			}
			return true, nil
		})
		if err != nil || found {
			return err
		}
		if link == "" {
			break
		}
		name = link
	}
	return fmt.Errorf("save image %s: no file %s in the archive", id, name)
}

func (savedFiles) size(context.Context, snapshot.Image, int) int64 { return 0 }
