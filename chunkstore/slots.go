package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// ErrLastSlot says that removing a key slot would leave a repository that nobody can open.
var ErrLastSlot = errors.New("this is the only key slot with the newest keys")

// Slots describes the key slots of the repository at b. It needs no key.
func Slots(ctx context.Context, b Backend) ([]crypto.SlotInfo, error) {
	slots, err := readSlots(ctx, view(ctx, b))
	if err != nil {
		return nil, err
	}
	var infos []crypto.SlotInfo
	for _, s := range slots {
		if s.err != nil {
			return infos, fmt.Errorf("key slot %s: %w", s.ID, s.err)
		}
		infos = append(infos, s.SlotInfo)
	}
	slices.SortFunc(infos, func(a, b crypto.SlotInfo) int { return strings.Compare(a.ID, b.ID) })
	return infos, nil
}

// slot is a key slot as it is stored. Of one that cannot be read only its name is known, and ID from that.
type slot struct {
	crypto.SlotInfo
	name   string
	object []byte
	err    error // why it cannot be read
}

// readSlots reads all key slots, newest first: while a rotation is under way a secret has two slots, and the
// newer one opens everything. Where one is gone that was listed, another has come in its place: it lists again.
func readSlots(ctx context.Context, b Backend) (slots []*slot, err error) {
	err = relist(func() error {
		slots, err = readSlotsOnce(ctx, b)
		return err
	})
	return slots, err
}

func readSlotsOnce(ctx context.Context, b Backend) ([]*slot, error) {
	names, err := listNames(ctx, b, slotPrefix)
	if err != nil {
		return nil, err
	}
	var slots []*slot
	for _, name := range names {
		s := &slot{name: name}
		s.object, err = b.Get(ctx, name, 0, -1)
		if err != nil {
			return nil, err
		}
		s.SlotInfo, s.err = crypto.ReadSlotInfo(s.object)
		if s.err == nil && slotPrefix+s.ID != name {
			s.err = fmt.Errorf("%w: it is slot %s under another name", crypto.ErrDamaged, s.ID)
		}
		if s.err != nil {
			s.SlotInfo = crypto.SlotInfo{ID: strings.TrimPrefix(name, slotPrefix)}
		}
		slots = append(slots, s)
	}
	slices.SortStableFunc(slots, func(a, b *slot) int { return b.Created.Compare(a.Created) })
	return slots, nil
}

// open opens the slot.
func (s *slot) open(secret crypto.Secret) (crypto.Payload, error) {
	if s.err != nil {
		return crypto.Payload{}, fmt.Errorf("key slot %s: %w", s.ID, s.err)
	}
	p, _, err := crypto.OpenSlot(s.object, secret)
	return p, err
}

// unlock opens the newest slot that secret fits. A damaged slot does not keep the others from being
// tried; it is reported if none fits. Where the slots have changed meanwhile it looks at them again.
func unlock(ctx context.Context, b Backend, secret crypto.Secret) (crypto.Payload, error) {
	if _, ok := secret.(*crypto.Credential); ok {
		return crypto.Payload{}, crypto.ErrPutOnly
	}
	for attempt := 1; ; attempt++ {
		slots, err := readSlots(ctx, b)
		if err != nil {
			return crypto.Payload{}, err
		}
		payload, err := unlockOne(slots, secret)
		if err == nil || attempt == loadAttempts {
			return payload, err
		}
		names, listErr := listNames(ctx, b, slotPrefix)
		if listErr != nil {
			return payload, errors.Join(err, listErr)
		}
		if len(names) == len(slots) && !slices.ContainsFunc(slots, func(s *slot) bool { return !slices.Contains(names, s.name) }) {
			return payload, err
		}
	}
}

