package chunkstore

// Internal tests: that the cuts are the library's is not to be seen from outside.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/restic/chunker"
)

// pseudoPol returns a polynomial as a repository has one, by seed.
func pseudoPol(t testing.TB, seed byte) chunker.Pol {
	t.Helper()
	pol, err := chunker.DerivePolynomial(rand.NewChaCha8([32]byte{seed}))
	if err != nil {
		t.Fatal(err)
	}
	return pol
}

func pseudoRabin(t testing.TB, pol chunker.Pol) *rabin {
	t.Helper()
	r := newRabin(pol)
	if r == nil {
		t.Fatalf("the trial run with polynomial %v did not end in the library's cuts", pol)
	}
	return r
}

// oracle returns the chunks that the library makes of r's bytes.
func oracle(r io.Reader, pol chunker.Pol, p ChunkerParams) ([][]byte, error) {
	cut := chunker.New(r, pol, chunker.WithBoundaries(uint(p.Min), uint(p.Max)), chunker.WithAverageBits(int(p.Bits)))
	var chunks [][]byte
	for {
		c, err := cut.Next(nil)
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, c.Data)
	}
}

// cutReader returns copies of the chunks that a cutter makes of r's bytes.
func cutReader(r io.Reader, s scanner, p ChunkerParams) ([][]byte, error) {
	cut := newCutter(r, s, int(p.Max))
	defer cut.close()
	var chunks [][]byte
	for {
		b, err := cut.next()
		if err != nil {
			return chunks, err
		}
		chunks = append(chunks, bytes.Clone(b))
	}
}

// sameChunks compares chunks with what the library makes of content.
func sameChunks(t *testing.T, what string, got, want [][]byte) {
	t.Helper()
	for i := range want {
		switch {
		case i >= len(got):
			t.Fatalf("%s: %d chunks, the library makes %d", what, len(got), len(want))
		case !bytes.Equal(got[i], want[i]):
			t.Fatalf("%s: chunk %d has %d bytes, the library's %d", what, i, len(got[i]), len(want[i]))
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d chunks, the library makes %d", what, len(got), len(want))
	}
}

// pieces gives r's bytes in pieces of many lengths, none at all among them.
type pieces struct {
	r   io.Reader
	rng *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) {
	return p.r.Read(b[:min(len(b), p.rng.IntN(1<<p.rng.IntN(16)))])
}

// readers are ways to give the same bytes.
var readers = map[string]func(io.Reader) io.Reader{
	"whole":         func(r io.Reader) io.Reader { return r },
	"halves":        iotest.HalfReader,
	"end with data": iotest.DataErrReader,
	"pieces":        func(r io.Reader) io.Reader { return pieces{r, rand.New(rand.NewPCG(3, 4))} },
}

// contents are kinds of content: functions that make n bytes of them.
var contents = map[string]func(n int) []byte{
	"noise":          pseudoRandom,
	"zeros":          func(n int) []byte { return make([]byte, n) },
	"ones":           func(n int) []byte { return repeat([]byte{0xff}, n) },
	"period of 3":    func(n int) []byte { return repeat([]byte("abc"), n) },
	"period of 64":   func(n int) []byte { return repeat(pseudoRandom(64), n) },
	"period of 1000": func(n int) []byte { return repeat(pseudoRandom(1000), n) },
	"mixed":          func(n int) []byte { return repeat(append(make([]byte, 3000), pseudoRandom(5000)...), n) },
	"text": func(n int) []byte {
		var b bytes.Buffer
		for i := 0; b.Len() < n; i++ {
			fmt.Fprintf(&b, "line %d of a log that says little: %x\n", i, i*i)
		}
		return b.Bytes()[:n]
	},
}

func pseudoRandom(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{7}).Read(b)
	return b
}

func repeat(b []byte, n int) []byte { return bytes.Repeat(b, n/len(b)+1)[:n] }

