package test_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/importer"
)

// Golden repositories: testdata/golden has one of each release, as that wrote it, with what it holds. Every later
// release must read all of them. make golden adds one, and never touches those that there are.

const goldenPassword = "ark on the water"

// goldenEnv names the repository that is to be made.
const goldenEnv = "HAKOBUNE_GOLDEN"

// golden is what is expected of a repository.
type golden struct {
	Snapshots []goldenSnapshot `json:"snapshots"` // oldest first
	Records   []string         `json:"records"`   // kinds, sorted
}

type goldenSnapshot struct {
	ID       string                       `json:"id"`
	System   string                       `json:"system"`
	Time     time.Time                    `json:"time"`
	Tags     []string                     `json:"tags"`
	Complete bool                         `json:"complete"`
	Problems []snapshot.Problem           `json:"problems"`
	Trees    map[string]map[string]string `json:"trees"`  // by part, then by path in quotes
	Layers   map[string]string            `json:"layers"` // by DiffID: what its tar has as its SHA-256
}

func TestGolden(t *testing.T) {
	dirs, err := filepath.Glob("testdata/golden/*/repository")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(filepath.Dir(dir)), func(t *testing.T) {
			raw, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "expected.json"))
			if err != nil {
				t.Fatal(err)
			}
			var want golden
			if err := json.Unmarshal(raw, &want); err != nil {
				t.Fatal(err)
			}
			repo := openGolden(t, dir)
			report, err := repo.Check(t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(repo), Data: chunkstore.Everything})
			if err != nil || len(report.Faults) > 0 || report.ReadPacks == 0 {
				t.Errorf("check: %+v, %v", report, err)
			}
			if diff := cmp.Diff(want, describeGolden(t, repo)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// What a release wrote is the same when the keys were rotated and everything was sealed anew.
func TestGoldenRewritten(t *testing.T) {
	dirs, err := filepath.Glob("testdata/golden/*/repository")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(filepath.Dir(dir)), func(t *testing.T) {
			place := filepath.Join(t.TempDir(), "repository")
			if err := os.CopyFS(place, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			want := describeGolden(t, openGolden(t, place))
			b, err := local.Open(place, local.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := chunkstore.RotateKeys(t.Context(), b, crypto.Passphrase([]byte(goldenPassword)), chunkstore.RotateOptions{DropOthers: true}); err != nil {
				t.Fatal(err)
			}
			repo := openGolden(t, place)
			report, err := repo.Collect(t.Context(), chunkstore.CollectOptions{Host: "home", MinAge: -1, MaxUnused: -1, MaxReencrypt: -1, Walk: importer.RefsOnce(repo)})
			if err != nil || report.Resealed < len(want.Snapshots)+len(want.Records) || report.Repack.Packs == 0 {
				t.Fatalf("%+v, %v", report, err)
			}
			repo = openGolden(t, place)
			if diff := cmp.Diff(want, describeGolden(t, repo)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			checked, err := repo.Check(t.Context(), chunkstore.CheckOptions{Walk: importer.Refs(repo), Data: chunkstore.Everything})
			if err != nil || len(checked.Faults) > 0 {
				t.Errorf("check: %+v, %v", checked, err)
			}
		})
	}
}

// TestGoldenMake makes a repository where make golden asks for one; otherwise one that goes again at once.
func TestGoldenMake(t *testing.T) {
	dir := t.TempDir()
	if name := os.Getenv(goldenEnv); name != "" {
		dir = filepath.Join("testdata", "golden", name)
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%s is there already: what a release wrote stays as it is (%v)", dir, err)
		}
	}
	where := filepath.Join(dir, "repository")
	if err := os.MkdirAll(where, 0o755); err != nil {
		t.Fatal(err)
	}
	makeGolden(t, where)
	text, err := json.MarshalIndent(describeGolden(t, openGolden(t, where)), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "expected.json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func openGolden(t *testing.T, dir string) *chunkstore.Repository {
	t.Helper()
	b, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := chunkstore.Open(t.Context(), b, crypto.Passphrase([]byte(goldenPassword)), chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// describeGolden reads everything.
func describeGolden(t *testing.T, repo *chunkstore.Repository) golden {
	t.Helper()
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil || len(cat.Damaged)+len(cat.Untold) > 0 {
		t.Fatalf("%+v, %v", cat, err)
	}
	var g golden
	for _, s := range slices.Backward(cat.Snapshots) {
		snap, err := cat.Load(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		d := goldenSnapshot{
			ID: s.ID, System: s.System, Time: s.Time, Tags: s.Tags, Complete: s.Complete, Problems: snap.System.Problems,
			Trees: map[string]map[string]string{}, Layers: map[string]string{},
		}
		for _, c := range snap.System.Containers {
			d.Trees["container "+c.Name] = describeTree(t, repo, c.Changes)
		}
		for _, v := range snap.System.Volumes {
			d.Trees["volume "+v.Name] = describeTree(t, repo, v.Content)
		}
		for _, i := range snap.System.Images {
			for _, l := range i.Layers {
				d.Layers[l.DiffID] = layerSum(t, repo, snap.System.Domain, l.DiffID)
			}
		}
		g.Snapshots = append(g.Snapshots, d)
	}
	records, err := repo.Records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		g.Records = append(g.Records, r.Kind)
	}
	slices.Sort(g.Records)
	return g
}

func describeTree(t *testing.T, repo *chunkstore.Repository, a *snapshot.Archive) map[string]string {
	t.Helper()
	r := archive.OpenTree(t.Context(), repo, a.Records)
	defer r.Close()
	all := map[string]string{}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Filled(e)); err != nil {
			t.Fatal(err)
		}
		all[fmt.Sprintf("%q", e.Path)] = fmt.Sprintf("%v %o %d:%d %d bytes at %d.%09d, device %x, link %q, attributes %q, opaque %v, torn %v, %x",
			e.Type, e.Mode, e.UID, e.GID, e.Size, e.MTime.Sec, e.MTime.Nsec, e.Rdev, e.Link, e.Xattrs, e.Opaque, e.Torn, sum.Sum(nil)[:8])
	}
}

func layerSum(t *testing.T, repo *chunkstore.Repository, d chunkstore.Domain, diffID string) string {
	t.Helper()
	r, _, err := archive.OpenLayer(t.Context(), repo, d, diffID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// handmade is a tree that says what a test wants it to.
type handmade []struct {
	archive.Entry
	content string
}

func (h handmade) Walk(_ context.Context, fn func(archive.Entry) error) error {
	for _, e := range h {
		if err := fn(e.Entry); err != nil {
			return err
		}
	}
	return nil
}

func (h handmade) Open(_ context.Context, e archive.Entry) (archive.Content, error) {
	for _, f := range h {
		if f.Path == e.Path {
			return &handmadeContent{Reader: strings.NewReader(f.content), e: f.Entry, parts: []int64{e.Size - int64(len(f.content)), int64(len(f.content))}}, nil
		}
	}
	return nil, archive.ErrVanished
}

// handmadeContent is a hole, if the file is longer than its content, and then that.
type handmadeContent struct {
	io.Reader
	e     archive.Entry
	parts []int64
}

func (c *handmadeContent) Next() (int64, bool, error) {
	for len(c.parts) > 0 {
		n, hole := c.parts[0], len(c.parts) == 2
		c.parts = c.parts[1:]
		if n > 0 {
			return n, hole, nil
		}
	}
	return 0, false, io.EOF
}

func (c *handmadeContent) Stat() (archive.Entry, error) { return c.e, nil }
func (c *handmadeContent) Close() error                 { return nil }

// goldenTree has one of everything that a record can say.
func goldenTree(night int) handmade {
	at := archive.Time{Sec: 1_700_000_000, Nsec: 123_456_789}
	file := func(path, content string, hole int64, change func(*archive.Entry)) struct {
		archive.Entry
		content string
	} {
		e := archive.Entry{Path: path, Type: archive.File, Mode: 0o640, UID: 1000, GID: 2000, MTime: at, CTime: at, Size: hole + int64(len(content)), Nlink: 1}
		if change != nil {
			change(&e)
		}
		return struct {
			archive.Entry
			content string
		}{e, content}
	}
	other := func(e archive.Entry) struct {
		archive.Entry
		content string
	} {
		e.MTime = at
		return struct {
			archive.Entry
			content string
		}{Entry: e}
	}
	linked := func(e *archive.Entry) { e.Nlink, e.Ino, e.Dev = 2, 77, 1 }
	bundled := strings.Repeat(fmt.Sprintf("bundled on night %d\n", night), 60)
	return handmade{
		other(archive.Entry{Path: "", Type: archive.Dir, Mode: 0o755}),
		other(archive.Entry{Path: "before", Type: archive.Dir, Mode: 0o700, Opaque: true}),
		file("before/inline", fmt.Sprintf("night %d", night), 0, nil),
		file("before/second", bundled, 0, linked),
		other(archive.Entry{Path: "block", Type: archive.BlockDevice, Mode: 0o660, Rdev: 8 << 8}),
		file("bundled", bundled, 0, linked),
		file("capable", "caps", 0, func(e *archive.Entry) {
			e.Mode, e.Xattrs = 0o4755, []archive.Xattr{{Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 4, 0, 0}}, {Name: "user.note", Value: []byte("\x00\xff")}}
		}),
		other(archive.Entry{Path: "char", Type: archive.CharDevice, Mode: 0o666, Rdev: 1<<8 | 3}),
		file("empty", "", 0, nil),
		other(archive.Entry{Path: "fifo", Type: archive.FIFO, Mode: 0o600}),
		file("large", strings.Repeat("The animals went in two by two. ", 6000), 0, nil),
		file("old", "x", 0, func(e *archive.Entry) { e.MTime = archive.Time{Sec: -86400, Nsec: 5} }),
		other(archive.Entry{Path: "socket", Type: archive.Socket, Mode: 0o755}),
		file("sparse", strings.Repeat("end ", 200), 1<<20, nil),
		other(archive.Entry{Path: "sym", Type: archive.Symlink, Mode: 0o777, Link: "../else\xffwhere"}),
		other(archive.Entry{Path: "white", Type: archive.Whiteout}),
		file("\xfeodd \n", "odd", 0, nil),
	}
}

// makeGolden makes a repository with all kinds of objects: three nights of a system, the first one forgotten and
// collected, tags, a record, and a claim; and one of a put-only host.
func makeGolden(t *testing.T, dir string) {
	t.Helper()
	b, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	secret := crypto.Passphrase([]byte(goldenPassword))
	if _, err := chunkstore.Init(t.Context(), b, secret, crypto.SlotInfo{Label: "golden"}, crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	repo, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for night := range 3 {
		goldenNight(t, repo, night)
	}
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	oldest := cat.Snapshots[len(cat.Snapshots)-1]
	if err := cat.Forget(t.Context(), "home", []snapshot.Summary{oldest}); err != nil {
		t.Fatal(err)
	}
	if _, err := cat.Tag(t.Context(), "home", cat.Snapshots[0], snapshot.TagChange{Add: []string{"later"}}); err != nil {
		t.Fatal(err)
	}
	if err := repo.AddRecord(t.Context(), "golden", map[string]int{"nights": 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := cat.Claim(t.Context(), snapshot.Term{System: "shop", Site: snapshot.Site{Name: "home"}, Why: snapshot.WhyHandover, Host: "home"}); err != nil {
		t.Fatal(err)
	}
	_, text, err := repo.AddHost(t.Context(), "db1", []string{"shop"}, false)
	if err != nil {
		t.Fatal(err)
	}
	credential, err := crypto.ParseCredential(text)
	if err != nil {
		t.Fatal(err)
	}
	host, err := chunkstore.OpenHost(t.Context(), b, credential, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	goldenNight(t, host, 3)
	o := chunkstore.CollectOptions{Host: "home", MinAge: -1, MaxUnused: 0, Walk: func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		return importer.Refs(repo)
	}}
	if _, err := repo.Collect(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func goldenNight(t *testing.T, repo *chunkstore.Repository, night int) {
	t.Helper()
	s, err := repo.Begin(t.Context(), chunkstore.BeginOptions{Host: "home", Program: "golden"})
	if err != nil {
		t.Fatal(err)
	}
	layer, diffID := goldenLayer(t)
	if _, err := archive.SaveLayer(t.Context(), s, diffID, bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	tree := func() *snapshot.Archive {
		w := s.NewStream(t.Context())
		stats, err := archive.WriteTree(t.Context(), goldenTree(night), s, w, archive.TreeOptions{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := w.Finish()
		if err != nil {
			t.Fatal(err)
		}
		return &snapshot.Archive{Records: st, Entries: stats.Entries, Bytes: stats.Bytes}
	}
	snap := &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Host: "home", Time: time.Date(2026, 11, 1+night, 2, 0, 0, 0, time.UTC), Tags: []string{"nightly"}, Complete: night != 1, Program: "golden"},
		System: snapshot.System{
			Name:       "shop",
			Containers: []snapshot.Container{{Name: "web", Image: "shop:1", Changes: tree()}},
			Volumes:    []snapshot.Volume{{Name: "db", Content: tree()}},
			Images:     []snapshot.Image{{Tags: []string{"shop:1"}, Layers: []snapshot.Layer{{DiffID: diffID, Size: int64(len(layer))}}}},
		},
	}
	if night == 1 {
		snap.System.Problems = []snapshot.Problem{{Where: "volume db: busy", What: "cannot be read"}}
	}
	if err := snapshot.Commit(t.Context(), s, snap); err != nil {
		t.Fatal(err)
	}
}

// goldenLayer makes a layer and its DiffID.
func goldenLayer(t *testing.T) ([]byte, string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range map[string]string{"bin/shop": strings.Repeat("#!/bin/shop\n", 500)} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Format: tar.FormatPAX, ModTime: time.Unix(1_600_000_000, 5)}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), fmt.Sprintf("sha256:%x", sha256.Sum256(b.Bytes()))
}
