package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// A key slot of a locked repository cannot be deleted before its lock has ended. So that backups do not lock it again, the object
// o/slot-<slot> says that it was removed. It lies among the claims, and is sealed as they are, because put-only hosts read those: they
// lock slots too.
const oldSlotPrefix = claimPrefix + "slot-"

// oldSlot is such an object, behind the signature of those who may take something out.
type oldSlot struct {
	Version int    `json:"version"`
	Slot    string `json:"slot"`
}

// LockedSlot is a key slot that is to go, but that the store keeps, because it is locked still.
type LockedSlot struct {
	ID   string
	Left time.Duration // until its lock ends, by the store's clock; 0: it can be deleted
}

// LockedSlots returns the key slots that were removed, or replaced by a rotation, and are stored still, by their ids. They open what they did.
// There are such in a locked repository only.
func (r *Repository) LockedSlots(ctx context.Context) ([]LockedSlot, error) {
	if r.locker == nil {
		return nil, nil
	}
	lasting, err := r.lastingSlots(ctx)
	if err != nil {
		return nil, err
	}
	names, err := listNames(ctx, r.backend, slotPrefix)
	if err != nil {
		return nil, err
	}
	var old []LockedSlot
	for _, name := range names {
		if slices.ContainsFunc(lasting, func(i Info) bool { return i.Name == name }) {
			continue
		}
		left, err := r.locker.Retained(ctx, name)
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("lock of %s: %w", name, err)
		}
		old = append(old, LockedSlot{strings.TrimPrefix(name, slotPrefix), max(left, 0)})
	}
	return old, nil
}

// oldSlots returns the names of the key slots that are on record as removed.
func (r *Repository) oldSlots(ctx context.Context) (map[string]bool, error) {
	names, err := listNames(ctx, r.backend, oldSlotPrefix)
	if err != nil {
		return nil, err
	}
	old := map[string]bool{}
	for _, name := range names {
		id := strings.TrimPrefix(name, oldSlotPrefix)
		switch counts, err := r.readOldSlot(ctx, name, id); {
		case err == nil:
			old[slotPrefix+id] = counts
		case errors.Is(err, ErrNotExist): // the slot is gone, or the list is late
		case isPassing(ctx, err):
			return nil, fmt.Errorf("object %s: %w", name, err)
		default:
			r.cache.drop(name)
			r.log.Warn("that a key slot was removed cannot be read, so it is locked as before", "object", name, "error", err)
		}
	}
	return old, nil
}

// readOldSlot verifies that an object says that the slot was removed. One of an older key epoch does not count: whoever has only older keys
// could leave the slots without locks of those who open the repository; and a rotation replaces all slots.
func (r *Repository) readOldSlot(ctx context.Context, name, id string) (counts bool, err error) {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return false, err
	}
	plain, err := r.keys.Open(crypto.TypeClaim, name, object)
	if err == nil {
		plain, err = r.signed(crypto.TypeClaim, name, plain)
	}
	var record oldSlot
	if err == nil {
		err = unmarshalVersioned(plain, &record)
	}
	if err == nil && record.Slot != id {
		err = fmt.Errorf("%w: of another slot", crypto.ErrDamaged)
	}
	return err == nil && crypto.ObjectEpoch(object) == r.keys.Epoch(), err
}

// slotRemoval removes a slot of a locked repository.
type slotRemoval struct {
	repo *Repository
	old  map[string]bool // names of slots on record as removed, before
}

// newSlotRemoval returns nil where the repository is not locked.
func newSlotRemoval(ctx context.Context, b Backend, slots []*slot, secret crypto.Secret) (*slotRemoval, error) {
	cfg, _, err := readConfig(ctx, b)
	if err != nil || cfg.Lock == nil {
		return nil, err
	}
	payload, err := unlockOne(slots, secret)
	if err != nil {
		return nil, err
	}
	repo, err := open(b, cfg, payload, Options{})
	if err != nil {
		return nil, err
	}
	old, err := repo.oldSlots(ctx)
	return &slotRemoval{repo, old}, err
}

// without returns the slots that are not on record as removed.
func (s *slotRemoval) without(slots []*slot) []*slot {
	if s == nil {
		return slots
	}
	return slices.DeleteFunc(slots, func(slot *slot) bool { return s.old[slot.name] })
}

// after does what is to be done when the slot could be deleted, or else was not.
func (s *slotRemoval) after(ctx context.Context, id string, err error) error {
	if s == nil {
		return err
	}
	name := oldSlotPrefix + id
	switch {
	case err == nil && s.old[slotPrefix+id]:
		_, err = s.repo.delete(ctx, name)
	case errors.Is(err, ErrLocked) && !s.old[slotPrefix+id]:
		if noteErr := s.note(ctx, name, id); noteErr != nil {
			err = fmt.Errorf("%v; %w", err, noteErr)
		}
	}
	return err
}

// note puts on record that the slot was removed.
func (s *slotRemoval) note(ctx context.Context, name, id string) error {
	text, err := json.Marshal(oldSlot{Version: 1, Slot: id})
	if err == nil {
		err = s.repo.putSigned(ctx, crypto.TypeClaim, name, text)
	}
	if err == nil {
		_, err = s.repo.readOldSlot(ctx, name, id) // what somebody put there before counts
	}
	if err != nil {
		return fmt.Errorf("record that it was removed: %w", err)
	}
	return nil
}
