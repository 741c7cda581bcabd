package importer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Probe asks a booted system whether it does its work.
type Probe struct {
	text      string // as it was given
	http      bool   // else a command
	container string // its name in the snapshot, or its Compose service
	what      string // the command, for a shell; or port and path
	expect    func(string) bool
}

// ParseProbe reads "exec:CONTAINER:COMMAND" or "http:CONTAINER:PORT/PATH". A command must end with 0, a page be
// answered with a status below 400. If expect is not empty, what they say must hold that text, or between
// slashes match it as a regular expression.
func ParseProbe(s, expect string) (Probe, error) {
	kind, rest, _ := strings.Cut(s, ":")
	container, what, _ := strings.Cut(rest, ":")
	p := Probe{text: s, http: kind == "http", container: container, what: what}
	if kind != "exec" && kind != "http" || container == "" || what == "" {
		return p, fmt.Errorf("probe %q is neither exec:CONTAINER:COMMAND nor http:CONTAINER:PORT/PATH", s)
	}
	if port, _, _ := strings.Cut(what, "/"); p.http && !isPort(port) {
		return p, fmt.Errorf("probe %q: %q is not a port", s, port)
	}
	p.expect = func(said string) bool { return strings.Contains(said, expect) }
	if inner, ok := strings.CutPrefix(expect, "/"); ok && strings.HasSuffix(inner, "/") {
		re, err := regexp.Compile("(?s)" + strings.TrimSuffix(inner, "/"))
		if err != nil {
			return p, fmt.Errorf("expected %q: %w", expect, err)
		}
		p.expect = re.MatchString
	}
	return p, nil
}

// ProbeResult is what came of a probe.
type ProbeResult struct {
	Probe   string        `json:"probe"`
	Passed  bool          `json:"passed"`
	Took    time.Duration `json:"took"` // until it passed, or was given up
	Failure string        `json:"failure,omitempty"`
}

// The bounds of what a probe reads, and of what it tells.
const (
	maxPage   = 1 << 20
	maxAnswer = 300
)

// pauseProbe is the time between two tries.
const pauseProbe = 250 * time.Millisecond

// probed tries a probe until it passes or the time is over.
func (p Probe) probed(ctx context.Context, e DrillEngine, c snapshot.Container, timeout time.Duration) ProbeResult {
	start := time.Now()
	bounded, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		err := p.try(bounded, e, c)
		r := ProbeResult{Probe: p.text, Passed: err == nil, Took: time.Since(start)}
		if err == nil {
			return r
		}
		r.Failure = err.Error()
		select {
		case <-bounded.Done():
			return r
		case <-time.After(pauseProbe):
		}
	}
}

func (p Probe) try(ctx context.Context, e DrillEngine, c snapshot.Container) error {
	var said bytes.Buffer
	var err error
	switch {
	case !p.http:
		err = command(ctx, e, c.ID, []string{"/bin/sh", "-c", p.what}, &said)
	case e.Facts().Local && c.Pid > 0:
		err = p.get(ctx, c, &said)
	default: // from here the container cannot be reached
		err = command(ctx, e, c.ID, []string{"wget", "-q", "-O", "-", "http://127.0.0.1:" + p.what}, &said)
	}
	if err != nil {
		return err
	}
	if !p.expect(said.String()) {
		return fmt.Errorf("said something else than expected: %q", excerpt(said.String()))
	}
	return nil
}

func command(ctx context.Context, e DrillEngine, id string, argv []string, out *bytes.Buffer) error {
	code, err := e.Exec(ctx, id, argv, out)
	if err == nil && code != 0 {
		err = fmt.Errorf("ended with code %d: %q", code, excerpt(out.String()))
	}
	return err
}

func excerpt(s string) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "?")
	return s[:min(len(s), maxAnswer)]
}

// get asks for a page from inside the container's own network, where it needs no published port.
func (p Probe) get(ctx context.Context, c snapshot.Container, said io.Writer) error {
	client := http.Client{
		Transport:     &http.Transport{DialContext: dialIn(c.Pid), DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	addresses, _ := reached(c)
	var errs []error
	for _, ip := range append([]string{"127.0.0.1"}, addresses...) {
		port, path, _ := strings.Cut(p.what, "/")
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(ip, port)+"/"+path, http.NoBody)
		if err != nil {
			return err
		}
		answer, err := client.Do(req)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		defer answer.Body.Close()
		if answer.StatusCode >= http.StatusBadRequest {
			return fmt.Errorf("was answered %s", answer.Status)
		}
		_, err = io.Copy(said, io.LimitReader(answer.Body, maxPage))
		return err
	}
	return errors.Join(errs...)
}

// dialIn connects from inside the network namespace of a process.
func dialIn(pid int) func(ctx context.Context, network, address string) (net.Conn, error) {
	type dialled struct {
		conn net.Conn
		err  error
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		done := make(chan dialled, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
			ns, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
			if err == nil {
				err = errors.Join(unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET), ns.Close())
			}
			if err != nil {
				done <- dialled{err: fmt.Errorf("network of the container: %w", err)}
				return
			}
			var d net.Dialer
			conn, err := d.DialContext(ctx, network, address) // of an address, not a name: by this goroutine
			done <- dialled{conn, err}
		}()
		d := <-done
		return d.conn, d.err
	}
}
