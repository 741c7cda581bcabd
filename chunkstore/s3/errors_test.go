package s3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// each calls every method once and passes on what it answered.
func each(ctx context.Context, b *s3.Store, check func(op string, err error)) {
	check("put", b.Put(ctx, "p/x", []byte("x")))
	check("create", b.PutIfAbsent(ctx, "p/y", []byte("x")))
	_, err := b.Get(ctx, "p/x", 0, -1)
	check("get", err)
	_, err = b.Get(ctx, "p/x", 0, 1)
	check("range", err)
	_, err = b.Stat(ctx, "p/x")
	check("stat", err)
	check("list", b.List(ctx, "", func(chunkstore.Info) error { return nil }))
	check("delete", b.Delete(ctx, "p/x"))
}

// want checks that every method fails with the sentinel and the words, and with nothing secret.
func want(t *testing.T, c s3.Config, sentinel error, words, hint string) {
	t.Helper()
	b := open(t, c)
	each(t.Context(), b, func(op string, err error) {
		t.Helper()
		wantError(t, op, err, sentinel, words, hint)
		if err != nil && (strings.Contains(err.Error(), c.SecretKey) || c.AccessKey != "" && strings.Contains(err.Error(), c.AccessKey)) {
			t.Errorf("%s: the error holds a key: %v", op, err)
		}
	})
}

func wantError(t *testing.T, op string, err, sentinel error, words, hint string) {
	t.Helper()
	var e *s3.Error
	switch {
	case err == nil:
		t.Errorf("%s: no error", op)
	case sentinel != nil && !errors.Is(err, sentinel):
		t.Errorf("%s: %v; want %v", op, err, sentinel)
	case sentinel == nil && permanent(err):
		t.Errorf("%s: %v; want one that may pass", op, err)
	case !strings.Contains(err.Error(), words):
		t.Errorf("%s: %v; want the words %q", op, err, words)
	case hint != "" && (!errors.As(err, &e) || !strings.Contains(e.Hint(), hint)):
		t.Errorf("%s: %v; want the hint %q", op, err, hint)
	}
}

func permanent(err error) bool {
	for _, s := range []error{chunkstore.ErrAccess, chunkstore.ErrExist, chunkstore.ErrNoStore, chunkstore.ErrNotExist, chunkstore.ErrPermanent, chunkstore.ErrUnsupported} {
		if errors.Is(err, s) {
			return true
		}
	}
	return false
}

func TestWrongWay(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *testserver.Server{
		"MinIO": testserver.MinIO, "VersityGW": testserver.VersityGW, "Swift": testserver.Swift,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := start(t)
			good := newBucket(t, server)
			each(t.Context(), open(t, good), func(op string, err error) {
				if err != nil && !errors.Is(err, chunkstore.ErrUnsupported) {
					t.Errorf("%s: %v", op, err)
				}
			})
			t.Run("secret", func(t *testing.T) {
				c := good
				c.SecretKey = "not-the-secret-key"
				want(t, c, chunkstore.ErrAccess, "access denied", "AWS_SECRET_ACCESS_KEY")
			})
			t.Run("key", func(t *testing.T) {
				c := good
				c.AccessKey = "nobodys-key"
				want(t, c, chunkstore.ErrAccess, "access denied", "")
			})
			t.Run("bucket", func(t *testing.T) {
				c := good
				c.Bucket += "-missing"
				want(t, c, chunkstore.ErrNoStore, "backend location does not exist", "init --create-bucket")
			})
			t.Run("tls", func(t *testing.T) {
				c := good
				c.Insecure = false
				want(t, c, chunkstore.ErrPermanent, "does not speak TLS", "s3:http://")
			})
			t.Run("clock", func(t *testing.T) {
				c := good
				c.Endpoint = skewing(t, c.Endpoint)
				want(t, c, chunkstore.ErrPermanent, "clock", "set the clock")
			})
			t.Run("twice", func(t *testing.T) {
				if err := open(t, good).CreateBucket(t.Context()); err != nil {
					t.Errorf("creating a bucket that is there: %v", err)
				}
			})
		})
	}
}

// skewing returns a proxy before the endpoint through which this host's clock is an hour behind.
func skewing(t *testing.T, endpoint string) string {
	return serve(t, &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: endpoint})
			p.Out.Host = p.In.Host // it is signed
			date, old := p.In.Header.Get("X-Amz-Date"), time.Now().Add(-time.Hour).UTC().Format("20060102T150405Z")
			p.Out.Header.Set("Authorization", strings.Replace(p.In.Header.Get("Authorization"), date[:8], old[:8], 1))
			p.Out.Header.Set("X-Amz-Date", old)
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			return nil
		},
	})
}

