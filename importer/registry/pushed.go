package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// pushedSystem begins the names of systems that are images which were pushed, whatever systems of engines are called: a
// restore of shop must never find an image that somebody pushed as shop.
const pushedSystem = "pushed/"

// knownPushes is how many descriptions of pushed images a server remembers.
const knownPushes = 1000

// pushedAs lists the snapshots of an image that was pushed by a name, newest first.
func pushedAs(cat *snapshot.Catalog, name string) []snapshot.Summary {
	return slices.DeleteFunc(slices.Clone(cat.Snapshots), func(s snapshot.Summary) bool {
		return s.Pushed == nil || s.Pushed.Name != name || s.Stray
	})
}

// pushes iterates over what was pushed by a name, newest first. An error comes last.
func (s *Server) pushes(ctx context.Context, name string) iter.Seq2[*snapshot.Snapshot, error] {
	return func(yield func(*snapshot.Snapshot, error) bool) {
		cat, err := snapshot.ReadCatalog(ctx, s.repo)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, sum := range pushedAs(cat, name) {
			snap, err := s.pushedImage(ctx, cat, sum)
			if !yield(snap, err) || err != nil {
				return
			}
		}
	}
}

// pushedImage loads a snapshot, or has it already.
func (s *Server) pushedImage(ctx context.Context, cat *snapshot.Catalog, sum snapshot.Summary) (*snapshot.Snapshot, error) {
	s.mu.Lock()
	snap := s.pushed[sum.ID]
	s.mu.Unlock()
	if snap != nil {
		return snap, nil
	}
	if err := s.repo.LoadIndex(ctx); err != nil { // the snapshot may be newer than what was read of it
		return nil, err
	}
	snap, err := cat.Load(ctx, sum)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pushed) >= knownPushes {
		clear(s.pushed)
	}
	s.pushed[sum.ID] = snap
	return snap, nil
}

// pushedManifest finds what was pushed by a name: by tag what was pushed so last, by the first 8 digits of its snapshot's id
// or more, or by a digest. errNoImage: nothing was.
func (s *Server) pushedManifest(ctx context.Context, name, ref string) (snapshot.Manifest, error) {
	want, byDigest := parseDigest(ref)
	if byDigest {
		for snap, err := range s.pushes(ctx, name) {
			if err != nil {
				return snapshot.Manifest{}, err
			}
			for _, m := range snap.System.Manifests {
				if m.Digest == ref || want.Algorithm().FromBytes(m.Raw) == want {
					return m, nil
				}
			}
		}
		return snapshot.Manifest{}, errNoImage
	}
	cat, err := snapshot.ReadCatalog(ctx, s.repo)
	if err != nil {
		return snapshot.Manifest{}, err
	}
	list := pushedAs(cat, name)
	i := slices.IndexFunc(list, func(s snapshot.Summary) bool { return slices.Contains(s.Tags, ref) })
	if i < 0 && len(ref) >= 8 {
		i = slices.IndexFunc(list, func(s snapshot.Summary) bool { return strings.HasPrefix(s.ID, ref) })
	}
	if i < 0 {
		return snapshot.Manifest{}, errNoImage
	}
	snap, err := s.pushedImage(ctx, cat, list[i])
	if err != nil {
		return snapshot.Manifest{}, err
	}
	return snap.System.Manifests[0], nil
}

// parseDigest reads a digest of a kind that can be verified.
func parseDigest(ref string) (digest.Digest, bool) {
	d, err := digest.Parse(ref)
	return d, err == nil && d.Algorithm().Available()
}

// pushedBlob finds a blob of what was pushed by a name. errNoImage: it has none such.
func (s *Server) pushedBlob(ctx context.Context, name, ref string) (snapshot.Blob, error) {
	if b, ok := s.rememberedBlob(name, ref); ok {
		return b, nil // a pull asks for many, of which the manifest has just been read
	}
	for snap, err := range s.pushes(ctx, name) {
		if err != nil {
			return snapshot.Blob{}, err
		}
		if b, ok := blobOf(snap, ref); ok {
			return b, nil
		}
	}
	return snapshot.Blob{}, errNoImage
}

