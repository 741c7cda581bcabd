package snapshot

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Kinds of objects of a system, as ObjectDiff and TreePair name them.
const (
	KindImage     = "image"
	KindContainer = "container"
	KindVolume    = "volume"
	KindBind      = "bind"
	KindNetwork   = "network"
	KindChanges   = "changes" // of a TreePair: what a container wrote on top of its image
)

// What became of an object, in ObjectDiff.
const (
	ObjectAdded   = "added"
	ObjectRemoved = "removed"
	ObjectChanged = "changed"
)

// ObjectDiff is an object that two descriptions of a system do not have alike.
type ObjectDiff struct {
	Kind          string      `json:"kind"`
	Name          string      `json:"name"` // in the later one, where it has the object
	Change        string      `json:"change"`
	Fields        []FieldDiff `json:"fields,omitempty"`         // of a changed one
	LayersAdded   []Layer     `json:"layers_added,omitempty"`   // of an image, also of one that was added
	LayersRemoved []Layer     `json:"layers_removed,omitempty"` // also of one that was removed
}

// FieldDiff is a field with another value, or one of the values of a list that only one side has.
type FieldDiff struct {
	Field string `json:"field"`         // "Config.Env.PORT", "HostConfig.Binds", "Config.Labels[org.example.tier]"
	Old   string `json:"old,omitempty"` // text, or JSON where the value is no text; empty: not set
	New   string `json:"new,omitempty"`
}

// Diff returns what differs from system a to system b: images, containers, volumes, bind mounts,
// networks, in this order and by name. What changes without anybody changing it does not count: ids,
// processes, times, the addresses of containers, and names that the engine made up. A field that is
// not set is the same as one that is empty, which engines do not agree on.
//
// Objects go by name: an image by its tags, or by its repository if it has another tag now; an
// anonymous volume by the container and the path where it is mounted.
func Diff(a, b *System) []ObjectDiff {
	return slices.Concat(
		diffImages(a.Images, b.Images),
		diffObjects(KindContainer, containersOf(a), containersOf(b)),
		diffObjects(KindVolume, volumesOf(a), volumesOf(b)),
		diffObjects(KindBind, bindsOf(a), bindsOf(b)),
		diffObjects(KindNetwork, networksOf(a), networksOf(b)),
	)
}

// diffObjects compares descriptions by name.
func diffObjects(kind string, a, b map[string]fields) []ObjectDiff {
	var all []ObjectDiff
	for _, name := range names(a, b) {
		d := ObjectDiff{Kind: kind, Name: name, Change: ObjectChanged}
		before, was := a[name]
		after, is := b[name]
		switch {
		case !was:
			d.Change = ObjectAdded
		case !is:
			d.Change = ObjectRemoved
		default:
			if d.Fields = diffFields("", before, after); len(d.Fields) == 0 {
				continue
			}
		}
		all = append(all, d)
	}
	return all
}

