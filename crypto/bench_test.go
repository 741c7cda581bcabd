package crypto_test

import (
	"fmt"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

const packSize = 32 << 20

func BenchmarkSeal(b *testing.B) {
	k, plain := newKeys(b), pattern(packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		seal(b, k, plain)
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKeys(b)
	object := seal(b, k, pattern(packSize))
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open(crypto.TypeDataPack, "name", object); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenRange(b *testing.B) {
	k := newKeys(b)
	object := seal(b, k, pattern(packSize))
	const off, n = 10<<20 + 1000, 3 << 19 // an average chunk
	start, length := crypto.StoredRange(packSize, off, n)
	b.SetBytes(n)
	b.ReportAllocs()
	for b.Loop() {
		_, err := k.OpenRange(crypto.TypeDataPack, "name", object[:crypto.HeaderSize], packSize, off, n, object[start:start+length])
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChunkID(b *testing.B) {
	k := newKeys(b)
	for _, n := range []int{512, 3 << 19} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			plain := pattern(n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				k.ChunkID(plain)
			}
		})
	}
}
