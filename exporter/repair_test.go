package exporter_test

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
)

var repairKey = crypto.KeyFile(crypto.NewKeyFile())

// lossy is a repository with two snapshots of one volume, of the first of which the middle of a file is lost: of "big",
// which has a second name. The second one does not have it. Each has an image of which no layer was ever stored, one
// says that it was.
func lossy(t *testing.T) *mem.Store {
	t.Helper()
	b := mem.New(mem.Options{})
	if _, err := chunkstore.Init(t.Context(), b, repairKey, crypto.SlotInfo{}, crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}, chunkstore.ChunkerParams{Min: 128 << 10, Bits: 17, Max: 256 << 10}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	big := make([]byte, 600<<10)
	rand.NewChaCha8([32]byte{1}).Read(big)
	for name, content := range map[string][]byte{"after": []byte(strings.Repeat("z", 600)), "big": big, "small": []byte("s")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "second")); err != nil {
		t.Fatal(err)
	}
	storeVolume(t, b, dir, 1)
	var pack string
	for _, i := range list(t, b, "p/") {
		pack = i.Name
	}
	for _, name := range []string{"big", "second"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	storeVolume(t, b, dir, 0)
	object, err := b.Get(t.Context(), pack, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	// A bit can damage several chunks, those in one package of 64 KiB: not one that has the bundle of "after" too.
	for at := 100; at < len(object); at += 32 << 10 {
		damaged := bytes.Clone(object)
		damaged[at] ^= 1
		c := b.Clone()
		if err := c.Put(t.Context(), pack, damaged); err != nil {
			t.Fatal(err)
		}
		found, err := openLossy(t.Context(), c).RepairPacks(t.Context(), nil, chunkstore.RepairOptions{})
		if err != nil || len(found.Damaged) != 1 {
			t.Fatalf("%+v, %v", found, err)
		}
		if d := found.Damaged[0]; d.Lost == 1 && d.Bytes > 64<<10 {
			return c
		}
	}
	t.Fatal("no bit damages just one chunk")
	return nil
}

func list(t *testing.T, b chunkstore.Backend, prefix string) (all []chunkstore.Info) {
	t.Helper()
	if err := b.List(t.Context(), prefix, func(i chunkstore.Info) error {
		all = append(all, i)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// openLossy opens the repository, or returns nil.
func openLossy(ctx context.Context, b chunkstore.Backend) *chunkstore.Repository {
	r, err := chunkstore.Open(ctx, b, repairKey, chunkstore.Options{})
	if err != nil {
		return nil
	}
	return r
}

func storeVolume(t *testing.T, b chunkstore.Backend, dir string, layerSize int64) {
	t.Helper()
	s, err := openLossy(t.Context(), b).Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := exporter.OpenDir(dir, exporter.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	w := s.NewStream(t.Context())
	stats, err := archive.WriteTree(t.Context(), tree, s, w, archive.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Host: "home", Complete: true},
		System: snapshot.System{
			Name:    "shop",
			Images:  []snapshot.Image{{Tags: []string{"shop:1"}, Layers: []snapshot.Layer{{DiffID: "sha256:" + strings.Repeat("ab", 32), Size: layerSize}}}},
			Volumes: []snapshot.Volume{{Name: "db", Content: &snapshot.Archive{Records: st, Entries: stats.Entries, Bytes: stats.Bytes}}},
		},
	}
	if layerSize == 0 {
		snap.System.Images = nil // or a check would miss it
	}
	if err := snapshot.Commit(t.Context(), s, snap); err != nil {
		t.Fatal(err)
	}
}

// repairAll repairs all snapshots, oldest first, and forgets those of which a new one was made.
func repairAll(ctx context.Context, b chunkstore.Backend, o exporter.RepairOptions) ([]*exporter.Repaired, error) {
	repo, err := chunkstore.Open(ctx, b, repairKey, chunkstore.Options{})
	if err != nil {
		return nil, err
	}
	cat, err := snapshot.ReadCatalog(ctx, repo)
	if err != nil {
		return nil, err
	}
	r, err := exporter.NewRepairer(ctx, repo, cat, o)
	if err != nil {
		return nil, err
	}
	var all []*exporter.Repaired
	for _, s := range slices.Backward(cat.Snapshots) {
		found, err := r.Repair(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, found)
		if found.New != nil {
			if err := cat.Forget(ctx, "test", []snapshot.Summary{s}); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

var wantLost = []snapshot.Problem{
	{Where: "image shop:1", What: "layer sha256:" + strings.Repeat("ab", 32) + " is lost: the image must come from elsewhere"},
	{Where: "volume db: big", What: "its content is lost"},
	{Where: "volume db: second", What: "its content is lost"},
}

func TestRepair(t *testing.T) {
	b := lossy(t)
	before := len(list(t, b, ""))
	for _, dry := range []bool{true, false} {
		all, err := repairAll(t.Context(), b, exporter.RepairOptions{DryRun: dry, Program: "test"})
		if err != nil || len(all) != 2 {
			t.Fatal(all, err)
		}
		lost := slices.Concat(all[0].Lost, all[1].Lost)
		if diff := cmp.Diff(wantLost, lost); diff != "" {
			t.Errorf("lost (-want +got):\n%s", diff)
		}
		if dry && len(list(t, b, "")) != before {
			t.Error("a dry run wrote something")
		}
	}
	wantRepaired(t, b)
}

// wantRepaired demands two snapshots, one of them incomplete, with everything that could be read, and no fault.
func wantRepaired(t *testing.T, b chunkstore.Backend) {
	t.Helper()
	repo := openLossy(t.Context(), b)
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil || len(cat.Snapshots) != 2 || len(cat.Damaged) > 0 {
		t.Fatalf("%+v, %v", cat, err)
	}
	incomplete := 0
	for _, s := range cat.Snapshots {
		snap, err := cat.Load(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		if !s.Complete {
			incomplete++
			if diff := cmp.Diff(wantLost, snap.System.Problems); diff != "" || s.Origin == nil || s.Stats.Problems != 3 {
				t.Errorf("%+v; problems (-want +got):\n%s", s, diff)
			}
		}
		if diff := cmp.Diff(map[string]string{"": "", "after": strings.Repeat("z", 600), "small": "s"}, treeContents(t, repo, snap.System.Volumes[0].Content.Records)); diff != "" {
			t.Errorf("content (-want +got):\n%s", diff)
		}
	}
	if incomplete != 1 {
		t.Errorf("%d are incomplete", incomplete)
	}
	report, err := repo.Check(t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(repo), Data: chunkstore.Everything})
	if err != nil || len(report.Faults) > 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func treeContents(t *testing.T, repo *chunkstore.Repository, st chunkstore.Stream) map[string]string {
	t.Helper()
	r := archive.OpenTree(t.Context(), repo, st)
	defer r.Close()
	all := map[string]string{}
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		var content bytes.Buffer
		if _, err := io.Copy(&content, r.Filled(e)); err != nil {
			t.Fatal(err)
		}
		all[e.Path] = content.String()
	}
}

// Wherever a repair stops, the next one ends it, and nothing more is lost.
func TestRepairStops(t *testing.T) {
	start := lossy(t)
	stride := 1
	if testing.Short() {
		stride = 5
	}
	for n := 1; ; n += stride {
		b := start.Clone()
		f := &storetest.Faulty{N: n}
		_, _ = repairAll(t.Context(), f.Wrap(b), exporter.RepairOptions{}) // it may get over the fault
		if !f.Fired() {
			break
		}
		again(t, b)
	}
	for n := 0; ; n++ {
		b := start.Clone()
		crash := &storetest.Crash{After: n}
		if _, err := repairAll(t.Context(), crash.Wrap(b), exporter.RepairOptions{}); err == nil {
			break
		}
		again(t, b)
	}
}

func again(t *testing.T, b chunkstore.Backend) {
	t.Helper()
	if _, err := repairAll(t.Context(), b, exporter.RepairOptions{}); err != nil {
		t.Fatal(err)
	}
	wantRepaired(t, b)
}

// What the store does not give for now, or only the beginning of, is not lost: neither a repair nor a check says so.
func TestNothingSeemsLost(t *testing.T) {
	b := mem.New(mem.Options{})
	if _, err := chunkstore.Init(t.Context(), b, repairKey, crypto.SlotInfo{}, crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}, chunkstore.ChunkerParams{Min: 128 << 10, Bits: 17, Max: 256 << 10}); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{"after": strings.Repeat("z", 600), "big": strings.Repeat("0123456789", 30<<10), "small": "s"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	storeVolume(t, b, dir, 0)
	shareRecords(t, b)
	faults := []error{io.EOF, io.ErrUnexpectedEOF, storetest.ErrInjected}
	if testing.Short() {
		faults = faults[:1]
	}
	for _, fault := range faults {
		failed := 0
		for n := 1; ; n++ {
			f := &storetest.Faulty{N: n, Err: fault}
			store := chunkstore.Retry(f.Wrap(b), chunkstore.RetryOptions{MaxElapsed: -1})
			repaired, err := repairAll(t.Context(), store, exporter.RepairOptions{DryRun: true})
			for _, r := range repaired {
				if len(r.Lost) > 0 {
					t.Errorf("call %d: %v: lost: %v", n, fault, r.Lost)
				}
			}
			if r, openErr := chunkstore.Open(t.Context(), store, repairKey, chunkstore.Options{}); err == nil && openErr == nil {
				var report *chunkstore.CheckReport
				if report, err = r.Check(t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(r), Data: chunkstore.Everything}); err == nil {
					for _, f := range report.Faults {
						err = f.Err
					}
				}
			} else if err == nil {
				err = openErr
			}
			if err != nil && (!chunkstore.IsPassing(err) || chunkstore.IsLoss(err)) {
				t.Errorf("call %d: %v: %v", n, fault, err)
			}
			if err != nil {
				failed++
			}
			if !f.Fired() {
				break
			}
		}
		if failed < 20 {
			t.Errorf("%v: only %d failed: were the faults seen?", fault, failed)
		}
	}
}

// shareRecords puts a snapshot in the place of the only one there is, with the same trees, which lie in packs that nothing else of it is in.
func shareRecords(t *testing.T, b chunkstore.Backend) {
	t.Helper()
	r := openLossy(t.Context(), b)
	cat, err := snapshot.ReadCatalog(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	old, err := cat.Load(t.Context(), cat.Snapshots[0])
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	if err == nil {
		old.System.Name = "other"
		err = snapshot.Commit(t.Context(), s, &snapshot.Snapshot{Summary: snapshot.Summary{System: "other", Host: "home", Complete: true}, System: old.System})
	}
	if err == nil {
		err = cat.Forget(t.Context(), "test", cat.Snapshots[:1])
	}
	if err != nil {
		t.Fatal(err)
	}
}
