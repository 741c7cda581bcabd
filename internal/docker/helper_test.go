package docker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// helperProgram builds the static stand-in for the program.
func helperProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	build := exec.Command("go", "build", "-o", path, "./testdata/helper")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestHelper(t *testing.T) {
	t.Parallel()
	program := helperProgram(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("from the host\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, h := range dockertest.Engines(t) {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			e, err := docker.Connect(ctxOf(t), docker.Options{Host: h.Host, Program: program})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { e.Close() })
			ref := helperCopies(t, h, e, file)
			helperFails(t, e)
			helperIsEnded(t, e)
			helpersAtOnce(t, e, file)
			if left := labelled(t, h, "run", ref); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := e.CheckImage(ctxOf(t), ref, snapshot.Image{}); !errors.Is(err, snapshot.ErrMissing) {
				t.Errorf("image %s is left behind: %v", ref, err)
			}
		})
	}
}

// helperCopies sends much through the helper and back: more than fits any pipe. It returns the
// helper's image, which is no other test's, for no other runs this program.
func helperCopies(t *testing.T, h dockertest.Host, e *docker.Engine, file string) string {
	spec := snapshot.HelperSpec{Binds: []snapshot.HelperBind{{Source: file, Target: "/f", ReadOnly: true}}, CapAdd: []string{"DAC_READ_SEARCH"}, Args: []string{"cat", "/f"}}
	stream, err := e.Helper(ctxOf(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	ref := ""
	for _, one := range labelled(t, h, "run", "") {
		if slices.ContainsFunc(one.Mounts, func(m container.MountPoint) bool { return m.Source == file }) {
			ref = one.Image
		}
	}
	if ref == "" {
		t.Error("the helper is not to be found")
	}
	all, err := e.Containers(ctxOf(t))
	if err != nil || slices.ContainsFunc(all, func(c snapshot.Container) bool { return c.Image == ref }) {
		t.Errorf("a helper is taken for a container to protect: %v", err)
	}
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	go func() {
		stream.Write(sent)
		stream.(client.CloseWriter).CloseWrite()
	}()
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, append([]byte("from the host\n"), sent...)) {
		t.Errorf("%v, %d bytes", err, len(got))
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	return ref
}

func helperFails(t *testing.T, e *docker.Engine) {
	h, err := e.Helper(ctxOf(t), snapshot.HelperSpec{Args: []string{"fail"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(h)
	if err == nil || !strings.Contains(err.Error(), "code 7: as told") || string(got) != "partial" {
		t.Errorf("%q, %v", got, err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	missing := snapshot.HelperSpec{Binds: []snapshot.HelperBind{{Source: "relative/path", Target: "/f"}}, Args: []string{"hang"}}
	if _, err := e.Helper(ctxOf(t), missing); err == nil {
		t.Error("a bad bind went unnoticed")
	}
}

// helperIsEnded by Close, and by the end of its context.
func helperIsEnded(t *testing.T, e *docker.Engine) {
	for _, end := range []string{"close", "cancel"} {
		ctx, cancel := context.WithCancel(ctxOf(t))
		defer cancel()
		h, err := e.Helper(ctx, snapshot.HelperSpec{Args: []string{"hang"}})
		if err != nil {
			t.Fatal(err)
		}
		up := make([]byte, 2)
		if _, err := io.ReadFull(h, up); err != nil {
			t.Error(err)
		}
		if end == "cancel" {
			cancel()
			if _, err := h.Read(up); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		begin := time.Now()
		if err := h.Close(); err != nil || time.Since(begin) > 20*time.Second {
			t.Error(end, err, time.Since(begin))
		}
	}
}

// helpersAtOnce share an image that none of them may take from another.
func helpersAtOnce(t *testing.T, e *docker.Engine, file string) {
	done := make(chan error)
	for range 4 {
		go func() {
			spec := snapshot.HelperSpec{Binds: []snapshot.HelperBind{{Source: file, Target: "/f", ReadOnly: true}}, Args: []string{"cat", "/f"}, CapAdd: []string{"DAC_READ_SEARCH"}}
			h, err := e.Helper(ctxOf(t), spec)
			if err != nil {
				done <- err
				return
			}
			err = h.(client.CloseWriter).CloseWrite()
			_, readErr := io.Copy(io.Discard, h)
			done <- errors.Join(err, readErr, h.Close())
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// labelled lists the containers that an engine made for its own use, for a purpose, from an image.
func labelled(t *testing.T, h dockertest.Host, purpose, image string) []container.Summary {
	t.Helper()
	filters := client.Filters{}.Add("label", "io.github.hakobune-dr.helper="+purpose)
	if image != "" {
		filters = filters.Add("ancestor", image)
	}
	list, err := dockertest.Client(t, h).ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: filters})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// TestHelperProgram: what cannot run in an empty image is refused before anything is made.
func TestHelperProgram(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, _ *docker.Engine) {
		for program, want := range map[string]string{"/bin/sh": "not linked statically", "/etc/passwd": "bad magic", "/no/such": "no such file"} {
			e, err := docker.Connect(ctxOf(t), docker.Options{Host: h.Host, Program: program})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := e.Helper(ctxOf(t), snapshot.HelperSpec{Args: []string{"x"}}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", program, err)
			}
			e.Close()
		}
	})
}
