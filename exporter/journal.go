package exporter

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// journal is a file that says which containers are held. It is locked (shared) by the process that
// holds them and by its guard; a journal that nobody locks was left by a crash of both, or of the
// machine, and whoever finds it lets the containers go. All methods accept a nil journal.
type journal struct {
	file *os.File
	name string // under which it lies; the file was opened under another
}

// journalRecord is the content of a journal.
type journalRecord struct {
	Engine string `json:"engine"` // which one, see engineKey
	Holds  []Hold `json:"holds"`
}

const journalSuffix = ".hold"

// engineKey tells engines of one host apart, and hosts that share a state directory.
func engineKey(f snapshot.Facts) string { return f.Host + ":" + f.RootDir }

// openJournal writes a journal for list into dir. Where another process holds one of these
// containers, or its guard is letting them go, it waits until that has ended; what a crash left is
// let go first. So two backups of one container never take each other's pause for a user's.
func openJournal(ctx context.Context, engine Releaser, dir, key string, list []Hold) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	for {
		j, busy, err := tryJournal(ctx, engine, dir, key, list)
		if err != nil || !busy {
			return j, err
		}
		if err := sleep(ctx, pollTime); err != nil {
			return nil, fmt.Errorf("journal: wait for another backup of these containers: %w", err)
		}
	}
}

// tryJournal is openJournal without waiting. The directory is locked meanwhile, so that of two
// processes one sees the journal of the other.
func tryJournal(ctx context.Context, engine Releaser, dir, key string, list []Hold) (j *journal, busy bool, err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, false, fmt.Errorf("journal: %w", err)
	}
	defer d.Close()
	if err := flock(d, unix.LOCK_EX); err != nil {
		return nil, false, fmt.Errorf("journal: %w", err)
	}
	found, err := recoverDir(ctx, engine, dir, key)
	if err != nil {
		return nil, false, err
	}
	if found.holds(list) {
		return nil, true, nil
	}
	j, err = writeJournal(d, journalRecord{Engine: key, Holds: list})
	return j, false, err
}

// writeJournal makes a journal durable in the directory d, locked before it has its name.
func writeJournal(d *os.File, record journalRecord) (*journal, error) {
	text, err := json.Marshal(record)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(d.Name(), rand.Text()+journalSuffix)
	f, err := os.OpenFile(name+".tmp", os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	_, err = f.Write(text)
	if err = errors.Join(err, flock(f, unix.LOCK_SH|unix.LOCK_NB), f.Sync(), os.Rename(f.Name(), name), d.Sync()); err != nil {
		_ = f.Close()
		return nil, errors.Join(fmt.Errorf("journal: %w", err), os.Remove(name+".tmp"))
	}
	return &journal{file: f, name: name}, nil
}

// joinJournal locks an existing journal for a guard.
func joinJournal(name string) (*journal, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := flock(f, unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	return &journal{file: f, name: name}, nil
}

// path returns the journal's name, "" without one.
func (j *journal) path() string {
	if j == nil {
		return ""
	}
	return j.name
}

// remove ends the journal: everything is let go. That the file stays when it cannot be removed
// does no harm: the next run finds that nothing stands still.
func (j *journal) remove() {
	if j != nil {
		_ = os.Remove(j.name)
		_ = j.file.Close()
	}
}

// close leaves the journal to others.
func (j *journal) close() {
	if j != nil {
		_ = j.file.Close()
	}
}

// Recover lets containers go that a crash of the machine, or of a backup and its guard, left
// standing, as the journals in the state directory tell. It returns the names of those, and an
// error for what could not be let go; where the engine answered, that is not tried again. What
// other backups hold right now it leaves alone, and what was held on other engines too.
func Recover(ctx context.Context, engine Releaser, facts snapshot.Facts, stateDir string) ([]string, error) {
	dir := journalDir(stateDir)
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer d.Close()
	if err := flock(d, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	found, err := recoverDir(ctx, engine, dir, engineKey(facts))
	if err = errors.Join(err, errors.Join(found.failed...)); err != nil {
		return found.freed, fmt.Errorf("recover: %w", err)
	}
	return found.freed, nil
}

func journalDir(stateDir string) string { return filepath.Join(stateDir, "holds") }

// recovery is what a look through the journals of one engine found.
type recovery struct {
	inUse  []journalRecord
	freed  []string // names of containers that had been left standing
	failed []error  // for those that still stand
}

// recoverDir lets go what abandoned journals of the engine name. The caller has locked dir.
func recoverDir(ctx context.Context, engine Releaser, dir, key string) (found recovery, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return found, fmt.Errorf("journal: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if strings.HasSuffix(name, ".tmp") { // of a crash: nothing was held yet
			_ = os.Remove(name)
			continue
		}
		if !strings.HasSuffix(name, journalSuffix) {
			continue
		}
		record, abandoned, err := inspectJournal(name)
		switch {
		case errors.Is(err, fs.ErrNotExist), err == nil && record.Engine != key:
			continue
		case err != nil:
			return found, fmt.Errorf("journal %s: %w", name, err)
		case !abandoned:
			found.inUse = append(found.inUse, record)
			continue
		}
		if err := found.letGo(ctx, engine, record.Holds); err != nil {
			return found, fmt.Errorf("journal %s: %w", name, err)
		}
		if err := os.Remove(name); err != nil {
			return found, fmt.Errorf("journal: %w", err)
		}
	}
	return found, nil
}

// holds reports whether somebody holds any of the containers.
func (r *recovery) holds(list []Hold) bool {
	return slices.ContainsFunc(r.inUse, func(o journalRecord) bool {
		return slices.ContainsFunc(o.Holds, func(h Hold) bool {
			return slices.ContainsFunc(list, func(own Hold) bool { return own.ID == h.ID })
		})
	})
}

// letGo returns an error if the engine does not answer.
func (r *recovery) letGo(ctx context.Context, engine Releaser, holds []Hold) error {
	for _, h := range holds {
		st, err := engine.State(ctx, h.ID)
		switch {
		case errors.Is(err, snapshot.ErrMissing):
			continue
		case err != nil:
			return fmt.Errorf("container %s: %w", h.Name, err)
		case h.Mode == snapshot.Stop && st.State == "running", h.Mode != snapshot.Stop && st.State != "paused":
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, engineTime)
		err = letGo(ctx, engine, h, 0)
		cancel()
		if err != nil {
			r.failed = append(r.failed, fmt.Errorf("let container %s go: %w", h.Name, err))
		} else {
			r.freed = append(r.freed, h.Name)
		}
	}
	return nil
}

// inspectJournal reads a journal and reports whether nobody locks it.
func inspectJournal(name string) (record journalRecord, abandoned bool, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return record, false, err
	}
	defer f.Close()
	if err := json.NewDecoder(f).Decode(&record); err != nil {
		return record, false, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return record, false, nil
	}
	return record, err == nil, err
}

// flock locks a whole file until it is closed, or its process ends.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}
