package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/xrash/smetrics"
)

// Latest is the selector of the newest snapshot.
const Latest = "latest"

// minPrefix is the least number of hex digits that name a snapshot: with fewer, the short name of a
// system ("a", "db") would be the beginning of some id sooner or later.
const minPrefix = 4

// Filter narrows a list of snapshots. The zero Filter keeps all.
type Filter struct {
	System string
	Host   string
	Tags   []string // all of them must be there
}

// Match reports whether f keeps s.
func (f Filter) Match(s Summary) bool {
	if f.System != "" && f.System != s.System || f.Host != "" && f.Host != s.Host {
		return false
	}
	for _, t := range f.Tags {
		if !slices.Contains(s.Tags, t) {
			return false
		}
	}
	return true
}

// Apply returns those of list that f keeps, in the same order.
func (f Filter) Apply(list []Summary) []Summary {
	var kept []Summary
	for _, s := range list {
		if f.Match(s) {
			kept = append(kept, s)
		}
	}
	return kept
}

// Selection is what a selector names: a snapshot, and perhaps a part of it and a path inside.
type Selection struct {
	Summary Summary
	Part    string // name of a container or volume, source of a bind; empty: the whole snapshot
	Path    string // inside the part, without leading slash; empty: its root
}

// UnknownError says that a selector names no snapshot.
type UnknownError struct {
	Selector string
	Near     []string // names of systems that are spelled alike, nearest first
	Empty    bool     // there is no snapshot to choose from, under the filter
}

func (e *UnknownError) Error() string {
	switch {
	case e.Empty:
		return fmt.Sprintf("select snapshot %q: there are no snapshots", e.Selector)
	case len(e.Near) > 0:
		return fmt.Sprintf("select snapshot %q: no such snapshot; there is %s", e.Selector, strings.Join(e.Near, ", "))
	default:
		return fmt.Sprintf("select snapshot %q: no such snapshot", e.Selector)
	}
}

// AmbiguousError says that a selector names several snapshots, and which.
type AmbiguousError struct {
	Selector   string
	Candidates []Summary // newest first
}

func (e *AmbiguousError) Error() string {
	names := make([]string, len(e.Candidates))
	for i, s := range e.Candidates {
		names[i] = fmt.Sprintf("%s (%s, %s)", s.ID, s.System, s.Time.Format(time.RFC3339))
	}
	return fmt.Sprintf("select snapshot %q: several match: %s", e.Selector, strings.Join(names, "; "))
}

// Select finds the one snapshot of list, in any order, that selector names among those that f
// keeps. A selector is one of
//
//	1f0c9a52            an id, or at least 4 digits of its beginning
//	SYSTEM              the newest snapshot of that system
//	SYSTEM@2026-11-20   the newest up to the end of that day, minute (2026-11-20T15:04) or second
//	latest              the newest of all
//
// and each may be followed by :PART or :PART/PATH (a bind's part is its source, which begins with a
// slash, and has no path). Dates without a zone are in loc. Newest goes by Summary.Time, and
// passes over strays.
//
// It returns an *UnknownError or an *AmbiguousError where not exactly one matches.
func Select(list []Summary, selector string, f Filter, loc *time.Location) (Selection, error) {
	list = f.Apply(list)
	slices.SortStableFunc(list, newestFirst)
	if len(list) == 0 {
		return Selection{}, &UnknownError{Selector: selector, Empty: true}
	}
	name, until, part, err := splitSelector(selector, loc)
	if err != nil {
		return Selection{}, err
	}
	found := match(list, name, until)
	switch len(found) {
	case 0:
		return Selection{}, unknown(list, selector, name, until)
	case 1:
		s := Selection{Summary: found[0], Part: part}
		if !strings.HasPrefix(part, "/") {
			s.Part, s.Path, _ = strings.Cut(part, "/")
		}
		return s, nil
	default:
		return Selection{}, &AmbiguousError{Selector: selector, Candidates: found}
	}
}

// newestFirst orders by time, and by id where times are equal, so that a list has one order.
func newestFirst(a, b Summary) int {
	return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID))
}

