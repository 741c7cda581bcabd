package crypto_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/crypto"
)

// TestNothingPrintsSecrets prints everything that holds a secret in every way that Go has, and looks
// for the secret in each form that those ways give bytes.
func TestNothingPrintsSecrets(t *testing.T) {
	secret := []byte("correct horse battery staple 32b")
	master := crypto.MasterOf(1, [32]byte(secret))
	keys, err := crypto.NewKeys(crypto.NewRepositoryID(), master)
	if err != nil {
		t.Fatal(err)
	}
	const identity = "AGE-SECRET-KEY-1TUTPF29UGDHEVEKFL75V943V6636QH6TQWGESWX4GD9HTXE6HXTQMUZ4L7" // of testdata
	ids, err := crypto.AgeIdentities(strings.NewReader(identity))
	if err != nil {
		t.Fatal(err)
	}
	type exported struct{ V any }
	type unexported struct{ v any }
	type unexportedMaster struct{ m crypto.Master }
	text := base64.StdEncoding.EncodeToString(secret)
	for _, v := range []any{
		master, &master,
		[]crypto.Master{master},
		map[string]crypto.Master{"m": master},
		unexportedMaster{master},
		crypto.Payload{Masters: []crypto.Master{master}},
		keys, *keys, &keys,
		crypto.Passphrase(secret), crypto.KeyFile([]byte(text)), ids,
	} {
		for _, v := range []any{v, &v, exported{v}, unexported{v}, &unexported{v}, []any{v}} {
			for how, out := range prints(t, v) {
				for what, forbidden := range map[string]string{
					"raw":            "correct horse",
					"hex":            hex.EncodeToString(secret[:6]),
					"spaced hex":     "63 6f 72 72",
					"bytes":          "99 111 114 114",
					"bytes in JSON":  "99,111,114,114",
					"bytes in Go":    "0x63, 0x6f, 0x72",
					"base64":         text[:10],
					"hex of base64":  hex.EncodeToString([]byte(text[:10])),
					"base64 of that": base64.StdEncoding.EncodeToString([]byte(text))[:10],
					"identity":       identity[16:26],
				} {
					if strings.Contains(strings.ToLower(out), strings.ToLower(forbidden)) {
						t.Errorf("%T with %s shows the secret (%s): %s", v, how, what, out)
					}
				}
			}
		}
	}
}

// prints returns v in every printed form, by the name of the way.
func prints(t *testing.T, v any) map[string]string {
	t.Helper()
	out := map[string]string{"Sprint": fmt.Sprint(v), "Sprintln": fmt.Sprintln(v)}
	for _, verb := range []string{"v", "+v", "#v", "s", "q", "x", "X", "#x", "d", "08d", "o", "c", "U", "e", "t", "w"} {
		out["%"+verb] = fmt.Sprintf("%"+verb, v)
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v, slog.Group("g", "v", v))
	out["slog text"] = b.String()
	b.Reset()
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v, slog.Group("g", "v", v))
	out["slog JSON"] = b.String()
	j, err := json.Marshal(v)
	if err != nil {
		t.Errorf("JSON of %T: %v", v, err)
	}
	out["JSON"] = string(j)
	out["error"] = fmt.Errorf("something about %v", v).Error()
	return out
}

func TestPlaceholders(t *testing.T) {
	master := crypto.NewMaster(7)
	const want = "[master secret of epoch 7]"
	for how, out := range prints(t, master) {
		if !strings.Contains(out, want) {
			t.Errorf("%s: %q, want %s", how, out, want)
		}
	}
	if master.String() != want || master.GoString() != want || master.LogValue().String() != want {
		t.Errorf("String %s, GoString %s, LogValue %v", master.String(), master.GoString(), master.LogValue())
	}
	keys := vectorKeys(t, 1)
	if got, want := fmt.Sprintf("%#v", keys), "[keys of repository 000102030405060708090a0b0c0d0e0f]"; got != want {
		t.Errorf("keys print as %s, want %s", got, want)
	}
}
