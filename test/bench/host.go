package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// host is the machine that a user would sit at: the engine's network, with the engine's socket.
type host struct {
	dir     string // of the engine
	setup   string // of engines.sh
	netns   string
	address string // of the engine, seen from outside its network
}

func newHost(dir, setup string) (host, error) {
	h := host{dir: dir, setup: setup}
	address, err := os.ReadFile(filepath.Join(dir, "address"))
	if err != nil {
		return h, err
	}
	h.address = strings.TrimSpace(string(address))
	pid, err := os.ReadFile(filepath.Join(dir, "docker.pid"))
	if err != nil {
		return h, err
	}
	ns, err := exec.Command("ip", "netns", "identify", strings.TrimSpace(string(pid))).Output()
	if err != nil {
		return h, fmt.Errorf("ip netns identify: %w", err)
	}
	h.netns = "/run/netns/" + strings.TrimSpace(string(ns))
	return h, nil
}

// command is a line of bash on the host.
func (h host) command(ctx context.Context, env []string, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+h.netns, "bash", "-euo", "pipefail", "-c", line)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(h.dir, "docker.sock"))
	cmd.Env = append(cmd.Env, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd
}

// output runs a line and returns what it prints.
func (h host) output(ctx context.Context, env []string, line string) (string, error) {
	out, _, err := h.timed(ctx, env, line)
	return strings.TrimSpace(out), err
}

// cost is what a run took.
type cost struct {
	took time.Duration
	rss  int64 // the most bytes of memory that one of its processes had
}

// timed runs a line and measures it. A process inherits its parent's peak, so this one must stay small.
func (h host) timed(ctx context.Context, env []string, line string) (string, cost, error) {
	syscall.Sync()
	cmd := h.command(ctx, env, line)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	start := time.Now()
	err := cmd.Run()
	c := cost{took: time.Since(start)}
	if err != nil {
		return "", c, fmt.Errorf("%s: %w\n%s%s", line, err, out.String(), stderr.String())
	}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.rss = u.Maxrss * 1024
	}
	return out.String(), c, nil
}

// standby makes the host the standby site's: its engine starts anew with an empty data directory, a new one, since a file system
// may be slower for a while where much was deleted.
func (h host) standby(ctx context.Context) error {
	for _, file := range []string{"docker.pid", "exec/containerd/containerd.pid", "containerd.pid"} {
		if err := end(filepath.Join(h.dir, file)); err != nil {
			return err
		}
	}
	for _, data := range []string{"data", "cd"} {
		old := filepath.Join(h.dir, data)
		if err := os.Rename(old, fmt.Sprintf("%s.%d", old, time.Now().UnixNano())); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(h.setup, "engines.sh"), "up", filepath.Dir(h.dir), filepath.Base(h.dir)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("start the standby engine: %w\n%s", err, out)
	}
	return nil
}

// end asks the process of a pid file to end, and waits for it.
func end(pidFile string) error {
	content, err := os.ReadFile(pidFile)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return fmt.Errorf("%s: %w", pidFile, err)
	}
	err = syscall.Kill(pid, syscall.SIGTERM) // once: dockerd takes the third for an order to leave everything lying
	for err == nil {
		// A child of nobody who waits for it stays as a zombie.
		if stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); bytes.Contains(stat, []byte(") Z ")) {
			break
		}
		time.Sleep(50 * time.Millisecond)
		err = syscall.Kill(pid, 0)
	}
	os.Remove(pidFile)
	return nil
}
