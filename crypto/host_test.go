package crypto_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

var aHost = crypto.WriterID{1, 2, 3, 4, 5, 6, 7, 8}

func hostOf(t testing.TB, k *crypto.Keys, w crypto.WriterID) *crypto.Credential {
	t.Helper()
	text, err := k.NewCredential(crypto.HostInfo{Name: "db1", Writer: w, Config: []byte("config"), Creates: true})
	if err != nil {
		t.Fatal(err)
	}
	if !crypto.IsCredential(text) || crypto.IsCredential(crypto.NewKeyFile()) {
		t.Error("a credential is not told from a key file")
	}
	c, err := crypto.ParseCredential(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hostObjects are all types that a put-only host seals, with names, and whether it opens them again.
var hostObjects = []struct {
	t     crypto.Type
	name  string
	opens bool
}{
	{crypto.TypeDataPack, "p/0102030405060708", false},
	{crypto.TypeMetaPack, "t/0102030405060708", false},
	{crypto.TypeManifest, "n/0102030405060708/x/manifest", false},
	{crypto.TypeSession, "s/0102030405060708/x", true},
	{crypto.TypeDelta, "i/0102030405060708/x-1", true},
	{crypto.TypeOutcome, "n/0102030405060708/x", true},
}

// What a put-only host seals the repository's keys open, and itself only what it needs of it; another one nothing.
func TestHostSeals(t *testing.T) {
	k := vectorKeys(t, 2)
	host, other := hostOf(t, k, aHost).Keys(), hostOf(t, k, crypto.NewWriterID()).Keys()
	strangers := hostOf(t, newKeys(t), aHost).Keys()
	for _, tc := range hostObjects {
		for _, n := range []int{1, 1000, pkg + 1} {
			object, err := host.Seal(tc.t, tc.name, pattern(n))
			if err != nil {
				t.Fatal(err)
			}
			if want := crypto.SealedSize(int64(n)) + crypto.Encapsulated(object); int64(len(object)) != want || !crypto.OfHost(object) {
				t.Errorf("%v: %d bytes, want %d", tc.t, len(object), want)
			}
			if got, err := k.Open(tc.t, tc.name, object); err != nil || !bytes.Equal(got, pattern(n)) {
				t.Errorf("%v of %d bytes: %v", tc.t, n, err)
			}
			got, err := host.Open(tc.t, tc.name, object)
			if tc.opens != (err == nil && bytes.Equal(got, pattern(n))) || !tc.opens && (!errors.Is(err, crypto.ErrPutOnly) || got != nil) {
				t.Errorf("%v of %d bytes, by the host itself: %v", tc.t, n, err)
			}
			for what, keys := range map[string]*crypto.Keys{"another host": other, "the host's name in another repository": strangers} {
				if _, err := keys.Open(tc.t, tc.name, object); err == nil {
					t.Errorf("%v is open to %s", tc.t, what)
				}
			}
			at, length := crypto.StoredRange(int64(n), int64(n-1), 1)
			head := crypto.HeaderSize + crypto.Encapsulated(object)
			at += crypto.Encapsulated(object)
			last, err := k.OpenRange(tc.t, tc.name, object[:head], int64(n), int64(n-1), 1, object[at:at+length])
			if err != nil || !bytes.Equal(last, pattern(n)[n-1:]) {
				t.Errorf("%v of %d bytes, the last one: %v", tc.t, n, err)
			}
		}
	}
}

// A put-only host opens nothing that was sealed by others but notices, and seals nothing in their place.
func TestHostCannot(t *testing.T) {
	k := vectorKeys(t, 2)
	host, other := hostOf(t, k, aHost).Keys(), hostOf(t, k, crypto.NewWriterID()).Keys()
	for _, typ := range []crypto.Type{
		crypto.TypeSession, crypto.TypeDelta, crypto.TypeSegment, crypto.TypeOutcome, crypto.TypeForget, crypto.TypeRecord,
		crypto.TypeDataPack, crypto.TypeMetaPack, crypto.TypeHost,
	} {
		name := strings.Trim(typ.String(), "'") + "/0102030405060708/x"
		object, err := k.Seal(typ, name, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := host.Open(typ, name, object); !errors.Is(err, crypto.ErrPutOnly) || !errors.Is(err, crypto.ErrWrongKey) {
			t.Errorf("%v: %v", typ, err)
		}
	}
	for _, typ := range []crypto.Type{crypto.TypeMark, crypto.TypeClaim} {
		name := strings.Trim(typ.String(), "'") + "/x"
		object, err := k.Seal(typ, name, append(sign(t, k, typ, name, "text"), "text"...))
		if err != nil {
			t.Fatal(err)
		}
		plain, err := host.Open(typ, name, object)
		if err != nil || !host.IsSigned(typ, name, plain[crypto.SignatureSize:], plain[:crypto.SignatureSize]) {
			t.Errorf("%v: %v", typ, err)
		}
		if _, err := host.Sign(typ, name, []byte("text")); !errors.Is(err, crypto.ErrPutOnly) {
			t.Errorf("sign %v: %v", typ, err)
		}
		if _, err := host.Seal(typ, name, plain); !errors.Is(err, crypto.ErrPutOnly) {
			t.Errorf("seal %v: %v", typ, err)
		}
	}
	for _, typ := range []crypto.Type{crypto.TypeForget, crypto.TypeRecord, crypto.TypeHost} {
		if _, err := host.Seal(typ, "f/0102030405060708/x", []byte("x")); !errors.Is(err, crypto.ErrPutOnly) {
			t.Errorf("seal %v: %v", typ, err)
		}
	}
	for _, tc := range hostObjects {
		name := strings.Replace(tc.name, aHost.String(), "1111111111111111", 1)
		if _, err := host.Seal(tc.t, name, []byte("x")); !errors.Is(err, crypto.ErrPutOnly) {
			t.Errorf("seal %v of another host: %v", tc.t, err)
		}
		object, err := other.Seal(tc.t, strings.Replace(tc.name, aHost.String(), writerOf(other), 1), []byte("x"))
		if err == nil {
			_, err = k.Open(tc.t, tc.name, object)
		}
		if !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%v of another host under this one's name: %v", tc.t, err)
		}
	}
	if _, err := host.NewCredential(crypto.HostInfo{}); !errors.Is(err, crypto.ErrPutOnly) {
		t.Errorf("a credential: %v", err)
	}
	if _, err := host.HostIDs(crypto.NewWriterID()); !errors.Is(err, crypto.ErrPutOnly) {
		t.Errorf("ids of another host: %v", err)
	}
	msg := []byte("outcome")
	if host.MAC(aHost, msg) != k.MAC(aHost, msg) {
		t.Error("its tags are others")
	}
	if w := crypto.NewWriterID(); host.MAC(w, msg) == k.MAC(w, msg) || host.CollectionMAC(msg) == k.CollectionMAC(msg) {
		t.Error("it makes tags of others")
	}
}

// writerOf finds out whose keys these are.
func writerOf(k *crypto.Keys) string {
	id := k.ChunkID(nil)
	return hex.EncodeToString(id[24:])
}

// A put-only host's chunks have ids of their own, which tell whose they are.
func TestHostIDs(t *testing.T) {
	k := vectorKeys(t, 2)
	host := hostOf(t, k, aHost).Keys()
	ids, err := k.HostIDs(aHost)
	if err != nil {
		t.Fatal(err)
	}
	plain := []byte("chunk")
	id, named := host.ChunkID(plain), host.NamedID("name")
	if id != ids.ChunkID(plain) || named != ids.NamedID("name") {
		t.Error("the repository's keys give others")
	}
	if !bytes.HasSuffix(id[:], aHost[:]) || !bytes.HasSuffix(named[:], aHost[:]) || id == named {
		t.Errorf("%x, %x", id, named)
	}
	common, other := k.ChunkID(plain), hostOf(t, k, crypto.NewWriterID()).Keys().ChunkID(plain)
	for what, o := range map[string][32]byte{"common": common, "another host's": other} {
		if bytes.Equal(o[:24], id[:24]) {
			t.Errorf("it is %s too", what)
		}
	}
	if host.SharedID("claim:shop") != k.NamedID("claim:shop") || k.SharedID("x") != k.NamedID("x") {
		t.Error("shared names differ")
	}
	if bytes.Equal(seed(t, host), seed(t, k)) {
		t.Error("it cuts as all others do")
	}
}

// After a rotation an old credential's objects open still; what is sealed since is not for it.
func TestHostRotation(t *testing.T) {
	old, k := vectorKeys(t, 1), vectorKeys(t, 2)
	before, after := hostOf(t, old, aHost).Keys(), hostOf(t, k, aHost).Keys()
	for _, tc := range hostObjects {
		object, err := before.Seal(tc.t, tc.name, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Open(tc.t, tc.name, object); err != nil {
			t.Errorf("%v of before: %v", tc.t, err)
		}
		if _, err := after.Open(tc.t, tc.name, object); tc.opens != (err == nil) {
			t.Errorf("%v of before, by the host: %v", tc.t, err)
		}
		object, err = after.Seal(tc.t, tc.name, []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if crypto.ObjectEpoch(object) != 2 {
			t.Errorf("%v is of epoch %d", tc.t, crypto.ObjectEpoch(object))
		}
		for _, k := range []*crypto.Keys{before, old} {
			if _, err := k.Open(tc.t, tc.name, object); !errors.Is(err, crypto.ErrRotated) {
				t.Errorf("%v of after: %v", tc.t, err)
			}
		}
	}
	if before.ChunkID(nil) != after.ChunkID(nil) {
		t.Error("ids do not outlive the rotation")
	}
}

// Every bit of what a put-only host seals counts, the encapsulation's too.
func TestHostEveryFlippedBit(t *testing.T) {
	k := vectorKeys(t, 1)
	host := hostOf(t, k, aHost).Keys()
	for _, tc := range hostObjects {
		object, err := host.Seal(tc.t, tc.name, []byte("hakobune"))
		if err != nil {
			t.Fatal(err)
		}
		stride := 1
		if testing.Short() {
			stride = 37
		}
		for bit := 0; bit < 8*len(object); bit += stride {
			object[bit/8] ^= 1 << (bit % 8)
			if _, err := k.Open(tc.t, tc.name, object); err == nil {
				t.Errorf("%v: bit %d", tc.t, bit)
			}
			object[bit/8] ^= 1 << (bit % 8)
		}
		for n := range object {
			if _, err := k.Open(tc.t, tc.name, object[:n]); err == nil {
				t.Errorf("%v cut to %d bytes", tc.t, n)
			}
		}
	}
}

func TestSealPack(t *testing.T) {
	k := vectorKeys(t, 1)
	for what, keys := range map[string]*crypto.Keys{"all keys": k, "a put-only host": hostOf(t, k, aHost).Keys()} {
		object, open, err := keys.SealPack(nil, crypto.TypeDataPack, "p/0102030405060708", pattern(pkg+5))
		if err != nil {
			t.Fatal(err)
		}
		if plain, err := open(nil); err != nil || !bytes.Equal(plain, pattern(pkg+5)) {
			t.Errorf("%s: %v", what, err)
		}
		if plain, err := k.Open(crypto.TypeDataPack, "p/0102030405060708", object); err != nil || !bytes.Equal(plain, pattern(pkg+5)) {
			t.Errorf("%s: %v", what, err)
		}
		object[len(object)-1] ^= 1
		if _, err := open(nil); err == nil {
			t.Errorf("%s: damage is not noticed", what)
		}
	}
}

func TestCredentialsOfNoUse(t *testing.T) {
	good, err := vectorKeys(t, 1).NewCredential(crypto.HostInfo{Writer: aHost})
	if err != nil {
		t.Fatal(err)
	}
	change := func(field string, value any) []byte {
		var f map[string]any
		if err := json.Unmarshal(good, &f); err != nil {
			t.Fatal(err)
		}
		f[field] = value
		b, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if _, err := crypto.ParseCredential(change("version", 2)); !errors.Is(err, crypto.ErrNewer) {
		t.Errorf("a newer one: %v", err)
	}
	for field, value := range map[string]any{
		"hakobune": "key slot", "version": 0, "writer": "01", "repository": "", "authentication": "AAAA", "names": "", "verify": "AAAA",
		"recipient": "AAAA", "epochs": []any{}, "config": "%",
	} {
		if _, err := crypto.ParseCredential(change(field, value)); !errors.Is(err, crypto.ErrWrongKey) {
			t.Errorf("%s %v: %v", field, value, err)
		}
	}
	if _, err := crypto.ParseCredential(change("epochs", []any{map[string]any{"host": "AAAA", "notices": "AAAA"}})); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("short keys: %v", err)
	}
	c := hostOf(t, vectorKeys(t, 1), aHost)
	if _, _, err := crypto.SealSlot(c, crypto.SlotInfo{}, crypto.Payload{}, crypto.KDF{}); err == nil {
		t.Error("it seals a slot")
	}
}

// Nothing that prints a credential shows its keys.
func TestCredentialPrints(t *testing.T) {
	c := hostOf(t, vectorKeys(t, 1), aHost)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "credential", c, "keys", c.Keys())
	text, err := json.Marshal(struct{ C *crypto.Credential }{c})
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %v %+v", c, c, c, c, struct{ c *crypto.Credential }{c}, c.Keys()) + log.String() + string(text)
	if strings.Count(all, "[credential of put-only host 0102030405060708]") < 7 || strings.Contains(all, "Authentication") {
		t.Errorf("%s", all)
	}
}

// FuzzOpenOfHost: whatever the bytes of an object of a put-only host, nothing panics, and nothing opens but what was sealed: by this
// process or, of what is among the inputs, by another one that fuzzes; and none of these with a byte changed.
func FuzzOpenOfHost(f *testing.F) {
	k := vectorKeys(f, 2)
	host := hostOf(f, k, aHost).Keys()
	var sealed [][]byte
	for _, tc := range hostObjects {
		object, err := host.Seal(tc.t, tc.name, []byte("hakobune"))
		if err != nil {
			f.Fatal(err)
		}
		sealed = append(sealed, object)
		f.Add(object, uint16(7), byte(1))
		f.Add(object[:len(object)-1], uint16(len(object)-1), byte(0x80))
	}
	f.Add([]byte("HAKO\x01p\x02"), uint16(100), byte(0))
	f.Fuzz(func(t *testing.T, object []byte, at uint16, change byte) {
		for i, tc := range hostObjects {
			if plain, err := k.Open(tc.t, tc.name, object); err == nil && string(plain) != "hakobune" {
				t.Errorf("%v: %q", tc.t, plain)
			}
			if _, err := host.Open(tc.t, tc.name, object); err == nil && !tc.opens {
				t.Errorf("%v is open to the host", tc.t)
			}
			changed := bytes.Clone(sealed[i])
			changed[int(at)%len(changed)] ^= change
			if _, err := k.Open(tc.t, tc.name, changed); (err == nil) != (change == 0) {
				t.Errorf("%v with byte %d changed by %#x: %v", tc.t, at, change, err)
			}
		}
	})
}

// FuzzParseCredential: whatever the bytes, nothing panics, and errors are of a kind.
func FuzzParseCredential(f *testing.F) {
	good, err := vectorKeys(f, 2).NewCredential(crypto.HostInfo{Writer: aHost})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"hakobune":"put-only host","version":1,"epochs":[{}]}`))
	f.Add([]byte(`{"hakobune":"put-only host","version":1,"epochs":[{}` + strings.Repeat(`,{}`, 100_000) + `]}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		var c *crypto.Credential
		var err error
		bounded(t, 4*len(content), func() { c, err = crypto.ParseCredential(content) }) // JSON, and the keys of each epoch
		if err == nil && !crypto.IsCredential(content) || err != nil && !errors.Is(err, crypto.ErrWrongKey) && !errors.Is(err, crypto.ErrNewer) {
			t.Errorf("%v, %v", c, err)
		}
	})
}
