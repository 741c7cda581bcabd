package crypto

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Secret is what a key slot is sealed for, or opened with. It prints as a placeholder in every form.
type Secret interface {
	kind() string
	// lock puts plain into the fields of f that belong to the kind.
	lock(f *slotFile, cost KDF, plain []byte) error
	// unlock is its inverse. The error wraps ErrWrongKey or ErrDamaged.
	unlock(f *slotFile) ([]byte, error)
}

// The kinds of slots.
const (
	kindPassphrase = "passphrase"
	kindKeyFile    = "keyfile"
	kindAge        = "age"
)

// HKDF labels of slots. Frozen like those of the key schedule.
const (
	labelCommitment = "hakobune/1 slot commitment"
	labelSlot       = "hakobune/1 slot key"
)

type passphrase struct {
	placeholder
	bytes hidden[[]byte]
}

// Passphrase returns the secret of a passphrase slot. The bytes are taken as they are, without
// normalisation, and copied. An empty passphrase neither seals nor opens.
func Passphrase(p []byte) Secret {
	return &passphrase{"[passphrase]", hide(bytes.Clone(p))}
}

func (*passphrase) kind() string { return kindPassphrase }

func (p *passphrase) lock(f *slotFile, cost KDF, plain []byte) error {
	cost = cost.orDefault(machineKiB())
	if err := cost.check(); err != nil {
		return err
	}
	if len(p.bytes()) == 0 {
		return errors.New("empty passphrase")
	}
	f.KDF = &slotKDF{"argon2id", cost}
	f.Salt = newSalt()
	return f.box(cost.key(p.bytes(), f.Salt), plain)
}

func (p *passphrase) unlock(f *slotFile) ([]byte, error) {
	return f.unbox(f.KDF.key(p.bytes(), f.Salt))
}

type keyFile struct {
	placeholder
	content hidden[[]byte]
}

const keyFileComment = "# hakobune key file: opens every backup of its repository, keep it secret\n"

// NewKeyFile returns the content of a fresh key file: a line of comment, and a line with 32 random
// bytes in base64.
func NewKeyFile() []byte {
	key := make([]byte, keySize)
	rand.Read(key) // never fails, see crypto/rand
	return append(base64.StdEncoding.AppendEncode([]byte(keyFileComment), key), '\n')
}

// KeyFile returns the secret of a key-file slot: the content of a file that NewKeyFile made. Empty
// lines, lines that begin with "#", and space around lines do not matter.
func KeyFile(content []byte) Secret {
	return &keyFile{"[key file]", hide(bytes.Clone(content))}
}

func (*keyFile) kind() string { return kindKeyFile }

func (k *keyFile) lock(f *slotFile, _ KDF, plain []byte) error {
	key, err := k.parse()
	if err != nil {
		return err
	}
	f.Salt = newSalt()
	return f.box(key, plain)
}

func (k *keyFile) unlock(f *slotFile) ([]byte, error) {
	key, err := k.parse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWrongKey, err)
	}
	return f.unbox(key)
}

// parse returns the key in the file. Errors show nothing of the content.
func (k *keyFile) parse() (secret, error) {
	var key []byte
	for line := range bytes.Lines(k.content()) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		b, err := base64.StdEncoding.Strict().DecodeString(string(line))
		if err != nil || len(b) != keySize || key != nil {
			return nil, fmt.Errorf("key file: not one line of %d bytes in base64", keySize)
		}
		key = b
	}
	if key == nil {
		return nil, errors.New("key file: no key in it")
	}
	return secret(key), nil
}

type ageRecipient struct {
	placeholder
	recipient age.Recipient
}

// AgeRecipient returns what seals an age slot: a public key as age-keygen prints it ("age1...", or
// "age1pq1..." against quantum computers). It opens nothing.
func AgeRecipient(s string) (Secret, error) {
	rs, err := age.ParseRecipients(strings.NewReader(s))
	if err != nil {
		return nil, fmt.Errorf("age recipient: %w", err)
	}
	if len(rs) != 1 {
		return nil, fmt.Errorf("age recipient: %d of them, want 1", len(rs))
	}
	return &ageRecipient{"[age recipient]", rs[0]}, nil
}

