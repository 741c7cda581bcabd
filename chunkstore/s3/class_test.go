package s3_test

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/s3"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// glacier answers as AWS does for one object in the class GLACIER; no store of the tests has such a class.
type glacier struct {
	mu    sync.Mutex
	state string // "", or what x-amz-restore says
	days  string
}

func (g *glacier) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	w.Header().Set("x-amz-storage-class", "GLACIER")
	w.Header().Set("Last-Modified", "Mon, 02 Nov 2026 02:00:00 GMT")
	if g.state != "" {
		w.Header().Set("x-amz-restore", g.state)
	}
	thawed := strings.Contains(g.state, `"false"`)
	switch {
	case r.Method == http.MethodPost && r.URL.Query().Has("restore"):
		body, _ := io.ReadAll(r.Body)
		g.days, g.state = string(body), `ongoing-request="true"`
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodHead:
		w.Header().Set("Content-Length", "4")
	case !thawed:
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<Error><Code>InvalidObjectState</Code><Message>The operation is not valid for the object's storage class</Message></Error>`)
	default:
		w.Header().Set("Content-Length", "4")
		fmt.Fprint(w, "cold")
	}
}

func TestThaw(t *testing.T) {
	t.Parallel()
	g := &glacier{}
	server := httptest.NewServer(g)
	defer server.Close()
	store := open(t, s3.Config{
		Endpoint: strings.TrimPrefix(server.URL, "http://"), Insecure: true, Bucket: "bucket", Region: "us-east-1", AccessKey: "a", SecretKey: "b",
	})
	const name = "p/00/pack"
	get := func() string {
		b, err := store.Get(t.Context(), name, 0, -1)
		if err != nil && !errors.Is(err, chunkstore.ErrArchived) {
			t.Fatal(err)
		}
		return string(b)
	}
	if got := get(); got != "" {
		t.Fatalf("read %q", got)
	}
	for i, want := range []bool{false, false, true} {
		if i == 2 {
			g.mu.Lock()
			g.state = `ongoing-request="false", expiry-date="Fri, 13 Nov 2026 00:00:00 GMT"`
			g.mu.Unlock()
		}
		if ready, err := store.Thaw(t.Context(), name, chunkstore.ThawOptions{Days: 3, Tier: "Bulk"}); err != nil || ready != want {
			t.Fatalf("attempt %d: %v, %v", i, ready, err)
		}
	}
	if !strings.Contains(g.days, "<Days>3</Days>") || !strings.Contains(g.days, "<Tier>Bulk</Tier>") {
		t.Errorf("asked for %s", g.days)
	}
	if got := get(); got != "cold" {
		t.Errorf("read %q", got)
	}
}

// Packs of data go into the class, nothing else does.
func TestDataClass(t *testing.T) {
	t.Parallel()
	server := testserver.MinIO(t)
	c := newBucket(t, server)
	c.DataClass = "REDUCED_REDUNDANCY"
	store := open(t, c)
	for name, want := range map[string]string{"p/00/pack": c.DataClass, "t/00/pack": "", "config": ""} {
		if err := store.Put(t.Context(), name, []byte("x")); err != nil {
			t.Fatal(err)
		}
		info, err := newRoot(t, server, c.Bucket).StatObject(t.Context(), c.Bucket, name, minio.StatObjectOptions{})
		if got := info.Headers.Get("x-amz-storage-class"); err != nil || got != want {
			t.Errorf("%s: class %q, want %q, %v", name, got, want, err)
		}
		if ready, err := store.Thaw(t.Context(), name, chunkstore.ThawOptions{}); !ready || err != nil {
			t.Errorf("%s: %v, %v", name, ready, err)
		}
	}
	if err := store.Put(t.Context(), "p/00/other", nil); err != nil {
		t.Error(err)
	}
	c.DataClass = "cold storage"
	if _, err := s3.Open(t.Context(), c); err == nil {
		t.Error("a class that is none")
	}
}

// The class that a repository was made with is that of everybody who opens it, with locks or without, but for one who says another.
func TestDataClassOfRepository(t *testing.T) {
	t.Parallel()
	server := testserver.MinIO(t)
	c := config(server)
	c.NewLocked = true
	if err := open(t, c).CreateBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	root := newRoot(t, server, c.Bucket)
	const given = "REDUCED_REDUNDANCY"
	for name, o := range map[string]chunkstore.InitOptions{
		"plain": {DataClass: given}, "locked": {DataClass: given, Lock: &chunkstore.Lock{Mode: chunkstore.Governance, Days: 1}},
	} {
		c.Prefix = name
		secret := crypto.KeyFile(crypto.NewKeyFile())
		cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
		if _, err := chunkstore.InitWith(t.Context(), decorated(open(t, c)), secret, crypto.SlotInfo{}, cheap, o); err != nil {
			t.Fatal(err)
		}
		for _, class := range []string{"", "STANDARD"} {
			c.DataClass = class
			before := root.classes(t, name+"/p/")
			s, err := openRepository(t, c, secret, "").Begin(t.Context(), chunkstore.BeginOptions{})
			if err == nil {
				_, err = s.Save(t.Context(), chunkstore.Data, []byte("content for "+class))
			}
			if err == nil {
				err = s.Retire(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			after := root.classes(t, name+"/p/")
			maps.DeleteFunc(after, func(key, _ string) bool { return before[key] != "" })
			want := cmp.Or(class, given)
			for key, got := range after {
				if got != want {
					t.Errorf("%s: class %q, want %q", key, got, want)
				}
			}
			if len(after) == 0 {
				t.Error("no pack was put")
			}
		}
		c.DataClass = ""
		for key, got := range root.classes(t, name+"/") {
			if !strings.HasPrefix(key, name+"/p/") && got == given {
				t.Errorf("%s is in class %q", key, got)
			}
		}
	}
}

// classes returns the storage classes of what lies under a prefix.
func (r root) classes(t *testing.T, prefix string) map[string]string {
	t.Helper()
	classes := map[string]string{}
	for o := range r.ListObjectsIter(t.Context(), r.bucket, minio.ListObjectsOptions{Recursive: true, Prefix: prefix}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		classes[o.Key] = cmp.Or(o.StorageClass, "STANDARD")
	}
	return classes
}
