package docker

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// directory finds containers by what others call them.
type directory struct {
	byName    map[string]string      // name to name, full id to name
	ids       []string               // full ids, sorted
	byService map[[2]string][]string // Compose project and service to names
}

func newDirectory(all []inspection) *directory {
	d := &directory{byName: map[string]string{}, byService: map[[2]string][]string{}}
	for _, in := range all {
		d.byName[in.name()], d.byName[in.ID] = in.name(), in.name()
		d.ids = append(d.ids, in.ID)
		key := [2]string{in.Config.Labels[composeProject], in.Config.Labels[composeService]}
		d.byService[key] = append(d.byService[key], in.name())
	}
	slices.Sort(d.ids)
	return d
}

// find resolves a name, an id or the unique beginning of an id to a name.
func (d *directory) find(ref string) (string, bool) {
	ref = strings.TrimPrefix(ref, "/")
	if name, found := d.byName[ref]; found {
		return name, true
	}
	at, _ := slices.BinarySearch(d.ids, ref)
	unique := at+1 >= len(d.ids) || !strings.HasPrefix(d.ids[at+1], ref)
	if ref == "" || at >= len(d.ids) || !strings.HasPrefix(d.ids[at], ref) || !unique {
		return "", false
	}
	return d.byName[d.ids[at]], true
}

// Conditions under which a container that depends on another one may start, strongest last.
var conditions = []string{"", "service_started", "service_healthy", "service_completed_successfully"}

// dependencies says what a container needs before it starts, sorted by name: what Compose recorded,
// and whatever its configuration refers to. A reference to a container that is not there is left
// out; Compose leaves such labels behind.
func (d *directory) dependencies(in inspection) []snapshot.Dependency {
	needs := map[string]string{}
	need := func(name, condition string) {
		if old, found := needs[name]; name != in.name() && (!found || slices.Index(conditions, old) < slices.Index(conditions, condition)) {
			needs[name] = condition
		}
	}
	for service, condition := range composeDependencies(in.Config.Labels[composeDepends]) {
		for _, name := range d.byService[[2]string{in.Config.Labels[composeProject], service}] {
			need(name, condition)
		}
	}
	for _, ref := range in.references() {
		if name, found := d.find(ref); found {
			need(name, "service_started")
		}
	}
	var deps []snapshot.Dependency
	for name, condition := range needs {
		deps = append(deps, snapshot.Dependency{Container: name, Condition: condition})
	}
	slices.SortFunc(deps, func(a, b snapshot.Dependency) int { return cmp.Compare(a.Container, b.Container) })
	return deps
}

// composeDependencies reads the label that Compose writes: "db:service_healthy:true,cache:...", a
// service, the condition, and whether a restart there restarts this one too.
func composeDependencies(label string) map[string]string {
	deps := map[string]string{}
	for part := range strings.SplitSeq(label, ",") {
		service, rest, _ := strings.Cut(strings.TrimSpace(part), ":")
		condition, _, _ := strings.Cut(rest, ":")
		if service != "" {
			deps[service] = cmp.Or(condition, "service_started")
		}
	}
	return deps
}

// references returns the names and ids of containers that a configuration refers to: links, shared
// namespaces and the volumes of others.
func (in inspection) references() []string {
	var refs []string
	for _, mode := range []string{in.HostConfig.NetworkMode, in.HostConfig.PidMode, in.HostConfig.IpcMode} {
		if ref, shared := strings.CutPrefix(mode, "container:"); shared {
			refs = append(refs, ref)
		}
	}
	links := slices.Clone(in.HostConfig.Links)
	for _, endpoint := range in.NetworkSettings.Networks {
		links = append(links, endpoint.Links...)
	}
	for _, link := range append(links, in.HostConfig.VolumesFrom...) {
		ref, _, _ := strings.Cut(link, ":")
		refs = append(refs, ref)
	}
	return refs
}
