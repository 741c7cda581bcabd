package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// maxManifest is how long a manifest may be: what every registry takes.
const maxManifest = 4 << 20

// What the OCI distribution specification allows as names and tags.
var (
	imageNames = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	imageTags  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

// receive answers what belongs to a push, and reports whether the request does.
func (s *Server) receive(w http.ResponseWriter, req *http.Request, r route) bool {
	var handle func(http.ResponseWriter, *http.Request, route) error
	switch {
	case s.uploads == nil:
		return false
	case r.what == "manifests" && req.Method == http.MethodPut:
		handle = s.putManifest
	case r.what != "uploads":
		return false
	case r.ref == "" && req.Method == http.MethodPost:
		handle = s.beginUpload
	case r.ref == "":
		return false
	case req.Method == http.MethodPatch:
		handle = s.continueUpload
	case req.Method == http.MethodPut:
		handle = s.finishUpload
	case req.Method == http.MethodGet:
		handle = s.showUpload
	case req.Method == http.MethodDelete:
		handle = s.cancelUpload
	default:
		return false
	}
	if err := handle(w, req, r); err != nil {
		s.refuse(w, req, err)
	}
	return true
}

// refuse answers with an error. What the client is not to blame for goes to the log.
func (s *Server) refuse(w http.ResponseWriter, req *http.Request, err error) {
	if no := (*refusal)(nil); errors.As(err, &no) {
		no.answer(w)
		return
	}
	s.log.Warn("a push failed", "path", req.URL.Path, "error", err)
	answerError(w, http.StatusInternalServerError, "UNKNOWN")
}

// beginUpload begins an upload, unless the blob can be had from another image, or comes with this request.
func (s *Server) beginUpload(w http.ResponseWriter, req *http.Request, r route) error {
	if len(r.name) > 255 || !imageNames.MatchString(r.name) {
		return refuse(http.StatusBadRequest, "NAME_INVALID", "%q is no name of an image", r.name)
	}
	query := req.URL.Query()
	if mount := query.Get("mount"); mount != "" {
		mounted, err := s.mountBlob(req, r.name, mount, query.Get("from"))
		if err != nil {
			return err
		}
		if mounted {
			blobCreated(w, r.name, mount)
			return nil
		}
	}
	if query.Get("digest") != "" {
		return s.receiveWhole(w, req, r.name)
	}
	id, _, err := s.uploads.begin(r.name)
	if err != nil {
		return err
	}
	uploadState(w, r.name, id, 0)
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// mountBlob finds a blob in another image, or in the same.
func (s *Server) mountBlob(req *http.Request, name, ref, from string) (bool, error) {
	if from == "" {
		from = name
	}
	if _, ok := parseDigest(ref); !ok {
		return false, nil
	}
	if s.uploads.share(name, from, ref) {
		return true, nil
	}
	b, err := s.pushedBlob(req.Context(), from, ref)
	if errors.Is(err, errNoImage) {
		return false, nil
	}
	return err == nil && s.uploads.mount(name, b), err
}

// blobCreated says where a blob is now.
func blobCreated(w http.ResponseWriter, name, ref string) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+ref)
	w.Header().Set("Docker-Content-Digest", ref)
	w.WriteHeader(http.StatusCreated)
}

// receiveWhole takes a blob in one request.
func (s *Server) receiveWhole(w http.ResponseWriter, req *http.Request, name string) error {
	id, up, err := s.uploads.begin(name)
	if err != nil {
		return err
	}
	if err := s.complete(w, req, route{name, "uploads", id}, up); err != nil {
		s.uploads.cancel(id, up)
		return err
	}
	return nil
}

// uploadState says how far an upload is.
func uploadState(w http.ResponseWriter, name, id string, size int64) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-UUID", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, size-1)))
}

