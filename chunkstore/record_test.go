package chunkstore_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
)

func records(t *testing.T, r *chunkstore.Repository) []chunkstore.Record {
	t.Helper()
	all, err := r.Records(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func addRecord(t *testing.T, r *chunkstore.Repository, kind string, body any) {
	t.Helper()
	if err := r.AddRecord(t.Context(), kind, body); err != nil {
		t.Fatal(err)
	}
}

// What is recorded comes back in order, from the store and from the cache, at the place itself and at a copy of it.
func TestRecords(t *testing.T) {
	b, opts := mem.New(mem.Options{}), chunkstore.Options{StateDir: t.TempDir(), CacheDir: t.TempDir()}
	r := newRepository(t, b, opts)
	if got := records(t, r); len(got) != 0 {
		t.Errorf("%d records in a new repository", len(got))
	}
	addRecord(t, r, "drill", map[string]string{"system": "shop"})
	addRecord(t, r, "failover", map[string]int{"term": 7})
	to := mem.New(mem.Options{})
	if _, err := chunkstore.Sync(t.Context(), b, to, chunkstore.SyncOptions{}); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]*chunkstore.Repository{
		"again": r, "anew": reopen(t, b, opts), "without a cache": reopen(t, b, chunkstore.Options{}), "a copy": reopen(t, to, chunkstore.Options{}),
	} {
		var got []string
		for _, record := range records(t, r) {
			if record.Err != nil || record.Time.IsZero() || record.Modified.IsZero() || record.Writer == (crypto.WriterID{}) {
				t.Errorf("%s: %+v", what, record)
			}
			got = append(got, record.Kind+" "+string(record.Body))
		}
		if what == "a copy" { // where the store's times are those of the copying
			slices.Sort(got)
		}
		if diff := cmp.Diff([]string{`drill {"system":"shop"}`, `failover {"term":7}`}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	wantClean(t, reopen(t, b, chunkstore.Options{}))
	for _, name := range namesUnder(t, b, "r/") {
		if bytes.Contains(object(t, b, name), []byte("shop")) {
			t.Errorf("%s can be read by everybody", name)
		}
	}
}

func TestRecordTooLarge(t *testing.T) {
	b := mem.New(mem.Options{})
	r := newRepository(t, b, chunkstore.Options{})
	if err := r.AddRecord(t.Context(), "drill", strings.Repeat("x", 1<<20)); err == nil || len(namesUnder(t, b, "r/")) > 0 {
		t.Errorf("a record of more than 1 MiB: %v, stored %v", err, namesUnder(t, b, "r/"))
	}
}

// A record that is not what a writer wrote under that name is told of, and hides no other.
func TestForgedRecords(t *testing.T) {
	const name, text = "r/00112233445566ff/00112233445566778899aabbccddeeff", `{"version":1,"kind":"drill","time":"2026-11-20T02:00:00Z","body":{}}`
	whole := mem.New(mem.Options{})
	r := newRepository(t, whole, chunkstore.Options{})
	addRecord(t, r, "drill", 1)
	good := namesUnder(t, whole, "r/")[0]
	if err := chunkstore.PutRecord(t.Context(), r, name, text, true); err != nil {
		t.Fatal(err)
	}
	record := object(t, whole, name)
	for _, got := range records(t, r) {
		if got.Err != nil {
			t.Fatal(got.Err) // such a record would count
		}
	}
	forged := map[string][]byte{
		"cut": record[:len(record)-1], "empty": nil, "another one": object(t, whole, good), "of another repository": foreignDrill(t, name, text),
	}
	for what, at := range map[string]int{"a bit of the magic": 0, "a bit of the salt": 20, "a bit of the tag": 90, "a bit of the text": len(record) - 40} {
		forged[what] = bytes.Clone(record)
		forged[what][at] ^= 1
	}
	for what, tt := range map[string]struct {
		text  string
		right bool
		want  error
	}{
		"with the tag of an outcome": {text, false, crypto.ErrDamaged},
		"no JSON":                    {"drill", true, crypto.ErrDamaged},
		"of a later version":         {strings.Replace(text, "1", "2", 1), true, crypto.ErrNewer},
	} {
		b := whole.Clone()
		if err := chunkstore.PutRecord(t.Context(), reopen(t, b, chunkstore.Options{}), name, tt.text, tt.right); err != nil {
			t.Fatal(err)
		}
		wantOneBad(t, what, b, name, tt.want)
	}
	for what, object := range forged {
		b := whole.Clone()
		if err := b.Put(t.Context(), name, object); err != nil {
			t.Fatal(err)
		}
		wantOneBad(t, what, b, name, crypto.ErrDamaged)
	}
}

// wantOneBad fails unless of two records that of the name is told to be bad, by a list and by a check.
func wantOneBad(t *testing.T, what string, b *mem.Store, name string, want error) {
	t.Helper()
	all := records(t, reopen(t, b, chunkstore.Options{CacheDir: t.TempDir()}))
	if len(all) != 2 {
		t.Fatalf("%s: %d records", what, len(all))
	}
	for _, got := range all {
		if bad := got.Name == name; bad != (got.Err != nil) || bad && !errors.Is(got.Err, want) {
			t.Errorf("%s: record %s: %v, want %v", what, got.Name, got.Err, want)
		}
	}
	if faults := check(t, reopen(t, b, chunkstore.Options{})).Faults; len(faults) != 1 || faults[0].Object != name || !errors.Is(faults[0].Err, want) {
		t.Errorf("%s: faults: %+v, want one of %s: %v", what, faults, name, want)
	}
}

// foreignDrill returns a record of the name as another repository has it.
func foreignDrill(t *testing.T, name, text string) []byte {
	t.Helper()
	b := mem.New(mem.Options{})
	if err := chunkstore.PutRecord(t.Context(), newRepository(t, b, chunkstore.Options{}), name, text, true); err != nil {
		t.Fatal(err)
	}
	return object(t, b, name)
}
