package test

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// While a failover runs people who ask at the system's port get the page, with a status that tells machines to come again,
// until the system answers.
func TestSorryPage(t *testing.T) {
	if testing.Short() {
		t.Skip("the program under test is built without the race detector")
	}
	all := machines(t)
	const name, port = "hakotest-sorry", "18097"
	home, standby := all["E29C"], all["E20"]
	for _, m := range []machine{home, standby} {
		m.wipe(t, name)
		t.Cleanup(func() { m.wipe(t, name) })
	}
	home.docker(t, "run", "-d", "--name", name, "--stop-signal", "SIGKILL", "-p", port+":8080", dockertest.Busybox(t, home.Host),
		"sh", "-c", "mkdir -p /www; echo at work >/www/index.html; exec httpd -f -p 8080 -h /www")
	w := newWorld(t, "")
	w.init(t)
	w.backup(t, home, name)
	page := filepath.Join(w.dir, "page.html")
	if err := os.WriteFile(page, []byte("<p>we are moving"), 0o644); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	seen := make(chan visits, 1)
	go func() { seen <- visit(ctx, "http://"+standby.address+":"+port+"/") }()
	cmd := standby.at(t, w.command("failover", "--sorry-page="+page, "--host", standby.Host.Host, name))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("failover: %v\n%s", err, out)
	}
	v := <-seen
	t.Logf("%d answers with 503, the longest time without one %s, of which nobody was let in for %s", v.sorry, v.gap.Round(time.Millisecond), v.closed.Round(time.Millisecond))
	if v.sorry == 0 || v.page != "<p>we are moving" || v.retry == "" || v.last != "at work\n" {
		t.Errorf("%d answers with 503: %q, Retry-After %q; then %q\n%s", v.sorry, v.page, v.retry, v.last, out)
	}
}

// visits is what somebody saw who asked again and again.
type visits struct {
	sorry       int // answers with status 503
	page, retry string
	gap         time.Duration // the longest without an answer, from the first on
	closed      time.Duration // the longest until somebody asked who was let in, be it that the answer took its time
	last        string        // the first answer with status 200
}

// visit asks until the system answers.
func visit(ctx context.Context, url string) (v visits) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	var answered time.Time
	for ctx.Err() == nil {
		asked := time.Now()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return v
		}
		if resp, err := client.Do(r); err == nil {
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if !answered.IsZero() {
				v.gap, v.closed = max(v.gap, time.Since(answered)), max(v.closed, asked.Sub(answered))
			}
			answered = time.Now()
			switch {
			case err != nil:
			case resp.StatusCode == http.StatusOK:
				v.last = string(body)
				return v
			case resp.StatusCode == http.StatusServiceUnavailable:
				v.sorry++
				v.page, v.retry = string(body), resp.Header.Get("Retry-After")
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return v
}

// at has a command run on the machine, whose network is its own.
func (m machine) at(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(filepath.Dir(strings.TrimPrefix(m.Host.Host, "unix://")), "docker.pid"))
	if err != nil {
		t.Fatal(err)
	}
	there := exec.Command("nsenter", append([]string{"--net=/proc/" + strings.TrimSpace(string(pid)) + "/ns/net"}, cmd.Args...)...)
	there.Env = cmd.Env
	return there
}
