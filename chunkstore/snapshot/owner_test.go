package snapshot_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
)

var (
	home    = snapshot.Site{Name: "home", ID: "01"}
	standby = snapshot.Site{Name: "standby"}
)

func catalog(t *testing.T, repo *chunkstore.Repository) *snapshot.Catalog {
	t.Helper()
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	return cat
}

// shopNight stores a snapshot of the shop under a term and returns its id.
func shopNight(t *testing.T, repo *chunkstore.Repository, day, term int) string {
	t.Helper()
	at := time.Date(2026, 11, day, 2, 0, 0, 0, time.UTC)
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Host: "h", Time: at, Complete: true, Term: term},
		System:  snapshot.System{Name: "shop"},
	}
	commit(t, repo, snap)
	return snap.ID
}

func claimShop(t *testing.T, repo *chunkstore.Repository, site snapshot.Site) snapshot.Term {
	t.Helper()
	term, err := catalog(t, repo).Claim(t.Context(), snapshot.Term{System: "shop", Site: site, Why: snapshot.WhyFailover})
	if err != nil {
		t.Fatal(err)
	}
	return term
}

func TestSite(t *testing.T) {
	for _, tt := range []struct {
		a, b snapshot.Site
		same bool
	}{
		{home, home, true},
		{home, snapshot.Site{Name: "home"}, true},
		{home, snapshot.Site{Name: "home", ID: "02"}, false},
		{home, standby, false},
	} {
		if tt.a.Is(tt.b) != tt.same || tt.b.Is(tt.a) != tt.same {
			t.Errorf("%v is %v: %v", tt.a, tt.b, !tt.same)
		}
	}
}

// A system is anybody's until it is claimed; then it is its owner's alone, term after term.
func TestOwner(t *testing.T) {
	repo := newRepository(t, mem.New(mem.Options{}))
	may := func(want string) {
		t.Helper()
		var got strings.Builder
		for _, site := range []snapshot.Site{home, standby} {
			term, err := snapshot.CheckOwner(t.Context(), repo, "shop", site)
			var owned *snapshot.OwnedError
			if err != nil && !errors.As(err, &owned) {
				t.Fatal(err)
			}
			if err == nil {
				fmt.Fprintf(&got, "%s %d ", site.Name, term)
			} else if !strings.Contains(err.Error(), "belongs to site "+owned.Term.Site.Name) {
				t.Error(err)
			}
		}
		if got := strings.TrimSpace(got.String()); got != want {
			t.Errorf("may back up: %q, want %q", got, want)
		}
	}
	may("home 0 standby 0")
	claimShop(t, repo, standby)
	may("standby 1")
	if again := claimShop(t, repo, standby); again.Number != 1 {
		t.Errorf("claimed again by its owner: term %d", again.Number)
	}
	claimShop(t, repo, home)
	may("home 2")
	if got := catalog(t, repo).Owner("shop"); got == nil || got.Number != 2 || got.Site != home {
		t.Errorf("owner %v", got)
	}
	if got := catalog(t, repo).Owner("wiki"); got != nil {
		t.Errorf("owner of another system: %v", got)
	}
}

// Of two sites that take a system at the same moment one gets it; the other is told whose it is.
func TestClaimAtOnce(t *testing.T) {
	for range 5 {
		repo := newRepository(t, mem.New(mem.Options{}))
		cats := []*snapshot.Catalog{catalog(t, repo), catalog(t, repo)}
		errs := make([]error, 2)
		var wg sync.WaitGroup
		for i, site := range []snapshot.Site{{Name: "east"}, {Name: "west"}} {
			wg.Go(func() {
				// Both have seen that there is no term yet.
				errs[i] = repo.Claim(t.Context(), "shop", 1, snapshot.Term{System: "shop", Number: 1, Site: site, Known: []string{}})
			})
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("%v, %v", errs[0], errs[1])
		}
		winner := "east"
		if errs[0] != nil {
			winner = "west"
		}
		if got := cats[0].Owner("shop"); got != nil {
			t.Errorf("a catalog changed: %v", got)
		}
		if got := catalog(t, repo).Owner("shop"); got == nil || got.Site.Name != winner {
			t.Errorf("%s has it, of %v", winner, got)
		}
	}
}

