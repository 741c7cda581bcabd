package chunkstore

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/restic/chunker"

	"github.com/hakobune-dr/hakobune/crypto"
)

// scanner finds cuts.
type scanner interface {
	// next returns the length of the first chunk of b, or 0 where only more input can tell it. from says how
	// much of b an earlier call has seen, which returned 0. Once a call returned a length, the next one is
	// about the bytes after that chunk.
	next(b []byte, from int) int
}

// cuts is how a repository cuts contents.
type cuts struct {
	pol   chunker.Pol
	rabin *rabin // of pol; nil: the library finds the cuts
}

// newCuts derives the repository's chunker polynomial, which is never stored.
func newCuts(keys *crypto.Keys) (cuts, error) {
	pol, err := chunker.DerivePolynomial(keys.ChunkerSeed())
	if err != nil {
		return cuts{}, fmt.Errorf("derive the chunker polynomial: %w", err)
	}
	return cuts{pol, newRabin(pol)}, nil
}

// scanner returns a scanner for one stream: of this package, or the library's.
func (c cuts) scanner(p ChunkerParams) scanner {
	if c.rabin != nil {
		return c.rabin.scanner(p)
	}
	return newLibraryScanner(c.pol, p)
}

// libraryScanner leaves the work to restic/chunker, whose cuts are by definition the right ones.
type libraryScanner struct{ *chunker.BaseChunker }

func newLibraryScanner(pol chunker.Pol, p ChunkerParams) libraryScanner {
	return libraryScanner{chunker.NewBase(pol, chunker.WithBaseBoundaries(uint(p.Min), uint(p.Max)), chunker.WithBaseAverageBits(int(p.Bits)))}
}

func (l libraryScanner) next(b []byte, from int) int {
	if n := l.NextSplitPoint(b[from:]); n >= 0 {
		return from + n
	}
	return 0
}

// The Rabin fingerprint as restic/chunker has it: of the last 64 bytes, by a polynomial of degree 53.
const (
	windowSize = 64
	degree     = 53
)

// rabin holds the tables of one polynomial, by which the fingerprint moves on by a byte.
type rabin struct {
	mod [256]uint64 // by the fingerprint's top byte: what takes it off after a shift, and its remainder
	out [256]uint64 // by the byte that leaves the window
}

// newRabin returns the tables for pol, or nil where the library must be used: if pol has another degree than
// those that chunker.DerivePolynomial gives, and if a trial run, on this machine and with this polynomial,
// does not end in the library's cuts.
func newRabin(pol chunker.Pol) *rabin {
	if pol.Deg() != degree {
		return nil
	}
	var t rabin
	for b := range t.mod {
		top := uint64(b) << degree
		t.mod[b] = top | uint64(chunker.Pol(top).Mod(pol))
	}
	for b := range t.out {
		f := uint64(b)
		for range windowSize {
			f = t.roll(f, 0, 0)
		}
		t.out[b] = f
	}
	if !t.agrees(pol) {
		return nil
	}
	return &t
}

