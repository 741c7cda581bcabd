package crypto_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/hakobune-dr/hakobune/crypto"
)

// TestPlainAgeOpensASlot: the age library alone finds everything that opens the repository.
func TestPlainAgeOpensASlot(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := crypto.AgeRecipient(identity.Recipient().String())
	if err != nil {
		t.Fatal(err)
	}
	payload := newPayload()
	slot, id, err := crypto.SealSlot(recipient, crypto.SlotInfo{}, payload, crypto.KDF{})
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Age string }
	if err := json.Unmarshal(slot, &file); err != nil {
		t.Fatal(err)
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(file.Age)), identity)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Hakobune   string
		Slot       crypto.SlotInfo
		Repository crypto.RepositoryID
		Config     []byte
		Masters    []struct {
			Epoch  uint32
			Secret []byte
		}
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &got); err != nil {
		t.Fatalf("%v:\n%s", err, plain)
	}
	if got.Hakobune != "repository keys" || got.Slot.ID != id || len(got.Masters) != 2 {
		t.Fatalf("payload %+v", got)
	}
	opened := crypto.Payload{Repository: got.Repository, Config: got.Config}
	for _, m := range got.Masters {
		opened.Masters = append(opened.Masters, crypto.MasterOf(m.Epoch, [32]byte(m.Secret)))
	}
	samePayload(t, opened, payload)
}

// TestAgeSlotsMadeByOthers: anybody who knows the recipient can make an age slot. What is no payload is
// refused.
func TestAgeSlotsMadeByOthers(t *testing.T) {
	identity, err := age.ParseX25519Identity(strings.Split(string(golden(t, "identity.txt")), "\n")[1])
	if err != nil {
		t.Fatal(err)
	}
	slot := golden(t, "age.slot")
	text := regexp.MustCompile(`"age": ".*"`)
	remade := func(plain string) []byte {
		var armored strings.Builder
		a := armor.NewWriter(&armored)
		w, err := age.Encrypt(a, identity.Recipient())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, plain); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), a.Close()); err != nil {
			t.Fatal(err)
		}
		quoted := strings.ReplaceAll(armored.String(), "\n", `\n`)
		return text.ReplaceAll(slot, []byte(`"age": "`+quoted+`"`))
	}
	const head = `{"hakobune":"repository keys","version":1,"slot":{"id":"00112233aabbccdf","kind":"age",` +
		`"label":"golden","host":"ark","created":"2026-01-02T03:04:05Z"},"repository":"000102030405060708090a0b0c0d0e0f",`
	const master = `{"epoch":1,"secret":"ERERERERERERERERERERERERERERERERERERERERERE="}`
	secret := goldenSecrets(t)["age"]
	if _, _, err := crypto.OpenSlot(remade(head+`"masters":[`+master+`]}`), secret); err != nil {
		t.Fatalf("a well-made payload: %v", err)
	}
	for what, plain := range map[string]string{
		"nothing":           "",
		"no JSON":           "ERERERER",
		"no keys":           "{}",
		"another version":   strings.Replace(head, `"version":1`, `"version":2`, 1) + `"masters":[` + master + `]}`,
		"another slot":      strings.Replace(head, "ark", "oak", 1) + `"masters":[` + master + `]}`,
		"no masters":        head + `"masters":[]}`,
		"short master":      head + `"masters":[{"epoch":1,"secret":"ERERERER"}]}`,
		"no first epoch":    head + `"masters":[` + strings.Replace(master, "1", "2", 1) + `]}`,
		"the epoch twice":   head + `"masters":[` + master + `,` + master + `]}`,
		"repository in hex": strings.Replace(head, "0e0f", "0e0g", 1) + `"masters":[` + master + `]}`,
	} {
		_, _, err := crypto.OpenSlot(remade(plain), secret)
		if !errors.Is(err, crypto.ErrDamaged) || strings.Contains(err.Error(), "ERER") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

// TestHugeCostTakesNoMemory: parameters out of bounds are refused before anything is taken.
func TestHugeCostTakesNoMemory(t *testing.T) {
	slot := golden(t, "passphrase.slot")
	secret := goldenSecrets(t)["passphrase"]
	for _, memory := range []string{"4194305", "4294967295", "4294967296", "99999999999999999999", "19455", "8", "0", "-1"} {
		altered := bytes.Replace(slot, []byte("19456"), []byte(memory), 1)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, _, err := crypto.OpenSlot(altered, secret)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%s KiB: error %v", memory, err)
		}
		if taken := after.TotalAlloc - before.TotalAlloc; taken > 1<<20 {
			t.Errorf("%s KiB: %d bytes were taken", memory, taken)
		}
	}
}

