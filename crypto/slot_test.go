package crypto_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/crypto"
)

// cheap is the least that is allowed.
var cheap = crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "v1", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// goldenSecrets opens the slots of testdata.
func goldenSecrets(t testing.TB) map[string]crypto.Secret {
	t.Helper()
	ids, err := crypto.AgeIdentities(bytes.NewReader(golden(t, "identity.txt")))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Secret{
		"passphrase": crypto.Passphrase([]byte("correct horse battery staple")),
		"keyfile":    crypto.KeyFile(golden(t, "key.txt")),
		"age":        ids,
	}
}

// pair is a secret that seals and the one that opens.
type pair struct{ seal, open crypto.Secret }

func newPairs(t *testing.T) map[string]pair {
	t.Helper()
	x25519, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	hybrid, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	passphrase, file := crypto.Passphrase([]byte("open sesame")), crypto.KeyFile(crypto.NewKeyFile())
	return map[string]pair{
		"passphrase": {passphrase, passphrase},
		"keyfile":    {file, file},
		"age":        agePair(t, x25519.Recipient().String(), x25519.String()),
		"age hybrid": agePair(t, hybrid.Recipient().String(), hybrid.String()),
	}
}

func agePair(t *testing.T, recipient, identity string) pair {
	t.Helper()
	r, err := crypto.AgeRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	i, err := crypto.AgeIdentities(strings.NewReader("# made by age-keygen\n" + identity + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return pair{r, i}
}

func newPayload() crypto.Payload {
	return crypto.Payload{
		Repository: crypto.NewRepositoryID(),
		Config:     []byte(`{"clear":"configuration"}` + "\n"),
		Masters:    []crypto.Master{crypto.NewMaster(1), crypto.NewMaster(2)},
	}
}

// samePayload compares the masters by what they give.
func samePayload(t *testing.T, got, want crypto.Payload) {
	t.Helper()
	if got.Repository != want.Repository || !bytes.Equal(got.Config, want.Config) || len(got.Masters) != len(want.Masters) {
		t.Fatalf("payload %v, want %v", got, want)
	}
	for i := range want.Masters {
		a, err := crypto.NewKeys(got.Repository, got.Masters[:i+1]...)
		if err != nil {
			t.Fatal(err)
		}
		b, err := crypto.NewKeys(want.Repository, want.Masters[:i+1]...)
		if err != nil {
			t.Fatal(err)
		}
		object, err := a.Seal(crypto.TypeMark, "x", []byte("x"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Open(crypto.TypeMark, "x", object); err != nil || a.ChunkID(nil) != b.ChunkID(nil) {
			t.Errorf("master %d is another: %v", i, err)
		}
	}
}

// TestGoldenSlots: what earlier versions wrote opens. The passphrase and key-file slots were written
// by a second implementation, testdata/v1/vectors.py.
func TestGoldenSlots(t *testing.T) {
	want := crypto.Payload{
		Repository: crypto.RepositoryID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		Config:     []byte(`{"hakobune":"repository"}` + "\n"),
		Masters: []crypto.Master{
			crypto.MasterOf(1, [32]byte(bytes.Repeat([]byte{0x11}, 32))),
			crypto.MasterOf(2, [32]byte(bytes.Repeat([]byte{0x22}, 32))),
		},
	}
	ids := map[string]string{"passphrase": "00112233aabbccdd", "keyfile": "00112233aabbccde", "age": "00112233aabbccdf"}
	for kind, secret := range goldenSecrets(t) {
		t.Run(kind, func(t *testing.T) {
			got, info, err := crypto.OpenSlot(golden(t, kind+".slot"), secret)
			if err != nil {
				t.Fatal(err)
			}
			samePayload(t, got, want)
			wantInfo := crypto.SlotInfo{
				ID: ids[kind], Kind: kind, Label: "golden", Host: "ark",
				Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
			}
			if diff := cmp.Diff(wantInfo, info); diff != "" {
				t.Errorf("slot info (-want +got):\n%s", diff)
			}
		})
	}
}

// A renewed slot is the old one, with other masters, under another id and later.
func TestRenewSlot(t *testing.T) {
	for what, p := range newPairs(t) {
		old, id, err := crypto.SealSlot(p.seal, crypto.SlotInfo{Label: "kept", Host: "ark-1"}, newPayload(), cheap)
		if err != nil {
			t.Fatal(err)
		}
		later, payload := time.Date(2030, 1, 2, 3, 4, 5, 999, time.UTC), newPayload()
		slot, err := crypto.RenewSlot(old, p.seal, "0123456789abcdef", later, payload)
		if err != nil {
			t.Fatal(err)
		}
		got, info, err := crypto.OpenSlot(slot, p.open)
		if err != nil {
			t.Fatal(err)
		}
		samePayload(t, got, payload)
		want := crypto.SlotInfo{ID: "0123456789abcdef", Kind: strings.Fields(what)[0], Label: "kept", Host: "ark-1", Created: later.Truncate(time.Second)}
		if diff := cmp.Diff(want, info); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		cost := regexp.MustCompile(`"memory_kib": \d+`)
		if !bytes.Equal(cost.Find(old), cost.Find(slot)) {
			t.Errorf("%s: costs %s, the old one %s", what, cost.Find(slot), cost.Find(old))
		}
		for wrong, s := range newPairs(t) {
			if strings.Fields(wrong)[0] == strings.Fields(what)[0] {
				continue
			}
			if _, err := crypto.RenewSlot(old, s.seal, id, later, payload); err == nil {
				t.Errorf("%s renewed for %s", what, wrong)
			}
		}
		if _, err := crypto.RenewSlot(old[1:], p.seal, id, later, payload); !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%s: of a damaged slot: %v", what, err)
		}
	}
}

func TestSlots(t *testing.T) {
	payload := newPayload()
	for what, p := range newPairs(t) {
		t.Run(what, func(t *testing.T) {
			info := crypto.SlotInfo{ID: "ignored", Kind: "ignored", Label: `müde <"\> 船`, Host: "ark-1"}
			before := time.Now().Truncate(time.Second)
			slot, id, err := crypto.SealSlot(p.seal, info, payload, cheap)
			if err != nil {
				t.Fatal(err)
			}
			clearInfo, err := crypto.ReadSlotInfo(slot)
			if err != nil {
				t.Fatal(err)
			}
			got, opened, err := crypto.OpenSlot(slot, p.open)
			if err != nil {
				t.Fatal(err)
			}
			samePayload(t, got, payload)
			want := info
			want.ID, want.Kind, want.Created = id, strings.Fields(what)[0], opened.Created
			if opened != want || clearInfo != want || opened.Created.Before(before) || !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(id) {
				t.Errorf("info %+v, clear %+v, want %+v", opened, clearInfo, want)
			}
		})
	}
}

func TestSlotOfAGivenTime(t *testing.T) {
	file := crypto.KeyFile(crypto.NewKeyFile())
	created := time.Date(2031, 5, 6, 7, 8, 9, 999, time.FixedZone("JST", 9*3600))
	slot, _, err := crypto.SealSlot(file, crypto.SlotInfo{Created: created}, newPayload(), crypto.KDF{})
	if err != nil {
		t.Fatal(err)
	}
	_, info, err := crypto.OpenSlot(slot, file)
	if want := time.Date(2031, 5, 5, 22, 8, 9, 0, time.UTC); err != nil || info.Created != want {
		t.Errorf("created %v, %v, want %v", info.Created, err, want)
	}
}

func TestWrongSecrets(t *testing.T) {
	pairs, others := newPairs(t), newPairs(t)
	others["passphrase"] = pair{nil, crypto.Passphrase([]byte("open sesame "))}
	for what, p := range pairs {
		slot, _, err := crypto.SealSlot(p.seal, crypto.SlotInfo{}, newPayload(), cheap)
		if err != nil {
			t.Fatal(err)
		}
		secrets := map[string]crypto.Secret{
			"another of its kind":   others[what].open,
			"no passphrase":         crypto.Passphrase(nil),
			"key file with nothing": crypto.KeyFile(nil),
			"a recipient":           pairs["age"].seal,
		}
		for other, q := range pairs {
			if other != what {
				secrets[other] = q.open
			}
		}
		for name, secret := range secrets {
			got, _, err := crypto.OpenSlot(slot, secret)
			if !errors.Is(err, crypto.ErrWrongKey) || errors.Is(err, crypto.ErrDamaged) || got.Masters != nil {
				t.Errorf("%s slot, opened with %s: %v, error %v", what, name, got, err)
			}
		}
	}
}

func TestSealSlotRefuses(t *testing.T) {
	good := newPairs(t)
	file := good["keyfile"].seal
	for what, tc := range map[string]struct {
		secret  crypto.Secret
		info    crypto.SlotInfo
		payload crypto.Payload
		cost    crypto.KDF
	}{
		"empty passphrase":   {secret: crypto.Passphrase(nil), payload: newPayload(), cost: cheap},
		"identities":         {secret: good["age"].open, payload: newPayload()},
		"no masters":         {secret: file},
		"epoch missing":      {secret: file, payload: crypto.Payload{Masters: []crypto.Master{crypto.NewMaster(2)}}},
		"control character":  {secret: file, payload: newPayload(), info: crypto.SlotInfo{Label: "\x1b[2J"}},
		"line separator":     {secret: file, payload: newPayload(), info: crypto.SlotInfo{Host: "\u2028"}},
		"not UTF-8":          {secret: file, payload: newPayload(), info: crypto.SlotInfo{Host: "\xff"}},
		"long label":         {secret: file, payload: newPayload(), info: crypto.SlotInfo{Label: strings.Repeat("x", 257)}},
		"year 10000":         {secret: file, payload: newPayload(), info: crypto.SlotInfo{Created: time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)}},
		"huge configuration": {secret: file, payload: crypto.Payload{Config: make([]byte, 1<<20), Masters: newPayload().Masters}},
		"too little memory":  {secret: good["passphrase"].seal, payload: newPayload(), cost: crypto.KDF{Time: 1, MemoryKiB: 19<<10 - 1, Threads: 1}},
		"too much memory":    {secret: good["passphrase"].seal, payload: newPayload(), cost: crypto.KDF{Time: 1, MemoryKiB: 4<<20 + 1, Threads: 1}},
		"no pass":            {secret: good["passphrase"].seal, payload: newPayload(), cost: crypto.KDF{MemoryKiB: 19 << 10, Threads: 1}},
		"too many passes":    {secret: good["passphrase"].seal, payload: newPayload(), cost: crypto.KDF{Time: 65, MemoryKiB: 19 << 10, Threads: 1}},
		"no thread":          {secret: good["passphrase"].seal, payload: newPayload(), cost: crypto.KDF{Time: 1, MemoryKiB: 19 << 10}},
	} {
		if slot, id, err := crypto.SealSlot(tc.secret, tc.info, tc.payload, tc.cost); err == nil || slot != nil || id != "" {
			t.Errorf("%s: %d bytes, id %q, error %v", what, len(slot), id, err)
		}
	}
}

// TestEveryByteOfASlot alters each byte of each kind of slot. Nothing passes, nothing panics.
func TestEveryByteOfASlot(t *testing.T) {
	secrets := goldenSecrets(t)
	for kind, secret := range secrets {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			step, bits := 1, 8
			if testing.Short() {
				step = 7
			}
			if kind == "passphrase" { // each costs a run of argon2id
				step, bits = step*step, 1
			}
			slot := golden(t, kind+".slot")
			for i := 0; i < len(slot); i += step {
				for bit := range bits {
					slot[i] ^= 1 << bit
					refusedSlot(t, slot, secret)
					slot[i] ^= 1 << bit
				}
			}
		})
	}
}

