package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// judge looks at what is left when everything is calm: prunes go on where others stopped, a check finds nothing, what is listed is what
// the history tells of, and all that is wanted reads back, by the program and by the library.
func (w *world) judge(ctx context.Context, hosts int) {
	w.proxy.calm()
	h, err := w.newHost(0)
	if err != nil {
		w.violated("%v", err)
		return
	}
	h.verify(ctx, "check", "--read-data")
	for n := range 2 * hosts {
		h, err := w.newHost(n % hosts)
		if err != nil {
			w.violated("%v", err)
			return
		}
		var both sync.WaitGroup
		for range 2 { // as the two writers that a host has
			both.Go(func() { h.pruned(h.verify(ctx, "prune", "--json", "--min-age", "0s", "--max-unused", "0")) })
		}
		both.Wait()
	}
	h.verify(ctx, "check", "--read-data")
	past, err := recall(w.dir)
	if err != nil {
		w.violated("history: %v", err)
		return
	}
	h.list(ctx, past)
	if err := h.layers(ctx, past); err != nil {
		w.violated("%v", err)
	}
}

// verify runs what must go well now.
func (h *host) verify(ctx context.Context, args ...string) process {
	p := h.program(ctx, nil, nil, args...)
	if p.code != 0 {
		h.violated("when all was calm: %s: exit code %d\n%s\n%s", p.line, p.code, lastBytes(string(p.out), 3000), p.err)
	}
	return p
}

// list compares what is listed with the history, and reads it back.
func (h *host) list(ctx context.Context, past *history) {
	listed := map[string]bool{}
	p := h.verify(ctx, "snapshots", "--json")
	for line := range strings.Lines(string(p.out)) {
		var s struct {
			Type string `json:"message_type"`
			ID   string
		}
		if err := json.Unmarshal([]byte(line), &s); err == nil && s.ID != "" {
			listed[s.ID] = true
		}
	}
	for _, id := range past.wanted() {
		if !listed[id] {
			h.violated("snapshot %s was reported good and never forgotten, and is not there", id)
		}
	}
	for id := range listed {
		want, known := past.tried[id]
		if !known {
			h.violated("snapshot %s is there, but nobody made it", id)
			continue
		}
		if _, good := past.good[id]; !good {
			h.count("snapshots there, unreported", 1)
		}
		dump := h.program(ctx, nil, sumIs(want), "dump", id+":data")
		if dump.code != 0 {
			h.violated("when all was calm: %s: exit code %d\n%s", dump.line, dump.code, dump.err)
		}
		h.count("snapshots read back at the end", 1)
	}
}

// layers reads the layers of all snapshots by the library, past the proxy.
func (h *host) layers(ctx context.Context, past *history) error {
	b := backup{endpoint: h.store.endpoint, dir: h.dir + "-judge", key: h.keyFile()}
	repo, err := b.open(ctx)
	if err != nil {
		return err
	}
	cat, err := snapshot.ReadCatalog(ctx, repo)
	if err == nil {
		err = errors.Join(cat.Damaged...)
	}
	if err != nil {
		return err
	}
	for _, s := range cat.Snapshots {
		snap, err := cat.Load(ctx, s)
		if err == nil {
			err = readLayer(ctx, repo, snap.System.Images[0].Layers[0].DiffID)
		}
		if err != nil {
			h.violated("snapshot %s (good: %v): %v", s.ID, past.good[s.ID] != "", err)
		}
	}
	return nil
}

// readLayer reads a layer, which is verified by that.
func readLayer(ctx context.Context, repo *chunkstore.Repository, diffID string) error {
	r, _, err := archive.OpenLayer(ctx, repo, chunkstore.Domain{}, diffID)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("layer %s: %w", diffID, err)
	}
	return nil
}

// verdict is nil if nothing was violated and everything that was to happen did.
func (w *world) verdict(ctx context.Context) error {
	for _, f := range faults() {
		if w.proxy.fired[f.name] == 0 {
			w.violated("nobody met the fault %q: let it run longer", f.name)
		}
	}
	for _, what := range []string{
		"backup: good", "forget: good", "prune: good", "check: good", "read: good",
		"backup: killed", "prune: killed", "packs deleted", "packs rewritten",
	} {
		if w.counts[what] == 0 {
			w.violated("none of %q: let it run longer", what)
		}
	}
	if len(w.violations) == 0 {
		return ctx.Err()
	}
	return fmt.Errorf("%d violations:\n%s", len(w.violations), strings.Join(w.violations, "\n"))
}
