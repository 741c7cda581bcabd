package test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// The whole story with a real application: nights at home, the home engine dies as of a power cut in the middle of the day,
// the standby takes over, people write there, home comes back with its own ideas, and the system goes home. Every write of
// either side is somewhere: what home had backed up and what the standby wrote is in the system at home, table by table and
// file by file; what home wrote after its last night is in what the failback names as kept.
func TestCircle(t *testing.T) {
	if testing.Short() {
		t.Skip("the program under test is built without the race detector")
	}
	c := newCircle(t)
	c.nights(t)
	c.disaster(t)
	c.away(t)
	c.homeReturns(t)
	c.comeHome(t)
	c.accounts(t)
	c.staysHome(t)
}

// circle is the system courses on its way.
type circle struct {
	composed
	home          mortal
	standby       machine
	atHome, there *world

	backedUp  string // what the application said of all its content at the last backup of home
	neverSeen string // and at the moment when home died
	written   string // and at the last moment at the standby
	left      []string
}

func newCircle(t *testing.T) *circle {
	t.Helper()
	compose := os.Getenv("HAKOBUNE_TEST_COMPOSE")
	if compose == "" {
		t.Fatal("HAKOBUNE_TEST_COMPOSE is not set")
	}
	c := &circle{composed: composed{compose: compose, dir: filepath.Join(t.TempDir(), "courses"), port: "18096"}}
	c.standby = machines(t)["E29C"]
	c.home = newMortal(t)
	c.wiped(t, c.standby)
	c.files(t)
	c.loaded(t, c.home.machine)
	minio := testserver.MinIOTLS(t)
	c.atHome = newWorld(t, minio.URL("ark")+"/circle", onStore(minio)...)
	c.there = newWorld(t, minio.URL("ark")+"/circle", append(onStore(minio), "HAKOBUNE_SITE=cloud")...)
	c.atHome.init(t, "--create-bucket")
	return c
}

// nights are those at home, and what the standby makes of them.
func (c *circle) nights(t *testing.T) {
	c.on(t, c.home.machine, "up", "-d")
	c.home.healthy(t, "courses-web-1")
	c.home.post(t, c.port, "/add?courses=3&kb=200")
	c.atHome.backup(t, c.home.machine, project)
	c.there.ok(t, "standby", "sync", "--host", c.standby.Host.Host, project)
	c.home.post(t, c.port, "/add?courses=1&kb=200")
	c.backedUp = c.home.pages(t, c.port)
	c.atHome.backup(t, c.home.machine, project)
}

// disaster is the end of home, with its files, after another write. The standby takes over.
func (c *circle) disaster(t *testing.T) {
	c.home.post(t, c.port, "/add?courses=1&kb=200")
	c.neverSeen = c.home.get(t, c.port, "/checksum")
	c.home.kill(t)
	c.moveFile(t, "site.ini", "site.ini.home") // both sites have this file system

	o := c.there.ok(t, "failover", "--json", "-q", "--host", c.standby.Host.Host,
		"--gate", "http://"+c.standby.address+":"+c.port+"/health", "--gate", "exec:courses-db-1:test -d /var/lib/mysql/courses", project)
	r := o.summary(t, "failover")
	t.Logf("RTO %s, RPO %s, fetched %v bytes, %v were staged", lasted(r["rto"]), lasted(r["rpo"]), r["fetched"], r["staged"])
	if got := c.standby.pages(t, c.port); got != c.backedUp {
		t.Errorf("the standby answers otherwise than home at its last backup:\n%s\nwant\n%s", got, c.backedUp)
	}
}

// away is the life at the standby.
func (c *circle) away(t *testing.T) {
	c.standby.post(t, c.port, "/add?courses=2&kb=200")
	c.there.backup(t, c.standby, project)
	c.standby.post(t, c.port, "/add?courses=1&kb=200")
}

// homeReturns starts the engine again, which starts the containers again, for nobody told it. Its nightly run must not
// take this for the system.
func (c *circle) homeReturns(t *testing.T) {
	c.moveFile(t, "site.ini", "site.ini.standby")
	c.moveFile(t, "site.ini.home", "site.ini")
	c.home.start(t)
	c.home.healthy(t, "courses-web-1")
	if got := c.home.get(t, c.port, "/checksum"); got != c.neverSeen {
		t.Errorf("home has lost what it had:\n%s\nwant\n%s", got, c.neverSeen)
	}
	c.atHome.fails(t, 22, []string{"belongs to site cloud", "hint: "}, "backup", "--all", "--host", c.home.Host.Host)
}

// comeHome brings the system home from the stand-in, where it runs to the last moment.
func (c *circle) comeHome(t *testing.T) {
	c.written = c.standby.pages(t, c.port)
	r := c.atHome.ok(t, "failback", "--json", "-q", "--host", c.home.Host.Host, "--stand-in", c.standby.Host.Host,
		"--gate", "http://"+c.home.address+":"+c.port+"/health", project).summary(t, "failback")
	t.Logf("down for %s of %s, fetched %v bytes", lasted(r["downtime"]), lasted(r["rto"]), r["fetched"])
	left, _ := r["restore"].(map[string]any)["left"].([]any)
	for _, what := range left {
		c.left = append(c.left, what.(string))
	}
	if got := c.home.pages(t, c.port); got != c.written {
		t.Errorf("home answers otherwise than the stand-in at its end:\n%s\nwant\n%s", got, c.written)
	}
	c.there.fails(t, 22, []string{"belongs to site"}, "backup", "--host", c.standby.Host.Host, project)
}

