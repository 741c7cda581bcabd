package chunkstore

import (
	"context"
	"errors"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Stored returns a function that tells whether a chunk is stored, as far as that shows without reading it: the index
// lists it in a pack that is there, in its right length, and not on record as deleted. It goes by what there is now,
// and takes about 100 bytes of memory for each pack.
func (r *Repository) Stored(ctx context.Context) (func(ID) (bool, error), error) {
	if r.host != nil {
		return nil, crypto.ErrPutOnly
	}
	marks, _, err := r.readableMarks(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.LoadIndex(ctx); err != nil {
		return nil, err
	}
	stored, err := r.listPacks(ctx)
	if err != nil {
		return nil, err
	}
	deleted, list := deletedBy(marks), r.index.loaded.Load()
	return func(id ID) (found bool, err error) {
		err = list.each(id, func(at location, _ int) bool {
			p, ok := stored[at.pack.ID]
			found = ok && !deleted[at.pack.ID] && p.size == at.pack.storedSize()
			return !found
		})
		return found, err
	}, nil
}

// IsLoss tells whether an error of reading says that something is damaged or gone, and not that it could not be
// looked at: by a failing network, say, or by keys that are too old.
func IsLoss(err error) bool {
	return !isUnknown(err) && (errors.Is(err, crypto.ErrDamaged) || errors.Is(err, ErrChunkMissing) || errors.Is(err, ErrNotExist))
}
