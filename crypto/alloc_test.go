//go:build !race

package crypto_test

import (
	"runtime"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Not under the race detector, where sync.Pool drops what it is given at random.

func TestChunkIDDoesNotAllocate(t *testing.T) {
	k, plain := newKeys(t), pattern(1000)
	if n := testing.AllocsPerRun(1000, func() { k.ChunkID(plain) }); n != 0 {
		t.Errorf("%v allocations for each id", n)
	}
}

// TestOneBufferForAnObject: sealing and opening take the result and hardly more.
func TestOneBufferForAnObject(t *testing.T) {
	k := newKeys(t)
	plain := pattern(8 << 20)
	object := seal(t, k, plain)
	for what, f := range map[string]func() (int, error){
		"Seal": func() (int, error) { b, err := k.Seal(crypto.TypeDataPack, "name", plain); return len(b), err },
		"Open": func() (int, error) { b, err := k.Open(crypto.TypeDataPack, "name", object); return len(b), err },
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n, err := f()
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		if taken := after.TotalAlloc - before.TotalAlloc; taken > uint64(n)+256<<10 {
			t.Errorf("%s took %d bytes for a result of %d", what, taken, n)
		}
	}
}
