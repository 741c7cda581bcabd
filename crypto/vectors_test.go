package crypto_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

// The vectors were computed by a second implementation, testdata/v1/vectors.py. They are frozen: a change here is a change of the format.

func vectorKeys(t testing.TB, epochs int) *crypto.Keys {
	t.Helper()
	var repo crypto.RepositoryID
	for i := range repo {
		repo[i] = byte(i)
	}
	var masters []crypto.Master
	for e := range epochs {
		masters = append(masters, crypto.MasterOf(uint32(e+1), [32]byte(bytes.Repeat([]byte{byte(0x11 * (e + 1))}, 32))))
	}
	k, err := crypto.NewKeys(repo, masters...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// counting returns bytes that count up from 0xa0.
func counting() io.Reader {
	b := make([]byte, 44)
	for i := range b {
		b[i] = byte(0xa0 + i)
	}
	return bytes.NewReader(b)
}

// pattern returns n bytes in which no two packages are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251)
	}
	return b
}

func TestVectorsOfDerivedKeys(t *testing.T) {
	k := vectorKeys(t, 2)
	w := crypto.WriterID{1, 2, 3, 4, 5, 6, 7, 8}
	stream := make([]byte, 64)
	if _, err := io.ReadFull(k.ChunkerSeed(), stream); err != nil {
		t.Fatal(err)
	}
	msg := []byte("hakobune")
	for _, tc := range []struct {
		what string
		got  []byte
		want string
	}{
		{"ChunkID of nothing", sum(k.ChunkID(nil)), "d6688b8911d443cb98629b06bedfa396077dc88803f5247fb68141bbc968233e"},
		{"ChunkID", sum(k.ChunkID(msg)), "da35b88bab7f32dd4eeafbc110cf0a69371ce562dd34d84eb3a08d75f035c4ef"},
		{"NamedID", sum(k.NamedID("hakobune")), "e8a9a32afd7fc38abbfefcdd19f190d73acb3100f493e627de9ba994a6317bc8"},
		{"ChunkerSeed", stream, "951a410ee56f9b124ec36c0843ffd1a53994feedc32be05fba0fa552bccb3582" +
			"4205bbeb9b18b59bc4768d7ee891f857d795d06d663836308ad479a84305fce5"},
		{"MAC", sum(k.MAC(w, msg)), "f579bc6f0f6590a8d5d41b545c4d48790705fb0e50862e7064a60318ac18bf0d"},
		{"CacheMAC", sum(cacheMAC(k, msg)), "24f2da7ad3ab26f815d38f112141c4c233decda083e31d73328fe31c80b51971"},
		{"CollectionMAC", sum(k.CollectionMAC(msg)), "1e03721569a67aa6962baa5b13c04967bc036e077b8b9c063758892773fb3891"},
		{"Sign", sign(t, k, crypto.TypeMark, "g/x", "hakobune"), "b1b7405098c45935057afc15673201766db88ca9a1a7ec4a84eb65f24c3c2489" +
			"b42473a3f935b2ad2686e5734ce6a76db449ab552435481cbefa5f7651ba8304"},
	} {
		if got := hex.EncodeToString(tc.got); got != tc.want {
			t.Errorf("%s = %s, want %s", tc.what, got, tc.want)
		}
	}
}

func sum(b [32]byte) []byte { return b[:] }

const vectorObject = "48414b4f016901000000000200000000" + // magic, version, type, scheme, flags, epoch, zero
	"a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf" + // salt
	"00000000000000000000000000000000" + // reserved
	"20000700c0c1c2c3c4c5c6c7c8c9cacb7d2cd35121a52552cf4b7abbe38503e9b7dfbbed49fe80b7" // one package

func TestVectorOfObject(t *testing.T) {
	k := vectorKeys(t, 2)
	const name = "i/0102030405060708/x-1"
	object, err := crypto.SealWith(k, counting(), crypto.TypeDelta, name, []byte("hakobune"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(object); got != vectorObject {
		t.Errorf("sealed object:\n got %s\nwant %s", got, vectorObject)
	}
	plain, err := k.Open(crypto.TypeDelta, name, object)
	if err != nil || string(plain) != "hakobune" {
		t.Errorf("Open = %q, %v", plain, err)
	}
}

const vectorNotice = "48414b4f016704000000000200000000" +
	"a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf" +
	"00000000000000000000000000000000" +
	"20000700c0c1c2c3c4c5c6c7c8c9cacba8fa72bf56c605d2124dc30a9fabe0b24ca4a7ba209bbe1c"

func TestVectorOfNotice(t *testing.T) {
	object, err := crypto.SealWith(vectorKeys(t, 2), counting(), crypto.TypeMark, "g/x", []byte("hakobune"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(object); got != vectorNotice {
		t.Errorf("sealed notice:\n got %s\nwant %s", got, vectorNotice)
	}
}

func TestVectorOfManyPackages(t *testing.T) {
	object, err := crypto.SealWith(vectorKeys(t, 1), counting(), crypto.TypeDataPack, "", pattern(3*65536+5))
	if err != nil {
		t.Fatal(err)
	}
	const want = "23f40260b37891b76b41f364a9c49a23ad7fb6ccee131bf7b15955ee52dbc250"
	if got := hex.EncodeToString(sum(sha256.Sum256(object))); got != want {
		t.Errorf("SHA-256 of the sealed object = %s, want %s", got, want)
	}
}