// serve returns host:port of a new server.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestUntrustedCertificate(t *testing.T) {
	t.Parallel()
	server := testserver.MinIOTLS(t)
	c := config(server)
	c.CAFile = ""
	want(t, c, chunkstore.ErrPermanent, "certificate of "+c.Endpoint+" is not trusted", "AWS_CA_BUNDLE")
	c = config(server)
	c.Endpoint = strings.Replace(c.Endpoint, "127.0.0.1", "127.0.0.2", 1)
	if _, err := net.DialTimeout("tcp", c.Endpoint, time.Second); err == nil {
		want(t, c, chunkstore.ErrPermanent, "is not trusted", "as the certificate does")
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c := s3.Config{Endpoint: l.Addr().String(), Insecure: true, Bucket: "bucket", AccessKey: "somebody", SecretKey: "hush", Region: "us-east-1"}
	want(t, c, nil, "refuses connections", "is the store running")
	// The bucket stands in the host's name, as asked for.
	c.Endpoint, c.Lookup = "host.invalid", s3.LookupDNS
	want(t, c, nil, "the name bucket.host.invalid cannot be resolved", "is there a network")
	c.Lookup = s3.LookupPath
	want(t, c, nil, "the name host.invalid cannot be resolved", "is there a network")
}

// canned answers every request in one way.
func canned(t *testing.T, status int, code string) s3.Config {
	return s3.Config{Insecure: true, Bucket: "bucket", AccessKey: "somebody", SecretKey: "hush", Region: "us-east-1", Endpoint: serve(t,
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			if code != "" {
				fmt.Fprintf(w, "<Error><Code>%s</Code><Message>The message.\nMore.</Message><Region>mars-1</Region></Error>", code)
			}
		}))}
}

// Errors that no server here can be brought to give.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		status      int
		code        string
		sentinel    error
		words, hint string
	}{
		{503, "SlowDown", nil, "(SlowDown: The message", ""},
		{500, "InternalError", nil, "the store answered with an error", ""},
		{502, "", nil, "502 Bad Gateway", ""},
		{429, "TooManyRequests", nil, "", ""},
		{409, "ConditionalRequestConflict", nil, "", ""},
		{409, "OperationAborted", nil, "", ""},
		{400, "RequestTimeout", nil, "", ""},
		{400, "BadDigest", nil, "", ""},
		{400, "InvalidArgument", chunkstore.ErrPermanent, "refused the request", ""},
		{400, "AuthorizationHeaderMalformed", chunkstore.ErrPermanent, "", "mars-1"},
		{301, "PermanentRedirect", chunkstore.ErrPermanent, "", "mars-1"},
		{403, "AccessDenied", chunkstore.ErrAccess, "access denied by the backend (AccessDenied: The message)", "s3:ListBucket"},
		{403, "", chunkstore.ErrAccess, "access denied", ""},
		{401, "", chunkstore.ErrAccess, "access denied", ""},
		{400, "ExpiredToken", chunkstore.ErrAccess, "", "expired"},
		{404, "SomethingElse", chunkstore.ErrPermanent, "refused the request", ""},
		{404, "NoSuchBucket", chunkstore.ErrNoStore, "", "init --create-bucket"},
		{507, "XMinioStorageFull", chunkstore.ErrPermanent, "the store is full", ""},
		{413, "QuotaExceeded", chunkstore.ErrPermanent, "the store is full", ""},
		{501, "NotImplemented", chunkstore.ErrUnsupported, "", ""},
	} {
		t.Run(fmt.Sprint(tc.status, tc.code), func(t *testing.T) {
			t.Parallel()
			want(t, canned(t, tc.status, tc.code), tc.sentinel, tc.words, tc.hint)
		})
	}
	err := open(t, canned(t, 409, "BucketAlreadyExists")).CreateBucket(t.Context())
	wantError(t, "create bucket", err, chunkstore.ErrAccess, "BucketAlreadyExists", "another name")
}

// A store that stops talking is given up, before the answer and in the midst of it.
func TestStandstill(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]string{"answer": "", "body": "only this"} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			c := s3.Config{Insecure: true, Bucket: "bucket", AccessKey: "somebody", SecretKey: "hush", Region: "us-east-1", Timeout: 300 * time.Millisecond}
			c.Endpoint = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				if part != "" {
					w.Header().Set("Content-Length", "1000")
					w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
					io.WriteString(w, part)
					w.(http.Flusher).Flush()
				}
				<-stop
			}))
			defer close(stop)
			start := time.Now()
			_, err := open(t, c).Get(t.Context(), "p/x", 0, -1)
			wantError(t, "get", err, nil, "get p/x", "")
			if d := time.Since(start); d > time.Minute {
				t.Errorf("given up after %v", d)
			}
		})
	}
}
