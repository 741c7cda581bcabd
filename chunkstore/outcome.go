package chunkstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// Outcome is how a session ended: the object n/<writer>/<session>. Its plaintext is a MAC under
// the writer's key, then this as JSON.
type Outcome struct {
	Version  int             `json:"version"`
	Session  SessionID       `json:"session"`
	Writer   crypto.WriterID `json:"writer"`
	Sequence int             `json:"sequence"`           // 1 for the writer's first
	Previous *Predecessor    `json:"previous,omitempty"` // the writer's outcome before this one
	Aborted  bool            `json:"aborted,omitempty"`  // the session left no snapshot
	Fenced   bool            `json:"fenced,omitempty"`   // a collection gave the session up
	Host     string          `json:"host,omitempty"`
	Summary  json.RawMessage `json:"summary,omitempty"` // package snapshot's Summary
	Body     Stream          `json:"body"`
	// Packs lists the packs of other sessions that the snapshot needs, as packRefs. Beside these it
	// needs the session's own, and those that hold the chunks of Body and Packs themselves.
	Packs Stream `json:"packs"`
	// Sealed has Host, Summary, Body and Packs of a put-only host's snapshot, which it cannot open itself.
	Sealed []byte `json:"sealed,omitempty"`

	// Of the object, not in it:
	Name      string    `json:"-"` // that it was created under, also where it was sealed anew under another since
	Objects   []string  `json:"-"` // that are stored of it, what was sealed last first; one, in general
	Digest    string    `json:"-"` // SHA-256 of the plaintext that the session sealed, in hex
	Modified  time.Time `json:"-"` // when it was created, by the store's clock
	Err       error     `json:"-"` // the object could not be read; only Name, Modified, Writer and Session are set
	Forgotten bool      `json:"-"` // see Repository.Forget
	Domain    Domain    `json:"-"` // of its chunks
	Late      bool      `json:"-"` // its put-only host had been removed: it counts for nothing
}

// Predecessor names a writer's previous outcome by its plaintext, so that a store that shows an
// earlier state is noticed, and one that was sealed anew is the same.
type Predecessor struct {
	Session SessionID `json:"session"`
	SHA256  string    `json:"sha256"`
}

// Commit publishes the snapshot: it waits until everything saved is durable and indexed, then
// creates the outcome, which must not exist. When Commit returns nil the snapshot is complete and
// can be restored by everybody; after an error it does not exist, or the store's answer was lost:
// then it may. ErrFenced, ErrPackGone: run again. The session has ended either way.
//
// summary is called once, when all that it may tell of the session's cost is known but for the
// outcome itself; what it returns is stored as JSON.
func (s *Session) Commit(ctx context.Context, host string, summary func(SessionStats) any, body Stream) error {
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	defer stop()
	defer s.end()
	packs, err := s.SaveStream(ctx, s.foreignPacks())
	if err != nil {
		return fmt.Errorf("store the list of packs: %w", err)
	}
	if err := s.pipe.flush(); err != nil {
		return err
	}
	if err := s.writeDelta(ctx); err != nil {
		return err
	}
	if err := s.extendLocks(ctx); err != nil {
		return err
	}
	if err := s.allStored(ctx); err != nil { // when they are locked: from here on they stay
		return err
	}
	text, err := json.Marshal(summary(s.Stats()))
	if err != nil {
		return err
	}
	return s.writeOutcome(ctx, Outcome{Host: host, Summary: text, Body: body, Packs: packs})
}

// foreignPacks returns the sorted list of the packs of other sessions that were relied on.
func (s *Session) foreignPacks() []byte {
	var refs [][]byte
	for _, p := range s.foreign() {
		refs = append(refs, p.append(nil))
	}
	slices.SortFunc(refs, bytes.Compare)
	return slices.Concat(refs...)
}

