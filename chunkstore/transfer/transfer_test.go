package transfer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/chunkstore/transfer"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer"
)

// place is a repository in memory with a key of its own.
type place struct {
	store  *mem.Store
	secret crypto.Secret
}

func newPlace(t testing.TB, params chunkstore.ChunkerParams) place {
	t.Helper()
	p := place{mem.New(mem.Options{}), crypto.KeyFile(crypto.NewKeyFile())}
	cheap := crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	_, err := chunkstore.Init(t.Context(), p.store, p.secret, crypto.SlotInfo{Label: "test"}, cheap, params)
	ok(t, err)
	return p
}

func (p place) open(t testing.TB, b chunkstore.Backend) *chunkstore.Repository {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), b, p.secret, chunkstore.Options{})
	ok(t, err)
	return r
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// backup stores a snapshot of a system with a layer and a volume.
func (p place) backup(t testing.TB, system, dir string, layer []byte) snapshot.Summary {
	t.Helper()
	s, err := p.open(t, p.store).Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	ok(t, err)
	diffID := fmt.Sprintf("sha256:%x", sha256.Sum256(layer))
	_, err = archive.SaveLayer(t.Context(), s, diffID, bytes.NewReader(layer))
	ok(t, err)
	from, err := exporter.OpenDir(dir, exporter.DirOptions{})
	ok(t, err)
	defer from.Close()
	w := s.NewStream(t.Context())
	stats, err := archive.WriteTree(t.Context(), from, s, w, archive.TreeOptions{})
	ok(t, err)
	records, err := w.Finish()
	ok(t, err)
	tree := &snapshot.Archive{Records: records, Entries: stats.Entries, Bytes: stats.Bytes}
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: system, Host: "home", Time: time.Now().Truncate(0), Complete: true, Tags: []string{"night"}},
		System: snapshot.System{
			Name:    system,
			Images:  []snapshot.Image{{Config: "sha256:c", Layers: []snapshot.Layer{{DiffID: diffID, Size: int64(len(layer))}}}},
			Volumes: []snapshot.Volume{{Name: "data", Content: tree}, {Name: "same", Content: tree}, {Name: "unread"}},
		},
	}
	ok(t, snapshot.Commit(t.Context(), s, snap))
	return snap.Summary
}

// copyAll copies what the destination lacks and returns what was copied, oldest first.
func copyAll(ctx context.Context, from, to *chunkstore.Repository) ([]*transfer.Copied, error) {
	cat, err := snapshot.ReadCatalog(ctx, from)
	if err == nil {
		err = errors.Join(cat.Damaged...)
	}
	if err != nil {
		return nil, err
	}
	c, err := transfer.New(ctx, from, cat, to, transfer.Options{Host: "here"})
	if err != nil {
		return nil, err
	}
	var all []*transfer.Copied
	for _, s := range transfer.OldestFirst(cat.Snapshots) {
		if _, there := c.There(s); there {
			continue
		}
		copied, err := c.Copy(ctx, s, nil)
		if err != nil {
			return all, err
		}
		all = append(all, copied)
	}
	return all, nil
}

func transferAll(t testing.TB, from, to place) []*transfer.Copied {
	t.Helper()
	all, err := copyAll(t.Context(), from.open(t, from.store), to.open(t, to.store))
	ok(t, err)
	return all
}

// content tells everything that the snapshots of a repository hold, but for ids and costs.
func (p place) content(t testing.TB) []string {
	t.Helper()
	r := p.open(t, p.store)
	cat, err := snapshot.ReadCatalog(t.Context(), r)
	ok(t, err)
	ok(t, errors.Join(cat.Damaged...))
	var all []string
	for _, s := range transfer.OldestFirst(cat.Snapshots) {
		snap, err := cat.Load(t.Context(), s)
		if errors.Is(err, chunkstore.ErrChunkMissing) {
			all = append(all, "damaged")
			continue
		}
		ok(t, err)
		var text strings.Builder
		fmt.Fprintln(&text, s.System, s.Host, s.Time.UTC(), s.Tags, s.Complete, s.Stored.UTC().Round(0))
		for _, l := range snap.System.Images[0].Layers {
			rd, _, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, l.DiffID)
			ok(t, err)
			n, err := io.Copy(io.Discard, rd)
			ok(t, errors.Join(err, rd.Close()))
			fmt.Fprintln(&text, l.DiffID, n)
		}
		for _, v := range snap.System.Volumes {
			if v.Content != nil {
				fmt.Fprintln(&text, v.Name, tree(t, r, v.Content.Records))
			}
		}
		all = append(all, text.String())
	}
	return all
}

