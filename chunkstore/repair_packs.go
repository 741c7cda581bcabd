package chunkstore

import (
	"context"
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
)

// PackRepair says what RepairPacks found and did.
type PackRepair struct {
	Read     PackCount     // packs of which every byte was read
	Damaged  []DamagedPack // by name
	Archived []string      // packs that could not be read before they are thawed
	Stored   int64         // bytes of what was stored anew
}

// DamagedPack is a pack that is not what was stored.
type DamagedPack struct {
	Name   string
	Err    error // what is wrong with it
	Saved  int   // chunks that could still be read
	Copied int   // chunks that could not, but have a copy in another pack
	Lost   int   // chunks that are nowhere else
	Bytes  int64 // of the lost ones, decoded
	Stays  bool  // it is a put-only host's: what is left of it cannot be stored anew, and snapshots need it where it is
	Locked bool  // the store keeps it where it is, for a time; it counts for nothing
}

// ErrNoPack says that no stored pack has an id.
var ErrNoPack = errors.New("no such pack")

// RepairPacks reads the packs whose ids begin with one of ids, or all where there are none, stores what can still
// be read of damaged ones in new packs, and sets the damaged ones aside: as d/<name>, where nothing looks for
// chunks but a person may, until a collection has found everything that snapshots need elsewhere. Those that are locked stay
// where they are until a collection may delete them, and nobody looks for chunks there either. What could not be
// read is missing from then on, and the next backup that comes across it stores it again.
//
// It may be stopped at any moment and run beside backups, restores and collections. ErrMarks: RepairIndex first.
func (r *Repository) RepairPacks(ctx context.Context, ids []string, o RepairOptions) (*PackRepair, error) {
	if r.host != nil {
		return nil, fmt.Errorf("repair packs: %w", crypto.ErrPutOnly)
	}
	x := &packRepair{r: r, o: o, found: &PackRepair{}, damaged: map[PackID]*damagedPack{}, release: func() {}}
	if x.o.Progress == nil {
		x.o.Progress = func(string, int64, int64) {}
	}
	defer func() { x.release() }()
	steps := []func(context.Context) error{func(ctx context.Context) error { return x.survey(ctx, ids) }, x.finish, x.read, x.entries, x.locks, x.salvage}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return x.found, fmt.Errorf("repair packs: %w", err)
		}
	}
	return x.found, nil
}

type packRepair struct {
	r     *Repository
	o     RepairOptions
	found *PackRepair

	marks    map[string]*mark
	selected []storedPack
	leftover []PackRef // on record as deleted, and stored
	damaged  map[PackID]*damagedPack
	release  func()          // of the writer whose mark it is
	hosts    map[PackID]bool // those that are put-only hosts'
}

type damagedPack struct {
	DamagedPack
	ref     PackRef
	pack    *indexedPack // as the index has it, or the object says
	entries map[ID]packEntry
}

// survey finds the packs to read.
func (x *packRepair) survey(ctx context.Context, ids []string) error {
	var err error
	if x.marks, err = x.r.marks(ctx); err != nil {
		return err
	}
	if err := x.r.LoadIndex(ctx); err != nil {
		return err
	}
	stored, err := x.r.listPacks(ctx)
	if err != nil {
		return err
	}
	x.hosts = map[PackID]bool{}
	if err := x.r.index.packs(func(p packUse) { x.hosts[p.ID] = p.ofHost() }); err != nil {
		return err
	}
	deleted, found := deletedBy(x.marks), map[string]bool{}
	for id, p := range stored {
		if deleted[id] {
			x.leftover = append(x.leftover, p.PackRef)
		}
		named := len(ids) == 0
		for _, want := range ids {
			if strings.HasPrefix(id.String(), want) || p.Name() == want {
				named, found[want] = true, true
			}
		}
		if named && !deleted[id] {
			x.selected = append(x.selected, p)
		}
	}
	for _, want := range ids {
		if !found[want] {
			return fmt.Errorf("pack %s: %w", want, ErrNoPack)
		}
	}
	slices.SortFunc(x.selected, func(a, b storedPack) int { return strings.Compare(a.Name(), b.Name()) })
	return nil
}

// finish deletes what an earlier run has set aside and was stopped before it deleted it.
func (x *packRepair) finish(ctx context.Context) error {
	for _, p := range x.leftover {
		_, err := x.r.backend.Stat(ctx, asidePrefix+p.Name())
		if err == nil && !x.o.DryRun {
			_, err = x.r.delete(ctx, p.Name())
		}
		if err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
	}
	return nil
}

