package importer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Recovered is what Recover did.
type Recovered struct {
	Removed    []string           // what killed restores had left
	Returned   []string           // what they had moved aside, and is back
	Left       []string           // what is still there, and why
	Unfinished []*UnfinishedError // restores of which containers run already: nothing of them was touched
}

// Recover takes back what restores that were killed left on the engine, as their journals in the state directory tell:
// those of the system, or all of them if that is empty. It removes nothing that somebody else may have made
// under the same name since, no container that has been started, no volume or directory in which anything is other than
// the restore left it, and nothing of a restore whose containers were started already: somebody may have used them. What
// is found to be somebody else's now is named in Left, once: it is his, and the journal forgets it.
func Recover(ctx context.Context, e Engine, stateDir, system string) (Recovered, error) {
	var found Recovered
	all, err := findKilled(stateDir, engineKey(e.Facts()), system)
	for _, k := range all {
		if err == nil {
			err = found.takeBack(ctx, e, k)
		}
		k.close()
	}
	if err != nil {
		return found, fmt.Errorf("recover from a killed restore: %w", err)
	}
	return found, nil
}

// Killed lists the systems of which restores that were killed left something on the engine.
func Killed(f snapshot.Facts, stateDir string) (systems []string, err error) {
	all, err := findKilled(stateDir, engineKey(f), "")
	for _, k := range all {
		systems = append(systems, k.System)
		k.close()
	}
	return systems, err
}

// takeBack undoes one killed restore, the last thing first.
func (f *Recovered) takeBack(ctx context.Context, e Engine, k *killed) error {
	if k.complete {
		return f.finish(ctx, e, k)
	}
	gone := k.starting && k.gone(ctx, e)
	if gone && !slices.ContainsFunc(k.made, made.replaced) {
		return k.remove()
	}
	if k.starting && !gone {
		f.Unfinished = append(f.Unfinished, k.unfinished())
		return nil
	}
	if err := k.adopt(ctx, e); err != nil {
		return err
	}
	whole, left := true, len(f.Left)
	for _, m := range slices.Backward(k.made) {
		var did bool
		var err error
		if m.replaced() {
			did, err = k.putBack(ctx, e, m, len(f.Left) == left)
		} else {
			did, err = k.takeBack(ctx, e, m)
		}
		var used *usedError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			f.Left = append(f.Left, fmt.Sprintf("%s: %v", m, err))
			whole = whole && errors.As(err, &used) && !m.replaced()
		case did && m.replaced():
			f.Returned = append(f.Returned, m.String())
		case did:
			f.Removed = append(f.Removed, m.String())
		}
	}
	if !whole {
		return nil // the next time, perhaps
	}
	return k.remove()
}

// A usedError says why a thing that a killed restore made is somebody's now.
type usedError struct{ why string }

func (e *usedError) Error() string { return e.why }

// adopt finds out which of the things that were going to be made are there: volumes and networks that have the restore's
// label, and containers of the name that never ran, of which nothing can be lost.
func (k *killed) adopt(ctx context.Context, e Engine) error {
	names, err := e.Names(ctx)
	if err != nil {
		return err
	}
	for _, m := range k.intents {
		var there []snapshot.Existing
		switch m.Kind {
		case KindContainer:
			there = slices.DeleteFunc(slices.Clone(names.Containers), func(x snapshot.Existing) bool { return x.State != "created" })
		case KindNetwork:
			there = slices.DeleteFunc(slices.Clone(names.Networks), k.notOurs)
		case KindVolume:
			there = slices.DeleteFunc(slices.Clone(names.Volumes), k.notOurs)
		default: // nobody else has its name
			k.made = append(k.made, m)
		}
		if found, ok := existing(there, m.Name); ok {
			m.ID = found.ID
			k.made = append(k.made, m)
		}
	}
	return nil
}

// notOurs reports whether a volume or network was not made by the restore, whatever its name.
func (k *killed) notOurs(x snapshot.Existing) bool { return x.Labels[snapshot.LabelRestore] != k.Run }

