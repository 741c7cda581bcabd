package archive_test

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

func recipe(t testing.TB) []byte {
	t.Helper()
	b, err := archive.WriteRecipe([][]byte{[]byte("header"), bytes.Repeat([]byte{0}, 1000)}, [][]chunkstore.Ref{
		{{ID: id(1), Length: 5 << 20}, {ID: id(2), Offset: 300, Length: 70_000}},
		{{ID: id(1), Offset: 5 << 20, Length: 1}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRecipeGolden(t *testing.T) { golden(t, "layer-v1.hex", recipe(t)) }

// Every prefix is refused, and every flipped bit gives an error or a recipe.
func TestRecipeDamage(t *testing.T) {
	chunks := []chunkstore.ID{id(1), id(2)}
	b := recipe(t)
	if n, err := archive.ReadRecipe(b, chunks); err != nil || n != 6+1000+5<<20+70_000+1 {
		t.Fatal(n, err)
	}
	for n := range b {
		if _, err := archive.ReadRecipe(b[:n], chunks); !errors.Is(err, archive.ErrFormat) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			if _, err := archive.ReadRecipe(c, chunks); err != nil && !errors.Is(err, archive.ErrFormat) {
				t.Fatal(err)
			}
		}
	}
	if _, err := archive.ReadRecipe(append(b, 0), chunks); !errors.Is(err, archive.ErrFormat) {
		t.Error("a byte too many", err)
	}
	if _, err := archive.ReadRecipe(b, chunks[:1]); !errors.Is(err, archive.ErrFormat) {
		t.Error("a chunk that is not in the list", err)
	}
}

func FuzzRecipe(f *testing.F) {
	f.Add([]byte{})
	f.Add(recipe(f))
	// A step says to be long, and one names many pieces, in three bytes each.
	begun := recipe(f)[:8]
	f.Add(append(bytes.Clone(begun), 1, 0xff, 0xff, 0x3f, 0))
	f.Add(slices.Concat(begun, []byte{2, 0xff, 0xff, 0x3}, bytes.Repeat([]byte{0, 0, 1}, 1<<16-1), []byte{0, 0xff, 0xff, 0x3}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		archive.ReadRecipe(b, []chunkstore.ID{id(1), id(2)})
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(256<<10+2*len(b)) {
			t.Errorf("%d bytes allocated for %d bytes of input", got, len(b))
		}
		if _, err := archive.ReadRecipe(b, []chunkstore.ID{id(1), id(2)}); err != nil && !errors.Is(err, archive.ErrFormat) {
			t.Error(err)
		}
	})
}

func FuzzParseLayer(f *testing.F) {
	diffID := "sha256:" + strings.Repeat("01", 32)
	f.Add([]byte(`{"version":1,"diff_id":"` + diffID + `","size":5,"recipe":{"size":9,"depth":0,"chunks":[{"id":"` + strings.Repeat("ab", 32) + `","length":9}]},"chunks":{}}`))
	f.Add([]byte(`{"version":1,"recipe":{"chunks":[{}` + strings.Repeat(`,{}`, 10_000) + `]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := archive.ParseLayer(diffID, b)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > uint64(256<<10+2*len(b)) {
			t.Errorf("%d bytes allocated for %d bytes of input", got, len(b))
		}
		if err != nil && !errors.Is(err, archive.ErrFormat) {
			t.Error(err)
		}
	})
}
