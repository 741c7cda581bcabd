package crypto_test

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

// FuzzOpen: whatever the bytes of an object and the range, nothing panics, and nothing opens but what
// was sealed.
func FuzzOpen(f *testing.F) {
	k := vectorKeys(f, 2)
	sealed := make(map[string][]byte) // object to plaintext
	for _, n := range []int{1, 100, pkg, pkg + 1} {
		object, err := crypto.SealWith(k, counting(), crypto.TypeDataPack, "name", pattern(n))
		if err != nil {
			f.Fatal(err)
		}
		sealed[string(object)] = pattern(n)
		f.Add(object, int64(n), int64(n-1), int64(1))
		f.Add(object[:len(object)-1], int64(n), int64(0), int64(n))
	}
	f.Add([]byte("HAKO"), int64(1), int64(0), int64(1))
	f.Add(make([]byte, crypto.HeaderSize+1), int64(-1), int64(1), int64(1)<<62)
	f.Fuzz(func(t *testing.T, object []byte, plainSize, off, n int64) {
		var plain []byte
		var err error
		bounded(t, 2*len(object), func() { plain, err = k.Open(crypto.TypeDataPack, "name", object) })
		if want, ok := sealed[string(object)]; ok != (err == nil) || !bytes.Equal(plain, want) {
			t.Errorf("Open gave %d bytes, error %v", len(plain), err)
		}
		if size, err := crypto.PlainSize(int64(len(object))); err == nil && crypto.SealedSize(size) != int64(len(object)) {
			t.Errorf("PlainSize(%d) = %d", len(object), size)
		}
		start, length := crypto.StoredRange(plainSize, off, n)
		if length < 0 || start < 0 || start+length > crypto.SealedSize(max(plainSize, 1)) {
			t.Fatalf("StoredRange(%d, %d, %d) = %d, %d", plainSize, off, n, start, length)
		}
		if start+length > int64(len(object)) || len(object) < crypto.HeaderSize {
			return
		}
		bounded(t, 2*len(object), func() {
			plain, err = k.OpenRange(crypto.TypeDataPack, "name", object[:crypto.HeaderSize], plainSize, off, n, object[start:start+length])
		})
		if err == nil && !bytes.Equal(plain, pattern(int(off + n))[off:]) {
			t.Errorf("OpenRange(%d, %d, %d) gave %d bytes that were never sealed", plainSize, off, n, len(plain))
		}
	})
}

// bounded fails if parse allocates more than n bytes, and what ciphers and readers of JSON take however short a text is. What others
// allocate meanwhile is not there each time.
func bounded(t *testing.T, n int, parse func()) {
	t.Helper()
	least, limit := uint64(math.MaxUint64), uint64(n+256<<10)
	for attempt := 0; attempt < 5 && least > limit; attempt++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		parse()
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least > limit {
		t.Errorf("%d bytes allocated, want at most %d", least, limit)
	}
}

// FuzzOpenSlot: whatever the bytes of a slot, nothing panics, and nothing opens but what was sealed.
// Argon2id is left out: an input of the fuzzer may ask for 4 GiB, and rightly get them.
func FuzzOpenSlot(f *testing.F) {
	secrets := goldenSecrets(f)
	delete(secrets, "passphrase")
	known := make(map[string]bool)
	for _, name := range []string{"passphrase.slot", "keyfile.slot", "age.slot"} {
		slot := golden(f, name)
		known[string(slot)] = true
		f.Add(slot)
	}
	f.Add([]byte(`{"hakobune":"key slot","version":2}`))
	f.Add([]byte(`{"hakobune":"key slot","version":1,"kind":"keyfile","box":"` + strings.Repeat("A", 100_000) + `"}`))
	f.Add([]byte(`{"hakobune":"key slot","version":1,"kind":"age","age":"` + strings.Repeat(`\n`, 100_000) + `"}`))
	f.Add(make([]byte, 2<<20))
	f.Add([]byte(`{"hakobune":"key slot","version":1,"kind":"age","age":"` + strings.Repeat("<", 100_000) + `"}`))
	f.Add([]byte(`{"hakobune":"key slot","version":1,"kind":"age","age":"-----BEGIN AGE ENCRYPTED FILE-----\n` + strings.Repeat("AAAA", 10_000) + `\n-----END AGE ENCRYPTED FILE-----\n"}`))
	f.Add([]byte(`{"hakobune":"` + strings.Repeat("A", 50_000) + `"}`))
	f.Add([]byte(strings.Repeat(`{"kdf":`, 5000)))
	f.Add([]byte(`{"hakobune":"key slot","version":1,"kind":"passphrase","kdf":null}`))
	f.Add([]byte(`{"hakobune":"key slot","version":1,"kind":"age","age":"-----BEGIN AGE ENCRYPTED FILE-----\n"}`))
	f.Fuzz(func(t *testing.T, slot []byte) {
		var info crypto.SlotInfo
		var infoErr error
		bounded(t, 5*len(slot), func() { info, infoErr = crypto.ReadSlotInfo(slot) }) // JSON, encoded again to compare
		for kind, secret := range secrets {
			var p crypto.Payload
			var opened crypto.SlotInfo
			var err error
			bounded(t, 16*len(slot), func() { p, opened, err = crypto.OpenSlot(slot, secret) }) // decoded, deciphered, and encoded again
			switch {
			case err == nil && (!known[string(slot)] || opened != info || info.Kind != kind):
				t.Errorf("%s: a slot that nobody sealed opened as %v, %+v", kind, p, opened)
			case err == nil:
			case !errors.Is(err, crypto.ErrDamaged) && !errors.Is(err, crypto.ErrWrongKey) && !errors.Is(err, crypto.ErrNewer):
				t.Errorf("%s: error of no kind: %v", kind, err)
			case errors.Is(err, crypto.ErrWrongKey) && infoErr != nil:
				t.Errorf("%s: a broken slot was tried: %v", kind, err)
			}
		}
	})
}
