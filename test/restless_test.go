package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// Files that come, change, shrink and go while they are read, in a volume and in the container's own
// layer: what could not be had is noted, all else is whole. Of containers that stand still nothing is
// missing.
func TestFilesThatChangeWhileTheyAreRead(t *testing.T) {
	all := machines(t)
	for _, m := range []machine{all["E20"], all["E29C"]} {
		t.Run(m.Name, func(t *testing.T) {
			name := newRestless(t, m)
			const sum = "md5sum /data/stays /own/stays"
			want := m.docker(t, "exec", name, "sh", "-c", sum)
			w := newWorld(t, "")
			w.init(t)

			vanished, torn, runs := 0, 0, 0
			for ; runs < 4 || runs < 40 && (vanished == 0 || torn == 0); runs++ {
				notes := restlessBackup(t, w, m, name, "none")
				vanished += strings.Count(notes, "vanished while")
				torn += strings.Count(notes, "changed while")
			}
			t.Logf("%d backups of the running container note %d that vanished, %d that changed", runs, vanished, torn)
			if vanished == 0 || torn == 0 {
				t.Error("nothing happened to happen")
			}
			restlessRestore(t, w, m, name, want, sum)
			for range 3 {
				if notes := restlessBackup(t, w, m, name, "pause"); strings.Contains(notes, " while ") {
					t.Errorf("of a paused container: %s", notes)
				}
			}
			restlessRestore(t, w, m, name, want, sum)
			w.clean(t)
		})
	}
}

// newRestless runs a container that is never done, and returns its name.
func newRestless(t testing.TB, m machine) string {
	t.Helper()
	const name = "hakotest-fidrestless"
	m.wipe(t, name)
	t.Cleanup(func() { m.wipe(t, name) })
	m.docker(t, "run", "-d", "--name", name, "-v", name+"-data:/data", dockertest.Busybox(t, m.Host), "sh", "-c", `
		churn() {
			i=0
			while :; do
				i=$((i+1)); d=$1/d$((i%5))
				mkdir -p $d/e; for n in 1 2 3 4 5 6 7 8; do echo $i >$d/e/$n; done
				cat $1/stays >$1/torn; cat $1/stays >>$1/torn; : >$1/torn
				mv $d/e $d/f; rm -rf $1/d$(((i+2)%5))
			done
		}
		mkdir -p /own; for p in /data /own; do [ -e $p/stays ] || head -c 6000000 /dev/urandom >$p/stays; done
		touch /ready; churn /data & churn /own & wait`)
	for range 100 {
		if _, err := m.try("exec", name, "test", "-e", "/ready"); err == nil {
			return name
		}
	}
	t.Fatal("never ready")
	return ""
}

// restlessBackup backs the container up and returns what is noted. Nothing may be unreadable.
func restlessBackup(t testing.TB, w *world, m machine, name, quiesce string) string {
	t.Helper()
	o := w.ok(t, "backup", "--json", "--host", m.Host.Host, "--quiesce", quiesce, name)
	return fmt.Sprint(o.summary(t, "summary")["notes"])
}

// restlessRestore restores the newest snapshot beside the container, and removes it again.
func restlessRestore(t testing.TB, w *world, m machine, name, want, sum string) {
	t.Helper()
	w.ok(t, "restore", "--host", m.Host.Host, "--as", name+"-copy", name)
	if got := m.docker(t, "exec", name+"-copy", "sh", "-c", sum); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	m.wipe(t, name+"-copy")
}
