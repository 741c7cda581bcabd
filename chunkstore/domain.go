package chunkstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/hakobune-dr/hakobune/crypto"
)

// Domain says with whom a chunk is shared. The zero Domain is that of all hosts that have the repository's keys; every
// put-only host has one of its own, its writer id, for it could give others wrong chunks. Nothing of one domain needs
// anything of another.
type Domain crypto.WriterID

// Has reports whether a chunk of that id may be needed by what is of the domain. Ids of put-only hosts end in their
// domain; whoever has the repository's keys is believed.
func (d Domain) Has(id ID) bool { return d == Domain{} || bytes.HasSuffix(id[:], d[:]) }

// all returns an error unless the domain has all the chunks that refs name.
func (d Domain) all(refs []Ref) error {
	for _, ref := range refs {
		if !d.Has(ref.ID) {
			return fmt.Errorf("%w: chunk %v is none of the put-only host's that needs it", crypto.ErrDamaged, ref.ID)
		}
	}
	return nil
}

// domain returns the domain of the chunks in the pack.
func (p *indexedPack) domain() Domain {
	if p.ofHost() {
		return Domain(p.Writer)
	}
	return Domain{}
}

// Domain returns the domain of what sessions of r store.
func (r *Repository) Domain() Domain {
	if r.host == nil {
		return Domain{}
	}
	return Domain(r.host.Writer)
}

// StreamDomain returns the domain that a stream is of.
func (r *Repository) StreamDomain(ctx context.Context, st Stream) (Domain, error) {
	if len(st.Chunks) == 0 {
		return Domain{}, nil
	}
	if err := r.needIndex(ctx); err != nil {
		return Domain{}, err
	}
	l, err := r.index.locate(st.Chunks[0].ID)
	if err != nil {
		return Domain{}, err
	}
	d := l.pack.domain()
	return d, d.all(st.Chunks)
}

// ids returns what gives the chunks of a domain their ids.
func (r *Repository) ids(d Domain) (idSource, error) {
	if d == r.Domain() {
		return r.keys, nil
	}
	if known, ok := r.hostIDs.Load(d); ok {
		return known.(crypto.IDs), nil
	}
	ids, err := r.keys.HostIDs(crypto.WriterID(d))
	if err == nil {
		r.hostIDs.Store(d, ids)
	}
	return ids, err
}

// decode is coder.decode of a chunk in a pack.
func (r *Repository) decode(p *indexedPack, e packEntry, encoded []byte) ([]byte, error) {
	ids, err := r.ids(p.domain())
	if err != nil {
		return nil, err
	}
	return r.coder.decode(ids, e, encoded)
}

// verify is coder.verify of chunks in the pack whose object and plaintext these are: all that are wrong.
func (r *Repository) verify(ref PackRef, object, plain []byte, entries []packEntry) []error {
	d := Domain{}
	if crypto.OfHost(object) {
		d = Domain(ref.Writer)
	}
	ids, err := r.ids(d)
	if err != nil {
		return []error{err}
	}
	var scratch []byte
	var errs []error
	for _, e := range entries {
		if err := r.coder.verify(ids, e, plain[e.offset:][:e.stored], &scratch); err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// ownTable returns an error if a put-only host's pack says that it has chunks of others.
func ownTable(ref PackRef, header []byte, entries []packEntry) error {
	if !crypto.OfHost(header) {
		return nil
	}
	for _, e := range entries {
		if !Domain(ref.Writer).Has(e.id) {
			return fmt.Errorf("%w: chunk %v is none of the put-only host's whose pack has it", crypto.ErrDamaged, e.id)
		}
	}
	return nil
}

// openIndex opens an index object. One of a put-only host lists packs and chunks of that host only.
func (r *Repository) openIndex(name string, object []byte) (delta, error) {
	plain, err := r.keys.Open(indexType(name), name, object)
	var d delta
	if err == nil {
		d, err = parseIndex(plain)
	}
	if err == nil && crypto.OfHost(object) {
		err = d.ofHost(name)
	}
	if err != nil {
		return delta{}, fmt.Errorf("object %s: %w", name, err)
	}
	return d, nil
}

// ofHost returns an error unless the index object of that name lists only what is of its writer, a put-only host.
func (d delta) ofHost(name string) error {
	prefix := deltaPrefix
	if indexType(name) == crypto.TypeSegment {
		prefix = segmentPrefix
	}
	w, _, _, err := parseSessionName(prefix, name)
	if err != nil {
		return err
	}
	for record := range slices.Chunk(d.packs, indexPackSize) {
		p, err := parseIndexedPack(record)
		if err != nil {
			return err
		}
		if p.Writer != w || !p.ofHost() {
			return fmt.Errorf("%w: pack %v is none of the put-only host's that lists it", crypto.ErrDamaged, p.ID)
		}
	}
	for e := range slices.Chunk(d.entries, indexEntrySize) {
		if id := ID(e[:len(ID{})]); !Domain(w).Has(id) {
			return fmt.Errorf("%w: chunk %v is none of the put-only host's that lists it", crypto.ErrDamaged, id)
		}
	}
	return nil
}

// maxHeads is how many headers with encapsulations are remembered, of 1.2 KiB each.
const maxHeads = 4096

// head returns what a pack begins with, before its stream: the header, and of a put-only host's pack the encapsulation,
// which the index does not have.
func (r *Repository) head(ctx context.Context, p *indexedPack) ([]byte, error) {
	n := crypto.Encapsulated(p.header[:])
	if n == 0 {
		return p.header[:], nil
	}
	r.headMu.Lock()
	head, ok := r.heads[p.ID]
	r.headMu.Unlock()
	if ok {
		return head, nil
	}
	head, err := r.backend.Get(ctx, p.Name(), 0, crypto.HeaderSize+n)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(head, p.header[:]) {
		return nil, fmt.Errorf("%w: header differs from the one in the index", crypto.ErrDamaged)
	}
	r.headMu.Lock()
	defer r.headMu.Unlock()
	if r.heads == nil || len(r.heads) >= maxHeads {
		r.heads = map[PackID][]byte{}
	}
	r.heads[p.ID] = head
	return head, nil
}

// readRange reads n bytes from an offset of a pack's plaintext.
func (r *Repository) readRange(ctx context.Context, p *indexedPack, off, n int64) ([]byte, error) {
	head, err := r.head(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	at, length := crypto.StoredRange(p.plainSize, off, n)
	stored, err := r.backend.Get(ctx, p.Name(), at+crypto.Encapsulated(head), length)
	if err != nil {
		return nil, fmt.Errorf("pack: %w", err)
	}
	plain, err := r.keys.OpenRange(p.sealType(), p.sealName(), head, p.plainSize, off, n, stored)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", p.Name(), err)
	}
	return plain, nil
}
