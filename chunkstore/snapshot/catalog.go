package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Catalog is the list of snapshots of a repository as it was when ReadCatalog read it. It may be
// used from several goroutines.
type Catalog struct {
	Snapshots []Summary // newest first
	Damaged   []error   // one for each snapshot that could not be read: it hides none of the others

	repo   *chunkstore.Repository
	bodies map[string]chunkstore.Stream
}

// ReadCatalog lists the snapshots of repo.
func ReadCatalog(ctx context.Context, repo *chunkstore.Repository) (*Catalog, error) {
	outcomes, err := repo.Outcomes(ctx)
	if err != nil {
		return nil, err
	}
	c := &Catalog{repo: repo, bodies: make(map[string]chunkstore.Stream, len(outcomes))}
	for _, o := range outcomes {
		s, err := ParseSummary(o)
		if err != nil {
			c.Damaged = append(c.Damaged, err)
			continue
		}
		c.Snapshots = append(c.Snapshots, s)
		c.bodies[s.ID] = o.Body
	}
	slices.SortStableFunc(c.Snapshots, newestFirst)
	return c, nil
}

// ParseSummary reads the summary in an outcome, which must be that of a snapshot.
func ParseSummary(o chunkstore.Outcome) (Summary, error) {
	if o.Err != nil {
		return Summary{}, o.Err
	}
	var s Summary
	if err := json.Unmarshal(o.Summary, &s); err != nil {
		return Summary{}, fmt.Errorf("snapshot %s: summary: %w", o.Session.Random(), err)
	}
	s.ID = o.Session.Random() // what the object's name says counts
	return s, nil
}

// Load reads the whole of a snapshot of the catalog. ErrMissing is wrapped where it has none of
// that id.
func (c *Catalog) Load(ctx context.Context, s Summary) (*Snapshot, error) {
	st, ok := c.bodies[s.ID]
	if !ok {
		return nil, fmt.Errorf("load snapshot %s: %w", s.ID, ErrMissing)
	}
	system, err := ReadSystem(ctx, c.repo, st)
	if err != nil {
		return nil, fmt.Errorf("load snapshot %s: %w", s.ID, err)
	}
	return &Snapshot{Summary: s, System: *system}, nil
}
