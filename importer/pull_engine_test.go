package importer_test

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// TestPullOnEngines has real engines pull. Engines of tests live in network namespaces of their
// own, so the restore listens in there.
func TestPullOnEngines(t *testing.T) {
	hosts := make(map[string]string)
	for _, h := range dockertest.Engines(t) {
		hosts[h.Name] = h.Host
	}
	repo, snap := largeImage(t)
	onEngines(t, func(t *testing.T, e *docker.Engine, prefix string) {
		own := *snap
		own.System.Images = slices.Clone(snap.System.Images)
		own.System.Images[0].Tags = []string{prefix + "-large:1"}
		_, name, _ := strings.Cut(t.Name(), "/")
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this goroutine
			err := enterNamespace(strings.TrimPrefix(hosts[name], "unix://"))
			if err == nil {
				// Replacing is done in this very goroutine.
				var r *importer.Result
				r, err = importer.Restore(t.Context(), repo, &own, e, importer.Options{Replace: true})
				if err == nil && (r.Objects[0].Way != importer.WayPull || len(r.Notes) > 0) {
					err = fmt.Errorf("restored as %+v, notes %v", r.Objects[0], r.Notes)
				}
			}
			done <- err
		}()
		ok(t, <-done)
		images, err := e.Images(t.Context())
		ok(t, err)
		for _, img := range images {
			for _, ref := range append(img.Tags, img.Digests...) {
				if strings.Contains(ref, "127.0.0.1") {
					t.Errorf("reference %s is left", ref)
				}
			}
		}
	})
}

// enterNamespace moves this thread into the network namespace of the process that listens on a
// unix socket.
func enterNamespace(socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var perr error
	if err := raw.Control(func(fd uintptr) { peer, perr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if perr != nil {
		return perr
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", peer.Pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}
