package importer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// journalHead is the first line of a journal.
type journalHead struct {
	Version  int    `json:"version"`
	Engine   string `json:"engine"` // which one, see engineKey
	System   string `json:"system"` // as the restore calls it
	Snapshot string `json:"snapshot"`
	Options  string `json:"options"` // a hash of those that decide what is made
}

// journalLine is each of the others.
type journalLine struct {
	Intent   *made `json:"intent,omitempty"`   // is going to be made
	Made     *made `json:"made,omitempty"`     // is made
	Starting bool  `json:"starting,omitempty"` // all is made; from here on containers run
}

// made is a thing that a restore made.
type made struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	Of   string `json:"of,omitempty"` // of a container: its name in the snapshot
	ID   string `json:"id,omitempty"` // tells it from another of its name: see identity
}

// Kinds of things that are only in journals.
const (
	kindDir     Kind = "directory"      // above a bind
	kindTemp    Kind = "temporary path" // nobody else has its name
	kindRef     Kind = "reference"      // of an image that arrives; nobody else has its name
	kindContent Kind = "content of"     // a directory that was empty
)

func (m made) String() string { return string(m.Kind) + " " + m.Name }

// killed is what the journal of a killed restore says.
type killed struct {
	journalHead
	path     string
	file     *os.File // locked
	made     []made
	intents  []made // of which it is not known whether they were made
	starting bool
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

func journalDir(stateDir string) string { return filepath.Join(stateDir, "restores") }

// engineKey tells engines of one host apart, and hosts that share a state directory.
func engineKey(f snapshot.Facts) string { return f.Host + ":" + f.RootDir }

// optionsKey is a hash of the options that decide what is made.
func (o Options) optionsKey() string {
	text, err := json.Marshal([]any{o.As, o.Only, o.NoStart, o.SkipExisting, o.WithoutBinds, o.Fit, o.Ports, o.Binds, o.Networks})
	if err != nil {
		return err.Error() // cannot be: they are strings
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
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
	if k.Version != 1 {
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
		k.intents = slices.DeleteFunc(k.intents, func(m made) bool { return m.Kind == l.Made.Kind && m.Name == l.Made.Name })
		k.made = append(k.made, *l.Made)
	}
	k.starting = k.starting || l.Starting
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
func (j *journal) intend(kind Kind, name string) error {
	return j.write(journalLine{Intent: &made{Kind: kind, Name: name}})
}

// made notes what was made.
func (j *journal) made(m made) error { return j.write(journalLine{Made: &m}) }

// path notes a path that was made, now at another one perhaps.
func (j *journal) path(kind Kind, name, now string) error {
	if j == nil {
		return nil
	}
	id, err := pathID(now)
	if err != nil {
		return err
	}
	return j.made(made{Kind: kind, Name: name, ID: id})
}

// remove ends the journal. That it stays where it cannot be removed does no harm: what it names is then told apart
// from what is there by then.
func (j *journal) remove() {
	if j != nil {
		_ = os.Remove(j.file.Name())
		_ = j.file.Close()
	}
}

// Recovered is what Recover did.
type Recovered struct {
	Removed    []string           // what killed restores had left
	Left       []string           // what is still there, and why
	Unfinished []*UnfinishedError // restores of which containers run already: nothing of them was touched
}

// Recover takes back what restores that were killed left on the engine, as their journals in the state directory tell:
// those of the system, or all of them if that is empty. It removes nothing that somebody else may have made
// under the same name since, and nothing of a restore whose containers were started already: somebody may
// have used them.
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
	if k.starting && k.gone(ctx, e) {
		return k.remove()
	}
	if k.starting {
		f.Unfinished = append(f.Unfinished, k.unfinished())
		return nil
	}
	if err := k.adopt(ctx, e); err != nil {
		return err
	}
	whole := true
	for _, m := range slices.Backward(k.made) {
		removed, err := m.remove(ctx, e)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			whole = false
			f.Left = append(f.Left, fmt.Sprintf("%s: %v", m, err))
		case removed:
			f.Removed = append(f.Removed, m.String())
		}
	}
	if !whole {
		return nil // the next time, perhaps
	}
	return k.remove()
}

// adopt finds out which of the things that were going to be made are there, and takes those for made of which nothing
// can be lost: containers that never ran, networks that nobody uses, volumes that are empty. The engine removes
// neither networks nor volumes that are in use.
func (k *killed) adopt(ctx context.Context, e Engine) error {
	names, err := e.Names(ctx)
	if err != nil {
		return err
	}
	for _, m := range k.intents {
		list := map[Kind][]snapshot.Existing{KindContainer: names.Containers, KindNetwork: names.Networks, KindVolume: names.Volumes}[m.Kind]
		for _, there := range list {
			if there.Name != m.Name || m.Kind == KindContainer && there.State != "created" {
				continue
			}
			if m.ID = there.ID; m.Kind == KindVolume {
				if m.ID, err = volumeID(ctx, e, m.Name); err != nil || !k.emptyVolume(ctx, e, m.Name) {
					continue
				}
			}
			k.made = append(k.made, m)
		}
		if m.Kind == kindTemp || m.Kind == kindRef {
			k.made = append(k.made, m)
		}
	}
	return nil
}

func (k *killed) emptyVolume(ctx context.Context, e Engine, name string) bool {
	dir, err := e.VolumeMountpoint(ctx, name)
	if err != nil || !e.Facts().Local {
		return false
	}
	state, err := pathState(dir)
	return err == nil && state == PathEmpty
}

// remove removes what was made, if it is still that; removed is false if it was gone or is another's.
func (m made) remove(ctx context.Context, e Engine) (removed bool, err error) {
	switch m.Kind {
	case KindContainer:
		if _, err := e.State(ctx, m.ID); errors.Is(err, snapshot.ErrMissing) {
			return false, nil
		}
		return true, e.RemoveContainer(ctx, m.ID)
	case kindRef:
		return false, e.Untag(ctx, m.Name)
	case KindNetwork:
		names, err := e.Names(ctx)
		if err != nil || !slices.ContainsFunc(names.Networks, func(x snapshot.Existing) bool { return x.ID == m.ID }) {
			return false, err
		}
		return true, e.RemoveNetwork(ctx, m.ID)
	case KindVolume:
		id, err := volumeID(ctx, e, m.Name)
		if errors.Is(err, snapshot.ErrMissing) || err == nil && id != m.ID {
			return false, nil
		}
		if err == nil {
			err = m.unused(ctx, e)
		}
		if err != nil {
			return false, err
		}
		return true, e.RemoveVolume(ctx, m.Name)
	case KindBind:
		if err := m.unused(ctx, e); err != nil {
			return false, err
		}
	}
	return m.removePath()
}

// unused returns an error if a container mounts the volume or path, or what lies above or below it: somebody has use for
// it by now.
func (m made) unused(ctx context.Context, e Engine) error {
	containers, err := e.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
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

// volumeID tells a volume from any other of its name. Up to Docker 20.10 the time at which an engine says that it made a volume
// is that of the last change to its directory, so where this host has the directory that counts.
func volumeID(ctx context.Context, e Engine, name string) (string, error) {
	created, err := e.VolumeCreated(ctx, name)
	if err != nil || !e.Facts().Local {
		return created, err
	}
	dir, err := e.VolumeMountpoint(ctx, name)
	if err != nil {
		return "", err
	}
	return pathID(dir)
}

// removePath is remove for paths of this host.
func (m made) removePath() (bool, error) {
	if m.Kind == kindContent {
		if state, err := pathState(m.Name); err != nil || state != PathDir {
			return false, err
		}
		return false, errors.New("others may have written there since: empty it by hand")
	}
	if m.Kind != kindTemp {
		id, err := pathID(m.Name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && id != m.ID {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	if m.Kind == kindDir {
		err := os.Remove(m.Name)
		if errors.Is(err, unix.ENOTEMPTY) {
			return false, nil // somebody else has use for it
		}
		return true, err
	}
	_, err := os.Lstat(m.Name)
	return err == nil, os.RemoveAll(m.Name)
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
		same := k.starting && k.Snapshot == r.snap.Summary.ID && k.Options == r.opts.optionsKey()
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
	for _, what := range f.Left {
		r.res.note(what, "was left by a restore that was killed")
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
				return m.Kind == kind && m.Name == x.Name && (kind == KindVolume || m.ID == x.ID)
			})
		}
	}
	ours := map[string]bool{} // names of containers
	for _, x := range t.Names.Containers {
		ours[x.Name] = made(KindContainer)(x)
	}
	t.Names.Containers = slices.DeleteFunc(t.Names.Containers, made(KindContainer))
	t.Names.Networks = slices.DeleteFunc(t.Names.Networks, made(KindNetwork))
	t.Names.Volumes = slices.DeleteFunc(t.Names.Volumes, made(KindVolume))
	t.Names.Ports = slices.DeleteFunc(t.Names.Ports, func(p snapshot.PortInUse) bool { return ours[p.Container] })
	for _, m := range k.made {
		switch m.Kind {
		case KindBind:
			t.Paths[m.Name] = PathAbsent
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