func blobOf(snap *snapshot.Snapshot, ref string) (snapshot.Blob, bool) {
	i := slices.IndexFunc(snap.System.Blobs, func(b snapshot.Blob) bool { return b.Digest == ref })
	if i < 0 {
		return snapshot.Blob{}, false
	}
	return snap.System.Blobs[i], true
}

func (s *Server) rememberedBlob(name, ref string) (snapshot.Blob, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, snap := range s.pushed {
		if b, ok := blobOf(snap, ref); ok && snap.Pushed.Name == name {
			return b, true
		}
	}
	return snapshot.Blob{}, false
}

// servePushedManifest serves a manifest of an image that was pushed, and reports whether there is one.
func (s *Server) servePushedManifest(w http.ResponseWriter, req *http.Request, name, ref string) (bool, error) {
	m, err := s.pushedManifest(req.Context(), name, ref)
	if errors.Is(err, errNoImage) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	w.Header().Set("Content-Type", m.MediaType)
	serveBytes(w, req, digest.Digest(m.Digest), m.Raw)
	return true, nil
}

// servePushedBlob serves a blob of an image that was pushed, and reports whether there is one.
func (s *Server) servePushedBlob(w http.ResponseWriter, req *http.Request, name, ref string) (bool, error) {
	b, ok := snapshot.Blob{}, false
	if s.uploads != nil {
		b, ok = s.uploads.blob(name, ref)
	}
	if !ok {
		var err error
		if b, err = s.pushedBlob(req.Context(), name, ref); errors.Is(err, errNoImage) {
			return false, nil
		} else if err != nil {
			return false, err
		}
	}
	err := serveStored(w, req, b, func(ctx context.Context) (io.ReadCloser, error) { return s.openBlob(ctx, name, b) })
	if err != nil {
		if req.Context().Err() == nil {
			s.log.Warn("a blob cannot be served", "path", req.URL.Path, "error", err)
		}
		panic(http.ErrAbortHandler)
	}
	return true, nil
}

// manifestHead is what of a manifest or an index tells how things hang together.
type manifestHead struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// referrers lists what was pushed by a name and says of itself that it is about a digest: signatures, lists of contents.
func (s *Server) referrers(w http.ResponseWriter, req *http.Request, name, ref string) {
	if _, ok := parseDigest(ref); !ok {
		answerError(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	kind := req.URL.Query().Get("artifactType")
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
	seen := map[string]bool{}
	for snap, err := range s.pushes(req.Context(), name) {
		if err != nil {
			s.fail(w, req, err)
			return
		}
		for _, m := range snap.System.Manifests {
			d, about := referrer(m)
			if about == ref && !seen[m.Digest] && (kind == "" || kind == d.ArtifactType) {
				seen[m.Digest] = true
				index.Manifests = append(index.Manifests, d)
			}
		}
	}
	if kind != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	raw, err := json.Marshal(index)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	_, _ = w.Write(raw) // the client has gone
}

// referrer describes a manifest as a list of referrers does, and says which digest it is about, if any.
func referrer(m snapshot.Manifest) (d ocispec.Descriptor, about string) {
	var head manifestHead
	if json.Unmarshal(m.Raw, &head) != nil || head.Subject == nil {
		return d, "" // it could be read when it was pushed
	}
	d = ocispec.Descriptor{
		MediaType: m.MediaType, Digest: digest.Digest(m.Digest), Size: int64(len(m.Raw)),
		ArtifactType: head.ArtifactType, Annotations: head.Annotations,
	}
	if d.ArtifactType == "" && head.Config != nil {
		d.ArtifactType = head.Config.MediaType
	}
	return d, head.Subject.Digest.String()
}
