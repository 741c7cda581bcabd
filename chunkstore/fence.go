package chunkstore

import (
	"context"
	"errors"

	"github.com/hakobune-dr/hakobune/crypto"
)

// fence gives a session up: it cannot commit any more. One that has ended meanwhile stays as it is.
func (r *Repository) fence(ctx context.Context, w crypto.WriterID, id SessionID, creates bool) error {
	o := Outcome{Aborted: true, Fenced: true}
	if !creates {
		return r.placeAbort(ctx, sessionName(outcomePrefix, w, id))
	}
	name, object, err := r.sealOutcome(ctx, w, id, o)
	if err != nil {
		return err
	}
	if err := r.backend.(Creator).PutIfAbsent(ctx, name, object); !errors.Is(err, ErrExist) {
		return err
	}
	return nil
}

// placeAbort puts an abort object beside an outcome that is not there, unless there is one: put again, it would be younger than an
// outcome that it is to end. Where the outcome is there a moment later and is older, the session has committed and may not have seen
// the abort, which does not count then; a younger one has been put by a session that finds the abort, however late we look.
func (r *Repository) placeAbort(ctx context.Context, outcome string) error {
	name := outcome + abortSuffix
	for _, n := range []string{outcome, name} {
		if there, err := r.hasObject(ctx, n); err != nil || there {
			return err
		}
	}
	object, err := r.keys.Seal(crypto.TypeOutcome, name, []byte("given up"))
	if err != nil {
		return err
	}
	if err := r.backend.Put(ctx, name, object); err != nil {
		return err
	}
	if there, err := r.hasObject(ctx, outcome); err != nil || !there {
		return err
	}
	if younger, err := r.isYounger(ctx, name, outcome); err != nil || !younger {
		return err
	}
	return r.backend.Delete(ctx, name)
}

// isYounger reports whether an abort object has been put after the outcome that it is beside: then it does not count. One that is gone
// has been found to be younger by another collection.
func (r *Repository) isYounger(ctx context.Context, abort, outcome string) (bool, error) {
	committed, err := r.backend.Stat(ctx, outcome)
	if err != nil {
		return false, err
	}
	aborted, err := r.backend.Stat(ctx, abort)
	if errors.Is(err, ErrNotExist) {
		return true, nil
	}
	return err == nil && aborted.Modified.After(committed.Modified), err
}
