package importer

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// planContainers decides which containers are made, under which names.
func (p *planner) planContainers() {
	if !p.sel.part(PartContainers) {
		return
	}
	for _, c := range p.wanted() {
		p.containers = append(p.containers, p.planContainer(c))
	}
	for i := range p.containers {
		if j := &p.containers[i]; j.action != Skip {
			p.fit(j)
			p.refers(j)
		}
	}
}

func (p *planner) planContainer(c *snapshot.Container) containerJob {
	j := containerJob{
		container: c,
		action:    Create,
		place: snapshot.Placement{
			Name:       p.names.name(c.Name),
			Volumes:    make(map[string]string),
			Networks:   make(map[string]string),
			Binds:      make(map[string]string),
			Containers: make(map[string]string),
			Ports:      p.ports(c),
			Labels:     p.names.labels(c.Labels),
		},
		start: !p.opts.NoStart && ran(c),
	}
	if c.Changes != nil && p.sel.part(PartChanges) {
		j.changes = ChangesRef(p.snap.Summary, c.Name)
	}
	if old, ok := existing(p.target.Names.Containers, j.place.Name); ok {
		j.old = old
		j.action = p.taken(KindContainer, j.place.Name, "exists already ("+old.State+")", Skip)
	}
	if j.action == Replace && p.goesWhenStopped(j.old) {
		p.clash(KindContainer, j.place.Name, "stop it, or --as NAME", "exists already, and the engine removes it when it is stopped (--rm): it could not be put back")
		j.action = Refuse
	}
	return j
}

// goesWhenStopped reports whether the engine removes a running container as soon as it stops.
func (p *planner) goesWhenStopped(old snapshot.Existing) bool {
	i := slices.IndexFunc(p.target.Containers, func(c snapshot.Container) bool { return c.ID == old.ID })
	if i < 0 || !running(old.State) {
		return false
	}
	var inspect struct {
		HostConfig struct{ AutoRemove bool }
	}
	err := json.Unmarshal(p.target.Containers[i].Inspect, &inspect)
	return err == nil && inspect.HostConfig.AutoRemove
}

// taken decides what happens where something is in the way.
func (p *planner) taken(kind Kind, name, why string, skip Action) Action {
	switch {
	case p.opts.SkipExisting:
		return skip
	case p.opts.Replace:
		return Replace
	}
	hint := hintExists
	if kind == KindBind {
		hint = hintBind
	}
	p.clash(kind, name, hint, "%s", why)
	return Refuse
}

func existing(all []snapshot.Existing, name string) (snapshot.Existing, bool) {
	i := slices.IndexFunc(all, func(e snapshot.Existing) bool { return e.Name == name })
	if i < 0 {
		return snapshot.Existing{}, false
	}
	return all[i], true
}

// ran reports whether a container did its work when the snapshot was made, even if it was held.
func ran(c *snapshot.Container) bool { return running(c.State) }

// running reports whether a state, as engines name it, is one of a container with processes.
func running(state string) bool {
	return state == "running" || state == "paused" || state == "restarting"
}

// fit holds a container against what the engine and its host can do.
func (p *planner) fit(j *containerJob) {
	c := j.container
	for _, m := range p.target.Misfits[c.Name] {
		if !p.opts.Fit {
			p.clash(KindContainer, j.place.Name, hintFit, "does not fit the host: %s", m.Why)
			continue
		}
		if !slices.Contains(j.place.Without, m.Part) {
			j.place.Without = append(j.place.Without, m.Part)
		}
		p.note("container "+j.place.Name, "%s left out: %s", m.Part, m.Why)
	}
	if img := p.image(c); img != nil {
		p.fitPlatform(j.place.Name, img.image)
	}
	for _, m := range c.Mounts {
		if old := m.Source; m.Type == "bind" {
			if now := remapPath(old, p.opts.Binds); now != old {
				j.place.Binds[old] = now
			}
		}
	}
}

// image returns the image that a container runs, nil if the snapshot lacks it.
func (p *planner) image(c *snapshot.Container) *ociImage { return p.oci[c.ImageKey] }

func (p *planner) fitPlatform(container string, img snapshot.Image) {
	host := p.target.Facts
	if img.OS != "" && host.OS != "" && img.OS != host.OS {
		p.clash(KindContainer, container, "restore to a "+img.OS+" host", "runs on %s, the host is %s", img.OS, host.OS)
	}
	if a, b := architecture(img.Arch), architecture(host.Arch); a != "" && b != "" && a != b {
		p.clash(KindContainer, container, "restore to a host of that architecture", "is built for %s, the host is %s", a, b)
	}
}

// architecture writes a machine's name as Go does: engines say both x86_64 and amd64.
func architecture(a string) string {
	switch a {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "i386", "i686":
		return "386"
	case "armv7l", "armv6l", "armhf":
		return "arm"
	}
	return a
}

// refers maps the containers that a container refers to, and holds those that it cannot do without
// against what will be there.
func (p *planner) refers(j *containerJob) {
	for _, other := range p.sys.Containers {
		if now := p.names.name(other.Name); now != other.Name {
			j.place.Containers[other.Name] = now
		}
	}
	for _, ref := range sharedNamespaces(j.container) {
		other := p.findContainer(ref)
		switch {
		case other == nil:
			if !slices.ContainsFunc(p.target.Names.Containers, func(e snapshot.Existing) bool { return e.ID == ref || e.Name == ref }) {
				p.clash(KindContainer, j.place.Name, "", "shares a namespace with container %s, which is not part of the system", ref)
			}
		case !p.present(other.Name):
			p.clash(KindContainer, j.place.Name, "restore that one too", "shares a namespace with container %s, which is not there", p.names.name(other.Name))
		}
	}
	for _, d := range j.container.DependsOn {
		if !p.present(d.Container) {
			p.note("container "+j.place.Name, "depends on %s, which is not restored", p.names.name(d.Container))
		}
	}
}

// sharedNamespaces lists the containers, by name or id, whose namespaces c joins.
func sharedNamespaces(c *snapshot.Container) []string {
	var inspect struct {
		HostConfig struct{ NetworkMode, PidMode, IpcMode string }
	}
	if err := json.Unmarshal(c.Inspect, &inspect); err != nil {
		return nil // creating it will say so
	}
	set := make(map[string]bool)
	for _, mode := range []string{inspect.HostConfig.NetworkMode, inspect.HostConfig.PidMode, inspect.HostConfig.IpcMode} {
		if ref, ok := strings.CutPrefix(mode, "container:"); ok {
			set[ref] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// findContainer finds a container of the system by name or id.
func (p *planner) findContainer(ref string) *snapshot.Container {
	for i := range p.sys.Containers {
		if c := &p.sys.Containers[i]; c.Name == ref || c.ID == ref {
			return c
		}
	}
	return nil
}

// present reports whether a container of the system is made by the plan or there already.
func (p *planner) present(name string) bool {
	if slices.ContainsFunc(p.containers, func(j containerJob) bool { return j.container.Name == name }) {
		return true
	}
	_, ok := existing(p.target.Names.Containers, p.names.name(name))
	return ok
}