// agrees compares the cuts with the library's, on noise and with so few bits that there are many.
func (t *rabin) agrees(pol chunker.Pol) bool {
	noise := make([]byte, 96<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	p := ChunkerParams{Min: 256, Bits: 11, Max: 2 * blockSize}
	return slices.Equal(cutAll(t.scanner(p), noise), cutAll(newLibraryScanner(pol, p), noise))
}

// cutAll returns the lengths of the chunks of b whose end lies in it.
func cutAll(s scanner, b []byte) []int {
	var lengths []int
	for {
		n := s.next(b, 0)
		if n == 0 {
			return lengths
		}
		lengths, b = append(lengths, n), b[n:]
	}
}

// roll moves the fingerprint f on by the byte in, while the byte out leaves the window.
func (t *rabin) roll(f uint64, in, out byte) uint64 {
	return f<<8 ^ uint64(in) ^ t.out[out] ^ t.mod[uint8(f>>(degree-8))]
}

// laneScanner finds the library's cuts about four times as fast (docs/performance.md). Two properties of the
// library make that possible. It passes over the first min-64 bytes of a chunk, so that at the first byte that
// can end one, and from there on, the fingerprint depends on the last 64 bytes alone, in spite of the 1 that
// the library begins with. And nothing else is carried from byte to byte: where the fingerprint is wanted, it
// can be had from the 64 bytes before. Each step waits for its predecessor's look-up in a table; so five lanes
// at different places of the input go side by side, and while one waits, others go on.
//
// A run of zeros needs no shortcut: its fingerprint is zero, and the first byte that may end a chunk does.
//
// A laneScanner has no state and may be used by many at once.
type laneScanner struct {
	*rabin
	min, max int
	mask     uint64 // a cut where these bits of the fingerprint are zero
}

// scanner returns a scanner with these parameters. They must be valid, and the least length of a chunk above
// 64 bytes: a repository's always are.
func (t *rabin) scanner(p ChunkerParams) laneScanner {
	return laneScanner{t, int(p.Min), int(p.Max), 1<<p.Bits - 1}
}

// A lane is as long as lets its first window weigh little, and as short as lets little be read in vain beyond a
// cut. Five are the most for which the compiler finds registers; with four or six it is slower.
const (
	lanes     = 5
	laneSize  = 2 << 10
	blockSize = lanes * laneSize
)

func (s laneScanner) next(b []byte, from int) int {
	at, end := max(from, s.min-1), min(len(b), s.max)
	for ; at+blockSize <= end; at += blockSize {
		if n := s.scanBlock((*[windowSize + blockSize]byte)(b[at-windowSize:])); n > 0 {
			return at + n
		}
	}
	if at < end {
		if n := s.scan(b[at-windowSize : end]); n > 0 {
			return at + n
		}
	}
	if end == s.max {
		return s.max
	}
	return 0
}

// scan returns how many bytes after the first 64 of b there is a cut, or 0.
func (s laneScanner) scan(b []byte) int {
	var f uint64
	for _, in := range b[:windowSize] {
		f = s.roll(f, in, 0)
	}
	for i, in := range b[windowSize:] {
		f = s.roll(f, in, b[i])
		if f&s.mask == 0 {
			return i + 1
		}
	}
	return 0
}

// scanBlock is scan, in lanes. That b is an array lets the compiler know that no index is beyond it.
func (s laneScanner) scanBlock(b *[windowSize + blockSize]byte) int {
	t, mod, out, mask := s.rabin, &s.mod, &s.out, s.mask
	var f0, f1, f2, f3, f4 uint64
	for i := range windowSize {
		f0 = t.roll(f0, b[i], 0)
		f1 = t.roll(f1, b[i+laneSize], 0)
		f2 = t.roll(f2, b[i+2*laneSize], 0)
		f3 = t.roll(f3, b[i+3*laneSize], 0)
		f4 = t.roll(f4, b[i+4*laneSize], 0)
	}
	const none = blockSize + 1
	cut := none
	for i := range laneSize {
		// This is roll, written out, because of calls the compiler loads all arguments first, more than it has
		// registers for: that is a fifth slower.
		f0 = f0<<8 ^ uint64(b[i+windowSize]) ^ out[b[i]] ^ mod[uint8(f0>>(degree-8))]
		f1 = f1<<8 ^ uint64(b[i+windowSize+laneSize]) ^ out[b[i+laneSize]] ^ mod[uint8(f1>>(degree-8))]
		f2 = f2<<8 ^ uint64(b[i+windowSize+2*laneSize]) ^ out[b[i+2*laneSize]] ^ mod[uint8(f2>>(degree-8))]
		f3 = f3<<8 ^ uint64(b[i+windowSize+3*laneSize]) ^ out[b[i+3*laneSize]] ^ mod[uint8(f3>>(degree-8))]
		f4 = f4<<8 ^ uint64(b[i+windowSize+4*laneSize]) ^ out[b[i+4*laneSize]] ^ mod[uint8(f4>>(degree-8))]
		if f0&mask == 0 || f1&mask == 0 || f2&mask == 0 || f3&mask == 0 || f4&mask == 0 {
			for lane, f := range [lanes]uint64{f0, f1, f2, f3, f4} {
				if f&mask == 0 {
					cut = min(cut, lane*laneSize+i+1)
				}
			}
			if cut <= laneSize {
				return cut // the first lane's; those of others lie behind it
			}
		}
	}
	if cut == none {
		return 0
	}
	return cut
}
