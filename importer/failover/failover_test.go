package failover_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/importer/failover"
)

// begun is a failover that has read the list of snapshots.
type begun struct {
	repo *chunkstore.Repository
	cat  *snapshot.Catalog
	snap *snapshot.Snapshot
}

func begin(ctx context.Context, b chunkstore.Backend) (g begun, err error) {
	if g.repo, err = chunkstore.Open(ctx, b, secret, chunkstore.Options{}); err != nil {
		return g, err
	}
	if g.cat, err = snapshot.ReadCatalog(ctx, g.repo); err != nil {
		return g, err
	}
	if len(g.cat.Snapshots) == 0 {
		return g, errors.Join(append(g.cat.Damaged, errors.New("no snapshot"))...)
	}
	g.snap, err = g.cat.Load(ctx, g.cat.Snapshots[0])
	return g, err
}

func (g begun) run(ctx context.Context, e failover.Engine, o failover.Options) (*failover.Result, error) {
	o.Restore.Settle = time.Nanosecond
	return failover.Run(ctx, g.repo, g.cat, g.snap, e, o)
}

// to are the options of a site.
func to(t testing.TB, site string) failover.Options {
	return failover.Options{Site: snapshot.Site{Name: site}, Host: "host-of-" + site, StateDir: t.TempDir()}
}

// Of an image that was pushed nothing runs: nobody takes it, and no failover goes on record.
func TestPushedRunsNowhere(t *testing.T) {
	store, newHome := comingHome(t)
	g, err := begin(t.Context(), store)
	ok(t, err)
	g.snap.Pushed = &snapshot.Pushed{Name: "team/app"}
	e, before := newHome(), ownerOf(t, store)
	if _, err := g.run(t.Context(), e, to(t, "third")); !errors.Is(err, importer.ErrPushed) {
		t.Error(err)
	}
	if owner := ownerOf(t, store); owner.Site != before.Site || owner.Number != before.Number {
		t.Errorf("%+v owns it", owner)
	}
}

var running = []string{"container shop-web running", "network shop_net", "volume shop_data"}

// records returns those of failovers.
func records(t testing.TB, b chunkstore.Backend) (all []failover.Record) {
	t.Helper()
	list, err := open(t, b).Records(t.Context())
	ok(t, err)
	for _, r := range list {
		ok(t, r.Err)
		var body failover.Record
		ok(t, json.Unmarshal(r.Body, &body))
		if r.Kind == failover.RecordKind {
			all = append(all, body)
		}
	}
	return all
}

func gates(t testing.TB, specs ...string) (all []failover.Gate) {
	t.Helper()
	for _, s := range specs {
		g, err := failover.ParseGate(s)
		ok(t, err)
		all = append(all, g)
	}
	return all
}

func TestFailover(t *testing.T) {
	t.Setenv("HAKOBUNE_PASSWORD", "the ferryman")
	store, e := protected(t), newFake(t)
	var posted bytes.Buffer
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(&posted, r.Body)
		} else if asked++; asked < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	defer listener.Close()
	o := to(t, "cloud")
	o.Gates = gates(t, "health", "tcp:"+listener.Addr().String(), server.URL, "http:"+server.URL, "exec:shop-web:true")
	env := filepath.Join(t.TempDir(), "env")
	o.Hooks = []failover.Hook{{Command: "env >" + env}, {URL: server.URL}}
	planned := 0
	o.Planned = func(*importer.Plan) { planned++ }
	g, err := begin(t.Context(), store)
	ok(t, err)
	r, err := g.run(t.Context(), e, o)
	ok(t, err)
	if diff := cmp.Diff(running, e.state()); diff != "" {
		t.Errorf("engine (-want +got):\n%s", diff)
	}
	if r.Term != 1 || r.RTO <= 0 || r.RPO < time.Hour || len(r.Gates) != 5 || planned != 1 || asked != 4 || r.Resumed {
		t.Errorf("term %d, RTO %v, RPO %v, gates %v, planned %d, asked %d, resumed %v", r.Term, r.RTO, r.RPO, r.Gates, planned, asked, r.Resumed)
	}
	if got := records(t, store); len(got) != 1 || !cmp.Equal(got[0].RTO, r.RTO) || got[0].System != "shop" {
		t.Errorf("records %+v", got)
	}
	text, err := os.ReadFile(env)
	ok(t, err)
	for _, want := range []string{
		"HAKOBUNE_SYSTEM=shop\n", "HAKOBUNE_SITE=cloud\n", "HAKOBUNE_TERM=1\n", "HAKOBUNE_ADDRESSES=10.0.0.7\n", "HAKOBUNE_PORTS=0.0.0.0:8080->80/tcp\n", "PATH=",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("a hook's environment lacks %q", want)
		}
	}
	if strings.Contains(string(text), "ferryman") {
		t.Error("a hook gets the password")
	}
	if !strings.Contains(posted.String(), `"site":{"name":"cloud"}`) {
		t.Errorf("posted %s", posted.String())
	}
	if left, err := filepath.Glob(filepath.Join(o.StateDir, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v", left)
	}
}

