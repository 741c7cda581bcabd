package snapshot

import (
	"errors"
	"net/netip"
	"strings"
	"time"
)

// Errors that an engine returns, wrapped, for the cases a caller branches on.
var (
	// ErrExists says that a container, volume or network of that name is there already. It was
	// not touched.
	ErrExists = errors.New("exists already")
	// ErrMissing says that the engine has no such container, image, volume or network.
	ErrMissing = errors.New("does not exist")
	// ErrState says that the container is not in the state for it: to be paused it must run, to be
	// unpaused it must be paused. It was not touched.
	ErrState = errors.New("container is in another state")
)

// Facts is what an engine says of itself and of its host, as far as a plan depends on it.
type Facts struct {
	Engine
	Host          string   // name of the engine's host
	Local         bool     // proven: this process sees the engine's files at the engine's paths
	RootDir       string   // the engine's data directory, on its own host
	Containerd    bool     // images live in containerd's store (ids are manifest digests), not in a graph driver
	UserNS        bool     // users of containers are others on disk (userns-remap, rootless)
	NCPU          int      // processors
	Memory        int64    // bytes
	VolumeDrivers []string // names
	NetDrivers    []string
	LogDrivers    []string
	Runtimes      []string
}

// Placement says where and how a container of a snapshot is created again. A name that a map does
// not hold stays as it was.
type Placement struct {
	Name    string // of the new container
	Image   string // reference or id to create it from
	ImageID string // the engine's id of the image that the container's reference names, for Compose; empty: unknown

	Volumes    map[string]string // names of volumes, old to new
	Networks   map[string]string // names of networks, old to new
	Binds      map[string]string // host paths of bind mounts, old to new
	Containers map[string]string // names or ids of the containers it refers to, old to new
	Ports      map[string]string // published host ports: "8080/tcp" to "18080", "10.0.0.5:18080", Unpublished, or "" for the engine's choice
	Labels     map[string]string // labels added or replaced
	Without    []Part            // parts of the configuration left to the engine's defaults
}

// Unpublished as a value of Placement.Ports means that the port is not published.
const Unpublished = "-"

// Part is a part of a container's configuration that a host may be unable to honour.
type Part string

// The parts that a placement can leave out.
const (
	PartCPU       Part = "cpu"        // CpusetCpus, CpusetMems, NanoCpus
	PartMemory    Part = "memory"     // limits and reservations of memory
	PartRuntime   Part = "runtime"    // an OCI runtime other than the default
	PartLogDriver Part = "log-driver" // driver and options of logging
	PartDevices   Part = "devices"    // host devices, device rules and GPU requests
	PartCgroup    Part = "cgroup"     // parent cgroup and cgroup namespace
	PartAddresses Part = "addresses"  // fixed IP and MAC addresses in networks
	PartHostIPs   Part = "host-ips"   // host addresses of published ports
	PartRestart   Part = "restart"    // the restart policy
)

// Misfit is a part of a container that an engine would refuse or be unable to start.
type Misfit struct {
	Part Part
	Why  string // "runtime nvidia is not known there"
}

// HelperSpec describes a short-lived container that runs this program on the engine's host.
type HelperSpec struct {
	Binds   []HelperBind
	PidHost bool     // share the host's pid namespace
	CapAdd  []string // capabilities ("DAC_READ_SEARCH"); all others are dropped
	Args    []string // arguments of the program, without its name
}

// HelperBind is a mount of a helper container.
type HelperBind struct {
	Source   string // absolute host path, or name of a volume
	Target   string
	ReadOnly bool
}

// State is how a container is doing.
type State struct {
	State    string // running, exited, created, paused, restarting, dead
	Health   string // healthy, unhealthy, starting; empty without a health check
	ExitCode int
	Error    string // the engine's word on a failed start
	Log      string // the last lines it wrote, where it does not run or is not healthy
	// NextCheck is when the engine runs the health check next, by the clock of the engine's host: in the past while one is
	// due or under way, zero where the container does not run or is not checked.
	NextCheck time.Time
}

// Names is what an engine has already: what a plan may clash with.
type Names struct {
	Containers []Existing
	Volumes    []Existing
	Networks   []Existing
	Ports      []PortInUse
}

// Existing is a container, volume or network of an engine.
type Existing struct {
	Name   string
	ID     string // of a volume its name
	State  string // of a container
	Labels map[string]string
}

// PortInUse is a host port that a running container publishes, or on which another process listens.
type PortInUse struct {
	HostIP    string // "0.0.0.0", "::" or one address
	HostPort  int
	Proto     string // tcp, udp, sctp
	Container string // name; empty: not a container's
}

// Subnet is a subnet that is in use on an engine's host.
type Subnet struct {
	Prefix  netip.Prefix
	Network string // of the engine; empty: the host routes it
	Device  string // of a route: the network interface
}

// LabelRestore is on the volumes and networks that a restore with a journal makes, and says which restore that was, so that
// what a killed one made is told from what others made. An engine cannot take a label off a volume again; it is no part of
// any snapshot.
const LabelRestore = "io.github.hakobune-dr.restore"

// asideMark is what the name of a thing has behind its own where a restore moved it aside.
const asideMark = ".hakobune-old-"

// AsideName is the name that a thing gets that the restore with that id moves aside.
func AsideName(name, restore string) string { return name + asideMark + restore }

// IsAside tells whether a thing of that name was moved aside by a restore: its labels are still those of a system, to
// which it does not belong any more.
func IsAside(name string) bool { return strings.Contains(name, asideMark) }
