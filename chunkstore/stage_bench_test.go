package chunkstore

// The stages of the write pipeline, one by one, on one processor: what each costs in bytes of
// plaintext a second. `go test -bench Stage -cpu 1`.

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

// stageChunk is a chunk of the usual size.
const stageChunk = 3 << 19

// stageContents are what chunks hold, from what does not compress to what does well.
func stageContents() map[string][]byte {
	noise := make([]byte, stageChunk)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	var text bytes.Buffer
	rng := rand.New(rand.NewPCG(1, 2))
	for text.Len() < stageChunk {
		fmt.Fprintf(&text, "row %d of the table holds %x\n", rng.IntN(1000), rng.IntN(100))
	}
	mixed := bytes.Clone(text.Bytes()[:stageChunk])
	for off := 0; off < len(mixed); off += 64 << 10 {
		copy(mixed[off:], noise[off:off+24<<10]) // as in programs and databases
	}
	return map[string][]byte{"noise": noise, "text": text.Bytes()[:stageChunk], "mixed": mixed}
}

func stageKeys(b *testing.B) *crypto.Keys {
	b.Helper()
	keys, err := crypto.NewKeys(crypto.NewRepositoryID(), crypto.NewMaster(1))
	if err != nil {
		b.Fatal(err)
	}
	return keys
}

func stageCoder(b *testing.B) *coder {
	b.Helper()
	c, err := newCoder()
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkStageID(b *testing.B) {
	keys, plain := stageKeys(b), stageContents()["noise"]
	b.SetBytes(stageChunk)
	for b.Loop() {
		keys.ChunkID(plain)
	}
}

func BenchmarkStageCompress(b *testing.B) {
	c := stageCoder(b)
	for name, plain := range stageContents() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(stageChunk)
			var scratch []byte
			stored := 0
			for b.Loop() {
				_, encoded := c.encode(plain, &scratch)
				stored = len(encoded)
			}
			b.ReportMetric(float64(stored)/float64(len(plain)), "stored/plain")
		})
	}
}

func BenchmarkStageDecompress(b *testing.B) {
	c, keys := stageCoder(b), stageKeys(b)
	for name, plain := range stageContents() {
		b.Run(name, func(b *testing.B) {
			codec, encoded := c.encode(plain, new([]byte))
			e := packEntry{id: keys.ChunkID(plain), kind: Data, codec: codec, plain: uint32(len(plain))}
			b.SetBytes(stageChunk)
			var scratch []byte
			for b.Loop() {
				if err := c.verify(keys, e, encoded, &scratch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStagePack seals a full pack and verifies it by decoding, in bytes stored.
func BenchmarkStagePack(b *testing.B) {
	c, keys := stageCoder(b), stageKeys(b)
	for name, plain := range stageContents() {
		b.Run(name, func(b *testing.B) {
			codec, encoded := c.encode(plain, new([]byte))
			e := packEntry{id: keys.ChunkID(plain), kind: Data, codec: codec, plain: uint32(len(plain))}
			var scratch []byte
			plainBuf, sealed := make([]byte, 0, packRoom(Data)), make([]byte, 0, packRoom(Data))
			b.SetBytes(dataPackSize)
			for b.Loop() {
				p := newPackBuilder(Data, plainBuf)
				for p.fits(len(encoded)) {
					p.add(e, encoded)
				}
				if _, _, err := sealPack(keys, c, crypto.WriterID{}, p, sealed, &scratch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
