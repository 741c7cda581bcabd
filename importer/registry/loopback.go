package registry

import (
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Loopback is a read-only registry of some images, for the engine of this host to pull from. A
// pull is done by loading layers in parallel; a load unpacks a stream. It listens on the loopback
// interface, to which engines speak without TLS, and answers only below a name that cannot be
// guessed: other users of the host can reach the port, but not the images.
type Loopback struct {
	secret string
	images map[string]*Image // by tag
	asked  atomic.Bool       // something was asked below the secret name
	server *http.Server
	addr   string
}

// NewLoopback serves images, each by the tag that is its key, until it is closed, which closes the listener. The name
// of the run begins the secret one.
func NewLoopback(l net.Listener, run string, images map[string]*Image) *Loopback {
	r := &Loopback{secret: run + "-" + randomHex(), images: images, addr: l.Addr().String()}
	r.server = &http.Server{
		Handler:           http.HandlerFunc(r.serve),
		ReadHeaderTimeout: 10 * time.Second,
		// Engines try TLS on the port first; there is nothing to say about that.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() { _ = r.server.Serve(l) }() // ends with Close, which is the only reason
	return r
}

// Close ends all requests.
func (r *Loopback) Close() error { return r.server.Close() }

// Ref is the reference by which the engine pulls the image with the tag.
func (r *Loopback) Ref(tag string) string { return r.addr + "/" + r.secret + "/image:" + tag }

// Asked tells whether anybody who knows a Ref has asked for anything.
func (r *Loopback) Asked() bool { return r.asked.Load() }

// serve answers as the OCI distribution specification says for pulls.
func (r *Loopback) serve(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		answerError(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
		return
	}
	if req.URL.Path == "/v2/" || req.URL.Path == "/v2" {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "{}")
		return
	}
	rest, ok := strings.CutPrefix(req.URL.Path, "/v2/"+r.secret+"/image/")
	if !ok {
		answerError(w, http.StatusNotFound, "NAME_UNKNOWN")
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
		answerError(w, http.StatusNotFound, "NAME_UNKNOWN")
	}
}

func (r *Loopback) manifest(w http.ResponseWriter, req *http.Request, name string) {
	o := r.images[name]
	for _, other := range r.images {
		if other.ManifestDigest.String() == name {
			o = other
		}
	}
	if o == nil {
		answerError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	serveBytes(w, req, o.ManifestDigest, o.Manifest)
}

func (r *Loopback) blob(w http.ResponseWriter, req *http.Request, name string) {
	w.Header().Set("Content-Type", "application/octet-stream")
	for _, o := range r.images {
		if serveBlob(w, req, o, name) {
			return
		}
	}
	answerError(w, http.StatusNotFound, "BLOB_UNKNOWN")
}