func tree(t testing.TB, r *chunkstore.Repository, records chunkstore.Stream) string {
	t.Helper()
	rd := archive.OpenTree(t.Context(), r, records)
	defer rd.Close()
	var b strings.Builder
	for {
		e, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		ok(t, err)
		h := sha256.New()
		_, err = io.Copy(h, rd)
		ok(t, err)
		for i := range e.Extents {
			e.Extents[i].Refs = nil
		}
		fmt.Fprintf(&b, "%+v %x\n", e, h.Sum(nil))
	}
}

func (p place) wantClean(t testing.TB) {
	t.Helper()
	r := p.open(t, p.store)
	report, err := r.Check(t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(r), Data: chunkstore.Everything})
	ok(t, err)
	for _, f := range report.Faults {
		t.Errorf("%s: %v", f.Object, f.Err)
	}
}

// files makes a directory with contents of all kinds: inline, bundled, cut, with holes, linked.
func files(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "a/inline", []byte("short"))
	write(t, dir, "a/empty", nil)
	for i := range 20 {
		write(t, dir, fmt.Sprintf("b/%02d", i), noise(byte(i), 3000))
	}
	write(t, dir, "big", noise(100, 3<<20))
	write(t, dir, "big.again", noise(100, 3<<20))
	write(t, dir, "holes", noise(101, 200_000))
	ok(t, os.Truncate(filepath.Join(dir, "holes"), 1<<20))
	ok(t, os.Link(filepath.Join(dir, "big"), filepath.Join(dir, "linked")))
	ok(t, os.Symlink("big", filepath.Join(dir, "sym")))
	return dir
}

func write(t testing.TB, dir, name string, b []byte) {
	t.Helper()
	path := filepath.Join(dir, name)
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	ok(t, os.WriteFile(path, b, 0o644))
}

