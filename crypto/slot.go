package crypto

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// Payload is what a key slot protects: all that opens a repository.
type Payload struct {
	Repository RepositoryID
	Config     []byte // the repository's clear configuration, byte for byte, to compare it with
	Masters    []Master
}

// SlotInfo is the clear part of a key slot. Until the slot is opened nothing proves it.
type SlotInfo struct {
	ID      string    `json:"id"`   // 16 lower-case hex digits
	Kind    string    `json:"kind"` // "passphrase", "keyfile" or "age"
	Label   string    `json:"label"`
	Host    string    `json:"host"`    // that made it
	Created time.Time `json:"created"` // UTC, whole seconds
}

const (
	slotMagic      = "key slot"
	payloadMagic   = "repository keys"
	slotVersion    = 1
	maxSlot        = 256 << 10 // bytes of a slot: one of a thousand key epochs has half of that
	maxText        = 256       // bytes of a label or a host
	slotIDSize     = 8
	commitmentSize = 32
)

// slotFile is a slot as it is stored.
type slotFile struct {
	Hakobune string `json:"hakobune"`
	Version  int    `json:"version"`
	SlotInfo
	KDF        *slotKDF `json:"kdf,omitempty"`        // passphrase
	Salt       []byte   `json:"salt,omitempty"`       // passphrase, keyfile
	Commitment []byte   `json:"commitment,omitempty"` // passphrase, keyfile
	Box        []byte   `json:"box,omitempty"`        // passphrase, keyfile
	Age        string   `json:"age,omitempty"`        // age
}

type slotKDF struct {
	Algorithm string `json:"algorithm"`
	KDF
}

// payloadFile is what lies sealed in a slot. It repeats the clear part, which is proven by that.
type payloadFile struct {
	Hakobune   string       `json:"hakobune"`
	Version    int          `json:"version"`
	Slot       SlotInfo     `json:"slot"`
	Repository RepositoryID `json:"repository"`
	Config     []byte       `json:"config"`
	Masters    []masterFile `json:"masters"`
}

type masterFile struct {
	Epoch  uint32 `json:"epoch"`
	Secret []byte `json:"secret"`
}

// SealSlot wraps p for s and returns the slot's bytes and its fresh id. Of info it takes Label and
// Host, which must be printable, and Created, for which zero stands for now. cost matters for
// passphrases only.
func SealSlot(s Secret, info SlotInfo, p Payload, cost KDF) (slotJSON []byte, id string, err error) {
	info.Kind = s.kind()
	info.ID = newSlotID()
	if info.Created.IsZero() {
		info.Created = time.Now()
	}
	info.Created = info.Created.UTC().Truncate(time.Second)
	if slotJSON, err = sealSlot(s, info, p, cost); err != nil {
		return nil, "", fmt.Errorf("seal %s slot: %w", info.Kind, err)
	}
	return slotJSON, info.ID, nil
}

// RenewSlot wraps p for s in a slot that takes the place of old, whose kind, label, host and cost it
// has. id and created are the new slot's own.
func RenewSlot(old []byte, s Secret, id string, created time.Time, p Payload) ([]byte, error) {
	f, err := decodeSlot(old)
	if err != nil {
		return nil, fmt.Errorf("renew slot: %w", err)
	}
	if s.kind() != f.Kind {
		return nil, fmt.Errorf("renew %s slot %s: the secret is of kind %s", f.Kind, f.ID, s.kind())
	}
	var cost KDF
	if f.KDF != nil {
		cost = f.KDF.KDF
	}
	info := f.SlotInfo
	info.ID, info.Created = id, created.UTC().Truncate(time.Second)
	b, err := sealSlot(s, info, p, cost)
	if err != nil {
		return nil, fmt.Errorf("renew %s slot %s: %w", f.Kind, f.ID, err)
	}
	return b, nil
}

func newSlotID() string {
	id := make([]byte, slotIDSize)
	rand.Read(id) // never fails, see crypto/rand
	return hex.EncodeToString(id)
}

func sealSlot(s Secret, info SlotInfo, p Payload, cost KDF) ([]byte, error) {
	if err := info.check(); err != nil {
		return nil, err
	}
	plain, err := encodePayload(info, p)
	if err != nil {
		return nil, err
	}
	f := &slotFile{Hakobune: slotMagic, Version: slotVersion, SlotInfo: info}
	if err := s.lock(f, cost, plain); err != nil {
		return nil, err
	}
	b, err := encodeSlot(f)
	if err == nil && len(b) > maxSlot {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(b), maxSlot)
	}
	return b, err
}

// OpenSlot unwraps a slot. The error wraps ErrWrongKey if s is of another kind or does not open it,
// ErrDamaged if the slot is broken, ErrNewer if its version or kind is not known. Parameters of
// argon2id beyond 4 GiB or 64 passes are refused before memory is taken.
//
// Only whoever has the passphrase or the key file can have made such a slot. An age slot can be made
// by anybody who knows the recipient: take what it opens for genuine only as far as the repository's
// objects open with it.
func OpenSlot(slotJSON []byte, s Secret) (Payload, SlotInfo, error) {
	f, err := decodeSlot(slotJSON)
	if err != nil {
		return Payload{}, SlotInfo{}, fmt.Errorf("open slot: %w", err)
	}
	p, err := f.open(s)
	if err != nil {
		return Payload{}, SlotInfo{}, fmt.Errorf("open %s slot %s: %w", f.Kind, f.ID, err)
	}
	return p, f.SlotInfo, nil
}

func (f *slotFile) open(s Secret) (Payload, error) {
	if s.kind() != f.Kind {
		return Payload{}, fmt.Errorf("%w: the secret is of kind %s", ErrWrongKey, s.kind())
	}
	plain, err := s.unlock(f)
	if err != nil {
		return Payload{}, err
	}
	p, err := decodePayload(f.SlotInfo, plain)
	if err != nil {
		return Payload{}, fmt.Errorf("%w: payload: %w", ErrDamaged, err)
	}
	return p, nil
}

