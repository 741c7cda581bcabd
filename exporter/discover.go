package exporter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// Lister lists the containers of an engine.
type Lister interface {
	Containers(ctx context.Context) ([]snapshot.Container, error)
}

// UnknownSystemError says that no container answers to a name.
type UnknownSystemError struct {
	Name string
	Near []string // names of systems and containers that are spelled alike, nearest first
}

func (e *UnknownSystemError) Error() string {
	if len(e.Near) > 0 {
		return fmt.Sprintf("find system %q: no such system or container; there is %s", e.Name, strings.Join(e.Near, ", "))
	}
	return fmt.Sprintf("find system %q: no such system or container", e.Name)
}

// Discover finds systems among the containers of an engine, running or not. A name is, in this
// order,
//
//   - a system: the containers whose label io.github.hakobune-dr.system says so, and those of the
//     Compose project of that name that have no such label;
//   - a container's name, or at least 4 digits of the beginning of its id: a system of that one
//     container, under the container's name;
//   - NAME=CONTAINER,CONTAINER: a system of the listed containers.
//
// With all, every container belongs to a system: by label, by Compose project, or one of its own.
// Containers with the label io.github.hakobune-dr.enable=false, containers that "compose run" made
// for one command, those that a restore moved aside, and our own helpers belong to a system only where they are named themselves;
// the Notes of the system say which were left out.
//
// The systems come with Name, Source and Containers (in dependency order), in the order of names, or
// sorted with all. A name that nothing answers to is an *UnknownSystemError.
func Discover(ctx context.Context, engine Lister, names []string, all bool) ([]snapshot.System, error) {
	if len(names) == 0 && !all {
		return nil, fmt.Errorf("find systems: none was named")
	}
	containers, err := engine.Containers(ctx)
	if err != nil {
		return nil, fmt.Errorf("find systems: %w", err)
	}
	return find(containers, names, all)
}

// find is Discover over a list of containers.
func find(containers []snapshot.Container, names []string, all bool) ([]snapshot.System, error) {
	containers = slices.DeleteFunc(slices.Clone(containers), isHelper)
	systems := group(containers)
	var found []snapshot.System
	if all {
		for _, name := range slices.Sorted(maps.Keys(systems)) {
			if sys := systems[name]; len(sys.Containers) > 0 {
				found = append(found, finish(*sys))
			}
		}
	}
	for _, name := range names {
		sys, err := resolve(containers, systems, name)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(found, func(o snapshot.System) bool { return o.Name == sys.Name }) {
			continue
		}
		if len(sys.Containers) == 0 {
			return nil, fmt.Errorf("find system %q: %s is %s", name, sys.Notes[0].Where, sys.Notes[0].What)
		}
		found = append(found, finish(sys))
	}
	return found, nil
}

func isHelper(c snapshot.Container) bool {
	_, helper := c.Labels[labelHelper]
	_, drill := c.Labels[labelDrill]
	return helper || drill
}

// group sorts containers into their systems.
func group(containers []snapshot.Container) map[string]*snapshot.System {
	systems := map[string]*snapshot.System{}
	for _, c := range containers {
		name, source := systemOf(c)
		sys := systems[name]
		if sys == nil {
			sys = &snapshot.System{Name: name, Source: source}
			systems[name] = sys
		}
		if source == snapshot.ByLabel {
			sys.Source = source
		}
		s, _ := parseLabels(c.Labels)
		switch {
		case s.disabled:
			sys.Notes = append(sys.Notes, leftOut(c, "left out by its label "+labelEnable))
		case strings.EqualFold(c.Labels[labelOneOff], "true"):
			sys.Notes = append(sys.Notes, leftOut(c, `left out: made by "compose run" for one command`))
		case snapshot.IsAside(c.Name):
			sys.Notes = append(sys.Notes, leftOut(c, "left out: a restore moved it aside"))
		default:
			sys.Containers = append(sys.Containers, c)
		}
	}
	return systems
}

func leftOut(c snapshot.Container, why string) snapshot.Problem {
	return snapshot.Problem{Where: "container " + c.Name, What: why}
}

// resolve finds the system that name means.
func resolve(containers []snapshot.Container, systems map[string]*snapshot.System, name string) (snapshot.System, error) {
	if list, members, ok := strings.Cut(name, "="); ok {
		return listed(containers, systems, list, splitList(members))
	}
	if sys := systems[name]; sys != nil && (sys.Source != snapshot.ByContainer || len(sys.Containers) > 0) {
		return *sys, nil
	}
	c, err := container(containers, systems, name)
	if err != nil {
		return snapshot.System{}, err
	}
	return snapshot.System{Name: c.Name, Source: snapshot.ByContainer, Containers: []snapshot.Container{c}}, nil
}

// listed makes a system of the named containers.
func listed(containers []snapshot.Container, systems map[string]*snapshot.System, name string, members []string) (snapshot.System, error) {
	if !systemName.MatchString(name) {
		return snapshot.System{}, fmt.Errorf("find system %q: not a name (letters, digits, and _ . - behind the first)", name)
	}
	if len(members) == 0 {
		return snapshot.System{}, fmt.Errorf("find system %q: no containers behind the =", name)
	}
	sys := snapshot.System{Name: name, Source: snapshot.ByContainer}
	for _, m := range members {
		c, err := container(containers, systems, m)
		if err != nil {
			return snapshot.System{}, err
		}
		if !slices.ContainsFunc(sys.Containers, func(o snapshot.Container) bool { return o.ID == c.ID }) {
			sys.Containers = append(sys.Containers, c)
		}
	}
	return sys, nil
}

// container finds a container by name, or by the beginning of its id.
func container(containers []snapshot.Container, systems map[string]*snapshot.System, name string) (snapshot.Container, error) {
	var byID []snapshot.Container
	known := slices.Collect(maps.Keys(systems))
	for _, c := range containers {
		if c.Name == name {
			return c, nil
		}
		if len(name) >= 4 && strings.HasPrefix(c.ID, name) {
			byID = append(byID, c)
		}
		known = append(known, c.Name)
	}
	switch len(byID) {
	case 0:
		return snapshot.Container{}, &UnknownSystemError{Name: name, Near: snapshot.Nearest(name, known)}
	case 1:
		return byID[0], nil
	default:
		return snapshot.Container{}, fmt.Errorf("find container %q: the ids of %s and %s begin so", name, byID[0].Name, byID[1].Name)
	}
}

// finish orders the containers of a system and notes what is odd about it.
func finish(sys snapshot.System) snapshot.System {
	var cycles [][]string
	sys.Containers, cycles = order(sys.Containers)
	for _, cycle := range cycles {
		sys.Notes = append(sys.Notes, snapshot.Problem{
			Where: "system " + sys.Name,
			What:  "its containers depend on each other in a circle: " + strings.Join(append(cycle, cycle[0]), " -> "),
		})
	}
	for _, c := range sys.Containers {
		_, complaints := parseLabels(c.Labels)
		for _, what := range complaints {
			sys.Problems = append(sys.Problems, snapshot.Problem{Where: "container " + c.Name, What: what})
		}
	}
	return sys
}
