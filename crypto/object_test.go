package crypto_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/minio/sio"

	"github.com/hakobune-dr/hakobune/crypto"
)

const pkg = 64 << 10 // plaintext bytes of a package

// sizes are the plaintexts around each boundary of packages.
var sizes = []int{1, 2, 15, 16, 17, pkg - 1, pkg, pkg + 1, pkg + 16, 2*pkg - 1, 2 * pkg, 2*pkg + 1, 3*pkg + 100}

func newKeys(t testing.TB) *crypto.Keys {
	t.Helper()
	k, err := crypto.NewKeys(crypto.NewRepositoryID(), crypto.NewMaster(1))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t testing.TB, k *crypto.Keys, plain []byte) []byte {
	t.Helper()
	object, err := k.Seal(crypto.TypeDataPack, "name", plain)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// refused fails the test unless object is refused with one of the three errors that say why.
func refused(t *testing.T, k *crypto.Keys, object []byte, what string, args ...any) {
	t.Helper()
	plain, err := k.Open(crypto.TypeDataPack, "name", object)
	if plain != nil || !(errors.Is(err, crypto.ErrDamaged) || errors.Is(err, crypto.ErrWrongKey) || errors.Is(err, crypto.ErrNewer)) {
		t.Fatalf("%s: Open gave %d bytes, error %v", fmt.Sprintf(what, args...), len(plain), err)
	}
}

func TestSealAndOpen(t *testing.T) {
	k := newKeys(t)
	for _, n := range sizes {
		plain := pattern(n)
		object := seal(t, k, plain)
		if got, want := int64(len(object)), crypto.SealedSize(int64(n)); got != want {
			t.Errorf("%d bytes seal to %d, SealedSize says %d", n, got, want)
		}
		if size, err := crypto.PlainSize(int64(len(object))); err != nil || size != int64(n) {
			t.Errorf("PlainSize(%d) = %d, %v, want %d", len(object), size, err, n)
		}
		before := slices.Clone(object)
		got, err := k.Open(crypto.TypeDataPack, "name", object)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes do not come back: %v", n, err)
		}
		if !bytes.Equal(object, before) {
			t.Errorf("Open altered an object of %d bytes", n)
		}
		if again := seal(t, k, plain); bytes.Equal(again[crypto.HeaderSize:], object[crypto.HeaderSize:]) {
			t.Errorf("two objects of the same %d bytes are alike", n)
		}
	}
}

func TestSealRefusesEmptyPlaintext(t *testing.T) {
	if object, err := newKeys(t).Seal(crypto.TypeMark, "g", nil); err == nil {
		t.Errorf("Seal of nothing gave %d bytes", len(object))
	}
}

func TestSealWithoutRandomness(t *testing.T) {
	k := newKeys(t)
	for n := range int64(44) { // 32 of salt, 12 of nonce
		object, err := crypto.SealWith(k, io.LimitReader(counting(), n), crypto.TypeMark, "g", []byte("x"))
		if err == nil {
			t.Errorf("with %d random bytes: %d bytes of object", n, len(object))
		}
	}
	broken := errors.New("broken")
	if _, err := crypto.SealWith(k, iotest.ErrReader(broken), crypto.TypeMark, "g", []byte("x")); !errors.Is(err, broken) {
		t.Errorf("error = %v", err)
	}
}

// TestSizes compares the arithmetic with that of sio, and that PlainSize accepts the image of
// SealedSize and nothing else.
func TestSizes(t *testing.T) {
	valid := make(map[int64]int64)
	for plain := int64(1); plain < 2*pkg+50; plain++ {
		stream, err := sio.EncryptedSize(uint64(plain))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := crypto.SealedSize(plain), crypto.HeaderSize+int64(stream); got != want {
			t.Fatalf("SealedSize(%d) = %d, want %d", plain, got, want)
		}
		valid[crypto.SealedSize(plain)] = plain
	}
	for object := int64(-1); object < crypto.SealedSize(2*pkg+49); object++ {
		plain, err := crypto.PlainSize(object)
		want, ok := valid[object]
		if (err == nil) != ok || plain != want {
			t.Fatalf("PlainSize(%d) = %d, %v, want %d, %t", object, plain, err, want, ok)
		}
	}
	for _, object := range []int64{-1 << 63, 1<<63 - 1, 1 << 50} {
		if plain, err := crypto.PlainSize(object); !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("PlainSize(%d) = %d, %v", object, plain, err)
		}
	}
}

