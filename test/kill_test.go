package test

import (
	"math/rand/v2"
	"syscall"
	"testing"
	"time"
)

// A backup is killed at twenty random moments. Its container goes on by itself (package exporter, "Containers go on"); how
// soon is logged.
func TestKilledBackup(t *testing.T) {
	m := machines(t)["E20"]
	s := newSmall(t, m, "killed")
	w := newWorld(t, "")
	w.init(t)
	usual := time.Duration(0)
	for range 2 { // cold and warm
		start := time.Now()
		w.backup(t, m, s.name)
		usual = time.Since(start)
	}
	longest := time.Duration(0)
	for range 20 {
		cmd := w.command("backup", "--host", m.Host.Host, s.name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(usual))
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed := time.Now()
		cmd.Wait() // its error is the kill
		for paused(t, m, s.name) {
			if time.Since(killed) > time.Minute {
				t.Fatalf("still paused %s after the kill", time.Since(killed))
			}
			time.Sleep(50 * time.Millisecond)
		}
		longest = max(longest, time.Since(killed))
	}
	t.Logf("a backup takes %s; the container went on %s after a kill at the latest", usual, longest)
	w.clean(t)
	w.backup(t, m, s.name)
	w.clean(t)
	if paused(t, m, s.name) {
		t.Error("paused at the end")
	}
}

func paused(t testing.TB, m machine, container string) bool {
	t.Helper()
	return m.docker(t, "inspect", "-f", "{{.State.Paused}}", container) == "true"
}

// SIGINT, SIGTERM and a store that goes away end a backup soon, with its own exit code, and let
// containers go.
func TestInterruptedBackup(t *testing.T) {
	m := machines(t)["E29C"]
	s := newSmall(t, m, "interrupted")
	w := newWorld(t, "")
	w.init(t)
	start := time.Now()
	w.backup(t, m, s.name)
	usual := time.Since(start)
	interrupted := 0
	for range 10 {
		for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			cmd := w.command("backup", "--host", m.Host.Host, s.name)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(usual/20 + rand.N(usual))
			cmd.Process.Signal(sig) // it may have ended
			cmd.Wait()
			switch code := cmd.ProcessState.ExitCode(); code {
			case 0:
			case 130:
				interrupted++
			default:
				t.Errorf("%v: exit %d", sig, code)
			}
			if paused(t, m, s.name) {
				t.Fatalf("%v: still paused", sig)
			}
		}
	}
	if interrupted == 0 {
		t.Error("no backup was interrupted")
	}
	w.clean(t)
}
