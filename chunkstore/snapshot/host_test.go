package snapshot_test

import (
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
)

// hostRepository opens a repository for a new put-only host.
func hostRepository(t *testing.T, repo *chunkstore.Repository, name string, systems ...string) *chunkstore.Repository {
	t.Helper()
	_, text, err := repo.AddHost(t.Context(), name, systems, false)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := crypto.ParseCredential(text)
	if err != nil {
		t.Fatal(err)
	}
	host, err := chunkstore.OpenHost(t.Context(), repo.Backend(), credential, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return host
}

// What a put-only host says of its snapshots is believed only where it is its own affair: systems that it may store, by its
// own name, at the store's time.
func TestPutOnlyHostsAreConfined(t *testing.T) {
	repo := newRepository(t, mem.New(mem.Options{}))
	store := func(r *chunkstore.Repository, system string, change func(*snapshot.Summary)) string {
		t.Helper()
		snap := &snapshot.Snapshot{
			Summary: snapshot.Summary{System: system, Host: "home", Time: time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC), Complete: true},
			System:  snapshot.System{Name: system},
		}
		if change != nil {
			change(&snap.Summary)
		}
		commit(t, r, snap)
		return snap.ID
	}
	confined, free := hostRepository(t, repo, "confined", "db"), hostRepository(t, repo, "free")
	shop := store(repo, "shop", nil)
	listed, unlisted := store(confined, "db", nil), store(confined, "blog", nil)
	late, own := store(free, "shop", nil), store(free, "mail", nil)
	term := store(free, "mail", func(s *snapshot.Summary) { s.Term = 7 })
	origin := store(free, "mail", func(s *snapshot.Summary) {
		s.Origin = &snapshot.Origin{Repository: "0123", Snapshot: "0123", Stored: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)}
	})
	cat := catalog(t, repo)
	if len(cat.Damaged) > 0 || len(cat.Snapshots) != 7 {
		t.Fatalf("%+v", cat)
	}
	for _, s := range cat.Snapshots {
		host := map[string]string{shop: "home", listed: "confined", unlisted: "confined"}[s.ID]
		if host == "" {
			host = "free"
		}
		stray := s.ID == unlisted || s.ID == late || s.ID == term
		if s.Host != host || s.Stray != stray || s.Origin != nil || s.Stored.Year() == 2099 {
			t.Errorf("%s of %s: host %s, stray: %v, origin %v, stored %v", s.ID, s.System, s.Host, s.Stray, s.Origin, s.Stored)
		}
	}
	if s, err := snapshot.Select(cat.Snapshots, "shop", snapshot.Filter{}, time.UTC); err != nil || s.Summary.ID != shop {
		t.Errorf("the newest of shop: %+v, %v", s, err)
	}
	for _, id := range []string{own, origin} {
		s, err := snapshot.Select(cat.Snapshots, id, snapshot.Filter{}, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		if snap, err := cat.Load(t.Context(), s.Summary); err != nil || snap.System.Domain != free.Domain() {
			t.Errorf("%s: %v", id, err)
		}
	}
}
