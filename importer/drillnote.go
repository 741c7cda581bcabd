package importer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// drillNote is a directory that is there as long as a drill may have left something: the file "engine" in it says
// where, and is locked as long as the drill runs; "binds" holds the throwaway directories of bind mounts.
type drillNote struct {
	dir  string
	lock *os.File
}

// newDrillNote notes down that a drill begins.
func newDrillNote(dir, id string, facts snapshot.Facts) (*drillNote, error) {
	n := &drillNote{dir: filepath.Join(noteDir(dir), id)}
	begun := filepath.Join(noteDir(dir), ".begun-"+id) // until it is locked
	if err := os.MkdirAll(begun, 0o700); err != nil {
		return nil, fmt.Errorf("note of a drill: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(begun, "engine"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("note of a drill: %w", err)
	}
	n.lock = f
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		_, err = f.WriteString(nameOfEngine(facts))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(begun, n.dir)
	}
	if err != nil {
		n.close()
		return nil, errors.Join(fmt.Errorf("note of a drill: %w", err), os.RemoveAll(begun))
	}
	return n, nil
}

// remove ends the note, and removes the directories of binds.
func (n *drillNote) remove() error { return os.RemoveAll(n.dir) }

// close gives the lock up.
func (n *drillNote) close() { n.lock.Close() }

// nameOfEngine tells engines of a host apart.
func nameOfEngine(f snapshot.Facts) string { return f.Host + " " + f.RootDir }

// ofEngine reports whether the drill of a note ran on this engine. One that was killed before it had noted that
// down made nothing.
func ofEngine(dir, id string, facts snapshot.Facts) bool {
	said, err := os.ReadFile(filepath.Join(noteDir(dir), id, "engine"))
	return errors.Is(err, os.ErrNotExist) || err == nil && (len(said) == 0 || string(said) == nameOfEngine(facts))
}

// drillRuns reports whether a process is at work on a drill. The lock ends with the process, however it ends.
func drillRuns(dir, id string) bool {
	f, err := os.Open(filepath.Join(noteDir(dir), id, "engine"))
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}