func refusedSlot(t *testing.T, slot []byte, secret crypto.Secret) {
	t.Helper()
	p, info, err := crypto.OpenSlot(slot, secret)
	if !(errors.Is(err, crypto.ErrDamaged) || errors.Is(err, crypto.ErrWrongKey) || errors.Is(err, crypto.ErrNewer)) ||
		p.Masters != nil || info != (crypto.SlotInfo{}) {
		t.Errorf("opened as %v, %v, error %v:\n%s", p, info, err, slot)
	}
}

func TestSlotsCutAndExtended(t *testing.T) {
	for kind, secret := range goldenSecrets(t) {
		slot := golden(t, kind+".slot")
		for n := range slot {
			refusedSlot(t, slot[:n], secret)
		}
		for _, more := range []string{"\n", " ", "{}", "\x00", string(slot)} {
			refusedSlot(t, append(bytes.Clone(slot), more...), secret)
		}
		refusedSlot(t, append([]byte{' '}, slot...), secret)
		refusedSlot(t, append(slot, make([]byte, 1<<20)...), secret)
	}
}

// TestSlotsRewritten alters slots in ways that JSON, base64 or age's armor take for the same, and
// those that mix the kinds.
func TestSlotsRewritten(t *testing.T) {
	secrets := goldenSecrets(t)
	for _, tc := range []struct {
		kind, old, new string
		want           error
	}{
		{"keyfile", `"kind"`, `"Kind"`, crypto.ErrDamaged},
		{"keyfile", `  "label"`, "\t\"label\"", crypto.ErrDamaged},
		{"keyfile", `"version": 1`, `"version": 1, "extra": 1`, crypto.ErrDamaged},
		{"keyfile", `"version": 1`, `"version": 1, "version": 1`, crypto.ErrDamaged},
		{"keyfile", `"version": 1`, `"version": 1.0`, crypto.ErrDamaged},
		{"keyfile", `"version": 1`, `"version": 0`, crypto.ErrDamaged},
		{"keyfile", `"version": 1`, `"version": 2`, crypto.ErrNewer},
		{"keyfile", `"version": 1`, `"version": "1"`, crypto.ErrDamaged},
		{"keyfile", `"key slot"`, `"key lots"`, crypto.ErrDamaged},
		{"keyfile", `golden`, `gold\u0065n`, crypto.ErrDamaged},
		{"keyfile", `golden`, `gulden`, crypto.ErrDamaged},
		{"keyfile", `golden`, `gold\u001bn`, crypto.ErrDamaged},
		{"keyfile", `"ark"`, `"oak"`, crypto.ErrDamaged},
		{"keyfile", `00112233aabbccde`, `00112233aabbccdd`, crypto.ErrDamaged},
		{"keyfile", `00112233aabbccde`, `00112233AABBCCDE`, crypto.ErrDamaged},
		{"keyfile", `00112233aabbccde`, `../../config`, crypto.ErrDamaged},
		{"keyfile", `05Z`, `06Z`, crypto.ErrDamaged},
		{"keyfile", `05Z`, `05+00:00`, crypto.ErrDamaged},
		{"keyfile", `05Z`, `05.000Z`, crypto.ErrDamaged},
		{"keyfile", `"salt": "`, `"salt": "\n`, crypto.ErrDamaged},
		{"keyfile", `"salt": "`, `"salt": "AAAA`, crypto.ErrDamaged},
		{"keyfile", `"commitment": "`, `"commitment": "AAAA`, crypto.ErrDamaged},
		{"keyfile", `"box": "`, `"age": "x", "box": "`, crypto.ErrDamaged},
		{"keyfile", `"salt"`, `"kdf": {"algorithm": "argon2id", "time": 1, "memory_kib": 19456, "threads": 1}, "salt"`, crypto.ErrDamaged},
		{"keyfile", `"keyfile"`, `"passphrase"`, crypto.ErrDamaged},
		{"keyfile", `"keyfile"`, `"age"`, crypto.ErrDamaged},
		{"keyfile", `"keyfile"`, `"tpm"`, crypto.ErrNewer},
		{"passphrase", `"passphrase"`, `"keyfile"`, crypto.ErrDamaged},
		{"passphrase", `argon2id`, `argon2i`, crypto.ErrDamaged},
		{"passphrase", `"time": 1`, `"time": 2`, crypto.ErrWrongKey},
		{"passphrase", `"time": 1`, `"time": 0`, crypto.ErrDamaged},
		{"passphrase", `"time": 1`, `"time": 65`, crypto.ErrDamaged},
		{"passphrase", `"time": 1`, `"time": 4294967295`, crypto.ErrDamaged},
		{"passphrase", `"time": 1`, `"time": 4294967296`, crypto.ErrDamaged},
		{"passphrase", `"threads": 1`, `"threads": 2`, crypto.ErrWrongKey},
		{"passphrase", `"threads": 1`, `"threads": 0`, crypto.ErrDamaged},
		{"passphrase", `"threads": 1`, `"threads": 256`, crypto.ErrDamaged},
		{"passphrase", `19456`, `19455`, crypto.ErrDamaged},
		{"passphrase", `19456`, `-19456`, crypto.ErrDamaged},
		{"age", `-----BEGIN`, `\n-----BEGIN`, crypto.ErrDamaged},
		{"age", `FILE-----\n`, `FILE-----\r\n`, crypto.ErrDamaged},
		{"age", `FILE-----\n"`, `FILE-----"`, crypto.ErrDamaged},
		{"age", `"age": "-----`, `"age": "x-----`, crypto.ErrDamaged},
		{"age", `"age": "-----`, `"salt": "AAAA", "age": "-----`, crypto.ErrDamaged},
		{"age", `"ark"`, `"oak"`, crypto.ErrDamaged},
	} {
		slot := golden(t, tc.kind+".slot")
		altered := bytes.Replace(slot, []byte(tc.old), []byte(tc.new), 1)
		if bytes.Equal(altered, slot) {
			t.Errorf("%s: nothing to replace with %s", tc.kind, tc.new)
		}
		if _, _, err := crypto.OpenSlot(altered, secrets[tc.kind]); !errors.Is(err, tc.want) {
			t.Errorf("%s, %s for %s: error %v, want %v", tc.kind, tc.new, tc.old, err, tc.want)
		}
	}
}
