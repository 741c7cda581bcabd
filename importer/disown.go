package importer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// disown makes the containers that were moved aside, and stay, strangers to Compose. It goes by labels, whatever the name,
// and its next "up" would remove one of two that have the same; and no engine changes a container's labels. So another
// container gets the changes and the name. It has no volumes: those of before have other names now, and those of the
// old names are the new system's.
func (r *restorer) disown(ctx context.Context) {
	all, err := r.engine.Containers(ctx)
	if err != nil {
		r.res.note("containers that are kept", "docker compose may take them for its own: "+err.Error())
		return
	}
	kept := r.aside.list()
	for _, c := range all {
		if c.Labels[labelProject] == "" || !slices.Contains(kept, asideItem{kind: KindContainer, name: c.Name}.String()) {
			continue
		}
		if err := r.disownContainer(ctx, c); err != nil {
			r.res.note("container "+c.Name, "docker compose up removes it, with what it wrote outside of volumes: "+err.Error())
		}
	}
}

func (r *restorer) disownContainer(ctx context.Context, c snapshot.Container) error {
	changes, err := r.engine.Upper(ctx, c)
	if err != nil {
		return err
	}
	stranger, err := strangerFor(c)
	if err != nil {
		return err
	}
	ctx, cancel := steady(ctx)
	defer cancel()
	id, _, err := r.engine.CreateContainer(ctx, stranger, snapshot.Placement{Name: c.Name + "-kept", Image: c.ImageID})
	if err != nil {
		return err
	}
	blank, err := r.upper(ctx, id)
	if err == nil {
		err = exchange(changes, blank)
	}
	if err != nil {
		return errors.Join(err, r.engine.RemoveContainer(ctx, id))
	}
	if err := r.engine.RemoveContainer(ctx, c.ID); err != nil {
		return errors.Join(err, exchange(changes, blank), r.engine.RemoveContainer(ctx, id))
	}
	return r.engine.Rename(ctx, id, c.Name)
}

// strangerFor describes a container that looks as c does from inside, and shares nothing with anybody.
func strangerFor(c snapshot.Container) (snapshot.Container, error) {
	var in struct {
		Config map[string]any
	}
	if err := json.Unmarshal(c.Inspect, &in); err != nil {
		return c, fmt.Errorf("inspection of container %s: %w", c.Name, err)
	}
	if in.Config == nil {
		in.Config = map[string]any{}
	}
	labels := map[string]string{}
	for key, value := range c.Labels {
		if !strings.HasPrefix(key, "com.docker.compose.") && key != labelSystem {
			labels[key] = value
		}
	}
	in.Config["Labels"] = labels
	memory := map[string]string{} // where volumes were, lest the engine makes some
	for _, m := range c.Mounts {
		memory[m.Destination] = ""
	}
	if asked, ok := in.Config["Volumes"].(map[string]any); ok {
		for dir := range asked {
			memory[dir] = ""
		}
	}
	inspect, err := json.Marshal(map[string]any{
		"Config": in.Config, "HostConfig": map[string]any{"NetworkMode": "none", "Tmpfs": memory},
	})
	return snapshot.Container{Name: c.Name, Image: c.Image, ImageID: c.ImageID, Inspect: inspect}, err
}

// exchange gives each of two directories the other's name, at once.
func exchange(a, b string) error {
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
	}
	return nil
}
