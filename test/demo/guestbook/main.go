// Command guestbook is the system that the demo protects: a web server and a store, two containers of one image. Entries
// are kept by the store, in a volume; the web server counts its visitors in a file of its own, in its container's layer.
package main

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const usage = "usage: guestbook store DIR | guestbook web URL-OF-STORE | guestbook healthy"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "guestbook:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "store":
		return serve(ctx, &store{path: filepath.Join(args[1], "entries")})
	case len(args) == 2 && args[0] == "web":
		return serve(ctx, &web{store: args[1], visits: "/visits"})
	case len(args) == 1 && args[0] == "healthy":
		return healthy(ctx)
	}
	return errors.New(usage)
}

func serve(ctx context.Context, h http.Handler) error {
	s := &http.Server{Addr: ":8080", Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		s.Close()
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// healthy asks the server of this container.
func healthy(ctx context.Context) error {
	_, err := ask(ctx, http.MethodGet, "http://127.0.0.1:8080/entries", nil)
	return err
}

func ask(ctx context.Context, method, url string, body io.Reader) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s", method, url, resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// store keeps entries, one a line, in a file.
type store struct {
	mu   sync.Mutex
	path string
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodPost {
		if err := s.add(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
		return
	}
	b, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Write(b)
}

func (s *store) add(r io.Reader) error {
	entry, err := io.ReadAll(io.LimitReader(r, 1<<10))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, strings.ReplaceAll(string(entry), "\n", " "))
	return errors.Join(err, f.Sync(), f.Close())
}

// web shows the entries of the store, adds to them, and counts who looked.
type web struct {
	mu     sync.Mutex
	store  string
	visits string
}

var page = template.Must(template.New("page").Parse(`<h1>{{.Title}}</h1>
{{range .Entries}}<p>{{.}}</p>
{{end}}<i>visitor number {{.Visits}}</i>
`))

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, err := ask(r.Context(), r.Method, s.store+"/entries", r.Body)
	if err == nil && r.Method == http.MethodGet && r.URL.Path == "/" {
		err = s.show(w, strings.Split(strings.TrimSpace(entries), "\n"))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

func (s *web) show(w io.Writer, entries []string) error {
	b, err := os.ReadFile(s.visits)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	n, _ := strconv.Atoi(string(b)) // a new container has counted nobody
	if err := os.WriteFile(s.visits, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
		return err
	}
	return page.Execute(w, map[string]any{"Title": os.Getenv("GUESTBOOK_TITLE"), "Entries": entries, "Visits": n + 1})
}
