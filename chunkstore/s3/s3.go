// Package s3 is a backend in a bucket of any store that speaks the S3 API.
//
// It uses as little of that API as it can: PutObject in one request with the body's SHA-256 in the
// signature and as x-amz-checksum-sha256, so that the store refuses what was damaged on the way;
// GetObject with ranges; HeadObject now and then; ListObjectsV2, or the first version where that is missing;
// DeleteObject; and If-None-Match: * for PutIfAbsent. No multipart uploads (an object has at most
// chunkstore.MaxObject bytes), so nothing half-made is left behind to be paid for.
//
// Every method makes one attempt. Wrap a Store in chunkstore.Retry.
//
// MinIO, versitygw 1.8 over a POSIX file system and OpenStack Swift 2.30 are held to the contract by
// the tests. The first two keep all of it: of eight creates of one name at once one won, 300 times
// of 300. Swift answers If-None-Match with 501, so there PutIfAbsent is chunkstore.ErrUnsupported.
package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Store is a bucket, or what is below a prefix in it.
type Store struct {
	config Config
	core   minio.Core
	creds  *credentials.Credentials
	wire   *wire
	oldV1  atomic.Bool // the store has only the first version of listings
	locks  *locks      // of a repository whose objects are locked; else nil
}

// Open returns the backend of c. It looks for credentials, and is chunkstore.ErrAccess if there are
// none, but makes no request to the store: a missing bucket shows at the first use, as
// chunkstore.ErrNoStore.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("open %s: %w", c.URL(), err)
	}
	w, err := newWire(c)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.URL(), err)
	}
	creds := newCredentials(c)
	if _, err := creds.GetWithContext(&credentials.CredContext{Context: ctx, Client: &http.Client{Transport: w}}); err != nil {
		return nil, fmt.Errorf("open %s: %w", c.URL(), err)
	}
	client, err := minio.New(c.Endpoint, &minio.Options{
		Creds:        creds,
		Secure:       !c.Insecure,
		Transport:    w,
		Region:       c.Region,
		BucketLookup: map[Lookup]minio.BucketLookupType{LookupPath: minio.BucketLookupPath, LookupDNS: minio.BucketLookupDNS}[c.Lookup],
		MaxRetries:   1, // chunkstore.Retry is the one place that retries
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", c.URL(), err)
	}
	return &Store{config: c, core: minio.Core{Client: client}, creds: creds, wire: w}, nil
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.wire.transport.CloseIdleConnections()
	return nil
}

// Location implements chunkstore.Backend: the URL.
func (s *Store) Location() string { return s.config.URL() }

// CreateBucket creates the bucket unless it is there and ours.
func (s *Store) CreateBucket(ctx context.Context) error {
	err := s.core.MakeBucket(ctx, s.config.Bucket, minio.MakeBucketOptions{Region: s.config.Region, ObjectLocking: s.config.NewLocked})
	switch minio.ToErrorResponse(err).Code {
	case "BucketAlreadyOwnedByYou":
		return nil
	case "BucketAlreadyExists":
		// Some stores answer this for the caller's own bucket, too.
		if ok, existsErr := s.core.BucketExists(ctx, s.config.Bucket); existsErr == nil && ok {
			return nil
		}
		return &Error{
			Op: "create bucket", Name: s.config.Bucket, Code: "BucketAlreadyExists",
			hint: "choose another name: bucket names are shared by all customers of a store", err: chunkstore.ErrAccess,
		}
	}
	return s.translate(ctx, "create bucket", s.config.Bucket, err)
}

// Put implements chunkstore.Backend. It replaces an object of that name.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	_, err := s.put(ctx, name, data, minio.PutObjectOptions{})
	return err
}

// PutIfAbsent implements chunkstore.Creator. A store may answer that another create of the name is
// under way (409); that is an error to retry, as AWS asks for.
func (s *Store) PutIfAbsent(ctx context.Context, name string, data []byte) error {
	var opts minio.PutObjectOptions
	opts.SetMatchETagExcept("*")
	version, err := s.put(ctx, name, data, opts)
	if err != nil || s.locks == nil {
		return err
	}
	return s.isFirst(ctx, name, version)
}