func TestEveryFlippedBit(t *testing.T) {
	k := newKeys(t)
	object := seal(t, k, []byte("a small object"))
	for i := range object {
		for bit := range 8 {
			object[i] ^= 1 << bit
			refused(t, k, object, "byte %d, bit %d", i, bit)
			object[i] ^= 1 << bit
		}
	}
	if _, err := k.Open(crypto.TypeDataPack, "name", object); err != nil {
		t.Errorf("after flipping all back: %v", err)
	}
}

func TestFlippedBitsOfManyPackages(t *testing.T) {
	k := newKeys(t)
	object := seal(t, k, pattern(3*pkg+100))
	positions := make(map[int]bool)
	for i := range crypto.HeaderSize {
		positions[i] = true
	}
	for p := range 4 { // header, first and last bytes of payload, and tag of every package
		start := crypto.HeaderSize + p*(pkg+32)
		for i := range 40 {
			positions[start+i] = true
			positions[min(start+pkg+32, len(object))-1-i] = true
		}
	}
	for i := 0; i < len(object); i += 4099 {
		positions[i] = true
	}
	for i := range positions {
		object[i] ^= 1 << (i % 8)
		refused(t, k, object, "byte %d", i)
		object[i] ^= 1 << (i % 8)
	}
}

func TestErrorsOfTheHeader(t *testing.T) {
	k := newKeys(t)
	for _, tc := range []struct {
		what string
		at   int
		b    byte
		want error
	}{
		{"magic", 0, 'h', crypto.ErrDamaged},
		{"version 0", 4, 0, crypto.ErrDamaged},
		{"version 2", 4, 2, crypto.ErrNewer},
		{"type", 5, byte(crypto.TypeMetaPack), crypto.ErrDamaged},
		{"scheme 0", 6, 0, crypto.ErrDamaged},
		{"scheme 5", 6, 5, crypto.ErrNewer},
		{"scheme of another type", 6, 4, crypto.ErrDamaged},
		{"mandatory flag", 7, 1, crypto.ErrNewer},
		{"epoch 0", 11, 0, crypto.ErrDamaged},
		{"epoch 2", 11, 2, crypto.ErrRotated},
		{"last epoch", 8, 255, crypto.ErrWrongKey},
		{"encapsulation", 13, 1, crypto.ErrDamaged},
		{"scheme of a put-only host", 6, 3, crypto.ErrDamaged},
		{"scheme with an encapsulation", 6, 2, crypto.ErrDamaged},
		{"zero", 15, 1, crypto.ErrDamaged},
		{"salt", 16, 0, crypto.ErrDamaged},
		{"reserved", 63, 1, crypto.ErrDamaged},
		{"stream", 64, 0x10, crypto.ErrDamaged}, // DARE 1.0
		{"cipher", 65, 1, crypto.ErrDamaged},    // ChaCha20-Poly1305
	} {
		object, err := crypto.SealWith(k, counting(), crypto.TypeDataPack, "name", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		object[tc.at] = tc.b
		if _, err := k.Open(crypto.TypeDataPack, "name", object); !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", tc.what, err, tc.want)
		}
	}
}

func TestEveryLength(t *testing.T) {
	k := newKeys(t)
	for _, n := range []int{1, 300, pkg, pkg + 300} {
		object := seal(t, k, pattern(n))
		for l := range len(object) {
			if l > 600 && l < len(object)-600 && l%pkg > 200 && l%101 != 0 {
				continue // a cut inside a package, far from every edge: a sample is enough
			}
			refused(t, k, object[:l:l], "%d bytes cut to %d", len(object), l)
		}
		for extra := range 100 {
			refused(t, k, append(slices.Clone(object), make([]byte, extra+1)...), "%d zero bytes appended", extra+1)
		}
		refused(t, k, append(slices.Clone(object), object[crypto.HeaderSize:]...), "stream doubled")
		refused(t, k, append(slices.Clone(object), object...), "object doubled")
	}
}

