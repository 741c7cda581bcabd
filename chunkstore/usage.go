package chunkstore

import (
	"context"
	"fmt"
	"iter"
)

// packUsage is what a pack holds and how much of that is needed. Bytes are of encoded chunks. There is one for each pack of a
// repository, so it is small.
type packUsage struct {
	PackRef
	old              bool // sealed in an older key epoch than the newest
	ofHost           bool // a put-only host's
	unsure           bool // of a session that has not ended, or too young: not to be touched
	chunks, live     int32
	bytes, liveBytes int64
	stored           int64 // of the object; 0: there is none
}

// liveSet says which entries of a listing are needed by snapshots: of each needed chunk one, in a pack that
// is not condemned, or, where there is no such, all that may still be there. It takes a bit for each entry.
type liveSet struct {
	list *listing
	gone map[PackID]bool // packs that were deleted: their entries count as nothing
	bits []uint64
}

func newLiveSet(l *listing, gone map[PackID]bool) *liveSet {
	return &liveSet{list: l, gone: gone, bits: make([]uint64, (l.entryCount()+63)/64)}
}

func (s *liveSet) has(n int) bool { return s.bits[n/64]&(1<<(n%64)) != 0 }
func (s *liveSet) set(n int)      { s.bits[n/64] |= 1 << (n % 64) }

// add takes a chunk into the set. One that the index lacks is ErrChunkMissing.
func (s *liveSet) add(id ID) error {
	var places [8]int // of copies in condemned packs
	condemned, best, known := places[:0], -1, false
	err := s.list.each(id, func(at location, n int) bool {
		switch {
		case s.has(n):
			known = true
		case s.gone[at.pack.ID]:
		case s.list.standing(at.pack) == usable:
			best = n
		default:
			condemned = append(condemned, n)
		}
		return !known && best < 0
	})
	switch {
	case err != nil || known:
		return err
	case best >= 0:
		s.set(best)
		return nil
	case len(condemned) == 0:
		return fmt.Errorf("chunk %v: %w", id, ErrChunkMissing)
	}
	for _, n := range condemned {
		s.set(n)
	}
	return nil
}

// addAll takes everything that a snapshot needs into the set.
func (s *liveSet) addAll(refs iter.Seq2[Ref, error]) error {
	for ref, err := range refs {
		if err == nil {
			err = s.add(ref.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// packs adds up what the listing says of each pack. isOld tells of the header of one whether that is sealed in an older key epoch.
func (s *liveSet) packs(isOld func(header []byte) bool) (map[PackID]*packUsage, error) {
	all := map[PackID]*packUsage{}
	err := s.list.entries(func(at location, n int) error {
		u := all[at.pack.ID]
		if u == nil {
			u = &packUsage{PackRef: at.pack.PackRef, old: isOld(at.pack.header[:]), ofHost: at.pack.ofHost()}
			all[at.pack.ID] = u
		}
		u.chunks++
		u.bytes += int64(at.stored)
		if s.has(n) {
			u.live++
			u.liveBytes += int64(at.stored)
		}
		return nil
	})
	return all, err
}

// outcomeRefs yields all chunks that a snapshot needs, those that walk finds in its body last.
func (r *Repository) outcomeRefs(ctx context.Context, o Outcome, walk func(context.Context, Outcome) iter.Seq2[Ref, error]) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		for _, st := range []Stream{o.Body, o.Packs} {
			refs, err := r.StreamRefs(ctx, st)
			for _, ref := range refs {
				if !yield(ref, nil) {
					return
				}
			}
			if err != nil {
				yield(Ref{}, err)
				return
			}
		}
		for ref, err := range walk(ctx, o) {
			if !yield(ref, err) {
				return
			}
		}
	}
}

// live returns which entries of the index the wanted snapshots need. A snapshot that cannot be read is an
// error: nobody knows what it needs.
func (r *Repository) live(ctx context.Context, wanted []Outcome, gone map[PackID]bool, walk func(context.Context, Outcome) iter.Seq2[Ref, error]) (*liveSet, error) {
	s := newLiveSet(r.index.loaded.Load(), gone)
	for _, o := range wanted {
		err := o.Err
		if err == nil {
			err = s.addAll(r.outcomeRefs(ctx, o, walk))
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, &snapshotError{o, err}
		}
	}
	return s, nil
}

// snapshotError says that a snapshot could not be walked.
type snapshotError struct {
	outcome Outcome
	err     error
}

func (e *snapshotError) Error() string {
	return fmt.Sprintf("snapshot %s: %v", e.outcome.Session.Random(), e.err)
}

func (e *snapshotError) Unwrap() error { return e.err }
