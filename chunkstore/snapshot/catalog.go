package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// Catalog is the list of snapshots of a repository as it was when ReadCatalog read it. It may be
// used from several goroutines.
type Catalog struct {
	Snapshots []Summary // newest first
	Terms     []Term    // of all systems, in order of their numbers
	Damaged   []error   // one for each snapshot or term that could not be read: it hides none of the others

	// Untold has an error for each record that could not be read: it may have said that a snapshot has other tags.
	Untold []error

	repo     *chunkstore.Repository
	outcomes map[string]chunkstore.Outcome // by the id of the snapshot
	tagged   map[string][]string           // names of all records of tags, by that of the outcome
}

// ReadCatalog lists the snapshots of repo. Where all that there are were sealed after a rotation that the keys at
// hand know nothing of, the error is crypto.ErrRotated.
func ReadCatalog(ctx context.Context, repo *chunkstore.Repository) (*Catalog, error) {
	outcomes, err := repo.Outcomes(ctx)
	if err != nil {
		return nil, err
	}
	c := &Catalog{repo: repo, outcomes: make(map[string]chunkstore.Outcome, len(outcomes))}
	for _, o := range outcomes {
		s, err := ParseSummary(o)
		if err != nil {
			c.Damaged = append(c.Damaged, err)
			continue
		}
		c.Snapshots = append(c.Snapshots, s)
		c.outcomes[s.ID] = o
	}
	if err := errors.Join(c.Damaged...); len(c.Snapshots) == 0 && errors.Is(err, crypto.ErrRotated) {
		return nil, err // there are snapshots, only the keys are old
	}
	slices.SortStableFunc(c.Snapshots, newestFirst)
	if err := c.readTags(ctx); err != nil {
		return nil, err
	}
	if err := c.readTerms(ctx); err != nil {
		return nil, err
	}
	return c, c.confineHosts(ctx)
}

// confineHosts gives the snapshots of put-only hosts the name of their host, whatever they say, and makes those strays that
// such a host may not store: of systems that are not listed for it or, where none are, that somebody else stored
// before it; and those of a term that never was.
func (c *Catalog) confineHosts(ctx context.Context) error {
	if !slices.ContainsFunc(c.Snapshots, func(s Summary) bool { return s.Domain != chunkstore.Domain{} }) {
		return nil
	}
	list, _, err := c.repo.Hosts(ctx)
	if err != nil {
		return err
	}
	hosts := map[chunkstore.Domain]chunkstore.Host{}
	for _, h := range list {
		hosts[chunkstore.Domain(h.Writer)] = h
	}
	first := map[string]Summary{}
	for _, s := range c.Snapshots {
		f, ok := first[s.System]
		if c := s.Stored.Compare(f.Stored); !ok || c < 0 || c == 0 && s.Domain == (chunkstore.Domain{}) {
			first[s.System] = s
		}
	}
	for i := range c.Snapshots {
		s := &c.Snapshots[i]
		if s.Domain == (chunkstore.Domain{}) {
			continue
		}
		h := hosts[s.Domain]
		s.Host = cmp.Or(h.Name, crypto.WriterID(s.Domain).String())
		may := first[s.System].Domain == s.Domain
		if len(h.Systems) > 0 {
			may = slices.Contains(h.Systems, s.System)
		}
		s.Stray = s.Stray || !may || s.Term > c.newestTerm(s.System)
	}
	return nil
}

// ParseSummary reads the summary in an outcome, which must be that of a snapshot.
func ParseSummary(o chunkstore.Outcome) (Summary, error) {
	if o.Err != nil {
		return Summary{}, o.Err
	}
	var s Summary
	if err := frugal.Unmarshal(o.Summary, &s); err != nil {
		return Summary{}, fmt.Errorf("snapshot %s: summary: %w", o.Session.Random(), err)
	}
	s.ID = o.Session.Random() // what the object's name says counts
	s.Stored, s.Domain = o.Modified, o.Domain
	if s.Domain != (chunkstore.Domain{}) {
		s.Origin = nil // such a host copies nothing, and does not say what time it is
	}
	if s.Origin != nil {
		s.Stored = s.Origin.Stored
	}
	return s, nil
}

// Load reads the whole of a snapshot of the catalog. ErrMissing is wrapped where it has none of
// that id.
func (c *Catalog) Load(ctx context.Context, s Summary) (*Snapshot, error) {
	o, ok := c.outcomes[s.ID]
	if !ok {
		return nil, fmt.Errorf("load snapshot %s: %w", s.ID, ErrMissing)
	}
	system, err := ReadSystem(ctx, c.repo, o)
	if err != nil {
		return nil, fmt.Errorf("load snapshot %s: %w", s.ID, err)
	}
	return &Snapshot{Summary: s, System: *system}, nil
}

// Forget takes snapshots of the catalog out of the repository's lists, all of them at once; host is the name
// of this one. See chunkstore.Repository.Forget. ErrMissing is wrapped where the catalog has none of that id.
// The catalog stays as it is.
func (c *Catalog) Forget(ctx context.Context, host string, list []Summary) error {
	outcomes := make([]chunkstore.Outcome, 0, len(list))
	for _, s := range list {
		o, ok := c.outcomes[s.ID]
		if !ok {
			return fmt.Errorf("forget snapshot %s: %w", s.ID, ErrMissing)
		}
		outcomes = append(outcomes, o)
	}
	return c.repo.Forget(ctx, host, outcomes)
}
