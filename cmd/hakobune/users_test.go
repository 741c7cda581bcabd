package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func TestUsers(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("# those who may\n\nalice:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := readUsers(file)
	if err != nil {
		t.Fatal(err)
	}
	h := known.guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	for _, tt := range []struct {
		name, password string
		want           int
	}{
		{"alice", "secret", 204},
		{"alice", "secret", 204},
		{"alice", "secre", 401},
		{"alice", "", 401},
		{"bob", "secret", 401},
		{"", "", 401},
		{"alice\x00secret", "", 401},
	} {
		req := httptest.NewRequest(http.MethodGet, "/v2/", nil)
		if tt.name != "" {
			req.SetBasicAuth(tt.name, tt.password)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != tt.want || (w.Code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%q with %q: %d, want %d", tt.name, tt.password, w.Code, tt.want)
		}
	}
	for _, bad := range []string{"", "# nobody\n", "alice\n", "alice:secret\n", ":" + string(hash), "alice:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs=\n"} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if known, err := readUsers(file); err == nil {
			t.Errorf("%q is taken as %v", bad, known)
		}
	}
}

func TestLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:5000": true, "[::1]:0": true, "localhost:5000": true, ":5000": false, "0.0.0.0:5000": false, "10.0.0.1:5000": false, "127.0.0.1": false, "": false,
	} {
		if got := loopback(address); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}