// read reads the selected packs and notes those that are damaged.
func (x *packRepair) read(ctx context.Context) error {
	var total int64
	for _, p := range x.selected {
		total += p.size
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(3)
	for _, p := range x.selected {
		g.Go(func() error {
			damage, err := x.examine(gctx, p.PackRef)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrNotExist): // a collection has deleted it
				return nil
			case errors.Is(err, ErrArchived):
				x.found.Archived = append(x.found.Archived, p.Name())
				return nil
			case err != nil:
				return err
			}
			if damage != nil && x.hosts[p.ID] {
				x.found.Damaged = append(x.found.Damaged, DamagedPack{Name: p.Name(), Err: damage, Stays: true})
			} else if damage != nil {
				x.damaged[p.ID] = &damagedPack{DamagedPack: DamagedPack{Name: p.Name(), Err: damage}, ref: p.PackRef}
			}
			x.found.Read.add(p.size)
			x.o.Progress("read", x.found.Read.Bytes, total)
			return nil
		})
	}
	err := g.Wait()
	slices.Sort(x.found.Archived)
	return err
}

// examine reads one pack whole and tells what is wrong with it.
func (x *packRepair) examine(ctx context.Context, ref PackRef) (damage, err error) {
	object, err := x.r.backend.Get(ctx, ref.Name(), 0, -1)
	if err != nil {
		return nil, err
	}
	plain, entries, damage := openPack(x.r.keys, ref, object)
	if isUnknown(damage) {
		return nil, fmt.Errorf("pack %s: %w", ref.Name(), damage)
	}
	if damage == nil {
		damage = errors.Join(x.r.verify(ref, object, plain, entries)...)
	}
	return damage, nil
}

// entries finds out what the damaged packs held: from the index, or where that does not list one from its own
// table.
func (x *packRepair) entries(ctx context.Context) error {
	if len(x.damaged) == 0 {
		return nil
	}
	if err := x.r.index.loaded.Load().entries(func(at location, _ int) error {
		d := x.damaged[at.pack.ID]
		if d == nil {
			return nil
		}
		if d.pack == nil {
			d.pack, d.entries = at.pack, map[ID]packEntry{}
		}
		d.entries[at.id] = at.packEntry
		return nil
	}); err != nil {
		return err
	}
	for _, d := range x.damaged {
		if d.pack != nil {
			continue
		}
		info, err := x.r.backend.Stat(ctx, d.Name)
		if err != nil {
			return err
		}
		pack, entries, err := x.r.readTable(ctx, storedPack{PackRef: d.ref, size: info.Size})
		if err != nil && !isDamage(err) && !isUnknown(err) && !errors.Is(err, ErrPermanent) {
			return err
		}
		if err == nil {
			d.pack, d.entries = pack, map[ID]packEntry{}
		}
		for _, e := range entries {
			d.entries[e.id] = e
		}
	}
	return nil
}

// locks finds out which damaged packs are locked.
func (x *packRepair) locks(ctx context.Context) error {
	if x.r.locker == nil {
		return nil
	}
	for _, d := range x.damaged {
		left, err := x.r.locker.Retained(ctx, d.Name)
		if err != nil {
			return err
		}
		d.Locked = left > 0
	}
	return nil
}

// salvage stores what can be read of the damaged packs anew, and then sets them aside.
func (x *packRepair) salvage(ctx context.Context) error {
	if len(x.damaged) == 0 {
		return nil
	}
	if x.o.DryRun {
		return x.chunks(ctx, func(context.Context, Kind, []byte) error { return nil })
	}
	// As a collection does: whoever walks what is needed from now on, and relies on a chunk being in a damaged pack, sees
	// that it is to go.
	name, err := x.mark(ctx)
	if err != nil {
		return err
	}
	s, err := x.r.Begin(ctx, BeginOptions{Host: x.o.Host, Program: "repair packs"})
	if err != nil {
		return err
	}
	err = x.chunks(ctx, func(ctx context.Context, kind Kind, plain []byte) error {
		_, err := s.Save(ctx, kind, plain)
		return err
	})
	if err != nil {
		return errors.Join(err, s.Abort(ctx))
	}
	if err := s.Retire(ctx); err != nil {
		return err
	}
	x.found.Stored = s.Stats().StoredBytes
	return x.setAside(ctx, name)
}

