package importer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// killed is what the journal of a killed restore says.
type killed struct {
	journalHead
	path     string
	file     *os.File // locked
	made     []made
	intents  []made // of which it is not known whether they were made
	starting bool
	complete bool
}

// An UnfinishedError says that a restore was killed when containers of it ran already.
type UnfinishedError struct {
	System, Snapshot string
	Names            []string // of the containers
	options          string
}

// ResumedBy tells whether a restore of the snapshot with these options goes on where that one stopped; any other is
// refused.
func (e *UnfinishedError) ResumedBy(snapshot string, o Options) bool {
	return e.Snapshot == snapshot && e.options == o.optionsKey()
}

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("a restore of %s from snapshot %s was killed when its containers were being started: %s", e.System, shortID(e.Snapshot), strings.Join(e.Names, ", "))
}

// left lists the containers as a Result does.
func (e *UnfinishedError) left() []string {
	var all []string
	for _, name := range e.Names {
		all = append(all, "container "+name)
	}
	return all
}

// Hint returns the next step.
func (e *UnfinishedError) Hint() string {
	return "the same command again goes on where that stopped; or remove the containers, if nobody has used them"
}

// findKilled opens and locks the journals that killed restores of the system left on the engine; of all systems if
// system is empty. One that another process holds is an error where a system is named.
func findKilled(stateDir, engine, system string) (all []*killed, err error) {
	entries, err := os.ReadDir(journalDir(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), journalSuffix) {
			continue
		}
		k, busy, err := readKilled(filepath.Join(journalDir(stateDir), e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return all, fmt.Errorf("journal of a restore: %w", err)
		case k.Version == 0 && !busy: // killed before it had made anything
			if err := k.remove(); err != nil {
				return all, fmt.Errorf("journal of a restore: %w", err)
			}
		case k.Engine != engine || system != "" && k.System != system || busy && system == "":
			k.close()
		case busy:
			k.close()
			return all, fmt.Errorf("another restore of %s is running on this engine", system)
		default:
			all = append(all, k)
		}
	}
	return all, err
}

// readKilled reads a journal, and reports whether somebody holds it. The last line may be torn: what it says was not
// begun.
func readKilled(path string) (k *killed, busy bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	busy = errors.Is(err, unix.EWOULDBLOCK)
	k = &killed{path: path, file: f}
	if err == nil || busy {
		err = k.read()
	}
	if err != nil {
		return nil, busy, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return k, busy, nil
}

func (k *killed) read() error {
	lines := bufio.NewReader(k.file)
	first, err := lines.ReadBytes('\n')
	if err != nil { // it was never complete: nothing was made
		return nil
	}
	if err := json.Unmarshal(first, &k.journalHead); err != nil {
		return err
	}
	if k.Version != journalVersion {
		return fmt.Errorf("a journal of version %d", k.Version)
	}
	for {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return nil
		}
		var l journalLine
		if err := json.Unmarshal(bytes.TrimSpace(text), &l); err != nil {
			return err
		}
		k.take(l)
	}
}

func (k *killed) take(l journalLine) {
	if l.Intent != nil {
		k.intents = append(k.intents, *l.Intent)
	}
	if l.Made != nil {
		same := func(m made) bool { return m.Kind == l.Made.Kind && m.Name == l.Made.Name }
		k.intents = slices.DeleteFunc(k.intents, same)
		if i := slices.IndexFunc(k.made, same); i >= 0 {
			k.made[i] = *l.Made // more is known of it, or it was made anew
		} else {
			k.made = append(k.made, *l.Made)
		}
	}
	k.starting = (k.starting || l.Starting) && !l.Undoing
	k.complete = k.complete || l.Complete
}

func (k *killed) close() { _ = k.file.Close() }

// remove ends the journal: nothing of what it says is there, or it is somebody's now.
func (k *killed) remove() error { return errors.Join(os.Remove(k.path), k.file.Close()) }

// unfinished is the error for one whose containers run.
func (k *killed) unfinished() *UnfinishedError {
	e := &UnfinishedError{System: k.System, Snapshot: k.Snapshot, options: k.Options}
	for _, m := range k.made {
		if m.Kind == KindContainer && !slices.Contains(e.Names, m.Name) {
			e.Names = append(e.Names, m.Name)
		}
	}
	return e
}