// Of two sites that have seen the same and go at once one gets the system; at the other nothing is made.
func TestAtOnce(t *testing.T) {
	store := protected(t)
	engines, errs := []*fake{newFake(t), newFake(t)}, make([]error, 2)
	sites := map[string]begun{}
	for _, site := range []string{"east", "west"} { // both, before either goes: who comes later and sees the first may take it over
		g, err := begin(t.Context(), store)
		ok(t, err)
		sites[site] = g
	}
	var wg sync.WaitGroup
	for i, site := range []string{"east", "west"} {
		g, o := sites[site], to(t, site)
		wg.Go(func() { _, errs[i] = g.run(t.Context(), engines[i], o) })
	}
	wg.Wait()
	won := slices.Index(errs, nil)
	if won < 0 || errs[1-won] == nil {
		t.Fatal(errs)
	}
	var owned *snapshot.OwnedError
	if err := errs[1-won]; !errors.As(err, &owned) {
		t.Errorf("the other: %v", err)
	}
	if got := engines[1-won].state(); len(got) > 0 {
		t.Errorf("at the other there is %v", got)
	}
	if diff := cmp.Diff(running, engines[won].state()); diff != "" {
		t.Errorf("engine (-want +got):\n%s", diff)
	}
}

var errKilled = fmt.Errorf("killed: %w", chunkstore.ErrPermanent)

// A restore that was killed once its containers ran, of another snapshot or with other options, stands in the way: that is
// said before the system is claimed, or its home could not back it up and nobody would run it.
func TestUnfinishedIsNotClaimed(t *testing.T) {
	store, e, o := protected(t), newFake(t), to(t, "cloud")
	g, err := begin(t.Context(), store)
	ok(t, err)
	kept := filepath.Join(t.TempDir(), "restores")
	_, err = importer.Restore(t.Context(), g.repo, g.snap, e, importer.Options{
		Settle: time.Nanosecond, StateDir: o.StateDir, Ports: map[string]string{"80": "81"},
		Done: func(*importer.Result) error { return os.CopyFS(kept, os.DirFS(filepath.Join(o.StateDir, "restores"))) },
	})
	ok(t, err)
	ok(t, os.CopyFS(filepath.Join(o.StateDir, "restores"), os.DirFS(kept)))
	var unfinished *importer.UnfinishedError
	if _, err := g.run(t.Context(), e, o); !errors.As(err, &unfinished) {
		t.Errorf("%v", err)
	}
	if owner, err := snapshot.Owner(t.Context(), open(t, store), "shop"); owner != nil || err != nil {
		t.Errorf("claimed: %v, %v", owner, err)
	}
}

