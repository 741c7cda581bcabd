package importer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// journal is a file in the state directory that says what a restore makes, each thing before it is made and once
// more with what tells it from another of its name. It is locked while the restore runs: one that nobody locks was left
// by a process that was killed. A restore that ends, well or not, removes it. A nil journal takes everything and
// does nothing.
type journal struct {
	mu   sync.Mutex
	file *os.File
}

const journalSuffix = ".restore"

const journalVersion = 2

// journalHead is the first line of a journal.
type journalHead struct {
	Version  int    `json:"version"`
	Engine   string `json:"engine"` // which one, see engineKey
	System   string `json:"system"` // as the restore calls it
	Snapshot string `json:"snapshot"`
	Options  string `json:"options"` // a hash of those that decide what is made
	Run      string `json:"run"`     // what the volumes and networks that it makes have as snapshot.LabelRestore
	Keeps    bool   `json:"keeps"`   // what it moves aside stays there
}

// journalLine is each of the others.
type journalLine struct {
	Intent   *made `json:"intent,omitempty"`   // is going to be made
	Made     *made `json:"made,omitempty"`     // is made
	Starting bool  `json:"starting,omitempty"` // all is made; from here on containers run
	Undoing  bool  `json:"undoing,omitempty"`  // it failed, and is taken back
	Complete bool  `json:"complete,omitempty"` // it went well: what was moved aside is not needed any more
}

// made is a thing that a restore made.
type made struct {
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	Of     string `json:"of,omitempty"`     // of a container: its name in the snapshot
	ID     string `json:"id,omitempty"`     // tells a container, network or path from another of its name
	Print  string `json:"print,omitempty"`  // of a volume or directory: what it is filled with, see untouched; empty: it is empty yet
	Unseen bool   `json:"unseen,omitempty"` // of a volume: what is in it cannot be looked at from here

	Aside   string `json:"aside,omitempty"`   // of what is replaced: the name it has meanwhile
	Restart string `json:"restart,omitempty"` // of a container that is replaced: its restart policy
	Ran     bool   `json:"ran,omitempty"`     // and whether it ran
}

// Kinds of things that are only in journals.
const (
	kindDir     Kind = "directory"      // above a bind
	kindTemp    Kind = "temporary path" // nobody else has its name
	kindRef     Kind = "reference"      // of an image that arrives; nobody else has its name
	kindFiller  Kind = "filler"         // through which a volume is filled; nobody else has its name
	kindContent Kind = "content of"     // a directory that was empty

	// What is replaced. These are noted before anything is done to them.
	kindOldContainer Kind = "former container"
	kindOldVolume    Kind = "former content of volume"
	kindOldPath      Kind = "former path"
	kindOldRef       Kind = "former image"
)

func (m made) String() string { return string(m.Kind) + " " + m.Name }

// replaced reports whether it is a thing that was there before the restore.
func (m made) replaced() bool { return m.Aside != "" }

func journalDir(stateDir string) string { return filepath.Join(stateDir, "restores") }

// engineKey tells engines of one host apart, and hosts that share a state directory.
func engineKey(f snapshot.Facts) string { return f.Host + ":" + f.RootDir }

// optionsKey is a hash of the options that decide what is made.
func (o Options) optionsKey() string {
	text, err := json.Marshal([]any{o.As, o.Only, o.NoStart, o.Replace, o.KeepReplaced, o.SkipExisting, o.WithoutBinds, o.Fit, o.Ports, o.Binds, o.Networks})
	if err != nil {
		return err.Error() // cannot be: they are strings
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// newJournal makes the journal of a restore durable before anything is made.
func newJournal(stateDir string, head journalHead) (*journal, error) {
	dir := journalDir(stateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal of the restore: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, rand.Text()+journalSuffix), os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("journal of the restore: %w", err)
	}
	j := &journal{file: f}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = j.write(head)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		j.remove()
		return nil, fmt.Errorf("journal of the restore: %w", err)
	}
	return j, nil
}

// write appends a line and makes it durable.
func (j *journal) write(line any) error {
	if j == nil {
		return nil
	}
	text, err := json.Marshal(line)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err = j.file.Write(append(text, '\n'))
	if err = errors.Join(err, j.file.Sync()); err != nil {
		return fmt.Errorf("journal of the restore: %w", err)
	}
	return nil
}

// intend notes what is going to be made.
func (j *journal) intend(m made) error { return j.write(journalLine{Intent: &m}) }

// made notes what was made, or of what was noted before, what else is known now.
func (j *journal) made(m made) error { return j.write(journalLine{Made: &m}) }

// directory notes one that was made.
func (j *journal) directory(path string) error {
	if j == nil {
		return nil
	}
	id, err := pathID(path)
	if err != nil {
		return err
	}
	return j.made(made{Kind: kindDir, Name: path, ID: id})
}

// filled notes what a volume or bind holds, or will hold as soon as it gets the place of what is at path now.
func (j *journal) filled(kind Kind, name, path string) error {
	if j == nil {
		return nil
	}
	m := made{Kind: kind, Name: name}
	var err error
	if m.Print, err = contentPrint(path); err == nil && kind == KindBind {
		m.ID, err = pathID(path)
	}
	if err != nil {
		return err
	}
	return j.made(m)
}

// keep ends a restore of which something is left: the next one, or Recover, takes it from the journal.
func (j *journal) keep() {
	if j != nil {
		_ = j.file.Close()
	}
}

// remove ends the journal. That it stays where it cannot be removed does no harm: what it names is then told apart
// from what is there by then.
func (j *journal) remove() {
	if j != nil {
		_ = os.Remove(j.file.Name())
		_ = j.file.Close()
	}
}
