package snapshot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// Labels of containers that say what is wanted of their system: the least of all counts.
const (
	labelRPO = "io.github.hakobune-dr.rpo" // how old the newest good snapshot may be: "24h", "1d"
	labelRTO = "io.github.hakobune-dr.rto" // how long it may take until the system runs elsewhere
)

// Status is how a system stands against what is wanted of it.
type Status struct {
	System   string        `json:"system"`
	Owner    *Term         `json:"owner,omitempty"`
	Snapshot string        `json:"snapshot,omitempty"` // id of the newest complete one that is no stray
	Time     time.Time     `json:"time,omitzero"`      // of it
	Host     string        `json:"host,omitempty"`     // that made it
	Age      time.Duration `json:"age,omitempty"`
	RPO      time.Duration `json:"rpo,omitempty"` // wanted; 0: nothing is
	RTO      time.Duration `json:"rto,omitempty"` // wanted; 0: nothing is
	Drill    *Evidence     `json:"drill,omitempty"`
	Failover *Evidence     `json:"failover,omitempty"`
	Missed   []string      `json:"missed,omitempty"` // what is wanted and is not so
}

// Evidence is what a record tells of the last time that a system was brought up elsewhere.
type Evidence struct {
	Time   time.Time     `json:"time"` // when it began
	RTO    time.Duration `json:"rto,omitempty"`
	Passed bool          `json:"passed"`
	Host   string        `json:"host,omitempty"`
}

// evidenceRecord is what the records of drills and failovers have in common.
type evidenceRecord struct {
	System  string        `json:"system"`
	Host    string        `json:"host"`
	Started time.Time     `json:"started"`
	RTO     time.Duration `json:"rto"`
	Passed  *bool         `json:"passed"` // of a failover: absent, for there is a record only of one that went well
}

// Statuses tells how all systems of the repository stand at now, by name. A record that cannot be read counts for
// nothing and is added to Damaged.
func (c *Catalog) Statuses(ctx context.Context, now time.Time) ([]Status, error) {
	byName := map[string]*Status{}
	var names []string
	for _, s := range c.Snapshots { // the newest first
		st := byName[s.System]
		if st == nil {
			st = &Status{System: s.System, Owner: c.Owner(s.System)}
			byName[s.System], names = st, append(names, s.System)
		}
		if st.Snapshot == "" && s.good() {
			st.Snapshot, st.Time, st.Host, st.Age = s.ID, s.Time, s.Host, now.Sub(s.Time)
			if err := c.wanted(ctx, st, s); err != nil {
				return nil, err
			}
		}
	}
	if err := c.evidence(ctx, byName); err != nil {
		return nil, err
	}
	slices.Sort(names)
	list := make([]Status, 0, len(names))
	for _, name := range names {
		byName[name].judge()
		list = append(list, *byName[name])
	}
	return list, nil
}

// wanted reads the labels of a system as it was in its newest good snapshot.
func (c *Catalog) wanted(ctx context.Context, st *Status, s Summary) error {
	snap, err := c.Load(ctx, s)
	if err != nil {
		return err
	}
	for _, ct := range snap.System.Containers {
		for label, to := range map[string]*time.Duration{labelRPO: &st.RPO, labelRTO: &st.RTO} {
			text, ok := ct.Labels[label]
			if !ok {
				continue
			}
			d, err := parseSpan(text)
			if err != nil {
				st.Missed = append(st.Missed, fmt.Sprintf("label %s of container %s: %v", label, ct.Name, err))
				continue
			}
			if *to == 0 || d < *to {
				*to = d
			}
		}
	}
	slices.Sort(st.Missed)
	return nil
}

// parseSpan reads a length of time: "90m", "24h", "2d".
func parseSpan(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		if err == nil && n > 100_000 {
			err = strconv.ErrRange
		}
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is no length of time, as in 90m, 24h or 2d", text)
	}
	return d, nil
}

// evidence finds the newest records of each system.
func (c *Catalog) evidence(ctx context.Context, byName map[string]*Status) error {
	records, err := c.repo.Records(ctx)
	if err != nil {
		return err
	}
	for _, r := range records { // the newest last
		if r.Err != nil {
			c.Damaged = append(c.Damaged, r.Err)
			continue
		}
		var body evidenceRecord
		if r.Kind != "drill" && r.Kind != WhyFailover && r.Kind != WhyFailback {
			continue
		}
		if err := frugal.Unmarshal(r.Body, &body); err != nil {
			c.Damaged = append(c.Damaged, fmt.Errorf("record %s: %w", r.Name, err))
			continue
		}
		st := byName[body.System]
		if st == nil {
			continue
		}
		e := &Evidence{Time: body.Started, RTO: body.RTO, Host: body.Host, Passed: body.Passed == nil || *body.Passed}
		if r.Kind == "drill" {
			st.Drill = e
		} else {
			st.Failover = e
		}
	}
	return nil
}

// judge says what is missed.
func (s *Status) judge() {
	switch {
	case s.Snapshot == "":
		s.miss("there is no complete snapshot")
	case s.RPO > 0 && s.Age > s.RPO:
		s.miss("the newest good snapshot is %s old, wanted are %s", s.Age.Round(time.Second), s.RPO)
	}
	if s.Drill != nil && !s.Drill.Passed {
		s.miss("the last drill failed")
	}
	if s.RTO == 0 {
		return
	}
	switch last := s.lastPassed(); {
	case last == nil:
		s.miss("no drill or failover has shown the %s that are wanted", s.RTO)
	case last.RTO > s.RTO:
		s.miss("it took %s until the system ran, wanted are %s", last.RTO.Round(time.Millisecond), s.RTO)
	}
}

// lastPassed returns the newest evidence of a time.
func (s *Status) lastPassed() *Evidence {
	var list []*Evidence
	for _, e := range []*Evidence{s.Drill, s.Failover} {
		if e != nil && e.Passed {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return slices.MaxFunc(list, func(a, b *Evidence) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.RTO, b.RTO)) })
}

func (s *Status) miss(format string, args ...any) {
	s.Missed = append(s.Missed, fmt.Sprintf(format, args...))
}
