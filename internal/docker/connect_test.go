package docker_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// each runs a test once for every engine, side by side.
func each(t *testing.T, test func(t *testing.T, h dockertest.Host, e *docker.Engine)) {
	for _, h := range dockertest.Engines(t) {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			test(t, h, connect(t, h))
		})
	}
}

func connect(t testing.TB, h dockertest.Host) *docker.Engine {
	t.Helper()
	e, err := docker.Connect(ctxOf(t), docker.Options{Host: h.Host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestFacts(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		f := e.Facts()
		if !f.Local {
			t.Errorf("engine of this host is not local: %+v", f)
		}
		if f.Containerd != (h.Name == "E29C") || f.StorageDriver == "" || f.NCPU < 1 || f.Memory == 0 || f.RootDir == "" || len(f.Runtimes) == 0 {
			t.Errorf("%+v", f)
		}
	})
}

func TestDown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "no.sock")
	_, err := docker.Connect(ctxOf(t), docker.Options{Host: "unix://" + socket})
	if !errors.Is(err, docker.ErrDown) || !strings.Contains(err.Error(), socket) {
		t.Fatal(err)
	}
}

// waitFor waits until something that the engine does in its own time has come about.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about in 20 s")
		}
	}
}
