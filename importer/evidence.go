package importer

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// KindFailover is the kind of the records that failovers leave.
const KindFailover = "failover"

// Evidence is what a repository proves of its systems.
type Evidence struct {
	Made       time.Time        `json:"made"`
	Systems    []SystemEvidence `json:"systems"`
	Unreadable int              `json:"unreadable"` // snapshots and records that cannot be read, and prove nothing
}

// SystemEvidence is what a repository proves of one system. Drills and failovers are newest first.
type SystemEvidence struct {
	System     string           `json:"system"`
	Snapshots  []SnapshotProof  `json:"snapshots"`       // newest first
	Complete   int              `json:"complete"`        // of the snapshots
	RPO        time.Duration    `json:"rpo,omitempty"`   // age of the newest complete snapshot; 0: there is none
	Gap        time.Duration    `json:"gap,omitempty"`   // longest time between two complete snapshots, or since the newest
	RTO        time.Duration    `json:"rto,omitempty"`   // of the newest drill that passed, or failover
	Proved     time.Time        `json:"proved,omitzero"` // when the newest drill passed
	Drills     []DrillRecord    `json:"drills"`
	Failovers  []FailoverRecord `json:"failovers"`
	NeverTried bool             `json:"never_tried"` // there was no drill and no failover
}

// SnapshotProof is a snapshot as evidence.
type SnapshotProof struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Complete bool      `json:"complete"`
	Host     string    `json:"host"`
	Bytes    int64     `json:"bytes"`
}

// FailoverRecord is what records of failovers and failbacks say, as far as evidence goes.
type FailoverRecord struct {
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

// NewEvidence draws up what snapshots and records prove at a moment, for one system or, without a name, for all. It
// is a pure function. Times of snapshots are those of their hosts; a drill stands where its record was stored.
func NewEvidence(now time.Time, system string, list []snapshot.Summary, records []chunkstore.Record) *Evidence {
	e := &Evidence{Made: now.UTC().Truncate(time.Second), Systems: []SystemEvidence{}}
	of := func(name string) *SystemEvidence {
		if system != "" && name != system || name == "" {
			return &SystemEvidence{} // nobody asked
		}
		i := slices.IndexFunc(e.Systems, func(s SystemEvidence) bool { return s.System == name })
		if i < 0 {
			i = len(e.Systems)
			e.Systems = append(e.Systems, SystemEvidence{System: name, Snapshots: []SnapshotProof{}, Drills: []DrillRecord{}, Failovers: []FailoverRecord{}})
		}
		return &e.Systems[i]
	}
	for _, s := range list {
		to := of(s.System)
		to.Snapshots = append(to.Snapshots, SnapshotProof{s.ID, s.Time, s.Complete && !s.Stray, s.Host, s.Stats.Bytes})
	}
	for _, r := range records {
		if r.Err != nil {
			e.Unreadable++
			continue
		}
		var failover FailoverRecord
		var drill DrillRecord
		var err error
		switch r.Kind {
		case KindDrill:
			if err = json.Unmarshal(r.Body, &drill); err == nil {
				to := of(drill.System)
				to.Drills = append(to.Drills, drill)
			}
		case snapshot.WhyFailover, snapshot.WhyFailback:
			if err = json.Unmarshal(r.Body, &failover); err == nil {
				failover.Kind = r.Kind
				if failover.Started.IsZero() {
					failover.Started = r.Modified
				}
				to := of(failover.System)
				to.Failovers = append(to.Failovers, failover)
			}
		}
		if err != nil {
			e.Unreadable++
		}
	}
	for i := range e.Systems {
		e.Systems[i].conclude(now)
	}
	slices.SortFunc(e.Systems, func(a, b SystemEvidence) int { return cmp.Compare(a.System, b.System) })
	return e
}

// conclude reckons what follows from the parts.
func (s *SystemEvidence) conclude(now time.Time) {
	slices.SortStableFunc(s.Snapshots, func(a, b SnapshotProof) int { return b.Time.Compare(a.Time) })
	slices.SortStableFunc(s.Drills, func(a, b DrillRecord) int { return b.Started.Compare(a.Started) })
	slices.SortStableFunc(s.Failovers, func(a, b FailoverRecord) int { return b.Started.Compare(a.Started) })
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
	if i := slices.IndexFunc(s.Drills, func(d DrillRecord) bool { return d.Passed }); i >= 0 {
		s.RTO, s.Proved = s.Drills[i].RTO, s.Drills[i].Started
	}
	if len(s.Failovers) > 0 && s.Failovers[0].Started.After(s.Proved) && s.Failovers[0].RTO > 0 {
		s.RTO = s.Failovers[0].RTO
	}
	s.NeverTried = len(s.Drills)+len(s.Failovers) == 0
}