// TestPackagesOutOfPlace moves whole packages within an object, and between two streams that were
// sealed under one key by a broken source of randomness.
func TestPackagesOutOfPlace(t *testing.T) {
	k := newKeys(t)
	salt := bytes.Repeat([]byte{1}, 32)
	random := func(nonce byte) io.Reader {
		return bytes.NewReader(append(slices.Clone(salt), bytes.Repeat([]byte{nonce}, 12)...))
	}
	plain := pattern(4 * pkg)
	a, err := crypto.SealWith(k, random(1), crypto.TypeDataPack, "name", plain)
	if err != nil {
		t.Fatal(err)
	}
	b, err := crypto.SealWith(k, random(2), crypto.TypeDataPack, "name", plain)
	if err != nil {
		t.Fatal(err)
	}
	at := func(object []byte, i int) []byte {
		start := crypto.HeaderSize + i*(pkg+32)
		return object[start : start+pkg+32]
	}
	build := func(parts ...[]byte) []byte {
		return slices.Concat(append([][]byte{a[:crypto.HeaderSize]}, parts...)...)
	}
	if _, err := k.Open(crypto.TypeDataPack, "name", build(at(a, 0), at(a, 1), at(a, 2), at(a, 3))); err != nil {
		t.Fatal(err)
	}
	for what, object := range map[string][]byte{
		"swapped":           build(at(a, 1), at(a, 0), at(a, 2), at(a, 3)),
		"doubled":           build(at(a, 0), at(a, 0), at(a, 2), at(a, 3)),
		"first missing":     build(at(a, 1), at(a, 2), at(a, 3)),
		"middle missing":    build(at(a, 0), at(a, 2), at(a, 3)),
		"last missing":      build(at(a, 0), at(a, 1), at(a, 2)),
		"one alone":         build(at(a, 0)),
		"last alone":        build(at(a, 3)),
		"last before":       build(at(a, 0), at(a, 1), at(a, 3), at(a, 2)),
		"last twice":        build(at(a, 0), at(a, 1), at(a, 2), at(a, 3), at(a, 3)),
		"of another stream": build(at(a, 0), at(b, 1), at(a, 2), at(a, 3)),
		"end of another":    build(at(a, 0), at(a, 1), at(a, 2), at(b, 3)),
	} {
		refused(t, k, object, "%s", what)
	}
}

func TestObjectsInEachOthersPlace(t *testing.T) {
	master := crypto.NewMaster(1)
	repo, other := crypto.NewRepositoryID(), crypto.NewRepositoryID()
	keys := make(map[crypto.RepositoryID]*crypto.Keys)
	for _, id := range []crypto.RepositoryID{repo, other} {
		k, err := crypto.NewKeys(id, master)
		if err != nil {
			t.Fatal(err)
		}
		keys[id] = k
	}
	type place struct {
		Repository crypto.RepositoryID
		Type       crypto.Type
		Name       string
	}
	places := []place{
		{repo, crypto.TypeOutcome, "n/a/1"},
		{repo, crypto.TypeOutcome, "n/a/2"},
		{repo, crypto.TypeOutcome, "n/a/"},
		{repo, crypto.TypeOutcome, ""},
		{repo, crypto.TypeMark, "n/a/1"},
		{other, crypto.TypeOutcome, "n/a/1"},
	}
	for _, from := range places {
		object, err := keys[from.Repository].Seal(from.Type, from.Name, []byte("content"))
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range places {
			_, err := keys[to.Repository].Open(to.Type, to.Name, object)
			if from == to && err != nil || from != to && !errors.Is(err, crypto.ErrDamaged) {
				t.Errorf("%v opened as %v: error %v", from, to, err)
			}
			forced := slices.Clone(object)
			forced[5] = byte(to.Type) // a header to match
			if _, err := keys[to.Repository].Open(to.Type, to.Name, forced); from != to && !errors.Is(err, crypto.ErrDamaged) {
				t.Errorf("%v with its type altered opened as %v: error %v", from, to, err)
			}
		}
	}
}

