package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

// bodyVersion is the version of the body's JSON.
const bodyVersion = 1

// body is what a snapshot's body stream holds, as JSON.
type body struct {
	Version int    `json:"version"`
	System  System `json:"system"`
}

// Catalog is a list of the snapshots of a repository, as they were when it was read. It is safe
// for concurrent use.
type Catalog struct {
	// Snapshots are all that can be read, oldest first by the store's clock.
	Snapshots []Summary
	// Damaged tells of each that cannot be read. They do not hide the others.
	Damaged []error

	repo   *chunkstore.Repository
	bodies map[string]chunkstore.Stream
}

// ReadCatalog lists the snapshots of repo.
func ReadCatalog(ctx context.Context, repo *chunkstore.Repository) (*Catalog, error) {
	outcomes, err := repo.Outcomes(ctx)
	if err != nil {
		return nil, err
	}
	c := &Catalog{repo: repo, bodies: map[string]chunkstore.Stream{}}
	for _, o := range outcomes {
		s, err := ParseSummary(o)
		if err != nil {
			c.Damaged = append(c.Damaged, err)
			continue
		}
		c.Snapshots = append(c.Snapshots, s)
		c.bodies[s.ID] = o.Body
	}
	return c, nil
}

// ParseSummary returns the summary in the outcome of a session. An outcome that could not be read
// gives its error.
func ParseSummary(o chunkstore.Outcome) (Summary, error) {
	var s Summary
	if o.Err != nil {
		return s, o.Err
	}
	if err := json.Unmarshal(o.Summary, &s); err != nil {
		return s, fmt.Errorf("snapshot object %s: %w: %w", o.Name, crypto.ErrDamaged, err)
	}
	s.ID = o.Session.Random() // what the object's name says holds
	return s, nil
}

// Load reads the body of a snapshot of the catalog.
func (c *Catalog) Load(ctx context.Context, s Summary) (*Snapshot, error) {
	stream, ok := c.bodies[s.ID]
	if !ok {
		return nil, fmt.Errorf("snapshot %s: not in the catalog", s.ID)
	}
	sys, err := ReadSystem(ctx, c.repo, stream)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", s.ID, err)
	}
	return &Snapshot{Summary: s, System: *sys}, nil
}

// ReadSystem reads the body of a snapshot.
func ReadSystem(ctx context.Context, repo *chunkstore.Repository, stream chunkstore.Stream) (*System, error) {
	r, err := repo.OpenStream(ctx, stream)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b body
	d := json.NewDecoder(r)
	if err := d.Decode(&b); err != nil {
		return nil, bodyError(err)
	}
	if b.Version != bodyVersion {
		return nil, fmt.Errorf("%w: body of version %d", crypto.ErrNewer, b.Version)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("body: %w: more than one value", crypto.ErrDamaged)
	}
	return &b.System, nil
}

// bodyError tells bad JSON from a failure to read it.
func bodyError(err error) error {
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &mistyped) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("body: %w: %w", crypto.ErrDamaged, err)
	}
	return fmt.Errorf("body: %w", err)
}

// WriteSystem saves the body of a snapshot.
func WriteSystem(ctx context.Context, s *chunkstore.Session, sys *System) (chunkstore.Stream, error) {
	w := s.NewStream(ctx)
	err := json.NewEncoder(w).Encode(body{bodyVersion, *sys})
	stream, ferr := w.Finish()
	if err := errors.Join(err, ferr); err != nil {
		return chunkstore.Stream{}, fmt.Errorf("body: %w", err)
	}
	return stream, nil
}
