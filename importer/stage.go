package importer

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// stage is what an engine holds of a system before it is needed there: the images that a restore would send, under
// the names that it would give them, volumes with the content of the system's, and directories with that of its bind
// mounts. It is written down in a file of
// a state directory, which counts only as far as what it says is still so: an image has to be whole, and nothing in
// a directory may have been changed since that was filled (see fingerprint). A volume or bind is in the file only
// when its content is on disk, and out of it before that is changed; so what a killed sync left is never taken for
// complete, and what was complete before it is kept.
type stage struct {
	Version  int               `json:"version"`
	System   string            `json:"system"`
	Snapshot string            `json:"snapshot"` // id of the newest that a sync has worked on
	Time     time.Time         `json:"time"`     // of that snapshot
	Complete bool              `json:"complete"` // all of it is there
	Refs     map[string]string `json:"refs"`     // references that the images were given, and their ids
	Changes  []stagedChanges   `json:"changes"`
	Volumes  []stagedVolume    `json:"volumes"`
	Binds    []stagedBind      `json:"binds,omitempty"`
	// BindDirs are the directories of binds that a sync has made, or was about to.
	BindDirs []string `json:"bind_dirs,omitempty"`

	// Pending are references that a sync is about to give, and by what ids an engine may know the image of each.
	Pending map[string][]string `json:"pending_images,omitempty"`

	path string // of the file
	lock *os.File
}

// stagedVolume is a volume of the engine that holds a tree.
type stagedVolume struct {
	Name  string `json:"name"`  // of the system's volume, in the snapshot
	Stage string `json:"stage"` // of the volume that holds its content
	stagedTree
}

// stagedBind is a directory that holds the tree of a bind mount. It lies in the file system in which its path will be.
type stagedBind struct {
	Source string `json:"source"` // in the snapshot
	Dir    string `json:"dir"`    // nobody's but root's; the tree is in its stageContent
	stagedTree
}

// stageContent is the directory that holds a staged bind's tree.
const stageContent = "content"

func (b stagedBind) content() string { return filepath.Join(b.Dir, stageContent) }

// stagedTree is what is held somewhere.
type stagedTree struct {
	Tree        chunkstore.Stream  `json:"tree"`
	Bytes       int64              `json:"bytes"`
	Fingerprint string             `json:"fingerprint"`
	Notes       []snapshot.Problem `json:"notes,omitempty"` // what of the tree could not be written
}

// stagedChanges is an image of a container's changes: what makes it, without the changes' content.
type stagedChanges struct {
	Container string            `json:"container"`
	Tree      chunkstore.Stream `json:"tree"`
	Base      string            `json:"base"` // config digest of the image below
	Bytes     int64             `json:"bytes"`
	Layer     snapshot.Layer    `json:"layer"`
	Snapshot  string            `json:"snapshot"` // id and time that are in the image's config
	Time      time.Time         `json:"time"`
	Ref       string            `json:"ref"`
	Lost      []archive.Lost    `json:"lost,omitempty"`
}

const stageVersion = 1

// errStageBusy says that another process works on the stage.
var errStageBusy = errors.New("another process uses the stage of this system")

