package failover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// Gate is a question that must be answered well before a system counts as running.
type Gate struct {
	kind      string // health, tcp, http, exec
	target    string // HOST:PORT, URL, name of a container
	command   string // of exec
	specified string
}

// String returns the gate as it was given.
func (g Gate) String() string { return g.specified }

// Passed is a gate that was passed.
type Passed struct {
	Gate string        `json:"gate"`
	Took time.Duration `json:"took"` // from the moment when all containers were healthy
}

// A GateError says that a gate was not passed in time. The system runs; it was not undone, unless a StandInError says so.
type GateError struct {
	Gate  string
	After time.Duration
	Err   error // of the last try
	hint  string
}

func (e *GateError) Error() string {
	return fmt.Sprintf("gate %s: not passed in %s: %v", e.Gate, e.After, e.Err)
}

func (e *GateError) Unwrap() error { return e.Err }

// Hint returns the next step.
func (e *GateError) Hint() string { return e.hint }

// ParseGate reads a gate:
//
//	health                    all containers are healthy, which a restore waits for anyway
//	tcp:HOST:PORT             somebody answers there
//	http:URL                  a GET is answered with a status from 200 to 399
//	exec:CONTAINER:COMMAND    the command, by the container's shell, ends with 0
func ParseGate(s string) (Gate, error) {
	kind, rest, _ := strings.Cut(s, ":")
	g := Gate{kind: kind, target: rest, specified: s}
	switch kind {
	case "health":
		if rest == "" {
			return g, nil
		}
	case "tcp":
		if host, port, err := net.SplitHostPort(rest); err == nil && host != "" && port != "" {
			return g, nil
		}
	case "http", "https":
		if strings.HasPrefix(rest, "//") {
			g.target = s
		}
		g.kind = "http"
		if u, err := url.Parse(g.target); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" {
			return g, nil
		}
	case "exec":
		var ok bool
		if g.target, g.command, ok = strings.Cut(rest, ":"); ok && g.target != "" && g.command != "" {
			return g, nil
		}
	}
	return g, fmt.Errorf("gate %q: want health, tcp:HOST:PORT, http:URL or exec:CONTAINER:COMMAND", s)
}

const gateTimeout = 2 * time.Minute

// pass waits for all gates, one after the other.
func (f *run) pass(ctx context.Context) error {
	start := time.Now()
	for _, g := range f.o.Gates {
		f.o.Restore.Observer.Notify(snapshot.Event{Phase: "gates", What: g.String()})
		if err := f.await(ctx, g); err != nil {
			return err
		}
		f.res.Gates = append(f.res.Gates, Passed{g.String(), time.Since(start)})
	}
	return nil
}

// await tries a gate until it is passed.
func (f *run) await(ctx context.Context, g Gate) error {
	timeout := f.o.GateTimeout
	if timeout <= 0 {
		timeout = gateTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errGateTime)
	defer cancel()
	last := errors.New("no answer")
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		try, end := context.WithTimeout(ctx, 10*time.Second)
		err := f.try(try, g)
		end()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errGateTime) {
				return &GateError{Gate: g.String(), After: timeout, Err: last}
			}
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

var errGateTime = errors.New("the time for the gate is over")

// try asks once.
func (f *run) try(ctx context.Context, g Gate) error {
	switch g.kind {
	case "tcp":
		c, err := new(net.Dialer).DialContext(ctx, "tcp", g.target)
		if err != nil {
			return err
		}
		return c.Close()
	case "http":
		return tryHTTP(ctx, g.target)
	case "exec":
		return f.tryExec(ctx, g)
	}
	return nil // health: the restore has waited for it
}

func tryHTTP(ctx context.Context, target string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	req.Close = true // as somebody new would ask, not over a connection of before
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 400 {
		return fmt.Errorf("answered with %s", answer.Status)
	}
	return nil
}

func (f *run) tryExec(ctx context.Context, g Gate) error {
	objects := f.state.Restored.Objects
	i := slices.IndexFunc(objects, func(o importer.Object) bool { return o.Kind == importer.KindContainer && o.Name == g.target })
	if i < 0 {
		return fmt.Errorf("container %s: %w", g.target, snapshot.ErrMissing)
	}
	var out bytes.Buffer
	code, err := f.engine.Exec(ctx, objects[i].ID, []string{"/bin/sh", "-c", g.command}, &out)
	if err == nil && code != 0 {
		err = fmt.Errorf("ended with code %d: %.200q", code, bytes.TrimSpace(out.Bytes()))
	}
	return err
}