// writeOutcome seals o and creates its object.
func (s *Session) writeOutcome(ctx context.Context, o Outcome) error {
	name, object, err := s.repo.sealOutcome(ctx, s.writer, s.id, o)
	if err != nil {
		return err
	}
	s.stats.stored.Add(int64(len(object)))
	if s.atomic {
		err = s.createOutcome(ctx, name, object)
	} else {
		err = s.placeOutcome(ctx, name, object)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	s.repo.cache.put(name, object)
	return nil
}

// sealOutcome completes the outcome of a session and returns its object with its name.
func (r *Repository) sealOutcome(ctx context.Context, w crypto.WriterID, id SessionID, o Outcome) (name string, object []byte, err error) {
	o.Version, o.Session, o.Writer = 1, id, w
	name = sessionName(outcomePrefix, w, id)
	if o.Sequence, o.Previous, err = r.predecessor(ctx, w, name); err != nil {
		return "", nil, err
	}
	ofHost := r.host != nil
	if o.Fenced {
		if ofHost, err = r.announcedByHost(ctx, sessionName(sessionPrefix, w, id)); err != nil {
			return "", nil, err
		}
	} else if ofHost && !o.Aborted {
		if o, err = r.sealManifest(name, o); err != nil {
			return "", nil, err
		}
	}
	text, err := json.Marshal(o)
	if err != nil {
		return "", nil, err
	}
	mac := r.keys.MAC(w, text)
	seal := r.keys.Seal
	if ofHost {
		seal = r.keys.SealForHost
	}
	object, err = seal(crypto.TypeOutcome, name, append(mac[:], text...))
	return name, object, err
}

// announcedByHost reports whether a put-only host began the session that is announced under that name.
func (r *Repository) announcedByHost(ctx context.Context, name string) (bool, error) {
	object, err := r.backend.Get(ctx, name, 0, -1)
	if errors.Is(err, ErrNotExist) {
		return false, nil
	}
	return err == nil && len(object) >= crypto.HeaderSize && crypto.OfHost(object), err
}

// manifest is what an outcome of a put-only host has sealed.
type manifest struct {
	Host    string          `json:"host,omitempty"`
	Summary json.RawMessage `json:"summary,omitempty"`
	Body    Stream          `json:"body"`
	Packs   Stream          `json:"packs"`
}

func manifestName(outcome string) string { return outcome + "/manifest" }

// sealManifest seals what o tells of its snapshot: the host must read what is around that, to go on with its chain.
func (r *Repository) sealManifest(name string, o Outcome) (Outcome, error) {
	text, err := json.Marshal(manifest{o.Host, o.Summary, o.Body, o.Packs})
	if err != nil {
		return o, err
	}
	o.Sealed, err = r.keys.Seal(crypto.TypeManifest, manifestName(name), text)
	o.Host, o.Summary, o.Body, o.Packs = "", nil, Stream{}, Stream{}
	return o, err
}

// openManifest is its inverse, where r has the keys. All that the snapshot needs must be of its host.
func (r *Repository) openManifest(o *Outcome, name string) error {
	o.Domain = Domain(o.Writer)
	if o.Aborted || r.host != nil {
		return nil
	}
	text, err := r.keys.Open(crypto.TypeManifest, manifestName(name), o.Sealed)
	if err != nil {
		return err
	}
	var m manifest
	if err := frugal.Unmarshal(text, &m); err != nil {
		return fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	o.Host, o.Summary, o.Body, o.Packs = m.Host, m.Summary, m.Body, m.Packs
	return errors.Join(o.Domain.all(o.Body.Chunks), o.Domain.all(o.Packs.Chunks))
}

// createOutcome commits on a store with conditional writes. The client library repeats a request
// whose answer was lost, so "exists already" may mean our own success.
func (s *Session) createOutcome(ctx context.Context, name string, object []byte) error {
	err := s.repo.backend.(Creator).PutIfAbsent(ctx, name, object)
	if !errors.Is(err, ErrExist) {
		return err
	}
	return s.isOwn(ctx, name, object)
}

// isOwn returns nil if the outcome under name is ours.
func (s *Session) isOwn(ctx context.Context, name string, object []byte) error {
	stored, err := s.repo.backend.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, object) {
		return ErrFenced
	}
	return nil
}

// placeOutcome commits on a store without conditional writes. A collection that fences a session
// there puts an abort object beside the outcome and looks again afterwards; so do we, before and
// after. An abort that is younger than the outcome does not count, for anybody.
func (s *Session) placeOutcome(ctx context.Context, name string, object []byte) error {
	if err := s.fenced(ctx); err != nil {
		return err
	}
	if err := s.repo.backend.Put(ctx, name, object); err != nil {
		return err
	}
	if there, err := s.repo.hasObject(ctx, name+abortSuffix); err != nil {
		return err
	} else if there {
		if younger, err := s.repo.isYounger(ctx, name+abortSuffix, name); err != nil || !younger {
			return cmp.Or(err, ErrFenced)
		}
	}
	return s.isOwn(ctx, name, object)
}

// abortSuffix marks, on stores without conditional writes, a session as fenced.
const abortSuffix = "-abort"

// predecessor finds the writer's newest outcome but that of the name, and the number of the next.
func (r *Repository) predecessor(ctx context.Context, w crypto.WriterID, name string) (int, *Predecessor, error) {
	stored, err := r.listOutcomes(ctx, outcomePrefix+w.String()+"/")
	if err != nil {
		return 0, nil, err
	}
	stored = slices.DeleteFunc(stored, func(o sealings) bool { return o.name == name })
	if len(stored) == 0 {
		return 1, nil, nil
	}
	// Names begin with the host's clock, which may have been set back: the number decides.
	o := r.readOutcome(ctx, stored[len(stored)-1])
	if o.Err != nil {
		return len(stored) + 1, nil, nil // a damaged one must not keep a host from backing up; check reports it
	}
	return o.Sequence + 1, &Predecessor{Session: o.Session, SHA256: o.Digest}, nil
}

// Outcomes returns all snapshots of the repository, oldest first by the store's clock, and of
// aborted sessions nothing, nor those that were forgotten. One that cannot be read is returned too,
// with Err set: it must not hide the others.
func (r *Repository) Outcomes(ctx context.Context) ([]Outcome, error) {
	all, _, err := r.allOutcomes(ctx)
	return slices.DeleteFunc(all, func(o Outcome) bool { return !o.wanted() }), err
}

// errLate says of a snapshot that it counts for nothing.
var errLate = errors.New("stored after its put-only host had been removed: it counts for nothing")

// wanted tells whether o is a snapshot, as far as that can be told.
func (o *Outcome) wanted() bool { return !o.Forgotten && !o.Late && (o.Err != nil || !o.Aborted) }

// allOutcomes is Outcomes with those of aborted sessions and the forgotten ones, and what the forget records say. A record that
// cannot be read is none: its snapshots stay. An outcome that is gone when it is read was sealed anew, or has been
// forgotten and collected: then it lists again.
func (r *Repository) allOutcomes(ctx context.Context) ([]Outcome, forgets, error) {
	for attempt := 1; ; attempt++ {
		all, f, err := r.outcomesOnce(ctx)
		gone := func(o Outcome) bool { return errors.Is(o.Err, ErrNotExist) }
		switch {
		case err != nil || !slices.ContainsFunc(all, gone):
			return all, f, err
		case attempt == loadAttempts && !r.lags(ctx):
			return all, f, nil
		case attempt == loadAttempts || r.knownToLag():
			return slices.DeleteFunc(all, gone), f, nil
		}
	}
}

func (r *Repository) outcomesOnce(ctx context.Context) ([]Outcome, forgets, error) {
	if r.host != nil {
		return nil, forgets{}, crypto.ErrPutOnly
	}
	stored, err := r.listOutcomes(ctx, outcomePrefix)
	if err != nil {
		return nil, forgets{}, err
	}
	r.rememberEnded(stored)
	f, err := r.forgotten(ctx)
	if err != nil {
		return nil, f, err
	}
	for name, err := range f.bad {
		r.log.Warn("a forget record cannot be read, so its snapshots stay", "object", name, "error", err)
	}
	removed, err := r.removedHosts(ctx)
	if err != nil {
		return nil, f, err
	}
	outcomes := make([]Outcome, len(stored))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, o := range stored {
		g.Go(func() error {
			outcomes[i] = r.readOutcome(gctx, o)
			outcomes[i].Forgotten = f.names[o.name]
			since, ok := removed[outcomes[i].Writer]
			outcomes[i].Late = ok && outcomes[i].Modified.After(since)
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, f, err
	}
	var names []string
	for _, o := range stored {
		names = append(names, o.names()...)
	}
	r.cache.keep(outcomePrefix, names)
	slices.SortStableFunc(outcomes, func(a, b Outcome) int { return a.Modified.Compare(b.Modified) })
	return outcomes, f, nil
}

// listOutcomes lists the outcomes under a prefix, in order of their names, but those of sessions that were fenced by
// an abort object before they were put. One that was put later found that the session had ended.
func (r *Repository) listOutcomes(ctx context.Context, prefix string) ([]sealings, error) {
	all, err := r.listSealings(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	return slices.DeleteFunc(all, func(o sealings) bool {
		abort := slices.IndexFunc(o.objects, func(i Info) bool { return i.Name == o.name+abortSuffix })
		if abort < 0 {
			return false
		}
		first := slices.IndexFunc(o.objects, func(i Info) bool { return i.Name == o.name })
		return first < 0 || !o.objects[abort].Modified.After(o.objects[first].Modified)
	}), nil
}

// readOutcome reads one outcome and verifies it; failures go into Err. Of several objects the first that can be
// read counts.
func (r *Repository) readOutcome(ctx context.Context, stored sealings) Outcome {
	var failure error
	for _, info := range stored.objects {
		o, err := r.openOutcome(ctx, info.Name)
		if err == nil {
			if o.Modified.IsZero() {
				o.Modified = info.Modified
			}
			o.Name, o.Objects = stored.name, stored.names()
			return o
		}
		if failure == nil {
			failure = fmt.Errorf("snapshot object %s: %w", info.Name, err)
		}
	}
	w, id, _, _ := parseSessionName(outcomePrefix, stored.name)
	return Outcome{
		Writer: w, Session: id, Err: failure,
		Name: stored.name, Objects: stored.names(), Modified: stored.objects[len(stored.objects)-1].Modified,
	}
}

func (r *Repository) openOutcome(ctx context.Context, name string) (Outcome, error) {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return Outcome{}, err
	}
	o, err := r.parseOutcome(name, object)
	if err != nil {
		r.cache.drop(name)
	}
	return o, err
}

// outcomePlain returns the plaintext that the session sealed, and of an object that is sealed anew when that was stored.
func (r *Repository) outcomePlain(name string, object []byte) ([]byte, time.Time, error) {
	plain, err := r.keys.Open(crypto.TypeOutcome, name, object)
	if err != nil || !isResealed(name) {
		return plain, time.Time{}, err
	}
	var anew resealedOutcome
	err = r.unwrap(crypto.TypeOutcome, name, object, plain, &anew)
	return anew.Outcome, anew.Stored, err
}

func (r *Repository) parseOutcome(name string, object []byte) (Outcome, error) {
	var o Outcome
	plain, stored, err := r.outcomePlain(name, object)
	if err != nil {
		return o, err
	}
	o.Modified = stored
	if len(plain) < sha256.Size {
		return o, fmt.Errorf("%w: %d bytes", crypto.ErrDamaged, len(plain))
	}
	w, id, _, err := parseSessionName(outcomePrefix, name)
	if err != nil {
		return o, err
	}
	mac := r.keys.MAC(w, plain[sha256.Size:])
	if !hmac.Equal(mac[:], plain[:sha256.Size]) {
		return o, fmt.Errorf("%w: not written by the host that it names", crypto.ErrDamaged)
	}
	if err := frugal.Unmarshal(plain[sha256.Size:], &o); err != nil {
		return o, fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	if o.Version != 1 {
		return o, fmt.Errorf("%w: snapshot of version %d", crypto.ErrNewer, o.Version)
	}
	if o.Writer != w || o.Session != id {
		return o, fmt.Errorf("%w: snapshot of another name", crypto.ErrDamaged)
	}
	sum := sha256.Sum256(plain)
	o.Digest = hex.EncodeToString(sum[:])
	if crypto.OfHost(object) {
		err = r.openManifest(&o, name)
	}
	return o, err
}

// ForeignPacks returns the packs of other sessions that a snapshot needs.
func (r *Repository) ForeignPacks(ctx context.Context, o Outcome) ([]PackRef, error) {
	if o.Packs.Size%packRefSize != 0 || o.Packs.Size < 0 {
		return nil, fmt.Errorf("%w: list of packs of %d bytes", crypto.ErrDamaged, o.Packs.Size)
	}
	b, err := r.ReadStream(ctx, o.Packs)
	if err != nil {
		return nil, fmt.Errorf("list of packs: %w", err)
	}
	refs := make([]PackRef, 0, len(b)/packRefSize)
	for ; len(b) > 0; b = b[packRefSize:] {
		ref, err := parsePackRef(b)
		if err == nil && o.Domain != (Domain{}) && ref.Writer != o.Writer {
			err = fmt.Errorf("%w: pack %v is none of the put-only host's that needs it", crypto.ErrDamaged, ref.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("list of packs: %w", err)
		}
		refs = append(refs, ref)
	}
	return refs, nil
}