// Killed at any call of the engine or the store, and run again: it ends well, in one term, with nothing else there.
func TestKilled(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // it waits for the disk many times
	}
	whole := protected(t)
	for n := 1; ; n++ {
		store, e, o := whole.Clone(), newFake(t), to(t, "cloud")
		o.Gates, o.GateTimeout = gates(t, "exec:shop-web:true"), time.Millisecond
		hooked := filepath.Join(t.TempDir(), "hooked")
		o.Hooks = []failover.Hook{{Command: "echo >>" + hooked}}
		left := filepath.Join(t.TempDir(), "state")
		calls := 0
		var mu sync.Mutex
		die := func() error {
			mu.Lock()
			defer mu.Unlock()
			if calls++; calls == n {
				if err := os.CopyFS(left, os.DirFS(o.StateDir)); err != nil {
					return err
				}
			}
			if calls < n {
				return nil
			}
			return errKilled
		}
		e.fault = die
		g, err := begin(t.Context(), storetest.Intercept(store, func(_ context.Context, _ storetest.Call, next func() error) error {
			if err := die(); err != nil {
				return err
			}
			return next()
		}))
		if err == nil {
			_, err = g.run(t.Context(), e, o)
		}
		if calls < n {
			ok(t, err)
			t.Logf("killed at %d calls in turn", n-1)
			break
		}
		e.fault = nil
		o.StateDir, o.GateTimeout = left, 0
		if g, err = begin(t.Context(), store); err == nil {
			_, err = g.run(t.Context(), e, o)
		}
		if err != nil {
			t.Fatalf("killed at call %d, and run again: %v\n%v", n, err, e.state())
		}
		if diff := cmp.Diff(running, e.state()); diff != "" {
			t.Fatalf("killed at call %d, and run again (-want +got):\n%s", n, diff)
		}
		owner, err := snapshot.Owner(t.Context(), open(t, store), "shop")
		if err != nil || owner == nil || owner.Number != 1 {
			t.Fatalf("killed at call %d: owner %v, %v", n, owner, err)
		}
		if got := len(records(t, store)); got != 1 {
			t.Errorf("killed at call %d: %d records", n, got)
		}
		if _, err := os.Stat(hooked); err != nil {
			t.Errorf("killed at call %d: %v", n, err)
		}
	}
}

// What is not as it should be: the system stays up, and the next run goes on from there.
func TestGatesAndHooksFail(t *testing.T) {
	store, e, o := protected(t), newFake(t), to(t, "cloud")
	o.Gates, o.GateTimeout = gates(t, "exec:shop-web:false"), time.Millisecond
	run := func() (*failover.Result, error) {
		g, err := begin(t.Context(), store)
		ok(t, err)
		return g.run(t.Context(), e, o)
	}
	_, err := run()
	var gate *failover.GateError
	if !errors.As(err, &gate) || !strings.Contains(err.Error(), "gate exec:shop-web:false: not passed") {
		t.Errorf("gate: %v", err)
	}
	o.Gates = nil
	o.Hooks = []failover.Hook{{Command: "exit 3"}, {URL: "http://127.0.0.1:1/secret"}}
	r, err := run()
	var hook *failover.HookError
	if !errors.As(err, &hook) || hook.Hint() == "" || strings.Contains(err.Error(), "secret") || !r.Resumed {
		t.Errorf("hooks: %v, resumed %v", err, r.Resumed)
	}
	o.Hooks = nil
	_, err = run()
	ok(t, err)
	if diff := cmp.Diff(running, e.state()); diff != "" || len(records(t, store)) != 1 {
		t.Errorf("engine (-want +got):\n%s\nrecords %v", diff, records(t, store))
	}
	var clash *importer.ClashError
	if _, err := run(); !errors.As(err, &clash) {
		t.Errorf("once more: %v", err)
	}
}

func TestParseGate(t *testing.T) {
	for _, s := range []string{"", "health:x", "tcp", "tcp:80", "tcp::80", "http:", "http:/x", "http://", "ftp://x", "exec:web", "exec::true", "exec:web:"} {
		if g, err := failover.ParseGate(s); err == nil {
			t.Errorf("%q is gate %v", s, g)
		}
	}
}

// People who come to a port of the system are told to come again, until the container that has it is started: then the
// port is free for it.
func TestSorryPage(t *testing.T) {
	probe, err := net.Listen("tcp", ":0")
	ok(t, err)
	port := probe.Addr().(*net.TCPAddr).Port
	address := fmt.Sprintf("127.0.0.1:%d", port)
	ok(t, probe.Close())
	store, e, o := protectedAt(t, port), newFake(t), to(t, "cloud")
	o.SorryPage = failover.SorryPage{Published: true, Body: []byte("<p>soon</p>")}
	asked := 0
	o.Planned = func(*importer.Plan) {
		asked++
		answer, err := http.Get("http://" + address)
		ok(t, err)
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" || string(body) != "<p>soon</p>" {
			t.Errorf("%s, %v: %s, %v", answer.Status, answer.Header, body, err)
		}
	}
	var container net.Listener
	e.started = func() (err error) {
		container, err = net.Listen("tcp", address)
		return err
	}
	g, err := begin(t.Context(), store)
	ok(t, err)
	r, err := g.run(t.Context(), e, o)
	ok(t, err)
	ok(t, container.Close())
	if asked != 1 || len(r.Notes) > 0 {
		t.Errorf("asked %d times, notes %q", asked, r.Notes)
	}
}

