// Package registry is an OCI registry over a repository of snapshots: Server for everybody who can reach it, which gives
// containers as images and takes images that are pushed, and Loopback for the engine of this host alone while a restore
// runs. The protocol is that of the OCI distribution specification 1.1.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// Server is an OCI registry of all snapshots of a repository: the image SYSTEM/CONTAINER:SNAPSHOT is
// that of a container, by its name or Compose service, with its changes on top; the very one that a restore would
// make. The tag is the first 8 digits of the snapshot's id, or more, or a tag of the snapshot, or "latest". Names are
// written as image names must be: in lower-case letters, digits and -, _ and dots.
//
// What is pushed by a name becomes a snapshot of the system pushed/NAME, tagged as the image is, and is served byte for byte
// as it was pushed. Its blobs wait in unlinked files until their manifest comes, so what breaks off leaves nothing.
// Nothing can be deleted by way of the registry.
//
// Layers are served as they are, uncompressed. A manifest that is asked for by its digest is looked for in the newest 64
// snapshots of the name: the nodes of a swarm pull so, and this server may be another one than told the digest. A blob is
// known once its manifest was asked for. Close gives the temporary files back.
type Server struct {
	repo          *chunkstore.Repository
	build         Builder
	log           *slog.Logger
	host, program string
	uploads       *uploads // nil: nothing can be pushed

	building sync.Mutex // one image is built at a time
	mu       sync.Mutex
	built    []*builtImage                 // those used last come last
	digests  map[[2]string]digest.Digest   // of manifests, by name and snapshot
	pushed   map[string]*snapshot.Snapshot // by id
}

// builtImage is an image that was asked for.
type builtImage struct {
	name     string // SYSTEM/CONTAINER as it was asked for
	snapshot string // id
	*Image
	free  func() error
	using sync.RWMutex // held for reading while layers are
}

// Options are options of New. The zero value serves what is there.
type Options struct {
	TempDir  string       // where uploads are spooled, as unlinked files; empty: os.TempDir
	Log      *slog.Logger // nil: nothing is logged
	Writable bool         // images can be pushed
	Host     string       // of snapshots of pushed images
	Program  string       // the same: name and version
}

