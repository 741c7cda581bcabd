package docker_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hakobune-dr/hakobune/internal/docker"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

// fakeEngine answers fixed texts to fixed paths, for what real engines do not do on demand.
func fakeEngine(t *testing.T, answers map[string]string) *docker.Engine {
	t.Helper()
	socket := t.TempDir() + "/s"
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.43")
		path := strings.TrimPrefix(r.URL.Path, "/v1.43")
		answer, found := answers[path]
		switch {
		case path == "/_ping":
		case path == "/info" && !found:
			io.WriteString(w, `{"Driver":"overlay2"}`)
		case !found:
			http.Error(w, `{"message":"no such object"}`, http.StatusNotFound)
		default:
			io.WriteString(w, answer)
		}
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return connect(t, dockertest.Host{Host: "unix://" + socket})
}

// remote connects as if the engine were elsewhere: over TCP, forwarded to its socket.
func remote(t *testing.T, h dockertest.Host) *docker.Engine {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			here, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("unix", strings.TrimPrefix(h.Host, "unix://"))
			if err != nil {
				here.Close()
				return
			}
			go forward(here.(*net.TCPConn), there.(*net.UnixConn))
			go forward(there.(*net.UnixConn), here.(*net.TCPConn))
		}
	}()
	e := connect(t, dockertest.Host{Host: "tcp://" + listener.Addr().String()})
	if e.Facts().Local {
		t.Fatal("an engine behind TCP is taken for local")
	}
	return e
}

func forward(to interface {
	io.Writer
	CloseWrite() error
}, from io.Reader,
) {
	io.Copy(to, from)
	to.CloseWrite()
}