func TestDefaultCost(t *testing.T) {
	for _, tc := range []struct{ machine, want uint64 }{
		{0, 256 << 10}, // unknown
		{64 << 20, 256 << 10},
		{2 << 20, 256 << 10},
		{1 << 20, 128 << 10},
		{128 << 10, 19 << 10},
		{1, 19 << 10},
	} {
		if got, want := crypto.DefaultKDF(tc.machine), (crypto.KDF{Time: 3, MemoryKiB: uint32(tc.want), Threads: 4}); got != want {
			t.Errorf("machine of %d KiB: %+v, want %+v", tc.machine, got, want)
		}
	}
	if testing.Short() {
		return // up to 256 MiB
	}
	slot, _, err := crypto.SealSlot(crypto.Passphrase([]byte("x")), crypto.SlotInfo{}, newPayload(), crypto.KDF{})
	if err != nil || !regexp.MustCompile(`"time": 3,\s*"memory_kib": \d+,\s*"threads": 4\s`).Match(slot) {
		t.Errorf("slot of default cost: %v\n%s", err, slot)
	}
}

func TestKeyFiles(t *testing.T) {
	content := crypto.NewKeyFile()
	if bytes.Equal(content, crypto.NewKeyFile()) || !regexp.MustCompile(`^# hakobune key file.*\n[A-Za-z0-9+/]{43}=\n$`).Match(content) {
		t.Errorf("key file:\n%s", content)
	}
	slot, _, err := crypto.SealSlot(crypto.KeyFile(content), crypto.SlotInfo{}, newPayload(), crypto.KDF{})
	if err != nil {
		t.Fatal(err)
	}
	comment, key, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	for what, tc := range map[string]struct {
		content string
		opens   bool
	}{
		"key alone":         {key, true},
		"other comments":    {"#\n\n# more\n  " + key + " \n\n# end", true},
		"ends of Windows":   {comment + "\r\n" + key + "\r\n", true},
		"no key":            {comment, false},
		"two keys":          {key + "\n" + key, false},
		"short":             {key[4:], false},
		"long":              {"AAAA" + key, false},
		"not base64":        {strings.Repeat("!", 44), false},
		"no padding":        {strings.TrimRight(key, "="), false},
		"broken in two":     {key[:20] + "\n" + key[20:], false},
		"key in a comment":  {"# " + key, false},
		"another key":       {string(crypto.NewKeyFile()), false},
		"trailing bits set": {key[:42] + "/=", false},
	} {
		_, _, err := crypto.OpenSlot(slot, crypto.KeyFile([]byte(tc.content)))
		if tc.opens && err != nil || !tc.opens && !errors.Is(err, crypto.ErrWrongKey) {
			t.Errorf("%s: error %v", what, err)
		}
		if err != nil && strings.Contains(err.Error(), key[:20]) {
			t.Errorf("%s: the error shows the key: %v", what, err)
		}
	}
}

func TestAgeKeysThatAreNone(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	recipient := id.Recipient().String()
	for _, s := range []string{"", "#", "age1", "age1qqqq", id.String(), recipient + "\n" + recipient, "ssh-ed25519 AAAA", strings.ToUpper(recipient[:len(recipient)-1])} {
		if _, err := crypto.AgeRecipient(s); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("recipient %q: error %v", s, err)
		}
	}
	for _, s := range []string{"", "#", "AGE-SECRET-KEY-1", recipient} {
		if _, err := crypto.AgeIdentities(strings.NewReader(s)); err == nil {
			t.Errorf("identity %q: no error", s)
		}
	}
}
