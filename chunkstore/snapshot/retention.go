package snapshot

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Unlimited as a count of a Policy keeps one snapshot of every hour, day, ... that has one.
const Unlimited = -1

// Policy says which snapshots of a group stay. Each field that is not zero is a rule, and what any rule
// keeps stays. The rules mean what they mean to restic.
//
// A count keeps the newest snapshot of each of the newest n hours, days, ISO weeks, months or years that
// have one, whatever lies between them; Last keeps the newest n. Where there are fewer than n, the oldest
// snapshot stays too, so that the history that is there does not shrink while it grows to its length.
//
// Within keeps all that is younger than the period, counted back from the newest snapshot; the others like
// it keep one of each hour, day, ... of that time, and the oldest snapshot if it lies in it.
//
// Every rule goes over all snapshots, and once more over the complete ones alone: an incomplete snapshot is
// kept like any other, but takes no complete one's place.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int

	Within, WithinHourly, WithinDaily, WithinWeekly, WithinMonthly, WithinYearly Period

	Tags []string // snapshots with any of these stay
}

// Empty reports whether p has no rule.
func (p Policy) Empty() bool { return len(p.rules(time.Time{}, time.UTC)) == 0 && len(p.Tags) == 0 }

// Decision is what becomes of a snapshot.
type Decision struct {
	Snapshot Summary
	Reasons  []string // why it stays; none: it goes
}

// Stays reports whether the snapshot is kept.
func (d Decision) Stays() bool { return len(d.Reasons) > 0 }

// noRule is why everything stays under an empty policy.
const noRule = "no rule"

// Apply decides on the snapshots of one group, in any order, and returns them newest first. Their time is
// that of the store (Summary.Stored), since a host with a wrong clock must not push out what others stored;
// hours, days, ... are those of loc, and an hour that comes twice when clocks go back is two. A snapshot
// whose time cannot be right stays and takes nobody's place, see Summary.doubt; for that alone now counts.
//
// An empty policy keeps everything. All others keep at least the newest complete snapshot, but for one of
// nothing but tags or of periods that it is too old for: Retention.Plan adds what must never go.
func (p Policy) Apply(group []Summary, now time.Time, loc *time.Location) []Decision {
	list := slices.SortedFunc(slices.Values(group), lastStoredFirst)
	sure := slices.DeleteFunc(slices.Clone(list), func(s Summary) bool { return s.doubt(now) != "" })
	complete := slices.DeleteFunc(slices.Clone(sure), func(s Summary) bool { return !s.good() })
	all, alone := p.reasons(sure, loc), p.reasons(complete, loc)
	decisions := make([]Decision, len(list))
	for i, s := range list {
		decisions[i] = Decision{s, all[s.ID]}
		switch why := s.doubt(now); {
		case p.Empty():
			decisions[i].Reasons = []string{noRule}
		case why != "":
			decisions[i].Reasons = []string{why}
		case len(all[s.ID]) == 0:
			decisions[i].Reasons = ofComplete(alone[s.ID])
		}
	}
	return decisions
}

// ofComplete tells that reasons count complete snapshots only.
func ofComplete(reasons []string) []string {
	var list []string
	for _, r := range reasons {
		list = append(list, "complete "+r)
	}
	return list
}

// lastStoredFirst orders by the store's time, and by id where times are equal, so that a list has one order.
func lastStoredFirst(a, b Summary) int {
	return cmp.Or(b.Stored.Compare(a.Stored), cmp.Compare(a.ID, b.ID))
}

// clockTolerance is how far clocks may be apart, zones set wrong included, before a time is doubted.
const clockTolerance = 24 * time.Hour

// doubt returns why the store's time of s cannot be trusted, or "". In a store that was copied all snapshots
// are of one day, and a policy of days would keep one of them; a clock that once ran ahead leaves a snapshot
// that would be the newest for years. The host's clock can make a snapshot stay, never go.
func (s Summary) doubt(now time.Time) string {
	late := s.Stored.Sub(s.Time)
	switch {
	case s.Stored.Sub(now) > clockTolerance:
		return "stored in the future"
	case late < -clockTolerance, late-max(s.Took, 0) > clockTolerance:
		return "host and store disagree on its time"
	}
	return ""
}

