package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// ways are the pairs of engines, home and standby, that a system moves between: old to new store,
// new to old, and both with overlay2.
var ways = [][2]string{{"E20", "E29C"}, {"E29C", "E20"}, {"E29G", "E20"}, {"E20", "E29G"}}

// An application with its database in one container, all its state in its own layer: backed up,
// lost with its image, and restored on another engine that has never seen it.
func TestApplicationInOneContainer(t *testing.T) {
	all := machines(t)
	const name, image, port = "hakotest-app", "hakobune-test/app", "18091"
	for _, way := range ways[:2] {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			home, standby := all[way[0]], all[way[1]]
			for _, m := range []machine{home, standby} {
				m.wipe(t, name, image)
				t.Cleanup(func() { m.wipe(t, name, image) })
			}
			home.load(t, "app")
			layers := home.layers(t, image)
			home.docker(t, "run", "-d", "--name", name, "-p", port+":80", "--restart", "unless-stopped", image)
			home.healthy(t, name)
			home.post(t, port, "/add?courses=4&kb=300")
			pages := home.pages(t, port)

			w := newWorld(t, "")
			w.init(t)
			first := w.backup(t, home, name)
			home.post(t, port, "/add?courses=2&kb=300") // and another night
			later := home.pages(t, port)
			w.backup(t, home, name)
			home.wipe(t, name, image)

			w.ok(t, "restore", "--host", standby.Host.Host, name)
			standby.healthy(t, name)
			if got := standby.pages(t, port); got != later {
				t.Errorf("the application answers otherwise:\n%s\nwant\n%s", got, later)
			}
			if got := standby.layers(t, image); got != layers {
				t.Errorf("layers %s, want %s", got, layers)
			}

			// The night before, beside it.
			w.ok(t, "restore", "--host", standby.Host.Host, "--as", name+"-before", "--port", port+":18092", first)
			standby.healthy(t, name+"-before")
			if got := standby.pages(t, "18092"); got != pages {
				t.Errorf("the first night answers otherwise:\n%s\nwant\n%s", got, pages)
			}
			w.clean(t)
		})
	}
}

// A system of two containers as Compose creates it, in every combination of engines.
func TestComposeSystem(t *testing.T) {
	all := machines(t)
	compose := os.Getenv("HAKOBUNE_TEST_COMPOSE")
	if compose == "" {
		t.Fatal("HAKOBUNE_TEST_COMPOSE is not set")
	}
	for _, way := range ways {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			s := composed{compose: compose, dir: filepath.Join(t.TempDir(), "courses"), port: "18093"}
			s.prepare(t, all[way[0]], all[way[1]])
			s.move(t, all[way[0]], all[way[1]])
		})
	}
}

type composed struct{ compose, dir, port string }

const (
	project  = "courses"
	webImage = "hakobune-test/web"
	dbImage  = "hakobune-test/db"
)

func (s composed) prepare(t *testing.T, home, standby machine) {
	s.wiped(t, home)
	s.wiped(t, standby)
	s.files(t)
	s.loaded(t, home)
}

// wiped has nothing of the system on the machine, neither now nor when the test ends.
func (s composed) wiped(t *testing.T, m machine) {
	m.wipe(t, project, webImage, dbImage)
	t.Cleanup(func() { m.wipe(t, project, webImage, dbImage) })
}

// files puts the system's into its directory.
func (s composed) files(t *testing.T) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"compose.yaml", "site.ini"} {
		b, err := os.ReadFile(filepath.Join("apps/courses", f))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.dir, f), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (s composed) loaded(t *testing.T, m machine) {
	m.load(t, "db")
	m.load(t, "web")
}

// on runs Compose on the machine's engine.
func (s composed) on(t *testing.T, m machine, args ...string) string {
	t.Helper()
	cmd := exec.Command(s.compose, args...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+m.Host.Host, "COURSES_PORT="+s.port)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: compose %s: %v\n%s", m.Name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s composed) move(t *testing.T, home, standby machine) {
	s.on(t, home, "up", "-d")
	home.healthy(t, "courses-web-1")
	home.post(t, s.port, "/add?courses=3&kb=200")
	pages := home.pages(t, s.port)

	minio := testserver.MinIOTLS(t)
	w := newWorld(t, minio.URL("ark")+"/night", onStore(minio)...)
	w.init(t, "--create-bucket")
	w.backup(t, home, project)
	home.wipe(t, project, webImage, dbImage)
	// The site burnt down: the host's files are gone too.
	if err := os.Remove(filepath.Join(s.dir, "site.ini")); err != nil {
		t.Fatal(err)
	}

	w.ok(t, "restore", "--host", standby.Host.Host, project)
	standby.healthy(t, "courses-web-1")
	if got := standby.pages(t, s.port); got != pages {
		t.Errorf("the application answers otherwise:\n%s\nwant\n%s", got, pages)
	}
	ps := s.on(t, standby, "ps", "--format", "{{.Name}} {{.State}} {{.Health}}")
	if !strings.Contains(ps, "courses-web-1 running healthy") || !strings.Contains(ps, "courses-db-1 running") {
		t.Errorf("compose does not recognise it:\n%s", ps)
	}
	up := s.on(t, standby, "up", "-d")
	if strings.Contains(up, "Recreate") || strings.Contains(up, "Created") {
		t.Errorf("compose creates it anew:\n%s", up)
	}
	s.configuration(t, standby)
	w.clean(t)
}

// configuration looks at what a restore must have kept.
func (s composed) configuration(t *testing.T, m machine) {
	t.Helper()
	for what, want := range map[string][3]string{
		"alias":          {"courses-db-1", `{{json (index .NetworkSettings.Networks "courses_back").Aliases}}`, "database"},
		"restart policy": {"courses-db-1", "{{.HostConfig.RestartPolicy.Name}}", "unless-stopped"},
		"memory limit":   {"courses-db-1", "{{.HostConfig.Memory}}", "536870912"},
		"environment":    {"courses-web-1", "{{json .Config.Env}}", "COURSES_DB_HOST=database"},
		"label":          {"courses-web-1", "{{json .Config.Labels}}", `"org.example.team":"harbour"`},
		"bind mount":     {"courses-web-1", "{{json .HostConfig.Binds}}{{json .HostConfig.Mounts}}", "site.ini"},
		"health check":   {"courses-web-1", "{{json .Config.Healthcheck.Test}}", "healthy.sh"},
	} {
		if got := m.docker(t, "inspect", "-f", want[1], want[0]); !strings.Contains(got, want[2]) {
			t.Errorf("%s: %s, want %s", what, got, want[2])
		}
	}
	if got := m.docker(t, "volume", "inspect", "-f", "{{json .Labels}}", "courses_data"); !strings.Contains(got, `"org.example.kept":"yes"`) {
		t.Errorf("labels of the volume: %s", got)
	}
	if got := m.docker(t, "network", "inspect", "-f", "{{json .Labels}}", "courses_back"); !strings.Contains(got, `"org.example.zone":"inner"`) {
		t.Errorf("labels of the network: %s", got)
	}
}
