package chunkstore

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/internal/frugal"
)

// What a collection leaves under g/<writer>/<id>: the mark itself, which condemns packs; who has to end
// before it may be carried out; the packs that are deleted in the end, on record before the first is; and
// while it runs a sign of that. Only its own writer carries a mark out: two that did so at once could
// disagree. What is on record as deleted is so for ever, and stays on record as long as an index object may
// name it.
const (
	waitsSuffix = "-waits"
	doneSuffix  = "-done"
	runSuffix   = "-runs"
)

// mark is what is there of one.
type mark struct {
	name     string
	modified time.Time
	condemns []PackRef
	waits    []string  // names of sessions, under sessionPrefix
	waiting  bool      // waits is known
	noted    time.Time // when it was
	deleted  []PackRef
	done     bool      // deleted is known
	runs     time.Time // when its collection began; zero: it does not run
}

// packs returns the packs that the mark makes unusable.
func (m *mark) packs() []PackRef {
	if m.done {
		return m.deleted
	}
	return m.condemns
}

// ErrMarks says that a mark cannot be read, so that it is not known what its collection has deleted or is
// about to: whatever is stored can be read, but no backup can tell what it may rely on, and nothing is
// collected.
var ErrMarks = errors.New("a mark of a collection cannot be read")

// marks reads all marks, by name. One that is gone when it is read was carried out long ago. One that cannot
// be read is ErrMarks: whoever deletes must know them all. But in a locked repository none of ours can come to be
// damaged, and none is of a later key epoch before that has begun: such a one was put by somebody who has no keys, and locked, and
// is passed over. What says to be of a newer version may be.
func (r *Repository) marks(ctx context.Context) (map[string]*mark, error) {
	all, bad, err := r.readableMarks(ctx)
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		junk, slotErr := r.mayBeJunk(ctx, bad[name])
		if slotErr != nil {
			return nil, slotErr
		}
		if !junk || errors.Is(bad[name], crypto.ErrNewer) {
			return nil, fmt.Errorf("%w: object %s: %w", ErrMarks, name, bad[name])
		}
		r.passOver(name, bad[name])
	}
	return all, err
}

// readableMarks reads all marks that can be read, by name, and tells of the objects that cannot.
func (r *Repository) readableMarks(ctx context.Context) (all map[string]*mark, bad map[string]error, err error) {
	err = r.relist(ctx, func() error {
		all, bad, err = r.readMarks(ctx)
		return err
	})
	return all, bad, err
}

// loadAttempts is how often something is listed while collections replace what was listed. They take
// longer than reading it does.
const loadAttempts = 5

// relist calls f again where an object that it has listed is gone.
func relist(f func() error) error {
	for attempt := 1; ; attempt++ {
		if err := f(); !errors.Is(err, ErrNotExist) || attempt == loadAttempts {
			return err
		}
	}
}

