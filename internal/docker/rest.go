package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/moby/moby/client"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// maxAnswer bounds what the engine may say in one JSON answer.
const maxAnswer = 64 << 20

// get asks the engine for JSON and returns it as it came. Descriptions of containers, images,
// volumes and networks are read this way rather than through the client's types: those hold only
// what their version knows, and refuse the whole of it for one address they cannot parse.
func (e *Engine) get(ctx context.Context, path string, query url.Values) (json.RawMessage, error) {
	return e.call(ctx, http.MethodGet, path, query, nil)
}

// post sends JSON and returns the JSON of the answer.
func (e *Engine) post(ctx context.Context, path string, query url.Values, body any) (json.RawMessage, error) {
	return e.call(ctx, http.MethodPost, path, query, body)
}

func (e *Engine) call(ctx context.Context, method, path string, query url.Values, body any) (json.RawMessage, error) {
	return e.callVersion(ctx, e.api.ClientVersion(), method, path, query, body)
}

// callVersion is a call of another version of the API than the negotiated one.
func (e *Engine) callVersion(ctx context.Context, version, method, path string, query url.Values, body any) (json.RawMessage, error) {
	u := url.URL{Scheme: e.scheme, Host: e.addr, Path: "/v" + version + path, RawQuery: query.Encode()}
	sent, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(sent))
	if err != nil {
		return nil, err
	}
	if body == nil {
		req.Body, req.ContentLength = http.NoBody, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > maxAnswer {
		return nil, fmt.Errorf("answer exceeds %d bytes", maxAnswer)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return nil, refusal(resp.StatusCode, answer)
	}
	return answer, nil
}

// refusal is the error of an answer with an error status, of the same kind as the client's.
func refusal(status int, answer []byte) error {
	var said struct{ Message string }
	if json.Unmarshal(answer, &said) != nil || said.Message == "" {
		said.Message = fmt.Sprintf("status %d: %.200s", status, answer)
	}
	kind := errhttp.ToNative(status)
	if kind == nil {
		return errors.New(said.Message)
	}
	return &statusError{kind: kind, said: strings.TrimSpace(said.Message)}
}

// statusError says what the engine said, and is what its status means.
type statusError struct {
	kind error
	said string
}

func (e *statusError) Error() string { return e.said }
func (e *statusError) Unwrap() error { return e.kind }

// fail translates an error of the Engine API: doing is "operation object". A conflict becomes
// conflict, what that means for the operation.
func fail(err error, conflict error, doing string, args ...any) error {
	doing = fmt.Sprintf(doing, args...)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, err)
	case isDown(err):
		return fmt.Errorf("%s: %w: %s", doing, ErrDown, said(err))
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w: %s", doing, snapshot.ErrMissing, said(err))
	case errdefs.IsConflict(err) && conflict != nil:
		return fmt.Errorf("%s: %w: %s", doing, conflict, said(err))
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// said is the engine's own text in an error.
func said(err error) string {
	return strings.TrimPrefix(err.Error(), "Error response from daemon: ")
}

// isDown reports whether err says that there was no connection to the engine at all.
func isDown(err error) bool {
	var op *net.OpError
	return client.IsErrConnectionFailed(err) || errors.As(err, &op) && op.Op == "dial"
}

// unlessMissing is err unless that says that the object is not there.
func unlessMissing(err error) error {
	if errors.Is(err, snapshot.ErrMissing) {
		return nil
	}
	return err
}
