package test

// What goes wrong for those who use the program: every case has its exit code, says what is wrong and
// what to do about it, and loses nothing and leaves nothing behind.

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
	"github.com/hakobune-dr/hakobune/internal/testserver"
)

const badPrefix = "hakotest-bad"

// badSystem runs a system of one container, with a volume of its name and "-data" at /data that holds
// so many random bytes. It ends by itself once there is a file /data/fail.
func badSystem(t testing.TB, m machine, name string, size int, flags ...string) string {
	t.Helper()
	name = badPrefix + name
	m.wipe(t, name)
	t.Cleanup(func() { m.wipe(t, name) })
	args := append([]string{"run", "-d", "--name", name, "--stop-timeout", "1", "-v", name + "-data:/data"}, flags...)
	if !slices.ContainsFunc(flags, func(f string) bool { return strings.HasPrefix(f, badPrefix+"/") }) {
		args = append(args, dockertest.Busybox(t, m.Host))
	}
	m.docker(t, append(args, "sh", "-c", `[ -e /data/mark ] || { mkdir -p /own; echo mine >/own/mark; head -c `+strconv.Itoa(size)+` /dev/urandom >/data/noise
		echo first >/data/mark; }; trap "exit 0" TERM; while [ ! -e /data/fail ]; do sleep 0.1; done; echo "the data is bad"; exit 7`)...)
	m.until(t, name+" has its data", func() bool {
		_, err := m.try("exec", name, "test", "-e", "/data/mark")
		return err == nil
	})
	return name
}

func (m machine) until(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !reached(); time.Sleep(30 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30 seconds: %s", m.Name, what)
		}
	}
}

// mark reads what the system keeps in its volume.
func (m machine) mark(t testing.TB, container string) string {
	t.Helper()
	return m.docker(t, "exec", container, "cat", "/data/mark")
}

