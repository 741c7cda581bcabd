package importer_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/importer"
)

// noise are bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return string(b)
}

// away is a system before it went away and as it is to come home: of its 12 MiB, what changed is some bytes in the middle
// of a table, a new file, and one of many small ones. A large file has another name.
func away(t *testing.T) (repo *chunkstore.Repository, before, now *snapshot.Snapshot, bind string) {
	t.Helper()
	needRoot(t)
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // each restore waits for the disk
	}
	b := newBuilderOf(t, chunkstore.ChunkerParams{Min: 64 << 10, Bits: 16, Max: 512 << 10}) // small, as the files are
	table := noise(1, 6<<20)
	night := map[string]string{"table": table, "log.1": noise(2, 3<<20)}
	for i := range 300 {
		night[fmt.Sprintf("small/%d", i)] = noise(uint64(100+i), 2000)
	}
	next := map[string]string{"table": table[:3<<20] + "written at the stand-in" + table[3<<20+23:], "log.2": night["log.1"], "new": noise(3, 500<<10)}
	for i := range 300 {
		next[fmt.Sprintf("small/%d", i)] = night[fmt.Sprintf("small/%d", i)]
	}
	next["small/7"] = "other"
	img := b.image("app:1", map[string]any{"Cmd": []string{"/app"}}, b.layer(entry{name: "app", data: "program\n", mode: 0o755}))
	bind = filepath.Join(t.TempDir(), "conf")
	make := func(id string, volume map[string]string, changes string) *snapshot.Snapshot {
		return &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: id, System: "shop", Complete: true},
			System: snapshot.System{
				Name: "shop", Images: []snapshot.Image{img},
				Containers: []snapshot.Container{{
					ID: "id", Name: "shop-db", Image: "app:1", ImageKey: img.Config, State: "running", Inspect: []byte(`{}`),
					Mounts:  []snapshot.Mount{{Type: "volume", Name: "shop_data", Destination: "/data"}, {Type: "bind", Source: bind, Destination: "/conf"}},
					Changes: b.tree(true, files(t, map[string]string{"var/cache": noise(4, 1<<20), "etc/x": changes})),
				}},
				Volumes: []snapshot.Volume{{Name: "shop_data", Driver: "local", Content: b.tree(false, files(t, volume))}},
				Binds:   []snapshot.Bind{{Source: bind, Content: b.tree(false, files(t, map[string]string{"site": noise(5, 200<<10), "x": changes}))}},
			},
		}
	}
	before, now = make("11111111111111111111", night, "1"), make("22222222222222222222", next, "2")
	return b.commit(), before, now, bind
}

// wire is a backend that counts what is read from it.
type wire struct {
	chunkstore.Backend
	bytes atomic.Int64
}

func (w *wire) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	b, err := w.Backend.Get(ctx, name, off, n)
	w.bytes.Add(int64(len(b)))
	return b, err
}

// overWire opens the repository once more, by way of a backend that counts.
func overWire(t testing.TB, repo *chunkstore.Repository) (*chunkstore.Repository, *wire) {
	t.Helper()
	w := &wire{Backend: repo.Backend()}
	r, err := chunkstore.Open(t.Context(), w, crypto.Passphrase([]byte("correct horse")), chunkstore.Options{})
	ok(t, err)
	return r, w
}

// atHome is an engine with the system as it was before, and its container's changes where an engine has them.
func atHome(t *testing.T, repo *chunkstore.Repository, before *snapshot.Snapshot) *fakeEngine {
	t.Helper()
	f := newFake(t)
	_, err := importer.Restore(t.Context(), repo, before, f, quick)
	ok(t, err)
	for id := range f.containers {
		files(t, map[string]string{"var/cache": noise(4, 1<<20), "etc/x": "1"})(filepath.Join(f.root, id))
	}
	return f
}

var homewards = importer.Options{Settle: quick.Settle, Replace: true, KeepReplaced: true}