// put stores an object and returns its version, if the bucket has versions.
func (s *Store) put(ctx context.Context, name string, data []byte, opts minio.PutObjectOptions) (version string, err error) {
	if err := check(ctx, name); err != nil {
		return "", fmt.Errorf("put %s: %w", name, err)
	}
	if err := chunkstore.CheckSize(int64(len(data))); err != nil {
		return "", fmt.Errorf("put %s: %w", name, err)
	}
	md5 := s.lockNew(name, data, &opts)
	if chunkstore.MayBeCold(name) {
		opts.StorageClass = s.config.DataClass
	}
	sum := sha256.Sum256(data)
	opts.DisableContentSha256 = true // which means: the body is not signed in pieces, but by its hash below
	opts.UserMetadata = map[string]string{"x-amz-checksum-sha256": base64.StdEncoding.EncodeToString(sum[:])}
	lent := newBody(data)
	defer lent.takeBack()
	info, err := s.core.PutObject(ctx, s.config.Bucket, s.config.key(name), lent, int64(len(data)), md5, hex.EncodeToString(sum[:]), opts)
	return info.VersionID, s.translate(ctx, "put", name, err)
}

// Get implements chunkstore.Backend.
func (s *Store) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	if err := check(ctx, name); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	if _, err := chunkstore.Span(1<<62, off, max(n, 0)); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err) // of no object whatever
	}
	if n == 0 {
		return s.getNothing(ctx, name, off, n)
	}
	var opts minio.GetObjectOptions
	if s.locks != nil {
		first, err := s.first(ctx, name)
		if err != nil {
			return nil, s.translate(ctx, "get", name, err)
		}
		opts.VersionID = first.VersionID
	}
	switch {
	case n > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	case off > 0:
		opts.Set("Range", fmt.Sprintf("bytes=%d-", off))
	}
	body, _, header, err := s.core.GetObject(ctx, s.config.Bucket, s.config.key(name), opts)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return s.getNothing(ctx, name, off, n)
		}
		return nil, s.translate(ctx, "get", name, err)
	}
	defer body.Close()
	data, err := readSpan(body, header, off, n)
	if err != nil {
		return nil, s.translate(ctx, "get", name, err)
	}
	return data, nil
}

// getNothing is Get for ranges that a request cannot name: those without bytes, if the object
// reaches up to them.
func (s *Store) getNothing(ctx context.Context, name string, off, n int64) ([]byte, error) {
	info, err := s.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	if n, err = chunkstore.Span(info.Size, off, n); err == nil && n > 0 {
		err = errors.New("the store denied a range that exists")
	}
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return []byte{}, nil
}

// readSpan reads the answer to a request for n bytes at off, having seen that it is one.
func readSpan(body io.Reader, header http.Header, off, n int64) ([]byte, error) {
	length, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		return nil, errors.New("the answer has no length")
	}
	start, size, err := contentRange(header, length)
	if err != nil {
		return nil, err
	}
	want, err := chunkstore.Span(size, off, n)
	if err != nil {
		return nil, err
	}
	if start != off || length != want {
		return nil, chunkstore.Permanent(fmt.Errorf("asked for %d bytes at %d, answered with %d at %d", want, off, length, start))
	}
	data := make([]byte, want)
	if _, err := io.ReadFull(body, data); err != nil {
		return nil, err
	}
	return data, nil
}

// Stat implements chunkstore.Backend. It reads the first byte, because the answer to a HEAD cannot
// say why there is none: no object, no bucket, clocks that differ. (And Swift ends that answer with
// a body, on which net/http remarks to standard error.) Objects without a first byte, or in a cold
// storage class, are there for certain, so that HEAD is enough.
func (s *Store) Stat(ctx context.Context, name string) (chunkstore.Info, error) {
	if err := check(ctx, name); err != nil {
		return chunkstore.Info{}, fmt.Errorf("stat %s: %w", name, err)
	}
	if s.locks != nil {
		first, err := s.first(ctx, name)
		return chunkstore.Info{Name: name, Size: first.Size, Modified: first.LastModified}, s.translate(ctx, "stat", name, err)
	}
	var opts minio.GetObjectOptions
	opts.Set("Range", "bytes=0-0")
	body, o, header, err := s.core.GetObject(ctx, s.config.Bucket, s.config.key(name), opts)
	switch r := minio.ToErrorResponse(err); {
	case err == nil:
		defer body.Close()
		if _, o.Size, err = contentRange(header, o.Size); err == nil && o.Size > 0 {
			_, err = io.CopyN(io.Discard, body, 1) // so that the connection can be used again
		}
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable || r.Code == "InvalidObjectState":
		o, err = s.core.StatObject(ctx, s.config.Bucket, s.config.key(name), minio.StatObjectOptions{})
	}
	if err != nil {
		return chunkstore.Info{}, s.translate(ctx, "stat", name, err)
	}
	return chunkstore.Info{Name: name, Size: o.Size, Modified: o.LastModified}, nil
}

