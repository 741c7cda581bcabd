package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// asides is what Options.Replace has moved aside, and how to remove it for good.
type asides struct {
	mu    sync.Mutex
	items []asideItem
}

type asideItem struct {
	kind   Kind
	name   string // it has now
	remove func(context.Context) error
}

func (i asideItem) String() string { return string(i.kind) + " " + i.name }

func (a *asides) add(kind Kind, name string, remove func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.items = append(a.items, asideItem{kind, name, remove})
}

func (a *asides) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for _, i := range a.items {
		all = append(all, i.String())
	}
	return all
}

// drop removes all of it, containers before what they use. It goes on after an error; left is what
// could not be removed.
func (a *asides) drop(ctx context.Context) (left []string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var errs []error
	for _, containers := range []bool{true, false} {
		for _, i := range a.items {
			if (i.kind == KindContainer) != containers {
				continue
			}
			if err := i.remove(ctx); err != nil {
				left = append(left, i.String())
				errs = append(errs, err)
			}
		}
	}
	a.items = nil
	return left, errors.Join(errs...)
}

// asideName is the name that something has while it is aside.
func (r *restorer) asideName(name string) string { return snapshot.AsideName(name, r.run) }

// setContainersAside stops and renames the containers that the plan replaces, those that others
// depend on last.
func (r *restorer) setContainersAside(ctx context.Context) error {
	for _, j := range slices.Backward(r.plan.containers) {
		if j.action != Replace {
			continue
		}
		r.event("containers", "stop "+j.old.Name)
		if err := r.setContainerAside(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) setContainerAside(ctx context.Context, j containerJob) error {
	id, name := j.old.ID, j.old.Name
	// The volumes that it names are the new system's soon: not even a restart of the engine may start it on them.
	policy, err := r.engine.RestartPolicy(ctx, id)
	if err != nil {
		return err
	}
	if err := r.journal.made(made{Kind: kindOldContainer, Name: name, ID: id, Aside: r.asideName(name), Restart: policy, Ran: running(j.old.State)}); err != nil {
		return err
	}
	// Registered first: the answer of a call that was carried out may be lost on the way.
	r.undo.add("restart policy of container "+name, func(ctx context.Context) error { return r.engine.SetRestartPolicy(ctx, id, policy) })
	if err := r.engine.SetRestartPolicy(ctx, id, "no"); err != nil {
		return err
	}
	if running(j.old.State) {
		// Registered first: a stop that failed half-way may have stopped it.
		r.undo.add("container "+name+" stopped", func(ctx context.Context) error { return r.engine.Start(ctx, id) })
		if err := r.engine.Stop(ctx, id); err != nil {
			return err
		}
	}
	ctx, cancel := steady(ctx)
	defer cancel()
	if err := r.engine.Rename(ctx, id, r.asideName(name)); err != nil {
		return err
	}
	r.undo.add("container "+r.asideName(name), func(ctx context.Context) error { return r.engine.Rename(ctx, id, name) })
	r.aside.add(KindContainer, r.asideName(name), func(ctx context.Context) error { return r.engine.RemoveContainer(ctx, id) })
	return nil
}

// setVolumeAside moves a volume's directory into a volume of another name, and leaves an empty one
// in its place. Both lie in the same file system, so this takes no time. Engines cannot rename a
// volume. It returns where the content is now.
func (r *restorer) setVolumeAside(ctx context.Context, j volumeJob) (string, error) {
	ctx, cancel := steady(ctx)
	defer cancel()
	old := r.asideName(j.name)
	if err := r.journal.made(made{Kind: kindOldVolume, Name: j.name, Aside: old}); err != nil {
		return "", err
	}
	if err := r.engine.CreateVolume(ctx, j.volume, old, r.labelled(nil)); err != nil {
		return "", err
	}
	holds := false // what was in the volume
	r.undo.add("volume "+old, func(ctx context.Context) error {
		if holds {
			return fmt.Errorf("it holds what was in volume %s", j.name)
		}
		return r.engine.RemoveVolume(ctx, old)
	})
	from, err := r.engine.VolumeMountpoint(ctx, j.name)
	if err != nil {
		return "", err
	}
	to, err := r.engine.VolumeMountpoint(ctx, old)
	if err != nil {
		return "", err
	}
	if err := moveDir(from, to); err != nil {
		return "", fmt.Errorf("set volume %s aside: %w", j.name, err)
	}
	holds = true
	r.undo.add("content of volume "+j.name+" in "+old, func(context.Context) error {
		err := errors.Join(os.RemoveAll(from), moveDir(to, from))
		holds = err != nil
		return err
	})
	r.aside.add(KindVolume, old, func(ctx context.Context) error { return r.engine.RemoveVolume(ctx, old) })
	return to, nil
}

// moveDir renames a directory to where there is none or an empty one, and leaves an empty one of
// the same mode in its place.
func moveDir(from, to string) error {
	fi, err := os.Stat(from)
	if err != nil {
		return err
	}
	if err := rename(from, to); err != nil {
		return err
	}
	if err := os.Mkdir(from, fi.Mode().Perm()); err != nil {
		return errors.Join(err, rename(to, from))
	}
	return nil
}

// setPathAside renames a host path, and returns the name that it has then.
func (r *restorer) setPathAside(path string) (string, error) {
	old := r.asideName(filepath.Clean(path))
	if err := r.journal.made(made{Kind: kindOldPath, Name: path, Aside: old}); err != nil {
		return "", err
	}
	if err := os.Rename(path, old); err != nil {
		return "", fmt.Errorf("set bind %s aside: %w", path, err)
	}
	r.undo.add("path "+old, func(context.Context) error { return os.Rename(old, path) })
	r.aside.add(KindBind, old, func(context.Context) error { return os.RemoveAll(old) })
	return old, nil
}

// setReferenceAside gives the image that holds a reference another one, so that it stays when the
// reference is moved.
func (r *restorer) setReferenceAside(ctx context.Context, ref, holder string) error {
	old := "hakobune/old-" + r.run + ":" + shortDigest(holder)
	if err := r.journal.made(made{Kind: kindOldRef, Name: ref, Aside: old}); err != nil {
		return err
	}
	if err := r.engine.Tag(ctx, holder, old); err != nil {
		return err
	}
	r.undo.add("image "+old, func(ctx context.Context) error {
		return errors.Join(r.engine.Tag(ctx, old, ref), r.engine.Untag(ctx, old))
	})
	r.aside.add(KindImage, old, func(ctx context.Context) error { return r.engine.Untag(ctx, old) })
	return nil
}
