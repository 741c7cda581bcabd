package snapshot

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// bodyVersion is the version of body that this package writes, and the newest that it reads.
// Fields may be added without a new one: readers pass over what they do not know.
const bodyVersion = 1

// maxBody bounds the bytes of a body: a reader takes about three times as much memory. Of a system of a thousand containers it
// has some ten MiB.
const maxBody = 64 << 20

// bodySpace is what reading a body may take beside twice its length. Thousands of labels of one container take more than that, although
// the text names them twice: among its own, and in what the engine says.
const bodySpace = 1 << 20

// body is the JSON in the stream Outcome.Body.
type body struct {
	Version int    `json:"version"`
	System  System `json:"system"`
}

// Commit ends session s with snap as its outcome. It sets snap.ID, and in snap.Stats what the
// session cost; the stored summary does not count the outcome, which holds it. The session has ended,
// whatever Commit returns.
func Commit(ctx context.Context, s *chunkstore.Session, snap *Snapshot) error {
	text, err := encode(snap)
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

// encode returns the body of a snapshot, and an error if readers would refuse it or the summary.
func encode(snap *Snapshot) ([]byte, error) {
	summary, err := json.Marshal(snap.Summary)
	if err != nil {
		return nil, err
	}
	if err := frugal.Unmarshal(summary, new(Summary)); err != nil {
		return nil, fmt.Errorf("summary of %d bytes: %w", len(summary), err)
	}
	text, err := json.Marshal(body{Version: bodyVersion, System: snap.System})
	if err != nil {
		return nil, err
	}
	_, err = decode(text)
	return text, err
}

// decode reads a body. Whatever it holds, that takes at most twice its length of memory, and 1.125 MiB.
func decode(text []byte) (*System, error) {
	if len(text) > maxBody {
		return nil, fmt.Errorf("description of the system: %d bytes, at most %d are allowed", len(text), maxBody)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := frugal.Unmarshal(text, &head); err != nil {
		return nil, fmt.Errorf("description of the system: %w: %w", crypto.ErrDamaged, err)
	}
	if head.Version != bodyVersion {
		return nil, fmt.Errorf("description of the system: %w: version %d", crypto.ErrNewer, head.Version)
	}
	var b body
	if err := frugal.UnmarshalIn(bodySpace, text, &b); err != nil {
		return nil, fmt.Errorf("description of the system: %w: %w", crypto.ErrDamaged, err)
	}
	return &b.System, nil
}

// cost notes what a session did.
func (s *Summary) cost(st chunkstore.SessionStats) {
	s.Stats.NewBytes, s.Stats.Stored = st.NewBytes, st.StoredBytes
}

// ReadSystem reads the body of a snapshot.
func ReadSystem(ctx context.Context, repo *chunkstore.Repository, o chunkstore.Outcome) (*System, error) {
	if o.Body.Size > maxBody {
		return nil, fmt.Errorf("description of the system: %w: %d bytes", crypto.ErrDamaged, o.Body.Size)
	}
	text, err := repo.ReadStream(ctx, o.Body)
	if err != nil {
		return nil, fmt.Errorf("description of the system: %w", err)
	}
	system, err := decode(text)
	if err != nil {
		return nil, err
	}
	system.Domain = o.Domain
	if err := system.within(o.Domain); err != nil {
		return nil, fmt.Errorf("description of the system: %w", err)
	}
	return system, nil
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
