package crypto

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// HKDF labels of what concerns put-only hosts. Frozen like the others.
const (
	labelHost      = "hakobune/1 put-only host" // ‖ its writer id
	labelHostSeed  = "hakobune/1 host seed"
	labelRecipient = "hakobune/1 recipient"
	labelSealed    = "hakobune/1 sealed object"
)

// hostKeys are the keys that a put-only host has and others of its kind have not.
type hostKeys struct {
	writer    WriterID
	seeds     []secret // of the epochs
	mac       secret   // of the writer
	recipient hpke.PublicKey
}

// sealingSeed returns what the key of an object comes from that is to be sealed, and its encapsulation.
func (k *Keys) sealingSeed(scheme byte, epoch uint32, name string) (seed, encapsulation []byte, err error) {
	r := k.ring()
	if scheme != schemeSealed {
		seed, err = k.openingSeed(scheme, epoch, name, nil)
		return seed, nil, err
	}
	host, err := k.hostSeed(epoch, name)
	if err != nil {
		return nil, nil, err
	}
	encapsulation, sender, err := hpke.NewSender(r.host.recipient, hpke.HKDFSHA256(), hpke.ExportOnly(), k.sealedInfo())
	if err != nil {
		return nil, nil, err
	}
	shared, err := sender.Export(labelSealed, keySize)
	return slices.Concat(shared, host[:]), encapsulation, err
}

// openingSeed returns what the key of an object comes from that is to be opened.
func (k *Keys) openingSeed(scheme byte, epoch uint32, name string, encapsulation []byte) ([]byte, error) {
	r := k.ring()
	switch {
	case scheme == schemeNotice:
		return r.notices[epoch-1][:], nil
	case scheme == schemeDARE && r.host == nil:
		return r.seeds[epoch-1][:], nil
	case scheme == schemeDARE || scheme == schemeSealed && r.host != nil:
		return nil, fmt.Errorf("%w: %w", ErrWrongKey, ErrPutOnly)
	}
	host, err := k.hostSeed(epoch, name)
	if err != nil || scheme == schemeHost {
		return host[:], err
	}
	private, err := r.recipients[epoch-1]()
	if err != nil {
		return nil, err
	}
	recipient, err := hpke.NewRecipient(encapsulation, private, hpke.HKDFSHA256(), hpke.ExportOnly(), k.sealedInfo())
	if err != nil {
		return nil, fmt.Errorf("%w: encapsulation: %w", ErrDamaged, err)
	}
	shared, err := recipient.Export(labelSealed, keySize)
	return slices.Concat(shared, host[:]), err
}

// sealedInfo is HPKE's info: no encapsulation of one repository means anything in another.
func (k *Keys) sealedInfo() []byte { return append([]byte(labelSealed), k.repo[:]...) }

// hostSeed returns the seed of the put-only host of which an object's logical name is: its id stands behind the first
// slash. The result is never nil.
func (k *Keys) hostSeed(epoch uint32, name string) (secret, error) {
	var w WriterID
	_, tail, _ := strings.Cut(name, "/")
	if err := w.UnmarshalText([]byte(tail[:min(len(tail), 2*len(w))])); err != nil {
		return new([keySize]byte), fmt.Errorf("%w: the name is no writer's: %w", ErrDamaged, err)
	}
	r := k.ring()
	if r.host != nil {
		if r.host.writer != w {
			return new([keySize]byte), fmt.Errorf("%w: %w: the object is of another host", ErrWrongKey, ErrPutOnly)
		}
		return r.host.seeds[epoch-1], nil
	}
	root, err := derive(r.masters[epoch-1], k.repo, labelHost+string(w[:]))
	if err != nil {
		return new([keySize]byte), err
	}
	return deriveFrom(root, k.repo, labelHostSeed)
}

