package snapshot_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
)

func newRepository(t *testing.T, b chunkstore.Backend) *chunkstore.Repository {
	t.Helper()
	secret := crypto.Passphrase([]byte("correct horse"))
	cost := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	if _, err := chunkstore.Init(t.Context(), b, secret, crypto.SlotInfo{Label: "test"}, cost, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	repo, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// commit stores a snapshot that has one volume with content.
func commit(t *testing.T, repo *chunkstore.Repository, snap *snapshot.Snapshot) {
	t.Helper()
	ctx := t.Context()
	s, err := repo.Begin(ctx, chunkstore.BeginOptions{Host: snap.Host})
	if err != nil {
		t.Fatal(err)
	}
	records, err := s.SaveStream(ctx, []byte(strings.Repeat("records of "+snap.System.Name+" ", 10000)))
	if err != nil {
		t.Fatal(err)
	}
	snap.System.Volumes = []snapshot.Volume{{
		Name: "data", Driver: "local", Inspect: []byte(`{"Name":"data"}`),
		Content: &snapshot.Archive{Records: records, Entries: 3, Bytes: 7},
	}}
	if err := snapshot.Commit(ctx, s, snap); err != nil {
		t.Fatal(err)
	}
}

func TestCatalog(t *testing.T) {
	ctx := t.Context()
	store := mem.New(mem.Options{})
	repo := newRepository(t, store)
	start := time.Date(2026, 11, 20, 2, 0, 0, 0, time.UTC)
	var snaps []*snapshot.Snapshot
	for i, system := range []string{"shop", "wiki", "shop"} {
		snap := &snapshot.Snapshot{
			Summary: snapshot.Summary{
				System: system, Host: "home", Time: start.AddDate(0, 0, i), Complete: true, Program: "test",
				Stats: snapshot.Stats{Bytes: 7, Files: 3, Paused: 40 * time.Millisecond},
			},
			System: snapshot.System{Name: system, Source: snapshot.ByCompose, Problems: []snapshot.Problem{{Where: "bind /x", What: "too large"}}},
		}
		commit(t, repo, snap)
		if snap.Stats.NewBytes == 0 || snap.Stats.Stored == 0 || len(snap.ID) != 20 {
			t.Errorf("after the commit: id %q, %+v", snap.ID, snap.Stats)
		}
		snaps = append(snaps, snap)
	}
	catalog, err := snapshot.ReadCatalog(ctx, repo)
	if err != nil {
		t.Fatal(err)
	}
	if list := (snapshot.Filter{System: "shop"}).Apply(catalog.Snapshots); len(list) != 2 || list[0].ID != snaps[2].ID {
		t.Errorf("list of shop: %+v", list)
	}
	found, err := snapshot.Select(catalog.Snapshots, "shop@2026-11-20:data/x", snapshot.Filter{}, time.UTC)
	if err != nil || found.Summary.ID != snaps[0].ID || found.Part != "data" {
		t.Fatalf("select: %+v, %v", found, err)
	}
	got, err := catalog.Load(ctx, found.Summary)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snaps[0].System, got.System); diff != "" {
		t.Errorf("loaded (-want +got):\n%s", diff)
	}
	if _, err := catalog.Load(ctx, snapshot.Summary{ID: "00000000000000000000"}); !errors.Is(err, snapshot.ErrMissing) {
		t.Errorf("load of an unknown id: %v", err)
	}
	if len(catalog.Damaged) > 0 {
		t.Errorf("damaged: %v", catalog.Damaged)
	}
}

// The time that a snapshot was stored is the store's, whatever its host's clock says, and is not in the object.
func TestCatalogStored(t *testing.T) {
	at := time.Date(2026, 11, 20, 2, 0, 0, 0, time.UTC)
	repo := newRepository(t, mem.New(mem.Options{Now: func() time.Time { return at }}))
	commit(t, repo, &snapshot.Snapshot{Summary: snapshot.Summary{System: "shop", Time: at.AddDate(-30, 0, 0), Stored: at.AddDate(1, 0, 0)}})
	catalog, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil || len(catalog.Snapshots) != 1 {
		t.Fatal(catalog, err)
	}
	if got := catalog.Snapshots[0]; !got.Stored.Equal(at) {
		t.Errorf("stored at %v, want %v", got.Stored, at)
	}
	text, err := json.Marshal(catalog.Snapshots[0])
	if err != nil || strings.Contains(string(text), "2026-11-20") {
		t.Errorf("%s, %v", text, err)
	}
}

func TestCatalogForget(t *testing.T) {
	ctx := t.Context()
	store := mem.New(mem.Options{})
	repo := newRepository(t, store)
	for _, system := range []string{"shop", "wiki", "mail"} {
		commit(t, repo, &snapshot.Snapshot{Summary: snapshot.Summary{System: system}})
	}
	catalog, err := snapshot.ReadCatalog(ctx, repo)
	if err != nil {
		t.Fatal(err)
	}
	gone := snapshot.Filter{System: "wiki"}.Apply(catalog.Snapshots)
	unknown := snapshot.Summary{ID: "00000000000000000000"}
	if err := catalog.Forget(ctx, "home", append(gone, unknown)); !errors.Is(err, snapshot.ErrMissing) {
		t.Errorf("an unknown id: %v", err)
	}
	if catalog, err = snapshot.ReadCatalog(ctx, repo); err != nil || len(catalog.Snapshots) != 3 {
		t.Fatalf("after an error: %v, %v", catalog, err)
	}
	if err := catalog.Forget(ctx, "home", gone); err != nil {
		t.Fatal(err)
	}
	if catalog, err = snapshot.ReadCatalog(ctx, repo); err != nil {
		t.Fatal(err)
	}
	if left := catalog.Snapshots; len(left) != 2 || len(snapshot.Filter{System: "wiki"}.Apply(left)) > 0 {
		t.Errorf("left: %+v", left)
	}
}

// TestCatalogDamaged: a snapshot that cannot be read hides none of the others.
func TestCatalogDamaged(t *testing.T) {
	ctx := t.Context()
	store := mem.New(mem.Options{})
	repo := newRepository(t, store)
	for _, system := range []string{"shop", "wiki"} {
		commit(t, repo, &snapshot.Snapshot{Summary: snapshot.Summary{System: system}, System: snapshot.System{Name: system}})
	}
	// One of a program that describes systems in another way, and one whose object is broken.
	s, err := repo.Begin(ctx, chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	body, err := s.SaveStream(ctx, []byte(`{"version":2}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "home", func(chunkstore.SessionStats) any { return snapshot.Summary{System: "future"} }, body); err != nil {
		t.Fatal(err)
	}
	breakOutcome(ctx, t, store)
	catalog, err := snapshot.ReadCatalog(ctx, repo)
	if err != nil {
		t.Fatal(err)
	}
	if list := catalog.Snapshots; len(list) != 2 || len(catalog.Damaged) != 1 {
		t.Errorf("list: %+v, damaged: %v", list, catalog.Damaged)
	}
	for _, s := range (snapshot.Filter{System: "future"}).Apply(catalog.Snapshots) {
		if _, err := catalog.Load(ctx, s); err == nil || !strings.Contains(err.Error(), "newer") {
			t.Errorf("load of a body of version 2: %v", err)
		}
	}
}

// breakOutcome turns a byte of the first snapshot object, which is that of the first writer's name.
func breakOutcome(ctx context.Context, t *testing.T, store *mem.Store) {
	t.Helper()
	stop := errors.New("stop")
	err := store.List(ctx, "n/", func(i chunkstore.Info) error {
		object, err := store.Get(ctx, i.Name, 0, -1)
		if err != nil {
			return err
		}
		object[len(object)-1] ^= 1
		return errors.Join(stop, store.Put(ctx, i.Name, object))
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
}
