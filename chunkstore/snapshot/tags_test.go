package snapshot_test

import (
	"context"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
)

func TestTagChange(t *testing.T) {
	none := []string{}
	for what, tt := range map[string]struct {
		change snapshot.TagChange
		want   string
	}{
		"add":     {snapshot.TagChange{Add: []string{"c", "a", "c"}}, "a b c"},
		"remove":  {snapshot.TagChange{Remove: []string{"a", "x"}}, "b"},
		"set":     {snapshot.TagChange{Set: &[]string{"z", "y", "z"}}, "z y"},
		"none":    {snapshot.TagChange{Set: &none}, ""},
		"all":     {snapshot.TagChange{Set: &[]string{"x", "y"}, Remove: []string{"y"}, Add: []string{"y"}}, "x y"},
		"nothing": {snapshot.TagChange{}, "a b"},
	} {
		if got := strings.Join(tt.change.Apply([]string{"a", "b"}), " "); got != tt.want {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
}

func tags(t *testing.T, repo *chunkstore.Repository) string {
	t.Helper()
	return strings.Join(catalog(t, repo).Snapshots[0].Tags, " ")
}

func tag(t *testing.T, cat *snapshot.Catalog, change snapshot.TagChange) {
	t.Helper()
	if _, err := cat.Tag(t.Context(), "test", cat.Snapshots[0], change); err != nil {
		t.Fatal(err)
	}
}

// Tags come one after the other, at a copy of the repository too, of which the clock says nothing about their order;
// of two hosts that tag at once one has it, whole.
func TestTags(t *testing.T) {
	b := mem.New(mem.Options{})
	repo := newRepository(t, b)
	shopNight(t, repo, 1, 0)
	for _, add := range []string{"one", "two", "three"} {
		tag(t, catalog(t, repo), snapshot.TagChange{Add: []string{add}})
	}
	tag(t, catalog(t, repo), snapshot.TagChange{Remove: []string{"two"}})
	to := mem.New(mem.Options{})
	if _, err := chunkstore.Sync(t.Context(), b, to, chunkstore.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	copied, err := chunkstore.Open(t.Context(), to, crypto.Passphrase([]byte("correct horse")), chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]*chunkstore.Repository{"here": repo, "at a copy": copied} {
		if got := tags(t, r); got != "one three" {
			t.Errorf("%s: %q", what, got)
		}
	}
	first, second := catalog(t, repo), catalog(t, repo)
	tag(t, first, snapshot.TagChange{Add: []string{"first"}})
	tag(t, second, snapshot.TagChange{Add: []string{"second"}})
	if got := tags(t, repo); got != "one three second" && got != "one three first" {
		t.Errorf("two at once: %q", got)
	}
	tag(t, catalog(t, repo), snapshot.TagChange{Set: &[]string{}})
	if got := tags(t, repo); got != "" {
		t.Errorf("after both: %q", got)
	}
	if _, err := catalog(t, repo).Tag(t.Context(), "test", snapshot.Summary{ID: "00"}, snapshot.TagChange{}); err == nil {
		t.Error("a snapshot that is not there was tagged")
	}
}

// What records say of snapshots and systems is the same after they were sealed anew, and later ones go on from there.
func TestRecordsSealedAnew(t *testing.T) {
	b, secret := mem.New(mem.Options{}), crypto.Passphrase([]byte("correct horse"))
	repo := newRepository(t, b)
	shopNight(t, repo, 1, 0)
	if err := repo.AddRecord(t.Context(), "drill", map[string]any{"system": "shop", "started": time.Unix(1e9, 0), "rto": time.Minute, "passed": true}); err != nil {
		t.Fatal(err)
	}
	first, second := catalog(t, repo), catalog(t, repo) // who tags at once
	tag(t, second, snapshot.TagChange{Add: []string{"first"}})
	tag(t, first, snapshot.TagChange{Add: []string{"second"}})
	before := catalog(t, repo)
	status := func(c *snapshot.Catalog) []snapshot.Status {
		list, err := c.Statuses(t.Context(), time.Unix(2e9, 0))
		if err != nil || len(list) != 1 || list[0].Drill == nil {
			t.Fatalf("%+v, %v", list, err)
		}
		return list
	}
	want := status(before)
	if _, err := chunkstore.RotateKeys(t.Context(), b, secret, chunkstore.RotateOptions{}); err != nil {
		t.Fatal(err)
	}
	repo, err := chunkstore.Open(t.Context(), b, secret, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	report, err := repo.Collect(t.Context(), chunkstore.CollectOptions{Host: "test", MaxReencrypt: -1, Walk: func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		return func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
			return func(func(chunkstore.Ref, error) bool) {}
		}
	}})
	if err != nil || report.Resealed != 4 {
		t.Fatalf("%+v, %v", report, err)
	}
	after := catalog(t, repo)
	if diff := cmp.Diff(before.Snapshots, after.Snapshots); diff != "" || len(after.Untold)+len(after.Damaged) > 0 {
		t.Errorf("%s %v %v", diff, after.Untold, after.Damaged)
	}
	if diff := cmp.Diff(want, status(after)); diff != "" {
		t.Error(diff)
	}
	tag(t, after, snapshot.TagChange{Set: &[]string{"last"}})
	if got := tags(t, repo); got != "last" {
		t.Errorf("a tag that replaces records from before: %q", got)
	}
}

// A record that cannot be read is told of, and hides neither snapshots nor other tags.
func TestDamagedTag(t *testing.T) {
	b := mem.New(mem.Options{})
	repo := newRepository(t, b)
	shopNight(t, repo, 1, 0)
	tag(t, catalog(t, repo), snapshot.TagChange{Add: []string{"kept"}})
	if err := b.Put(t.Context(), "r/0011223344556677/00112233445566778899aabbccddeeff", []byte("x")); err != nil {
		t.Fatal(err)
	}
	cat := catalog(t, repo)
	if diff := cmp.Diff([]string{"kept"}, cat.Snapshots[0].Tags); diff != "" || len(cat.Untold) != 1 || len(cat.Damaged) > 0 {
		t.Errorf("%+v (-want +got):\n%s", cat, diff)
	}
}