// ReadSlotInfo returns the clear part of a slot, unproven. Errors are as with OpenSlot.
func ReadSlotInfo(slotJSON []byte) (SlotInfo, error) {
	f, err := decodeSlot(slotJSON)
	if err != nil {
		return SlotInfo{}, fmt.Errorf("read slot: %w", err)
	}
	return f.SlotInfo, nil
}

func encodeSlot(f *slotFile) ([]byte, error) {
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// decodeSlot returns a slot that is well-formed and within every bound. Each slot has one encoding:
// any other (space, order, case of names, sloppy base64) is damage.
func decodeSlot(b []byte) (*slotFile, error) {
	if len(b) > maxSlot {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrDamaged, len(b), maxSlot)
	}
	f := new(slotFile)
	err := frugal.Unmarshal(b, f)
	if err := headOf(b, f, err); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	again, err := encodeSlot(f)
	if err != nil || !bytes.Equal(again, b) {
		return nil, fmt.Errorf("%w: not in the form that slots are written in", ErrDamaged)
	}
	return f, nil
}

// headOf returns an error unless b, read into f with that error, is a slot of a version that is known.
func headOf(b []byte, f *slotFile, err error) error {
	head := struct {
		Hakobune string
		Version  int
	}{f.Hakobune, f.Version}
	if err != nil { // in a later version other fields may be something else
		if err := frugal.Unmarshal(b, &head); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if head.Hakobune != slotMagic || head.Version < 1 {
		return fmt.Errorf("%w: not a key slot", ErrDamaged)
	}
	if head.Version > slotVersion {
		return fmt.Errorf("%w: slot version %d, newest known is %d", ErrNewer, head.Version, slotVersion)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// check holds a slot to the shape of its kind and to the bounds.
func (f *slotFile) check() error {
	var err error
	switch f.Kind {
	case kindPassphrase:
		err = f.checkPassphrase()
	case kindKeyFile:
		err = f.checkBox()
		if f.KDF != nil {
			err = errors.New("key derivation of a passphrase")
		}
	case kindAge:
		if !isArmor(f.Age) || f.KDF != nil || f.Salt != nil || f.Commitment != nil || f.Box != nil {
			err = errors.New("not just an age file in it")
		}
	default:
		return fmt.Errorf("%w: slot of kind %q", ErrNewer, f.Kind)
	}
	if err == nil {
		err = f.SlotInfo.check()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil
}

// isArmor tells whether text is made of nothing but what an armored file is made of. So it is not longer when it is encoded again.
func isArmor(text string) bool {
	return text != "" && strings.IndexFunc(text, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("0123456789+/=- \n", r)
	}) < 0
}

func (f *slotFile) checkPassphrase() error {
	if f.KDF == nil || f.KDF.Algorithm != "argon2id" {
		return errors.New("no argon2id parameters")
	}
	if err := f.KDF.check(); err != nil {
		return err
	}
	return f.checkBox()
}

func (f *slotFile) checkBox() error {
	if len(f.Salt) != saltSize || len(f.Commitment) != commitmentSize || f.Age != "" {
		return errors.New("salt or commitment of a wrong length, or an age file")
	}
	return nil
}

// check holds the clear part to what can be shown on a terminal and encoded in one way only.
func (i SlotInfo) check() error {
	if id, err := hex.DecodeString(i.ID); err != nil || len(id) != slotIDSize || hex.EncodeToString(id) != i.ID {
		return fmt.Errorf("id %q is not %d hex digits", i.ID, 2*slotIDSize)
	}
	for _, text := range []string{i.Label, i.Host} {
		if len(text) > maxText || !utf8.ValidString(text) {
			return fmt.Errorf("label or host is not UTF-8 of at most %d bytes", maxText)
		}
		for _, r := range text {
			if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
				return fmt.Errorf("label or host %q holds a control character", text)
			}
		}
	}
	return nil
}

func encodePayload(info SlotInfo, p Payload) ([]byte, error) {
	masters, err := sortMasters(p.Masters)
	if err != nil {
		return nil, err
	}
	f := payloadFile{
		Hakobune:   payloadMagic,
		Version:    slotVersion,
		Slot:       info,
		Repository: p.Repository,
		Config:     p.Config,
	}
	for _, m := range masters {
		f.Masters = append(f.Masters, masterFile{m.epoch, m.secret()[:]})
	}
	b, err := json.MarshalIndent(f, "", "  ")
	return append(b, '\n'), err
}

// decodePayload returns the payload of a slot whose clear part is info.
func decodePayload(info SlotInfo, plain []byte) (Payload, error) {
	var f payloadFile
	if err := frugal.Unmarshal(plain, &f); err != nil {
		return Payload{}, errors.New("not JSON of the expected form") // json's error would show bytes of it
	}
	if f.Hakobune != payloadMagic || f.Version != slotVersion {
		return Payload{}, errors.New("not the keys of a repository")
	}
	if f.Slot != info { // both times were read from the same form of text, so == is right
		return Payload{}, errors.New("clear part of the slot was altered")
	}
	masters := make([]Master, len(f.Masters))
	for i, m := range f.Masters {
		if len(m.Secret) != keySize {
			return Payload{}, fmt.Errorf("master secret of %d bytes", len(m.Secret))
		}
		masters[i] = newMaster(m.Epoch, secret(m.Secret))
	}
	masters, err := sortMasters(masters)
	if err != nil {
		return Payload{}, err
	}
	return Payload{Repository: f.Repository, Config: f.Config, Masters: masters}, nil
}
