package snapshot

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// Catalog is the list of snapshots of a repository as it was when OpenCatalog read it. It may be
// used from several goroutines.
type Catalog struct {
	repo    *chunkstore.Repository
	list    []Summary // newest first
	bodies  map[string]chunkstore.Stream
	damaged []error
}

// OpenCatalog lists the snapshots of repo. One that cannot be read does not hide the others: see
// Damaged.
func OpenCatalog(ctx context.Context, repo *chunkstore.Repository) (*Catalog, error) {
	outcomes, err := repo.Outcomes(ctx)
	if err != nil {
		return nil, err
	}
	c := &Catalog{repo: repo, bodies: make(map[string]chunkstore.Stream, len(outcomes))}
	for _, o := range outcomes {
		s, err := summarize(o)
		if err != nil {
			c.damaged = append(c.damaged, err)
			continue
		}
		c.list = append(c.list, s)
		c.bodies[s.ID] = o.Body
	}
	slices.SortStableFunc(c.list, newestFirst)
	return c, nil
}

func summarize(o chunkstore.Outcome) (Summary, error) {
	if o.Err != nil {
		return Summary{}, o.Err
	}
	var s Summary
	if err := json.Unmarshal(o.Summary, &s); err != nil {
		return Summary{}, fmt.Errorf("snapshot %s: %w", o.Session.Random(), err)
	}
	s.ID = o.Session.Random() // what its name says counts
	return s, nil
}

// List returns the snapshots that f keeps, newest first.
func (c *Catalog) List(f Filter) []Summary { return f.Apply(c.list) }

// Damaged returns an error for each snapshot that could not be read.
func (c *Catalog) Damaged() []error { return c.damaged }

// Select finds the snapshot that a selector names, see the function Select.
func (c *Catalog) Select(selector string, f Filter, loc *time.Location) (Selection, error) {
	return Select(c.list, selector, f, loc)
}

// Load reads the whole of a snapshot by its full id.
func (c *Catalog) Load(ctx context.Context, id string) (*Snapshot, error) {
	at := slices.IndexFunc(c.list, func(s Summary) bool { return s.ID == id })
	if at < 0 {
		return nil, fmt.Errorf("load snapshot %s: %w", id, ErrMissing)
	}
	text, err := c.repo.ReadStream(ctx, c.bodies[id])
	if err != nil {
		return nil, fmt.Errorf("load snapshot %s: %w", id, err)
	}
	system, err := parseBody(text)
	if err != nil {
		return nil, fmt.Errorf("load snapshot %s: %w", id, err)
	}
	return &Snapshot{Summary: c.list[at], System: system}, nil
}
