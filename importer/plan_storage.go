package importer

import (
	"cmp"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

func (p *planner) planVolumes() {
	for _, v := range p.sys.Volumes {
		uses := func(c *snapshot.Container) bool { return mountsVolume(c, v.Name) && !p.skipped(c) }
		if p.user(uses) == nil && !p.sel.everything() {
			continue
		}
		j := volumeJob{volume: v, name: p.names.volume(v), labels: p.names.labels(v.Labels), action: Create}
		_, there := existing(p.target.Names.Volumes, j.name)
		switch {
		case !p.sel.part(PartVolumes) && (there || !p.made(uses)):
			j.action = Reuse
		case !p.sel.part(PartVolumes):
			p.clash(KindVolume, j.name, "restore volumes too", "is not there")
			j.action = Refuse
		case there:
			j.action = p.takenVolume(&j)
		default:
			p.fitVolume(&j)
		}
		if p.sel.part(PartVolumes) || j.action == Refuse {
			p.volumes = append(p.volumes, j)
		}
		p.placeVolume(v.Name, j.name)
	}
	p.undescribedVolumes()
}

// undescribedVolumes sees to volumes that containers mount and the snapshot does not describe. The
// engine makes an empty one where there is none.
func (p *planner) undescribedVolumes() {
	seen := make(map[string]bool)
	for _, v := range p.sys.Volumes {
		seen[v.Name] = true
	}
	for _, j := range p.containers {
		for _, m := range j.container.Mounts {
			if m.Type != "volume" || seen[m.Name] || j.action == Skip {
				continue
			}
			seen[m.Name] = true
			name := p.names.volume(snapshot.Volume{Name: m.Name, Anonymous: m.Anonymous})
			p.placeVolume(m.Name, name)
			if _, there := existing(p.target.Names.Volumes, name); !there {
				p.note("volume "+name, "is not in the snapshot: it will be empty")
			}
		}
	}
}

func mountsVolume(c *snapshot.Container, name string) bool {
	return slices.ContainsFunc(c.Mounts, func(m snapshot.Mount) bool { return m.Type == "volume" && m.Name == name })
}

func (p *planner) placeVolume(old, now string) {
	for _, j := range p.containers {
		if old != now && mountsVolume(j.container, old) {
			j.place.Volumes[old] = now
		}
	}
}

// takenVolume decides about a volume that is there already. Its content can be moved aside only
// where this process reaches it and nothing else uses it.
func (p *planner) takenVolume(j *volumeJob) Action {
	action := p.taken(KindVolume, j.name, "exists already", Reuse)
	if action != Replace {
		return action
	}
	switch users := p.strangers(j.name); {
	case j.volume.Content == nil:
		return Reuse
	case len(users) > 0:
		p.clash(KindVolume, j.name, "stop it, or --as NAME", "is in use by container %s, which is not replaced", users[0])
	case !p.target.Facts.Local:
		p.clash(KindVolume, j.name, "run the restore on the engine's host, or --as NAME", "exists already, and its content cannot be moved aside from here")
	case !plainVolume(j.volume):
		p.clash(KindVolume, j.name, "--skip-existing, or --as NAME", "exists already, and its driver keeps its content elsewhere")
	default:
		return Replace
	}
	return Refuse
}

// strangers lists the running containers that use a volume and are not replaced by the plan.
func (p *planner) strangers(volume string) []string {
	var names []string
	for i := range p.target.Containers {
		if c := &p.target.Containers[i]; ran(c) && mountsVolume(c, volume) && !p.replaces(c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// plainVolume reports whether a volume is a directory of the engine's host and nothing else. With
// options the local driver mounts something there, but only while a container runs.
func plainVolume(v snapshot.Volume) bool { return localVolume(v) && len(v.Options) == 0 }

// localVolume reports whether the engine's own driver makes a volume: when that is removed, what it mounted stays.
func localVolume(v snapshot.Volume) bool { return v.Driver == "" || v.Driver == "local" }

// fitVolume holds a volume that is to be created against the engine's drivers.
func (p *planner) fitVolume(j *volumeJob) {
	if j.volume.Content == nil && plainVolume(j.volume) {
		p.note("volume "+j.name, "its content is not in the snapshot: it is created empty")
	}
	known := p.target.Facts.VolumeDrivers
	if plainVolume(j.volume) || len(known) == 0 || slices.Contains(known, j.volume.Driver) {
		return
	}
	if !p.opts.Fit {
		p.clash(KindVolume, j.name, "install it there, or --fit makes a local volume", "needs the volume driver %s", j.volume.Driver)
		j.action = Refuse
		return
	}
	p.note("volume "+j.name, "is made a local one: there is no volume driver %s", j.volume.Driver)
	j.volume.Driver, j.volume.Options = "local", nil
}

func (p *planner) planBinds() {
	for _, b := range p.sys.Binds {
		uses := func(c *snapshot.Container) bool { return bindsPath(c, b.Source) && !p.skipped(c) }
		if p.user(uses) == nil && !p.sel.everything() {
			continue
		}
		path := remapPath(b.Source, p.opts.Binds)
		j := bindJob{bind: b, path: path, state: p.target.Paths[path]}
		j.action = p.bindAction(&j, p.made(uses))
		if p.sel.part(PartBinds) || j.action == Refuse {
			p.binds = append(p.binds, j)
		}
	}
}

func bindsPath(c *snapshot.Container, source string) bool {
	return slices.ContainsFunc(c.Mounts, func(m snapshot.Mount) bool { return m.Type == "bind" && m.Source == source })
}

func (p *planner) bindAction(j *bindJob, needed bool) Action {
	seen := p.target.Paths != nil
	switch {
	case p.restoredWith(j.path):
		return Skip
	case j.bind.Content == nil || p.opts.WithoutBinds || !p.sel.part(PartBinds):
		if needed && seen && j.state == PathAbsent {
			p.clash(KindBind, j.path, hintBindGone, "is not on this host%s", because(j.bind.Special))
			return Refuse
		}
		return Reuse
	case !seen && p.opts.SkipExisting:
		return Reuse
	case !seen && p.opts.Replace:
		p.note("bind "+j.path, "is written over on the engine's host: what is there cannot be moved aside from here")
		return Create
	case !seen:
		p.clash(KindBind, j.path, "run the restore on that host, or --without-binds", "is a path of the engine's host, which cannot be looked at from here")
		return Refuse
	case j.state == PathAbsent, j.state == PathEmpty && !j.bind.File:
		return Create
	}
	return p.taken(KindBind, j.path, "exists on this host: "+string(j.state), Reuse)
}

func because(special string) string {
	if special == "" {
		return ""
	}
	return ", and the snapshot does not hold it: " + special
}

// restoredWith reports whether another bind of the plan restores the path with its own content.
func (p *planner) restoredWith(path string) bool {
	return slices.ContainsFunc(p.binds, func(o bindJob) bool {
		rest, ok := under(path, o.path)
		return ok && rest != "" && !o.bind.File && (o.action == Create || o.action == Replace)
	})
}

func (p *planner) planNetworks() {
	for _, n := range p.sys.Networks {
		uses := func(c *snapshot.Container) bool { return slices.Contains(c.Networks, n.Name) && !p.skipped(c) }
		if n.Predefined || p.user(uses) == nil && !p.sel.everything() {
			continue
		}
		p.planNetwork(n, p.made(uses))
	}
	p.undescribedNetworks()
}

// predefined are the networks that every engine has.
var predefined = []string{"bridge", "host", "none", "default"}

// undescribedNetworks sees to networks that containers join and the snapshot does not describe.
func (p *planner) undescribedNetworks() {
	for i := range p.containers {
		j := &p.containers[i]
		for _, name := range j.container.Networks {
			described := slices.ContainsFunc(p.sys.Networks, func(n snapshot.Network) bool { return n.Name == name })
			if described || j.action == Skip || slices.Contains(predefined, name) {
				continue
			}
			now := cmp.Or(p.opts.Networks[name], name)
			if now != name {
				j.place.Networks[name] = now
			}
			if _, there := existing(p.target.Names.Networks, now); !there {
				p.clash(KindNetwork, now, "create it, or --network OLD:NEW to one that is there", "is neither in the snapshot nor there")
			}
		}
	}
}

func (p *planner) planNetwork(n snapshot.Network, needed bool) {
	j := networkJob{network: n, name: p.names.name(n.Name), action: Create}
	now, remapped := p.opts.Networks[n.Name]
	if remapped {
		j.name = now
	}
	_, there := existing(p.target.Names.Networks, j.name)
	switch {
	case there && (remapped || p.opts.SkipExisting || p.opts.Replace || !p.sel.part(PartNetworks)):
		j.action = Reuse
	case there:
		p.clash(KindNetwork, j.name, "--skip-existing, --network OLD:NEW, or --as NAME", "exists already")
		j.action = Refuse
	case !p.sel.part(PartNetworks) && needed:
		p.clash(KindNetwork, j.name, "restore networks too", "is not there")
		j.action = Refuse
	case !p.sel.part(PartNetworks):
		return
	case len(p.target.Facts.NetDrivers) > 0 && n.Driver != "" && !slices.Contains(p.target.Facts.NetDrivers, n.Driver):
		p.clash(KindNetwork, j.name, "--network OLD:NEW to one that is there", "needs the network driver %s", n.Driver)
		j.action = Refuse
	default:
		j.labels = p.names.labels(networkLabels(n))
	}
	p.networks = append(p.networks, j)
	p.placeNetwork(j, remapped)
}

// placeNetwork tells the containers of a network under which name it is. Fixed addresses are of no
// use in a network that has other subnets than the original: one that was there under another
// name, or one made while the original holds its own.
func (p *planner) placeNetwork(j networkJob, remapped bool) {
	_, original := existing(p.target.Names.Networks, j.network.Name)
	other := j.name != j.network.Name && (original || remapped && j.action == Reuse)
	for i := range p.containers {
		c := &p.containers[i]
		if !slices.Contains(c.container.Networks, j.network.Name) {
			continue
		}
		if j.name != j.network.Name {
			c.place.Networks[j.network.Name] = j.name
		}
		if other && !slices.Contains(c.place.Without, snapshot.PartAddresses) {
			c.place.Without = append(c.place.Without, snapshot.PartAddresses)
		}
	}
}