// reasons returns, by id, why the snapshots of list stay, which is sorted newest first.
func (p Policy) reasons(list []Summary, loc *time.Location) map[string][]string {
	why := map[string][]string{}
	if len(list) == 0 {
		return why
	}
	for _, r := range p.rules(list[0].Stored, loc) {
		r.walk(list, func(s Summary, reason string) { why[s.ID] = append(why[s.ID], reason) })
	}
	for _, s := range list {
		for _, t := range p.Tags {
			if slices.Contains(s.Tags, t) {
				why[s.ID] = append(why[s.ID], "tag "+t)
			}
		}
	}
	return why
}

// rule keeps the newest snapshot of each stretch of time.
type rule struct {
	name    string
	count   int       // stretches; below zero: all of them
	after   time.Time // only what was stored later
	within  string    // the period that after stands for; empty: the rule counts
	stretch func(Summary) string
}

// rules returns the rules of p for snapshots of which the newest was stored at newest.
func (p Policy) rules(newest time.Time, loc *time.Location) []rule {
	in := func(layout string) func(Summary) string {
		return func(s Summary) string { return s.Stored.In(loc).Format(layout) }
	}
	isoWeek := func(s Summary) string {
		year, week := s.Stored.In(loc).ISOWeek()
		return fmt.Sprintf("%d-W%02d", year, week)
	}
	var list []rule
	for _, r := range []struct {
		name, within string
		count        int
		period       Period
		stretch      func(Summary) string
	}{
		{"last", "within", p.Last, p.Within, func(s Summary) string { return s.ID }},
		{"hourly", "hourly within", p.Hourly, p.WithinHourly, in("2006-01-02 15 -07:00")},
		{"daily", "daily within", p.Daily, p.WithinDaily, in(time.DateOnly)},
		{"weekly", "weekly within", p.Weekly, p.WithinWeekly, isoWeek},
		{"monthly", "monthly within", p.Monthly, p.WithinMonthly, in("2006-01")},
		{"yearly", "yearly within", p.Yearly, p.WithinYearly, in("2006")},
	} {
		if r.count != 0 {
			list = append(list, rule{name: r.name, count: r.count, stretch: r.stretch})
		}
		if r.period != (Period{}) {
			list = append(list, rule{r.within, Unlimited, r.period.before(newest.In(loc)), r.period.String(), r.stretch})
		}
	}
	return list
}

// walk calls keep with each snapshot that the rule keeps, and why. list is sorted newest first.
func (r rule) walk(list []Summary, keep func(Summary, string)) {
	n, last := 0, ""
	for i, s := range list {
		if n == r.count || r.within != "" && !s.Stored.After(r.after) {
			return
		}
		stretch := r.stretch(s)
		again := n > 0 && stretch == last
		if again && i < len(list)-1 {
			continue
		}
		n, last = n+1, stretch
		keep(s, r.reason(n, again))
	}
}

// reason names the n-th that the rule keeps; again: it stays as the oldest of all.
func (r rule) reason(n int, again bool) string {
	text := fmt.Sprintf("%s %d", r.name, n)
	if r.within != "" {
		text = r.name + " " + r.within
	}
	if again {
		text += " (oldest)"
	}
	return text
}

// Retention is a policy and what it is for. The zero Retention removes nothing.
type Retention struct {
	Policy    Policy
	By        Grouping
	Filter    Filter // the policy sees only these snapshots
	AllowLast bool   // also the newest snapshots of a system may go
}

// Plan decides on those of all snapshots that the filter keeps, which need no order. Whatever the policy
// says, of each system the newest snapshot stays, and the newest complete one, unless AllowLast is set.
// These are found among all snapshots: neither the filter nor the grouping hides them.
func (r Retention) Plan(all []Summary, now time.Time, loc *time.Location) []GroupPlan {
	never := map[string]string{}
	if !r.AllowLast {
		never = newestOf(all, now)
	}
	var plans []GroupPlan
	for _, g := range r.By.Split(r.Filter.Apply(all)) {
		plan := GroupPlan{g, r.Policy.Apply(g.Snapshots, now, loc)}
		for i, d := range plan.Decisions {
			if why, ok := never[d.Snapshot.ID]; ok && !d.Stays() {
				plan.Decisions[i].Reasons = []string{why}
			}
		}
		plans = append(plans, plan)
	}
	return plans
}

