package crypto

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"
)

// HKDF labels of the key schedule, see doc.go. Frozen: a changed label is another format.
const (
	labelObject  = "hakobune/1 object seed"
	labelChunk   = "hakobune/1 chunk id"
	labelNamed   = "hakobune/1 named id"
	labelChunker = "hakobune/1 chunker seed"
	labelWriter  = "hakobune/1 writer authentication"
	labelCache   = "hakobune/1 cache authentication"
	labelCollect = "hakobune/1 collection authentication"
	labelNotice  = "hakobune/1 notice seed"
	labelSign    = "hakobune/1 collection signature"
)

const keySize = 32

// secret is key material.
type secret *[keySize]byte

// Master is the secret of one key epoch, from which every key of that epoch is derived. Epochs count
// from 1. It prints as a placeholder in every form. The zero Master is not valid.
type Master struct {
	placeholder
	epoch  uint32
	secret hidden[secret]
}

// NewMaster returns a fresh random master secret for the given epoch.
func NewMaster(epoch uint32) Master {
	s := secret(new([keySize]byte))
	rand.Read(s[:]) // never fails, see crypto/rand
	return newMaster(epoch, s)
}

func newMaster(epoch uint32, s secret) Master {
	return Master{placeholder(fmt.Sprintf("[master secret of epoch %d]", epoch)), epoch, hide(s)}
}

// Keys holds the keys of one repository. It is immutable, safe for concurrent use, and prints as a
// placeholder in every form.
type Keys struct {
	placeholder
	repo RepositoryID
	ring hidden[*keyring]
}

type keyring struct {
	seeds   []secret // of the objects; seeds[i] is epoch i+1; a put-only host has none
	notices []secret // the same, of notices
	own     IDs
	shared  *macPool // of the names that all hosts know
	chunker secret
	writer  secret // a put-only host has none
	cache   secret
	collect secret
	sign    ed25519.PrivateKey // a put-only host has none
	verify  ed25519.PublicKey

	masters    []Master                          // a put-only host has none
	recipients []func() (hpke.PrivateKey, error) // of the epochs; nor these
	host       *hostKeys                         // of a put-only host
}

// NewKeys returns the keys that masters give in the repository repo. There must be one master for
// each epoch from 1 on, without a gap, in any order: the newest epoch seals, every epoch opens, and
// the keys of ids and of authentication come from epoch 1, so that they stay over rotations.
func NewKeys(repo RepositoryID, masters ...Master) (*Keys, error) {
	masters, err := sortMasters(masters)
	if err != nil {
		return nil, fmt.Errorf("keys of repository %v: %w", repo, err)
	}
	ring, err := newKeyring(repo, masters)
	if err != nil {
		return nil, fmt.Errorf("keys of repository %v: %w", repo, err)
	}
	return &Keys{placeholder(fmt.Sprintf("[keys of repository %v]", repo)), repo, hide(ring)}, nil
}

// newKeyring derives all keys from masters, which are in order.
func newKeyring(repo RepositoryID, masters []Master) (*keyring, error) {
	r := new(keyring)
	for _, m := range masters {
		seed, err := derive(m, repo, labelObject)
		if err != nil {
			return nil, err
		}
		notice, err := derive(m, repo, labelNotice)
		if err != nil {
			return nil, err
		}
		r.seeds, r.notices = append(r.seeds, seed), append(r.notices, notice)
		r.recipients = append(r.recipients, sync.OnceValues(func() (hpke.PrivateKey, error) { return recipientOf(m, repo) }))
	}
	var chunk, named, sign secret
	for _, d := range []struct {
		dst   *secret
		label string
	}{
		{&chunk, labelChunk},
		{&named, labelNamed},
		{&r.chunker, labelChunker},
		{&r.writer, labelWriter},
		{&r.cache, labelCache},
		{&r.collect, labelCollect},
		{&sign, labelSign},
	} {
		var err error
		if *d.dst, err = derive(masters[0], repo, d.label); err != nil {
			return nil, err
		}
	}
	r.own = IDs{chunk: newMACPool(chunk), named: newMACPool(named)}
	r.shared, r.masters = r.own.named, masters
	r.sign = ed25519.NewKeyFromSeed(sign[:])
	r.verify = r.sign.Public().(ed25519.PublicKey)
	return r, nil
}

// sortMasters returns masters in order of their epochs, which must be 1, 2, ... len(masters).
func sortMasters(masters []Master) ([]Master, error) {
	if len(masters) == 0 {
		return nil, errors.New("no master secret")
	}
	masters = slices.Clone(masters)
	slices.SortFunc(masters, func(a, b Master) int { return int(int64(a.epoch) - int64(b.epoch)) })
	for i, m := range masters {
		if m.secret == nil || int64(m.epoch) != int64(i)+1 {
			return nil, fmt.Errorf("master secrets: epoch %d where %d belongs", m.epoch, i+1)
		}
	}
	return masters, nil
}

// derive is HKDF-SHA-256 with the repository as salt (RFC 5869).
func derive(m Master, repo RepositoryID, label string) (secret, error) {
	b, err := hkdf.Key(sha256.New, m.secret()[:], repo[:], label, keySize)
	if err != nil { // only where FIPS 140-only mode forbids it
		return nil, fmt.Errorf("derive %q: %w", label, err)
	}
	return secret(b), nil
}

// Repository returns the repository that the keys belong to.
func (k *Keys) Repository() RepositoryID { return k.repo }

// IDs gives chunks their ids: those of one put-only host, or all others of the repository. It is immutable and safe for
// concurrent use.
type IDs struct {
	chunk, named *macPool
	host         *WriterID // nil: no put-only host's
}