// inventory lists everything of these tests that the engine holds.
func (m machine) inventory(t testing.TB) string {
	t.Helper()
	all := m.docker(t, "ps", "-a", "--format", "container {{.Names}} {{.State}}") + "\n" +
		m.docker(t, "volume", "ls", "--format", "volume {{.Name}}") + "\n" +
		m.docker(t, "network", "ls", "--format", "network {{.Name}}") + "\n" +
		m.docker(t, "images", "--format", "image {{.Repository}}:{{.Tag}}")
	lines := slices.DeleteFunc(strings.Split(all, "\n"), func(l string) bool { return !strings.Contains(l, badPrefix) })
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// unchanged runs do, which must leave the engine as it is.
func (m machine) unchanged(t testing.TB, do func()) {
	t.Helper()
	before := m.inventory(t)
	do()
	if after := m.inventory(t); after != before {
		t.Errorf("%s has now\n%s\nand had\n%s", m.Name, after, before)
	}
}

// stored lists the objects of a repository in a directory.
func stored(t testing.TB, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// repository is where a world's directory repository is.
func (w *world) repository() string { return filepath.Join(w.dir, "repository") }

func TestBadNames(t *testing.T) {
	m := machines(t)["E29G"]
	name := badSystem(t, m, "-names", 100_000)
	host := m.Host.Host
	w := newWorld(t, "")
	w.init(t)
	w.backup(t, m, name)
	wrong := filepath.Join(w.dir, "wrong")
	if err := os.WriteFile(wrong, []byte("the wharf at high tide\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(w.dir, "newer")
	copyNewer(t, w.repository(), newer)
	empty := t.TempDir()
	down := "unix://" + filepath.Join(empty, "docker.sock")
	objects := stored(t, w.repository())
	m.unchanged(t, func() {
		for _, c := range []struct {
			code  int
			words string // separated by |
			args  string
		}{
			{1, "no such system|" + name + "|hint: |backup -n --all", "backup --host " + host + " " + name[:len(name)-1]},
			{1, "no such system|" + name + "|hint: ", "backup --host " + host + " hakotest-bda-names"},
			{1, "no such snapshot|" + name + "|hint: hakobune snapshots", "restore --host " + host + " hakotest-bad-nmaes"},
			{1, "no such snapshot|hint: hakobune snapshots", "restore --host " + host + " 0123456789abcdef"},
			{1, "no such snapshot|hint: hakobune snapshots", "restore --host " + host + " " + name + "@2001-01-01"},
			{12, "wrong|hint: |key list", "snapshots -p " + wrong},
			{12, "wrong|hint: |key list", "backup -p " + wrong + " --host " + host + " " + name},
			{12, "wrong|hint: |key list", "restore -p " + wrong + " --host " + host + " " + name},
			{10, "no repository|hint: |hakobune init", "backup -r " + empty + " --host " + host + " " + name},
			{10, "no repository|hint: |hakobune init", "restore -r " + empty + "/nowhere --host " + host + " " + name},
			{1, "newer|hint: |update", "backup -r " + newer + " --host " + host + " " + name},
			{1, "newer|hint: |update", "restore -r " + newer + " --host " + host + " " + name},
			{1, "engine|not reachable|" + down + "|hint: |doctor", "backup --host " + down + " " + name},
			{1, "engine|not reachable|" + down + "|hint: |doctor", "restore --host " + down + " " + name},
			{1, "engine|not reachable|hint: |doctor", "restore --host tcp://127.0.0.1:1 " + name},
		} {
			o := w.fails(t, c.code, strings.Split(c.words, "|"), strings.Fields(c.args)...)
			if o.out != "" {
				t.Errorf("%s prints a result: %s", o.commandLine, o.out)
			}
		}
	})
	if now := stored(t, w.repository()); now != objects {
		t.Errorf("the repository holds now\n%s\nand held\n%s", now, objects)
	}
	if paused(t, m, name) {
		t.Error("paused")
	}
	w.clean(t)
}

// copyNewer copies a repository as a later version of the program might have written it.
func copyNewer(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(to, "config")
	config, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	later := bytes.Replace(config, []byte(`"version":1`), []byte(`"version":9`), 1)
	if bytes.Equal(later, config) {
		t.Fatalf("no version in %s", config)
	}
	rewrite(t, file, later)
}

// rewrite replaces the content of an object, which is not writable.
func rewrite(t testing.TB, file string, content []byte) {
	t.Helper()
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, content, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// A byte of one pack is another: the systems in it do not come back, the others do.
func TestBadObject(t *testing.T) {
	all := machines(t)
	m, standby := all["E29G"], all["E20"]
	whole := badSystem(t, m, "-whole", 300_000)
	image := badPrefix + "/own:1"
	m.docker(t, "commit", whole, image)
	t.Cleanup(func() { m.try("rmi", "-f", image) })
	broken := badSystem(t, m, "-broken", 300_000, "-p", "18931:80", "--network", badNetwork(t, m), image)
	for _, name := range []string{whole, broken} {
		standby.wipe(t, name, image)
		t.Cleanup(func() { standby.wipe(t, name, image) })
	}
	host := standby.Host.Host
	w := newWorld(t, "")
	w.init(t)
	w.backup(t, m, whole)
	packs := stored(t, filepath.Join(w.repository(), "p"))
	id := w.backup(t, m, broken)
	for pack := range strings.SplitSeq(stored(t, filepath.Join(w.repository(), "p")), "\n") {
		if !strings.Contains(packs, pack) {
			b, err := os.ReadFile(pack)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 1
			rewrite(t, pack, b)
		}
	}
	damaged := []string{"damaged", "hint: hakobune check"}
	standby.unchanged(t, func() {
		w.fails(t, 4, damaged, "restore", "--host", host, broken)
		w.fails(t, 4, damaged, "restore", "--host", host, "--no-cache", "--only", "volumes", broken)
	})
	dir := filepath.Join(w.dir, "files")
	w.fails(t, 4, damaged, "restore", "--into-dir", dir, broken)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
	o := w.fails(t, 4, nil, "check", "--read-data")
	for _, word := range []string{"fault: p/", "touches " + broken + ": snapshots " + id[:8]} {
		if !strings.Contains(o.out, word) {
			t.Errorf("check does not say %q:\n%s", word, o.out)
		}
	}
	if strings.Contains(o.out, whole) {
		t.Errorf("check says that the other system is damaged:\n%s", o.out)
	}
	w.ok(t, "restore", "--host", host, whole)
	if got := standby.mark(t, whole); got != "first" {
		t.Errorf("the other system came back with %q", got)
	}
}

func badNetwork(t testing.TB, m machine) string {
	t.Helper()
	name := badPrefix + "-net"
	m.try("network", "rm", name)
	m.docker(t, "network", "create", name)
	t.Cleanup(func() { m.try("network", "rm", name) })
	return name
}

// A port that another container publishes is found before anything is done. One that a process of
// the host has is found by the engine, when all is made: all of it is removed.
func TestBadPort(t *testing.T) {
	all := machines(t)
	home := all["E20"]
	name := badSystem(t, home, "-port", 100_000, "-p", "18932:80")
	w := newWorld(t, "")
	w.init(t)
	w.backup(t, home, name)
	home.wipe(t, name)
	for _, m := range []machine{home, all["E29C"]} {
		t.Run(m.Name, func(t *testing.T) {
			host, other := m.Host.Host, badPrefix+"-squatter"
			image := dockertest.Busybox(t, m.Host)
			for _, n := range []string{name, other} {
				m.wipe(t, n)
				t.Cleanup(func() { m.wipe(t, n) })
			}
			m.docker(t, "run", "-d", "--name", other, "--stop-timeout", "1", "-p", "18932:80", image, "sleep", "600")
			m.unchanged(t, func() {
				words := []string{"clashes", "port 18932/tcp", "in use by container " + other, "hint: ", "nothing was changed", "--port"}
				o := w.fails(t, 1, words, "restore", "--host", host, name)
				if !strings.Contains(o.out, "plan: ") {
					t.Errorf("no plan:\n%s", o.out)
				}
				w.fails(t, 1, words, "restore", "-n", "--host", host, name)
			})
			m.docker(t, "rm", "-f", other)
			m.docker(t, "run", "-d", "--name", other, "--network", "host", image, "nc", "-ll", "-p", "18932", "-e", "cat")
			m.until(t, "the port is taken", func() bool {
				c, err := net.Dial("tcp", net.JoinHostPort(m.address, "18932"))
				return err == nil && c.Close() == nil
			})
			m.unchanged(t, func() {
				w.fails(t, 1, []string{"start container " + name, "18932", "address already in use", "hint: ", "--port"}, "restore", "--host", host, name)
			})
			w.ok(t, "restore", "--host", host, "--port", "18932:18933", name)
			if got := m.docker(t, "port", name, "80"); !strings.Contains(got, ":18933") {
				t.Errorf("published at %s", got)
			}
		})
	}
}

// What has a name already is not touched, or as the flags say.
func TestBadClash(t *testing.T) {
	m := machines(t)["E29G"]
	name := badSystem(t, m, "-clash", 200_000, "-p", "18934:80")
	host := m.Host.Host
	w := newWorld(t, "")
	w.init(t)
	good := w.backup(t, m, name)
	m.docker(t, "exec", name, "sh", "-c", "echo second >/data/mark; echo second >/own/mark")
	id := func(container string) string { return m.docker(t, "inspect", "-f", "{{.Id}}", container) }
	old := id(name)
	untouched := func(t *testing.T) {
		t.Helper()
		if id(name) != old || m.mark(t, name) != "second" || m.docker(t, "exec", name, "cat", "/own/mark") != "second" {
			t.Error("the old container is not what it was")
		}
	}

	t.Run("refused", func(t *testing.T) {
		m.unchanged(t, func() {
			w.fails(t, 1, []string{"clashes", "container " + name + " exists already", "volume " + name + "-data exists already", "hint: nothing was changed", "--replace", "--skip-existing", "--as"},
				"restore", "--host", host, name)
			w.fails(t, 1, []string{"volume " + name + "-data exists already", "hint: "}, "restore", "--host", host, "--only", "volumes", name)
			w.fails(t, 2, []string{"exclude each other"}, "restore", "--host", host, "--replace", "--skip-existing", name)
			w.fails(t, 2, []string{"neither a part", name}, "restore", "--host", host, "--only", "wbe", name)
			w.fails(t, 1, []string{"clashes", "port 18934/tcp", "hint: "}, "restore", "--host", host, "--as", name+"-as", name)
		})
		untouched(t)
	})
	t.Run("skip", func(t *testing.T) {
		w.ok(t, "restore", "--host", host, "--skip-existing", name)
		untouched(t)
	})
	t.Run("as", func(t *testing.T) {
		as := name + "-as"
		w.ok(t, "restore", "--host", host, "--as", as, "--port", "18934:18935", "--no-start", good)
		if s := m.docker(t, "inspect", "-f", "{{.State.Status}}", as); s != "created" {
			t.Errorf("is %s", s)
		}
		m.docker(t, "start", as)
		if got := m.mark(t, as); got != "first" {
			t.Errorf("beside the original: %q", got)
		}
		untouched(t)
		m.wipe(t, as)
	})
	t.Run("volumes", func(t *testing.T) {
		as := name + "-volumes"
		w.ok(t, "restore", "--host", host, "--as", as, "--only", "volumes", good)
		if inv := m.inventory(t); strings.Contains(inv, "container "+as) || strings.Contains(inv, "image hakobune/"+as) || !strings.Contains(inv, "volume "+as+"-data") {
			t.Errorf("there is\n%s", inv)
		}
		m.wipe(t, as)
	})
	t.Run("replace by what fails", func(t *testing.T) {
		// The snapshot is of a moment at which the system cannot start again.
		m.docker(t, "pause", name)
		mount := m.docker(t, "volume", "inspect", "-f", "{{.Mountpoint}}", name+"-data")
		if err := os.WriteFile(filepath.Join(mount, "fail"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		bad := w.backup(t, m, name)
		if err := os.Remove(filepath.Join(mount, "fail")); err != nil {
			t.Fatal(err)
		}
		m.docker(t, "unpause", name)
		m.unchanged(t, func() {
			w.fails(t, 1, []string{"start container " + name, "ended with code 7", "the data is bad", "hint: "}, "restore", "--host", host, "--replace", bad)
		})
		untouched(t)
	})
	t.Run("replace", func(t *testing.T) {
		cmd := w.command("restore", "--host", host, "--replace", good)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		m.until(t, "the old container is aside while the new one runs", func() bool {
			out := m.inventory(t)
			return strings.Contains(out, "container "+name+".hakobune-old-") && strings.Contains(out, "container "+name+" running") &&
				strings.Contains(out, "volume "+name+"-data.hakobune-old-")
		})
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if id(name) == old || m.mark(t, name) != "first" {
			t.Error("it is still the old container")
		}
		if inv := m.inventory(t); strings.Contains(inv, "hakobune-old") {
			t.Errorf("left:\n%s", inv)
		}
	})
	w.clean(t)
}

// tmpfs mounts a file system of that size.
func tmpfs(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("hakobune-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

var noSpace = []string{"no space left on device", "hint: free some space"}

func TestBadFullDisk(t *testing.T) {
	m := machines(t)["E29G"]
	name := badSystem(t, m, "-full", 6_000_000)
	t.Run("restore", func(t *testing.T) {
		w := newWorld(t, "")
		w.init(t)
		w.backup(t, m, name)
		disk := tmpfs(t, "3m")
		for _, dir := range []string{disk, filepath.Join(disk, "new")} {
			w.fails(t, 1, noSpace, "restore", "--into-dir", dir, name)
			if left := stored(t, disk); left != "" {
				t.Errorf("left: %s", left)
			}
		}
		w.clean(t)
	})
	t.Run("backup", func(t *testing.T) {
		disk := tmpfs(t, "4m")
		w := newWorld(t, filepath.Join(disk, "repository"))
		w.init(t)
		w.fails(t, 1, noSpace, "backup", "--host", m.Host.Host, name)
		if paused(t, m, name) {
			t.Error("paused")
		}
		wholeObjects(t, filepath.Join(disk, "repository"))
		w.clean(t) // also on the full disk
		if out := w.ok(t, "snapshots", "--json").out; strings.Contains(out, name) {
			t.Errorf("there is a snapshot: %s", out)
		}
		if err := syscall.Mount("hakobune-test", disk, "tmpfs", syscall.MS_REMOUNT, "size=32m"); err != nil {
			t.Fatal(err)
		}
		w.backup(t, m, name)
		w.clean(t)
		wholeObjects(t, filepath.Join(disk, "repository"))
	})
	t.Run("cache", func(t *testing.T) {
		disk := tmpfs(t, "64k")
		w := newWorld(t, "", "HAKOBUNE_CACHE_DIR="+disk)
		w.init(t)
		for range 3 {
			w.backup(t, m, name)
		}
		w.clean(t)
	})
}

// wholeObjects holds each pack against its name, which is the hash of what it has to hold.
func wholeObjects(t testing.TB, repository string) {
	t.Helper()
	for _, kind := range []string{"p", "t"} {
		dir := filepath.Join(repository, kind)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for file := range strings.SplitSeq(stored(t, dir), "\n") {
			if file == "" || len(filepath.Base(file)) != 64 {
				continue
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != filepath.Base(file) {
				t.Errorf("%s with %d bytes is not whole", file, len(b))
			}
		}
	}
}

func TestBadBucketGone(t *testing.T) {
	m := machines(t)["E29C"]
	name := badSystem(t, m, "-bucket", 30_000_000)
	server := testserver.MinIO(t)
	w := newWorld(t, server.URL("ark")+"/deep", onStore(server)...)
	w.fails(t, 10, []string{"ark", "hint: ", "hakobune init"}, "backup", "--host", m.Host.Host, name)
	w.fails(t, 10, []string{"ark", "hint: ", "--create-bucket"}, "init", "--argon2-memory", "19MiB")
	w.init(t, "--create-bucket")
	cmd := w.command("backup", "--retry", "2s", "--limit-upload", "6MiB", "--host", m.Host.Host, name)
	stderr, err := os.Create(filepath.Join(w.dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	said := func() string {
		b, err := os.ReadFile(stderr.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m.until(t, "the backup copies", func() bool { return strings.Contains(said(), "copy system "+name) })
	time.Sleep(time.Second) // some of the five that it takes at this rate
	server.Kill()
	killed := time.Now()
	cmd.Wait() // the exit code says it all
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit %d", code)
	}
	for _, word := range []string{"back up " + name, server.Endpoint, "connection refused", "hint: "} {
		if !strings.Contains(said(), word) {
			t.Errorf("does not say %q:\n%s", word, said())
		}
	}
	t.Logf("gave up %s after the store had gone", time.Since(killed).Round(time.Millisecond))
	if paused(t, m, name) {
		t.Error("paused")
	}
	w.fails(t, 1, []string{server.Endpoint, "hint: "}, "snapshots", "--retry", "1s")
	server.Start()
	w.clean(t)
	w.backup(t, m, name)
	w.clean(t)
}

func TestBadHook(t *testing.T) {
	m := machines(t)["E20"]
	name := badSystem(t, m, "-hook", 100_000)
	host := m.Host.Host
	w := newWorld(t, "")
	w.init(t)
	pre, post := name+"=echo no such table >&2; exit 5", name+"=echo post >>/data/post"
	words := []string{"command before in container " + name, "exit code 5", "no such table", "hint: ", "--ignore-hook-errors"}
	w.fails(t, 1, words, "backup", "--host", host, "--pre", pre, "--post", post, name)
	if out := w.ok(t, "snapshots", "--json").out; strings.Contains(out, name) {
		t.Errorf("there is a snapshot: %s", out)
	}
	if got := m.docker(t, "exec", name, "cat", "/data/post"); got != "post" {
		t.Errorf("the command after ran so: %q", got)
	}
	o := w.run(t, "backup", "--host", host, "--pre", pre, "--ignore-hook-errors", name)
	if o.code != 3 || !strings.Contains(o.out, "INCOMPLETE") || !strings.Contains(o.out+o.err, "no such table") {
		t.Errorf("exit %d: %s%s", o.code, o.out, o.err)
	}
	w.fails(t, 2, []string{"CONTAINER=COMMAND"}, "backup", "--host", host, "--pre", "true", name)
	if paused(t, m, name) {
		t.Error("paused")
	}
	w.clean(t)
}

func TestBadIncomplete(t *testing.T) {
	all := machines(t)
	m, standby := all["E20"], all["E29G"]
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	name := badSystem(t, m, "-incomplete", 100_000, "-v", dir+":/large")
	t.Cleanup(func() { standby.wipe(t, name) })
	w := newWorld(t, "")
	w.init(t)
	o := w.run(t, "backup", "--host", m.Host.Host, "--max-bind", "1MiB", name)
	if o.code != 3 || !strings.Contains(o.out, "INCOMPLETE snapshot") {
		t.Errorf("exit %d: %s%s", o.code, o.out, o.err)
	}
	for _, word := range []string{"missing", dir, "include it", "exclude it"} {
		if !strings.Contains(o.out+o.err, word) {
			t.Errorf("does not say %q:\n%s%s", word, o.out, o.err)
		}
	}
	if out := w.ok(t, "snapshots", "--details", name).out; !strings.Contains(out, dir) || !strings.Contains(strings.ToLower(out), "incomplete") {
		t.Errorf("the snapshot does not say what is missing:\n%s", out)
	}
	// What is in it comes back.
	o = w.ok(t, "restore", "--host", standby.Host.Host, "--bind", dir+":"+t.TempDir(), name)
	if !strings.Contains(o.out+o.err, "not in the snapshot") || standby.mark(t, name) != "first" {
		t.Errorf("restored:\n%s%s", o.out, o.err)
	}
	w.fails(t, 2, []string{"--max-bind"}, "backup", "--max-bind", "much", name)
	w.backup(t, m, name)
	w.clean(t)
}

// An interrupted restore removes what it made: while it fills a volume, and while it waits.
func TestBadInterrupt(t *testing.T) {
	all := machines(t)
	home, m := all["E20"], all["E29G"]
	name := badSystem(t, home, "-interrupt", 20_000_000, "--health-cmd", "test -e /tmp/well", "--health-interval", "1s")
	m.wipe(t, name)
	t.Cleanup(func() { m.wipe(t, name) })
	home.docker(t, "exec", name, "touch", "/tmp/well")
	home.healthy(t, name)
	w := newWorld(t, "")
	w.init(t)
	w.backup(t, home, "--exclude", name+"/tmp/well", name)
	for _, c := range []struct {
		when string
		args []string
	}{
		{"volume " + name + "-data", []string{"--limit-download", "2MiB"}},
		{"container " + name + " running", nil},
	} {
		m.unchanged(t, func() {
			cmd := w.command(append(append([]string{"restore", "--host", m.Host.Host}, c.args...), name)...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			m.until(t, c.when, func() bool { return strings.Contains(m.inventory(t), c.when) })
			if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			cmd.Wait() // the exit code says it all
			t.Logf("%s: ended after %s", c.when, time.Since(start).Round(time.Millisecond))
			if code := cmd.ProcessState.ExitCode(); code != 130 {
				t.Errorf("%s: exit %d\n%s", c.when, code, stderr.String())
			}
		})
	}
}

// Names as Docker allows them and people do not choose them.
func TestBadOddNames(t *testing.T) {
	all := machines(t)
	home := all["E29C"]
	for _, odd := range []string{"_.-__Odd..x_", ".9"} {
		name := badSystem(t, home, odd, 50_000)
		w := newWorld(t, "")
		w.init(t)
		w.backup(t, home, name)
		if out := w.ok(t, "dump", name+":"+name+"-data/mark").out; out != "first\n" {
			t.Errorf("%s: dump: %q", name, out)
		}
		for _, m := range []machine{all["E20"], home} {
			as, images := badPrefix+"-odd_as", badPrefix+"-odd" // what the odd name becomes as an image's
			m.wipe(t, images)
			t.Cleanup(func() { m.wipe(t, images) })
			w.ok(t, "restore", "--host", m.Host.Host, "--as", as, name)
			if got := m.mark(t, as); got != "first" {
				t.Errorf("%s: as %s: %q", m.Name, as, got)
			}
			m.wipe(t, as)
		}
		all["E20"].wipe(t, name)
		t.Cleanup(func() { all["E20"].wipe(t, name) })
		w.ok(t, "restore", "--host", all["E20"].Host.Host, name)
		if got := all["E20"].mark(t, name); got != "first" {
			t.Errorf("%s: %q", name, got)
		}
		w.fails(t, 2, []string{"is not a name"}, "restore", "--host", home.Host.Host, "--as", "Odd..x", name)
	}
}

// The password and the keys of the store are in no command line, and in no environment but that of
// the process that was given them.
func TestBadEyes(t *testing.T) {
	m := machines(t)["E29G"]
	name := badSystem(t, m, "-eyes", 100_000)
	server := testserver.MinIO(t)
	w := newWorld(t, server.URL("ark"), append(onStore(server), "HAKOBUNE_PASSWORD="+password)...)
	w.init(t, "--create-bucket")
	cmd := w.command("backup", "-v", "--host", m.Host.Host, "--pre", name+"=sleep 1", name)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	secrets := []string{password, server.SecretKey}
	guards := 0
	for running := true; running; time.Sleep(20 * time.Millisecond) {
		guards += look(t, cmd.Process.Pid, w.bin, secrets)
		select {
		case err := <-ended:
			if running = false; err != nil {
				t.Errorf("%v\n%s", err, said.String())
			}
		default:
		}
	}
	if guards == 0 {
		t.Error("no guard was seen")
	}
	for _, secret := range secrets {
		if strings.Contains(said.String(), secret) {
			t.Errorf("it prints %q:\n%s", secret, said.String())
		}
	}
}

// look looks for secrets at the processes of this host, as others can, and returns how many guards
// of the program it saw.
func look(t testing.TB, parent int, bin string, secrets []string) (guards int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		cmdline, _ := os.ReadFile(file) // it may have ended
		for _, secret := range secrets {
			if bytes.Contains(cmdline, []byte(secret)) {
				t.Errorf("%s: %q", file, cmdline)
			}
		}
		if !bytes.HasPrefix(cmdline, []byte(bin+"\x00")) || file == "/proc/"+strconv.Itoa(parent)+"/cmdline" {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "environ"))
		for _, secret := range secrets {
			if bytes.Contains(environ, []byte(secret)) {
				t.Errorf("%q has %q in its environment", cmdline, secret)
			}
		}
		if bytes.Contains(cmdline, []byte("internal-guard")) && len(environ) > 0 {
			guards++
		}
	}
	return guards
}
