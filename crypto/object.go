package crypto

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Errors that callers branch on. Others wrap them.
var (
	// ErrDamaged says that bytes are not what was sealed under that type and name in that repository:
	// altered, cut, extended, or put in the place of others.
	ErrDamaged = errors.New("damaged")
	// ErrWrongKey says that the key at hand is not the one: of another epoch, or a secret that does
	// not open this slot.
	ErrWrongKey = errors.New("wrong key")
	// ErrRotated says that an object names a key epoch that the keys at hand do not reach to: there was a
	// rotation since they were read from their slot. It comes with ErrWrongKey.
	ErrRotated = errors.New("the keys were rotated")
	// ErrPutOnly says that a put-only host's keys were to do something that it can not: anything but add snapshots
	// of its own.
	ErrPutOnly = errors.New("a put-only credential only adds snapshots")
	// ErrNewer says that the bytes demand something that this version does not know.
	ErrNewer = errors.New("written by a newer version")
)

// Type says what an object holds. It is part of the object's key.
type Type byte

// The types of objects.
const (
	TypeSession  Type = 's' // intent of a backup
	TypeDelta    Type = 'i' // index delta of a session
	TypeSegment  Type = 'x' // consolidated index segment
	TypeOutcome  Type = 'n' // outcome of a session: a snapshot, or an abort
	TypeMark     Type = 'g' // mark of a garbage collection
	TypeForget   Type = 'f' // forget record
	TypeRecord   Type = 'r' // record of something that was done
	TypeDataPack Type = 'p' // pack of data chunks
	TypeMetaPack Type = 't' // pack of metadata chunks
	TypeClaim    Type = 'o' // claim: whose a system is
	TypeHost     Type = 'h' // put-only host, or that it was removed
	TypeManifest Type = 'm' // what a put-only host's outcome tells of its snapshot; within that
)

// String returns the type's letter in quotes.
func (t Type) String() string { return fmt.Sprintf("%q", rune(t)) }

// HeaderSize is the length of the clear header that every object begins with.
const HeaderSize = 64

// EncapsulationSize is the length of what follows the header of an object that only those can open who have all
// keys: 32 bytes of X25519 and 1088 of ML-KEM-768.
const EncapsulationSize = 1120

const (
	magic            = "HAKO"
	objectVersion    = 1
	schemeDARE       = 1 // DARE 2.0 under AES-256-GCM, key by HKDF-SHA-256 from the epoch's seed
	schemeSealed     = 2 // the same, from an encapsulated secret and the seed of a put-only host: it cannot open it either
	schemeHost       = 3 // the same, from the seed of a put-only host
	schemeNotice     = 4 // the same, from the epoch's seed of notices
	saltSize         = 32
	offVersion       = 4
	offType          = 5
	offScheme        = 6
	offFlags         = 7
	offEpoch         = 8
	offEncapsulation = 12
	offZero          = 14
	offSalt          = 16
	offReserved      = offSalt + saltSize
)

// SealedSize returns the stored bytes of an object of plain (at least 1) bytes of plaintext.
func SealedSize(plain int64) int64 { return HeaderSize + streamSize(plain) }

// PlainSize returns the plaintext bytes of an object of the given stored bytes. No plaintext gives
// some sizes: then the error wraps ErrDamaged.
func PlainSize(object int64) (int64, error) {
	plain, ok := streamPlain(object - HeaderSize)
	if !ok {
		return 0, fmt.Errorf("object of %d bytes: %w: no plaintext has this size when sealed", object, ErrDamaged)
	}
	return plain, nil
}

// Encapsulated returns the length of the encapsulation that the header of an object says is behind it, of at least
// HeaderSize bytes: so many bytes more has the object, and so much later begins its stream.
func Encapsulated(header []byte) int64 {
	if header[offScheme] != schemeSealed {
		return 0
	}
	return int64(binary.BigEndian.Uint16(header[offEncapsulation:]))
}

// OfHost reports whether the header of an object, of at least HeaderSize bytes, says that a put-only host's keys sealed
// it.
func OfHost(header []byte) bool {
	return header[offScheme] == schemeSealed || header[offScheme] == schemeHost
}

