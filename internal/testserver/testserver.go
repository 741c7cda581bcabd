// Package testserver starts real object stores for tests, each on a free port of the loopback
// interface with data in the test's temporary directory, and ends them with the test.
//
// A program is looked for in HAKOBUNE_TEST_<NAME>, in .lab/bin of the working copy and in PATH. A
// test whose server is missing is skipped; where HAKOBUNE_TEST_REQUIRE is 1 or CI is true it fails.
package testserver

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a running object store.
type Server struct {
	Endpoint             string // host:port
	TLS                  bool
	CAFile               string // of TLS: the certificate authority, in PEM
	AccessKey, SecretKey string
	Region               string

	t    testing.TB
	args func(endpoint string) []string
	env  []string
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

const (
	accessKey = "hakobune-test"
	secretKey = "hakobune-test-secret"
	region    = "us-east-1" // what both servers assume
)

// MinIO starts a MinIO server.
func MinIO(t testing.TB) *Server { return minio(t, false) }

// MinIOTLS starts a MinIO server with a certificate of a new authority.
func MinIOTLS(t testing.TB) *Server { return minio(t, true) }

func minio(t testing.TB, secure bool) *Server {
	t.Helper()
	s := newServer(t, secure)
	bin := program(t, "minio")
	certs := filepath.Join(s.dir, "certs")
	if err := os.Mkdir(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	if secure {
		s.CAFile = certify(t, s.dir, filepath.Join(certs, "public.crt"), filepath.Join(certs, "private.key"))
	}
	s.env = []string{"MINIO_ROOT_USER=" + accessKey, "MINIO_ROOT_PASSWORD=" + secretKey, "MINIO_BROWSER=off", "MINIO_UPDATE=off"}
	s.args = func(endpoint string) []string {
		return []string{bin, "server", "--quiet", "--certs-dir", certs, "--address", endpoint, filepath.Join(s.dir, "data")}
	}
	s.launch()
	return s
}

// VersityGW starts a versitygw server over a directory.
func VersityGW(t testing.TB) *Server {
	t.Helper()
	s := newServer(t, false)
	bin := program(t, "versitygw")
	data := filepath.Join(s.dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	s.args = func(endpoint string) []string {
		return []string{bin, "--access", accessKey, "--secret", secretKey, "--region", region, "--port", endpoint, "--quiet", "--keep-alive", "posix", data}
	}
	s.launch()
	return s
}

// Swift returns the OpenStack Swift that test/setup/swift.sh has brought up; its endpoint is in
// HAKOBUNE_TEST_SWIFT. All tests share it.
func Swift(t testing.TB) *Server {
	t.Helper()
	endpoint := os.Getenv("HAKOBUNE_TEST_SWIFT")
	if endpoint == "" {
		missing(t, "HAKOBUNE_TEST_SWIFT is not set: test/setup/swift.sh brings OpenStack Swift up")
	}
	return &Server{Endpoint: endpoint, AccessKey: "test:tester", SecretKey: "testing", Region: region}
}

func newServer(t testing.TB, secure bool) *Server {
	return &Server{t: t, TLS: secure, AccessKey: accessKey, SecretKey: secretKey, Region: region, dir: t.TempDir()}
}

// URL returns the location of a repository in the bucket.
func (s *Server) URL(bucket string) string {
	if s.TLS {
		return "s3:https://" + s.Endpoint + "/" + bucket
	}
	return "s3:http://" + s.Endpoint + "/" + bucket
}

// program finds a server's program.
func program(t testing.TB, name string) string {
	t.Helper()
	variable := "HAKOBUNE_TEST_" + strings.ToUpper(name)
	if path := os.Getenv(variable); path != "" {
		return path
	}
	if path := filepath.Join(workingCopy(t), ".lab", "bin", name); executable(path) {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, fmt.Sprintf("%s is neither in PATH nor in .lab/bin, and %s is not set", name, variable))
	}
	return path
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0
}

// workingCopy returns the directory of go.mod, at or above the test's.
func workingCopy(t testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("HAKOBUNE_TEST_REQUIRE") == "1" || os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// launch starts the server on a free port. Somebody else may take the port first: then on another.
func (s *Server) launch() {
	s.t.Helper()
	s.t.Cleanup(s.Kill)
	var err error
	for range 3 {
		s.Endpoint = freePort(s.t)
		if err = s.start(); err == nil {
			return
		}
	}
	s.t.Fatal(err)
}

// Start starts the server again after Kill, at the same place with the same data.
func (s *Server) Start() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Kill ends the server at once, as a power cut does, and waits until it has gone.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.done
	s.cmd = nil
}

func (s *Server) start() error {
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	args := s.args(s.Endpoint)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(s.env, "HOME="+s.dir, "PATH="+os.Getenv("PATH"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's interrupt is for the test
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	s.cmd, s.done = cmd, done
	if err := s.ready(); err != nil {
		s.Kill()
		out, _ := os.ReadFile(log.Name())
		return fmt.Errorf("start %s: %w\n%s", filepath.Base(args[0]), err, out)
	}
	return nil
}

// ready waits until the server answers anything.
func (s *Server) ready() error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: s.trust(), DisableKeepAlives: true}}
	url := strings.TrimSuffix(strings.TrimPrefix(s.URL(""), "s3:"), "/") + "/" // MinIO answers 503 until its storage is there
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		resp, err := client.Get(url)
		if err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode < 500 {
				return nil
			}
		}
		select {
		case <-s.done:
			return errors.New("it ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("no answer within a minute")
}

func (s *Server) trust() *tls.Config {
	if !s.TLS {
		return nil
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{RootCAs: pool}
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