func unlockOne(slots []*slot, secret crypto.Secret) (crypto.Payload, error) {
	if len(slots) == 0 {
		return crypto.Payload{}, fmt.Errorf("%w: the repository has no key slot", crypto.ErrDamaged)
	}
	failure := crypto.ErrWrongKey
	for _, s := range slots {
		payload, err := s.open(secret)
		if err == nil {
			return payload, nil
		}
		if !errors.Is(err, crypto.ErrWrongKey) {
			failure = err
		}
	}
	return crypto.Payload{}, failure
}

// AddSlot wraps the repository's keys for one more secret and returns the new slot's id. secret is
// the one by which the repository can be opened now. Where the keys are rotated meanwhile the error is
// crypto.ErrRotated, and no slot is added.
func AddSlot(ctx context.Context, b Backend, secret, added crypto.Secret, info crypto.SlotInfo, cost crypto.KDF) (string, error) {
	b = view(ctx, b)
	payload, err := unlock(ctx, b, secret)
	if err != nil {
		return "", err
	}
	object, id, err := crypto.SealSlot(added, info, payload, cost)
	if err != nil {
		return "", err
	}
	if err := b.Put(ctx, slotPrefix+id, object); err != nil {
		return "", fmt.Errorf("store the key slot: %w", err)
	}
	// A rotation lists the slots again after it has put its first one, and we look for that one after we have
	// put ours: at least one of us sees the other.
	rotating, err := rotated(ctx, b, payload)
	if err == nil && rotating {
		err = fmt.Errorf("%w meanwhile: the new key slot would not open everything", crypto.ErrRotated)
	}
	if err != nil {
		return "", errors.Join(err, b.Delete(ctx, slotPrefix+id))
	}
	return id, nil
}

// RemoveSlot deletes a key slot, by its id; never the last one, nor, after a rotation, the last that is known to hold the
// newest keys: one that secret opens, or that was made when those were there already. ErrLocked is wrapped where it
// cannot be deleted yet: then it is on record as removed, backups do not lock it again, and LockedSlots has it until RemoveSlot
// deletes it when its lock has ended. Until then it opens what it did.
func RemoveSlot(ctx context.Context, b Backend, secret crypto.Secret, id string) error {
	b = view(ctx, b)
	slots, err := readSlots(ctx, b)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(slots, func(s *slot) bool { return s.name == slotPrefix+id })
	if n < 0 {
		return fmt.Errorf("key slot %s: %w", id, ErrNotExist)
	}
	removal, err := newSlotRemoval(ctx, b, slots, secret)
	if err != nil {
		return fmt.Errorf("key slot %s: %w", id, err)
	}
	if left := removal.without(slices.Delete(slices.Clone(slots), n, n+1)); !holdNewest(slots, left, secret) {
		return fmt.Errorf("key slot %s: %w", id, ErrLastSlot)
	}
	return removal.after(ctx, id, b.Delete(ctx, slots[n].name))
}

// holdNewest reports whether one of the slots that would be left holds as many masters as any that secret opens.
func holdNewest(slots, left []*slot, secret crypto.Secret) bool {
	newest, oldest := 0, time.Time{} // masters, and since when there are slots with them
	masters := map[string]int{}
	for _, s := range slots {
		p, err := s.open(secret)
		if err != nil {
			continue
		}
		masters[s.name] = len(p.Masters)
		if n := len(p.Masters); n > newest || n == newest && s.Created.Before(oldest) {
			newest, oldest = n, s.Created
		}
	}
	return slices.ContainsFunc(left, func(s *slot) bool {
		if n, ok := masters[s.name]; ok {
			return n == newest
		}
		return newest < 2 || !s.Created.Before(oldest)
	})
}

// SlotsOf returns the ids of all slots that secret opens.
func SlotsOf(ctx context.Context, b Backend, secret crypto.Secret) ([]string, error) {
	slots, err := readSlots(ctx, view(ctx, b))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, s := range slots {
		if _, err := s.open(secret); err == nil {
			ids = append(ids, s.ID)
		}
	}
	if len(ids) == 0 {
		return nil, crypto.ErrWrongKey
	}
	return ids, nil
}
