package exporter

import (
	"cmp"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// order sorts containers so that what others depend on comes first, and by name where nothing
// depends. Dependencies on what is not in the list do not count. Each cycle is returned as the names
// along it; the order then ignores the dependency that closes it.
func order(list []snapshot.Container) (sorted []snapshot.Container, cycles [][]string) {
	byName := make(map[string]snapshot.Container, len(list))
	for _, c := range list {
		byName[c.Name] = c
	}
	var path []string // from a container down its dependencies to the one being visited
	done := map[string]bool{}
	var visit func(snapshot.Container)
	visit = func(c snapshot.Container) {
		if done[c.Name] {
			return
		}
		if at := slices.Index(path, c.Name); at >= 0 {
			cycles = append(cycles, slices.Clone(path[at:]))
			return
		}
		path = append(path, c.Name)
		for _, name := range dependencies(c) {
			if d, ok := byName[name]; ok && name != c.Name {
				visit(d)
			}
		}
		path = path[:len(path)-1]
		done[c.Name] = true
		sorted = append(sorted, c)
	}
	for _, c := range slices.SortedFunc(slices.Values(list), func(a, b snapshot.Container) int { return cmp.Compare(a.Name, b.Name) }) {
		visit(c)
	}
	return sorted, cycles
}

// dependencies returns the names that c depends on, sorted.
func dependencies(c snapshot.Container) []string {
	names := make([]string, len(c.DependsOn))
	for i, d := range c.DependsOn {
		names[i] = d.Container
	}
	slices.Sort(names)
	return names
}