// A page at a port that no container publishes passes no gate there.
func TestSorryPagePassesNoGate(t *testing.T) {
	probe, err := net.Listen("tcp", ":0")
	ok(t, err)
	port := probe.Addr().(*net.TCPAddr).Port
	ok(t, probe.Close())
	store, e, o := protected(t), newFake(t), to(t, "cloud")
	o.SorryPage.Ports = []int{port}
	o.Gates, o.GateTimeout = gates(t, fmt.Sprintf("tcp:127.0.0.1:%d", port)), 300*time.Millisecond
	g, err := begin(t.Context(), store)
	ok(t, err)
	r, err := g.run(t.Context(), e, o)
	var gate *failover.GateError
	if !errors.As(err, &gate) || len(r.Notes) > 0 {
		t.Errorf("error %v, notes %q", err, r.Notes)
	}
}

// A port that is taken stops nothing.
func TestSorryPageTaken(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	ok(t, err)
	defer taken.Close()
	store, e, o := protected(t), newFake(t), to(t, "cloud")
	o.SorryPage.Ports = []int{taken.Addr().(*net.TCPAddr).Port}
	g, err := begin(t.Context(), store)
	ok(t, err)
	r, err := g.run(t.Context(), e, o)
	ok(t, err)
	if len(r.Notes) != 1 {
		t.Errorf("notes %q", r.Notes)
	}
}

// A system comes home only with what was stored by the site that stood in for it.
func TestReadyForFailback(t *testing.T) {
	home, cloud := snapshot.Site{Name: "home"}, snapshot.Site{Name: "cloud"}
	store := protected(t)
	standIn := false
	ready := func(site snapshot.Site, want string) {
		t.Helper()
		g, err := begin(t.Context(), store)
		ok(t, err)
		err = failover.ReadyForFailback(g.cat, g.snap.Summary, site, standIn)
		var not *failover.NotReadyError
		if want == "" && err != nil || want != "" && (!errors.As(err, &not) || not.Hint() == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", site.Name, err, want)
		}
	}
	claim := func(site snapshot.Site, why string) {
		t.Helper()
		g, err := begin(t.Context(), store)
		ok(t, err)
		_, err = g.cat.Claim(t.Context(), snapshot.Term{System: "shop", Site: site, Why: why})
		ok(t, err)
	}
	ready(home, "belongs to no other site")
	claim(cloud, snapshot.WhyFailover)
	ready(home, "is from before site cloud got the system")
	standIn = true
	ready(home, "") // the last snapshot is still to be made
	ready(cloud, "belongs to no other site")
	standIn = false
	ready(cloud, "belongs to no other site")
	s, err := open(t, store).Begin(t.Context(), chunkstore.BeginOptions{Host: "cloud"})
	ok(t, err)
	ok(t, snapshot.Commit(t.Context(), s, &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Host: "cloud", Time: time.Now(), Complete: true, Term: 1}, System: snapshot.System{Name: "shop"},
	}))
	ready(home, "")
	claim(home, snapshot.WhyFailback)
	ready(home, "")
}

// What is remembered of a failover that was not complete counts only as long as the system is this site's.
func TestForgetsOldFailover(t *testing.T) {
	store, e, o := protected(t), newFake(t), to(t, "cloud")
	o.Hooks = []failover.Hook{{Command: "false"}}
	run := func() error {
		g, err := begin(t.Context(), store)
		ok(t, err)
		_, err = g.run(t.Context(), e, o)
		return err
	}
	var hook *failover.HookError
	if err := run(); !errors.As(err, &hook) {
		t.Fatal(err)
	}
	g, err := begin(t.Context(), store)
	ok(t, err)
	_, err = g.cat.Claim(t.Context(), snapshot.Term{System: "shop", Site: snapshot.Site{Name: "home"}, Why: snapshot.WhyFailback})
	ok(t, err)
	// The containers of then still run here, with what they had then.
	var clash *importer.ClashError
	if err := run(); !errors.As(err, &clash) {
		t.Errorf("again: %v", err)
	}
	owner, err := snapshot.Owner(t.Context(), open(t, store), "shop")
	if err != nil || owner.Site.Name != "home" || owner.Number != 2 {
		t.Errorf("owner %v, %v", owner, err)
	}
}