// TestCuts compares every scanner's chunks with those of the library, however the bytes come.
func TestCuts(t *testing.T) {
	size := 200_000
	if testing.Short() { // under the race detector; nothing runs at once here
		size = 30_000
	}
	for i, p := range []ChunkerParams{
		{Min: 65, Bits: 5, Max: 1 << 10},
		{Min: 66, Bits: 1, Max: 70},
		{Min: 300, Bits: 8, Max: 300},
		{Min: 1000, Bits: 10, Max: 7001},
		{Min: 4 << 10, Bits: 13, Max: 100_000},
		{Min: 64 << 10, Bits: 24, Max: 64<<10 + 4*blockSize},
		metaChunker,
	} {
		pol := pseudoPol(t, byte(i))
		lanes := pseudoRabin(t, pol)
		for name, content := range contents {
			content := content(size)
			want, err := oracle(bytes.NewReader(content), pol, p)
			if err != io.EOF {
				t.Fatal(err)
			}
			for how, reader := range readers {
				for which, s := range map[string]scanner{"lanes": lanes.scanner(p), "library": newLibraryScanner(pol, p)} {
					got, err := cutReader(reader(bytes.NewReader(content)), s, p)
					if err != io.EOF {
						t.Fatal(err)
					}
					sameChunks(t, fmt.Sprintf("%+v, %s read as %s, by %s", p, name, how, which), got, want)
				}
			}
		}
	}
}

// TestCutsOfLengths has contents end at and beside every place where the library does something else.
func TestCutsOfLengths(t *testing.T) {
	p := ChunkerParams{Min: 2000, Bits: 12, Max: 2000 + 3*blockSize}
	pol := pseudoPol(t, 20)
	s := pseudoRabin(t, pol).scanner(p)
	for name, content := range contents {
		content := content(80_000)
		for _, at := range []int{0, windowSize, 2000 - windowSize, 2000, 2000 + laneSize, 2000 + blockSize, 2000 + 2*blockSize, int(p.Max), 2 * int(p.Max)} {
			for n := max(0, at-2); n <= at+2; n++ {
				want, _ := oracle(bytes.NewReader(content[:n]), pol, p)
				got, err := cutReader(bytes.NewReader(content[:n]), s, p)
				if err != io.EOF {
					t.Fatal(err)
				}
				sameChunks(t, fmt.Sprintf("%d bytes of %s", n, name), got, want)
			}
		}
	}
}

// TestCutsByDefault takes as much content as lets chunks of contents end by the fingerprint and by their length.
func TestCutsByDefault(t *testing.T) {
	pol := pseudoPol(t, 30)
	s := pseudoRabin(t, pol).scanner(defaultChunker)
	names := []string{"noise", "ones", "text"}
	if testing.Short() {
		names = names[:1]
	}
	for _, name := range names {
		content := contents[name](17 << 20)
		want, _ := oracle(bytes.NewReader(content), pol, defaultChunker)
		got, err := cutReader(bytes.NewReader(content), s, defaultChunker)
		if err != io.EOF {
			t.Fatal(err)
		}
		sameChunks(t, name, got, want)
	}
}

func FuzzCuts(f *testing.F) {
	f.Add([]byte("abc"), byte(1), uint16(65), byte(5), uint16(1000), uint16(20_000), uint16(100))
	f.Add([]byte("abcdefg"), byte(1), uint16(65), byte(5), uint16(1000), uint16(20_000), uint16(0))
	f.Add(make([]byte, 3000), byte(2), uint16(1000), byte(10), uint16(9000), uint16(0), uint16(1))
	f.Add(pseudoRandom(5000), byte(3), uint16(256), byte(11), uint16(60_000), uint16(9000), uint16(0))
	var pols [4]chunker.Pol
	var tables [len(pols)]*rabin
	for i := range pols {
		pols[i] = pseudoPol(f, byte(i))
		tables[i] = pseudoRabin(f, pols[i])
	}
	f.Fuzz(func(t *testing.T, content []byte, seed byte, least uint16, bits byte, more, length, piece uint16) {
		p := ChunkerParams{Min: uint32(max(least, windowSize+1)), Bits: bits % 25}
		p.Max = p.Min + uint32(more)
		if n := int(length); len(content) > 0 && n > len(content) {
			content = repeat(content, n)
		}
		which := int(seed) % len(pols)
		want, _ := oracle(bytes.NewReader(content), pols[which], p)
		got, err := cutReader(&fixedPieces{bytes.NewReader(content), int(piece) + 1}, tables[which].scanner(p), p)
		if err != io.EOF {
			t.Fatal(err)
		}
		sameChunks(t, fmt.Sprintf("%+v", p), got, want)
	})
}

// fixedPieces gives n bytes at a time.
type fixedPieces struct {
	r io.Reader
	n int
}

func (p *fixedPieces) Read(b []byte) (int, error) { return p.r.Read(b[:min(len(b), p.n)]) }