// names returns the keys of both maps, sorted.
func names[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

func containersOf(s *System) map[string]fields {
	all := map[string]fields{}
	known := s.madeUp()
	for _, c := range s.Containers {
		inspect := parseFields(known.Replace(string(c.Inspect)))
		all[c.Name] = fields{
			"Image": c.ImageKey, "State": c.State, "Health": c.Health,
			"Config": config(inspect.child("Config")), "HostConfig": inspect.child("HostConfig").without("ContainerIDFile"),
			"Networks": endpoints(inspect.child("NetworkSettings").child("Networks"), c.Name),
		}
	}
	return all
}

// madeUp replaces what engines make up by names that hold from night to night: ids of containers,
// long and short (a host name is one unless it was given), and names of anonymous volumes.
func (s *System) madeUp() *strings.Replacer {
	const short = 12
	var pairs, later []string
	for _, c := range s.Containers {
		if len(c.ID) > short {
			pairs = append(pairs, c.ID, c.Name)
			later = append(later, c.ID[:short], c.Name)
		}
	}
	for _, v := range s.Volumes {
		if v.Anonymous && v.Name != "" {
			pairs = append(pairs, v.Name, "anonymous")
		}
	}
	return strings.NewReplacer(append(pairs, later...)...)
}

// config is what a container's or an image's Config says, its environment by variable.
func config(c fields) fields {
	c = c.without("Image")
	c["Env"] = environment(c["Env"])
	c["Labels"] = c.child("Labels").without("com.docker.compose.replace", "com.docker.compose.image")
	return c
}

// environment makes a map of KEY=VALUE; the last of a key counts.
func environment(list any) any {
	values, ok := list.([]any)
	if !ok {
		return list
	}
	env := fields{}
	for _, v := range values {
		text, _ := v.(string)
		key, value, _ := strings.Cut(text, "=")
		env[key] = value
	}
	return env
}

// endpoints is what was asked for of each network that a container is in, without what it was given:
// its addresses, and as an alias its own name, which older engines add as its short id.
func endpoints(networks fields, container string) fields {
	all := fields{}
	for name := range networks {
		e := networks.child(name)
		aliases, _ := e["Aliases"].([]any)
		all[name] = fields{
			"Aliases": slices.DeleteFunc(aliases, func(a any) bool { return a == container }), "IPAMConfig": e["IPAMConfig"], "Links": e["Links"],
			"DriverOpts": e["DriverOpts"], "GwPriority": e["GwPriority"], "Connected": true,
		}
	}
	return all
}

func volumesOf(s *System) map[string]fields {
	all := map[string]fields{}
	for _, v := range s.Volumes {
		all[s.volumeKey(v)] = fields{"Driver": v.Driver, "Options": texts(v.Options), "Labels": texts(v.Labels)}
	}
	return all
}

// volumeKey is the name by which a volume is found again in another snapshot.
func (s *System) volumeKey(v Volume) string {
	if !v.Anonymous {
		return v.Name
	}
	for _, c := range s.Containers {
		for _, m := range c.Mounts {
			if m.Name == v.Name {
				return c.Name + ":" + m.Destination
			}
		}
	}
	return v.Name
}

func bindsOf(s *System) map[string]fields {
	all := map[string]fields{}
	for _, b := range s.Binds {
		all[b.Source] = fields{"File": b.File, "NotRead": b.Special}
	}
	return all
}

func networksOf(s *System) map[string]fields {
	all := map[string]fields{}
	for _, n := range s.Networks {
		inspect := parseFields(string(n.Inspect))
		if n.Predefined {
			inspect = nil // it is the engine's, not the system's
		}
		all[n.Name] = fields{
			"Driver": n.Driver, "Internal": inspect["Internal"], "Attachable": inspect["Attachable"], "EnableIPv6": inspect["EnableIPv6"],
			"IPAM": inspect["IPAM"], "Options": inspect["Options"], "Labels": inspect["Labels"],
		}
	}
	return all
}

// diffImages compares images.
func diffImages(a, b []Image) []ObjectDiff {
	var all []ObjectDiff
	pairs := pairImages(a, b)
	for _, p := range pairs {
		d := ObjectDiff{Kind: KindImage, Change: ObjectChanged}
		switch {
		case p.a == nil:
			d.Name, d.Change, d.LayersAdded = p.b.name(), ObjectAdded, p.b.Layers
		case p.b == nil:
			d.Name, d.Change, d.LayersRemoved = p.a.name(), ObjectRemoved, p.a.Layers
		default:
			d.Name, d.Fields = p.b.name(), diffFields("", p.a.fields(), p.b.fields())
			d.LayersRemoved, d.LayersAdded = missing(p.a.Layers, p.b.Layers), missing(p.b.Layers, p.a.Layers)
			if len(d.Fields)+len(d.LayersAdded)+len(d.LayersRemoved) == 0 {
				continue
			}
		}
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(x, y ObjectDiff) int { return cmp.Compare(x.Name, y.Name) })
	return all
}

// missing returns the layers of list that others do not have.
func missing(list, others []Layer) []Layer {
	return slices.DeleteFunc(slices.Clone(list), func(l Layer) bool {
		return slices.ContainsFunc(others, func(o Layer) bool { return o.DiffID == l.DiffID })
	})
}

type imagePair struct{ a, b *Image }

// pairImages finds for each image what became of it: the same one, or else the one of the same tag,
// or else the one of the same repository.
func pairImages(a, b []Image) []imagePair {
	var pairs []imagePair
	taken := map[*Image]bool{}
	for _, alike := range []func(x, y *Image) bool{
		func(x, y *Image) bool { return x.Config == y.Config },
		func(x, y *Image) bool { return common(x.Tags, y.Tags) },
		func(x, y *Image) bool { return common(repositories(x.Tags), repositories(y.Tags)) },
	} {
		for i := range a {
			for j := range b {
				if x, y := &a[i], &b[j]; !taken[x] && !taken[y] && alike(x, y) {
					taken[x], taken[y] = true, true
					pairs = append(pairs, imagePair{x, y})
				}
			}
		}
	}
	for i := range a {
		if !taken[&a[i]] {
			pairs = append(pairs, imagePair{&a[i], nil})
		}
	}
	for i := range b {
		if !taken[&b[i]] {
			pairs = append(pairs, imagePair{nil, &b[i]})
		}
	}
	return pairs
}

func common(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// repositories returns references without their tags.
func repositories(tags []string) []string {
	var all []string
	for _, t := range tags {
		if i := strings.LastIndexByte(t, ':'); i > strings.LastIndexByte(t, '/') {
			t = t[:i]
		}
		all = append(all, t)
	}
	return all
}

func (i *Image) name() string {
	if len(i.Tags) > 0 {
		return i.Tags[0]
	}
	return i.Config
}

// fields is what an image is made to do, and by which names it goes.
func (i *Image) fields() fields {
	raw := parseFields(string(i.RawConfig))
	tags := make([]any, len(i.Tags))
	for n, t := range i.Tags {
		tags[n] = t
	}
	return fields{"Digest": i.Config, "Tags": tags, "OS": i.OS, "Architecture": i.Arch, "Config": config(raw.child("config"))}
}

// TreePair is one part of two snapshots. A tree is nil where the snapshot does not have the part, or
// did not read it.
type TreePair struct {
	Kind string // KindChanges, KindVolume, KindBind
	Name string // of the container or volume, source of the bind
	A, B *Archive
	// InA and InB say that the snapshot has the part, if only on record.
	InA, InB bool
}

// PairTrees returns the parts of two snapshots, each with what became of it, by kind and name.
func PairTrees(a, b *System) []TreePair {
	pairs := map[[2]string]*TreePair{}
	at := func(kind, name string) *TreePair {
		key := [2]string{kind, name}
		if pairs[key] == nil {
			pairs[key] = &TreePair{Kind: kind, Name: name}
		}
		return pairs[key]
	}
	a.eachTree(func(kind, name string, t *Archive) { p := at(kind, name); p.A, p.InA = t, true })
	b.eachTree(func(kind, name string, t *Archive) { p := at(kind, name); p.B, p.InB = t, true })
	order := []string{KindChanges, KindVolume, KindBind}
	keys := slices.SortedFunc(maps.Keys(pairs), func(x, y [2]string) int {
		return cmp.Or(cmp.Compare(slices.Index(order, x[0]), slices.Index(order, y[0])), cmp.Compare(x[1], y[1]))
	})
	list := make([]TreePair, 0, len(keys))
	for _, k := range keys {
		list = append(list, *pairs[k])
	}
	return list
}

func (s *System) eachTree(fn func(kind, name string, t *Archive)) {
	for _, c := range s.Containers {
		fn(KindChanges, c.Name, c.Changes)
	}
	for _, v := range s.Volumes {
		fn(KindVolume, s.volumeKey(v), v.Content)
	}
	for _, b := range s.Binds {
		fn(KindBind, b.Source, b.Content)
	}
}
