package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
)

// night stores a snapshot for which no engine is needed: night DIR. DIR/snapshot.json describes it,
// the system under "body"; the trees are DIR/changes/CONTAINER, DIR/volumes/NAME and DIR/binds/SOURCE
// where there are such.
func night(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: night DIR")
	}
	repo := ts.MkAbs(ts.Getenv("HAKOBUNE_REPOSITORY"))
	ts.Check(storeNight(context.Background(), repo, ts.Getenv("HAKOBUNE_PASSWORD"), ts.MkAbs(args[0])))
}

func storeNight(ctx context.Context, where, password, dir string) error {
	var described struct {
		snapshot.Summary
		Body snapshot.System `json:"body"`
	}
	raw, err := os.ReadFile(filepath.Join(dir, "snapshot.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, &described); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	b, err := local.Open(where, local.Options{})
	if err != nil {
		return err
	}
	repo, err := chunkstore.Open(ctx, b, crypto.Passphrase([]byte(password)), chunkstore.Options{})
	if err != nil {
		return err
	}
	s, err := repo.Begin(ctx, chunkstore.BeginOptions{Host: described.Host})
	if err != nil {
		return err
	}
	snap := &snapshot.Snapshot{Summary: described.Summary, System: described.Body}
	snap.Complete, snap.Summary.System = true, snap.System.Name
	if err := storeTrees(ctx, s, snap, dir); err != nil {
		return errors.Join(err, s.Abort(ctx))
	}
	return snapshot.Commit(ctx, s, snap)
}

func storeTrees(ctx context.Context, s *chunkstore.Session, snap *snapshot.Snapshot, dir string) error {
	var failed error
	store := func(kind, name string) *snapshot.Archive {
		a, err := storeTree(ctx, s, filepath.Join(dir, kind, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			failed = errors.Join(failed, err)
			return nil
		}
		snap.Stats.Bytes += a.Bytes
		snap.Stats.Files += a.Entries
		return a
	}
	for i := range snap.System.Containers {
		c := &snap.System.Containers[i]
		c.Changes = store("changes", c.Name)
	}
	for i := range snap.System.Volumes {
		v := &snap.System.Volumes[i]
		v.Content = store("volumes", v.Name)
	}
	for i := range snap.System.Binds {
		b := &snap.System.Binds[i]
		b.Content = store("binds", b.Source)
	}
	return failed
}

// storeTree stores a directory or a single file. All of it gets one time: what differs then, differs
// in what it holds.
func storeTree(ctx context.Context, s *chunkstore.Session, path string) (*snapshot.Archive, error) {
	at := time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC)
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		return os.Chtimes(name, at, at)
	})
	if err != nil {
		return nil, err
	}
	dir, err := exporter.OpenDir(path, exporter.DirOptions{})
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	w := s.NewStream(ctx)
	stats, err := archive.WriteTree(ctx, dir, s, w, archive.TreeOptions{})
	if err != nil {
		return nil, err
	}
	st, err := w.Finish()
	return &snapshot.Archive{Records: st, Entries: stats.Entries, Bytes: stats.Bytes}, err
}