// TestCutterError takes no error but io.EOF itself for the end, and makes no chunk of what came since the last cut.
func TestCutterError(t *testing.T) {
	p := ChunkerParams{Min: 1000, Bits: 24, Max: 2000}
	s := pseudoRabin(t, pseudoPol(t, 40)).scanner(p)
	content := contents["ones"](2500)
	for _, failure := range []error{errors.New("disk"), io.ErrUnexpectedEOF, fmt.Errorf("connection: %w", io.EOF)} {
		for name, r := range map[string]io.Reader{
			"after": io.MultiReader(bytes.NewReader(content), iotest.ErrReader(failure)),
			"with":  iotest.DataErrReader(io.MultiReader(bytes.NewReader(content), iotest.ErrReader(failure))),
		} {
			chunks, err := cutReader(r, s, p)
			if err != failure || len(chunks) != 1 || len(chunks[0]) != 2000 {
				t.Errorf("%q %s the data: %d chunks, error %v", failure, name, len(chunks), err)
			}
		}
	}
}

// TestCutterDoesNotWait reads nothing more where what it has holds a cut.
func TestCutterDoesNotWait(t *testing.T) {
	s := pseudoRabin(t, pseudoPol(t, 50)).scanner(metaChunker)
	zeros := make([]byte, metaChunker.Min) // every window of zeros is a cut
	cut := newCutter(io.MultiReader(bytes.NewReader(zeros), iotest.ErrReader(errors.New("read on"))), s, int(metaChunker.Max))
	defer cut.close()
	if b, err := cut.next(); err != nil || len(b) != len(zeros) {
		t.Fatalf("chunk of %d bytes, error %v", len(b), err)
	}
}

// TestCutterMemory has a cutter hold little for little, and for much its bound.
func TestCutterMemory(t *testing.T) {
	s := pseudoRabin(t, pseudoPol(t, 60)).scanner(defaultChunker)
	for _, tt := range []struct{ content, most int }{{200 << 10, 256 << 10}, {400 << 10, 512 << 10}, {40 << 20, int(defaultChunker.Max) + 1<<20}} {
		cut := newCutter(bytes.NewReader(contents["ones"](tt.content)), s, int(defaultChunker.Max))
		cut.buf = make([]byte, 256<<10) // whatever the pool has
		var err error
		for err == nil {
			_, err = cut.next()
		}
		if err != io.EOF || len(cut.buf) > tt.most {
			t.Errorf("%d bytes: buffer of %d, at most %d wanted; error %v", tt.content, len(cut.buf), tt.most, err)
		}
		cut.close()
	}
}

// TestRabinFallsBack gives no tables where they could not make the library's cuts.
func TestRabinFallsBack(t *testing.T) {
	if newRabin(0x11b) != nil {
		t.Error("tables for a polynomial of degree 8")
	}
	pol := pseudoPol(t, 70)
	r := *pseudoRabin(t, pol)
	r.out[100] ^= 1 << 5
	if r.agrees(pol) {
		t.Error("a wrong table passed the trial run")
	}
	if _, ok := (cuts{pol: pol}).scanner(metaChunker).(libraryScanner); !ok {
		t.Error("a repository without tables does not use the library")
	}
}

// benchmarkScan finds the cuts of noise, by the parameters of this program's contents and of restic's.
func benchmarkScan(b *testing.B, scan func(chunker.Pol, ChunkerParams) scanner) {
	content := pseudoRandom(64 << 20)
	for _, p := range []ChunkerParams{defaultChunker, {Min: 512 << 10, Bits: 20, Max: 8 << 20}, metaChunker} {
		b.Run(fmt.Sprintf("min=%dK/bits=%d", p.Min>>10, p.Bits), func(b *testing.B) {
			pol := pseudoPol(b, 80)
			b.SetBytes(int64(len(content)))
			for b.Loop() {
				cutAll(scan(pol, p), content)
			}
		})
	}
}

func BenchmarkScan(b *testing.B) {
	r := pseudoRabin(b, pseudoPol(b, 80))
	benchmarkScan(b, func(_ chunker.Pol, p ChunkerParams) scanner { return r.scanner(p) })
}

func BenchmarkScanLibrary(b *testing.B) {
	benchmarkScan(b, func(pol chunker.Pol, p ChunkerParams) scanner { return newLibraryScanner(pol, p) })
}