// StoredRange returns which stored bytes of an object hold plain[off:off+n] of its plainSize bytes of
// plaintext: whole packages of 64 KiB. A range that is empty or not within the plaintext has none:
// 0, 0.
func StoredRange(plainSize, off, n int64) (storedOff, storedLen int64) {
	if n <= 0 || off < 0 || plainSize <= 0 || plainSize > maxPlain || off > plainSize-n {
		return 0, 0
	}
	first, end := packageSpan(plainSize, off, n)
	storedOff = HeaderSize + first/packagePlain*packageStored
	return storedOff, streamSize(end - first)
}

// packageSpan extends the range to whole packages: plain[first:end].
func packageSpan(plainSize, off, n int64) (first, end int64) {
	first = off - off%packagePlain
	end = (off + n + packagePlain - 1) / packagePlain * packagePlain
	return first, min(end, plainSize)
}

// Seal returns the object that holds plain, which must not be empty: SealedSize(len(plain)) bytes in
// one new slice. Only the same keys, type and name open it. name is the object's logical name; where
// the stored name is the hash of the stored bytes it cannot be part of it. Sealing the same plain
// again gives another object.
func (k *Keys) Seal(t Type, name string, plain []byte) ([]byte, error) {
	return k.SealTo(nil, t, name, plain)
}

// SealTo is Seal into buf's memory, from its beginning, where that suffices. buf must not overlap
// plain.
func (k *Keys) SealTo(buf []byte, t Type, name string, plain []byte) ([]byte, error) {
	object, err := k.seal(buf, rand.Reader, t, name, plain)
	if err != nil {
		return nil, fmt.Errorf("seal %v object %q: %w", t, name, err)
	}
	return object, nil
}

// SealPack is SealTo that also returns what opens the object again, into buf's memory as OpenTo does, also where k
// does not: so that it can be proven before it is stored.
func (k *Keys) SealPack(buf []byte, t Type, name string, plain []byte) (object []byte, open func(buf []byte) ([]byte, error), err error) {
	object, key, err := k.sealed(buf, rand.Reader, k.schemeFor(t), t, name, plain)
	if err != nil {
		return nil, nil, fmt.Errorf("seal %v object %q: %w", t, name, err)
	}
	if k.ring().host == nil { // from the object alone
		return object, func(buf []byte) ([]byte, error) { return k.OpenTo(buf, t, name, object) }, nil
	}
	return object, func(buf []byte) ([]byte, error) { return decrypt(buf, object[HeaderSize+Encapsulated(object):], key) }, nil
}

// SealForHost is Seal of an object that is a put-only host's to open too: the one of which the logical name is.
func (k *Keys) SealForHost(t Type, name string, plain []byte) ([]byte, error) {
	object, _, err := k.sealed(nil, rand.Reader, schemeHost, t, name, plain)
	if err != nil {
		return nil, fmt.Errorf("seal %v object %q: %w", t, name, err)
	}
	return object, nil
}

// seal is SealTo with a source of randomness: first the salt, then the stream's nonce.
func (k *Keys) seal(buf []byte, random io.Reader, t Type, name string, plain []byte) ([]byte, error) {
	object, _, err := k.sealed(buf, random, k.schemeFor(t), t, name, plain)
	return object, err
}

// schemeFor returns the scheme that k seals objects of a type in.
func (k *Keys) schemeFor(t Type) byte {
	switch {
	case k.ring().host == nil && (t == TypeMark || t == TypeClaim):
		return schemeNotice
	case k.ring().host == nil:
		return schemeDARE
	case t == TypeDataPack || t == TypeMetaPack || t == TypeManifest:
		return schemeSealed
	}
	return schemeHost
}

// allowed reports whether objects of a type may be sealed in a scheme.
func allowed(scheme byte, t Type) bool {
	switch scheme {
	case schemeSealed:
		return t == TypeDataPack || t == TypeMetaPack || t == TypeManifest
	case schemeHost:
		return t == TypeSession || t == TypeDelta || t == TypeSegment || t == TypeOutcome
	case schemeNotice:
		return t == TypeMark || t == TypeClaim
	}
	return scheme == schemeDARE
}

