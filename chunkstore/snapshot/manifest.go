package snapshot

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
)

// bodyVersion is the version of body that this package writes, and the newest that it reads.
// Fields may be added without a new one: readers pass over what they do not know.
const bodyVersion = 1

// body is the JSON in the stream Outcome.Body.
type body struct {
	Version int    `json:"version"`
	System  System `json:"system"`
}

// Commit ends session s with snap as its outcome. It sets snap.ID, and in snap.Stats what the
// session cost; the stored summary does not count the outcome, which holds it. The session has ended,
// whatever Commit returns.
func Commit(ctx context.Context, s *chunkstore.Session, snap *Snapshot) error {
	text, err := json.Marshal(body{Version: bodyVersion, System: snap.System})
	if err != nil {
		return fmt.Errorf("commit snapshot: %w", err)
	}
	stream, err := s.SaveStream(ctx, text)
	if err != nil {
		return fmt.Errorf("commit snapshot: %w", err)
	}
	snap.ID = s.ID().Random()
	summary := func(cost chunkstore.SessionStats) any {
		snap.cost(cost)
		return snap.Summary
	}
	if err := s.Commit(ctx, snap.Host, summary, stream); err != nil {
		return fmt.Errorf("commit snapshot: %w", err)
	}
	snap.cost(s.Stats())
	return nil
}

// cost notes what a session did.
func (s *Summary) cost(st chunkstore.SessionStats) {
	s.Stats.NewBytes, s.Stats.Stored = st.NewBytes, st.StoredBytes
}

// ReadSystem reads the body of a snapshot.
func ReadSystem(ctx context.Context, repo *chunkstore.Repository, o chunkstore.Outcome) (*System, error) {
	text, err := repo.ReadStream(ctx, o.Body)
	if err != nil {
		return nil, fmt.Errorf("description of the system: %w", err)
	}
	var b body
	if err := json.Unmarshal(text, &b); err != nil {
		return nil, fmt.Errorf("description of the system: %w", err)
	}
	if b.Version != bodyVersion {
		return nil, fmt.Errorf("description of the system: %w: version %d", crypto.ErrNewer, b.Version)
	}
	b.System.Domain = o.Domain
	if err := b.System.within(o.Domain); err != nil {
		return nil, fmt.Errorf("description of the system: %w", err)
	}
	return &b.System, nil
}

// within returns an error unless all trees are of the domain.
func (s *System) within(d chunkstore.Domain) error {
	var trees []*Archive
	for _, c := range s.Containers {
		trees = append(trees, c.Changes)
	}
	for _, v := range s.Volumes {
		trees = append(trees, v.Content)
	}
	for _, b := range s.Binds {
		trees = append(trees, b.Content)
	}
	for _, t := range trees {
		if t == nil {
			continue
		}
		for _, ref := range t.Records.Chunks {
			if !d.Has(ref.ID) {
				return fmt.Errorf("%w: it needs chunk %v, which is of others", crypto.ErrDamaged, ref.ID)
			}
		}
	}
	return nil
}
