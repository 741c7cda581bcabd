package exporter

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Way is a way to read a tree.
type Way string

// The ways, the best first. Of a container's changes each lacks more than the one before.
const (
	WayUpper  Way = "upperdir"  // the upper directory of the overlay, by this process
	WayDir    Way = "directory" // a directory or file of this host
	WayHelper Way = "helper"    // the same directories by a helper container on the engine's host
	WayCommit Way = "commit"    // the layer of a commit that the engine makes
	WayExport Way = "export"    // the engine's tar of the whole file system, compared with the image
)

// lacks says what a way cannot carry.
func (w Way) lacks() []string {
	lacks := []string{"attributes set by chattr"}
	if w.late() {
		lacks = append(lacks, "extended attributes other than file capabilities", "times below a second", "holes of sparse files", "sockets")
	}
	return lacks
}

// TreeKind says what a tree is.
type TreeKind string

// The kinds of trees.
const (
	Changes TreeKind = "container" // what a container wrote on top of its image
	Volume  TreeKind = "volume"
	Bind    TreeKind = "bind"
)

// TreePlan says how one tree is read.
type TreePlan struct {
	Kind      TreeKind
	Name      string // of the container or volume, source of the bind
	Container string // id, for Changes
	Path      string // of a directory or file of the engine's host; empty where Ways have none
	Ways      []Way  // to be tried in this order
	Exclude   []string
	Skip      []string // paths in the tree
}

// Where names the tree as a Problem does.
func (t TreePlan) Where() string { return string(t.Kind) + " " + t.Name }

// Plan says what an export of a system reads and holds still.
type Plan struct {
	System snapshot.System // described, with what is known already of problems and notes; no archives
	Engine snapshot.Engine
	Mode   snapshot.QuiesceMode // None if nothing is held
	Holds  []Hold               // in dependency order
	Hooks  []Hook               // in dependency order
	Trees  []TreePlan
}

// MakePlan looks at the engine and plans the export of a system that Discover found. Nothing is
// changed or held.
func MakePlan(ctx context.Context, engine Describer, sys snapshot.System, o Options) (*Plan, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s, err := look(ctx, engine, sys, o)
	if err != nil {
		return nil, err
	}
	return newPlan(*s, o), nil
}

// newPlan plans from what was seen; it looks at nothing itself.
func newPlan(s survey, o Options) *Plan {
	p := &Plan{System: s.system, Engine: s.facts.Engine, Mode: snapshot.None}
	p.System.Containers = slices.Clone(s.system.Containers)
	p.System.Volumes = slices.Clone(s.system.Volumes)
	p.System.Binds = slices.Clone(s.system.Binds)
	p.System.Problems = slices.Clone(s.system.Problems)
	p.System.Notes = slices.Clone(s.system.Notes)
	for i, c := range p.System.Containers {
		p.planHold(c, s, o)
		p.planHooks(c, o)
		p.planChanges(&p.System.Containers[i], s, o)
	}
	for i := range p.System.Volumes {
		p.planVolume(&p.System.Volumes[i], s, o)
	}
	for i := range p.System.Binds {
		p.planBind(&p.System.Binds[i], s, o)
	}
	return p
}

func (p *Plan) note(where, format string, args ...any) {
	p.System.Notes = append(p.System.Notes, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

func (p *Plan) problem(where, format string, args ...any) {
	p.System.Problems = append(p.System.Problems, snapshot.Problem{Where: where, What: fmt.Sprintf(format, args...)})
}

// inspected is what a hold depends on of a container's configuration.
type inspected struct {
	Config     struct{ StopTimeout *int }
	HostConfig struct{ AutoRemove bool }
}

// defaultGrace is what engines give a container to end by itself, unless it asks for another.
const defaultGrace = 10 * time.Second

func (p *Plan) planHold(c snapshot.Container, s survey, o Options) {
	where := "container " + c.Name
	switch {
	case o.Mode == snapshot.None:
		return
	case c.State == "paused":
		p.note(where, "is paused by somebody and stays so")
		return
	case c.State == "restarting":
		p.note(where, "restarts all the time and cannot be held still")
		return
	case c.State != "running":
		return
	case s.self[c.ID]:
		p.note(where, "runs this program and so is not held still")
		return
	}
	var in inspected
	if err := json.Unmarshal(c.Inspect, &in); err != nil {
		p.problem(where, "its configuration cannot be read: %v", err)
	}
	h := Hold{ID: c.ID, Name: c.Name, Mode: o.Mode, Grace: defaultGrace}
	if labels, _ := parseLabels(c.Labels); labels.stop {
		h.Mode = snapshot.Stop
	}
	if in.Config.StopTimeout != nil {
		h.Grace = time.Duration(*in.Config.StopTimeout) * time.Second
	}
	for _, d := range c.DependsOn {
		if d.Condition == "service_healthy" {
			h.Needs = append(h.Needs, d.Container)
		}
	}
	if h.Mode == snapshot.Stop && in.HostConfig.AutoRemove {
		h.Mode = snapshot.Pause
		p.note(where, "is paused, not stopped: the engine would remove it")
	}
	p.Holds = append(p.Holds, h)
	if p.Mode != snapshot.Pause {
		p.Mode = h.Mode
	}
}

// planChanges plans how the changes of a container are read.
func (p *Plan) planChanges(c *snapshot.Container, s survey, o Options) {
	for _, m := range c.Mounts {
		if m.Type != "volume" && m.Type != "bind" {
			p.note("container "+c.Name, "%s at %s: recorded as configuration, what is in it is not read", m.Type, m.Destination)
		}
	}
	t := TreePlan{Kind: Changes, Name: c.Name, Container: c.ID}
	x := optionExcludes(o.Exclude, c.Name)
	labels, _ := parseLabels(c.Labels)
	for _, pattern := range labels.exclude {
		x.add(pattern, "/", "its label")
	}
	if x.whole != "" {
		p.note(t.Where(), "%s", x.whole)
		return
	}
	u := s.uppers[c.ID]
	switch {
	case u.localErr == nil:
		t.Ways, t.Path = append(t.Ways, WayUpper), u.local
	case u.remoteErr == nil:
		t.Ways, t.Path = append(t.Ways, WayHelper), u.remote
	}
	if s.facts.Containerd {
		t.Ways = append(t.Ways, WayExport)
	} else {
		t.Ways = append(t.Ways, WayCommit, WayExport)
	}
	if u.localErr != nil {
		p.note(t.Where(), "its changes cannot be read directly: %v", u.localErr)
	}
	p.addTree(t, x)
}

// addTree adds a tree, less what is excluded.
func (p *Plan) addTree(t TreePlan, x exclusion) {
	for _, pattern := range x.patterns {
		if _, err := parsePattern(pattern); err != nil {
			p.problem(t.Where(), "%v", err)
			continue
		}
		t.Exclude = append(t.Exclude, pattern)
	}
	if t.Skip = x.skip; len(t.Exclude)+len(t.Skip) > 0 {
		p.note(t.Where(), "left out in it: %s", strings.Join(append(slices.Clone(t.Exclude), t.Skip...), ", "))
	}
	p.Trees = append(p.Trees, t)
}
