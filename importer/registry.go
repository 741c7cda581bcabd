package importer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// registry is a read-only OCI registry of some images, for the engine of this host to pull from. A
// pull is done by loading layers in parallel; a load unpacks a stream. It listens on the loopback
// interface, to which engines speak without TLS, and answers only below a name that cannot be
// guessed: other users of the host can reach the port, but not the images.
type registry struct {
	secret string
	images map[string]*ociImage // by tag
	open   openLayer
	asked  atomic.Bool // something was asked below the secret name
	server *http.Server
	addr   string
}

// newRegistry serves images, each by the tag that is its key, until it is closed. The name of the run begins the
// secret one.
func newRegistry(images map[string]*ociImage, open openLayer, l net.Listener, run string) *registry {
	r := &registry{secret: run + "-" + hex.EncodeToString(randomBytes(16)), images: images, open: open, addr: l.Addr().String()}
	r.server = &http.Server{
		Handler:           r,
		ReadHeaderTimeout: 10 * time.Second,
		// Engines try TLS on the port first; there is nothing to say about that.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { _ = r.server.Serve(l) }() // ends with Close, which is the only reason
	return r
}

func (r *registry) close() error { return r.server.Close() }

// ref is the reference by which the engine pulls the image with the tag.
func (r *registry) ref(tag string) string { return r.addr + "/" + r.secret + "/image:" + tag }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// ServeHTTP answers as the OCI distribution specification says for pulls.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		registryError(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
		return
	}
	if req.URL.Path == "/v2/" || req.URL.Path == "/v2" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/"+r.secret+"/image/")
	if !ok {
		registryError(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	r.asked.Store(true)
	what, name, _ := strings.Cut(rest, "/")
	switch what {
	case "manifests":
		r.manifest(w, req, name)
	case "blobs":
		r.blob(w, req, name)
	default:
		registryError(w, http.StatusNotFound, "NAME_UNKNOWN")
	}
}

func registryError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q}]}`, code)
}

// refusal is an answer to a request that cannot be granted, with words for people.
type refusal struct {
	status    int
	code, why string
}

func (e *refusal) Error() string { return e.why }

func refuse(status int, code, why string, args ...any) error {
	return &refusal{status, code, fmt.Sprintf(why, args...)}
}

func (e *refusal) answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.status)
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	_ = json.NewEncoder(w).Encode(map[string][]item{"errors": {{e.code, e.why}}}) // the client has gone
}

func (r *registry) manifest(w http.ResponseWriter, req *http.Request, name string) {
	o := r.images[name]
	for _, other := range r.images {
		if other.manifestDigest.String() == name {
			o = other
		}
	}
	if o == nil {
		registryError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	serveBytes(w, req, o.manifestDigest, o.manifest)
}

// serveBytes serves what is at hand.
func serveBytes(w http.ResponseWriter, req *http.Request, d digest.Digest, data []byte) {
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if req.Method == http.MethodGet {
		_, _ = w.Write(data)
	}
}

func (r *registry) blob(w http.ResponseWriter, req *http.Request, name string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	for _, o := range r.images {
		if serveBlob(w, req, o, r.open, name) {
			return
		}
	}
	registryError(w, http.StatusNotFound, "BLOB_UNKNOWN")
}

// serveBlob serves a blob of an image, and reports whether it has it.
func serveBlob(w http.ResponseWriter, req *http.Request, o *ociImage, open openLayer, name string) bool {
	switch name {
	case o.configDigest.String():
		serveBytes(w, req, o.configDigest, o.config)
		return true
	case o.manifestDigest.String():
		serveBytes(w, req, o.manifestDigest, o.manifest)
		return true
	}
	for _, l := range o.image.Layers {
		if l.DiffID == name {
			err := serveStored(w, req, snapshot.Blob{Digest: name, Size: l.Size}, func(ctx context.Context) (io.ReadCloser, error) {
				r, _, err := open(ctx, name)
				return r, err
			})
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			return true
		}
	}
	return false
}

// serveStored serves a blob or one range of it. A range is cut out of the whole: the start is read and
// thrown away, which happens only when an engine resumes after a broken connection. After an error the handler must
// panic with http.ErrAbortHandler: the length is promised, and a connection that ends early is how the client learns.
func serveStored(w http.ResponseWriter, req *http.Request, b snapshot.Blob, open func(context.Context) (io.ReadCloser, error)) error {
	from, to, err := byteRange(req.Header.Get("Range"), b.Size)
	if err != nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", b.Size))
		registryError(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UNKNOWN")
		return nil
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", b.Digest)
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(to-from, 10))
	status := http.StatusOK
	if to-from != b.Size {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, b.Size))
		status = http.StatusPartialContent
	}
	if req.Method == http.MethodHead {
		w.WriteHeader(status)
		return nil
	}
	blob, err := open(req.Context())
	if err != nil {
		return err
	}
	return copyRange(w, blob, status, from, to)
}

func copyRange(w http.ResponseWriter, blob io.ReadCloser, status int, from, to int64) error {
	defer blob.Close()
	if _, err := io.CopyN(io.Discard, blob, from); err != nil {
		return err
	}
	w.WriteHeader(status)
	_, err := io.CopyN(w, blob, to-from)
	return err
}

var errRange = errors.New("range cannot be satisfied")

// byteRange reads a Range header of one range. Anything else asks for the whole, as RFC 9110 allows.
func byteRange(header string, size int64) (from, to int64, err error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, ok2 := strings.Cut(spec, "-")
	if !ok || !ok2 || strings.Contains(spec, ",") {
		return 0, size, nil
	}
	if first == "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n <= 0 {
			return 0, 0, errRange
		}
		return max(0, size-n), size, nil
	}
	if from, err = strconv.ParseInt(first, 10, 64); err != nil || from < 0 || from >= size {
		return 0, 0, errRange
	}
	if last == "" {
		return from, size, nil
	}
	if to, err = strconv.ParseInt(last, 10, 64); err != nil || to < from {
		return 0, 0, errRange
	}
	return from, min(to+1, size), nil
}
