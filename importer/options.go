package importer

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Options of a restore. The zero Options restore everything under its own names, start what ran,
// wait until it is healthy, and refuse to touch anything that exists.
type Options struct {
	// As restores the system under another name: names of containers, volumes and networks are
	// derived from it, so that it can run beside the original.
	As string

	// Only limits what is restored. Words of Parts choose parts, any other word a container by
	// its name or its Compose service. Only parts: those parts of all containers. Only
	// containers: all parts that these use. Empty: everything.
	Only []string

	NoStart      bool // containers are created, not started
	Replace      bool // what exists is moved aside until the new system is healthy, then removed
	KeepReplaced bool // with Replace: what was moved aside stays, and Result.Left names it
	SkipExisting bool // what exists is used as it is
	WithoutBinds bool // bind-mounted host paths are used as they are
	Fit          bool // leave out of a container's configuration what the host cannot honour
	Keep         bool // after a failure nothing is removed

	// Ports maps published host ports, "8080" or "8080/tcp", to another host port "18080", an
	// address and port "127.0.0.1:18080", snapshot.Unpublished, or "" for the engine's choice.
	Ports map[string]string
	// Binds maps host paths, and what lies below them, to other host paths. The longest wins.
	Binds map[string]string
	// Networks maps names of networks to other names. A network that exists under the other name
	// is used.
	Networks map[string]string

	// HealthTimeout bounds the wait for each container to become healthy once it is started.
	// Zero means five minutes: a database that recovers its log needs some.
	HealthTimeout time.Duration
	// Settle is how long a container without a health check must run to count as healthy. Zero
	// means two seconds.
	Settle time.Duration
	// StateDir keeps, while a restore runs, a journal of what it makes, so that the next one of the system on
	// the engine, or Recover, takes back what a killed one left; or goes on with it, if containers ran already.
	// Empty: none is kept.
	StateDir string
	// Starting, if not nil, is called right before a container is started, with the TCP ports of the host that it
	// is to publish.
	Starting func(container string, ports []int)
	// Done, if not nil, is called when the restore is complete and its journal still there.
	Done func(*Result) error
	// Stage is the state directory in which SyncStage wrote down what it has staged on this host. Content of volumes
	// that is there is moved instead of fetched, and images that are there are used; what differs from the snapshot
	// is fetched. What was taken is not staged any more. Empty: nothing is staged.
	Stage string
	// Had is an earlier snapshot of what the host has of the system: its records tell where in what Replace moves
	// aside content lies that need not be fetched. Nil: only what is at the same place there as in the snapshot is found.
	Had *snapshot.Snapshot
	// TempDir is where a container's changes are spooled, as unlinked files. Empty: os.TempDir.
	TempDir string
	// Observer is told of progress.
	Observer snapshot.Observer
}

// Parts of a system that Options.Only can name.
const (
	PartImages     = "images"
	PartChanges    = "changes"
	PartVolumes    = "volumes"
	PartBinds      = "binds"
	PartNetworks   = "networks"
	PartContainers = "containers"
)

// Parts lists the words that Options.Only takes for parts.
func Parts() []string {
	return []string{PartImages, PartChanges, PartVolumes, PartBinds, PartNetworks, PartContainers}
}

func (o Options) healthTimeout() time.Duration {
	if o.HealthTimeout <= 0 {
		return 5 * time.Minute
	}
	return o.HealthTimeout
}

func (o Options) settle() time.Duration {
	if o.Settle <= 0 {
		return 2 * time.Second
	}
	return o.Settle
}

// A UsageError says that options do not fit together or do not fit the snapshot.
type UsageError struct {
	Option string // "as", "only", "port", "bind", "network", "replace"
	Reason string
}

func (e *UsageError) Error() string { return "restore option " + e.Option + ": " + e.Reason }

// systemName is what Compose allows as a project name. Names that are derived from it are then
// valid names of containers, volumes, networks and images too.
var systemName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]*$`)

func (o Options) validate() error {
	if o.As != "" && (!systemName.MatchString(o.As) || len(o.As) > 63) {
		return &UsageError{"as", fmt.Sprintf("%q is not a name of lower-case letters, digits, - and _ that starts with a letter or digit", o.As)}
	}
	if o.Replace && o.SkipExisting {
		return &UsageError{"replace", "replacing and skipping what exists exclude each other"}
	}
	for old, now := range o.Ports {
		if err := validPort(old, now); err != nil {
			return err
		}
	}
	for old, now := range o.Binds {
		if !strings.HasPrefix(old, "/") || !strings.HasPrefix(now, "/") {
			return &UsageError{"bind", fmt.Sprintf("%s:%s: both must be absolute paths", old, now)}
		}
	}
	for old, now := range o.Networks {
		if old == "" || now == "" {
			return &UsageError{"network", fmt.Sprintf("%q:%q: both names are needed", old, now)}
		}
	}
	return nil
}

func validPort(old, now string) error {
	port, proto, ok := strings.Cut(old, "/")
	if !isPort(port) || ok && !slices.Contains([]string{"tcp", "udp", "sctp"}, proto) {
		return &UsageError{"port", fmt.Sprintf("%q is not a port, or port/tcp, port/udp, port/sctp", old)}
	}
	if now == "" || now == snapshot.Unpublished {
		return nil
	}
	if _, port := splitHostPort(now); !isPort(port) {
		return &UsageError{"port", fmt.Sprintf("%q is not a port, or address:port", now)}
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// splitHostPort splits "18080" or "127.0.0.1:18080" or "[::1]:18080".
func splitHostPort(s string) (host, port string) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", s
	}
	return strings.Trim(s[:i], "[]"), s[i+1:]
}

// selection is Options.Only, held against a snapshot.
type selection struct {
	parts      map[string]bool // nil: all
	containers map[string]bool // nil: all
}

func (o Options) selection(sys *snapshot.System) (selection, error) {
	var s selection
	for _, word := range o.Only {
		if slices.Contains(Parts(), word) {
			if s.parts == nil {
				s.parts = make(map[string]bool)
			}
			s.parts[word] = true
			continue
		}
		if s.containers == nil {
			s.containers = make(map[string]bool)
		}
		if !s.choose(sys, word) {
			return s, &UsageError{"only", fmt.Sprintf("%q is neither a part (%s) nor a container of %s (%s)",
				word, strings.Join(Parts(), ", "), sys.Name, strings.Join(sys.ContainerNames(), ", "))}
		}
	}
	return s, nil
}

func (s *selection) choose(sys *snapshot.System, word string) (found bool) {
	for _, c := range sys.Containers {
		if c.Name == word || c.Service == word {
			s.containers[c.Name] = true
			found = true
		}
	}
	return found
}

// part reports whether a part is restored at all.
func (s selection) part(p string) bool { return s.parts == nil || s.parts[p] }

// container reports whether the container, and what it uses, is meant.
func (s selection) container(name string) bool { return s.containers == nil || s.containers[name] }

// everything reports whether also what no container uses is meant.
func (s selection) everything() bool { return s.containers == nil }
