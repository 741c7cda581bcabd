// Package docker is the only package that speaks the Docker Engine API. It translates between the
// engine's words and those of package snapshot, reads what an engine stores where this process can
// see its files, and creates again what a snapshot describes.
//
// It knows engines from 20.10 (API 1.41) on, with graph drivers and with containerd's image store.
// Methods of Engine may be called from many goroutines at once. Errors read "operation object:
// cause" and wrap snapshot.ErrMissing, snapshot.ErrExists or snapshot.ErrState where those apply.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// ErrDown says that no engine answers; the text says where, and what to look at.
var ErrDown = errors.New("docker engine is not reachable")

// Options says which engine to speak to.
type Options struct {
	Host    string              // "unix:///path", "tcp://host:2376", "ssh://user@host"; empty: as Env says
	Env     func(string) string // environment for DOCKER_HOST, DOCKER_CONTEXT and their kin; nil: empty
	Program string              // a static linux binary for helper containers; empty: this program's own
	Logger  *slog.Logger        // nil: nothing is logged

	// ContainerdRoot is the data directory of the engine's containerd, on its own host. Empty: as
	// containerd tells where it can be asked, else the usual places.
	ContainerdRoot string
}

// Engine is a connection to one Docker engine.
type Engine struct {
	api     *client.Client
	http    *http.Client // to the same engine, for what the client would not give unabridged
	scheme  string       // of URLs for http
	addr    string
	host    string // as it was named: "unix:///..."
	program string
	log     *slog.Logger
	facts   snapshot.Facts
	info    info

	containerdRoot string

	mu         sync.Mutex
	containerd *containerd // connected when first needed
	content    string      // directory of containerd's image content
	savedPaths sync.Map    // image id and configuration to paths of its layers in an archive
	manifests  sync.Map    // image id and configuration to manifest
}

// Connect speaks to the engine that o names and learns what Facts tells. The caller closes the
// Engine.
func Connect(ctx context.Context, o Options) (*Engine, error) {
	if o.Env == nil {
		o.Env = func(string) string { return "" }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	ep, err := findEndpoint(o.Host, o.Env)
	if err != nil {
		return nil, err
	}
	e, err := open(ep)
	if err != nil {
		return nil, fmt.Errorf("docker host %s: %w", ep.host, err)
	}
	e.program, e.log, e.containerdRoot = o.Program, o.Logger, o.ContainerdRoot
	if err := e.learn(ctx, ep); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// open makes the clients of an engine without speaking to it.
func open(ep endpoint) (*Engine, error) {
	tr, err := ep.transport()
	if err != nil {
		return nil, err
	}
	e := &Engine{http: &http.Client{Transport: tr}, scheme: "http", addr: client.DummyHost, host: ep.host}
	if tr.TLSClientConfig != nil {
		e.scheme = "https"
	}
	if addr, tcp := strings.CutPrefix(ep.host, "tcp://"); tcp {
		e.addr = addr
	}
	e.api, err = client.New(ep.clientOptions(tr.Clone())...)
	return e, err
}

// Close releases the connections.
func (e *Engine) Close() error {
	e.http.CloseIdleConnections()
	if e.containerd != nil {
		e.containerd.close()
	}
	return e.api.Close()
}

// Facts says what the engine and its host were when Connect returned.
func (e *Engine) Facts() snapshot.Facts { return e.facts }
