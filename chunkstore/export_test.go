package chunkstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Condemn marks all packs under prefix as a collection does.
func Condemn(ctx context.Context, r *Repository, mark, prefix string) error {
	names, err := listNames(ctx, r.backend, prefix)
	if err != nil {
		return err
	}
	var list []PackRef
	for _, n := range names {
		ref, err := parsePackName(n)
		if err != nil {
			return err
		}
		list = append(list, ref)
	}
	return r.putSigned(ctx, crypto.TypeMark, mark, marshalPackRefs(list))
}

// IndexEntry places a chunk in the n-th of a test's packs.
type IndexEntry struct {
	ID     ID
	Pack   uint32
	Offset uint32
}

// NumberedPack is the id of a test's n-th pack.
func NumberedPack(n uint32) PackID { return sha256.Sum256(binary.BigEndian.AppendUint32(nil, n)) }

func testPack(n uint32) *indexedPack {
	p := &indexedPack{PackRef: PackRef{Kind: Data, ID: NumberedPack(n)}, plainSize: 32 << 20}
	binary.BigEndian.PutUint32(p.header[:], n)
	return p
}

// testPacks returns the packs of entries and the entries as locations.
func testPacks(entries []IndexEntry) ([]*indexedPack, []location) {
	packs := map[uint32]*indexedPack{}
	var table []*indexedPack
	var chunks []location
	for _, e := range entries {
		p := packs[e.Pack]
		if p == nil {
			p = testPack(e.Pack)
			packs[e.Pack], table = p, append(table, p)
		}
		chunks = append(chunks, location{packEntry{id: e.ID, kind: Data, offset: e.Offset, stored: 1, plain: 1}, p})
	}
	return table, chunks
}

// PutIndex stores an index object.
func PutIndex(ctx context.Context, r *Repository, name string, entries []IndexEntry) error {
	object, err := r.keys.Seal(indexType(name), name, marshalIndex(testPacks(entries)))
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}

// AddUploaded makes entries known as a session does with the packs it has stored.
func AddUploaded(r *Repository, entries []IndexEntry) {
	packs, chunks := testPacks(entries)
	for _, p := range packs {
		var own []packEntry
		for _, c := range chunks {
			if c.pack == p {
				own = append(own, c.packEntry)
			}
		}
		r.index.add(SessionID{}, p, own)
	}
}

// MarkPacks condemns packs, as a collection does.
func MarkPacks(ctx context.Context, r *Repository, mark string, packs ...uint32) error {
	var list []PackRef
	for _, n := range packs {
		list = append(list, testPack(n).PackRef)
	}
	return r.putSigned(ctx, crypto.TypeMark, mark, marshalPackRefs(list))
}

// Avoid makes chunks in packs count as absent, as a prune and a repair do with what they condemn.
func Avoid(r *Repository, packs ...uint32) {
	avoid := map[PackID]bool{}
	for _, n := range packs {
		avoid[NumberedPack(n)] = true
	}
	r.index.avoid(avoid)
}

// Place is what the index says of a chunk.
type Place struct {
	Pack          PackID
	Offset        uint32
	Found, Usable bool
}

// Lookup asks the index.
func Lookup(r *Repository, id ID) (Place, error) {
	l, s, err := r.index.find(id)
	if s == absent {
		return Place{}, err
	}
	return Place{l.pack.ID, l.offset, true, s == usable}, err
}

// SetIndexLimits bounds what is kept in memory.
func SetIndexLimits(r *Repository, run, entries, objects int) {
	r.limits = indexLimits{run: run, entries: entries, objects: objects}
}

// IndexState returns how many entries of the index lie in a base, and how many in memory.
func IndexState(r *Repository) (base, recent, fresh int) {
	l := r.index.loaded.Load()
	return int(l.base.entries), len(l.recent) / indexEntrySize, len(r.index.fresh)
}

// SetAges sets the times of collections: how old packs, packs without an index, silent sessions and records
// must be.
func SetAges(r *Repository, pack, orphan, silent, record time.Duration) {
	r.ages = ages{pack, orphan, silent, record, 0}
}

// SetLag sets how late the lists of stores may be that create unconditionally.
func SetLag(r *Repository, lag time.Duration) { r.ages.lag = lag }

// PutForget stores a forget record as whoever has the keys of objects could, but not the one that tags them.
func PutForget(ctx context.Context, r *Repository, name string, plain []byte) error {
	object, err := r.keys.Seal(crypto.TypeForget, name, plain)
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}

