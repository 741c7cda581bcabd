package docker_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// TestMain lets more tests run at once than there are processors, for they wait for engines. Under
// the name ssh it is what dialSSH runs: a session that leads to a socket.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "ssh" {
		os.Exit(fakeSSH(os.Args[1:]))
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// fakeSSH connects its standard streams to the socket of HAKOTEST_SSH_SOCKET.
func fakeSSH(args []string) int {
	want := "-T -o ConnectTimeout=30 -l me -p 2222 -- far.example.org docker --host=unix:///far.sock system dial-stdio"
	if got := strings.Join(args, " "); got != want {
		fmt.Fprintf(os.Stderr, "arguments are %s\n", got)
		return 255
	}
	conn, err := net.Dial("unix", os.Getenv("HAKOTEST_SSH_SOCKET"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 255
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.(*net.UnixConn).CloseWrite()
	}()
	io.Copy(os.Stdout, conn)
	return 0
}

func ctxOf(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// each runs a test once for every engine, side by side.
func each(t *testing.T, test func(t *testing.T, h dockertest.Host, e *docker.Engine)) {
	t.Parallel()
	for _, h := range dockertest.Engines(t) {
		t.Run(h.Name, func(t *testing.T) {
			t.Parallel()
			test(t, h, connect(t, h))
		})
	}
}

func connect(t testing.TB, h dockertest.Host) *docker.Engine {
	t.Helper()
	e, err := docker.Connect(ctxOf(t), docker.Options{Host: h.Host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func TestFacts(t *testing.T) {
	each(t, func(t *testing.T, h dockertest.Host, e *docker.Engine) {
		f := e.Facts()
		if !f.Local {
			t.Errorf("engine of this host is not local: %+v", f)
		}
		if f.Containerd != (h.Name == "E29C") || f.StorageDriver == "" || f.NCPU < 1 || f.Memory == 0 || f.RootDir == "" || len(f.Runtimes) == 0 {
			t.Errorf("%+v", f)
		}
	})
}

func TestDown(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "no.sock")
	_, err := docker.Connect(ctxOf(t), docker.Options{Host: "unix://" + socket})
	if !errors.Is(err, docker.ErrDown) || !strings.Contains(err.Error(), socket) {
		t.Fatal(err)
	}
}

// waitFor waits until something that the engine does in its own time has come about.
func waitFor(t testing.TB, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come about in 20 s")
		}
	}
}

// TestContext finds engines the way the docker command does.
func TestContext(t *testing.T) {
	home := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(home, ".docker", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	context := func(name, host string) {
		sum := sha256.Sum256([]byte(name))
		write("contexts/meta/"+hex.EncodeToString(sum[:])+"/meta.json", `{"Name":"`+name+`","Endpoints":{"docker":{"Host":"`+host+`"}}}`)
	}
	gone := func(name string) string { return "unix://" + filepath.Join(home, name) }
	context("current", gone("current"))
	context("other", gone("other"))
	write("config.json", `{"auths":{},"currentContext":"current"}`)
	for _, test := range []struct {
		host string
		env  map[string]string
		want string
	}{
		{gone("host"), map[string]string{"DOCKER_HOST": gone("env")}, "at " + gone("host")},
		{"", map[string]string{"DOCKER_HOST": gone("env"), "DOCKER_CONTEXT": "other"}, "at " + gone("env")},
		{"", map[string]string{"DOCKER_CONTEXT": "other", "HOME": home}, "at " + gone("other")},
		{"", map[string]string{"HOME": home}, "at " + gone("current")},
		{"", map[string]string{"DOCKER_CONFIG": home + "/.docker"}, "at " + gone("current")},
		{"", map[string]string{"DOCKER_CONTEXT": "missing", "HOME": home}, "docker context missing"},
		{"pigeon://x", nil, "scheme pigeon is not supported"},
		{"tcp://127.0.0.1:1", map[string]string{"DOCKER_CERT_PATH": home, "DOCKER_TLS_VERIFY": "1"}, "at tcp://127.0.0.1:1"},
		{"ssh://-oProxyCommand=x", nil, "no host name"},
	} {
		_, err := docker.Connect(ctxOf(t), docker.Options{Host: test.host, Env: func(name string) string { return test.env[name] }})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: %v", test, err)
		}
	}
}

func TestSSH(t *testing.T) {
	h := dockertest.Engines(t)[0]
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(own, filepath.Join(dir, "ssh")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("HAKOTEST_SSH_SOCKET", strings.TrimPrefix(h.Host, "unix://"))
	e := connect(t, dockertest.Host{Host: "ssh://me@far.example.org:2222/far.sock"})
	if e.Facts().Local {
		t.Error("an engine behind ssh is taken for local")
	}
	p := dockertest.Prefix(t, h)
	id := dockertest.Run(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: dockertest.Busybox(t, h), Cmd: []string{"sleep", "1000"}, StopSignal: "KILL"}})
	execs(t, e, id)

	_, err = docker.Connect(ctxOf(t), docker.Options{Host: "ssh://me@near.example.org"})
	if !errors.Is(err, docker.ErrDown) || !strings.Contains(err.Error(), "arguments are") {
		t.Errorf("what ssh said is lost: %v", err)
	}
}
