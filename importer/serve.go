package importer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// builtImages is how many images a server remembers: their changes lie in temporary files.
const builtImages = 16

// searchedImages is how many snapshots of a name are made images of to find one by its digest.
const searchedImages = 64

// ImageServer is a read-only OCI registry of all snapshots of a repository: the image SYSTEM/CONTAINER:SNAPSHOT is
// that of a container, by its name or Compose service, with its changes on top; the very one that a restore would
// make. The tag is the first 8 digits of the snapshot's id, or more, or "latest". Names are written as image names
// must be: in lower-case letters, digits and -, _ and dots.
//
// Layers are served as they are, uncompressed. A manifest that is asked for by its digest is looked for in the newest 64
// snapshots of the name: the nodes of a swarm pull so, and this server may be another one than told the digest. A blob is
// known once its manifest was asked for. Close gives the temporary files back.
type ImageServer struct {
	repo    *chunkstore.Repository
	tempDir string
	log     *slog.Logger

	building sync.Mutex // one image is built at a time
	mu       sync.Mutex
	built    []*builtImage               // those used last come last
	digests  map[[2]string]digest.Digest // of manifests, by name and snapshot
}

// builtImage is an image that was asked for.
type builtImage struct {
	name     string // SYSTEM/CONTAINER as it was asked for
	snapshot string // id
	oci      *ociImage
	layers   *layerStore
	using    sync.RWMutex // held for reading while layers are
}

// NewImageServer returns a server; its requests may run concurrently. tempDir is where containers' changes are spooled,
// as unlinked files; empty: os.TempDir.
func NewImageServer(repo *chunkstore.Repository, tempDir string, log *slog.Logger) *ImageServer {
	return &ImageServer{repo: repo, tempDir: tempDir, log: log, digests: map[[2]string]digest.Digest{}}
}

var _ http.Handler = (*ImageServer)(nil)

// Close gives the space of temporary files back. Nothing may be served any more.
func (s *ImageServer) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, b := range s.built {
		errs = append(errs, b.layers.close())
	}
	s.built = nil
	return errors.Join(errs...)
}

// ServeHTTP answers as the OCI distribution specification says for pulls.
func (s *ImageServer) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		registryError(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
		return
	}
	path, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	parts := strings.Split(path, "/")
	switch {
	case ok && path == "" || req.URL.Path == "/v2":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	case ok && path == "_catalog":
		s.catalog(w, req)
	case !ok || len(parts) != 4:
		registryError(w, http.StatusNotFound, "NAME_UNKNOWN")
	case parts[2] == "manifests":
		s.manifest(w, req, parts[0]+"/"+parts[1], parts[3])
	case parts[2] == "blobs":
		s.blob(w, req, parts[0]+"/"+parts[1], parts[3])
	case parts[2] == "tags" && parts[3] == "list":
		s.tags(w, req, parts[0]+"/"+parts[1])
	default:
		registryError(w, http.StatusNotFound, "NAME_UNKNOWN")
	}
}

// fail tells the log why something cannot be served; the client learns only that.
func (s *ImageServer) fail(w http.ResponseWriter, req *http.Request, err error) {
	s.log.Warn("an image cannot be served", "path", req.URL.Path, "error", err)
	registryError(w, http.StatusInternalServerError, "UNKNOWN")
}

// snapshotsOf lists the snapshots that have an image of the name, newest first; strays are none.
func snapshotsOf(cat *snapshot.Catalog, name string) []snapshot.Summary {
	system, container, _ := strings.Cut(name, "/")
	return slices.DeleteFunc(slices.Clone(cat.Snapshots), func(s snapshot.Summary) bool {
		return sanitize(s.System) != system || container == ""
	})
}

// errNoImage says that there is no such image.
var errNoImage = errors.New("no such image")

// image returns the image of a name and a tag.
func (s *ImageServer) image(ctx context.Context, name, tag string) (*builtImage, error) {
	cat, err := snapshot.ReadCatalog(ctx, s.repo)
	if err != nil {
		return nil, err
	}
	sel, err := snapshot.Select(snapshotsOf(cat, name), tag, snapshot.Filter{}, time.Local)
	if err != nil || sel.Part != "" || tag != "latest" && (len(tag) < 8 || !strings.HasPrefix(sel.Summary.ID, tag)) {
		return nil, errNoImage
	}
	return s.imageOf(ctx, cat, sel.Summary, name)
}

// byDigest returns the image of a name whose manifest has a digest.
func (s *ImageServer) byDigest(ctx context.Context, name, want string) (*builtImage, error) {
	all := s.known(name)
	if i := slices.IndexFunc(all, func(b *builtImage) bool { return b.oci.manifestDigest.String() == want }); i >= 0 {
		return all[i], nil
	}
	cat, err := snapshot.ReadCatalog(ctx, s.repo)
	if err != nil {
		return nil, err
	}
	list := snapshotsOf(cat, name)
	for _, sum := range list[:min(searchedImages, len(list))] {
		if got := s.digestOf(name, sum.ID); got != "" && got != want {
			continue
		}
		b, err := s.imageOf(ctx, cat, sum, name)
		switch {
		case errors.Is(err, errNoImage):
		case err != nil:
			return nil, err
		case b.oci.manifestDigest.String() == want:
			return b, nil
		}
	}
	return nil, errNoImage
}

// digestOf returns the digest of an image that was built before, empty if none was.
func (s *ImageServer) digestOf(name, id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digests[[2]string{name, id}].String()
}