// PutTagged stores a forget record with this text under a right tag.
func PutTagged(ctx context.Context, r *Repository, name, text string) error {
	return r.putSigned(ctx, crypto.TypeForget, name, []byte(text))
}

// PutRecord stores a record with this text, under a right tag of the writer that its name has or under another one.
func PutRecord(ctx context.Context, r *Repository, name, text string, right bool) error {
	w, _, _, err := parseSessionName(recordPrefix, name)
	if err != nil {
		return err
	}
	mac := r.recordMAC(w, name, []byte(text))
	if !right {
		mac = r.keys.MAC(w, []byte(text)) // as that of an outcome
	}
	object, err := r.keys.Seal(crypto.TypeRecord, name, append(mac[:], text...))
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}

// ResealedRecord makes an object of a record that is sealed anew of its first one, in the newest epoch whatever the name says: signed
// for one name, and to be stored under another.
func ResealedRecord(r *Repository, signed, name string, first []byte, stored time.Time) ([]byte, error) {
	plain, err := r.keys.Open(crypto.TypeRecord, sealedFirst(name), first)
	if err != nil {
		return nil, err
	}
	body, err := r.wrap(crypto.TypeRecord, signed, resealedRecord{Version: 1, Stored: stored, Record: plain})
	if err != nil {
		return nil, err
	}
	return r.keys.Seal(crypto.TypeRecord, name, body)
}

// PutOldSlot puts on record that a key slot was removed, as that is sealed with the keys of r.
func PutOldSlot(ctx context.Context, r *Repository, id string) error {
	return r.putSigned(ctx, crypto.TypeClaim, oldSlotPrefix+id, fmt.Appendf(nil, `{"version":1,"slot":%q}`, id))
}

// Verify verifies one stored object as those do who read it whole; not the config, nor a key slot.
func Verify(r *Repository, name string, object []byte) error {
	switch name[:2] {
	case dataPrefix, metaPrefix:
		return verifyPack(r, name, object)
	case outcomePrefix:
		_, err := r.parseOutcome(name, object)
		return err
	case deltaPrefix, segmentPrefix:
		plain, err := r.keys.Open(indexType(name), name, object)
		if err == nil {
			_, err = parseIndex(plain)
		}
		return err
	case sessionPrefix:
		_, err := r.keys.Open(crypto.TypeSession, name, object)
		return err
	}
	t := map[string]crypto.Type{markPrefix: crypto.TypeMark, forgetPrefix: crypto.TypeForget, recordPrefix: crypto.TypeRecord, claimPrefix: crypto.TypeClaim}[name[:2]]
	plain, err := r.keys.Open(t, name, object)
	if err == nil && t != crypto.TypeRecord {
		_, err = r.signed(t, name, plain)
	}
	return err
}

func verifyPack(r *Repository, name string, object []byte) error {
	ref, err := parsePackName(name)
	if err != nil {
		return err
	}
	_, _, err = openPack(r.keys, ref, object)
	return err
}

// VerifyRange verifies an object of a pack as a restore does, which reads a part of it and knows the header
// from the index. The header itself is not looked at.
func VerifyRange(r *Repository, name string, object, header []byte) error {
	ref, err := parsePackName(name)
	if err != nil {
		return err
	}
	size, err := crypto.PlainSize(int64(len(object)))
	if err != nil {
		return err
	}
	_, err = r.keys.OpenRange(ref.sealType(), ref.sealName(), header[:crypto.HeaderSize], size, 0, size, object[crypto.HeaderSize:])
	return err
}

// RotateWithin is RotateKeys where the lists of stores that create unconditionally are that late at most.
func RotateWithin(ctx context.Context, b Backend, secret crypto.Secret, o RotateOptions, contest time.Duration) (*RotateReport, error) {
	return rotateKeys(ctx, b, secret, o, contest)
}

// SetContest sets how long a claim waits for lists on stores that create unconditionally.
func SetContest(r *Repository, d time.Duration) { r.contestTime = d }

// PutOutcome stores the outcome of a session of writer w, as Commit does, without the packs.
func PutOutcome(ctx context.Context, r *Repository, w crypto.WriterID, id SessionID, o Outcome) error {
	name, object, err := r.sealOutcome(ctx, w, id, o)
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}