// mark condemns the damaged packs. Until the end nobody else is the writer whose mark it is: a collection of the same host would
// carry it out in its own way.
func (x *packRepair) mark(ctx context.Context) (name string, err error) {
	w, release, err := claimWriter(x.r.opts.StateDir, x.r.keys.Repository())
	if err != nil {
		return "", err
	}
	x.release = release
	name = sessionName(markPrefix, w, newSessionID(time.Now()))
	if err := x.r.putSigned(ctx, crypto.TypeMark, name, marshalPackRefs(x.refs())); err != nil {
		return "", fmt.Errorf("mark: %w", err)
	}
	return name, nil
}

func (x *packRepair) refs() []PackRef {
	var refs []PackRef
	for _, d := range x.damaged {
		refs = append(refs, d.ref)
	}
	return refs
}

// chunks gives every chunk of the damaged packs that can be read to save, and counts the others.
func (x *packRepair) chunks(ctx context.Context, save func(context.Context, Kind, []byte) error) error {
	avoid := map[PackID]bool{}
	for id := range x.damaged {
		avoid[id] = true
	}
	x.r.index.avoid(avoid)
	for _, id := range slices.SortedFunc(maps.Keys(x.damaged), func(a, b PackID) int { return strings.Compare(x.damaged[a].Name, x.damaged[b].Name) }) {
		d := x.damaged[id]
		object, err := x.object(ctx, d)
		if err != nil {
			return err
		}
		for _, e := range d.entries {
			plain, err := x.chunk(d.pack, e, object)
			if err == nil {
				d.Saved++
				if err := save(ctx, e.kind, plain); err != nil {
					return err
				}
				continue
			}
			switch _, elsewhere, err := x.r.index.usable(e.id); {
			case err != nil:
				return err
			case elsewhere:
				d.Copied++
			default:
				d.Lost++
				d.Bytes += int64(e.plain)
			}
		}
		x.found.Damaged = append(x.found.Damaged, d.DamagedPack)
	}
	return nil
}

// object returns the bytes of a damaged pack, or whole ones, if the cache of this host still has them.
func (x *packRepair) object(ctx context.Context, d *damagedPack) ([]byte, error) {
	if b, ok := x.r.cache.get(d.Name); ok && sha256.Sum256(b) == d.ref.ID {
		return b, nil
	}
	return x.r.backend.Get(ctx, d.Name, 0, -1)
}

// chunk opens one chunk of a damaged pack, by the packages that hold it alone.
func (x *packRepair) chunk(p *indexedPack, e packEntry, object []byte) ([]byte, error) {
	at, n := crypto.StoredRange(p.plainSize, int64(e.offset), int64(e.stored))
	head := crypto.HeaderSize + crypto.Encapsulated(p.header[:])
	at += head - crypto.HeaderSize
	if n == 0 || at+n > int64(len(object)) {
		return nil, fmt.Errorf("%w: chunk %v lies beyond the end", crypto.ErrDamaged, e.id)
	}
	encoded, err := x.r.keys.OpenRange(p.sealType(), p.sealName(), slices.Concat(p.header[:], object[crypto.HeaderSize:head]), p.plainSize, int64(e.offset), int64(e.stored), object[at:at+n])
	if err != nil {
		return nil, err
	}
	return x.r.decode(p, e, encoded)
}

// setAside moves the damaged packs that are not locked. All are on record as deleted before they are, so that nobody looks for chunks
// in them any more.
func (x *packRepair) setAside(ctx context.Context, mark string) error {
	for _, d := range x.damaged {
		if d.Locked {
			continue
		}
		object, err := x.r.backend.Get(ctx, d.Name, 0, -1)
		if errors.Is(err, ErrNotExist) {
			continue // a collection has found everything elsewhere, and deleted it
		}
		if err != nil {
			return err
		}
		if err := x.r.backend.Put(ctx, asidePrefix+d.Name, object); err != nil {
			return fmt.Errorf("set aside: %w", err)
		}
	}
	if err := x.r.putSigned(ctx, crypto.TypeMark, mark+doneSuffix, marshalPackRefs(x.refs())); err != nil {
		return fmt.Errorf("set aside: %w", err)
	}
	for _, d := range x.damaged {
		x.r.cache.drop(d.Name)
		if d.Locked {
			continue
		}
		if _, err := x.r.delete(ctx, d.Name); err != nil { // one that others have locked meanwhile stays, and counts for nothing
			return fmt.Errorf("set aside: %w", err)
		}
	}
	return x.r.LoadIndex(ctx)
}