func layerOf(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	ok(t, w.WriteHeader(&tar.Header{Name: "lib", Mode: 0o644, Size: int64(len(content))}))
	_, err := w.Write(content)
	ok(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// Between repositories of other keys and other cuts everything comes over as it is, and what is known is
// neither read nor stored.
func TestCopy(t *testing.T) {
	from := newPlace(t, chunkstore.ChunkerParams{})
	to := newPlace(t, chunkstore.ChunkerParams{Min: 64 << 10, Bits: 16, Max: 256 << 10})
	dir, layer := files(t), layerOf(t, noise(102, 400_000))
	from.backup(t, "shop", dir, layer)
	write(t, dir, "b/more", noise(103, 150_000))
	from.backup(t, "shop", dir, layer)
	whole := int64(3<<20 + 200_000 + 20*3000 + len(layer)) // of contents, each once
	first := transferAll(t, from, to)
	if len(first) != 2 || first[0].Read < whole-100_000 || first[0].Read > whole+100_000 || first[1].Read != 150_000 {
		t.Errorf("%d copied; read %d, want about %d, then %d, want 150000", len(first), first[0].Read, whole, first[1].Read)
	}
	if diff := cmp.Diff(from.content(t), to.content(t)); diff != "" {
		t.Errorf("(-original +copy):\n%s", diff)
	}
	to.wantClean(t)

	// Again, nothing is written.
	writes := 0
	counted := storetest.Intercept(to.store, func(_ context.Context, c storetest.Call, next func() error) error {
		if c.Write() {
			writes++
		}
		return next()
	})
	again, err := copyAll(t.Context(), from.open(t, from.store), to.open(t, counted))
	ok(t, err)
	if len(again) > 0 || writes > 0 {
		t.Errorf("again: %d copied, %d writes", len(again), writes)
	}

	// The next night, by another process: what the copies have is not read.
	write(t, dir, "a/new", noise(104, 160_000))
	from.backup(t, "shop", dir, layer)
	third := transferAll(t, from, to)
	if len(third) != 1 || third[0].Read != 160_000 || third[0].Stats.NewBytes > 200_000 {
		t.Errorf("the third night: %+v", third)
	}
	// A copy that was copied on, and back, is where it was; and where it is new it says what it is a copy of.
	back, on := newPlace(t, chunkstore.ChunkerParams{}), from.content(t)
	if n := len(transferAll(t, to, from)); n != 0 {
		t.Errorf("%d copied back", n)
	}
	all := transferAll(t, to, back)
	if len(all) != 3 {
		t.Fatalf("copied on: %+v", all)
	}
	if diff := cmp.Diff(first[0].Origin, all[0].Origin); diff != "" {
		t.Errorf("what it is a copy of (-want +got):\n%s", diff)
	}
	if n := len(transferAll(t, from, back)); n != 0 {
		t.Errorf("%d copied that came by another way", n)
	}
	if diff := cmp.Diff(on, back.content(t)); diff != "" {
		t.Errorf("(-original +copy of a copy):\n%s", diff)
	}
}

// A copy that cannot be read any more teaches nothing.
func TestCopyAfterDamage(t *testing.T) {
	from, to := newPlace(t, chunkstore.ChunkerParams{}), newPlace(t, chunkstore.ChunkerParams{})
	dir, layer := files(t), layerOf(t, noise(105, 1000))
	from.backup(t, "shop", dir, layer)
	transferAll(t, from, to)
	packs := 0
	ok(t, to.store.Clone().List(t.Context(), "p/", func(i chunkstore.Info) error {
		packs++
		return to.store.Delete(t.Context(), i.Name)
	}))
	ok(t, to.store.Clone().List(t.Context(), "i/", func(i chunkstore.Info) error { return to.store.Delete(t.Context(), i.Name) }))
	if packs == 0 {
		t.Fatal("there were no packs")
	}
	write(t, dir, "new", noise(106, 1000))
	from.backup(t, "shop", dir, layer)
	all := transferAll(t, from, to)
	if len(all) != 1 || all[0].Read < 3<<20 {
		t.Fatalf("%+v", all)
	}
	if diff := cmp.Diff(from.content(t)[1:], to.content(t)[1:]); diff != "" {
		t.Errorf("(-original +copy):\n%s", diff)
	}
}

func TestCopyRefuses(t *testing.T) {
	from := newPlace(t, chunkstore.ChunkerParams{})
	if _, err := copyAll(t.Context(), from.open(t, from.store), from.open(t, from.store)); !errors.Is(err, transfer.ErrSame) {
		t.Errorf("onto itself: %v", err)
	}
	// What is damaged at the source does not come over, and keeps no other snapshot from it.
	dir := t.TempDir()
	write(t, dir, "file", noise(107, 2000))
	from.backup(t, "bad", dir, layerOf(t, nil))
	packs := map[string]bool{}
	ok(t, from.store.List(t.Context(), "p/", func(i chunkstore.Info) error { packs[i.Name] = true; return nil }))
	for name := range packs {
		b, err := from.store.Get(t.Context(), name, 0, -1)
		ok(t, err)
		b[len(b)/2] ^= 1
		ok(t, from.store.Put(t.Context(), name, b))
	}
	write(t, dir, "file", noise(108, 2000))
	from.backup(t, "good", dir, layerOf(t, nil))
	to := newPlace(t, chunkstore.ChunkerParams{})
	r := from.open(t, from.store)
	cat, err := snapshot.ReadCatalog(t.Context(), r)
	ok(t, err)
	c, err := transfer.New(t.Context(), r, cat, to.open(t, to.store), transfer.Options{})
	ok(t, err)
	for _, s := range cat.Snapshots {
		_, err := c.Copy(t.Context(), s, nil)
		if (err != nil) != (s.System == "bad") {
			t.Errorf("copy of %s: %v", s.System, err)
		}
		if err != nil && !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("not called damage: %v", err)
		}
	}
	if got := to.content(t); len(got) != 1 || !strings.HasPrefix(got[0], "good ") {
		t.Errorf("%v", got)
	}
	to.wantClean(t)
}

// Every call to either store fails once, and the process ends after every write: the snapshot is there whole or
// not at all, and the next run copies it.
func TestCopyFails(t *testing.T) {
	from, to := newPlace(t, chunkstore.ChunkerParams{}), newPlace(t, chunkstore.ChunkerParams{})
	dir := t.TempDir()
	write(t, dir, "file", noise(109, 2000))
	from.backup(t, "shop", dir, layerOf(t, noise(110, 1000)))
	want := from.content(t)
	try := func(what string, wrap func(chunkstore.Backend) chunkstore.Backend) {
		t.Helper()
		half := place{to.store.Clone(), to.secret}
		_, err := func() ([]*transfer.Copied, error) {
			a, err := chunkstore.Open(t.Context(), wrap(from.store), from.secret, chunkstore.Options{})
			if err != nil {
				return nil, err
			}
			b, err := chunkstore.Open(t.Context(), wrap(half.store), half.secret, chunkstore.Options{})
			if err != nil {
				return nil, err
			}
			return copyAll(t.Context(), a, b)
		}()
		if got := half.content(t); len(got) > 0 && !cmp.Equal(got, want) || err == nil && len(got) == 0 {
			t.Fatalf("%s: %v: %v", what, err, got)
		}
		half.wantClean(t)
		transferAll(t, from, half)
		if diff := cmp.Diff(want, half.content(t)); diff != "" {
			t.Fatalf("%s: the next run (-want +got):\n%s", what, diff)
		}
	}
	for n := 1; ; n++ {
		f := &storetest.Faulty{N: n}
		try(fmt.Sprintf("call %d", n), f.Wrap)
		if !f.Fired() {
			if n < 20 {
				t.Errorf("only %d calls", n)
			}
			break
		}
	}
	for n := 0; ; n++ {
		c := &storetest.Crash{After: n}
		try(fmt.Sprintf("write %d", n), c.Wrap)
		if !c.Crashed() {
			break
		}
	}
}
