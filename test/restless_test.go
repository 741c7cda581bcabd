package test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// Files that come, change, shrink and go while they are read, in a volume and in the container's own
// layer: what could not be had is noted, all else is whole. In a container that stands still there is
// nothing of the kind.
func TestFilesThatChangeWhileTheyAreRead(t *testing.T) {
	all := machines(t)
	for _, m := range []machine{all["E20"], all["E29C"]} {
		t.Run(m.Name, func(t *testing.T) {
			r := newRestless(t, m)
			want := r.sums(t, r.name)
			w := newWorld(t, "")
			w.init(t)

			vanished, torn, runs := 0, 0, 0
			for ; runs < 5 || runs < 50 && vanished+torn == 0; runs++ {
				notes, _ := r.backup(t, w, "none")
				vanished += strings.Count(notes, "vanished while")
				torn += strings.Count(notes, "changed while")
			}
			t.Logf("%d backups of the running container note %d that vanished, %d that changed", runs, vanished, torn)
			if vanished+torn == 0 {
				t.Error("nothing happened to happen")
			}
			if got := r.restored(t, w); got != want {
				t.Errorf("of the running container: got\n%s\nwant\n%s", got, want)
			}

			notes, held := "", false
			for n := 0; n < 5 && !held; n++ {
				notes, held = r.backup(t, w, "pause")
			}
			if !held || strings.Contains(notes, " while ") {
				t.Errorf("of the container that stood still (%t): %s", held, notes)
			}
			if got := r.restored(t, w); got != want {
				t.Errorf("of the container that stood still: got\n%s\nwant\n%s", got, want)
			}
			w.clean(t)
		})
	}
}

// restless is a container that is never done.
type restless struct {
	machine
	name string
}

func newRestless(t testing.TB, m machine) restless {
	t.Helper()
	r := restless{m, "hakotest-fidrestless"}
	m.wipe(t, r.name)
	t.Cleanup(func() { m.wipe(t, r.name) })
	m.docker(t, "run", "-d", "--name", r.name, "-v", r.name+"-data:/data", dockertest.Busybox(t, m.Host), "sh", "-c", `
		churn() {
			i=0
			while :; do
				i=$((i+1)); d=$1/z$((i%5))
				mkdir -p $d/e; for n in 1 2 3 4 5 6 7 8; do echo $i >$d/e/$n; done
				cat $1/stays >$1/torn; cat $1/stays >>$1/torn
				mv $d/e $d/f; rm -rf $1/z$(((i+2)%5))
			done
		}
		mkdir -p /own; for p in /data /own; do [ -e $p/stays ] || head -c 5000000 /dev/urandom >$p/stays; done
		touch /ready; churn /data & churn /own & wait`)
	for range 100 {
		if _, err := m.try("exec", r.name, "test", "-e", "/ready"); err == nil {
			return r
		}
	}
	t.Fatal("never ready")
	return restless{}
}

// sums are the checksums of what does not change.
func (r restless) sums(t testing.TB, container string) string {
	t.Helper()
	return r.docker(t, "exec", container, "md5sum", "/data/stays", "/own/stays")
}

// backup returns what is noted, and whether the container was held as it was to be: it may be too
// busy for the kernel to freeze it, and the snapshot is incomplete then. Else nothing may be missing.
func (r restless) backup(t testing.TB, w *world, quiesce string) (notes string, held bool) {
	t.Helper()
	o := w.run(t, "backup", "--json", "--host", r.Host.Host, "--quiesce", quiesce, r.name)
	s := o.summary(t, "summary")
	problems := fmt.Sprint(s["problems"])
	held = !strings.Contains(problems, "could not be held still")
	if held && o.code != 0 || !held && o.code != 3 {
		t.Errorf("%s: exit %d: %s", o.commandLine, o.code, problems)
	}
	return fmt.Sprint(s["notes"]), held
}

// restored restores the newest snapshot beside the container, and returns the checksums there.
func (r restless) restored(t testing.TB, w *world) string {
	t.Helper()
	beside := r.name + "-copy"
	w.ok(t, "restore", "--host", r.Host.Host, "--as", beside, r.name)
	defer r.wipe(t, beside)
	return r.sums(t, beside)
}