// What a host has of a system that is replaced is not fetched, however it came to differ from the snapshot since; and the
// result is the same.
func TestReplacedIsNear(t *testing.T) {
	repo, before, now, bind := away(t)
	cold, coldWire := overWire(t, repo)
	clean := newFake(t)
	_, err := importer.Restore(t.Context(), cold, now, clean, quick)
	ok(t, err)
	read := func(f *fakeEngine) string { return listing(t, filepath.Join(f.root, "shop_data")) + listing(t, bind) }
	want := read(clean)
	ok(t, os.RemoveAll(bind))
	for name, tt := range map[string]struct {
		had    *snapshot.Snapshot
		change func(volume string)
		most   int64 // MiB of content fetched, of 12
	}{
		// Where the records of before are known: two chunks of the table at most, the new file, and the small ones' bundles of new cuts.
		"as it was":             {had: before, most: 3},
		"without the records":   {most: 6}, // not the file that has another name
		"another system's past": {had: now, most: 6},
		"written after the last backup": {had: before, most: 6, change: func(volume string) {
			ok(t, os.WriteFile(filepath.Join(volume, "log.1"), []byte("lost"), 0o644))
			ok(t, os.Symlink("/etc/passwd", filepath.Join(volume, "log.2")))
			ok(t, os.Remove(filepath.Join(volume, "small", "9")))
		}},
		"nothing": {had: before, most: 12, change: func(volume string) { ok(t, emptied(volume)) }},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "written after the last backup" {
				t.Skip("a restore takes seconds under the race detector, and this one does all that the others do")
			}
			f := atHome(t, repo, before)
			defer os.RemoveAll(filepath.Dir(bind))
			if tt.change != nil {
				tt.change(filepath.Join(f.root, "shop_data"))
			}
			over, wire := overWire(t, repo)
			o := homewards
			o.Had = tt.had
			r, err := importer.Restore(t.Context(), over, now, f, o)
			ok(t, err)
			if diff := cmp.Diff(want, read(f)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if r.Fetched > tt.most<<20 || r.Fetched < 500<<10 || r.Fetched+r.Local < 11<<20 || r.Fetched+r.Local > 12<<20 {
				t.Errorf("%d bytes fetched, %d were here", r.Fetched, r.Local)
			}
			if name == "as it was" {
				t.Logf("%d bytes fetched, %d here; %d over the wire, %d cold", r.Fetched, r.Local, wire.bytes.Load(), coldWire.bytes.Load())
				if wire.bytes.Load() > coldWire.bytes.Load()/3 {
					t.Errorf("%d bytes over the wire, %d of a restore from nothing", wire.bytes.Load(), coldWire.bytes.Load())
				}
			}
		})
	}
}

func emptied(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if err == nil {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	return err
}

// Where a stand-in ran, what home's container had changed has become a layer of its image: it is not fetched either.
func TestLayerIsNear(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // each restore waits for the disk
	}
	b := newBuilderOf(t, chunkstore.ChunkerParams{Min: 64 << 10, Bits: 16, Max: 512 << 10})
	program := b.layer(entry{name: "app", data: "program\n", mode: 0o755})
	changed := map[string]string{"var/cache": noise(4, 1<<20), "var/more": noise(5, 1<<20)}
	base := b.image("app:1", map[string]any{"Cmd": []string{"/app"}}, program)
	away := b.image("hakobune/shop-db:1", map[string]any{"Cmd": []string{"/app"}}, program, b.layer(
		entry{name: "var/"}, entry{name: "var/cache", data: changed["var/cache"], mode: 0o644}, entry{name: "var/more", data: noise(6, 1<<20), mode: 0o644}))
	make := func(id string, img snapshot.Image, changes map[string]string) *snapshot.Snapshot {
		return &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: id, System: "shop", Complete: true},
			System: snapshot.System{Name: "shop", Images: []snapshot.Image{img}, Containers: []snapshot.Container{{
				ID: "id", Name: "shop-db", Image: img.Tags[0], ImageKey: img.Config, State: "running", Inspect: []byte(`{}`), Changes: b.tree(true, files(t, changes)),
			}}},
		}
	}
	before, now := make("11111111111111111111", base, changed), make("22222222222222222222", away, map[string]string{"etc/x": "2"})
	repo := b.commit()
	f := newFake(t)
	_, err := importer.Restore(t.Context(), repo, before, f, quick)
	ok(t, err)
	for id := range f.containers {
		files(t, changed)(filepath.Join(f.root, id))
	}
	o := homewards
	o.Had = before
	r, err := importer.Restore(t.Context(), repo, now, f, o)
	ok(t, err)
	if r.Fetched > 1<<20+20_000 || r.Local != 1<<20 {
		t.Errorf("%d bytes fetched, %d were here", r.Fetched, r.Local)
	}
}

