// Package dockertest brings real Docker engines into tests: it finds those that the environment
// names, gives them a tiny image, and removes what a test made.
package dockertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
)

// Host is one real engine.
type Host struct {
	Name string // E20: Docker 20.10 with overlay2; E29C: current with containerd's image store; E29G: current with overlay2
	Host string // "unix:///..."
}

// names are the engines that the whole test suite runs against. With -short, as under the race
// detector, the last is left out: its API is E29C's, its image store E20's, and so is the code that
// meets it.
func names() []string {
	all := []string{"E20", "E29C", "E29G"}
	if testing.Short() {
		return all[:2]
	}
	return all
}

// Engines returns the engines named by HAKOBUNE_TEST_DOCKER_E20, _E29C and _E29G. If none is named
// the test is skipped; it fails instead, also where one is missing, if CI or HAKOBUNE_TEST_REQUIRE is set.
func Engines(t testing.TB) []Host {
	t.Helper()
	var hosts []Host
	for _, name := range names() {
		host := os.Getenv("HAKOBUNE_TEST_DOCKER_" + name)
		if host == "" {
			missing(t, "HAKOBUNE_TEST_DOCKER_"+name+" is not set")
			continue
		}
		hosts = append(hosts, Host{Name: name, Host: host})
	}
	if len(hosts) == 0 {
		t.Skip("no engine: set HAKOBUNE_TEST_DOCKER_E20, _E29C, _E29G")
	}
	return hosts
}

// missing fails the test where everything is required, else notes what is missing.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("HAKOBUNE_TEST_REQUIRE") == "1" {
		t.Fatal(what)
	}
	t.Log(what)
}

// Client returns a plain client of the engine.
func Client(t testing.TB, h Host) *client.Client {
	t.Helper()
	c, err := client.New(client.WithHost(h.Host))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Label marks with a Prefix, as its value, what has a name of its own: it is removed likewise.
const Label = "hakobune-test"

// Prefix returns a name that no other test uses. When the test ends, every container, volume and
// network of the engine whose name starts with it is removed, and every image tagged so.
func Prefix(t testing.TB, h Host) string {
	t.Helper()
	var b [4]byte
	rand.Read(b[:])
	prefix := "hakotest-" + hex.EncodeToString(b[:])
	cleanup(t, h, prefix)
	return prefix
}

func cleanup(t testing.TB, h Host, prefix string) {
	c := Client(t, h)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute) // containerd collects garbage with it
		defer cancel()
		err := errors.Join(removeContainers(ctx, c, prefix), removeVolumes(ctx, c, prefix),
			removeNetworks(ctx, c, prefix), removeImages(ctx, c, prefix))
		if err != nil {
			t.Errorf("%s: remove %s*: %v", h.Name, prefix, err)
		}
	})
}

func removeContainers(ctx context.Context, c *client.Client, prefix string) error {
	all, err := c.ContainerList(ctx, client.ContainerListOptions{All: true})
	errs := []error{err}
	for _, one := range all.Items {
		for _, name := range one.Names {
			if strings.HasPrefix(strings.TrimPrefix(name, "/"), prefix) {
				_, err := c.ContainerRemove(ctx, one.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
				errs = append(errs, notGone(err))
			}
		}
	}
	return errors.Join(errs...)
}

func removeVolumes(ctx context.Context, c *client.Client, prefix string) error {
	all, err := c.VolumeList(ctx, client.VolumeListOptions{})
	errs := []error{err}
	for _, one := range all.Items {
		if strings.HasPrefix(one.Name, prefix) || one.Labels[Label] == prefix {
			_, err := c.VolumeRemove(ctx, one.Name, client.VolumeRemoveOptions{Force: true})
			errs = append(errs, notGone(err))
		}
	}
	return errors.Join(errs...)
}

func removeNetworks(ctx context.Context, c *client.Client, prefix string) error {
	all, err := c.NetworkList(ctx, client.NetworkListOptions{})
	errs := []error{err}
	for _, one := range all.Items {
		if strings.HasPrefix(one.Name, prefix) {
			_, err := c.NetworkRemove(ctx, one.ID, client.NetworkRemoveOptions{})
			errs = append(errs, notGone(err))
		}
	}
	return errors.Join(errs...)
}

func removeImages(ctx context.Context, c *client.Client, prefix string) error {
	all, err := c.ImageList(ctx, client.ImageListOptions{})
	errs := []error{err}
	for _, one := range all.Items {
		for _, tag := range one.RepoTags {
			if strings.HasPrefix(tag, prefix) {
				_, err := c.ImageRemove(ctx, tag, client.ImageRemoveOptions{Force: true, PruneChildren: true})
				errs = append(errs, notGone(err))
			}
		}
	}
	return errors.Join(errs...)
}

// notGone is err unless that says that the thing is gone already.
func notGone(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// Create creates a container and returns its id. Its name must start with a Prefix, which removes it.
func Create(t testing.TB, h Host, o client.ContainerCreateOptions) string {
	t.Helper()
	made, err := Client(t, h).ContainerCreate(t.Context(), o)
	if err != nil {
		t.Fatalf("%s: create %s: %v", h.Name, o.Name, err)
	}
	return made.ID
}

// Run creates a container and starts it.
func Run(t testing.TB, h Host, o client.ContainerCreateOptions) string {
	t.Helper()
	id := Create(t, h, o)
	if _, err := Client(t, h).ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err != nil {
		t.Fatalf("%s: start %s: %v", h.Name, o.Name, err)
	}
	return id
}

// RemoveLater has the containers, volumes and networks whose names start with a prefix of another
// engine removed from this one, too, when the test ends. Nothing is done if it is the same engine.
func RemoveLater(t testing.TB, h Host, prefix string, same bool) {
	t.Helper()
	if !same {
		cleanup(t, h, prefix)
	}
}