// takeBack removes what was made, if it is still that; removed is false if it was gone or is another's. A *usedError says
// that somebody has made use of it.
func (k *killed) takeBack(ctx context.Context, e Engine, m made) (removed bool, err error) {
	switch m.Kind {
	case KindContainer:
		return m.removeContainer(ctx, e)
	case kindFiller:
		names, err := e.Names(ctx)
		there, ok := existing(names.Containers, m.Name)
		if err != nil || !ok {
			return false, err
		}
		return true, e.RemoveContainer(ctx, there.ID)
	case kindRef:
		return false, e.Untag(ctx, m.Name)
	case KindNetwork:
		names, err := e.Names(ctx)
		if err != nil || !slices.ContainsFunc(names.Networks, func(x snapshot.Existing) bool { return x.ID == m.ID }) {
			return false, err
		}
		return true, e.RemoveNetwork(ctx, m.ID)
	case KindVolume:
		names, err := e.Names(ctx)
		if err != nil {
			return false, err
		}
		if there, ok := existing(names.Volumes, m.Name); !ok || k.notOurs(there) {
			return false, nil
		}
		return k.removeVolume(ctx, e, m)
	case KindBind:
		if err := k.unused(ctx, e, m); err != nil {
			return false, err
		}
	}
	return m.removePath()
}

func (m made) removeContainer(ctx context.Context, e Engine) (bool, error) {
	switch s, err := e.State(ctx, m.ID); {
	case errors.Is(err, snapshot.ErrMissing):
		return false, nil
	case err != nil:
		return false, err
	case s.State != "created":
		return false, &usedError{"it has been started: remove it yourself, with what it uses, if it is not needed"}
	}
	return true, e.RemoveContainer(ctx, m.ID)
}

func (k *killed) removeVolume(ctx context.Context, e Engine, m made) (bool, error) {
	if err := k.unused(ctx, e, m); err != nil {
		return false, err
	}
	if m.Unseen || !e.Facts().Local {
		return false, &usedError{"what is in it cannot be looked at from here: if nobody has written there since, docker volume rm " + m.Name}
	}
	dir, err := e.VolumeMountpoint(ctx, m.Name)
	if err == nil {
		err = m.untouched(dir)
	}
	if err != nil {
		return false, err
	}
	return true, e.RemoveVolume(ctx, m.Name)
}

// untouched returns a *usedError if anything at path is other than it was made: nothing can be lost of what is empty, or
// of what is as it was filled.
func (m made) untouched(path string) error {
	state, err := pathState(path)
	if err != nil || state == PathEmpty || state == PathAbsent {
		return err
	}
	now, err := contentPrint(path)
	if err == nil && now != m.Print {
		err = &usedError{fmt.Sprintf("somebody has written there since it was filled: look at %s, and remove it yourself if nothing of it is needed", path)}
	}
	return err
}

// unused returns an error if a container mounts the volume or path, or what lies above or below it: somebody has use for
// it by now. Containers that the restore has moved aside do not count unless they run.
func (k *killed) unused(ctx context.Context, e Engine, m made) error {
	containers, err := e.Containers(ctx)
	if err != nil {
		return err
	}
	for i := range containers {
		c := &containers[i]
		former := slices.ContainsFunc(k.made, func(m made) bool { return m.Kind == kindOldContainer && m.ID == c.ID })
		if former && !ran(c) {
			continue
		}
		for _, mount := range c.Mounts {
			if m.Kind == KindVolume && mount.Type == "volume" && mount.Name == m.Name ||
				m.Kind == KindBind && mount.Type == "bind" && (within(mount.Source, m.Name) || within(m.Name, mount.Source)) {
				return fmt.Errorf("container %s uses it", c.Name)
			}
		}
	}
	return nil
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// removePath is takeBack for paths of this host.
func (m made) removePath() (bool, error) {
	switch m.Kind {
	case kindContent:
		return m.removeContent()
	case kindDir, KindBind:
		id, err := pathID(m.Name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && id != m.ID {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	switch m.Kind {
	case kindDir:
		err := os.Remove(m.Name)
		if errors.Is(err, unix.ENOTEMPTY) {
			return false, nil // somebody else has use for it
		}
		return true, err
	case KindBind:
		if err := m.untouched(m.Name); err != nil {
			return false, err
		}
	}
	_, err := os.Lstat(m.Name)
	return err == nil, os.RemoveAll(m.Name)
}

// removeContent empties a directory that was empty, and was there, before it was filled.
func (m made) removeContent() (bool, error) {
	if state, err := pathState(m.Name); err != nil || state != PathDir {
		return false, err
	}
	if m.Print == "" {
		return false, &usedError{"it was being filled, and others may have written there since: empty it by hand"}
	}
	if err := m.untouched(m.Name); err != nil {
		return false, err
	}
	return true, emptyDir(m.Name)
}

// pathID tells a file or directory from any other that ever had or will have its name.
func pathID(path string) (string, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st)
	if err != nil {
		return "", &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d:%d:%d.%d", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}
