package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// newPair runs a system of two containers with a volume between them on the machine.
func newPair(t testing.TB, m machine, name string) {
	t.Helper()
	image := dockertest.Busybox(t, m.Host)
	m.wipe(t, name)
	t.Cleanup(func() { m.wipe(t, name) })
	for _, c := range []struct{ service, script string }{
		{"db", `[ -e /data/orders ] || echo "order 1" >/data/orders; while :; do sleep 1; done`},
		{"web", `mkdir -p /own; echo web >/own/config; while :; do sleep 1; done`},
	} {
		m.docker(t, "run", "-d", "--name", name+"-"+c.service, "--stop-signal", "SIGKILL", "--stop-timeout", "1", "--label", "io.github.hakobune-dr.system="+name,
			"--label", "com.docker.compose.project="+name, "--label", "com.docker.compose.service="+c.service,
			"-v", name+"-data:/data", image, "sh", "-c", c.script)
	}
	for range 100 {
		if _, err := m.try("exec", name+"-web", "cat", "/data/orders", "/own/config"); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the system does not come up")
}

// newSites runs such a system on one machine, has it backed up there, and clears the other one, before and afterwards. It
// returns the system's image.
func newSites(t testing.TB, first, second machine, name string) (home *world, image string) {
	t.Helper()
	newPair(t, first, name)
	second.wipe(t, name)
	image = first.docker(t, "inspect", "-f", "{{.Config.Image}}", name+"-web")
	had := second.tags(image)
	t.Cleanup(func() {
		second.wipe(t, name)
		if len(had) == 0 {
			second.try("rmi", image)
		}
	})
	home = newWorld(t, "")
	home.init(t)
	home.backup(t, first, name)
	return home, image
}

// killed runs the program and kills it when so says so.
func (w *world) killed(t testing.TB, so func() bool, args ...string) {
	t.Helper()
	cmd := w.command(args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			t.Fatalf("it ended before it could be killed: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
		if so() {
			cmd.Process.Kill()
			<-ended
			return
		}
	}
}

// killedFailover runs a failover and kills it when it has begun to make things.
func (w *world) killedFailover(t testing.TB, args ...string) {
	t.Helper()
	w.killed(t, func() bool {
		found, err := filepath.Glob(filepath.Join(w.dir, "state", "hakobune", "restores", "*.restore"))
		return err == nil && len(found) > 0
	}, append([]string{"failover"}, args...)...)
}

// The home is lost, the standby takes over, the home comes back: one of them at a time backs the system up, and
// what was written at the standby comes home.
func TestFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("the program under test is built without the race detector")
	}
	all := machines(t)
	first, second := all["E29C"], all["E20"]
	const name = "hakotest-failover"
	home, _ := newSites(t, first, second, name)
	standby := newWorld(t, filepath.Join(home.dir, "repository"))

	args := []string{
		"--host", second.Host.Host, "--site", "cloud", "--gate", "exec:" + name + "-web:grep -q order /data/orders",
		"--hook", "echo $HAKOBUNE_SYSTEM at $HAKOBUNE_SITE >" + filepath.Join(standby.dir, "hooked"), name,
	}
	o := standby.ok(t, append([]string{"failover", "-n"}, args...)...)
	if got, _ := second.try("ps", "-aq", "--filter", "name="+name); got != "" || !strings.Contains(o.out, "plan:") {
		t.Errorf("a dry run made %s\n%s", got, o.out)
	}
	standby.killedFailover(t, args...)
	result := standby.ok(t, append([]string{"failover", "--json", "-q"}, args...)...).summary(t, "failover")
	t.Logf("RTO %v, RPO %v, resumed %v", time.Duration(result["rto"].(float64)), time.Duration(result["rpo"].(float64)), result["resumed"])
	if result["term"] != 1.0 {
		t.Errorf("term %v", result["term"])
	}
	if text, err := os.ReadFile(filepath.Join(standby.dir, "hooked")); string(text) != name+" at cloud\n" {
		t.Errorf("the hook wrote %q, %v", text, err)
	}
	if got := second.docker(t, "exec", name+"-web", "cat", "/data/orders", "/own/config"); got != "order 1\nweb" {
		t.Errorf("at the standby: %q", got)
	}

	// The old home is back, and must not back up.
	home.fails(t, 22, []string{"belongs to site cloud", "hint: "}, "backup", "--host", first.Host.Host, name)
	second.docker(t, "exec", name+"-db", "sh", "-c", "echo order 2 >>/data/orders")
	standby.backup(t, second, "--site", "cloud", name)

	// Home again. What home had is moved aside and kept.
	second.docker(t, "stop", name+"-db", name+"-web")
	first.docker(t, "update", "--restart", "always", name+"-web")
	back := home.ok(t, "failback", "--host", first.Host.Host, name)
	if !strings.Contains(back.out, name+"-data.hakobune-old-") || !strings.Contains(back.out, name+"-web.hakobune-old-") {
		t.Errorf("it does not name what it keeps:\n%s", back.out)
	}
	aside := first.docker(t, "ps", "-aq", "--filter", "name="+name+"-web.hakobune-old-")
	if policy := first.docker(t, "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", aside); policy != "no" {
		t.Errorf("what was moved aside would be started with the engine: %q", policy)
	}
	if labels := first.docker(t, "inspect", "-f", "{{json .Config.Labels}}{{json .Mounts}}", aside); strings.Contains(labels, "compose") || strings.Contains(labels, name+"-data") {
		t.Errorf("what was moved aside is Compose's, or has the new system's volume: %s", labels)
	}
	if got := first.docker(t, "cp", aside+":/own/config", "-"); !strings.Contains(got, "web\n") {
		t.Errorf("what was moved aside has lost its changes: %q", got)
	}
	old := strings.Fields(first.docker(t, "volume", "ls", "-q", "--filter", "name="+name+"-data.hakobune-old-"))
	if len(old) != 1 {
		t.Errorf("volumes of before: %q", old)
	}
	if got := first.docker(t, "exec", name+"-web", "cat", "/data/orders"); got != "order 1\norder 2" {
		t.Errorf("at home again: %q", got)
	}
	standby.fails(t, 22, []string{"belongs to site"}, "backup", "--host", second.Host.Host, "--site", "cloud", name)
	home.backup(t, first, name)
	if now := home.ok(t, "snapshots", name).out; !strings.Contains(now, name+"-web") || strings.Contains(now, "  container   "+name+"-web.hakobune-old") {
		t.Errorf("what was moved aside is taken for the system's:\n%s", now)
	}
	home.clean(t)
}
