package importer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// takeUp looks for a restore of the same that was killed. One whose containers were being started is gone on with: its
// things count as not there for the plan. What others left is removed.
func (r *restorer) takeUp(ctx context.Context) (*killed, error) {
	if r.opts.StateDir == "" {
		return nil, nil
	}
	system := r.snap.System.Name
	if r.opts.As != "" {
		system = r.opts.As
	}
	all, err := findKilled(r.opts.StateDir, engineKey(r.engine.Facts()), system)
	var resumed *killed
	for _, k := range all {
		same := k.starting && !k.complete && k.Snapshot == r.snap.Summary.ID && k.Options == r.opts.optionsKey()
		if same && resumed == nil && err == nil {
			resumed = k
			continue
		}
		if err == nil {
			err = r.discard(ctx, k)
		}
		k.close()
	}
	if err != nil && resumed != nil {
		resumed.close()
	}
	return resumed, err
}

// discard takes back a killed restore that is not gone on with.
func (r *restorer) discard(ctx context.Context, k *killed) error {
	var f Recovered
	if err := f.takeBack(ctx, r.engine, k); err != nil {
		return err
	}
	for _, what := range f.Removed {
		r.res.note(what, "was left by a restore that was killed, and removed")
	}
	for _, what := range f.Returned {
		r.res.note(what, "was moved aside by a restore that was killed, and is back")
	}
	if len(f.Left) > 0 {
		r.former = append(r.former, k.path)
	}
	for _, what := range f.Left {
		r.res.note("left by a restore that was killed", what)
	}
	if len(f.Unfinished) > 0 {
		return f.Unfinished[0]
	}
	return nil
}

// gone reports whether none of the containers is there any more: somebody has cleared up.
func (k *killed) gone(ctx context.Context, e Engine) bool {
	for _, m := range k.made {
		if m.Kind != KindContainer {
			continue
		}
		if _, err := e.State(ctx, m.ID); !errors.Is(err, snapshot.ErrMissing) {
			return false
		}
	}
	return true
}

// without returns the target as it was before the killed restore made its things.
func (k *killed) without(t Target) Target {
	made := func(kind Kind) func(snapshot.Existing) bool {
		return func(x snapshot.Existing) bool {
			return slices.ContainsFunc(k.made, func(m made) bool {
				return m.Kind == kind && m.Name == x.Name && (m.ID == x.ID || kind == KindVolume && !k.notOurs(x))
			})
		}
	}
	ours := map[string]bool{} // names of containers
	for _, x := range t.Names.Containers {
		ours[x.Name] = made(KindContainer)(x)
	}
	t.Containers = slices.DeleteFunc(t.Containers, func(c snapshot.Container) bool {
		return slices.ContainsFunc(t.Names.Containers, func(x snapshot.Existing) bool { return x.ID == c.ID && ours[x.Name] })
	})
	t.Names.Containers = slices.DeleteFunc(t.Names.Containers, made(KindContainer))
	t.Names.Networks = slices.DeleteFunc(t.Names.Networks, made(KindNetwork))
	t.Names.Volumes = slices.DeleteFunc(t.Names.Volumes, made(KindVolume))
	t.Names.Ports = slices.DeleteFunc(t.Names.Ports, func(p snapshot.PortInUse) bool { return ours[p.Container] })
	for _, m := range k.made {
		switch m.Kind {
		case KindBind:
			if id, err := pathID(m.Name); err == nil && id == m.ID {
				t.Paths[m.Name] = PathAbsent
			}
		case kindContent:
			t.Paths[m.Name] = PathEmpty
		}
	}
	return t
}

// resume goes on with a restore that was killed while it started containers. Nothing of it is ever undone: somebody may
// have used the containers since.
func (r *restorer) resume(ctx context.Context, k *killed) error {
	r.journal, r.resumed = &journal{file: k.file}, true
	r.aside.items = k.asides(r.engine).items
	for _, m := range k.made {
		if m.Kind == KindContainer {
			r.ids[m.Of] = m.ID // the last one counts: it may have been made anew
		}
	}
	if err := r.sendImages(ctx); err != nil {
		return err
	}
	for _, j := range r.plan.containers {
		if r.ids[j.container.Name] == "" {
			return fmt.Errorf("container %s: %w: it was made by the restore that was killed", j.place.Name, snapshot.ErrMissing)
		}
		r.res.object(Object{Kind: KindContainer, Name: j.place.Name, ID: r.ids[j.container.Name], Action: j.action, State: "created"})
	}
	r.res.note("restore", "went on where one that was killed had stopped")
	if err := r.startContainers(ctx); err != nil {
		return err
	}
	return r.report(ctx)
}
