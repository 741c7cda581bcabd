package exporter_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/internal/docker"
)

// playVictim holds containers again and again until it is killed: args are a directory for
// journals, a mode, for how long to hold at most, and the containers' ids.
func playVictim(args []string) error {
	host := os.Getenv(engineVar)
	e, err := docker.Connect(context.Background(), docker.Options{Host: host})
	if err != nil {
		return err
	}
	guard, err := startGuard(host)
	if err != nil {
		return err
	}
	longest, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	list := holds(snapshot.QuiesceMode(args[1]), args[3:])
	for i := range list {
		list[i].Grace = time.Second
	}
	fmt.Println("ready")
	for {
		h, err := exporter.HoldStill(context.Background(), e, guard, args[0], time.Minute, list)
		if err != nil {
			return err
		}
		time.Sleep(rand.N(longest))
		if err := h.Release(); err != nil {
			return err
		}
		time.Sleep(rand.N(20 * time.Millisecond))
	}
}

// victim is a process that holds containers and is going to be killed.
type victim struct {
	*exec.Cmd
	guard int // pid of its guard
}

func startVictim(t *testing.T, h *engineHost, dir string, mode snapshot.QuiesceMode, longest string, ids ...string) victim {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{dir, string(mode), longest}, ids...)...)
	cmd.Env = append(os.Environ(), roleVar+"=victim", engineVar+"="+h.Host.Host)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatalf("the victim did not start: %v", err)
	}
	return victim{Cmd: cmd, guard: childOf(t, cmd.Process.Pid)}
}

// childOf finds the child of a process.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		var pid, ppid int
		var state string
		_, rest, _ := strings.Cut(string(text), ") ")
		if _, err := fmt.Sscan(rest, &state, &ppid); err == nil && ppid == parent {
			fmt.Sscan(string(text), &pid)
			return pid
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// documentedPause is how long after the death of a backup its containers may still stand: what
// exporter's package documentation promises.
const documentedPause = 6 * time.Second

// TestGuardKilledBackup kills backups at random moments: their containers go on within the
// documented time, and stay so.
func TestGuardKilledBackup(t *testing.T) {
	onEngines(t, func(t *testing.T, h *engineHost) {
		rounds := 4
		if testing.Short() {
			rounds = 2
		}
		for i := range rounds {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				mode, cmd := snapshot.Pause, "exec sleep 1000"
				if i == 3 {
					mode, cmd = snapshot.Stop, `trap 'exit 0' TERM; sleep 1000 & wait`
				}
				var ids []string
				for _, name := range []string{"a", "b"} {
					ids = append(ids, h.run(fmt.Sprintf("-%d%s", i, name), map[string]any{"sh": cmd}))
				}
				killAndWatch(t, h, mode, ids)
			})
		}
	})
}

func killAndWatch(t *testing.T, h *engineHost, mode snapshot.QuiesceMode, ids []string) {
	dir := t.TempDir()
	v := startVictim(t, h, dir, mode, "100ms", ids...)
	time.Sleep(rand.N(1500 * time.Millisecond))
	if err := v.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	_ = v.Wait()
	// What a terminal or a service manager sends next must not keep the guard from its task.
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		_ = syscall.Kill(v.guard, sig)
	}
	var stood time.Duration // until the last moment at which one was seen standing
	for alive(v.guard) {
		for _, id := range ids {
			if h.state(id) != "running" {
				stood = time.Since(killed)
			}
		}
		if time.Since(killed) > time.Minute {
			t.Fatal("the guard does not end")
		}
		time.Sleep(20 * time.Millisecond)
	}
	for _, id := range ids {
		if st := h.state(id); st != "running" {
			t.Errorf("left %s", st)
		}
	}
	if stood > documentedPause {
		t.Errorf("stood still for %v after the kill", stood)
	}
	t.Logf("last seen standing %v after the kill, guard ended after %v", stood.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	// A backup that died after it wrote its journal, and before it told the guard, held nothing;
	// the next run finds that.
	if freed, err := exporter.RecoverDir(t.Context(), h, dir); err != nil || len(freed) > 0 {
		t.Errorf("the next run frees %v: %v", freed, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("journals left: %v %v", left, err)
	}
}

// TestGuardStalledBackup: a backup that itself stands still does not keep its containers standing.
func TestGuardStalledBackup(t *testing.T) {
	onEngines(t, func(t *testing.T, h *engineHost) {
		id := h.run("-a", map[string]any{"sh": "exec sleep 1000"})
		guard, err := startGuard(h.Host.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer guard.Close()
		// The time that the guard allows is longer than the backup's own by its slack: -4 s + 5 s.
		if err := exporter.TellGuard(guard, holds(snapshot.Pause, []string{id}), -4*time.Second); err != nil {
			t.Fatal(err)
		}
		if err := h.Pause(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for h.state(id) == "paused" {
			if time.Now().After(deadline) {
				t.Fatal("still paused")
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
}

// TestRecover: what a crash of backup and guard left standing, the next run lets go.
func TestRecover(t *testing.T) {
	onEngines(t, func(t *testing.T, h *engineHost) {
		dir := t.TempDir()
		id := h.run("-a", map[string]any{"sh": "exec sleep 1000"})
		v := startVictim(t, h, dir, snapshot.Pause, "1h", id)
		for h.state(id) != "paused" {
			time.Sleep(time.Millisecond)
		}
		if err := errors.Join(syscall.Kill(v.guard, syscall.SIGKILL), v.Process.Kill()); err != nil {
			t.Fatal(err)
		}
		_ = v.Wait()
		for alive(v.guard) {
			time.Sleep(time.Millisecond)
		}
		if h.state(id) != "paused" {
			t.Fatal("who let it go?")
		}
		freed, err := exporter.RecoverDir(t.Context(), h, dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(freed) != 1 || h.state(id) != "running" {
			t.Errorf("freed %v, container is %s", freed, h.state(id))
		}
		if journals, err := filepath.Glob(filepath.Join(dir, "*.hold")); err != nil || len(journals) > 0 {
			t.Errorf("journals left: %v %v", journals, err)
		}
	})
}
