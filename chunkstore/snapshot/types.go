// Package snapshot is the vocabulary of Hakobune: what a system is, and what a snapshot of it
// holds. It knows no engine and no wire format of one: package docker translates.
//
// A System is the set of containers protected as one. A Snapshot is one recovery point of one
// system: the description of the system (Container, Image, Volume, Bind, Network) and, for
// everything that holds data, an Archive: a layer (a tar stream that comes back byte for byte) or a
// tree (canonical records of files, see package archive).
package snapshot

import (
	"cmp"
	"encoding/json"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Snapshot is one recovery point of one system.
type Snapshot struct {
	Summary
	System System // the body: loaded on demand, see Catalog.Load
}

// Summary is what a list of snapshots shows. It is stored in the snapshot's outcome object, so
// that listing needs no other read.
type Summary struct {
	ID         string        `json:"id"` // 20 hex digits, unique in the repository; 8 are usually enough
	System     string        `json:"system"`
	Host       string        `json:"host"`
	Time       time.Time     `json:"time"` // when the containers were quiesced (or read, where they were not)
	Tags       []string      `json:"tags,omitempty"`
	Complete   bool          `json:"complete"` // false: something could not be captured, see System.Problems
	Program    string        `json:"program"`  // name and version that wrote it
	Containers []string      `json:"containers"`
	Stats      Stats         `json:"stats"`
	Engine     Engine        `json:"engine"`
	Took       time.Duration `json:"took"`
	Origin     *Origin       `json:"origin,omitempty"` // of a snapshot that was copied from another repository
	Site       string        `json:"site,omitempty"`   // that made it
	Term       int           `json:"term,omitempty"`   // of that site, see Term
	Pushed     *Pushed       `json:"pushed,omitempty"` // of an image that was pushed to the registry

	// Stray says that the site that made it had lost the system already: it is of no term's history, and is only
	// found by its id. A catalog finds out.
	Stray bool `json:"-"`

	// Domain is that of what it holds: not zero, it is a put-only host's. A catalog finds out.
	Domain chunkstore.Domain `json:"-"`
	// Stored is when it was stored, by the store's clock: the time that retention goes by. It is the object's,
	// not in it, and zero before the snapshot was read from a repository. Of a copy it is that of its original.
	Stored time.Time `json:"-"`
}

// Origin says which snapshot another one is a copy of: the first one, however often it was copied since.
type Origin struct {
	Repository string    `json:"repository"` // its id, 32 hex digits
	Snapshot   string    `json:"snapshot"`   // the id there
	Stored     time.Time `json:"stored"`     // when it was stored there, by the clock of that store
}

// Pushed says that a snapshot is an image that was pushed to the registry of this program, and not a system of an engine's.
type Pushed struct {
	Name   string `json:"name"`   // of the image, as it was pushed: "team/app"
	Digest string `json:"digest"` // of what was pushed, which is the first of System.Manifests
}

// Stats says what a snapshot holds and what it cost. All sizes in bytes.
type Stats struct {
	Bytes    int64         `json:"bytes"`    // logical size of all archives
	Files    int64         `json:"files"`    // entries of all trees
	Read     int64         `json:"read"`     // content bytes read from disk or engine
	NewBytes int64         `json:"new"`      // plaintext bytes of chunks that the repository did not have
	Stored   int64         `json:"stored"`   // bytes added to the backend
	Paused   time.Duration `json:"paused"`   // longest time any container stood still
	Changed  int64         `json:"changed"`  // entries that differ from the previous snapshot
	Problems int           `json:"problems"` // len(System.Problems)
}

// Engine describes the Docker engine that a snapshot was taken from.
type Engine struct {
	Version       string `json:"version"`
	APIVersion    string `json:"api_version"`
	StorageDriver string `json:"storage_driver"`
	OS            string `json:"os"`
	Arch          string `json:"arch"`
	Kernel        string `json:"kernel"`
	CgroupVersion string `json:"cgroup_version,omitempty"`
}

// Source says how a system was found.
type Source string

// The ways to find a system.
const (
	ByCompose   Source = "compose"   // label com.docker.compose.project
	ByLabel     Source = "label"     // label io.github.hakobune-dr.system
	ByContainer Source = "container" // one container, or a list of names
	ByPush      Source = "push"      // no system: an image that was pushed
)

// System is the body of a snapshot.
type System struct {
	Name       string      `json:"name"`
	Source     Source      `json:"source"`
	Containers []Container `json:"containers"` // in dependency order: what others depend on comes first
	Images     []Image     `json:"images"`
	Volumes    []Volume    `json:"volumes"`
	Binds      []Bind      `json:"binds"`
	Networks   []Network   `json:"networks"`
	Quiesce    Quiesce     `json:"quiesce"`
	Problems   []Problem   `json:"problems,omitempty"` // what could not be captured; empty means complete
	Notes      []Problem   `json:"notes,omitempty"`    // what was recorded but by its nature not read, or changed while read

	// Of an image that was pushed; Images are what a restore makes of it.
	Manifests []Manifest `json:"manifests,omitempty"` // what was pushed, then all that it refers to
	Blobs     []Blob     `json:"blobs,omitempty"`     // all that the manifests refer to, as it was pushed

	Domain chunkstore.Domain `json:"-"` // of all that it holds
}

// ContainerNames lists the names of the containers, in their order.
func (s *System) ContainerNames() []string {
	names := make([]string, len(s.Containers))
	for i, c := range s.Containers {
		names[i] = c.Name
	}
	return names
}

// Manifest is a manifest or an index of a pushed image.
type Manifest struct {
	Digest    string `json:"digest"` // by which it was pushed, else its SHA-256
	MediaType string `json:"media_type"`
	Raw       []byte `json:"raw"` // byte for byte
}

// Blob is a blob of a pushed image. Its bytes are stored as those of a layer are, see package archive.
type Blob struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Layer  string `json:"layer,omitempty"` // its SHA-256 where Digest is another sum
}

