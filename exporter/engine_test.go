package exporter_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// *docker.Engine is what the exporter asks for.
var _ exporter.Engine = (*docker.Engine)(nil)

// The test binary plays other processes too: a guard, and a backup that is killed.
const (
	roleVar   = "HAKOBUNE_TEST_ROLE"
	engineVar = "HAKOBUNE_TEST_ENGINE"
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "guard":
		os.Exit(exit(playGuard()))
	case "victim":
		os.Exit(exit(playVictim(os.Args[1:])))
	default:
		os.Exit(exit(fmt.Errorf("role %q", role)))
	}
}

func exit(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func playGuard() error {
	e, err := docker.Connect(context.Background(), docker.Options{Host: os.Getenv(engineVar)})
	if err != nil {
		return err
	}
	defer e.Close()
	return exporter.RunGuard(context.Background(), os.Stdin, os.Stdout, e)
}

// startGuard runs the test binary as a guard of containers of an engine.
func startGuard(host string) (*exporter.Guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exporter.StartGuard([]string{self}, []string{roleVar + "=guard", engineVar + "=" + host})
}

// host is a real engine, with what tests need of it that the program does not.
type engineHost struct {
	dockertest.Host
	*docker.Engine
	t      testing.TB
	prefix string
	image  string
}

// onEngines runs a test against every engine there is, beside other tests: most of its time is the
// engines'.
func onEngines(t *testing.T, test func(t *testing.T, h *engineHost)) {
	t.Parallel()
	for _, h := range dockertest.Engines(t) {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			e, err := docker.Connect(t.Context(), docker.Options{Host: h.Host})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			test(t, &engineHost{Host: h, Engine: e, t: t, prefix: dockertest.Prefix(t, h), image: dockertest.Busybox(t, h)})
		})
	}
}

// call speaks the engine's API.
func (h *engineHost) call(method, path string, body any) map[string]any {
	h.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		h.t.Fatal(err)
	}
	dial := func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", h.socket())
	}
	c := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(context.Background(), method, "http://engine/v1.41"+path, bytes.NewReader(text))
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		h.t.Fatalf("%s %s: %s: %s %v", method, path, res.Status, answer, err)
	}
	var object map[string]any
	if len(answer) > 0 && answer[0] == '{' {
		if err := json.Unmarshal(answer, &object); err != nil {
			h.t.Fatal(err)
		}
	}
	return object
}

// socket is the engine's.
func (h *engineHost) socket() string { return strings.TrimPrefix(h.Host.Host, "unix://") }

// run starts a container of the test image under the test's prefix and returns its id. config is
// the body of the create request, the shell's script in it under "sh".
func (h *engineHost) run(name string, config map[string]any) string {
	h.t.Helper()
	id := h.create(name, config)
	h.call("POST", "/containers/"+id+"/start", nil)
	return id
}

func (h *engineHost) create(name string, config map[string]any) string {
	h.t.Helper()
	if config["Image"] == nil {
		config["Image"] = h.image
	}
	if script, ok := config["sh"].(string); ok {
		config["Cmd"] = []string{"/bin/sh", "-c", script}
		delete(config, "sh")
	}
	return h.call("POST", "/containers/create?name="+h.prefix+name, config)["Id"].(string)
}

// state asks for a container's state.
func (h *engineHost) state(id string) string {
	h.t.Helper()
	st, err := h.State(context.Background(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return st.State
}
