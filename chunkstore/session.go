package chunkstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// heartbeat is how often a session writes an index delta, also an empty one: collections wait for
// sessions that show life (2-format: G4).
const heartbeat = 5 * time.Minute

// ErrFenced says that a collection gave this session up for dead. Nothing that it stored is lost;
// a new session finds it and starts from there.
var ErrFenced = errors.New("the session was fenced by a collection: run the command again")

// Session adds one snapshot to a repository. Begin starts it, Commit or Abort ends it, one of them
// must be called. All other methods may be called from many goroutines at once. The first failure
// sticks: every later call returns it.
type Session struct {
	repo    *Repository
	id      SessionID
	writer  crypto.WriterID
	release func()
	atomic  bool // the store creates conditionally

	ctx    context.Context // of the work behind Save, not of a caller: ends with the session
	cancel context.CancelCauseFunc
	pipe   *pipeline

	mu      sync.Mutex
	pending map[ID]bool      // chunks on their way to a pack that is stored
	own     map[PackID]bool  // packs of this session
	used    map[PackRef]bool // packs of others that the snapshot relies on
	deltas  int              // index deltas written
	alive   time.Time        // by the host's clock: when the session showed life last
	packs   []*indexedPack   // uploaded since the last delta
	chunks  []location       // their chunks
	beat    sync.WaitGroup   // the heartbeat goroutine
	stats   struct {
		read, fresh, stored, chunks, packs atomic.Int64
	}
}

// SessionStats says what a session has done so far. Bytes are exact once Commit has returned.
type SessionStats struct {
	ReadBytes   int64 // plaintext handed to Save, Split and SetNamed
	NewBytes    int64 // of these, what the repository did not have
	StoredBytes int64 // bytes of all objects written
	NewChunks   int64
	Packs       int64
}

// sessionRecord is the object s/<writer>/<session>.
type sessionRecord struct {
	Version int       `json:"version"`
	Host    string    `json:"host"`
	Program string    `json:"program"`
	Started time.Time `json:"started"`
	Pid     int       `json:"pid"`
}

// BeginOptions describe a session to those who look at the repository meanwhile.
type BeginOptions struct {
	Host    string
	Program string
}

