package test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A system comes home while it still runs at the stand-in: it is stopped there by the command that brings it home, with
// all that was written until then. That is killed once, when it has stopped something there, and then goes back once, for a
// gate at home is not passed.
func TestFailbackFromRunningStandIn(t *testing.T) {
	if testing.Short() {
		t.Skip("the program under test is built without the race detector")
	}
	all := machines(t)
	first, second := all["E20"], all["E29C"]
	const name = "hakotest-failback"
	home, image := newSites(t, first, second, name)
	first.docker(t, "exec", name+"-db", "sh", "-c", "echo written after the last backup >/data/late; sync")
	standby := newWorld(t, filepath.Join(home.dir, "repository"))
	standby.ok(t, "failover", "--host", second.Host.Host, "--site", "cloud", name)
	first.docker(t, "stop", name+"-db", name+"-web")
	second.docker(t, "exec", name+"-db", "sh", "-c", "echo order 2 >>/data/orders; dd if=/dev/urandom of=/data/big bs=1M count=2 2>/dev/null; sync")

	args := []string{"failback", "--host", first.Host.Host, "--stand-in", second.Host.Host, "--gate", "exec:" + name + "-web:grep -q 'order 3' /data/orders", name}
	plan := home.ok(t, append(args[:1:1], append([]string{"-n"}, args[1:]...)...)...)
	if !strings.Contains(plan.err, name+"-db") || !strings.Contains(plan.out, "plan:") {
		t.Errorf("dry run:\n%s\n%s", plan.err, plan.out)
	}
	second.docker(t, "exec", name+"-db", "sh", "-c", "echo order 3 >>/data/orders; sync")
	home.killedFailback(t, second, name+"-web", args...)
	unfit := append([]string{args[0], "--gate-timeout", "1ms", "--gate", "exec:" + name + "-db:false"}, args[1:]...)
	home.fails(t, 23, []string{"gate exec:" + name + "-db:false: not passed", "hint: the stand-in runs again", "volume " + name + "-data"}, unfit...)
	if got := second.docker(t, "exec", name+"-web", "cat", "/data/orders"); got != "order 1\norder 2\norder 3" {
		t.Errorf("at the stand-in again: %q", got)
	}
	if got := first.docker(t, "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}} {{.State.Status}}", name+"-db", name+"-web"); got != "no exited\nno exited" {
		t.Errorf("at home, after it went back: %q", got)
	}
	standby.ok(t, "backup", "--host", second.Host.Host, "--site", "cloud", name)
	back := home.ok(t, append([]string{"--json", "-q"}, args...)...).summary(t, "failback")
	down, rto := time.Duration(back["downtime"].(float64)), time.Duration(back["rto"].(float64))
	t.Logf("down for %v of %v, %v bytes fetched, %v here", down, rto, back["fetched"], back["local"])
	if down <= 0 || down > rto {
		t.Errorf("down for %v of %v", down, rto)
	}
	if got := first.docker(t, "exec", name+"-web", "cat", "/data/orders", "/own/config"); got != "order 1\norder 2\norder 3\nweb" {
		t.Errorf("at home: %q", got)
	}
	if got := second.docker(t, "ps", "-q", "--filter", "name="+name); got != "" {
		t.Errorf("at the stand-in there runs %q", got)
	}
	if got := second.docker(t, "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}} {{.State.Status}}", name+"-db"); got != "no exited" {
		t.Errorf("at the stand-in: %q", got)
	}
	kept := false
	for volume := range strings.FieldsSeq(first.docker(t, "volume", "ls", "-q", "--filter", "name="+name+"-data.hakobune-old-")) {
		late, _ := first.try("run", "--rm", "-v", volume+":/v", image, "cat", "/v/late")
		kept = kept || strings.HasSuffix(late, "written after the last backup")
	}
	if !kept {
		t.Error("what was written at home after its last backup is not kept")
	}
	if out := home.ok(t, "report", name).out; !strings.Contains(out, "failback") {
		t.Errorf("report:\n%s", out)
	}
	standby.fails(t, 22, []string{"belongs to site"}, "backup", "--host", second.Host.Host, "--site", "cloud", name)
	home.clean(t)
}

// killedFailback runs a failback and kills it when it has stopped a container of the stand-in.
func (w *world) killedFailback(t testing.TB, standIn machine, container string, args ...string) {
	t.Helper()
	w.killed(t, func() bool {
		state, err := standIn.try("inspect", "-f", "{{.State.Status}}", container)
		return err == nil && state == "exited"
	}, args...)
}