// What a site stores after it has lost the system is kept, found by its id, and never the newest.
func TestStray(t *testing.T) {
	store := mem.New(mem.Options{})
	repo := newRepository(t, store)
	before := shopNight(t, repo, 1, 0)
	claimShop(t, repo, standby)
	stray := shopNight(t, repo, 3, 0) // it looked before the claim, and stored after
	after := shopNight(t, repo, 2, 1)
	copied := mem.New(mem.Options{})
	foreign := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Complete: true, Origin: &snapshot.Origin{Repository: "another", Snapshot: "one"}},
		System:  snapshot.System{Name: "shop"},
	}
	commit(t, repo, foreign) // a copy from another repository is none
	if _, err := chunkstore.Sync(t.Context(), store, copied, chunkstore.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	other, err := chunkstore.Open(t.Context(), copied, crypto.Passphrase([]byte("correct horse")), chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range []*chunkstore.Repository{repo, other} {
		cat := catalog(t, repo)
		var strays []string
		for _, s := range cat.Snapshots {
			if s.Stray {
				strays = append(strays, s.ID)
			}
		}
		if diff := cmp.Diff([]string{stray}, strays); diff != "" {
			t.Errorf("strays (-want +got):\n%s", diff)
		}
		for selector, want := range map[string]string{"shop": after, "latest": after, "shop@2026-11-01": before, stray: stray} {
			sel, err := snapshot.Select(cat.Snapshots, selector, snapshot.Filter{}, time.UTC)
			if err != nil || sel.Summary.ID != want {
				t.Errorf("select %s: %s, %v, want %s", selector, sel.Summary.ID, err, want)
			}
		}
	}
	cat := catalog(t, repo)
	claimShop(t, repo, home) // it does not become part of the history by a later term
	if i := slices.IndexFunc(catalog(t, repo).Snapshots, func(s snapshot.Summary) bool { return s.ID == stray }); !catalog(t, repo).Snapshots[i].Stray {
		t.Error("the next term took the stray in")
	}
	plan := snapshot.Retention{Policy: snapshot.Policy{Tags: []string{"none"}}}.Plan(cat.Snapshots, time.Now(), time.UTC)
	for _, d := range plan[0].Decisions {
		if d.Snapshot.ID == after && !d.Stays() {
			t.Error("the newest good snapshot goes for a stray")
		}
	}
}

// A term that cannot be read leaves nobody sure of the system; the next term settles it.
func TestOwnerDamaged(t *testing.T) {
	store := mem.New(mem.Options{})
	repo := newRepository(t, store)
	shopNight(t, repo, 1, 0)
	claimShop(t, repo, standby)
	var name string
	if err := store.List(t.Context(), "o/", func(i chunkstore.Info) error { name = i.Name; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.Delete(t.Context(), name), store.Put(t.Context(), name, []byte("rubbish"))); err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.CheckOwner(t.Context(), repo, "shop", standby); !errors.Is(err, crypto.ErrDamaged) {
		t.Errorf("owner: %v", err)
	}
	if cat := catalog(t, repo); len(cat.Damaged) != 1 || len(cat.Snapshots) != 1 {
		t.Errorf("catalog: %v, %d snapshots", cat.Damaged, len(cat.Snapshots))
	}
	if term := claimShop(t, repo, standby); term.Number != 2 {
		t.Errorf("term %d", term.Number)
	}
	if n, err := snapshot.CheckOwner(t.Context(), repo, "shop", standby); n != 2 || err != nil {
		t.Errorf("owner: %d, %v", n, err)
	}
}
