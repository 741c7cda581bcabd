package crypto

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// RepositoryID names a repository. It is random and not secret. Every key is bound to it, so an
// object of one repository never opens in another, even under the same master secrets. In text and
// JSON it is 32 lower-case hex digits.
type RepositoryID [16]byte

// NewRepositoryID returns a fresh random id.
func NewRepositoryID() RepositoryID {
	var id RepositoryID
	rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

// String returns the hex form.
func (id RepositoryID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id RepositoryID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *RepositoryID) UnmarshalText(text []byte) error {
	return unhex("repository id", id[:], text)
}

// WriterID names one host that writes to a repository. It is random and not secret. In names of
// objects, text and JSON it is 16 lower-case hex digits.
type WriterID [8]byte

// NewWriterID returns a fresh random id.
func NewWriterID() WriterID {
	var id WriterID
	rand.Read(id[:]) // never fails, see crypto/rand
	return id
}

// String returns the hex form.
func (id WriterID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id WriterID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *WriterID) UnmarshalText(text []byte) error {
	return unhex("writer id", id[:], text)
}

// unhex fills dst from lower-case hex digits and leaves it alone on an error. Upper case is
// refused: one id has one name.
func unhex(what string, dst, text []byte) error {
	if len(text) != hex.EncodedLen(len(dst)) {
		return fmt.Errorf("%s: %d characters, want %d", what, len(text), hex.EncodedLen(len(dst)))
	}
	b, err := hex.AppendDecode(nil, text)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if hex.EncodeToString(b) != string(text) {
		return fmt.Errorf("%s: upper-case hex digit", what)
	}
	copy(dst, b)
	return nil
}