// Stored is the name by which package archive has the blob.
func (b Blob) Stored() string { return cmp.Or(b.Layer, b.Digest) }

// Problem is something that a snapshot lacks, or a note on what it holds.
type Problem struct {
	Where string `json:"where"` // "container web", "volume db", "bind /etc/x", then ": path" where one file is meant
	What  string `json:"what"`
}

// QuiesceMode says how the system was held still.
type QuiesceMode string

// The ways to hold a system still.
const (
	Pause QuiesceMode = "pause" // cgroup freezer; crash-consistent across containers and volumes
	Stop  QuiesceMode = "stop"
	None  QuiesceMode = "none"
)

// Quiesce says how consistency was reached.
type Quiesce struct {
	Mode   QuiesceMode   `json:"mode"`
	At     time.Time     `json:"at"`
	Paused time.Duration `json:"paused"` // from the first container held to the last released
	Passes int           `json:"passes"` // copies of the trees, the last one under quiesce
}

// Container is one container of a system. The typed fields are what planning needs; Inspect holds
// everything that the engine said, from which the container is created again.
type Container struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`              // without the leading slash
	Service    string            `json:"service,omitempty"` // Compose service
	Image      string            `json:"image"`             // reference as configured
	ImageID    string            `json:"image_id"`          // engine's id; differs between kinds of engines
	ImageKey   string            `json:"image_key"`         // Image.Config of the image it runs
	State      string            `json:"state"`             // running, exited, created, paused, ...
	Health     string            `json:"health,omitempty"`  // healthy, unhealthy, starting; empty without a health check
	Pid        int               `json:"-"`                 // init process in the engine host's pid namespace, 0 if not running
	Labels     map[string]string `json:"labels,omitempty"`
	DependsOn  []Dependency      `json:"depends_on,omitempty"`
	Mounts     []Mount           `json:"mounts,omitempty"`
	Networks   []string          `json:"networks,omitempty"` // names
	Ports      []Port            `json:"ports,omitempty"`    // published ports as configured
	Restart    string            `json:"restart,omitempty"`
	Inspect    json.RawMessage   `json:"inspect"`               // GET /containers/ID/json, as the engine sent it
	Changes    *Archive          `json:"changes,omitempty"`     // tree of the read-write layer; nil if it could not be read
	ChangesWay string            `json:"changes_way,omitempty"` // how it was read: upperdir, helper, commit, export
	WayLacks   []string          `json:"way_lacks,omitempty"`   // what that way cannot carry
}

// Dependency is one thing a container needs before it starts.
type Dependency struct {
	Container string `json:"container"`           // name of a container of the same system
	Condition string `json:"condition,omitempty"` // service_started (default), service_healthy, service_completed_successfully
}

// Mount is a mount of a container.
type Mount struct {
	Type        string `json:"type"`             // volume, bind, tmpfs, ...
	Name        string `json:"name,omitempty"`   // of a volume
	Source      string `json:"source,omitempty"` // of a bind
	Destination string `json:"destination"`
	ReadOnly    bool   `json:"read_only,omitempty"`
	Anonymous   bool   `json:"anonymous,omitempty"` // a volume that Config.Volumes or the image asked for
}

// Port is a published port.
type Port struct {
	Container string `json:"container"` // "80/tcp"
	HostIP    string `json:"host_ip,omitempty"`
	HostPort  string `json:"host_port,omitempty"` // empty: engine's choice
}

// Image is an image as the engine holds it.
type Image struct {
	Config  string   `json:"config"` // digest of RawConfig, "sha256:...": the identity that holds on every engine
	ID      string   `json:"id"`     // the engine's id: config digest on graph drivers, manifest digest on containerd stores
	Tags    []string `json:"tags,omitempty"`
	Digests []string `json:"digests,omitempty"` // repository digests
	OS      string   `json:"os"`
	Arch    string   `json:"arch"`
	Size    int64    `json:"size"`
	// RawConfig is the image's config file, byte for byte (its history, entrypoint, diff ids).
	RawConfig []byte          `json:"raw_config"`
	Inspect   json.RawMessage `json:"inspect"`
	Layers    []Layer         `json:"layers"` // base first
}

// Layer is one layer of an image, named by its DiffID.
type Layer struct {
	DiffID string `json:"diff_id"` // "sha256:..." of the uncompressed tar
	Size   int64  `json:"size"`    // of the uncompressed tar; 0 until it is in the repository
}

// Volume is a named or anonymous volume.
type Volume struct {
	Name       string            `json:"name"`
	Driver     string            `json:"driver"`
	Options    map[string]string `json:"options,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Anonymous  bool              `json:"anonymous,omitempty"`
	Mountpoint string            `json:"mountpoint,omitempty"` // on the engine's host at the time
	Inspect    json.RawMessage   `json:"inspect"`
	Content    *Archive          `json:"content,omitempty"` // nil: recorded, not read (see Notes or Problems)
}

// Bind is a bind-mounted path of the engine's host.
type Bind struct {
	Source  string   `json:"source"`
	File    bool     `json:"file,omitempty"`    // the source is a single file: the tree holds that file under its base name
	Special string   `json:"special,omitempty"` // why it is recorded but not read: "socket", "system path", "excluded", "too large"
	Content *Archive `json:"content,omitempty"`
}

// Network is a network that containers of the system are attached to.
type Network struct {
	Name       string          `json:"name"`
	Driver     string          `json:"driver"`
	Predefined bool            `json:"predefined,omitempty"` // bridge, host, none: never created
	Inspect    json.RawMessage `json:"inspect"`
}

// Archive is one tree of files inside a snapshot. Its records lie in a metadata stream that package
// archive writes and reads.
type Archive struct {
	Records chunkstore.Stream `json:"records"`
	Entries int64             `json:"entries"`
	Bytes   int64             `json:"bytes"` // sum of the sizes of regular files, hard links once
}