// match returns what name may mean: at most one snapshot as the newest of a system, and any number
// by id.
func match(list []Summary, name string, until time.Time) []Summary {
	var found []Summary
	for _, s := range list {
		if !until.IsZero() && !s.Time.Before(until) {
			continue
		}
		if (s.System == name || name == Latest) && !s.Stray {
			found = append(found, s)
			break
		}
	}
	if !until.IsZero() || len(name) < minPrefix {
		return found
	}
	for _, s := range list {
		if strings.HasPrefix(s.ID, strings.ToLower(name)) && (len(found) == 0 || found[0].ID != s.ID) {
			found = append(found, s)
		}
	}
	return found
}

func unknown(list []Summary, selector, name string, until time.Time) error {
	var systems []string
	for _, s := range list {
		if s.System == name { // then it is the date that is before the first of them
			return fmt.Errorf("%w before %s", &UnknownError{Selector: selector}, until.Format(time.RFC3339))
		}
		systems = append(systems, s.System)
	}
	return &UnknownError{Selector: selector, Near: Nearest(name, systems)}
}

// splitSelector takes a selector apart: a name, the first moment that is too late (zero: none), and
// what follows the colon.
func splitSelector(s string, loc *time.Location) (name string, until time.Time, part string, err error) {
	name, date, dated := strings.Cut(s, "@")
	if at := strings.IndexByte(s, ':'); !dated || at >= 0 && at < len(name) {
		name, part, _ = strings.Cut(s, ":") // an @ behind the colon belongs to the part
		return name, time.Time{}, part, nil
	}
	// A time of day holds colons too: the longest beginning that is a date is the date.
	for end := len(date); end > 0; end = strings.LastIndexByte(date[:end], ':') {
		if until, ok := endOf(date[:end], loc); ok {
			return name, until, strings.TrimPrefix(date[end:], ":"), nil
		}
	}
	return "", time.Time{}, "", fmt.Errorf("select snapshot %q: %q is no date; write it as 2026-11-20 or 2026-11-20T15:04", s, date)
}

// endOf returns the first moment after the day, minute or second that date names.
func endOf(date string, loc *time.Location) (time.Time, bool) {
	for _, f := range []struct {
		layout string
		end    func(time.Time) time.Time
	}{
		{time.DateOnly, func(t time.Time) time.Time { return t.AddDate(0, 0, 1) }},
		{"2006-01-02T15:04", func(t time.Time) time.Time { return t.Add(time.Minute) }},
		{"2006-01-02 15:04", func(t time.Time) time.Time { return t.Add(time.Minute) }},
		{"2006-01-02T15:04:05", func(t time.Time) time.Time { return t.Add(time.Second) }},
		{time.DateTime, func(t time.Time) time.Time { return t.Add(time.Second) }},
		{time.RFC3339, func(t time.Time) time.Time { return t.Add(time.Second) }},
	} {
		if t, err := time.ParseInLocation(f.layout, date, loc); err == nil {
			return f.end(t), true
		}
	}
	return time.Time{}, false
}

// Nearest returns up to three of the known names that someone who typed name may have meant: those
// that hold it or that it holds, and those a few edits away; nearest first.
func Nearest(name string, known []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	lower := strings.ToLower(name)
	var near []candidate
	for _, k := range slices.Compact(slices.Sorted(slices.Values(known))) {
		l := strings.ToLower(k)
		d := smetrics.WagnerFischer(lower, l, 1, 1, 1)
		if d <= slips(max(len(l), len(lower))) || len(lower) >= 3 && (strings.Contains(l, lower) || strings.Contains(lower, l)) {
			near = append(near, candidate{k, d})
		}
	}
	slices.SortStableFunc(near, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) })
	var names []string
	for _, c := range near[:min(3, len(near))] {
		names = append(names, c.name)
	}
	return names
}

// slips returns how many edits a name of n letters bears and is still that name: two for a swap of
// neighbours in a short one, a third of a long one.
func slips(n int) int { return max(n/3, min(2, n/2)) }
