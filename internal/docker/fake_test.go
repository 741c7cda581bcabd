package docker_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
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

// withoutSave connects as remote does, through a proxy that lets no image be saved.
func withoutSave(t *testing.T, h dockertest.Host, containerdRoot string) *docker.Engine {
	t.Helper()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(h.Host, "unix://"))
		}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/images/get") {
			http.Error(w, `{"message":"no saves here"}`, http.StatusForbidden)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	e, err := docker.Connect(ctxOf(t), docker.Options{Host: strings.Replace(server.URL, "http", "tcp", 1), ContainerdRoot: containerdRoot})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}
