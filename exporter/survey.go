package exporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Describer describes an engine and what containers use.
type Describer interface {
	Helpers
	Facts() snapshot.Facts
	Surroundings(ctx context.Context, cs []snapshot.Container) (*snapshot.System, error)
	Upper(ctx context.Context, c snapshot.Container) (string, error)
	RemoteUpper(ctx context.Context, c snapshot.Container) (string, error)
}

// survey is all that a plan is made from.
type survey struct {
	facts  snapshot.Facts
	system snapshot.System
	uppers map[string]upper // by id of a container
	nodes  map[string]node  // by path of the engine's host: what is there
	self   map[string]bool  // ids of containers that this program may run in
}

// upper says where the changes of a container lie.
type upper struct {
	local     string // readable by this process
	localErr  error
	remote    string // on the engine's host, for a helper
	remoteErr error
}

// node is what is at a path of the engine's host.
type node struct {
	kind    nodeKind
	err     error // for nodeUnreadable
	mounted bool  // something is mounted there
	size    int64 // of a bind's source: bytes of its files, at least; see over
	over    bool  // counting ended because there are more than allowed
}

type nodeKind int

const (
	nodeUnknown    nodeKind = iota // this process cannot see it: a helper will
	nodeMissing                    // there is nothing
	nodeUnreadable                 // this process may not read it
	nodeDir
	nodeFile
	nodeSocket
	nodeSpecial // a device or a pipe
)

// look makes the survey of a system.
func look(ctx context.Context, engine Describer, sys snapshot.System, o Options) (*survey, error) {
	described, err := engine.Surroundings(ctx, sys.Containers)
	if err != nil {
		return nil, fmt.Errorf("describe system %s: %w", sys.Name, err)
	}
	described.Name, described.Source = sys.Name, sys.Source
	described.Problems = append(sys.Problems, described.Problems...)
	described.Notes = append(sys.Notes, described.Notes...)
	s := &survey{
		facts: engine.Facts(), system: *described,
		uppers: map[string]upper{}, nodes: map[string]node{}, self: ownContainers(),
	}
	for _, c := range s.system.Containers {
		var u upper
		if u.local, u.localErr = engine.Upper(ctx, c); u.localErr != nil {
			u.remote, u.remoteErr = engine.RemoteUpper(ctx, c)
		}
		s.uppers[c.ID] = u
	}
	return s, s.lookAtPaths(ctx, engine, o)
}

// lookAtPaths looks at what volumes and binds are on the engine's host.
func (s *survey) lookAtPaths(ctx context.Context, engine Describer, o Options) error {
	exclusions := map[string]exclusion{} // by source of the binds that may be read
	for _, b := range s.system.Binds {
		x := bindExclusion(s.system, b.Source, o)
		if x.whole == "" && systemPath(b.Source, s.facts) == "" {
			exclusions[b.Source] = x
		}
	}
	if !s.facts.Local {
		return s.lookByHelper(ctx, engine, exclusions, o)
	}
	for _, v := range s.system.Volumes {
		for _, dir := range []string{v.Mountpoint, volumePath(v)} {
			if dir != "" {
				s.nodes[dir] = lookAt(dir)
			}
		}
	}
	for source, x := range exclusions {
		n := lookAt(source)
		if n.kind == nodeDir || n.kind == nodeFile {
			n.measure(ctx, func(d DirOptions) (archive.Tree, error) { return OpenDir(source, d) }, x, o)
		}
		s.nodes[source] = n
	}
	return ctx.Err()
}

// lookByHelper looks at the sources of binds where this process cannot. Without a helper nothing is
// known of them; that there is none shows again when they are to be read.
func (s *survey) lookByHelper(ctx context.Context, engine Helpers, exclusions map[string]exclusion, o Options) error {
	sources := slices.Sorted(maps.Keys(exclusions))
	if len(sources) == 0 {
		return nil
	}
	h, err := startHelper(ctx, engine, sources, false)
	if err != nil {
		o.Logger.Warn("the sources of bind mounts cannot be looked at", "error", err)
		return ctx.Err()
	}
	defer h.Close()
	for i, source := range sources {
		n := h.look(ctx, i)
		if n.kind == nodeDir || n.kind == nodeFile {
			n.measure(ctx, func(d DirOptions) (archive.Tree, error) { return h.open(ctx, i, d) }, exclusions[source], o)
		}
		s.nodes[source] = n
	}
	return ctx.Err()
}

func lookAt(name string) node {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return node{kind: nodeMissing}
	case err != nil:
		return node{kind: nodeUnreadable, err: err}
	case info.IsDir():
		return node{kind: nodeDir, mounted: isMountPoint(name, info)}
	case info.Mode().IsRegular():
		return node{kind: nodeFile}
	case info.Mode()&fs.ModeSocket != 0:
		return node{kind: nodeSocket}
	default:
		return node{kind: nodeSpecial}
	}
}

// isMountPoint reports whether a directory lies on another device than the one above it. Bind
// mounts within one file system are not seen.
func isMountPoint(name string, info fs.FileInfo) bool {
	above, err := os.Stat(filepath.Dir(name))
	if err != nil {
		return false
	}
	a, ok1 := above.Sys().(*syscall.Stat_t)
	b, ok2 := info.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && a.Dev != b.Dev
}

// measure adds up the sizes of the files of a node.
func (n *node) measure(ctx context.Context, open func(DirOptions) (archive.Tree, error), x exclusion, o Options) {
	tree, err := open(DirOptions{Exclude: x.patterns, SkipPaths: x.skip, Report: func(string, error) {}})
	if err == nil {
		n.size, n.over, err = measure(ctx, tree, o.MaxBind)
		err = errors.Join(err, closeTree(tree))
	}
	if err != nil {
		n.kind, n.err = nodeUnreadable, err
	}
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// measure adds up the sizes of a tree's files, and stops above a limit that is not negative.
func measure(ctx context.Context, tree archive.Tree, limit int64) (size int64, over bool, err error) {
	err = tree.Walk(ctx, func(e archive.Entry) error {
		if e.Type == archive.File {
			size += e.Size
		}
		if limit >= 0 && size > limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return size, true, nil
	}
	return size, false, err
}

// ownMount is a line of mountinfo for a file that engines mount into each container, with the
// container's id in the path of its source. Hosts have such paths elsewhere: for containers of theirs.
var ownMount = regexp.MustCompile(`(?m)^\d+ \d+ \d+:\d+ \S*/([0-9a-f]{64})/\S* /etc/(?:hostname|hosts|resolv\.conf) `)

// ownCgroup is the id of a container in the name of a cgroup that a process is in.
var ownCgroup = regexp.MustCompile(`([0-9a-f]{64})`)

// ownContainers returns what may be the id of the container that this process runs in.
func ownContainers() map[string]bool {
	ids := map[string]bool{}
	for name, pattern := range map[string]*regexp.Regexp{"/proc/self/cgroup": ownCgroup, "/proc/self/mountinfo": ownMount} {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // no /proc, then no way to know
		}
		for _, m := range pattern.FindAllSubmatch(text, -1) {
			ids[string(m[1])] = true
		}
	}
	return ids
}
