package exporter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// When says when a command runs.
type When string

// The times of commands.
const (
	Before When = "before" // its container, which runs, is held still
	After  When = "after"  // the container was released
)

// Hook is a command to be run in a container.
type Hook struct {
	ID   string
	Name string // of the container
	When When
	Argv []string
}

func (h Hook) String() string { return fmt.Sprintf("command %s in container %s", h.When, h.Name) }

// planHooks plans the commands of a container.
func (p *Plan) planHooks(c snapshot.Container, o Options) {
	labels, _ := parseLabels(c.Labels)
	for _, h := range []struct {
		when   When
		argv   []string
		option map[string][]string
	}{{Before, labels.pre, o.Pre}, {After, labels.post, o.Post}} {
		argv := h.argv
		if replaced, ok := h.option[c.Name]; ok {
			argv = replaced
		}
		switch {
		case len(argv) == 0:
		case c.State != "running":
			p.note("container "+c.Name, "the command %s was not run: it does not run", h.when)
		default:
			p.Hooks = append(p.Hooks, Hook{ID: c.ID, Name: c.Name, When: h.when, Argv: argv})
		}
	}
}

// A HookError says that a command failed in its container.
type HookError struct {
	Hook   Hook
	Output string // the end of what it wrote
	Err    error
}

func (e *HookError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("%v: %v", e.Hook, e.Err)
	}
	return fmt.Sprintf("%v: %v: %s", e.Hook, e.Err, e.Output)
}

// Unwrap gives the cause.
func (e *HookError) Unwrap() error { return e.Err }

// maxHookOutput is how much of a command's output an error shows: the end of it.
const maxHookOutput = 4 << 10

// runHooks runs commands one after the other. It returns the containers whose command was begun,
// and the errors of those that failed; the first failure ends it unless all are wanted.
func runHooks(ctx context.Context, engine Holder, hooks []Hook, o Options, all bool) (begun map[string]bool, err error) {
	begun = map[string]bool{}
	var errs []error
	for _, h := range hooks {
		if ctx.Err() != nil {
			return begun, errors.Join(append(errs, context.Cause(ctx))...)
		}
		o.Observer.Notify(snapshot.Event{Phase: "command", What: "container " + h.Name})
		begun[h.ID] = true
		if err := runHook(ctx, engine, h, o); err != nil {
			errs = append(errs, err)
			if !all {
				break
			}
		}
	}
	return begun, errors.Join(errs...)
}

func runHook(ctx context.Context, engine Holder, h Hook, o Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, o.HookTime, fmt.Errorf("it did not end in %v", o.HookTime))
	defer cancel()
	var out bytes.Buffer
	code, err := engine.Exec(ctx, h.ID, h.Argv, &out)
	if err == nil && code == 0 {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = fmt.Errorf("exit code %d", code)
	}
	text := strings.ToValidUTF8(strings.TrimSpace(out.String()), "?")
	if len(text) > maxHookOutput {
		text = "..." + text[len(text)-maxHookOutput:]
	}
	return &HookError{Hook: h, Output: text, Err: err}
}

// hooksOf returns the commands that run at a time: those before in the order of dependencies, those
// after in the opposite order.
func (p *Plan) hooksOf(when When) []Hook {
	var list []Hook
	for _, h := range p.Hooks {
		if h.When == when {
			list = append(list, h)
		}
	}
	if when == After {
		slices.Reverse(list)
	}
	return list
}