// recipientOf returns the key pair of an epoch: what put-only hosts seal for it, only it opens.
func recipientOf(m Master, repo RepositoryID) (hpke.PrivateKey, error) {
	seed, err := derive(m, repo, labelRecipient)
	if err != nil {
		return nil, err
	}
	return hpke.MLKEM768X25519().DeriveKeyPair(seed[:])
}

// deriveFrom is derive from a key that is itself derived.
func deriveFrom(key secret, repo RepositoryID, label string) (secret, error) {
	b, err := hkdf.Key(sha256.New, key[:], repo[:], label, keySize)
	if err != nil { // only where FIPS 140-only mode forbids it
		return nil, fmt.Errorf("derive %q: %w", label, err)
	}
	return secret(b), nil
}

// HostIDs returns what gives the chunks of a put-only host their ids. They all end in its writer id, so whose a chunk is
// shows in its id.
func (k *Keys) HostIDs(w WriterID) (IDs, error) {
	r := k.ring()
	if r.host != nil {
		if r.host.writer != w {
			return IDs{}, ErrPutOnly
		}
		return r.own, nil
	}
	root, err := derive(r.masters[0], k.repo, labelHost+string(w[:]))
	if err != nil {
		return IDs{}, err
	}
	return hostIDs(root, k.repo, w)
}

func hostIDs(root secret, repo RepositoryID, w WriterID) (IDs, error) {
	chunk, err := deriveFrom(root, repo, labelChunk)
	if err != nil {
		return IDs{}, err
	}
	named, err := deriveFrom(root, repo, labelNamed)
	return IDs{newMACPool(chunk), newMACPool(named), &w}, err
}

// HostInfo is what a put-only host knows beside its keys.
type HostInfo struct {
	Name       string
	Writer     WriterID
	Repository RepositoryID
	Config     []byte // the repository's clear configuration, byte for byte
	Creates    bool   // the store creates objects conditionally: such a host cannot try
}

// credentialFile is a credential as it is written.
type credentialFile struct {
	Hakobune       string            `json:"hakobune"`
	Version        int               `json:"version"`
	Name           string            `json:"name"`
	Repository     RepositoryID      `json:"repository"`
	Writer         WriterID          `json:"writer"`
	Creates        bool              `json:"creates"`
	Config         []byte            `json:"config"`
	Authentication []byte            `json:"authentication"` // key of the writer
	Names          []byte            `json:"names"`          // key of SharedID
	Verify         []byte            `json:"verify"`         // Ed25519
	Recipient      []byte            `json:"recipient"`      // HPKE, of the newest epoch
	Epochs         []credentialEpoch `json:"epochs"`
}

type credentialEpoch struct {
	Host    []byte `json:"host"` // what the host's keys come from
	Notices []byte `json:"notices"`
}

const (
	credentialMagic   = "put-only host"
	credentialVersion = 1
)

// NewCredential returns the file that makes the holder a put-only host. Whoever has it can add snapshots as info.Writer, and
// open nothing of what is sealed for the repository, by this host either.
func (k *Keys) NewCredential(info HostInfo) ([]byte, error) {
	r := k.ring()
	if r.host != nil {
		return nil, ErrPutOnly
	}
	private, err := r.recipients[len(r.recipients)-1]()
	if err != nil {
		return nil, err
	}
	names, err := derive(r.masters[0], k.repo, labelNamed)
	if err != nil {
		return nil, err
	}
	key := k.writerKey(info.Writer)
	f := credentialFile{
		Hakobune: credentialMagic, Version: credentialVersion, Name: info.Name, Repository: k.repo, Writer: info.Writer, Creates: info.Creates,
		Config: info.Config, Authentication: key[:], Names: names[:], Verify: r.verify, Recipient: private.PublicKey().Bytes(),
	}
	for i, m := range r.masters {
		root, err := derive(m, k.repo, labelHost+string(info.Writer[:]))
		if err != nil {
			return nil, err
		}
		f.Epochs = append(f.Epochs, credentialEpoch{root[:], r.notices[i][:]})
	}
	text, err := json.MarshalIndent(f, "", "  ")
	return append(text, '\n'), err
}

