package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Grouping says which snapshots a policy looks at together: those that agree in all that it names. The zero
// Grouping makes one group of all.
type Grouping struct{ System, Host, Tag bool }

// ParseGrouping reads a list of system, host and tag with commas between them, or none.
func ParseGrouping(s string) (Grouping, error) {
	var g Grouping
	if s == "none" {
		return g, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		switch part {
		case "system":
			g.System = true
		case "host":
			g.Host = true
		case "tag":
			g.Tag = true
		default:
			return Grouping{}, fmt.Errorf("group by %q: want system, host, tag, several of them with commas, or none", s)
		}
	}
	return g, nil
}

// Group is a set of snapshots that agree in what their grouping names. What it does not name is empty.
type Group struct {
	System    string    `json:"system,omitempty"`
	Host      string    `json:"host,omitempty"`
	Tags      []string  `json:"tags,omitempty"` // all their tags, sorted
	Snapshots []Summary `json:"-"`
}

// GroupPlan is what a Retention makes of a group.
type GroupPlan struct {
	Group
	Decisions []Decision // newest first
}

// Split returns the groups of list, by system, host and tags; each keeps the order of list.
func (g Grouping) Split(list []Summary) []Group {
	var groups []Group
	for _, s := range list {
		key := g.key(s)
		at, found := slices.BinarySearchFunc(groups, key, compareGroups)
		if !found {
			groups = slices.Insert(groups, at, key)
		}
		groups[at].Snapshots = append(groups[at].Snapshots, s)
	}
	return groups
}

// key returns the group of s, without snapshots.
func (g Grouping) key(s Summary) Group {
	var k Group
	if g.System {
		k.System = s.System
	}
	if g.Host {
		k.Host = s.Host
	}
	if g.Tag {
		k.Tags = slices.Compact(slices.Sorted(slices.Values(s.Tags)))
	}
	return k
}

func compareGroups(a, b Group) int {
	return cmp.Or(cmp.Compare(a.System, b.System), cmp.Compare(a.Host, b.Host), slices.Compare(a.Tags, b.Tags))
}
