package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// through returns the way to c's bucket through a proxy.
func through(t *testing.T, c s3.Config, change func(*httputil.ReverseProxy) http.Handler) s3.Config {
	c.Endpoint = serve(t, change(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: c.Endpoint})))
	return c
}

// What is damaged or cut off on the way is noticed, nothing wrong is stored, and the next attempt
// gets through.
func TestDamageOnTheWay(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	good := newBucket(t, testserver.MinIO(t))
	good.Region = "us-east-1" // or the store is asked, and that answer damaged
	data := storetest.Random(100_000)
	var damage atomic.Bool
	b := open(t, through(t, good, func(p *httputil.ReverseProxy) http.Handler {
		p.ModifyResponse = func(r *http.Response) error {
			if r.Request.Method == http.MethodGet && damage.CompareAndSwap(true, false) {
				r.Body = struct {
					io.Reader
					io.Closer
				}{io.LimitReader(r.Body, 50_000), r.Body}
			}
			return nil
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && damage.CompareAndSwap(true, false) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				body[len(body)/2] ^= 1
				r.Body = io.NopCloser(bytes.NewReader(body))
			}
			p.ServeHTTP(w, r)
		})
	}))
	damage.Store(true)
	wantError(t, "put", b.Put(ctx, "p/x", data), nil, "XAmzContentSHA256Mismatch", "")
	if _, err := b.Stat(ctx, "p/x"); !errors.Is(err, chunkstore.ErrNotExist) {
		t.Errorf("after a damaged upload: %v", err)
	}
	retry := chunkstore.Retry(b, chunkstore.RetryOptions{Initial: time.Millisecond})
	damage.Store(true)
	if err := retry.Put(ctx, "p/x", data); err != nil {
		t.Error(err)
	}
	damage.Store(true)
	if got, err := b.Get(ctx, "p/x", 0, -1); err == nil {
		t.Errorf("a cut answer of %d bytes passed", len(got))
	}
	damage.Store(true)
	if got, err := retry.Get(ctx, "p/x", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A store that goes away and comes back is waited for, and has kept what it acknowledged.
func TestRestart(t *testing.T) {
	t.Parallel()
	ctx, server := t.Context(), testserver.MinIO(t)
	b := chunkstore.Retry(open(t, newBucket(t, server)), chunkstore.RetryOptions{Initial: 20 * time.Millisecond, MaxInterval: 200 * time.Millisecond})
	if err := b.Put(ctx, "p/before", []byte("before")); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	done := make(chan error)
	go func() { done <- b.(chunkstore.Creator).PutIfAbsent(ctx, "n/meanwhile", []byte("meanwhile")) }()
	time.Sleep(200 * time.Millisecond)
	server.Start()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"p/before": "before", "n/meanwhile": "meanwhile"} {
		if got, err := b.Get(ctx, name, 0, -1); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := newBucket(t, testserver.MinIO(t))
	c.UploadRate, c.DownloadRate = 1<<20, 2<<20
	b := open(t, c)
	data := storetest.Random(1 << 20)
	for _, tc := range []struct {
		op   string
		move func() error
		want time.Duration
	}{
		{"put", func() error { return b.Put(ctx, "p/x", data) }, time.Second},
		{"get", func() error { _, err := b.Get(ctx, "p/x", 0, -1); return err }, time.Second / 2},
	} {
		start := time.Now()
		if err := tc.move(); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < tc.want*9/10 {
			t.Errorf("%s took %v, want at least about %v", tc.op, d, tc.want)
		}
	}
}

// A connection that is lost while it waits for its turn is one to make again.
func TestRateOfLostConnection(t *testing.T) {
	t.Parallel()
	var lost atomic.Bool
	c := through(t, newBucket(t, testserver.MinIO(t)), func(p *httputil.ReverseProxy) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && lost.CompareAndSwap(false, true) {
				io.CopyN(io.Discard, r.Body, 50_000)
				panic(http.ErrAbortHandler)
			}
			p.ServeHTTP(w, r)
		})
	})
	c.UploadRate = 1 << 20
	b := chunkstore.Retry(open(t, c), chunkstore.RetryOptions{Initial: time.Millisecond})
	if err := b.Put(t.Context(), "p/x", storetest.Random(1<<20)); err != nil {
		t.Error(err)
	}
	if !lost.Load() {
		t.Error("no connection was lost")
	}
}