func (*ageRecipient) kind() string { return kindAge }

func (r *ageRecipient) lock(f *slotFile, _ KDF, plain []byte) error {
	var text strings.Builder
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, r.recipient)
	if err != nil {
		return err
	}
	if _, err := w.Write(plain); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := armored.Close(); err != nil {
		return err
	}
	f.Age = text.String()
	return nil
}

func (*ageRecipient) unlock(*slotFile) ([]byte, error) {
	return nil, fmt.Errorf("%w: an age recipient only seals, its identity opens", ErrWrongKey)
}

type ageIdentities struct {
	placeholder
	identities hidden[[]age.Identity]
}

// AgeIdentities returns what opens an age slot: the content of an identity file as age-keygen writes
// it, with one or more private keys. It seals nothing.
func AgeIdentities(r io.Reader) (Secret, error) {
	ids, err := age.ParseIdentities(r)
	if err != nil {
		return nil, fmt.Errorf("age identities: %w", err)
	}
	return &ageIdentities{"[age identities]", hide(ids)}, nil
}

func (*ageIdentities) kind() string { return kindAge }

func (*ageIdentities) lock(*slotFile, KDF, []byte) error {
	return errors.New("age identities only open, a recipient seals")
}

func (i *ageIdentities) unlock(f *slotFile) ([]byte, error) {
	file, err := dearmor(f.Age)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	r, err := age.Decrypt(bytes.NewReader(file), i.identities()...)
	if _, ok := errors.AsType[*age.NoIdentityMatchError](err); ok {
		return nil, fmt.Errorf("%w: %w", ErrWrongKey, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	plain, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, nil
}

// dearmor returns the bytes of an armored age file. Only the one text that age itself writes for them
// is accepted, where age's reader tolerates space around it and other ends of lines: nothing that was
// altered passes in silence.
func dearmor(text string) ([]byte, error) {
	file, err := io.ReadAll(armor.NewReader(strings.NewReader(text)))
	if err != nil {
		return nil, err
	}
	var again strings.Builder
	w := armor.NewWriter(&again)
	if _, err := w.Write(file); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if again.String() != text {
		return nil, errors.New("armor is not as age writes it")
	}
	return file, nil
}

func newSalt() []byte {
	salt := make([]byte, saltSize)
	rand.Read(salt) // never fails, see crypto/rand
	return salt
}

// box seals plain under a key derived from root and f.Salt, and commits to that key.
func (f *slotFile) box(root secret, plain []byte) error {
	commitment, aead, err := f.boxKeys(root)
	if err != nil {
		return err
	}
	f.Commitment = commitment
	f.Box = aead.Seal(nil, nil, plain, nil)
	return nil
}

// unbox is the inverse of box. GCM alone would open one ciphertext under several keys that an attacker
// chose together, and so tell with one attempt which of them holds; the commitment does not.
func (f *slotFile) unbox(root secret) ([]byte, error) {
	commitment, aead, err := f.boxKeys(root)
	if err != nil {
		return nil, err
	}
	if !hmac.Equal(commitment, f.Commitment) {
		return nil, ErrWrongKey
	}
	plain, err := aead.Open(nil, nil, f.Box, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, nil
}

// boxKeys derives the commitment and the cipher of a slot: AES-256-GCM that puts 12 random bytes of
// nonce before the ciphertext.
func (f *slotFile) boxKeys(root secret) (commitment []byte, aead cipher.AEAD, err error) {
	if commitment, err = hkdf.Key(sha256.New, root[:], f.Salt, labelCommitment, commitmentSize); err != nil {
		return nil, nil, err // only where FIPS 140-only mode forbids it
	}
	key, err := hkdf.Key(sha256.New, root[:], f.Salt, labelSlot, keySize)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, nil, err
	}
	aead, err = cipher.NewGCMWithRandomNonce(block)
	return commitment, aead, err
}