// An engine that takes no archive which leaves out a layer that it has is sent the one that it has. One that is not what it
// should be is fetched.
func TestEnginesOwnLayers(t *testing.T) {
	needRoot(t)
	b := newBuilder(t)
	program := b.layer(entry{name: "app", data: noise(7, 1<<20), mode: 0o755})
	base := b.image("app:1", map[string]any{"Cmd": []string{"/app"}}, program)
	newer := b.image("app:2", map[string]any{"Cmd": []string{"/app"}}, program, b.layer(entry{name: "more", data: "more\n", mode: 0o644}))
	make := func(id string, img snapshot.Image) *snapshot.Snapshot {
		return &snapshot.Snapshot{
			Summary: snapshot.Summary{ID: id, System: "shop", Complete: true},
			System: snapshot.System{Name: "shop", Images: []snapshot.Image{img}, Containers: []snapshot.Container{{
				ID: "id", Name: "shop-db", Image: img.Tags[0], ImageKey: img.Config, State: "running", Inspect: []byte(`{}`),
			}}},
		}
	}
	before, now := make("11111111111111111111", base), make("22222222222222222222", newer)
	repo := b.commit()
	for name, tt := range map[string]struct {
		spoil func(f *fakeEngine)
		most  int64
	}{
		"whole":  {most: 10_000},
		"other":  {most: 2 << 20, spoil: func(f *fakeEngine) { f.content[program.DiffID] = []byte(strings.Repeat("x", int(program.Size))) }},
		"short":  {most: 2 << 20, spoil: func(f *fakeEngine) { f.content[program.DiffID] = nil }},
		"absent": {most: 2 << 20, spoil: func(f *fakeEngine) { delete(f.content, program.DiffID) }},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			_, err := importer.Restore(t.Context(), repo, before, f, quick)
			ok(t, err)
			if f.compressed = true; tt.spoil != nil {
				tt.spoil(f)
			}
			o := homewards
			o.Had = before
			r, err := importer.Restore(t.Context(), repo, now, f, o)
			ok(t, err)
			if r.Fetched > tt.most || tt.spoil == nil && r.Local < 1<<20 || digestOf(f.content[program.DiffID]) != program.DiffID {
				t.Errorf("%d bytes fetched, %d were here; %v", r.Fetched, r.Local, r.Notes)
			}
		})
	}
}

// A first sync at home fetches no more, and leaves the system there as it is.
func TestStageNearHome(t *testing.T) {
	if testing.Short() {
		t.Skip("nothing is at once here that is not in a restore")
	}
	repo, before, now, bind := away(t)
	f := atHome(t, repo, before)
	volume := filepath.Join(f.root, "shop_data")
	untouched := listing(t, volume) + listing(t, bind)
	dir := t.TempDir()
	r, err := importer.SyncStage(t.Context(), repo, now, f, importer.StageOptions{Dir: dir, Had: before})
	ok(t, err)
	if r.Fetched > 3<<20 || r.Local < 7<<20 {
		t.Errorf("%d bytes fetched, %d were here", r.Fetched, r.Local)
	}
	if diff := cmp.Diff(untouched, listing(t, volume)+listing(t, bind)); diff != "" {
		t.Errorf("home (-want +got):\n%s", diff)
	}
	o := homewards
	o.Had, o.Stage = before, dir
	res, err := importer.Restore(t.Context(), repo, now, f, o)
	ok(t, err)
	if res.Fetched > 100 || !strings.Contains(listing(t, volume), "written at the stand-in") {
		t.Errorf("%d bytes fetched after the sync", res.Fetched)
	}
}