// A transfer that is slow but moves is not a standstill, however long it takes.
func TestSlowIsNoStandstill(t *testing.T) {
	t.Parallel()
	c := newBucket(t, testserver.MinIO(t))
	c.Timeout, c.UploadRate, c.DownloadRate = 3*time.Second, 200<<10, 200<<10
	b, data := open(t, c), storetest.Random(1<<20)
	if err := b.Put(t.Context(), "p/x", data); err != nil {
		t.Error(err)
	}
	if got, err := b.Get(t.Context(), "p/x", 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// A store that says it has no ListObjectsV2 is listed in the old way.
func TestListV1(t *testing.T) {
	t.Parallel()
	good := newBucket(t, testserver.MinIO(t))
	var refused atomic.Int32
	c := through(t, good, func(p *httputil.ReverseProxy) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("list-type") == "2" {
				refused.Add(1)
				w.WriteHeader(http.StatusNotImplemented)
				io.WriteString(w, "<Error><Code>NotImplemented</Code><Message>no</Message></Error>")
				return
			}
			p.ServeHTTP(w, r)
		})
	})
	b := open(t, c)
	var want []string
	for i := range 30 {
		want = append(want, fmt.Sprintf("p/%02d", i))
		if err := b.Put(t.Context(), want[i], nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if diff := cmp.Diff(want, listed(t, b)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if refused.Load() != 1 {
		t.Errorf("the store was asked for its new listing %d times", refused.Load())
	}
}

func listed(t *testing.T, b chunkstore.Backend) []string {
	t.Helper()
	var names []string
	err := b.List(t.Context(), "", func(i chunkstore.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// pages is a store that answers each listing with the next of its pages, in the old form whatever
// it is asked for, as stores do that have never heard of the new one.
func pages(t *testing.T, pages ...[]string) *s3.Store {
	var calls atomic.Int32
	return open(t, s3.Config{
		Insecure: true, Bucket: "bucket", Prefix: "pre", AccessKey: "somebody", SecretKey: "hush", Region: "us-east-1",
		Endpoint: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := 0
			if r.URL.Query().Get("list-type") == "" {
				n = int(calls.Add(1)) - 1
			}
			var b strings.Builder
			for _, name := range pages[n] {
				fmt.Fprintf(&b, "<Contents><Key>pre/%s</Key><Size>1</Size><LastModified>2026-11-20T03:00:00Z</LastModified></Contents>", name)
			}
			fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%v</IsTruncated>%s</ListBucketResult>", n+1 < len(pages), &b)
		})),
	})
}

func TestListV1InDisguise(t *testing.T) {
	t.Parallel()
	b := pages(t, []string{"a", "b", "README"}, []string{"c", "../x", "d"}, []string{"e"})
	if diff := cmp.Diff([]string{"a", "b", "c", "d", "e"}, listed(t, b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A listing that goes back is an error: users of List rely on the order.
func TestListOutOfOrder(t *testing.T) {
	t.Parallel()
	b := pages(t, []string{"a/b", "a-b"})
	err := b.List(t.Context(), "", func(chunkstore.Info) error { return nil })
	wantError(t, "list", err, chunkstore.ErrPermanent, "a-b is listed after a/b", "")
}

// Answers that are not what was asked for never pass for an object.
func TestWrongRange(t *testing.T) {
	t.Parallel()
	for name, header := range map[string]string{
		"another place":  "bytes 5-9/20",
		"longer":         "bytes 0-9/20",
		"not understood": "bytes zero",
	} {
		t.Run(name, func(t *testing.T) {
			c := s3.Config{Insecure: true, Bucket: "bucket", AccessKey: "somebody", SecretKey: "hush", Region: "us-east-1"}
			c.Endpoint = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Range", header)
				w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
				w.WriteHeader(http.StatusPartialContent)
				io.WriteString(w, "0123456789")
			}))
			if got, err := open(t, c).Get(t.Context(), "p/x", 0, 5); err == nil {
				t.Errorf("got %q", got)
			}
		})
	}
}