// Begin announces a session and then makes the index current, in this order: a collection that did
// not see the session has published its marks before the index is read (2-format: B1, B2).
func (r *Repository) Begin(ctx context.Context, o BeginOptions) (*Session, error) {
	conditional, err := r.conditional(ctx)
	if err != nil {
		return nil, fmt.Errorf("probe for conditional writes: %w", err)
	}
	w, release, err := r.claimWriter()
	if err != nil {
		return nil, err
	}
	s := &Session{
		repo: r, id: newSessionID(time.Now()), writer: w, release: release, atomic: conditional,
		pending: map[ID]bool{}, own: map[PackID]bool{}, used: map[PackRef]bool{}, alive: time.Now().Round(0),
	}
	record := sessionRecord{Version: 1, Host: o.Host, Program: o.Program, Started: time.Now().UTC(), Pid: os.Getpid()}
	if err := s.announce(ctx, record); err != nil {
		release()
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.pipe = newPipeline(s)
	s.beat.Go(s.heartbeats)
	return s, nil
}

func (s *Session) announce(ctx context.Context, record sessionRecord) error {
	b, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if err := s.put(ctx, crypto.TypeSession, s.name(sessionPrefix), b); err != nil {
		return fmt.Errorf("announce the session: %w", err)
	}
	return s.repo.loadReliably(ctx)
}

// conditional reports whether the store creates objects conditionally, from memory where it was
// probed before.
func (r *Repository) conditional(ctx context.Context) (bool, error) {
	if creates, known := r.remembered(); known {
		return creates, nil
	}
	creates, err := ConditionalWrites(ctx, r.backend)
	if err != nil {
		return false, err
	}
	answer := "no"
	if creates {
		answer = "yes"
	}
	r.creates.Store(&answer)
	r.cache.put(r.probeMemory(), []byte(answer))
	return creates, nil
}

// remembered is conditional as far as it was found out before.
func (r *Repository) remembered() (creates, known bool) {
	if r.host != nil { // which cannot try
		return r.host.Creates, true
	}
	if _, ok := r.backend.(Creator); !ok {
		return false, true
	}
	answer := r.creates.Load()
	if answer == nil {
		b, ok := r.cache.get(r.probeMemory())
		if !ok {
			return false, false
		}
		text := string(b)
		answer = &text
		r.creates.Store(answer)
	}
	return *answer == "yes", true
}

func (r *Repository) probeMemory() string {
	where := sha256.Sum256([]byte(r.backend.Location()))
	return "conditional-writes/" + hex.EncodeToString(where[:8])
}

// ID returns the session's id, from which the snapshot takes its own.
func (s *Session) ID() SessionID { return s.id }

// Repository returns the repository that the session writes to.
func (s *Session) Repository() *Repository { return s.repo }

func (s *Session) name(prefix string) string { return sessionName(prefix, s.writer, s.id) }

// put seals and stores an object under its own name.
func (s *Session) put(ctx context.Context, t crypto.Type, name string, plain []byte) error {
	object, err := s.repo.keys.Seal(t, name, plain)
	if err != nil {
		return err
	}
	if err := s.store(ctx, name, object); err != nil {
		return err
	}
	s.stats.stored.Add(int64(len(object)))
	return nil
}

// store stores an object under its own name. A put-only host creates it, where the store can: so it may be forbidden to
// replace anything.
func (s *Session) store(ctx context.Context, name string, object []byte) error {
	if s.repo.host == nil || !s.atomic {
		return s.repo.backend.Put(ctx, name, object)
	}
	err := s.repo.backend.(Creator).PutIfAbsent(ctx, name, object)
	if errors.Is(err, ErrExist) {
		return nil // a request whose answer was lost is repeated: the name is the object's hash, or new
	}
	return err
}

// fail makes err the session's outcome for all calls to come; only the first one counts.
func (s *Session) fail(err error) { s.cancel(err) }

// err returns the failure that stuck.
func (s *Session) err() error {
	if s.ctx.Err() == nil {
		return nil
	}
	return context.Cause(s.ctx)
}

// Save stores plain as one chunk unless the repository has it, and returns its id at once; the work
// goes on behind. It blocks while too much of it is under way. plain is copied where needed.
func (s *Session) Save(ctx context.Context, kind Kind, plain []byte) (ID, error) {
	if len(plain) == 0 || len(plain) > MaxChunk {
		return ID{}, fmt.Errorf("save a chunk of %d bytes: want 1 to %d", len(plain), MaxChunk)
	}
	id, err := chunkID(s.repo.keys, kind, plain)
	if err != nil {
		return ID{}, err
	}
	s.stats.read.Add(int64(len(plain)))
	if known, err := s.claim(id); known || err != nil {
		return id, err
	}
	s.stats.fresh.Add(int64(len(plain)))
	s.stats.chunks.Add(1)
	return id, s.pipe.submit(ctx, kind, id, plain)
}

// Settle waits until nothing is being uploaded, so that the next 100 MiB or so of chunks can be saved
// without waiting for the store: before a time that must be short. Nothing may be saved meanwhile.
func (s *Session) Settle(ctx context.Context) error { return s.pipe.settle(ctx) }

// SetNamed stores value under name, so that Named finds it by the name alone. The first value
// that a repository gets under a name may stay: all values under one name must serve equally.
func (s *Session) SetNamed(ctx context.Context, name string, value []byte) (ID, error) {
	return s.Save(ctx, Named, joinNamed(name, value))
}

// claim reports whether the chunk is there or on its way; if not, the caller must submit it.
func (s *Session) claim(id ID) (bool, error) {
	if err := s.err(); err != nil {
		return false, err
	}
	if s.Keep(id) {
		return true, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, stored, err := s.repo.index.usableBy(s.id, id); stored || s.pending[id] || err != nil {
		return true, err // it came since Keep looked, or is coming
	}
	s.pending[id] = true
	return false, nil
}

// usable looks a chunk up. An index that cannot be read fails the session: to take all chunks for
// absent would store everything again.
func (s *Session) usable(id ID) (location, bool) {
	l, ok, err := s.repo.index.usableBy(s.id, id)
	if err != nil {
		s.fail(err)
	}
	return l, ok
}

// Keep reports whether the repository has all these chunks and they may be relied on; if so, they
// belong to this session's snapshot from now on.
func (s *Session) Keep(ids ...ID) bool {
	packs := make([]PackRef, 0, len(ids))
	for _, id := range ids {
		l, ok := s.usable(id)
		if !ok {
			return s.ownAll(ids)
		}
		packs = append(packs, l.pack.PackRef)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range packs {
		s.used[p] = true
	}
	return true
}

// ownAll is Keep where not all chunks are in the index yet: some may be on their way.
func (s *Session) ownAll(ids []ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		l, ok := s.usable(id)
		switch {
		case ok:
			s.used[l.pack.PackRef] = true
		case !s.pending[id]:
			return false
		}
	}
	return true
}

// Stats returns what the session has done so far.
func (s *Session) Stats() SessionStats {
	return SessionStats{
		ReadBytes: s.stats.read.Load(), NewBytes: s.stats.fresh.Load(), StoredBytes: s.stats.stored.Load(),
		NewChunks: s.stats.chunks.Load(), Packs: s.stats.packs.Load(),
	}
}

// uploaded takes note of a pack that is durable now: its chunks can be found by everybody after
// the next delta, and by this process at once, though only this session may rely on them before.
func (s *Session) uploaded(p *indexedPack, entries []packEntry) {
	s.repo.index.add(s.id, p, entries)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own[p.ID] = true
	s.packs = append(s.packs, p)
	for _, e := range entries {
		s.chunks = append(s.chunks, location{e, p})
		delete(s.pending, e.id)
	}
}

// writeDelta publishes what was uploaded since the last delta. One at a time.
func (s *Session) writeDelta(ctx context.Context) error {
	s.mu.Lock()
	packs, chunks, n := s.packs, s.chunks, s.deltas
	s.packs, s.chunks = nil, nil
	s.deltas++
	silent := time.Now().Round(0).Sub(s.alive) // by the wall clock: the other one stands still with the machine
	s.alive = time.Now().Round(0)
	s.mu.Unlock()
	if silent > longSilence {
		if err := s.fenced(ctx); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("%s-%d", s.name(deltaPrefix), n)
	if err := s.put(ctx, crypto.TypeDelta, name, marshalIndex(packs, chunks)); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.packs, s.chunks = append(packs, s.packs...), append(chunks, s.chunks...) // for the next attempt, if there is one
		return fmt.Errorf("store the index: %w", err)
	}
	s.repo.index.listed(packs)
	return nil
}

// longSilence is how long a session may show no life and still be sure that no collection gave it up: what it
// says of its packs would otherwise be of packs that are deleted.
const longSilence = 12 * time.Hour

// fenced returns ErrFenced if a collection gave the session up.
func (s *Session) fenced(ctx context.Context) error {
	for _, name := range []string{s.name(outcomePrefix), s.name(outcomePrefix) + abortSuffix} {
		if there, err := s.repo.hasObject(ctx, name); err != nil {
			return err
		} else if there {
			return ErrFenced
		}
	}
	return nil
}

// heartbeats writes a delta at least every heartbeat until the session ends.
func (s *Session) heartbeats() {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-s.pipe.finished:
			return
		case <-s.ctx.Done():
			return
		case <-t.C:
			if err := s.writeDelta(s.ctx); err != nil {
				s.fail(err)
				return
			}
		}
	}
}

// end stops all work behind and frees what the session holds.
func (s *Session) end() {
	s.cancel(errors.New("the session has ended"))
	s.pipe.stop()
	s.beat.Wait()
	s.release()
}

// Abort ends the session without a snapshot. What was uploaded is published first, so that the next
// run need not send it again; a collection removes it otherwise. After a failure or a cancelled
// ctx it still tries, for a short time, to leave an abort marker, so that no collection waits for
// this session.
func (s *Session) Abort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	s.end()
	if len(s.packs) > 0 {
		if err := s.writeDelta(ctx); err != nil {
			return err
		}
	}
	return s.writeOutcome(ctx, Outcome{Aborted: true})
}

// Retire ends the session without a snapshot when everything saved is durable and indexed.
func (s *Session) Retire(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	defer stop()
	defer s.end()
	if err := s.pipe.flush(); err != nil {
		return err
	}
	if err := s.writeDelta(ctx); err != nil {
		return err
	}
	return s.writeOutcome(ctx, Outcome{Aborted: true})
}
