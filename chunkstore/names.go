package chunkstore

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// The prefixes of object names; docs/format.md has the table.
const (
	configName    = "config"
	slotPrefix    = "k/"
	sessionPrefix = "s/"
	deltaPrefix   = "i/"
	segmentPrefix = "x/"
	outcomePrefix = "n/"
	markPrefix    = "g/"
	forgetPrefix  = "f/"
	recordPrefix  = "r/"
	claimPrefix   = "o/"
	hostPrefix    = "h/"
	dataPrefix    = "p/"
	metaPrefix    = "t/"
	asidePrefix   = "d/" // before the whole name of a damaged pack
	probePrefix   = "probe/"
)

// SessionID names a session: 6 bytes big-endian milliseconds since 1970 by the host's clock, then
// 10 random bytes. The clock orders names for readers; nothing relies on it.
type SessionID [16]byte

// newSessionID returns a fresh id that begins with now.
func newSessionID(now time.Time) SessionID {
	var id SessionID
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(id[:6], ms[2:])
	rand.Read(id[6:])
	return id
}

// String returns the 32 hex digits that stand in object names.
func (id SessionID) String() string { return hex.EncodeToString(id[:]) }

// Random returns the 20 hex digits of the random part, by which people name a snapshot.
func (id SessionID) Random() string { return hex.EncodeToString(id[6:]) }

// Started returns the host's time in the id.
func (id SessionID) Started() time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}

// MarshalText implements encoding.TextMarshaler.
func (id SessionID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *SessionID) UnmarshalText(b []byte) error { return parseHex(id[:], string(b), "session id") }

// PackID names a pack: the SHA-256 of its stored bytes.
type PackID [32]byte

// String returns the 64 hex digits that stand in object names.
func (id PackID) String() string { return hex.EncodeToString(id[:]) }

// PackRef is a pack with what is needed to name its object.
type PackRef struct {
	Kind   Kind // Data or Meta
	Writer crypto.WriterID
	ID     PackID
}

// packRefSize is the length of a PackRef in a list of packs: kind, writer, id.
const packRefSize = 1 + 8 + 32

func (p PackRef) append(b []byte) []byte {
	b = append(b, byte(p.Kind))
	b = append(b, p.Writer[:]...)
	return append(b, p.ID[:]...)
}

func parsePackRef(b []byte) (PackRef, error) {
	p := PackRef{Kind: Kind(b[0])}
	copy(p.Writer[:], b[1:9])
	copy(p.ID[:], b[9:])
	if p.Kind != Data && p.Kind != Meta {
		return PackRef{}, fmt.Errorf("%w: pack of unknown kind %d", crypto.ErrDamaged, b[0])
	}
	return p, nil
}

// Name returns the object's name, p/<writer>/<xx>/<id> or t/<writer>/<xx>/<id>.
func (p PackRef) Name() string {
	id := p.ID.String()
	return p.prefix() + p.Writer.String() + "/" + id[:2] + "/" + id
}

// sealName is the logical name that a pack's encryption is bound to. It cannot hold the hash of
// what it helps to produce; the pack's identity is held by that hash and by its own key.
func (p PackRef) sealName() string { return p.prefix() + p.Writer.String() }

func (p PackRef) prefix() string {
	if p.Kind == Data {
		return dataPrefix
	}
	return metaPrefix
}

func (p PackRef) sealType() crypto.Type {
	if p.Kind == Data {
		return crypto.TypeDataPack
	}
	return crypto.TypeMetaPack
}

// parsePackName is the inverse of Name.
func parsePackName(name string) (PackRef, error) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 || len(parts[3]) != 64 || parts[2] != parts[3][:2] {
		return PackRef{}, fmt.Errorf("%q is not the name of a pack", name)
	}
	var p PackRef
	switch parts[0] + "/" {
	case dataPrefix:
		p.Kind = Data
	case metaPrefix:
		p.Kind = Meta
	default:
		return PackRef{}, fmt.Errorf("%q is not the name of a pack", name)
	}
	if err := parseHex(p.Writer[:], parts[1], "writer"); err != nil {
		return PackRef{}, err
	}
	return p, parseHex(p.ID[:], parts[3], "pack id")
}

// sessionName returns prefix/<writer>/<session>.
func sessionName(prefix string, w crypto.WriterID, id SessionID) string {
	return prefix + w.String() + "/" + id.String()
}

// parseSessionName is the inverse of sessionName; of a delta's name it returns the part after the
// dash too.
func parseSessionName(prefix, name string) (w crypto.WriterID, id SessionID, rest string, err error) {
	writer, tail, ok := strings.Cut(strings.TrimPrefix(name, prefix), "/")
	if !ok || !strings.HasPrefix(name, prefix) {
		return w, id, "", fmt.Errorf("%q is not a name under %s", name, prefix)
	}
	tail, rest, _ = strings.Cut(tail, "-")
	if err := parseHex(w[:], writer, "writer"); err != nil {
		return w, id, "", fmt.Errorf("%q: %w", name, err)
	}
	if err := parseHex(id[:], tail, "session"); err != nil {
		return w, id, "", fmt.Errorf("%q: %w", name, err)
	}
	return w, id, rest, nil
}

// isObjectName tells whether an object of a repository may have the name; probes have none.
func isObjectName(name string) bool {
	if name == configName {
		return true
	}
	if id, ok := strings.CutPrefix(name, slotPrefix); ok {
		return parseHex(make([]byte, 8), id, "slot") == nil
	}
	if pack := strings.TrimPrefix(name, asidePrefix); strings.HasPrefix(pack, dataPrefix) || strings.HasPrefix(pack, metaPrefix) {
		_, err := parsePackName(pack)
		return err == nil
	}
	if _, _, _, err := parseClaimName(name); err == nil {
		return true
	}
	if id, ok := strings.CutPrefix(name, oldSlotPrefix); ok {
		return parseHex(make([]byte, 8), id, "slot") == nil
	}
	if w, ok := strings.CutPrefix(strings.TrimSuffix(hostFirst(name), removedSuffix), hostPrefix); ok {
		return parseHex(make([]byte, 8), w, "writer") == nil
	}
	for _, prefix := range []string{sessionPrefix, deltaPrefix, segmentPrefix, outcomePrefix, markPrefix, forgetPrefix, recordPrefix} {
		if _, _, _, err := parseSessionName(prefix, name); err == nil {
			return true
		}
	}
	return false
}

// parseHex decodes the lower-case hex s into dst, whose length it must match.
func parseHex(dst []byte, s, what string) error {
	if len(s) != hex.EncodedLen(len(dst)) || strings.ToLower(s) != s {
		return fmt.Errorf("%s %q: want %d lower-case hex digits", what, s, hex.EncodedLen(len(dst)))
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		return fmt.Errorf("%s %q: %w", what, s, err)
	}
	return nil
}
