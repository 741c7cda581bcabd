package importer

import (
	"fmt"
	"maps"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Kind says what a step or a clash is about.
type Kind string

// The kinds of things in a plan, in the order in which a restore makes them.
const (
	KindImage     Kind = "image"
	KindChanges   Kind = "changes" // a container's changes, as an image of their own
	KindVolume    Kind = "volume"
	KindBind      Kind = "bind"
	KindNetwork   Kind = "network"
	KindContainer Kind = "container"
	KindPort      Kind = "port"
)

// Action says what happens to a thing.
type Action string

// The actions of a plan.
const (
	Create  Action = "create"
	Reuse   Action = "reuse"   // it is there, and is used as it is
	Replace Action = "replace" // what is there is moved aside until the new system is healthy
	Skip    Action = "skip"    // nothing is done
	Refuse  Action = "refuse"  // it clashes
)

// Step is one line of a plan.
type Step struct {
	Action Action `json:"action"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`         // in the snapshot
	As     string `json:"as,omitempty"` // on the target, where it differs
	Bytes  int64  `json:"bytes"`        // content to be written
	Detail string `json:"detail,omitempty"`
}

// Plan is what a restore is going to do. It is made by NewPlan and not changed afterwards.
type Plan struct {
	System   string             `json:"system"` // the name it will have
	Snapshot snapshot.Summary   `json:"snapshot"`
	Steps    []Step             `json:"steps"`
	Notes    []snapshot.Problem `json:"notes,omitempty"`   // what will be other than it was
	Clashes  []Clash            `json:"clashes,omitempty"` // what stands against it

	images     []imageJob
	changes    []changesJob
	volumes    []volumeJob
	binds      []bindJob
	networks   []networkJob
	containers []containerJob
	hostPorts  []hostPort // that the started containers will publish
}

// imageJob is one image and how the target is to get it.
type imageJob struct {
	oci    *ociImage
	have   string            // the id under which the target lists it; empty: it is sent
	known  int               // first layers that the target has
	tags   []string          // references it is to have and has not
	moved  map[string]string // of tags: those that name another image now, and its id
	action Action
}

// changesJob is the image that a container's changes make of its image.
type changesJob struct {
	container *snapshot.Container
	base      *ociImage
	known     int // first layers of base that the target has
	ref       string
}

type volumeJob struct {
	volume snapshot.Volume
	name   string
	labels map[string]string
	action Action
}

type bindJob struct {
	bind   snapshot.Bind
	path   string // where it goes
	state  PathState
	action Action
}

type networkJob struct {
	network snapshot.Network
	name    string
	labels  map[string]string
	action  Action
}

type containerJob struct {
	container *snapshot.Container
	action    Action
	old       snapshot.Existing // what has the name now, for Replace and Skip
	place     snapshot.Placement
	changes   string // reference of the image with its changes; empty: it runs its image as it is
	start     bool
	ports     []int // of the host, that it publishes by TCP
}

// planner holds what the parts of NewPlan share.
type planner struct {
	*Plan
	snap   *snapshot.Snapshot
	sys    *snapshot.System
	target Target
	opts   Options
	sel    selection
	names  renamer
	oci    map[string]*ociImage // by config digest
	chains map[string]bool      // of layers that the target has
}

// NewPlan decides what a restore of snap to target does. It is a pure function. A plan that clashes
// with the target is returned together with a *ClashError; options that make no sense are a
// *UsageError and no plan.
func NewPlan(snap *snapshot.Snapshot, target Target, opts Options) (*Plan, error) {
	if err := opts.validate(); err != nil {
		return nil, err
	}
	sel, err := opts.selection(&snap.System)
	if err != nil {
		return nil, err
	}
	p := &planner{
		Plan:   &Plan{System: snap.System.Name, Snapshot: snap.Summary},
		snap:   snap,
		sys:    &snap.System,
		target: target,
		opts:   opts,
		sel:    sel,
		names:  renamer{system: snap.System.Name, as: opts.As},
		oci:    make(map[string]*ociImage),
		chains: layerChains(target.Images),
	}
	if opts.As != "" {
		p.System = opts.As
	}
	for _, img := range snap.System.Images {
		if p.oci[img.Config], err = newOCIImage(img); err != nil {
			return nil, fmt.Errorf("plan of %s: %w", snap.System.Name, err)
		}
	}
	p.planContainers()
	p.planImages()
	p.planVolumes()
	p.planBinds()
	p.planNetworks()
	p.planPorts()
	p.notes()
	p.steps()
	if len(p.Clashes) > 0 {
		return p.Plan, &ClashError{Clashes: slices.Clone(p.Clashes)}
	}
	return p.Plan, nil
}

func (p *planner) clash(kind Kind, name, hint, why string, args ...any) {
	p.Clashes = append(p.Clashes, Clash{Kind: kind, Name: name, Why: fmt.Sprintf(why, args...), Hint: hint})
}

func (p *planner) note(where, what string, args ...any) {
	p.Notes = append(p.Notes, snapshot.Problem{Where: where, What: fmt.Sprintf(what, args...)})
}

// notes tells which remaps meet nothing, and what the snapshot lacks.
func (p *planner) notes() {
	for _, old := range slices.Sorted(maps.Keys(p.opts.Ports)) {
		if !p.anyPort(old) {
			p.note("port "+old, "is published by no container of the system")
		}
	}
	for _, old := range slices.Sorted(maps.Keys(p.opts.Binds)) {
		if !slices.ContainsFunc(p.sys.Binds, func(b snapshot.Bind) bool { _, ok := under(b.Source, old); return ok }) {
			p.note("bind "+old, "is no bind mount of the system")
		}
	}
	for _, old := range slices.Sorted(maps.Keys(p.opts.Networks)) {
		if !slices.ContainsFunc(p.sys.Networks, func(n snapshot.Network) bool { return n.Name == old }) {
			p.note("network "+old, "is no network of the system")
		}
	}
	if p.target.Facts.UserNS && (len(p.volumes) > 0 || len(p.binds) > 0) {
		p.note("engine", "maps the users of containers to others on its host: owners of files in volumes and binds are those of the snapshot, unmapped")
	}
	for _, problem := range p.sys.Problems {
		p.note(problem.Where, "not in the snapshot: %s", problem.What)
	}
}

// wanted lists the containers that are meant by the options, whether or not they are made.
func (p *planner) wanted() []*snapshot.Container {
	var cs []*snapshot.Container
	for i := range p.sys.Containers {
		if c := &p.sys.Containers[i]; p.sel.container(c.Name) {
			cs = append(cs, c)
		}
	}
	return cs
}

// user returns the first wanted container for which uses is true.
func (p *planner) user(uses func(*snapshot.Container) bool) *snapshot.Container {
	for _, c := range p.wanted() {
		if uses(c) {
			return c
		}
	}
	return nil
}

// made reports whether the plan makes containers that need what they use to be there.
func (p *planner) made(uses func(*snapshot.Container) bool) bool {
	return slices.ContainsFunc(p.containers, func(j containerJob) bool { return j.action != Skip && uses(j.container) })
}
