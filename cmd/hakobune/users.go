package main

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// users are names with bcrypt hashes of their passwords. No map lets everybody in.
type users map[string][]byte

// readUsers reads a file as htpasswd -B makes it.
func readUsers(file string) (users, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	known, n := users{}, 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, _ := strings.Cut(line, ":")
		if _, err := bcrypt.Cost([]byte(hash)); err != nil || name == "" {
			return nil, fmt.Errorf("%s: line %d is not a name and a bcrypt hash, as htpasswd -B makes them", file, n)
		}
		known[name] = []byte(hash)
	}
	if len(known) == 0 {
		return nil, fmt.Errorf("%s: names nobody", file)
	}
	return known, nil
}

// guard lets users through to next, and nobody else. A password is hashed once: a pull asks many times.
func (u users) guard(next http.Handler) http.Handler {
	if u == nil {
		return next
	}
	var seen sync.Map // sha256 of name and password that were right
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		name, password, given := req.BasicAuth()
		key := sha256.Sum256([]byte(name + "\x00" + password))
		_, right := seen.Load(key)
		if given && !right {
			if hash, ok := u[name]; ok && bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil {
				seen.Store(key, true)
				right = true
			}
		}
		if !right {
			w.Header().Set("WWW-Authenticate", `Basic realm="hakobune"`)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`)
			return
		}
		next.ServeHTTP(w, req)
	})
}