// sealed seals plain in a scheme, and returns the object's key too.
func (k *Keys) sealed(buf []byte, random io.Reader, scheme byte, t Type, name string, plain []byte) ([]byte, secret, error) {
	if len(plain) == 0 {
		return nil, nil, errors.New("empty plaintext")
	}
	if !allowed(scheme, t) {
		return nil, nil, ErrPutOnly
	}
	epoch := k.Epoch()
	seed, encapsulation, err := k.sealingSeed(scheme, epoch, name)
	if err != nil {
		return nil, nil, err
	}
	head := HeaderSize + int64(len(encapsulation))
	object := within(buf, head+streamSize(int64(len(plain))))
	header := object[:head]
	clear(header)
	copy(header, magic)
	header[offVersion] = objectVersion
	header[offType] = byte(t)
	header[offScheme] = scheme
	binary.BigEndian.PutUint32(header[offEpoch:], epoch)
	binary.BigEndian.PutUint16(header[offEncapsulation:], uint16(len(encapsulation)))
	copy(header[HeaderSize:], encapsulation)
	if _, err := io.ReadFull(random, header[offSalt:offReserved]); err != nil {
		return nil, nil, err
	}
	key, err := k.objectKey(seed, t, name, header)
	if err != nil {
		return nil, nil, err
	}
	return object, key, encrypt(object[head:], plain, key, random)
}

// Open returns the plaintext of a whole object in a new slice. Nothing of the object is believed
// before it is verified. The error wraps ErrDamaged, or ErrWrongKey and ErrRotated where the object names
// an epoch that k does not hold, or ErrNewer where it names a version, scheme or flag that is not known. (The
// last two can be damage as well: a header can only be verified by whoever understands it.)
func (k *Keys) Open(t Type, name string, object []byte) ([]byte, error) {
	return k.OpenTo(nil, t, name, object)
}

// OpenTo is Open into buf's memory, from its beginning, where that suffices. buf must not overlap
// object. After an error buf may hold parts of the plaintext.
func (k *Keys) OpenTo(buf []byte, t Type, name string, object []byte) ([]byte, error) {
	plain, err := k.open(buf, t, name, object)
	if err != nil {
		return nil, fmt.Errorf("open %v object %q: %w", t, name, err)
	}
	return plain, nil
}

// within returns size bytes of buf's memory, or new ones if it has less.
func within(buf []byte, size int64) []byte {
	if int64(cap(buf)) < size {
		return make([]byte, size)
	}
	return buf[:size]
}

