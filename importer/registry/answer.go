package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// answerError answers with an error of the OCI distribution specification.
func answerError(w http.ResponseWriter, status int, code string) {
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

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

// serveBytes serves what is at hand.
func serveBytes(w http.ResponseWriter, req *http.Request, d digest.Digest, data []byte) {
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	if req.Method == http.MethodGet {
		_, _ = w.Write(data)
	}
}

// serveBlob serves a blob of an image, and reports whether it has it.
func serveBlob(w http.ResponseWriter, req *http.Request, img *Image, name string) bool {
	switch name {
	case img.ConfigDigest.String():
		serveBytes(w, req, img.ConfigDigest, img.Config)
		return true
	case img.ManifestDigest.String():
		serveBytes(w, req, img.ManifestDigest, img.Manifest)
		return true
	}
	for _, l := range img.Layers {
		if l.DiffID == name {
			err := serveStored(w, req, snapshot.Blob{Digest: name, Size: l.Size}, func(ctx context.Context) (io.ReadCloser, error) {
				r, _, err := img.Open(ctx, name)
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
		answerError(w, http.StatusRequestedRangeNotSatisfiable, "BLOB_UNKNOWN")
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
