package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// putBack gives a thing that a killed restore has moved aside its name and place again; did is false if it has them, or is
// gone. clear says that all that was done later is taken back. A *usedError says that somebody has made use of what is in
// its place.
func (k *killed) putBack(ctx context.Context, e Engine, m made, clear bool) (did bool, err error) {
	switch m.Kind {
	case kindOldContainer:
		if !clear {
			return false, &usedError{"what it uses is not back: it stays stopped, as " + m.Aside}
		}
		return m.putContainerBack(ctx, e)
	case kindOldVolume:
		return k.putVolumeBack(ctx, e, m)
	case kindOldRef:
		err := e.Tag(ctx, m.Aside, m.Name)
		if errors.Is(err, snapshot.ErrMissing) {
			return false, nil
		}
		return err == nil, errors.Join(err, e.Untag(ctx, m.Aside))
	}
	return m.putPathBack()
}

func (m made) putContainerBack(ctx context.Context, e Engine) (bool, error) {
	names, err := e.Names(ctx)
	if err != nil {
		return false, err
	}
	i := slices.IndexFunc(names.Containers, func(x snapshot.Existing) bool { return x.ID == m.ID })
	if i < 0 {
		return false, nil
	}
	if names.Containers[i].Name == m.Aside {
		if err := e.Rename(ctx, m.ID, m.Name); err != nil {
			return false, err
		}
	}
	if err := e.SetRestartPolicy(ctx, m.ID, m.Restart); err != nil {
		return false, err
	}
	if m.Ran {
		return true, e.Start(ctx, m.ID)
	}
	return true, nil
}

// putVolumeBack is putBack for what was in a volume. The other volume was made by the restore, and then the directory moved.
func (k *killed) putVolumeBack(ctx context.Context, e Engine, m made) (bool, error) {
	names, err := e.Names(ctx)
	if err != nil {
		return false, err
	}
	if old, ok := existing(names.Volumes, m.Aside); !ok || k.notOurs(old) {
		return false, nil // not made yet
	}
	if _, ok := existing(names.Volumes, m.Name); !ok {
		return false, &usedError{"the volume is gone: it lies in volume " + m.Aside}
	}
	if err := k.unused(ctx, e, made{Kind: KindVolume, Name: m.Name}); err != nil {
		return false, err
	}
	from, err := e.VolumeMountpoint(ctx, m.Aside)
	if err != nil {
		return false, err
	}
	to, err := e.VolumeMountpoint(ctx, m.Name)
	if err != nil {
		return false, err
	}
	if err := k.moveBack(m, from, to); err != nil {
		return false, err
	}
	return true, e.RemoveVolume(ctx, m.Aside)
}

// moveBack moves a volume's former content from the directory where it is to its own.
func (k *killed) moveBack(m made, from, to string) error {
	aside, err := pathState(from)
	if err != nil {
		return err
	}
	now, err := pathState(to)
	if err != nil {
		return err
	}
	var filled made
	if i := slices.IndexFunc(k.made, func(x made) bool { return x.Kind == KindVolume && x.Name == m.Name }); i >= 0 {
		filled = k.made[i]
	}
	if aside == PathEmpty && filled.Print == "" && now != PathAbsent {
		return nil // nothing was moved, or nothing was there
	}
	var used *usedError
	if err := filled.untouched(to); errors.As(err, &used) {
		return &usedError{fmt.Sprintf("somebody has written to %s since: what was in the volume lies in volume %s; empty it to have that back", to, m.Aside)}
	} else if err != nil {
		return err
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return moveDir(from, to)
}

func (m made) putPathBack() (bool, error) {
	state, err := pathState(m.Aside)
	if err != nil || state == PathAbsent {
		return false, err
	}
	state, err = pathState(m.Name)
	if err != nil {
		return false, err
	}
	if state != PathAbsent {
		return false, &usedError{"somebody has made use of it since: what it was is " + m.Aside}
	}
	return true, os.Rename(m.Aside, m.Name)
}

// asides lists what the restore has moved aside as the restore itself would.
func (k *killed) asides(e Engine) *asides {
	var all asides
	for _, m := range k.made {
		switch m.Kind {
		case kindOldContainer:
			all.add(KindContainer, m.Aside, func(ctx context.Context) error { return e.RemoveContainer(ctx, m.ID) })
		case kindOldVolume:
			all.add(KindVolume, m.Aside, func(ctx context.Context) error { return e.RemoveVolume(ctx, m.Aside) })
		case kindOldPath:
			all.add(KindBind, m.Aside, func(context.Context) error { return os.RemoveAll(m.Aside) })
		case kindOldRef:
			all.add(KindImage, m.Aside, func(ctx context.Context) error { return e.Untag(ctx, m.Aside) })
		}
	}
	return &all
}

// finish ends a restore that was complete when it was killed: what it has moved aside is removed, if it was not to be kept.
func (f *Recovered) finish(ctx context.Context, e Engine, k *killed) error {
	if k.Keeps {
		return k.remove()
	}
	all := k.asides(e)
	names := all.list()
	left, err := all.drop(ctx)
	if err != nil {
		f.Left = append(f.Left, left...)
		return ctx.Err() // the next time, perhaps
	}
	f.Removed = append(f.Removed, names...)
	return k.remove()
}
