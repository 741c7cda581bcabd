package importer

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (r *restorer) makeNetworks(ctx context.Context) error {
	for _, j := range r.plan.networks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if j.action != Create {
			r.res.object(Object{Kind: KindNetwork, Name: j.name, Action: j.action})
			continue
		}
		r.event("networks", "network "+j.name)
		if err := r.makeNetwork(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) makeNetwork(ctx context.Context, j networkJob) error {
	ctx, cancel := steady(ctx)
	defer cancel()
	if err := r.journal.intend(made{Kind: KindNetwork, Name: j.name}); err != nil {
		return err
	}
	id, warnings, err := r.engine.CreateNetwork(ctx, j.network, j.name, r.labelled(j.labels))
	if err != nil {
		return err
	}
	r.undo.add("network "+j.name, func(ctx context.Context) error { return r.engine.RemoveNetwork(ctx, id) })
	if err := r.journal.made(made{Kind: KindNetwork, Name: j.name, ID: id}); err != nil {
		return err
	}
	for _, w := range warnings {
		r.res.note("network "+j.name, w)
	}
	r.res.object(Object{Kind: KindNetwork, Name: j.name, ID: id, Action: Create})
	return nil
}

// makeContainers creates the containers of the plan, those that others refer to first.
func (r *restorer) makeContainers(ctx context.Context) error {
	for i := range r.plan.containers {
		if err := ctx.Err(); err != nil {
			return err
		}
		j := &r.plan.containers[i]
		if j.action == Skip {
			r.ids[j.container.Name] = j.old.ID
			r.res.object(Object{Kind: KindContainer, Name: j.place.Name, ID: j.old.ID, Action: Skip, State: j.old.State})
			continue
		}
		r.event("containers", "container "+j.place.Name)
		if err := r.makeContainer(ctx, j); err != nil {
			return err
		}
		r.undo.add("container "+j.place.Name, func(ctx context.Context) error {
			return r.engine.RemoveContainer(ctx, r.ids[j.container.Name])
		})
		r.res.object(Object{Kind: KindContainer, Name: j.place.Name, ID: r.ids[j.container.Name], Action: j.action, State: "created"})
	}
	return nil
}

// makeContainer creates a container, with all its changes in place.
func (r *restorer) makeContainer(ctx context.Context, j *containerJob) error {
	p := r.placement(j)
	ctx, cancel := steady(ctx)
	defer cancel()
	if err := r.journal.intend(made{Kind: KindContainer, Name: p.Name}); err != nil {
		return err
	}
	id, warnings, err := r.engine.CreateContainer(ctx, *j.container, p)
	if err != nil {
		return err
	}
	r.ids[j.container.Name] = id
	if err := r.journal.made(made{Kind: KindContainer, Name: p.Name, Of: j.container.Name, ID: id}); err != nil {
		return errors.Join(err, r.engine.RemoveContainer(ctx, id))
	}
	for _, w := range warnings {
		r.res.note("container "+p.Name, w)
	}
	if err := r.addExtras(ctx, j, id); err != nil {
		return errors.Join(fmt.Errorf("container %s: %w", p.Name, err), r.engine.RemoveContainer(ctx, id))
	}
	return nil
}

// placement completes the plan's placement with what is known only now: the image, and the ids of
// the containers that were made before.
func (r *restorer) placement(j *containerJob) snapshot.Placement {
	p := j.place
	p.Containers = make(map[string]string)
	for i := range r.snap.System.Containers {
		other := &r.snap.System.Containers[i]
		if now, ok := j.place.Containers[other.Name]; ok {
			p.Containers[other.Name] = now
		}
		if id := r.ids[other.Name]; id != "" {
			p.Containers[other.ID] = id
		}
	}
	p.Image, p.ImageID = r.baseImage(j.container)
	if j.changes != "" {
		p.Image = j.changes
	}
	return p
}

// baseImage says how to refer to the image that a container ran: by the container's own reference,
// if that names it, else by its id. For Compose it also returns the id on the target of the image that
// Compose knew the container by, or else of what that reference names.
func (r *restorer) baseImage(c *snapshot.Container) (ref, composeID string) {
	id := r.images[c.ImageKey]
	named := cmp.Or(r.named[fullReference(c.Image)], r.holder(c.Image))
	known := cmp.Or(r.knownToCompose(c), named, id)
	if id != "" && named == id {
		return c.Image, known
	}
	return id, known
}

// knownToCompose returns the id on the target of the image that Compose made a container from that was restored
// since: it runs another one now, which has its changes in it.
func (r *restorer) knownToCompose(c *snapshot.Container) string {
	for _, img := range r.snap.System.Images {
		if img.ID == c.Labels[labelImage] && img.Config != c.ImageKey {
			return r.images[img.Config]
		}
	}
	return ""
}