// stageKey names what is staged of a system of a repository. Two systems whose names are alike when they are joined
// with those of volumes have other keys.
func stageKey(repo *chunkstore.Repository, words ...string) string {
	h := sha256.New()
	id := repo.Config().Repository
	h.Write(id[:])
	for _, w := range words {
		fmt.Fprintf(h, "%d:%s", len(w), w)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// stagePath is the file that says what is staged of a system.
func stagePath(dir string, repo *chunkstore.Repository, system string) string {
	return filepath.Join(dir, "standby", stageKey(repo, system)+".json")
}

// openStage reads what is staged of a system and keeps other processes away from it until it is closed. A file that
// is missing, or cannot be understood, says that nothing is.
func openStage(dir string, repo *chunkstore.Repository, system string) (*stage, error) {
	s := &stage{Version: stageVersion, System: system, path: stagePath(dir, repo, system)}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return nil, fmt.Errorf("stage of %s: %w", system, err)
	}
	lock, err := os.OpenFile(s.path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("stage of %s: %w", system, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == unix.EWOULDBLOCK {
			err = errStageBusy
		}
		return nil, errors.Join(fmt.Errorf("stage of %s: %w", system, err), lock.Close())
	}
	s.lock = lock
	data, err := os.ReadFile(s.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("stage of %s: %w", system, err), s.close())
	}
	found := *s
	if json.Unmarshal(data, &found) == nil && found.Version == stageVersion && found.System == system {
		*s = found
	}
	return s, nil
}

func (s *stage) close() error { return s.lock.Close() }

// save puts what the stage says on disk.
func (s *stage) save() error {
	err := WriteFile(s.path, func(w io.Writer) error { return json.NewEncoder(w).Encode(s) })
	if err != nil {
		return fmt.Errorf("stage of %s: %w", s.System, err)
	}
	return nil
}

// volume returns what is staged of a volume of the snapshot.
func (s *stage) volume(name string) (stagedVolume, bool) {
	i := slices.IndexFunc(s.Volumes, func(v stagedVolume) bool { return v.Name == name })
	if i < 0 {
		return stagedVolume{}, false
	}
	return s.Volumes[i], true
}

// forget takes a volume out.
func (s *stage) forget(name string) {
	s.Volumes = slices.DeleteFunc(s.Volumes, func(v stagedVolume) bool { return v.Name == name })
}

// bind returns what is staged of a bind mount of the snapshot.
func (s *stage) bind(source string) (stagedBind, bool) {
	i := slices.IndexFunc(s.Binds, func(b stagedBind) bool { return b.Source == source })
	if i < 0 {
		return stagedBind{}, false
	}
	return s.Binds[i], true
}

// forgetBind takes a bind out.
func (s *stage) forgetBind(source string) {
	s.Binds = slices.DeleteFunc(s.Binds, func(b stagedBind) bool { return b.Source == source })
}

// changes returns the staged image of a container's changes.
func (s *stage) changes(c *snapshot.Container, base string) (stagedChanges, bool) {
	i := slices.IndexFunc(s.Changes, func(h stagedChanges) bool { return h.Base == base && sameTree(h.Tree, c.Changes.Records) })
	if i < 0 {
		return stagedChanges{}, false
	}
	return s.Changes[i], true
}

// image describes the image that staged changes make on top of base.
func (h stagedChanges) image(base *ociImage) (*ociImage, error) {
	return withLayer(base, h.Layer, snapshot.Summary{ID: h.Snapshot, Time: h.Time})
}

// intact reports whether a staged volume's directory holds what it was filled with, and nobody has it mounted.
func (v stagedVolume) intact(dir string, containers []snapshot.Container) bool {
	return stageUser(v.Stage, containers) == "" && v.holds(dir)
}

// intact is that of a volume.
func (b stagedBind) intact(containers []snapshot.Container) bool {
	return stageDirUser(b.Dir, containers) == "" && b.holds(b.content())
}

// holds reports whether a directory is as it was when it was filled.
func (t stagedTree) holds(dir string) bool {
	print, err := fingerprint(dir)
	return err == nil && print == t.Fingerprint
}

// stageDirUser returns a container that mounts a directory of this host, or what is in it.
func stageDirUser(dir string, containers []snapshot.Container) string {
	for _, c := range containers {
		if slices.ContainsFunc(c.Mounts, func(m snapshot.Mount) bool { return m.Type == "bind" && within(m.Source, dir) }) {
			return cmp.Or(c.Name, c.ID)
		}
	}
	return ""
}

// stageUser returns a container that mounts a volume: one that runs could write to it, whatever becomes of it.
func stageUser(volume string, containers []snapshot.Container) string {
	for i := range containers {
		if mountsVolume(&containers[i], volume) {
			return cmp.Or(containers[i].Name, containers[i].ID)
		}
	}
	return ""
}

// sameTree reports whether two streams are made of the same chunks.
func sameTree(a, b chunkstore.Stream) bool {
	return a.Size == b.Size && a.Depth == b.Depth && slices.Equal(a.Chunks, b.Chunks)
}
