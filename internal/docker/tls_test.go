package docker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
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

// TestTLS speaks to an engine behind TLS that wants a client certificate.
func TestTLS(t *testing.T) {
	t.Parallel()
	h := dockertest.Engines(t)[0]
	certs, other := t.TempDir(), t.TempDir()
	config := newCertificates(t, certs)
	newCertificates(t, other)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
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
			if here.(*tls.Conn).HandshakeContext(t.Context()) != nil {
				here.Close()
				continue
			}
			there, err := net.Dial("unix", strings.TrimPrefix(h.Host, "unix://"))
			if err != nil {
				here.Close()
				return
			}
			go forward(here.(*tls.Conn), there)
			go forward(there.(*net.UnixConn), here)
		}
	}()
	host := "tcp://" + listener.Addr().String()
	dial := func(env map[string]string) (*docker.Engine, error) {
		return docker.Connect(ctxOf(t), docker.Options{Host: host, Env: func(name string) string { return env[name] }})
	}
	e, err := dial(map[string]string{"DOCKER_CERT_PATH": certs, "DOCKER_TLS_VERIFY": "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	p := dockertest.Prefix(t, h)
	id := dockertest.Run(t, h, client.ContainerCreateOptions{Name: p, Config: &container.Config{Image: dockertest.Busybox(t, h), Cmd: []string{"sleep", "1000"}, StopSignal: "KILL"}})
	execs(t, e, id) // over a connection of its own
	if find(t, e, p).ID != id {
		t.Error("another container")
	}
	for name, env := range map[string]map[string]string{
		"no TLS":            {},
		"another authority": {"DOCKER_CERT_PATH": other, "DOCKER_TLS_VERIFY": "1"},
		"another client":    {"DOCKER_CERT_PATH": other},
	} {
		if _, err := dial(env); !errors.Is(err, docker.ErrDown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// newCertificates writes ca.pem, cert.pem and key.pem and returns what a server needs to use them.
func newCertificates(t *testing.T, dir string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	for name, content := range map[string][]byte{"ca.pem": cert, "cert.pem": cert, "key.pem": private} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(cert, private)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}
