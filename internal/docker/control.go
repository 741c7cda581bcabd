package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Pause holds all processes of a running container still. It is snapshot.ErrState if the container
// is paused already or does not run.
func (e *Engine) Pause(ctx context.Context, id string) error {
	_, err := e.api.ContainerPause(ctx, id, client.ContainerPauseOptions{})
	return e.stateFailure(ctx, id, err, "running", "pause")
}

// Unpause lets a paused container go on. It is snapshot.ErrState if the container is not paused.
func (e *Engine) Unpause(ctx context.Context, id string) error {
	_, err := e.api.ContainerUnpause(ctx, id, client.ContainerUnpauseOptions{})
	return e.stateFailure(ctx, id, err, "paused", "unpause")
}

// stateFailure explains a failure that is none of the engine's but comes of the container's state:
// 20.10 answers 500 to an unpause of what is not paused, later engines 409.
func (e *Engine) stateFailure(ctx context.Context, id string, err error, needs, verb string) error {
	if err == nil {
		return nil
	}
	if in, inspectErr := e.inspect(ctx, id); inspectErr == nil && in.State.Status != needs {
		return fmt.Errorf("%s container %.12s: %w: %s", verb, id, snapshot.ErrState, in.State.Status)
	}
	return fail(err, nil, "%s container %.12s", verb, id)
}

// Stop stops a container, with its own stop signal and grace period, and waits until it stands.
// Stopping one that does not run does nothing.
func (e *Engine) Stop(ctx context.Context, id string) error {
	_, err := e.api.ContainerStop(ctx, id, client.ContainerStopOptions{})
	return fail(err, nil, "stop container %.12s", id)
}

// RestartPolicy says when the engine starts a container by itself, as docker run --restart takes it.
func (e *Engine) RestartPolicy(ctx context.Context, id string) (string, error) {
	in, err := e.inspect(ctx, id)
	if err != nil {
		return "", err
	}
	was := in.HostConfig.RestartPolicy
	if was.MaximumRetryCount > 0 {
		return fmt.Sprintf("%s:%d", was.Name, was.MaximumRetryCount), nil
	}
	return cmp.Or(was.Name, "no"), nil
}

// SetRestartPolicy gives a container another restart policy. One of "always" starts with the engine even if somebody stopped
// it.
func (e *Engine) SetRestartPolicy(ctx context.Context, id, policy string) error {
	name, most, limited := strings.Cut(policy, ":")
	p := container.RestartPolicy{Name: container.RestartPolicyMode(name)}
	if limited {
		var err error
		if p.MaximumRetryCount, err = strconv.Atoi(most); err != nil {
			return fmt.Errorf("restart policy %q: %w", policy, err)
		}
	}
	_, err := e.api.ContainerUpdate(ctx, id, client.ContainerUpdateOptions{RestartPolicy: &p})
	return fail(err, nil, "set the restart policy of container %.12s", id)
}

// Start starts a container. Starting one that runs does nothing. After an error the container must
// be removed and created again, never just started again: engines from 29 on drop a network from
// the container when joining it fails.
func (e *Engine) Start(ctx context.Context, id string) error {
	_, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{})
	return fail(err, nil, "start container %.12s", id)
}

// maxOutput bounds what Exec passes on.
const maxOutput = 64 << 10

// Exec runs argv in a running container and returns its exit code. At most 64 KiB of what it
// writes (to both its outputs) go to out, the rest is dropped; out may be nil. When ctx ends the
// command is left to itself, for the engine has no way to end it.
func (e *Engine) Exec(ctx context.Context, id string, argv []string, out io.Writer) (int, error) {
	made, err := e.api.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: argv, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return 0, fail(err, snapshot.ErrState, "exec in container %.12s", id)
	}
	stream, err := e.api.ExecAttach(ctx, made.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, fail(err, snapshot.ErrState, "exec in container %.12s", id)
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, stream.Close)() // a hijacked connection knows no ctx
	bounded := &limitedWriter{w: out, left: maxOutput}
	if _, err := stdcopy.StdCopy(bounded, bounded, stream.Reader); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return 0, fmt.Errorf("exec in container %.12s: %w", id, err)
	}
	done, err := e.api.ExecInspect(ctx, made.ID, client.ExecInspectOptions{})
	return done.ExitCode, fail(err, nil, "exec in container %.12s", id)
}

// limitedWriter passes on so many bytes and drops the rest without a word.
type limitedWriter struct {
	w    io.Writer // nil: nothing is passed on
	left int
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	pass := p[:min(len(p), l.left)]
	if l.w == nil || len(pass) == 0 {
		return len(p), nil
	}
	l.left -= len(pass)
	if _, err := l.w.Write(pass); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Rename gives a container another name; snapshot.ErrExists if that is taken.
func (e *Engine) Rename(ctx context.Context, id, name string) error {
	_, err := e.api.ContainerRename(ctx, id, client.ContainerRenameOptions{NewName: name})
	return fail(err, snapshot.ErrExists, "rename container %.12s to %s", id, name)
}

// RemoveContainer ends and removes a container, not its volumes. One that is not there is no error.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	_, err := e.api.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true})
	return unlessMissing(fail(err, nil, "remove container %.12s", id))
}

// logLines is how much of a container's log State tells.
const logLines = "20"

// State says how a container is doing.
func (e *Engine) State(ctx context.Context, id string) (snapshot.State, error) {
	in, err := e.inspect(ctx, id)
	if err != nil {
		return snapshot.State{}, err
	}
	s := snapshot.State{State: in.State.Status, Health: in.health(), ExitCode: in.State.ExitCode, Error: in.State.Error, NextCheck: in.nextCheck()}
	if s.State != "created" && (s.State != "running" || s.Health == "unhealthy") {
		s.Log = e.logTail(ctx, in)
	}
	return s, nil
}

// logTail returns the last lines of a container's log, or why there are none: not every log driver
// can be read.
func (e *Engine) logTail(ctx context.Context, in inspection) string {
	stream, err := e.api.ContainerLogs(ctx, in.ID, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: logLines})
	if err != nil {
		return "(" + said(err) + ")"
	}
	defer stream.Close()
	var text tail
	if in.Config.Tty {
		_, err = io.Copy(&text, stream)
	} else {
		_, err = stdcopy.StdCopy(&text, &text, stream)
	}
	if err != nil {
		return text.String() + "\n(" + err.Error() + ")"
	}
	return text.String()
}

// inspect asks for one container.
func (e *Engine) inspect(ctx context.Context, id string) (inspection, error) {
	var in inspection
	raw, err := e.get(ctx, "/containers/"+id+"/json", nil)
	if err != nil {
		return in, fail(err, nil, "inspect container %.12s", id)
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return in, fmt.Errorf("inspect container %.12s: %w", id, err)
	}
	return in, nil
}

// PutArchive unpacks a tar below path in a container, running or not. Whiteouts in it would become
// plain files.
func (e *Engine) PutArchive(ctx context.Context, id, path string, tar io.Reader) error {
	_, err := e.api.CopyToContainer(ctx, id, client.CopyToContainerOptions{DestinationPath: path, Content: tar})
	return fail(err, nil, "put files into container %.12s: %s", id, path)
}
