package chunkstore_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
)

// What lies in the store holds nothing in clear of contents, nor of what describes them, nor a hash by which a
// known file could be recognised.
func TestStoreGivesNothingAway(t *testing.T) {
	store := mem.New(mem.Options{})
	r := newRepository(t, store, chunkstore.Options{})
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "telltale-host", Program: "telltale-program"})
	if err != nil {
		t.Fatal(err)
	}
	incompressible, text := noise(90, 300_000), []byte("telltale-content")
	plain := [][]byte{incompressible, text, []byte("telltale-metadata")}
	ids := [][]byte{}
	for i, kind := range []chunkstore.Kind{chunkstore.Data, chunkstore.Data, chunkstore.Meta} {
		id, err := s.Save(t.Context(), kind, plain[i])
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(plain[i])
		ids = append(ids, sum[:], []byte(hex.EncodeToString(sum[:])), id[:])
		if bytes.Equal(id[:], sum[:]) {
			t.Error("a chunk is named by a hash that anybody can compute")
		}
	}
	if _, err := s.SetNamed(t.Context(), "telltale-name", []byte("telltale-value")); err != nil {
		t.Fatal(err)
	}
	body, err := s.SaveStream(t.Context(), []byte("telltale-body"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "telltale-host", func(chunkstore.SessionStats) any { return "telltale-summary" }, body); err != nil {
		t.Fatal(err)
	}
	if err := r.AddRecord(t.Context(), "telltale-kind", "telltale-record"); err != nil {
		t.Fatal(err)
	}
	all, err := r.Outcomes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Forget(t.Context(), "telltale-host", all); err != nil {
		t.Fatal(err)
	}
	for _, name := range names(t, store) {
		object := slices.Concat([]byte(name), bytesOf(t, store, name))
		for _, secret := range append(ids, []byte("telltale"), incompressible[1000:1032]) {
			if bytes.Contains(object, secret) {
				t.Errorf("%s holds %.40q", name, secret)
			}
		}
	}
}

// A copy of a key slot opens everything for whoever has its secret, whatever becomes of the slot; a rotation ends
// that for what is stored from then on, and what is rewritten too.
func TestStolenSlot(t *testing.T) {
	store, before := seeded(t)
	thief := crypto.KeyFile(crypto.NewKeyFile())
	id := addSlot(t, store, thief, "stolen")
	stolen := store.Clone()
	if err := chunkstore.RemoveSlot(t.Context(), store, password, id); err != nil {
		t.Fatal(err)
	}
	asThief := func() *chunkstore.Repository {
		r, err := chunkstore.Open(t.Context(), withSlots(t, store, stolen), thief, chunkstore.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if _, err := backup(t.Context(), reopen(t, store, chunkstore.Options{}), noise(91, 1000)); err != nil {
		t.Fatal(err)
	}
	all, err := asThief().Outcomes(t.Context())
	if err != nil || len(all) != 2 || !bytes.Equal(restore(t, asThief(), all[1]), noise(91, 1000)) {
		t.Errorf("without a rotation a removed slot is not worth nothing: %v, %d snapshots", err, len(all))
	}
	rotate(t, store)
	if _, err := reencrypt(t.Context(), store, -1); err != nil {
		t.Fatal(err)
	}
	if err := asThief().LoadIndex(t.Context()); !errors.Is(err, crypto.ErrRotated) {
		t.Errorf("the index opens with a stolen slot: %v", err)
	}
	if old := oldObjects(t, store, 2); len(old) != 0 {
		t.Errorf("these open with it: %v", old)
	}
	wantSnapshots(t, store, before, noise(91, 1000))
}