// Credential is what a put-only host has in the place of a secret that opens a key slot. It prints as a placeholder in
// every form.
type Credential struct {
	placeholder
	info HostInfo
	keys *Keys
}

// IsCredential reports whether a file holds a credential, in distinction to a key.
func IsCredential(content []byte) bool {
	var f struct {
		Hakobune string `json:"hakobune"`
	}
	return frugal.Unmarshal(content, &f) == nil && f.Hakobune == credentialMagic
}

// ParseCredential reads what NewCredential wrote. Errors show nothing of the content; they wrap ErrWrongKey, or ErrNewer.
func ParseCredential(content []byte) (*Credential, error) {
	var f credentialFile
	if frugal.Unmarshal(content, &f) != nil || f.Hakobune != credentialMagic || f.Version < 1 {
		return nil, fmt.Errorf("%w: not a credential of a put-only host", ErrWrongKey)
	}
	if f.Version > credentialVersion {
		return nil, fmt.Errorf("%w: credential of version %d", ErrNewer, f.Version)
	}
	ring, err := f.ring()
	if err != nil {
		return nil, fmt.Errorf("%w: credential of a put-only host: %w", ErrWrongKey, err)
	}
	name := placeholder(fmt.Sprintf("[credential of put-only host %v]", f.Writer))
	return &Credential{
		name,
		HostInfo{Name: f.Name, Writer: f.Writer, Repository: f.Repository, Config: f.Config, Creates: f.Creates},
		&Keys{name, f.Repository, hide(ring)},
	}, nil
}

// ring returns the keys in a credential.
func (f *credentialFile) ring() (*keyring, error) {
	for _, key := range [][]byte{f.Authentication, f.Names, f.Verify} {
		if len(key) != keySize {
			return nil, errors.New("a key of a wrong length")
		}
	}
	recipient, err := hpke.MLKEM768X25519().NewPublicKey(f.Recipient)
	if err != nil {
		return nil, errors.New("no public key")
	}
	if len(f.Epochs) == 0 {
		return nil, errors.New("no key epoch")
	}
	host := &hostKeys{writer: f.Writer, mac: secret(f.Authentication), recipient: recipient}
	r := &keyring{shared: newMACPool(secret(f.Names)), verify: ed25519.PublicKey(f.Verify), host: host, collect: new([keySize]byte)}
	rand.Read(r.collect[:]) // of what is signed, the old form is not for put-only hosts
	for _, e := range f.Epochs {
		if len(e.Host) != keySize || len(e.Notices) != keySize {
			return nil, errors.New("a key of a wrong length")
		}
		seed, err := deriveFrom(secret(e.Host), f.Repository, labelHostSeed)
		if err != nil {
			return nil, err
		}
		host.seeds, r.notices = append(host.seeds, seed), append(r.notices, secret(e.Notices))
	}
	root := secret(f.Epochs[0].Host)
	if r.own, err = hostIDs(root, f.Repository, f.Writer); err != nil {
		return nil, err
	}
	if r.chunker, err = deriveFrom(root, f.Repository, labelChunker); err != nil {
		return nil, err
	}
	r.cache, err = deriveFrom(root, f.Repository, labelCache)
	return r, err
}

// Info returns what the host knows beside its keys.
func (c *Credential) Info() HostInfo { return c.info }

// Keys returns the keys of the host. They seal what it adds, and open nothing but marks, claims, and how its own sessions
// began and ended.
func (c *Credential) Keys() *Keys { return c.keys }

func (*Credential) kind() string { return "host" }

func (*Credential) lock(*slotFile, KDF, []byte) error { return ErrPutOnly }

func (*Credential) unlock(*slotFile) ([]byte, error) { return nil, ErrPutOnly }