// ChunkID returns the id of a chunk with the given plaintext: HMAC-SHA-256 under a key of the
// repository. It does not allocate.
func (d IDs) ChunkID(plain []byte) [32]byte { return d.of(d.chunk.sum(plain)) }

// NamedID returns the id of the value stored under name. No name's id is a chunk's id: the two have
// different keys.
func (d IDs) NamedID(name string) [32]byte { return d.of(d.named.sum([]byte(name))) }

// of lets a put-only host's ids end in what they are of.
func (d IDs) of(id [32]byte) [32]byte {
	if d.host != nil {
		copy(id[len(id)-len(d.host):], d.host[:])
	}
	return id
}

// ChunkID is IDs.ChunkID for the chunks that k seals.
func (k *Keys) ChunkID(plain []byte) [32]byte { return k.ring().own.ChunkID(plain) }

// NamedID is IDs.NamedID for the chunks that k seals.
func (k *Keys) NamedID(name string) [32]byte { return k.ring().own.NamedID(name) }

// SharedID returns the id of a name that all who have keys know alike, put-only hosts too.
func (k *Keys) SharedID(name string) [32]byte { return k.ring().shared.sum([]byte(name)) }

// ChunkerSeed returns the endless stream of secret pseudo-random bytes that the repository's
// chunking polynomial is drawn from. Every call returns the same stream from its start. A reader is
// for one goroutine.
func (k *Keys) ChunkerSeed() io.Reader { return &keyStream{key: k.ring().chunker} }

// MAC returns the authentication tag of msg under the key of writer w: HMAC-SHA-256 under
// HMAC-SHA-256(writer key of the repository, w). Compare tags with hmac.Equal.
//
// A put-only host has the key of one writer, itself; its tags for another are good for nothing.
func (k *Keys) MAC(w WriterID, msg []byte) [32]byte {
	key := k.writerKey(w)
	return mac(&key, msg)
}

func (k *Keys) writerKey(w WriterID) [keySize]byte {
	switch r := k.ring(); {
	case r.host == nil:
		return mac(r.writer, w[:])
	case r.host.writer == w:
		return *r.host.mac
	}
	return [keySize]byte{}
}

// CollectionMAC returns the authentication tag that stood before msg in the place of a signature until there were
// such. Compare tags with hmac.Equal.
func (k *Keys) CollectionMAC(msg []byte) [32]byte { return mac(k.ring().collect, msg) }

// SignatureSize is the length of what Sign returns.
const SignatureSize = ed25519.SignatureSize

// Sign returns the signature of msg, in an object of that type and logical name, by those who may take something out
// of the repository: forget snapshots, condemn packs, give a system to another site. Signing the same again gives the
// same. A put-only host gets ErrPutOnly.
func (k *Keys) Sign(t Type, name string, msg []byte) ([]byte, error) {
	r := k.ring()
	if r.host != nil {
		return nil, fmt.Errorf("sign %v object %q: %w", t, name, ErrPutOnly)
	}
	return ed25519.Sign(r.sign, signedText(t, name, msg)), nil
}

// IsSigned reports whether Sign made sig for the same arguments.
func (k *Keys) IsSigned(t Type, name string, msg, sig []byte) bool {
	return ed25519.Verify(k.ring().verify, signedText(t, name, msg), sig)
}

// signedText is what a signature is over: type ‖ length of the name (4 bytes, big-endian) ‖ name ‖ msg.
func signedText(t Type, name string, msg []byte) []byte {
	text := make([]byte, 0, 1+4+len(name)+len(msg))
	text = append(text, byte(t))
	text = binary.BigEndian.AppendUint32(text, uint32(len(name)))
	text = append(text, name...)
	return append(text, msg...)
}

// CacheMAC returns a new HMAC-SHA-256 under the key for files that this repository's users keep on
// their own disks: what is written to it is authenticated by its sum. Compare tags with hmac.Equal.
func (k *Keys) CacheMAC() hash.Hash { return hmac.New(sha256.New, k.ring().cache[:]) }

func mac(key secret, msg []byte) (sum [32]byte) {
	h := hmac.New(sha256.New, key[:])
	h.Write(msg)
	h.Sum(sum[:0])
	return sum
}

// macPool computes HMAC-SHA-256 under one key, without allocation once it is warm: an HMAC that is
// reset keeps the state of its two padded keys.
type macPool struct{ pool sync.Pool }

type macState struct {
	h   hash.Hash
	out [32]byte // here because what passes through hash.Hash escapes to the heap
}

func newMACPool(key secret) *macPool {
	return &macPool{sync.Pool{New: func() any {
		return &macState{h: hmac.New(sha256.New, key[:])}
	}}}
}

func (p *macPool) sum(msg []byte) [32]byte {
	s := p.pool.Get().(*macState)
	defer p.pool.Put(s)
	s.h.Reset()
	s.h.Write(msg)
	s.h.Sum(s.out[:0])
	return s.out
}

// keyStream is HMAC-SHA-256(key, n) for n = 0, 1, 2, ... as 8 bytes big-endian, back to back.
type keyStream struct {
	key   secret
	next  uint64
	block [32]byte
	rest  []byte // of block
}

// Read fills p and never fails.
func (s *keyStream) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		if len(s.rest) == 0 {
			s.block = mac(s.key, binary.BigEndian.AppendUint64(nil, s.next))
			s.next++
			s.rest = s.block[:]
		}
		c := copy(p[n:], s.rest)
		s.rest = s.rest[c:]
		n += c
	}
	return len(p), nil
}
