package crypto_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/hakobune-dr/hakobune/crypto"
)

func TestRotation(t *testing.T) {
	repo := crypto.NewRepositoryID()
	m1, m2, m3 := crypto.NewMaster(1), crypto.NewMaster(2), crypto.NewMaster(3)
	newKeys := func(masters ...crypto.Master) *crypto.Keys {
		k, err := crypto.NewKeys(repo, masters...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	before, after := newKeys(m1), newKeys(m3, m1, m2) // in any order
	old, err := before.Seal(crypto.TypeOutcome, "n", []byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := after.Open(crypto.TypeOutcome, "n", old); err != nil || string(plain) != "old" {
		t.Errorf("old object under new keys: %q, %v", plain, err)
	}
	fresh, err := after.Seal(crypto.TypeOutcome, "n", []byte("new"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := before.Open(crypto.TypeOutcome, "n", fresh); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("new object under old keys: %v", err)
	}
	w := crypto.NewWriterID()
	msg := []byte("message")
	if before.ChunkID(msg) != after.ChunkID(msg) || before.NamedID("x") != after.NamedID("x") ||
		before.MAC(w, msg) != after.MAC(w, msg) || cacheMAC(before, msg) != cacheMAC(after, msg) ||
		!bytes.Equal(seed(t, before), seed(t, after)) {
		t.Error("ids, tags or the chunker's seed changed over a rotation")
	}
}

func seed(t *testing.T, k *crypto.Keys) []byte {
	t.Helper()
	b := make([]byte, 100)
	if _, err := io.ReadFull(k.ChunkerSeed(), b); err != nil {
		t.Fatal(err)
	}
	return b
}

func cacheMAC(k *crypto.Keys, msg []byte) [32]byte {
	h := k.CacheMAC()
	h.Write(msg)
	return [32]byte(h.Sum(nil))
}

func TestNewKeysRefusesEpochsWithGaps(t *testing.T) {
	m1, m2 := crypto.NewMaster(1), crypto.NewMaster(2)
	for what, masters := range map[string][]crypto.Master{
		"none":       {},
		"zero value": {{}},
		"epoch 0":    {crypto.NewMaster(0)},
		"no first":   {m2},
		"no second":  {m1, crypto.NewMaster(3)},
		"one twice":  {m1, m2, crypto.NewMaster(2)},
		"far":        {m1, crypto.NewMaster(math.MaxUint32)},
	} {
		if _, err := crypto.NewKeys(crypto.NewRepositoryID(), masters...); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestKeysAreSeparate: no two uses of the keys give the same bytes for the same message, and neither
// do two repositories of one secret, nor two writers.
func TestKeysAreSeparate(t *testing.T) {
	m := crypto.NewMaster(1)
	w := crypto.NewWriterID()
	seen := make(map[[32]byte]string)
	add := func(what string, sum [32]byte) {
		if seen[sum] != "" {
			t.Errorf("%s equals %s", what, seen[sum])
		}
		seen[sum] = what
	}
	for _, repo := range []crypto.RepositoryID{{1}, {2}} {
		k, err := crypto.NewKeys(repo, m)
		if err != nil {
			t.Fatal(err)
		}
		if k.Repository() != repo {
			t.Errorf("Repository() = %v, want %v", k.Repository(), repo)
		}
		add("ChunkID", k.ChunkID([]byte("x")))
		add("NamedID", k.NamedID("x"))
		add("MAC", k.MAC(w, []byte("x")))
		add("MAC of another writer", k.MAC(crypto.NewWriterID(), []byte("x")))
		add("CacheMAC", cacheMAC(k, []byte("x")))
		add("CollectionMAC", k.CollectionMAC([]byte("x")))
		add("Sign", [32]byte(sign(t, k, crypto.TypeMark, "x", "x")))
		add("ChunkerSeed", [32]byte(seed(t, k)))
	}
}

func TestChunkerSeedIsOneStream(t *testing.T) {
	k := vectorKeys(t, 1)
	want := make([]byte, 10_000) // longer than one HKDF expansion can be
	if _, err := io.ReadFull(k.ChunkerSeed(), want); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]io.Reader{
		"one byte":   iotest.OneByteReader(k.ChunkerSeed()),
		"half reads": iotest.HalfReader(k.ChunkerSeed()),
		"again":      k.ChunkerSeed(),
	} {
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: another stream, error %v", what, err)
		}
	}
}

func TestIDsInText(t *testing.T) {
	type ids struct {
		R crypto.RepositoryID
		W crypto.WriterID
	}
	in := ids{crypto.NewRepositoryID(), crypto.NewWriterID()}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"R":"` + in.R.String() + `","W":"` + in.W.String() + `"}`; string(b) != want {
		t.Errorf("JSON %s, want %s", b, want)
	}
	var out ids
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%v came back as %v, error %v", in, out, err)
	}
	for _, text := range []string{"", "0", "0123456789abcde", "0123456789abcdeg", "0123456789ABCDEF", "0123456789abcdef0", " 123456789abcdef"} {
		var w crypto.WriterID
		if err := w.UnmarshalText([]byte(text)); err == nil || w != (crypto.WriterID{}) {
			t.Errorf("%q gave writer %v, error %v", text, w, err)
		}
		var r crypto.RepositoryID
		if err := r.UnmarshalText([]byte(text + text)); err == nil || r != (crypto.RepositoryID{}) {
			t.Errorf("%q gave repository %v, error %v", text+text, r, err)
		}
	}
}

func sign(t testing.TB, k *crypto.Keys, typ crypto.Type, name, text string) []byte {
	t.Helper()
	sig, err := k.Sign(typ, name, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// A signature is of one text in one object of one repository.
func TestSignature(t *testing.T) {
	k, other := vectorKeys(t, 2), newKeys(t)
	sig := sign(t, k, crypto.TypeMark, "g/x", "text")
	if !k.IsSigned(crypto.TypeMark, "g/x", []byte("text"), sig) || !vectorKeys(t, 1).IsSigned(crypto.TypeMark, "g/x", []byte("text"), sig) {
		t.Error("what was signed is not")
	}
	for what, signed := range map[string]bool{
		"another type":       k.IsSigned(crypto.TypeClaim, "g/x", []byte("text"), sig),
		"another name":       k.IsSigned(crypto.TypeMark, "g/xt", []byte("ext"), sig),
		"another text":       k.IsSigned(crypto.TypeMark, "g/x", []byte("texs"), sig),
		"a shorter one":      k.IsSigned(crypto.TypeMark, "g/x", []byte("text"), sig[:63]),
		"another repository": other.IsSigned(crypto.TypeMark, "g/x", []byte("text"), sig),
	} {
		if signed {
			t.Errorf("%s is signed", what)
		}
	}
}
