package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// small is a system of one container of a tiny image, with changes of its own and a volume.
type small struct {
	name  string
	image string
}

// newSmall runs such a system on the machine. It writes to both its places all the time: a counter,
// first into the volume and then into its own layer, so that the second is never ahead.
func newSmall(t testing.TB, m machine, name string) small {
	t.Helper()
	s := small{"hakotest-" + name, dockertest.Busybox(t, m.Host)}
	m.wipe(t, s.name)
	t.Cleanup(func() { m.wipe(t, s.name) })
	m.docker(t, "run", "-d", "--name", s.name, "-v", s.name+"-data:/data", s.image, "sh", "-c",
		`mkdir -p /own; for f in /own/noise /data/noise; do [ -e $f ] || head -c 3000000 /dev/urandom >$f; done
		 i=0; while :; do i=$((i+1)); echo $i >/data/n.new; mv /data/n.new /data/n; echo $i >/own/n.new; mv /own/n.new /own/n; sleep 0.01; done`)
	for range 100 {
		if _, err := m.try("exec", s.name, "test", "-e", "/own/n"); err == nil {
			break
		}
	}
	return s
}

// sums are the checksums of what does not change.
func (s small) sums(t testing.TB, m machine) string {
	t.Helper()
	return m.docker(t, "exec", s.name, "md5sum", "/own/noise", "/data/noise")
}

// counters reads both counters of a container that stands still.
func (s small) counters(t testing.TB, m machine, name string) (volume, own int) {
	t.Helper()
	for path, n := range map[string]*int{"/data/n": &volume, "/own/n": &own} {
		out := m.docker(t, "cp", name+":"+path, "-")
		// A tar of one small file: its content follows the header of 512 bytes.
		if len(out) < 513 {
			t.Fatalf("%s is empty", path)
		}
		if _, err := fmt.Sscan(strings.Trim(out[512:], "\x00"), n); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return volume, own
}

// The same system by way of each kind of store.
func TestStores(t *testing.T) {
	all := machines(t)
	home, standby := all["E20"], all["E29C"]
	s := newSmall(t, home, "stores")
	t.Cleanup(func() { standby.wipe(t, s.name, s.image) })
	sums := s.sums(t, home)
	for name, start := range map[string]func(testing.TB) *testserver.Server{
		"minio": testserver.MinIO, "versitygw": testserver.VersityGW, "swift": testserver.Swift, "directory": nil,
	} {
		t.Run(name, func(t *testing.T) {
			standby.wipe(t, s.name, s.image)
			location, env := "", []string(nil)
			if start != nil {
				server := start(t)
				// Some servers outlive the test.
				location, env = server.URL(fmt.Sprintf("ark-%x", time.Now().UnixNano()))+"/deep/prefix", onStore(server)
			}
			w := newWorld(t, location, env...)
			w.init(t, "--create-bucket")
			for range 2 {
				w.backup(t, home, s.name)
			}
			o := w.ok(t, "restore", "--host", standby.Host.Host, s.name)
			t.Logf("restore took %s", o.took)
			if got := s.sums(t, standby); got != sums {
				t.Errorf("got\n%s\nwant\n%s", got, sums)
			}
			w.clean(t)
			w.ok(t, "doctor", "--host", home.Host.Host)
		})
	}
}

// A snapshot is of one moment: what was written second is never ahead of what was written first.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	for _, m := range machines(t) {
		t.Run(m.Name, func(t *testing.T) {
			s := newSmall(t, m, "moment")
			w := newWorld(t, "")
			w.init(t)
			for range 5 {
				id := w.backup(t, m, s.name)
				copied := s.name + "-copy"
				w.ok(t, "restore", "--host", m.Host.Host, "--no-start", "--as", copied, id)
				volume, own := s.counters(t, m, copied)
				if volume != own && volume != own+1 {
					t.Errorf("the volume says %d, the container's own layer %d", volume, own)
				}
				m.wipe(t, copied)
			}
		})
	}
}