// imageOf returns the image of a name in a snapshot.
func (s *ImageServer) imageOf(ctx context.Context, cat *snapshot.Catalog, sum snapshot.Summary, name string) (*builtImage, error) {
	s.building.Lock()
	defer s.building.Unlock()
	if b := s.use(name, sum.ID); b != nil {
		return b, nil
	}
	if err := s.repo.LoadIndex(ctx); err != nil { // the snapshot may be newer than what was read of it
		return nil, err
	}
	snap, err := cat.Load(ctx, sum)
	if err != nil {
		return nil, err
	}
	b, err := s.build(ctx, snap, name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[[2]string{name, sum.ID}] = b.oci.manifestDigest
	if s.built = append(s.built, b); len(s.built) > builtImages {
		go s.built[0].drop(s.log)
		s.built = slices.Delete(s.built, 0, 1)
	}
	return b, nil
}

// use returns an image that was built before, nil if there is none, and remembers that it was used.
func (s *ImageServer) use(name, id string) *builtImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.built, func(b *builtImage) bool { return b.name == name && b.snapshot == id })
	if i < 0 {
		return nil
	}
	b := s.built[i]
	s.built = append(slices.Delete(s.built, i, i+1), b)
	return b
}

// build makes the image of a container.
func (s *ImageServer) build(ctx context.Context, snap *snapshot.Snapshot, name string) (*builtImage, error) {
	_, container, _ := strings.Cut(name, "/")
	for _, c := range snap.System.Containers {
		if sanitize(c.Name) != container && c.Service != container {
			continue
		}
		found, img, err := findExport(&snap.System, c.Name)
		if err != nil {
			return nil, err
		}
		b := &builtImage{name: name, snapshot: snap.ID, layers: &layerStore{repo: s.repo, fetched: new(atomic.Int64)}}
		b.oci, _, err = exportImage(ctx, b.layers, snap, found, img, ExportOptions{Base: found.Changes == nil, TempDir: s.tempDir})
		if err != nil {
			return nil, errors.Join(err, b.layers.close())
		}
		return b, nil
	}
	return nil, errNoImage
}

// drop gives the temporary files back when nobody reads them any more.
func (b *builtImage) drop(log *slog.Logger) {
	b.using.Lock()
	defer b.using.Unlock()
	if err := b.layers.close(); err != nil {
		log.Warn("a temporary file", "error", err)
	}
}

// known returns the images of a name that were asked for, newest use first.
func (s *ImageServer) known(name string) []*builtImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*builtImage
	for _, b := range slices.Backward(s.built) {
		if b.name == name {
			all = append(all, b)
		}
	}
	return all
}

func (s *ImageServer) manifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	find := s.image
	if _, err := digest.Parse(ref); err == nil {
		find = s.byDigest
	}
	b, err := find(req.Context(), name, ref)
	switch {
	case errors.Is(err, errNoImage):
		registryError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	case err != nil:
		s.fail(w, req, err)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	serveBytes(w, req, b.oci.manifestDigest, b.oci.manifest)
}

func (s *ImageServer) blob(w http.ResponseWriter, req *http.Request, name, ref string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	for _, b := range s.known(name) {
		if b.serve(w, req, ref) {
			return
		}
	}
	again, err := s.builtBefore(req.Context(), name)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	for _, b := range again {
		if b.serve(w, req, ref) {
			return
		}
	}
	registryError(w, http.StatusNotFound, "BLOB_UNKNOWN")
}

// builtBefore returns the images of a name that were asked for and are no longer remembered: somebody may be pulling one.
func (s *ImageServer) builtBefore(ctx context.Context, name string) ([]*builtImage, error) {
	s.mu.Lock()
	lost := map[string]bool{} // ids of snapshots
	for key := range s.digests {
		lost[key[1]] = lost[key[1]] || key[0] == name
	}
	for _, b := range s.built {
		lost[b.snapshot] = lost[b.snapshot] && b.name != name
	}
	s.mu.Unlock()
	if !slices.Contains(slices.Collect(maps.Values(lost)), true) {
		return nil, nil
	}
	cat, err := snapshot.ReadCatalog(ctx, s.repo)
	if err != nil {
		return nil, err
	}
	var again []*builtImage
	for _, sum := range snapshotsOf(cat, name) {
		if !lost[sum.ID] {
			continue
		}
		b, err := s.imageOf(ctx, cat, sum, name)
		if err != nil {
			return nil, err
		}
		again = append(again, b)
	}
	return again, nil
}

// serve serves a blob, unless the image has none of that name or is dropped just now.
func (b *builtImage) serve(w http.ResponseWriter, req *http.Request, ref string) bool {
	if !b.using.TryRLock() {
		return false
	}
	defer b.using.RUnlock()
	return serveBlob(w, req, b.oci, b.layers.open, ref)
}

// tags lists the snapshots that have an image of a name.
func (s *ImageServer) tags(w http.ResponseWriter, req *http.Request, name string) {
	cat, err := snapshot.ReadCatalog(req.Context(), s.repo)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	list := snapshotsOf(cat, name)
	if len(list) == 0 {
		registryError(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	tags := []string{"latest"}
	for _, one := range list {
		tags = append(tags, shortID(one.ID))
	}
	slices.Sort(tags)
	answerJSON(w, map[string]any{"name": name, "tags": tags})
}

// catalog lists all names.
func (s *ImageServer) catalog(w http.ResponseWriter, req *http.Request) {
	cat, err := snapshot.ReadCatalog(req.Context(), s.repo)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	names := []string{}
	for _, one := range cat.Snapshots {
		for _, c := range one.Containers {
			names = append(names, sanitize(one.System)+"/"+sanitize(c))
		}
	}
	slices.Sort(names)
	answerJSON(w, map[string]any{"repositories": slices.Compact(names)})
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}
