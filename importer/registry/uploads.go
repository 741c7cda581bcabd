package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// uploadIdle is how long an upload, or a blob that no manifest has asked for, is kept while nothing happens to it. The layers
// of one image may come over a slow line.
const uploadIdle = 24 * time.Hour

// maxMounted is how many blobs of other names may wait for a manifest; more of them are uploaded.
const maxMounted = 10000

// uploads are blobs on their way in. They lie in unlinked files, which end with this process however that ends, until a
// manifest that names them is stored.
type uploads struct {
	dir string

	mu      sync.Mutex
	open    map[string]*upload       // by id
	arrived map[blobKey]*arrivedBlob // whole
	mounted map[blobKey]snapshot.Blob
}

// blobKey names a blob of an image.
type blobKey struct{ name, digest string }

// upload is a blob of which more may come. mu is held while something does.
type upload struct {
	mu    sync.Mutex
	name  string // of the image
	file  *os.File
	size  int64
	timer *time.Timer
	over  bool
}

// arrivedBlob is a blob that has arrived for an image.
type arrivedBlob struct {
	snapshot.Blob
	file  *sharedFile
	timer *time.Timer
}

// sharedFile is open while somebody uses it: the images that have it, and who reads it. users is under the lock of uploads.
type sharedFile struct {
	*os.File
	users int
}

func newUploads(dir string) *uploads {
	return &uploads{dir: dir, open: map[string]*upload{}, arrived: map[blobKey]*arrivedBlob{}, mounted: map[blobKey]snapshot.Blob{}}
}

// begin begins an upload and returns its id.
func (u *uploads) begin(name string) (string, *upload, error) {
	f, err := archive.UnnamedFile(u.dir)
	if err != nil {
		return "", nil, err
	}
	id := randomHex()
	up := &upload{name: name, file: f}
	up.timer = time.AfterFunc(uploadIdle, func() { u.cancel(id, up) })
	u.mu.Lock()
	defer u.mu.Unlock()
	u.open[id] = up
	return id, up, nil
}

// find returns an upload that is under way.
func (u *uploads) find(name, id string) (*upload, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.open[id]
	if up == nil || up.name != name {
		return nil, refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; begin again")
	}
	return up, nil
}

// cancel ends an upload and gives its space back.
func (u *uploads) cancel(id string, up *upload) {
	u.mu.Lock()
	delete(u.open, id)
	u.mu.Unlock()
	up.mu.Lock()
	defer up.mu.Unlock()
	if !up.over {
		up.end()
		_ = up.file.Close() // has no name, and nobody wants it
	}
}

// end says that nothing more may come. mu is held.
func (up *upload) end() {
	up.timer.Stop()
	up.over = true
}

// append adds what comes in, at the place that a Content-Range names, if there is one: the end of what is there.
func (up *upload) append(body io.Reader, contentRange string) error {
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.over {
		return refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; begin again")
	}
	up.timer.Stop() // however slowly it comes
	defer up.timer.Reset(uploadIdle)
	if contentRange != "" {
		first, _, _ := strings.Cut(strings.TrimPrefix(contentRange, "bytes "), "-")
		if from, err := strconv.ParseInt(first, 10, 64); err != nil || from != up.size {
			return refuse(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "%d bytes are there, so the next are not %s", up.size, contentRange)
		}
	}
	from := &source{Reader: body}
	n, err := io.Copy(io.NewOffsetWriter(up.file, up.size), from)
	up.size += n // also of what broke off: the client asks how much there is
	if err != nil && from.err == nil {
		err = fmt.Errorf("%w: %w", errSpool, err)
	}
	return err
}

// errSpool says that what came could not be written.
var errSpool = errors.New("temporary file")

// source remembers why reading failed.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// length returns how many bytes have come.
func (up *upload) length() int64 {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.size
}