// TestHeadersSwapped puts the header of one object before the stream of another of the same name.
func TestHeadersSwapped(t *testing.T) {
	k := newKeys(t)
	a, b := seal(t, k, []byte("one")), seal(t, k, []byte("two"))
	refused(t, k, append(slices.Clone(a[:crypto.HeaderSize]), b[crypto.HeaderSize:]...), "header of another")
}

// TestOtherStreams: under the right key, a stream of DARE 1.0 or of another cipher is refused all the
// same. A default configuration of sio takes all of these.
func TestOtherStreams(t *testing.T) {
	k := newKeys(t)
	for _, n := range []int{1, pkg, pkg + 1} {
		plain := pattern(n)
		object := seal(t, k, plain)
		header := object[:crypto.HeaderSize]
		key, err := crypto.ObjectKey(k, crypto.TypeDataPack, "name", header)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			version, cipher byte
			opens           bool
		}{
			{sio.Version20, sio.AES_256_GCM, true},
			{sio.Version20, sio.CHACHA20_POLY1305, false},
			{sio.Version10, sio.AES_256_GCM, false},
			{sio.Version10, sio.CHACHA20_POLY1305, false},
		} {
			stream := new(bytes.Buffer)
			config := sio.Config{MinVersion: tc.version, MaxVersion: tc.version, CipherSuites: []byte{tc.cipher}, Key: key}
			if _, err := sio.Encrypt(stream, bytes.NewReader(plain), config); err != nil {
				t.Fatal(err)
			}
			got, err := k.Open(crypto.TypeDataPack, "name", slices.Concat(header, stream.Bytes()))
			if tc.opens != (err == nil) || tc.opens != bytes.Equal(got, plain) || !tc.opens && !errors.Is(err, crypto.ErrDamaged) {
				t.Errorf("%+v of %d bytes: %d bytes, error %v", tc, n, len(got), err)
			}
			got, err = k.OpenRange(crypto.TypeDataPack, "name", header, int64(n), 0, int64(n), stream.Bytes())
			if tc.opens != (err == nil) || tc.opens != bytes.Equal(got, plain) || !tc.opens && !errors.Is(err, crypto.ErrDamaged) {
				t.Errorf("range of %+v of %d bytes: %d bytes, error %v", tc, n, len(got), err)
			}
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	k := newKeys(t)
	plain := pattern(pkg + 1)
	want, named := k.ChunkID(plain), k.NamedID("x")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				object, err := k.Seal(crypto.TypeMetaPack, "name", plain)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := k.Open(crypto.TypeMetaPack, "name", object)
				if err != nil || k.ChunkID(got) != want || k.NamedID("x") != named {
					t.Errorf("not what was sealed: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

// Memory that is used again, with whatever is in it, gives the same as new memory does.
func TestSealToOpenTo(t *testing.T) {
	k := newKeys(t)
	for _, room := range []int{0, 1, 1000, 1 << 20} {
		for _, size := range []int{1, 999, 64 << 10, 200_000} {
			dirty := func() []byte { return bytes.Repeat([]byte{0xff}, room) }
			plain := pattern(size)
			object, err := k.SealTo(dirty(), crypto.TypeDataPack, "name", plain)
			if err != nil || int64(len(object)) != crypto.SealedSize(int64(size)) {
				t.Fatalf("%d bytes into %d: %d, %v", size, room, len(object), err)
			}
			got, err := k.OpenTo(dirty(), crypto.TypeDataPack, "name", object)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%d bytes into %d: %d bytes again, %v", size, room, len(got), err)
			}
			object[len(object)-1] ^= 1
			if _, err := k.OpenTo(dirty(), crypto.TypeDataPack, "name", object); !errors.Is(err, crypto.ErrDamaged) {
				t.Errorf("%d altered bytes into %d: %v", size, room, err)
			}
		}
	}
}
