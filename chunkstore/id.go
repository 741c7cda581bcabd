package chunkstore

import (
	"encoding/hex"
	"fmt"
)

// ID names a chunk: HMAC-SHA-256 of its plaintext under a key of the repository. In text and JSON
// it is 64 lower-case hex digits.
type ID [32]byte

// String returns the hex form.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero ID, which names no chunk.
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(id)) {
		return fmt.Errorf("chunk id: %d characters, want %d", len(b), hex.EncodedLen(len(id)))
	}
	if _, err := hex.Decode(id[:], b); err != nil {
		return fmt.Errorf("chunk id: %w", err)
	}
	return nil
}

// Ref is a piece of a chunk's plaintext: Length bytes from Offset. A whole chunk has Offset 0 and
// its own length.
type Ref struct {
	ID     ID     `json:"id"`
	Offset uint32 `json:"offset,omitempty"`
	Length uint32 `json:"length"`
}

// Kind says what a chunk holds, and so which kind of pack it lies in.
type Kind uint8

// The kinds of chunks.
const (
	Data  Kind = 1 // contents of files and layers: packs "p/", may be in a cold storage class
	Meta  Kind = 2 // recipes, lists and snapshot bodies: packs "t/", always hot, cached locally
	Named Kind = 3 // a value under a name (see Session.SetNamed); lies in "t/" packs
)

// Stream is a sequence of bytes stored as metadata chunks: a recipe, a list, a snapshot's body.
// Where the list of chunks would be long it is itself stored as a stream, Depth times over.
type Stream struct {
	Size   int64 `json:"size"`            // bytes of the stream itself
	Depth  int   `json:"depth,omitempty"` // 0: Chunks are the stream; n: they are the stream of depth n-1's chunk list
	Chunks []Ref `json:"chunks,omitempty"`
}