// finish makes a blob of an upload, if it is what the digest says.
func (u *uploads) finish(id string, up *upload, want digest.Digest) error {
	u.mu.Lock()
	delete(u.open, id)
	u.mu.Unlock()
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.over {
		return refuse(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; begin again")
	}
	up.end()
	blob, err := describeBlob(up, want)
	if err != nil {
		return errors.Join(err, up.file.Close())
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hold(up.name, blob, &sharedFile{File: up.file})
	return nil
}

// hold keeps a blob for an image. mu is held.
func (u *uploads) hold(name string, b snapshot.Blob, file *sharedFile) {
	key := blobKey{name, b.Digest}
	u.forget(key) // of an earlier upload of the same
	file.users++
	u.arrived[key] = &arrivedBlob{b, file, time.AfterFunc(uploadIdle, func() { u.drop(key) })}
}

// release says that one user of a file is done. mu is held.
func (f *sharedFile) release() {
	if f.users--; f.users == 0 {
		_ = f.Close() // has no name, and nobody wants it
	}
}

// describeBlob holds an upload to its digest.
func describeBlob(up *upload, want digest.Digest) (snapshot.Blob, error) {
	sums := []digest.Digester{want.Algorithm().Digester(), digest.Canonical.Digester()}
	if want.Algorithm() == digest.Canonical {
		sums = sums[:1]
	}
	var to []io.Writer
	for _, s := range sums {
		to = append(to, s.Hash())
	}
	if _, err := io.Copy(io.MultiWriter(to...), io.NewSectionReader(up.file, 0, up.size)); err != nil {
		return snapshot.Blob{}, fmt.Errorf("temporary file: %w", err)
	}
	if got := sums[0].Digest(); got != want {
		return snapshot.Blob{}, refuse(http.StatusBadRequest, "DIGEST_INVALID", "what came has the digest %s", got)
	}
	b := snapshot.Blob{Digest: want.String(), Size: up.size}
	if len(sums) > 1 {
		b.Layer = sums[1].Digest().String()
	}
	return b, nil
}

// mount lets an image use a blob of another one, and reports whether there was room to remember that.
func (u *uploads) mount(name string, b snapshot.Blob) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.mounted) >= maxMounted {
		return false
	}
	u.mounted[blobKey{name, b.Digest}] = b
	return true
}

// blob returns a blob that has come for an image, or was mounted.
func (u *uploads) blob(name, ref string) (snapshot.Blob, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key := blobKey{name, ref}
	if b := u.arrived[key]; b != nil {
		b.timer.Reset(uploadIdle)
		return b.Blob, true
	}
	b, ok := u.mounted[key]
	return b, ok
}

// share lets an image use a blob that has come for another one, and reports whether such a one has.
func (u *uploads) share(name, from, ref string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.arrived[blobKey{from, ref}]
	if b != nil && name != from {
		u.hold(name, b.Blob, b.file)
	}
	return b != nil
}

// reader opens a blob that has come, nil if none such has.
func (u *uploads) reader(name, ref string) io.ReadCloser {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := u.arrived[blobKey{name, ref}]
	if b == nil {
		return nil
	}
	b.file.users++
	return &arrivedReader{io.NewSectionReader(b.file, 0, b.Size), sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		b.file.release()
	})}
}

type arrivedReader struct {
	io.Reader
	done func()
}

func (r *arrivedReader) Close() error {
	r.done()
	return nil
}

// drop gives the space of a blob back, if there is one, once nobody needs it.
func (u *uploads) drop(key blobKey) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.forget(key)
}

// forget is drop. mu is held.
func (u *uploads) forget(key blobKey) {
	delete(u.mounted, key)
	if b := u.arrived[key]; b != nil {
		delete(u.arrived, key)
		b.timer.Stop()
		b.file.release()
	}
}

// close drops everything.
func (u *uploads) close() {
	u.mu.Lock()
	var keys []blobKey
	for key := range u.arrived {
		keys = append(keys, key)
	}
	open := u.open
	u.open = map[string]*upload{}
	u.mu.Unlock()
	for _, key := range keys {
		u.drop(key)
	}
	for id, up := range open {
		u.cancel(id, up)
	}
}