func (k *Keys) open(buf []byte, t Type, name string, object []byte) ([]byte, error) {
	if len(object) < HeaderSize || int64(len(object)) < HeaderSize+Encapsulated(object) {
		return nil, fmt.Errorf("%w: %d bytes are less than a header", ErrDamaged, len(object))
	}
	head := HeaderSize + Encapsulated(object)
	key, err := k.headerKey(t, name, object[:head])
	if err != nil {
		return nil, err
	}
	plain, err := decrypt(buf, object[head:], key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain, nil
}

// OpenRange returns plain[off:off+n] of an object. header is the object's first HeaderSize bytes and, where they say so
// (Encapsulated), the encapsulation behind them, plainSize the size of its plaintext (see PlainSize), and stored the bytes that
// StoredRange(plainSize, off, n) names. The result shares no memory with the arguments. Errors are as
// with Open; besides, an empty range or one that is not within the plaintext is an error.
//
// It proves that these are the right bytes of that object, and where the range reaches the end of the
// plaintext, that plainSize is right. It says nothing about other packages of the object.
func (k *Keys) OpenRange(t Type, name string, header []byte, plainSize, off, n int64, stored []byte) ([]byte, error) {
	plain, err := k.openRange(t, name, header, plainSize, off, n, stored)
	if err != nil {
		return nil, fmt.Errorf("open %v object %q, %d bytes at %d: %w", t, name, n, off, err)
	}
	return plain, nil
}

func (k *Keys) openRange(t Type, name string, header []byte, plainSize, off, n int64, stored []byte) ([]byte, error) {
	_, storedLen := StoredRange(plainSize, off, n)
	if storedLen == 0 {
		return nil, fmt.Errorf("not a range of %d bytes", plainSize)
	}
	if len(header) < HeaderSize || int64(len(header)) != HeaderSize+Encapsulated(header) || int64(len(stored)) != storedLen {
		return nil, fmt.Errorf("%w: header of %d and range of %d bytes, want %d", ErrDamaged, len(header), len(stored), storedLen)
	}
	key, err := k.headerKey(t, name, header)
	if err != nil {
		return nil, err
	}
	first, end := packageSpan(plainSize, off, n)
	plain := make([]byte, end-first)
	if err := decryptRange(plain, stored, key, uint32(first/packagePlain), end == plainSize); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return plain[off-first : off-first+n : off-first+n], nil
}

// Epoch returns the key epoch that seals: the newest one.
func (k *Keys) Epoch() uint32 { return uint32(len(k.ring().notices)) }

// ObjectEpoch returns the key epoch that the header of an object names, of at least HeaderSize bytes. Nothing
// proves it until the object is opened.
func ObjectEpoch(header []byte) uint32 { return binary.BigEndian.Uint32(header[offEpoch:]) }

// headerKey checks an object's header, with the encapsulation, and returns the key of the object.
func (k *Keys) headerKey(t Type, name string, header []byte) (secret, error) {
	scheme, epoch, err := parseHeader(t, header)
	if err != nil {
		return nil, err
	}
	if epoch > k.Epoch() {
		return nil, fmt.Errorf("%w: %w: epoch %d, keys reach to %d", ErrWrongKey, ErrRotated, epoch, k.Epoch())
	}
	seed, err := k.openingSeed(scheme, epoch, name, header[HeaderSize:])
	if err != nil {
		return nil, err
	}
	return k.objectKey(seed, t, name, header)
}

// parseHeader checks the clear header of an object of type t and returns the scheme and the key epoch.
func parseHeader(t Type, header []byte) (scheme byte, epoch uint32, err error) {
	scheme, epoch = header[offScheme], ObjectEpoch(header)
	encapsulation, want := int(binary.BigEndian.Uint16(header[offEncapsulation:])), 0
	if scheme == schemeSealed {
		want = EncapsulationSize
	}
	switch {
	case string(header[:offVersion]) != magic:
		return 0, 0, fmt.Errorf("%w: no object header", ErrDamaged)
	case header[offVersion] == 0 || header[offScheme] == 0 || epoch == 0:
		return 0, 0, fmt.Errorf("%w: zero version, scheme or epoch", ErrDamaged)
	case header[offVersion] > objectVersion:
		return 0, 0, fmt.Errorf("%w: object version %d, newest known is %d", ErrNewer, header[offVersion], objectVersion)
	case scheme > schemeNotice:
		return 0, 0, fmt.Errorf("%w: sealing scheme %d", ErrNewer, scheme)
	case header[offFlags] != 0:
		return 0, 0, fmt.Errorf("%w: mandatory flags %#02x, none is known", ErrNewer, header[offFlags])
	case Type(header[offType]) != t:
		return 0, 0, fmt.Errorf("%w: object of type %v", ErrDamaged, Type(header[offType]))
	case !allowed(scheme, t):
		return 0, 0, fmt.Errorf("%w: object of type %v in sealing scheme %d", ErrDamaged, t, scheme)
	case encapsulation != want || len(header) != HeaderSize+want:
		return 0, 0, fmt.Errorf("%w: encapsulation of %d bytes, want %d", ErrDamaged, encapsulation, want)
	case !allZero(header[offZero:offSalt]) || !allZero(header[offReserved:HeaderSize]):
		return 0, 0, fmt.Errorf("%w: reserved bytes are not zero", ErrDamaged)
	}
	return scheme, epoch, nil
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// objectKey derives the key of one object: HKDF-SHA-256 from the seed of its scheme and epoch, with the salt of
// its header, for type ‖ repository id ‖ length of name (4 bytes, big-endian) ‖ name ‖ SHA-256(header).
func (k *Keys) objectKey(seed []byte, t Type, name string, header []byte) (secret, error) {
	sum := sha256.Sum256(header)
	info := make([]byte, 0, 1+len(k.repo)+4+len(name)+len(sum))
	info = append(info, byte(t))
	info = append(info, k.repo[:]...)
	info = binary.BigEndian.AppendUint32(info, uint32(len(name)))
	info = append(info, name...)
	info = append(info, sum[:]...)
	key, err := hkdf.Key(sha256.New, seed, header[offSalt:offReserved], string(info), keySize)
	if err != nil { // only where FIPS 140-only mode forbids it
		return nil, err
	}
	return secret(key), nil
}
