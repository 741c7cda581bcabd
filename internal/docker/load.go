package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Load gives the engine an image archive. It fails also where the engine reports a failure inside
// a successful answer. What was loaded is to be held against CheckImage.
func (e *Engine) Load(ctx context.Context, r io.Reader) error {
	answer, err := e.api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		return fail(err, nil, "load image")
	}
	if err := drain(answer); err != nil {
		return fmt.Errorf("load image: %w", err)
	}
	return nil
}

// Pull has the engine pull an image.
func (e *Engine) Pull(ctx context.Context, ref string) error {
	answer, err := e.api.ImagePull(ctx, ref, client.ImagePullOptions{})
	if err != nil {
		return fail(err, nil, "pull image %s", ref)
	}
	if err := drain(answer); err != nil {
		return fmt.Errorf("pull image %s: %w", ref, err)
	}
	return nil
}

// drain reads a stream of JSON messages to its end and closes it. Engines tell a failure in one of
// these messages, after they have answered 200; containerd's store also tells in plain text that
// it could not unpack an image.
func drain(stream io.ReadCloser) error {
	defer stream.Close()
	messages := json.NewDecoder(stream)
	var failure error
	for {
		var m struct {
			Stream      string `json:"stream"`
			Error       string `json:"error"`
			ErrorDetail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		err := messages.Decode(&m)
		if errors.Is(err, io.EOF) {
			return failure
		}
		if err != nil {
			return errors.Join(failure, fmt.Errorf("answer of the engine: %w", err))
		}
		switch {
		case failure != nil:
		case m.ErrorDetail.Message != "":
			failure = errors.New(m.ErrorDetail.Message)
		case m.Error != "":
			failure = errors.New(m.Error)
		case strings.Contains(m.Stream, "Error unpacking image "):
			failure = errors.New(strings.TrimSpace(m.Stream))
		}
	}
}

// Tag gives the image (an id or a reference) one more reference.
func (e *Engine) Tag(ctx context.Context, image, ref string) error {
	_, err := e.api.ImageTag(ctx, client.ImageTagOptions{Source: image, Target: ref})
	return fail(err, nil, "tag image %s as %s", image, ref)
}

// Untag removes a reference, and the image with it if that was its last one. A reference that is not
// there is no error; the last reference to an image that a container uses cannot be removed, which
// is.
func (e *Engine) Untag(ctx context.Context, ref string) error {
	_, err := e.api.ImageRemove(ctx, ref, client.ImageRemoveOptions{PruneChildren: true})
	return unlessMissing(fail(err, nil, "untag image %s", ref))
}

// CheckImage returns the engine's id of the image ref. It is snapshot.ErrMissing if there is none,
// and an error if its layers are not those of want or not all there.
func (e *Engine) CheckImage(ctx context.Context, ref string, want snapshot.Image) (string, error) {
	in, _, err := e.inspectImage(ctx, ref, nil)
	if err != nil {
		return "", err
	}
	ids := make([]string, len(want.Layers))
	for i, l := range want.Layers {
		ids[i] = l.DiffID
	}
	if !slices.Equal(in.RootFS.Layers, ids) {
		return "", fmt.Errorf("image %s: has other layers: %v, want %v", ref, in.RootFS.Layers, ids)
	}
	if !e.facts.Containerd {
		if want.Config != "" && in.ID != want.Config {
			return "", fmt.Errorf("image %s: has another configuration: %s, want %s", ref, in.ID, want.Config)
		}
		return in.ID, nil
	}
	return in.ID, e.checkContent(ctx, in, want)
}

// checkContent proves that containerd has all content of an image: an archive without some layer
// loads well there, and the image is broken for ever.
func (e *Engine) checkContent(ctx context.Context, in imageInspection, want snapshot.Image) error {
	if config, err := e.localConfig(ctx, in); err == nil && want.Config != "" && digestOf(config) != want.Config {
		return fmt.Errorf("image %s: has another configuration: %s, want %s", in.ID, digestOf(config), want.Config)
	}
	if versions.LessThan(e.facts.APIVersion, "1.48") {
		return e.tryImage(ctx, in.ID)
	}
	in, _, err := e.inspectImage(ctx, in.ID, url.Values{"manifests": {"1"}})
	if err != nil {
		return err
	}
	for _, m := range in.Manifests {
		if m.Kind == "image" && m.Available {
			return nil
		}
	}
	return fmt.Errorf("image %s: the engine lacks some of its content", in.ID)
}

// tryImage creates a container and removes it, for engines that do not tell what content they have.
func (e *Engine) tryImage(ctx context.Context, id string) error {
	made, err := e.api.ContainerCreate(ctx, client.ContainerCreateOptions{Config: &container.Config{
		Image: id, Cmd: []string{"true"}, Labels: map[string]string{helperLabel: "check"},
	}})
	if err != nil {
		return fail(err, nil, "image %s", id)
	}
	return e.RemoveContainer(ctx, made.ID)
}
