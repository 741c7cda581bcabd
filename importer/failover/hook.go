package failover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Hook is what brings the traffic once a system runs: a command of this host's shell, or a URL to which the Result
// without its Restore is posted as JSON. One of the two is set. Hooks are run again where one of them failed, so
// they should bear it.
type Hook struct {
	Command string
	URL     string
}

// hookTime bounds each hook: providers of DNS take their time.
const hookTime = 5 * time.Minute

// A HookError says that the system runs, but hooks failed.
type HookError struct{ Err error }

func (e *HookError) Error() string { return e.Err.Error() }
func (e *HookError) Unwrap() error { return e.Err }

// Hint returns the next step.
func (e *HookError) Hint() string {
	return "the system runs here; the same command again runs its hooks again, or do by hand what they should have done"
}

// runHooks runs all hooks, also after one has failed.
func (f *run) runHooks(ctx context.Context) error {
	var errs []error
	for _, h := range f.o.Hooks {
		f.o.Restore.Observer.Notify(snapshot.Event{Phase: "hooks", What: h.name()})
		if err := f.hook(ctx, h); err != nil {
			errs = append(errs, fmt.Errorf("hook %s: %w", h.name(), err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := errors.Join(errs...); err != nil {
		return &HookError{err}
	}
	return nil
}

// name is how a hook is told of: of a URL, which may hold a secret, the host.
func (h Hook) name() string {
	if h.URL == "" {
		return strconv.Quote(h.Command)
	}
	if u, err := url.Parse(h.URL); err == nil {
		return u.Scheme + "://" + u.Host
	}
	return "webhook"
}

func (f *run) hook(ctx context.Context, h Hook) error {
	ctx, cancel := context.WithTimeout(ctx, hookTime)
	defer cancel()
	if h.URL != "" {
		return f.post(ctx, h.URL)
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", h.Command)
	cmd.WaitDelay = time.Second
	cmd.Stdout, cmd.Stderr = f.o.HookOutput, f.o.HookOutput
	cmd.Env = append(slices.DeleteFunc(cmd.Environ(), opensRepository), f.variables()...)
	return cmd.Run()
}

// opensRepository tells the variables that a hook has no use for.
func opensRepository(v string) bool {
	return strings.HasPrefix(v, "HAKOBUNE_PASSWORD") || strings.HasPrefix(v, "HAKOBUNE_KEY")
}

func (f *run) variables() []string {
	r := f.res
	return []string{
		"HAKOBUNE_EVENT=" + f.o.Why, "HAKOBUNE_SYSTEM=" + r.System, "HAKOBUNE_SNAPSHOT=" + r.Snapshot,
		"HAKOBUNE_SITE=" + r.Site.Name, "HAKOBUNE_TERM=" + strconv.Itoa(r.Term),
		"HAKOBUNE_ADDRESSES=" + strings.Join(r.Addresses, " "), "HAKOBUNE_PORTS=" + strings.Join(r.Ports, " "),
	}
}

func (f *run) post(ctx context.Context, to string) error {
	body := *f.res
	body.Restore = nil
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(text))
	if err != nil {
		return errors.New("is no URL") // the library's error quotes it
	}
	req.Header.Set("Content-Type", "application/json")
	req.Close = true // a gate's connection to the same place may be just about to end, and a POST is not repeated
	answer, err := http.DefaultClient.Do(req)
	var failed *url.Error
	if errors.As(err, &failed) {
		return failed.Err // without the URL
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		return fmt.Errorf("answered with %s", answer.Status)
	}
	return nil
}