func (r *Repository) readMarks(ctx context.Context) (map[string]*mark, map[string]error, error) {
	var infos []Info
	err := r.backend.List(ctx, markPrefix, func(i Info) error {
		infos = append(infos, i)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list marks: %w", err)
	}
	names := make([]string, len(infos))
	all, bad, mu := map[string]*mark{}, map[string]error{}, sync.Mutex{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, info := range infos {
		names[i] = info.Name
		g.Go(func() error {
			object, err := r.cachedGet(gctx, info.Name)
			var given *givenUpError
			if errors.Is(err, ErrNotExist) && r.knownToLag() {
				return nil
			}
			if err != nil && !errors.As(err, &given) {
				return err
			}
			var plain []byte
			if err == nil {
				plain, err = r.keys.Open(crypto.TypeMark, info.Name, object)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = r.takeMark(all, info, plain)
			}
			if err != nil {
				r.cache.drop(info.Name)
				bad[info.Name] = err
			}
			return gctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, fmt.Errorf("read marks: %w", err)
	}
	r.cache.keep(markPrefix, names)
	return all, bad, nil
}

// markOf returns of which mark an object is, and which of its objects.
func markOf(name string) (of, suffix string) {
	for _, suffix := range []string{waitsSuffix, doneSuffix, runSuffix} {
		if of, ok := strings.CutSuffix(name, suffix); ok {
			return of, suffix
		}
	}
	return name, ""
}

// obscured returns an error if the packs of some mark are not known, nor a list that has them all: what is on
// record as deleted was condemned before.
func obscured(all map[string]*mark, bad map[string]error) error {
	for _, name := range slices.Sorted(maps.Keys(bad)) {
		of, suffix := markOf(name)
		m := all[of]
		if (suffix == "" || suffix == doneSuffix) && (m == nil || !m.done && m.condemns == nil) {
			return fmt.Errorf("%w: object %s: %w", ErrMarks, name, bad[name])
		}
	}
	return nil
}

// unseen returns those of the objects of marks that cannot be read which a session must not pass over. In a locked repository
// whoever can write there could put one and lock it for years, so there a session goes on: that the packs it relies on are there
// shows when it locks them, before it commits.
func (r *Repository) unseen(ctx context.Context, bad map[string]error) (map[string]error, error) {
	unseen := map[string]error{}
	for name, err := range bad {
		junk, slotErr := r.mayBeJunk(ctx, err)
		switch {
		case slotErr != nil:
			return nil, slotErr
		case junk:
			r.passOver(name, err)
		default:
			unseen[name] = err
		}
	}
	return unseen, nil
}

// mayBeJunk tells whether an object that cannot be opened may be of somebody without keys who locked it. A header may say what it
// likes; but that a later key epoch has begun is told by the name of its first slot, which only holders of the keys can make.
func (r *Repository) mayBeJunk(ctx context.Context, why error) (bool, error) {
	if r.locker == nil || !isDamage(why) && !isUnknown(why) {
		return false, nil
	}
	if !errors.Is(why, crypto.ErrRotated) {
		return true, nil
	}
	later, err := laterEpoch(ctx, r.backend, r.keys)
	return !later, err
}

// passOver tells once that an object is passed over.
func (r *Repository) passOver(name string, err error) {
	if _, told := r.passed.LoadOrStore(name, true); !told {
		r.log.Warn("a mark that cannot be read is passed over: what snapshots need is locked", "object", name, "error", err)
	}
}

// takeMark adds one object to the mark that it is of.
func (r *Repository) takeMark(all map[string]*mark, info Info, plain []byte) error {
	body, err := r.signed(crypto.TypeMark, info.Name, plain)
	if err != nil {
		return err
	}
	of, suffix := markOf(info.Name)
	m := all[of]
	if m == nil {
		m = &mark{name: of}
		all[of] = m
	}
	switch suffix {
	case waitsSuffix:
		var record waitsRecord
		err = unmarshalVersioned(body, &record)
		m.waits, m.waiting, m.noted = record.Sessions, err == nil, info.Modified
	case runSuffix:
		m.runs = info.Modified
	case doneSuffix:
		m.deleted, err = parsePackRefs(body)
		m.done = err == nil
	default:
		m.modified = info.Modified
		m.condemns, err = parsePackRefs(body)
	}
	if err != nil { // whoever wrote it had the keys
		err = fmt.Errorf("%w: %w", crypto.ErrNewer, err)
	}
	return err
}

// waitsRecord is the object g/<writer>/<id>-waits.
type waitsRecord struct {
	Version  int      `json:"version"`
	Sessions []string `json:"sessions"`
}

func parsePackRefs(b []byte) ([]PackRef, error) {
	if len(b)%packRefSize != 0 {
		return nil, fmt.Errorf("%w: list of packs of %d bytes", crypto.ErrDamaged, len(b))
	}
	refs := make([]PackRef, 0, len(b)/packRefSize)
	for b := range slices.Chunk(b, packRefSize) {
		ref, err := parsePackRef(b)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

func marshalPackRefs(refs []PackRef) []byte {
	b := make([]byte, 0, len(refs)*packRefSize)
	for _, p := range refs {
		b = p.append(b)
	}
	return b
}

// condemned returns the packs that do not count for a backup: those that a collection wants to delete, or
// has deleted, and those that were found to be gone; the latter two also by themselves. Marks that cannot be read keep nobody from reading, but r takes note of them for those who
// write. The caller holds loadMu.
func (r *Repository) condemned(ctx context.Context) (packs, deleted map[PackID]bool, err error) {
	all, bad, err := r.readableMarks(ctx)
	if err != nil {
		return nil, nil, err
	}
	if bad, err = r.unseen(ctx, bad); err != nil {
		return nil, nil, err
	}
	if r.obscured = obscured(all, bad); r.obscured != nil {
		r.log.Warn("nothing can be backed up or collected until this is mended", "error", r.obscured)
	}
	gone, err := r.stillGone(ctx)
	if err != nil {
		return nil, nil, err
	}
	packs, deleted = packsOf(maps.Values(all)), deletedBy(all)
	for _, p := range gone {
		packs[p.ID], deleted[p.ID] = true, true
	}
	return packs, deleted, nil
}

// packsOf returns the packs that marks make unusable.
func packsOf(marks func(func(*mark) bool)) map[PackID]bool {
	packs := map[PackID]bool{}
	for m := range marks {
		for _, p := range m.packs() {
			packs[p.ID] = true
		}
	}
	return packs
}

// deletedBy returns the packs that collections have deleted.
func deletedBy(marks map[string]*mark) map[PackID]bool {
	return packsOf(func(yield func(*mark) bool) {
		for _, m := range marks {
			if m.done && !yield(m) {
				return
			}
		}
	})
}

// putSigned stores body behind the signature of those who may take something out.
func (r *Repository) putSigned(ctx context.Context, t crypto.Type, name string, body []byte) error {
	object, err := r.sealSigned(t, name, body)
	if err != nil {
		return err
	}
	return r.backend.Put(ctx, name, object)
}

func (r *Repository) sealSigned(t crypto.Type, name string, body []byte) ([]byte, error) {
	plain, err := r.sign(t, name, body)
	if err != nil {
		return nil, err
	}
	return r.keys.Seal(t, name, plain)
}

// sign puts the signature before body.
func (r *Repository) sign(t crypto.Type, name string, body []byte) ([]byte, error) {
	signature, err := r.keys.Sign(t, signedName(name), body)
	return append(signature, body...), err
}

// signedName returns the name that the signature in an object is of. What is sealed anew keeps its signature.
func signedName(name string) string {
	switch {
	case strings.HasPrefix(name, forgetPrefix):
		return sealedFirst(name)
	case strings.HasPrefix(name, hostPrefix):
		return hostFirst(name)
	}
	return name
}

// signed returns the body in the plaintext of what putSigned stored. Once there was a tag in the place of the signature.
func (r *Repository) signed(t crypto.Type, name string, plain []byte) ([]byte, error) {
	if n := crypto.SignatureSize; len(plain) >= n && r.keys.IsSigned(t, signedName(name), plain[n:], plain[:n]) {
		return plain[n:], nil
	}
	if len(plain) < sha256.Size {
		return nil, fmt.Errorf("%w: %d bytes", crypto.ErrDamaged, len(plain))
	}
	body := plain[sha256.Size:]
	if tag := r.keys.CollectionMAC(body); !hmac.Equal(tag[:], plain[:sha256.Size]) {
		return nil, fmt.Errorf("%w: not written by one who may", crypto.ErrDamaged)
	}
	return body, nil
}

// unmarshalVersioned reads JSON of version 1.
func unmarshalVersioned(text []byte, v any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := frugal.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	if head.Version != 1 {
		return fmt.Errorf("%w: record of version %d", crypto.ErrNewer, head.Version)
	}
	if err := frugal.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%w: %w", crypto.ErrDamaged, err)
	}
	return nil
}
