package test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What a drill leaves that is killed in the middle goes with the next one, or with hakobune doctor --clean, on both kinds of
// engine. The system beside it never notices.
func TestKilledDrill(t *testing.T) {
	if testing.Short() {
		t.Skip("the program under test is built without the race detector")
	}
	all := machines(t)
	for _, m := range []machine{all["E20"], all["E29C"]} {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			const name = "hakotest-drilled"
			newPair(t, m, name)
			w := newWorld(t, "")
			w.init(t)
			w.backup(t, m, name)
			runs := m.docker(t, "ps", "-q", "--no-trunc", "--filter", "name="+name)
			for _, clear := range [][]string{{"drill"}, {"doctor", "--clean"}} {
				id := w.killedDrill(t, m, name)
				args := append(clear, "--host", m.Host.Host)
				if clear[0] == "drill" {
					args = append(args, name)
				}
				w.ok(t, args...)
				left := w.ofDrills(t, m)
				for line := range strings.Lines(m.docker(t, "images", "--format", "image {{.Repository}}:{{.Tag}}")) {
					if strings.Contains(line, id) {
						left = append(left, line)
					}
				}
				if len(left) > 0 {
					t.Errorf("hakobune %v: there is left %q", clear, left)
				}
			}
			if now := m.docker(t, "ps", "-q", "--no-trunc", "--filter", "name="+name); now != runs {
				t.Errorf("of the system there run %q, before %q", now, runs)
			}
		})
	}
}

// killedDrill kills a drill when it has made containers, and returns its id.
func (w *world) killedDrill(t *testing.T, m machine, name string) (id string) {
	t.Helper()
	w.killed(t, func() bool {
		found := w.ofDrills(t, m)
		if !slices.ContainsFunc(found, func(what string) bool { return strings.HasPrefix(what, "ps ") }) {
			return false
		}
		id = filepath.Base(found[len(found)-1])
		return true
	}, "drill", "--host", m.Host.Host, "--probe", "exec:"+name+"-db:false", "--probe-timeout", "1h", name) // which never ends
	return id
}

// ofDrills lists what drills of this world have on the machine, and their notes in its state directory.
func (w *world) ofDrills(t *testing.T, m machine) (found []string) {
	t.Helper()
	for _, list := range []string{"ps -a", "volume ls", "network ls"} {
		name := map[bool]string{true: "{{.Names}}", false: "{{.Name}}"}[list == "ps -a"]
		out := m.docker(t, append(strings.Fields(list), "--format", name+` {{.Label "io.github.hakobune-dr.drill-of"}}`)...)
		for line := range strings.Lines(out) {
			if strings.Contains(line, w.dir) {
				found = append(found, list+" "+strings.TrimSpace(line))
			}
		}
	}
	notes, err := filepath.Glob(filepath.Join(w.dir, "state", "hakobune", "drills", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(found, notes...)
}