func (s *Server) continueUpload(w http.ResponseWriter, req *http.Request, r route) error {
	up, err := s.uploads.find(r.name, r.ref)
	if err != nil {
		return err
	}
	if err := s.append(w, req, r, up); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// append adds what a request brings to an upload, and says how far that is. An upload for which there is no room ends.
func (s *Server) append(w http.ResponseWriter, req *http.Request, r route, up *upload) error {
	err := up.append(req.Body, req.Header.Get("Content-Range"))
	if errors.Is(err, errSpool) {
		s.uploads.cancel(r.ref, up)
		return err
	}
	uploadState(w, r.name, r.ref, up.length())
	return err
}

func (s *Server) showUpload(w http.ResponseWriter, _ *http.Request, r route) error {
	up, err := s.uploads.find(r.name, r.ref)
	if err != nil {
		return err
	}
	uploadState(w, r.name, r.ref, up.length())
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) cancelUpload(w http.ResponseWriter, _ *http.Request, r route) error {
	up, err := s.uploads.find(r.name, r.ref)
	if err != nil {
		return err
	}
	s.uploads.cancel(r.ref, up)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) finishUpload(w http.ResponseWriter, req *http.Request, r route) error {
	up, err := s.uploads.find(r.name, r.ref)
	if err != nil {
		return err
	}
	return s.complete(w, req, r, up)
}

// complete takes the rest of an upload and makes a blob of it.
func (s *Server) complete(w http.ResponseWriter, req *http.Request, r route, up *upload) error {
	want, ok := parseDigest(req.URL.Query().Get("digest"))
	if !ok {
		return refuse(http.StatusBadRequest, "DIGEST_INVALID", "%q is no digest that can be verified", req.URL.Query().Get("digest"))
	}
	if err := s.append(w, req, r, up); err != nil {
		return err
	}
	if err := s.uploads.finish(r.ref, up, want); err != nil {
		return err
	}
	blobCreated(w, r.name, want.String())
	return nil
}

// putManifest stores an image whose blobs have come, as a snapshot.
func (s *Server) putManifest(w http.ResponseWriter, req *http.Request, r route) error {
	if len(r.name) > 255 || !imageNames.MatchString(r.name) {
		return refuse(http.StatusBadRequest, "NAME_INVALID", "%q is no name of an image", r.name)
	}
	raw, err := io.ReadAll(io.LimitReader(req.Body, maxManifest+1))
	if err != nil {
		return err
	}
	if len(raw) > maxManifest {
		return refuse(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "the manifest is longer than 4 MiB")
	}
	tags, d, err := manifestNames(r.ref, req.URL.Query(), raw)
	if err != nil {
		return err
	}
	m := snapshot.Manifest{Digest: d.String(), MediaType: req.Header.Get("Content-Type"), Raw: raw}
	subject, err := s.store(req.Context(), r.name, tags, m)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+r.name+"/manifests/"+r.ref)
	h.Set("Docker-Content-Digest", m.Digest)
	if subject != "" {
		h.Set("OCI-Subject", subject)
	}
	if r.ref == m.Digest {
		for _, tag := range tags {
			h.Add("OCI-Tag", tag)
		}
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// manifestNames returns the tags and the digest by which a manifest is pushed.
func manifestNames(ref string, query url.Values, raw []byte) ([]string, digest.Digest, error) {
	tags, d := query["tag"], digest.FromBytes(raw)
	if want, ok := parseDigest(ref); ok {
		if d = want.Algorithm().FromBytes(raw); d != want {
			return nil, "", refuse(http.StatusBadRequest, "DIGEST_INVALID", "what came has the digest %s", d)
		}
	} else {
		tags = append([]string{ref}, tags...)
	}
	if bad := slices.IndexFunc(tags, func(t string) bool { return !imageTags.MatchString(t) }); bad >= 0 {
		return nil, "", refuse(http.StatusBadRequest, "TAG_INVALID", "%q is no tag of an image", tags[bad])
	}
	return tags, d, nil
}