// New returns a server; its requests may run concurrently.
func New(repo *chunkstore.Repository, build Builder, o Options) *Server {
	s := &Server{
		repo: repo, build: build, log: o.Log, host: o.Host, program: o.Program,
		digests: map[[2]string]digest.Digest{}, pushed: map[string]*snapshot.Snapshot{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Writable {
		s.uploads = newUploads(o.TempDir)
	}
	return s
}

var _ http.Handler = (*Server)(nil)

// Close gives the space of temporary files back. Nothing may be served any more.
func (s *Server) Close() error {
	if s.uploads != nil {
		s.uploads.close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, b := range s.built {
		errs = append(errs, b.free())
	}
	s.built = nil
	return errors.Join(errs...)
}

// route is what a path below /v2/ is about.
type route struct {
	name string // of the image
	what string // "manifests", "blobs", "uploads", "tags", "referrers"; of no image "base", "_catalog"
	ref  string // a tag, a digest, the id of an upload
}

// parseRoute reads a path. What it does not know is about nothing.
func parseRoute(path string) route {
	rest, ok := strings.CutPrefix(path, "/v2/")
	if path == "/v2" || ok && rest == "" {
		return route{what: "base"}
	}
	if !ok || rest == "_catalog" {
		return route{what: rest}
	}
	parts := strings.Split(rest, "/")
	last := len(parts) - 1
	if name, begins := strings.CutSuffix(rest, "/blobs/uploads"); begins {
		return route{name, "uploads", ""}
	}
	if last >= 3 && parts[last-2] == "blobs" && parts[last-1] == "uploads" {
		return route{strings.Join(parts[:last-2], "/"), "uploads", parts[last]}
	}
	if last < 2 {
		return route{}
	}
	return route{strings.Join(parts[:last-1], "/"), parts[last-1], parts[last]}
}

// ServeHTTP answers as the OCI distribution specification says.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	r := parseRoute(req.URL.Path)
	switch reads := req.Method == http.MethodGet || req.Method == http.MethodHead; {
	case s.receive(w, req, r):
	case !reads:
		answerError(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
	case r.what == "base":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
	case r.what == "_catalog":
		s.catalog(w, req)
	case r.what == "manifests":
		s.manifest(w, req, r.name, r.ref)
	case r.what == "blobs":
		s.blob(w, req, r.name, r.ref)
	case r.what == "tags" && r.ref == "list":
		s.tags(w, req, r.name)
	case r.what == "referrers":
		s.referrers(w, req, r.name, r.ref)
	default:
		answerError(w, http.StatusNotFound, "NAME_UNKNOWN")
	}
}

// fail tells the log why something cannot be served; the client learns only that.
func (s *Server) fail(w http.ResponseWriter, req *http.Request, err error) {
	s.log.Warn("an image cannot be served", "path", req.URL.Path, "error", err)
	answerError(w, http.StatusInternalServerError, "UNKNOWN")
}

// snapshotsOf lists the snapshots that have a container of the name, newest first; strays are none.
func snapshotsOf(cat *snapshot.Catalog, name string) []snapshot.Summary {
	system, container, _ := strings.Cut(name, "/")
	return slices.DeleteFunc(slices.Clone(cat.Snapshots), func(s snapshot.Summary) bool {
		return s.Pushed != nil || Component(s.System) != system || container == "" || strings.Contains(container, "/")
	})
}

// errNoImage says that there is no such image.
var errNoImage = errors.New("no such image")

// image returns the image of a name and a tag.
func (s *Server) image(ctx context.Context, name, tag string) (*builtImage, error) {
	cat, err := snapshot.ReadCatalog(ctx, s.repo)
	if err != nil {
		return nil, err
	}
	list := snapshotsOf(cat, name)
	if i := slices.IndexFunc(list, func(s snapshot.Summary) bool { return slices.Contains(s.Tags, tag) && !s.Stray }); i >= 0 {
		return s.imageOf(ctx, cat, list[i], name)
	}
	sel, err := snapshot.Select(list, tag, snapshot.Filter{}, time.Local)
	if err != nil || sel.Part != "" || tag != "latest" && (len(tag) < 8 || !strings.HasPrefix(sel.Summary.ID, tag)) {
		return nil, errNoImage
	}
	return s.imageOf(ctx, cat, sel.Summary, name)
}

// byDigest returns the image of a name whose manifest has a digest.
func (s *Server) byDigest(ctx context.Context, name, want string) (*builtImage, error) {
	all := s.known(name)
	if i := slices.IndexFunc(all, func(b *builtImage) bool { return b.ManifestDigest.String() == want }); i >= 0 {
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
		case b.ManifestDigest.String() == want:
			return b, nil
		}
	}
	return nil, errNoImage
}

// digestOf returns the digest of an image that was built before, empty if none was.
func (s *Server) digestOf(name, id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digests[[2]string{name, id}].String()
}

// imageOf returns the image of a name in a snapshot.
func (s *Server) imageOf(ctx context.Context, cat *snapshot.Catalog, sum snapshot.Summary, name string) (*builtImage, error) {
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
	b, err := s.containerImage(ctx, snap, name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[[2]string{name, sum.ID}] = b.ManifestDigest
	if s.built = append(s.built, b); len(s.built) > builtImages {
		go s.built[0].drop(s.log)
		s.built = slices.Delete(s.built, 0, 1)
	}
	return b, nil
}

// use returns an image that was built before, nil if there is none, and remembers that it was used.
func (s *Server) use(name, id string) *builtImage {
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

// containerImage makes the image of a container.
func (s *Server) containerImage(ctx context.Context, snap *snapshot.Snapshot, name string) (*builtImage, error) {
	_, container, _ := strings.Cut(name, "/")
	for _, c := range snap.System.Containers {
		if Component(c.Name) != container && c.Service != container {
			continue
		}
		img, free, err := s.build(ctx, snap, c.Name)
		if err != nil {
			return nil, err
		}
		return &builtImage{name: name, snapshot: snap.ID, Image: img, free: free}, nil
	}
	return nil, errNoImage
}

// drop gives the temporary files back when nobody reads them any more.
func (b *builtImage) drop(log *slog.Logger) {
	b.using.Lock()
	defer b.using.Unlock()
	if err := b.free(); err != nil {
		log.Warn("a temporary file", "error", err)
	}
}

// known returns the images of a name that were asked for, newest use first.
func (s *Server) known(name string) []*builtImage {
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

func (s *Server) manifest(w http.ResponseWriter, req *http.Request, name, ref string) {
	if served, err := s.servePushedManifest(w, req, name, ref); err != nil {
		s.fail(w, req, err)
		return
	} else if served {
		return
	}
	find := s.image
	if _, err := digest.Parse(ref); err == nil {
		find = s.byDigest
	}
	b, err := find(req.Context(), name, ref)
	switch {
	case errors.Is(err, errNoImage):
		answerError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	case err != nil:
		s.fail(w, req, err)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	serveBytes(w, req, b.ManifestDigest, b.Manifest)
}

func (s *Server) blob(w http.ResponseWriter, req *http.Request, name, ref string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	for _, b := range s.known(name) {
		if b.serve(w, req, ref) {
			return
		}
	}
	if served, err := s.servePushedBlob(w, req, name, ref); err != nil {
		s.fail(w, req, err)
		return
	} else if served {
		return
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
	answerError(w, http.StatusNotFound, "BLOB_UNKNOWN")
}

// builtBefore returns the images of a name that were asked for and are no longer remembered: somebody may be pulling one.
func (s *Server) builtBefore(ctx context.Context, name string) ([]*builtImage, error) {
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
	return serveBlob(w, req, b.Image, ref)
}

// tags lists the tags of an image: of a container's the snapshots that have it, and their tags.
func (s *Server) tags(w http.ResponseWriter, req *http.Request, name string) {
	cat, err := snapshot.ReadCatalog(req.Context(), s.repo)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	tags := []string{}
	list, pushed := snapshotsOf(cat, name), pushedAs(cat, name)
	if len(list) > 0 {
		tags = append(tags, "latest")
	}
	for _, one := range list {
		tags = append(tags, shortID(one.ID))
	}
	for _, one := range slices.Concat(list, pushed) {
		tags = append(tags, one.Tags...)
	}
	if len(list)+len(pushed) == 0 {
		answerError(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	tags = slices.DeleteFunc(tags, func(t string) bool { return !imageTags.MatchString(t) })
	slices.Sort(tags)
	answerJSON(w, map[string]any{"name": name, "tags": page(w, req, slices.Compact(tags))})
}

// page returns what of a sorted list a request is about: n of it, after the one that is called last. The answer links to the next.
func page(w http.ResponseWriter, req *http.Request, list []string) []string {
	query := req.URL.Query()
	if last := query.Get("last"); last != "" {
		i, found := slices.BinarySearch(list, last)
		if found {
			i++
		}
		list = list[i:]
	}
	n, err := strconv.Atoi(query.Get("n"))
	if err != nil || n < 0 || n >= len(list) {
		return list
	}
	if n > 0 {
		query.Set("last", list[n-1])
		w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", req.URL.EscapedPath(), query.Encode()))
	}
	return list[:n]
}

// catalog lists all names.
func (s *Server) catalog(w http.ResponseWriter, req *http.Request) {
	cat, err := snapshot.ReadCatalog(req.Context(), s.repo)
	if err != nil {
		s.fail(w, req, err)
		return
	}
	names := []string{}
	for _, one := range cat.Snapshots {
		if one.Pushed != nil {
			names = append(names, one.Pushed.Name)
		}
		for _, c := range one.Containers {
			names = append(names, Component(one.System)+"/"+Component(c))
		}
	}
	slices.Sort(names)
	answerJSON(w, map[string]any{"repositories": page(w, req, slices.Compact(names))})
}