// accounts looks for what home wrote and never backed up: in the volumes that the failback names, whole, for a database
// that is started on a copy of them, too.
func (c *circle) accounts(t *testing.T) {
	kept := func(volume string) string {
		prefix := "volume " + volume + ".hakobune-old-"
		i := slices.IndexFunc(c.left, func(s string) bool { return strings.HasPrefix(s, prefix) })
		if i < 0 {
			t.Fatalf("volume %s is not among what is kept: %q", volume, c.left)
		}
		return strings.TrimPrefix(c.left[i], "volume ")
	}
	tables, files := kept("courses_data"), kept("courses_files")
	const name = "courses-accountant"
	c.home.docker(t, "run", "-d", "--name", name, "--stop-signal", "SIGKILL", "-v", tables+":/var/lib/mysql", "-v", files+":/var/lib/courses", dbImage)
	sums := ""
	ask := `set -e
		mariadb -N -e "CHECKSUM TABLE courses.course, courses.lesson EXTENDED" >/tmp/sums; tr "\t" " " </tmp/sums
		cd /var/lib/courses; for f in $(ls *.bin | sort -n); do echo $f $(sha256sum <$f | cut -d" " -f1); done`
	for range 300 {
		var err error
		if sums, err = c.home.try("exec", name, "sh", "-c", ask); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.home.docker(t, "rm", "-f", name)
	if sums != strings.TrimSpace(c.neverSeen) {
		t.Errorf("what is kept of home holds\n%s\nwant\n%s", sums, c.neverSeen)
	}
}

// staysHome looks at the rest of the system, and at what its users do next.
func (c *circle) staysHome(t *testing.T) {
	c.configuration(t, c.home.machine)
	if up := c.on(t, c.home.machine, "up", "-d"); strings.Contains(up, "Recreate") || strings.Contains(up, "Created") || strings.Contains(up, "Removed") {
		t.Errorf("compose takes it for another:\n%s", up)
	}
	for _, what := range c.left {
		if name, ok := strings.CutPrefix(what, "container "); ok {
			c.home.docker(t, "rm", name) // is still there
		}
	}
	c.atHome.backup(t, c.home.machine, project)
	c.atHome.clean(t)
}

func (c *circle) moveFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(filepath.Join(c.dir, from), filepath.Join(c.dir, to)); err != nil {
		t.Fatal(err)
	}
}

// lasted is a duration in JSON.
func lasted(v any) string {
	ns, _ := v.(float64)
	return time.Duration(ns).Round(time.Millisecond).String()
}

// mortal is a machine of the test's own, whose engine may die.
type mortal struct {
	machine
	dir, name string
}

// newMortal brings an engine up for this test alone, of the kind of E20.
func newMortal(t *testing.T) mortal {
	t.Helper()
	dir, err := os.MkdirTemp("", "hakobune-home-") // t.TempDir is longer than the path of a socket may be
	if err != nil {
		t.Fatal(err)
	}
	m := mortal{dir: dir, name: "e20"}
	t.Cleanup(func() {
		m.kill(t) // or its end would wait for that of each container
		m.setup(t, "down", dir)
		os.RemoveAll(dir)
	})
	m.start(t)
	address, err := os.ReadFile(filepath.Join(dir, m.name, "address"))
	if err != nil {
		t.Fatal(err)
	}
	m.machine.Host.Name, m.machine.Host.Host = "home", "unix://"+filepath.Join(dir, m.name, "docker.sock")
	m.address = strings.TrimSpace(string(address))
	return m
}

// start starts the engine, also again.
func (m mortal) start(t *testing.T) {
	t.Helper()
	m.setup(t, "up", m.dir, m.name)
}

func (m mortal) setup(t *testing.T, args ...string) {
	t.Helper()
	// Into a file: what is started here would hold a pipe open.
	log := filepath.Join(m.dir, "log")
	out, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("setup/engines.sh", args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log)
		t.Fatalf("engines.sh %v: %v\n%s", args, err, text)
	}
}

// kill ends at once everything that runs there, the engine first, so that it takes note of nothing.
func (m mortal) kill(t *testing.T) {
	t.Helper()
	running := ""
	if ids, err := m.try("ps", "-q"); err == nil && ids != "" { // shims may be those of the host's own containerd
		running, _ = m.try(append([]string{"inspect", "-f", "{{.State.Pid}}"}, strings.Fields(ids)...)...)
	}
	for _, pid := range append(m.processes(t), strings.Fields(running)...) {
		n, err := strconv.Atoi(pid)
		if err != nil || n < 2 {
			t.Fatalf("process %q: %v", pid, err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	for range 300 {
		if len(m.processes(t)) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("still there: %v", m.processes(t))
}

// processes are those of the engine, whose directory is in their arguments, and the first of each container, which takes
// the others with it.
func (m mortal) processes(t *testing.T) (pids []string) {
	t.Helper()
	lines, err := fs.Glob(os.DirFS("/proc"), "[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		text, _ := os.ReadFile(filepath.Join("/proc", line)) // it may have ended
		program, args, _ := bytes.Cut(text, []byte{0})
		name := filepath.Base(string(program))
		if !slices.Contains([]string{"dockerd", "containerd", shim}, name) || !bytes.Contains(args, []byte(m.dir+"/")) {
			continue
		}
		pid := filepath.Dir(line)
		pids = append(pids, pid)
		if name == shim {
			children, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
			pids = append(pids, strings.Fields(string(children))...)
		}
	}
	return pids
}

// shim is the parent of a container.
const shim = "containerd-shim-runc-v2"