// contentRange returns where in an object of which size an answer of length bytes lies.
func contentRange(header http.Header, length int64) (start, size int64, err error) {
	r := header.Get("Content-Range")
	if r == "" {
		return 0, length, nil
	}
	var end int64
	if _, err := fmt.Sscanf(r, "bytes %d-%d/%d", &start, &end, &size); err != nil {
		return 0, 0, fmt.Errorf("content range %q: %w", r, err)
	}
	return start, size, nil
}

// Delete implements chunkstore.Backend.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if s.locks != nil {
		return s.deleteAll(ctx, name)
	}
	err := s.core.RemoveObject(ctx, s.config.Bucket, s.config.key(name), minio.RemoveObjectOptions{})
	if err = s.translate(ctx, "delete", name, err); errors.Is(err, chunkstore.ErrNotExist) {
		return nil
	}
	return err
}

// List implements chunkstore.Backend. Objects below the prefix whose names are not ours are left
// out. A store that lists out of order is an error, never a wrong result.
func (s *Store) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	if err := chunkstore.CheckPrefix(prefix); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	last := ""
	if s.locks != nil {
		return s.list(ctx, prefix, &last, s.firstOnes(ctx, prefix), fn)
	}
	if !s.oldV1.Load() {
		err := s.list(ctx, prefix, &last, s.newestOnes(ctx, prefix, false), fn)
		if !lacksV2(err) {
			return err
		}
		s.oldV1.Store(true)
	}
	return s.list(ctx, prefix, &last, s.newestOnes(ctx, prefix, true), fn)
}

// newestOnes lists what is stored now.
func (s *Store) newestOnes(ctx context.Context, prefix string, v1 bool) iter.Seq[minio.ObjectInfo] {
	return s.listing(ctx, minio.ListObjectsOptions{Prefix: s.listPrefix(prefix), UseV1: v1})
}

// listPrefix returns the prefix to list by: some stores refuse one that ends like a path's "." or "..".
func (s *Store) listPrefix(prefix string) string { return s.config.key(strings.TrimRight(prefix, ".")) }

// listing is ListObjectsIter, which wants ctx to end with it.
func (s *Store) listing(ctx context.Context, o minio.ListObjectsOptions) iter.Seq[minio.ObjectInfo] {
	return func(yield func(minio.ObjectInfo) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		fetchOwner := o.WithVersions // which are listed with it anyway
		o.Recursive, o.FetchOwner = true, &fetchOwner
		for info := range s.core.ListObjectsIter(ctx, s.config.Bucket, o) {
			if !yield(info) {
				return
			}
		}
	}
}

// lacksV2 recognises a store that does not know ListObjectsV2: it says so, or it takes the request
// for one of the first version and gives no token to continue with.
func lacksV2(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Code == "NotImplemented" || e.Code == "MethodNotAllowed")
}

// list passes objects after *last to fn, and keeps *last up to date.
func (s *Store) list(ctx context.Context, prefix string, last *string, objects iter.Seq[minio.ObjectInfo], fn func(chunkstore.Info) error) error {
	after := *last
	for o := range objects {
		if o.Err != nil {
			return s.translate(ctx, "list", prefix, o.Err)
		}
		name, ok := strings.CutPrefix(o.Key, s.config.key(""))
		if !ok || !strings.HasPrefix(name, prefix) || chunkstore.CheckName(name) != nil || name == *last || name <= after {
			continue
		}
		if name < *last {
			err := fmt.Errorf("the store does not list in order: %s is listed after %s", name, *last)
			return &Error{Op: "list", Name: prefix, err: chunkstore.Permanent(err)}
		}
		*last = name
		if err := fn(chunkstore.Info{Name: name, Size: o.Size, Modified: o.LastModified, Archived: isArchive(o.StorageClass)}); err != nil {
			return err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return s.translate(ctx, "list", prefix, ctx.Err()) // the iterator just ends with ctx
}

func check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return chunkstore.CheckName(name)
}
