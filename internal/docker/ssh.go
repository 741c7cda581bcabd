package docker

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dialSSH opens one connection to an engine the way the docker command does: "ssh HOST docker
// system dial-stdio" copies between its standard streams and the engine's socket. The session
// outlives ctx; it ends with the connection.
func dialSSH(ctx context.Context, host string) (net.Conn, error) {
	args, err := sshArgs(host)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("ssh %s: %w", host, err)
	}
	defer theirs.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "ssh", args...)
	conn := &sshConn{Conn: ours, cmd: cmd, ended: make(chan struct{})}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, &conn.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's interrupt must not cut the connection under a clean end
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("ssh %s: %w", host, err)
	}
	go func() {
		defer close(conn.ended)
		_ = cmd.Wait() // a failure shows as an early end of the stream, with what ssh said
	}()
	return conn, nil
}

// sshArgs turns ssh://user@host:port/socket into the arguments of ssh.
func sshArgs(host string) ([]string, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, fmt.Errorf("docker host: %w", err)
	}
	if u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-") {
		return nil, fmt.Errorf("docker host %s: no host name", host)
	}
	args := []string{"-T", "-o", "ConnectTimeout=30"}
	if name := u.User.Username(); name != "" {
		args = append(args, "-l", name)
	}
	if u.Port() != "" {
		args = append(args, "-p", u.Port())
	}
	args = append(args, "--", u.Hostname(), "docker")
	if strings.Trim(u.Path, "/") != "" {
		args = append(args, "--host=unix://"+u.Path)
	}
	return append(args, "system", "dial-stdio"), nil
}

// socketPair returns both ends of a local stream: one for this process, one for a child.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ssh"), os.NewFile(uintptr(fds[1]), "ssh")
	conn, err := net.FileConn(ours) // has a descriptor of its own
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}

// sshConn is a connection whose other end is a session of ssh.
type sshConn struct {
	net.Conn
	cmd   *exec.Cmd
	said  tail
	ended chan struct{} // closed when ssh has ended
}

// Read adds what ssh said to an end of the stream that came with an explanation.
func (c *sshConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil || n > 0 {
		return n, err
	}
	select { // what it says may come after the end of the stream
	case <-c.ended:
	case <-time.After(time.Second):
	}
	if said := c.said.String(); said != "" {
		return 0, fmt.Errorf("ssh: %s: %w", said, err)
	}
	return 0, err
}

// CloseWrite ends what is written and leaves the other direction open.
func (c *sshConn) CloseWrite() error { return c.Conn.(*net.UnixConn).CloseWrite() }

// Close ends the session and waits for it. The other side may keep the session open for as long as
// something there runs, so ssh is told to end.
func (c *sshConn) Close() error {
	err := c.Conn.Close()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	<-c.ended
	return err
}
