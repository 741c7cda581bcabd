package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
)

// An upload that broke off goes on where it was; one that is given up, and one that nobody ends, leave nothing.
func TestPushBreaksOff(t *testing.T) {
	g := newTarget(t, emptyRepository(t))
	begin := func() string {
		t.Helper()
		resp, _ := g.do(http.MethodPost, "/v2/a/b/blobs/uploads/", nil, "")
		if resp.StatusCode != http.StatusAccepted {
			t.Fatal(resp.Status)
		}
		return resp.Header.Get("Location")
	}
	data := strings.Repeat("0123456789", 10_000)
	upload := begin()
	if resp, code := g.do(http.MethodPatch, upload, http.Header{"Content-Range": {"0-49999"}}, data[:50_000]); resp.StatusCode != http.StatusAccepted {
		t.Fatal(resp.Status, code)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPatch, g.url+upload, io.MultiReader(strings.NewReader(data[50_000:70_000]), errorReader{}))
	ok(t, err)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Fatal("the request did not break off")
	}
	// How far that came nobody knows but the server, which may be at it still.
	resp, _ := g.do(http.MethodGet, upload, nil, "")
	var code string
	for {
		var last int
		_, err = fmt.Sscanf(resp.Header.Get("Range"), "0-%d", &last)
		ok(t, err)
		if last < 49_999 || last > 69_999 {
			t.Fatalf("%d bytes are there", last+1)
		}
		rest := http.Header{"Content-Range": {fmt.Sprintf("%d-%d", last+1, len(data)-1)}}
		resp, code = g.do(http.MethodPut, upload+"?digest="+digestOf([]byte(data)), rest, data[last+1:])
		if resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			break
		}
	}
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("the rest: %s %s", resp.Status, code)
	}
	given := begin()
	g.do(http.MethodPatch, given, nil, data)
	if resp, _ := g.do(http.MethodDelete, given, nil, ""); resp.StatusCode != http.StatusNoContent {
		t.Error(resp.Status)
	}
	if resp, code := g.do(http.MethodGet, given, nil, ""); code != "BLOB_UPLOAD_UNKNOWN" {
		t.Error(resp.Status, code)
	}
	begin() // and never ended
	left, err := os.ReadDir(g.dir)
	ok(t, err)
	if len(left) > 0 || len(g.catalog().Snapshots) > 0 {
		t.Errorf("left are %v, %v", left, g.catalog().Snapshots)
	}
}

type errorReader struct{}

func (errorReader) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }

// Two who push images of the same layers at once both get theirs, also under one name.
func TestPushAtOnce(t *testing.T) {
	g := newTarget(t, emptyRepository(t))
	base := pushable(t)
	images := make([]v1.Image, 4)
	for i := range images {
		var err error
		images[i], err = mutate.Config(base, v1.Config{Cmd: []string{fmt.Sprint(i)}})
		ok(t, err)
	}
	var wg sync.WaitGroup
	start := make(chan struct{})
	errs := make([]error, len(images))
	for i, img := range images {
		ref := g.ref(fmt.Sprintf("team/app%d:v%d", i/2, i))
		wg.Go(func() {
			<-start
			errs[i] = remote.Write(ref, img)
		})
	}
	close(start)
	wg.Wait()
	ok(t, errors.Join(errs...))
	for i, img := range images {
		g.pulled(fmt.Sprintf("team/app%d:v%d", i/2, i), img)
	}
	g.whole()
}

// Every single call to the store fails once while an image is stored: it is there whole, or not at all and the next push
// succeeds.
func TestPushEveryStoreCallFails(t *testing.T) {
	config := `{"os":"linux"}`
	sum := digestOf([]byte(config))
	manifest := fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":"x","digest":%q,"size":%d},"layers":[]}`, sum, len(config))
	failures, wrote := 0, false
	for n := 1; ; n++ {
		after := n%2 == 0
		if after && !wrote || testing.Short() && n%10 > 1 {
			continue // what was only read is no other afterwards
		}
		repo := emptyRepository(t)
		fault := &oneFault{}
		faulty, err := chunkstore.Open(t.Context(), storetest.Intercept(repo.Backend(), fault.around), crypto.Passphrase([]byte("correct horse")), chunkstore.Options{})
		ok(t, err)
		g := newTarget(t, faulty)
		g.upload("a/b", config)
		fault.arm((n+1)/2, after)
		resp, _ := g.put("a/b", "v1", manifest)
		op := fault.disarm()
		if op == "" {
			break
		}
		wrote = op == storetest.Put || op == storetest.PutIfAbsent
		if resp.StatusCode == http.StatusInternalServerError {
			failures++
			resp, _ = g.put("a/b", "v1", manifest)
		}
		if resp.StatusCode != http.StatusCreated || len(g.catalog().Snapshots) != 1 {
			t.Fatalf("call %d failed: %s, snapshots %v", n, resp.Status, g.catalog().Snapshots)
		}
		if status, body := g.blob("a/b", sum); status != http.StatusOK || string(body) != config {
			t.Fatalf("call %d failed: the blob comes back as %d, %q", n, status, body)
		}
		g.repo = repo
		g.whole()
	}
	if failures < 5 {
		t.Errorf("only %d pushes failed: were the faults seen?", failures)
	}
}

// oneFault fails one call to a store.
type oneFault struct {
	mu    sync.Mutex
	left  int // calls until it fails; 0: it does not
	after bool
	op    storetest.Op // of the call that failed
}

// arm makes the n-th call from now on fail, before or after its effect.
func (f *oneFault) arm(n int, after bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left, f.after = n, after
}

// disarm returns the call that failed, empty if none did.
func (f *oneFault) disarm() storetest.Op {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = 0
	return f.op
}

func (f *oneFault) around(_ context.Context, c storetest.Call, next func() error) error {
	f.mu.Lock()
	strikes := f.left == 1
	if f.left > 0 {
		f.left--
	}
	if strikes {
		f.op = c.Op
	}
	f.mu.Unlock()
	if !strikes {
		return next()
	}
	if f.after {
		if err := next(); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s %s: %w", c.Op, c.Name, storetest.ErrInjected)
}
