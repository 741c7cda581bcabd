package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hakobune-dr/hakobune/crypto"
)

// ErrLastSlot says that removing a key slot would leave a repository that nobody can open.
var ErrLastSlot = errors.New("this is the only key slot")

// Slots describes the key slots of the repository at b. It needs no key.
func Slots(ctx context.Context, b Backend) ([]crypto.SlotInfo, error) {
	var infos []crypto.SlotInfo
	err := eachSlot(ctx, b, func(_ string, object []byte) error {
		info, err := crypto.ReadSlotInfo(object)
		infos = append(infos, info)
		return err
	})
	return infos, err
}

// eachSlot calls fn with every slot object; fn's error is told with the slot's name.
func eachSlot(ctx context.Context, b Backend, fn func(name string, object []byte) error) error {
	names, err := listNames(ctx, b, slotPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		object, err := b.Get(ctx, name, 0, -1)
		if err != nil {
			return err
		}
		if err := fn(name, object); err != nil {
			return fmt.Errorf("key slot %s: %w", strings.TrimPrefix(name, slotPrefix), err)
		}
	}
	return nil
}

// unlock opens the first slot that secret fits. A damaged slot does not keep the others from being
// tried; it is reported if none fits.
func unlock(ctx context.Context, b Backend, secret crypto.Secret) (crypto.Payload, error) {
	var payload crypto.Payload
	var damage error
	found := errors.New("found")
	slots := 0
	err := eachSlot(ctx, b, func(name string, object []byte) error {
		slots++
		p, info, err := crypto.OpenSlot(object, secret)
		if err == nil && slotPrefix+info.ID != name {
			err = fmt.Errorf("key slot %s: %w: it is slot %s under another name", name, crypto.ErrDamaged, info.ID)
		}
		switch {
		case err == nil:
			payload = p
			return found
		case !errors.Is(err, crypto.ErrWrongKey):
			damage = err
		}
		return nil
	})
	switch {
	case errors.Is(err, found):
		return payload, nil
	case err != nil:
		return payload, err
	case damage != nil:
		return payload, damage
	case slots == 0:
		return payload, fmt.Errorf("%w: the repository has no key slot", crypto.ErrDamaged)
	}
	return payload, crypto.ErrWrongKey
}

// AddSlot wraps the repository's keys for one more secret and returns the new slot's id. secret is
// the one by which the repository can be opened now.
func AddSlot(ctx context.Context, b Backend, secret, added crypto.Secret, info crypto.SlotInfo, cost crypto.KDF) (string, error) {
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
	return id, nil
}

// RemoveSlot deletes a key slot, by its id; never the last one.
func RemoveSlot(ctx context.Context, b Backend, id string) error {
	names, err := listNames(ctx, b, slotPrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name != slotPrefix+id {
			continue
		}
		if len(names) == 1 {
			return fmt.Errorf("key slot %s: %w", id, ErrLastSlot)
		}
		return b.Delete(ctx, name)
	}
	return fmt.Errorf("key slot %s: %w", id, ErrNotExist)
}

// SlotOf returns the id of the slot that secret opens.
func SlotOf(ctx context.Context, b Backend, secret crypto.Secret) (string, error) {
	id := ""
	err := eachSlot(ctx, b, func(name string, object []byte) error {
		if _, _, err := crypto.OpenSlot(object, secret); err == nil && id == "" {
			id = strings.TrimPrefix(name, slotPrefix)
		}
		return nil
	})
	if err == nil && id == "" {
		err = crypto.ErrWrongKey
	}
	return id, err
}