// newestOf returns the ids of each system's newest snapshots, one of all and one of the complete, with what
// they are. Those whose time is doubted are not asked: no policy removes them anyway.
func newestOf(all []Summary, now time.Time) map[string]string {
	why := map[string]string{}
	seen, seenComplete := map[string]bool{}, map[string]bool{}
	for _, s := range slices.SortedFunc(slices.Values(all), lastStoredFirst) {
		if s.doubt(now) != "" {
			continue
		}
		if s.Stray {
			continue // it is never what is restored
		}
		if !seen[s.System] {
			seen[s.System] = true
			why[s.ID] = "newest of " + s.System
		}
		if s.good() && !seenComplete[s.System] {
			seenComplete[s.System] = true
			why[s.ID] = "newest complete of " + s.System
		}
	}
	return why
}

// good reports whether s is what a restore of its system would begin with if it were the newest.
func (s Summary) good() bool { return s.Complete && !s.Stray }

// LastError says that without certain snapshots a system would have none to restore.
type LastError struct {
	System   string
	Complete bool // incomplete ones would be left
}

func (e *LastError) Error() string {
	if e.Complete {
		return fmt.Sprintf("system %s: no complete snapshot would be left", e.System)
	}
	return fmt.Sprintf("system %s: no snapshot would be left", e.System)
}

// CheckLast returns a *LastError if some system, once the snapshots gone are out of all, had no snapshot any
// more, or no complete one although it has one now.
func CheckLast(all, gone []Summary) error {
	leaves := map[string]bool{}
	for _, s := range gone {
		leaves[s.ID] = true
	}
	left, leftComplete := map[string]bool{}, map[string]bool{}
	for _, s := range all {
		if !leaves[s.ID] {
			left[s.System] = true
			leftComplete[s.System] = leftComplete[s.System] || s.good()
		}
	}
	for _, s := range gone {
		switch {
		case !left[s.System]:
			return &LastError{System: s.System}
		case s.good() && !leftComplete[s.System]:
			return &LastError{System: s.System, Complete: true}
		}
	}
	return nil
}

// Period is a length of time by the calendar: 1m is to the same day of the month before.
type Period struct{ Years, Months, Days, Hours int }

// maxPeriod bounds each number of a period, so that no sum of them overflows.
const maxPeriod = 100_000

// ParsePeriod reads a period such as 1y5m7d2h: years, months, days and hours, each at most once, any order.
func ParsePeriod(s string) (Period, error) {
	var p Period
	bad := fmt.Errorf("period %q: want years, months, days and hours, as in 1y5m7d2h", s)
	fields := map[byte]*int{'y': &p.Years, 'm': &p.Months, 'd': &p.Days, 'h': &p.Hours}
	rest := s
	for rest != "" {
		at := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if at <= 0 || fields[rest[at]] == nil {
			return Period{}, bad
		}
		n, err := parsePeriodNumber(rest[:at])
		if err != nil {
			return Period{}, fmt.Errorf("period %q: %w", s, err)
		}
		*fields[rest[at]] = n
		delete(fields, rest[at])
		rest = rest[at+1:]
	}
	if p == (Period{}) {
		return Period{}, bad
	}
	return p, nil
}

func parsePeriodNumber(digits string) (int, error) {
	n := 0
	for _, d := range digits {
		if n = n*10 + int(d-'0'); n > maxPeriod {
			return 0, fmt.Errorf("%s is more than %d", digits, maxPeriod)
		}
	}
	return n, nil
}

// String returns the period as ParsePeriod reads it.
func (p Period) String() string {
	var b strings.Builder
	for _, f := range []struct {
		n    int
		unit string
	}{{p.Years, "y"}, {p.Months, "m"}, {p.Days, "d"}, {p.Hours, "h"}} {
		if f.n != 0 {
			fmt.Fprintf(&b, "%d%s", f.n, f.unit)
		}
	}
	return b.String()
}

// before returns the time that lies p before t, by the calendar of t's location.
func (p Period) before(t time.Time) time.Time {
	return t.AddDate(-p.Years, -p.Months, -p.Days).Add(-time.Duration(p.Hours) * time.Hour)
}
