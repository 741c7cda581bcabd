package docker

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/client"
)

// endpoint is where an engine listens, and what proves both sides to each other there.
type endpoint struct {
	host   string // unix://, tcp:// or ssh://
	certs  string // directory with ca.pem, cert.pem and key.pem; empty: no TLS of our own
	verify bool   // the engine's certificate must be by ca.pem
	api    string // a fixed API version; empty: negotiated
}

// findEndpoint resolves as the docker command does: an explicit host, then DOCKER_HOST, then the
// context named by DOCKER_CONTEXT or by currentContext of the configuration file.
func findEndpoint(host string, env func(string) string) (endpoint, error) {
	ep := endpoint{host: host, verify: true, api: env("DOCKER_API_VERSION")}
	if ep.host == "" {
		ep.host = env("DOCKER_HOST")
	}
	if ep.host != "" {
		ep.certs, ep.verify = env("DOCKER_CERT_PATH"), env("DOCKER_TLS_VERIFY") != ""
		return ep, nil
	}
	dir := env("DOCKER_CONFIG")
	if dir == "" && env("HOME") != "" {
		dir = filepath.Join(env("HOME"), ".docker")
	}
	name := env("DOCKER_CONTEXT")
	if name == "" {
		name = currentContext(dir)
	}
	if name == "" || name == "default" {
		ep.host = client.DefaultDockerHost
		return ep, nil
	}
	found, err := readContext(dir, name)
	found.api = ep.api
	return found, err
}

// currentContext returns the context that the configuration file in dir selects. A file that is
// not there or not readable selects none, as for the docker command.
func currentContext(dir string) string {
	var config struct{ CurrentContext string }
	raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil || json.Unmarshal(raw, &config) != nil {
		return ""
	}
	return config.CurrentContext
}

// readContext reads a context from the docker command's store below dir: contexts/meta/<SHA-256 of
// the name>/meta.json, certificates in contexts/tls/<the same>/docker.
func readContext(dir, name string) (endpoint, error) {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	raw, err := os.ReadFile(filepath.Join(dir, "contexts", "meta", id, "meta.json"))
	if err != nil {
		return endpoint{}, fmt.Errorf("docker context %s: %w", name, err)
	}
	var meta struct {
		Endpoints map[string]struct {
			Host          string
			SkipTLSVerify bool
		}
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return endpoint{}, fmt.Errorf("docker context %s: %w", name, err)
	}
	docker := meta.Endpoints["docker"]
	ep := endpoint{host: docker.Host, verify: !docker.SkipTLSVerify}
	certs := filepath.Join(dir, "contexts", "tls", id, "docker")
	if _, err := os.Stat(certs); err == nil {
		ep.certs = certs
	}
	return ep, nil
}

// transport makes the way to the engine. Only TCP is ever wrapped in TLS: a socket of this host
// and a session of ssh are protected by themselves.
func (ep endpoint) transport() (*http.Transport, error) {
	host, err := client.ParseHostURL(ep.host)
	if err != nil {
		return nil, err
	}
	tr := &http.Transport{MaxIdleConns: 6, IdleConnTimeout: 30 * time.Second}
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	switch host.Scheme {
	case "unix":
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", host.Host)
		}
	case "tcp":
		tr.DialContext = dialer.DialContext
		if ep.certs != "" {
			tr.TLSClientConfig, err = ep.tls()
		}
	case "ssh":
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialSSH(ctx, ep.host)
		}
	default:
		return nil, fmt.Errorf("docker host %s: scheme %s is not supported", ep.host, host.Scheme)
	}
	return tr, err
}

func (ep endpoint) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !ep.verify}
	if ep.certs == "" {
		return config, nil
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(ep.certs, "cert.pem"), filepath.Join(ep.certs, "key.pem"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("docker client certificate: %w", err)
	}
	if err == nil {
		config.Certificates = []tls.Certificate{cert}
	}
	ca, err := os.ReadFile(filepath.Join(ep.certs, "ca.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		return config, nil
	}
	if err != nil {
		return nil, fmt.Errorf("docker certificate authority: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("docker certificate authority: %s holds no certificate", filepath.Join(ep.certs, "ca.pem"))
	}
	return config, nil
}

// clientOptions configures a client of the Engine API that reaches the engine over tr.
func (ep endpoint) clientOptions(tr *http.Transport) []client.Opt {
	host := ep.host
	if strings.HasPrefix(host, "ssh:") {
		host = "tcp://" + client.DummyHost // WithHost knows no ssh; what it dials is replaced below
	}
	opts := []client.Opt{
		client.WithHTTPClient(&http.Client{Transport: tr, CheckRedirect: client.CheckRedirect}),
		client.WithHost(host),
		client.WithDialContext(tr.DialContext),
		client.WithUserAgent("hakobune"),
	}
	if ep.api != "" {
		opts = append(opts, client.WithAPIVersion(ep.api))
	}
	return opts
}
