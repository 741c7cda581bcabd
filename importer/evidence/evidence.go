// Package evidence draws up what a repository proves: of which systems there are backups, how old, and whether drills and
// failovers have shown that they run.
package evidence

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// Evidence is what a repository proves of its systems.
type Evidence struct {
	Made       time.Time `json:"made"`
	Systems    []System  `json:"systems"`
	Unreadable int       `json:"unreadable"` // snapshots and records that cannot be read, and prove nothing
}

// System is what a repository proves of one system. Drills and failovers are newest first.
type System struct {
	System     string                 `json:"system"`
	Snapshots  []Snapshot             `json:"snapshots"`       // newest first
	Complete   int                    `json:"complete"`        // of the snapshots
	RPO        time.Duration          `json:"rpo,omitempty"`   // age of the newest complete snapshot; 0: there is none
	Gap        time.Duration          `json:"gap,omitempty"`   // longest time between two complete snapshots, or since the newest
	RTO        time.Duration          `json:"rto,omitempty"`   // of the newest drill that passed, or failover
	Proved     time.Time              `json:"proved,omitzero"` // when the newest drill passed
	Drills     []importer.DrillRecord `json:"drills"`
	Failovers  []Failover             `json:"failovers"`
	NeverTried bool                   `json:"never_tried"` // there was no drill and no failover
}

// Snapshot is a snapshot as evidence.
type Snapshot struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Complete bool      `json:"complete"`
	Host     string    `json:"host"`
	Bytes    int64     `json:"bytes"`
}

// Failover is what records of failovers and failbacks say, as far as evidence goes.
type Failover struct {
	System  string        `json:"system"`
	Kind    string        `json:"kind"` // failover or failback
	Site    siteName      `json:"site,omitempty"`
	Term    int           `json:"term,omitempty"`
	Started time.Time     `json:"started,omitzero"` // where the record does not say: when it was stored
	RTO     time.Duration `json:"rto,omitempty"`
	RPO     time.Duration `json:"rpo,omitempty"`
	// Downtime is how long the system was down where the failback stopped it itself.
	Downtime time.Duration `json:"downtime,omitempty"`
}

// siteName is the name of a site, which records have alone or with the site's id.
type siteName string

func (n *siteName) UnmarshalJSON(text []byte) error {
	var site snapshot.Site
	if err := json.Unmarshal(text, &site); err == nil {
		*n = siteName(site.Name)
		return nil
	}
	return json.Unmarshal(text, (*string)(n))
}

// New draws up what snapshots and records prove at a moment, for one system or, without a name, for all. It
// is a pure function. Times of snapshots are those of their hosts; a drill stands where its record was stored.
func New(now time.Time, system string, list []snapshot.Summary, records []chunkstore.Record) *Evidence {
	e := &Evidence{Made: now.UTC().Truncate(time.Second), Systems: []System{}}
	for _, s := range list {
		to := e.of(s.System)
		to.Snapshots = append(to.Snapshots, Snapshot{s.ID, s.Time, s.Complete && !s.Stray, s.Host, s.Stats.Bytes})
	}
	for _, r := range records {
		if err := e.add(r); err != nil {
			e.Unreadable++
		}
	}
	e.Systems = slices.DeleteFunc(e.Systems, func(s System) bool { return s.System == "" || system != "" && s.System != system })
	for i := range e.Systems {
		e.Systems[i].conclude(now)
	}
	slices.SortFunc(e.Systems, func(a, b System) int { return cmp.Compare(a.System, b.System) })
	return e
}

// of returns the evidence of a system, to be added to.
func (e *Evidence) of(name string) *System {
	i := slices.IndexFunc(e.Systems, func(s System) bool { return s.System == name })
	if i < 0 {
		i = len(e.Systems)
		e.Systems = append(e.Systems, System{System: name, Snapshots: []Snapshot{}, Drills: []importer.DrillRecord{}, Failovers: []Failover{}})
	}
	return &e.Systems[i]
}

// add adds what a record proves, if it is of a kind that does.
func (e *Evidence) add(r chunkstore.Record) error {
	if r.Err != nil {
		return r.Err
	}
	switch r.Kind {
	case importer.KindDrill:
		var drill importer.DrillRecord
		if err := frugal.Unmarshal(r.Body, &drill); err != nil {
			return err
		}
		to := e.of(drill.System)
		to.Drills = append(to.Drills, drill)
	case snapshot.WhyFailover, snapshot.WhyFailback:
		var failover Failover
		if err := frugal.Unmarshal(r.Body, &failover); err != nil {
			return err
		}
		failover.Kind = r.Kind
		if failover.Started.IsZero() {
			failover.Started = r.Modified
		}
		to := e.of(failover.System)
		to.Failovers = append(to.Failovers, failover)
	}
	return nil
}

// conclude reckons what follows from the parts.
func (s *System) conclude(now time.Time) {
	slices.SortStableFunc(s.Snapshots, func(a, b Snapshot) int { return b.Time.Compare(a.Time) })
	slices.SortStableFunc(s.Drills, func(a, b importer.DrillRecord) int { return b.Started.Compare(a.Started) })
	slices.SortStableFunc(s.Failovers, func(a, b Failover) int { return b.Started.Compare(a.Started) })
	after := now
	for _, p := range s.Snapshots {
		if !p.Complete {
			continue
		}
		if s.Complete++; s.Complete == 1 {
			s.RPO = max(now.Sub(p.Time), 1) // 0 would mean that there is none
		}
		s.Gap = max(s.Gap, after.Sub(p.Time))
		after = p.Time
	}
	if i := slices.IndexFunc(s.Drills, func(d importer.DrillRecord) bool { return d.Passed }); i >= 0 {
		s.RTO, s.Proved = s.Drills[i].RTO, s.Drills[i].Started
	}
	if len(s.Failovers) > 0 && s.Failovers[0].Started.After(s.Proved) && s.Failovers[0].RTO > 0 {
		s.RTO = s.Failovers[0].RTO
	}
	s.NeverTried = len(s.Drills)+len(s.Failovers) == 0
}
