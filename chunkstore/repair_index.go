package chunkstore

import (
	"context"
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

// RepairOptions tune RepairIndex and RepairPacks.
type RepairOptions struct {
	Host string // for those who look at the repository meanwhile
	// ReadAll makes RepairIndex believe no index object of a session that has ended: it reads the tables of all packs.
	ReadAll bool
	// DryRun changes nothing and tells what would be done.
	DryRun bool
	// Progress is told what is being done, and how much of how much. May be nil.
	Progress func(phase string, done, total int64)
}

// IndexRepair says what RepairIndex found and did.
type IndexRepair struct {
	Packs    int      // stored
	Read     int      // of which the table was read
	Added    int      // that the index did not list
	Missing  []string // listed but not stored: taken out
	Damaged  []string // index objects that are damaged: replaced
	Marks    []string // objects of marks that are damaged: deleted
	Chunks   int      // listed anew
	Archived []string // packs of which the table could not be read before they are thawed; the index lists them or not, as before
	Problems []error  // what could not be mended: it stays as it is
}

// RepairIndex makes the index list what is stored: packs that no index object lists any more are listed by their
// own tables, packs that are not there are taken out, index objects that cannot be read are replaced, and marks
// that cannot be read are deleted where their collection does not run. No pack and no snapshot is touched, nor
// anything that says to be of a newer version or under newer keys: that is an error, but in a locked repository, where
// anybody could have put it: there, as all that is locked, it stays and is a problem. Each
// step puts the new before it deletes the old, so it may be stopped at any moment; and it may run beside backups
// and restores.
func (r *Repository) RepairIndex(ctx context.Context, o RepairOptions) (*IndexRepair, error) {
	if r.host != nil {
		return nil, fmt.Errorf("repair the index: %w", crypto.ErrPutOnly)
	}
	x := &indexRepair{
		collector: collector{r: r, o: CollectOptions{Host: o.Host, Progress: o.Progress, DryRun: o.DryRun}, report: &CollectReport{}, now: time.Now()},
		readAll:   o.ReadAll, found: &IndexRepair{},
	}
	if x.o.Progress == nil {
		x.o.Progress = func(string, int64, int64) {}
	}
	steps := []func(context.Context) error{x.survey, x.tables}
	if !o.DryRun {
		steps = []func(context.Context) error{x.begin, x.survey, x.tables, x.replace, x.unmark}
	}
	defer x.end(context.WithoutCancel(ctx))
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return x.found, fmt.Errorf("repair the index: %w", err)
		}
	}
	return x.found, nil
}

type indexRepair struct {
	collector
	readAll bool
	found   *IndexRepair

	strange  []error // marks that may be whole for others, and stay
	badMarks map[string]error
	ended    []string        // index objects that can be read and may be replaced
	listed   map[PackID]bool // by what can be read
	missing  map[PackID]bool // of these; they are taken out
	lost     []PackRef       // of these, where they cannot be taken out
	unlisted []storedPack    // whose tables are to be read
	renewed  map[PackID]bool // of which the table was read
	made     int             // segments
}

// survey compares the index with what is stored. Index objects are listed before packs: what they list has been
// stored before.
func (x *indexRepair) survey(ctx context.Context) error {
	x.o.Progress("list", 0, 0)
	var err error
	if x.marks, x.badMarks, err = x.r.readableMarks(ctx); err != nil {
		return err
	}
	x.found.Marks, x.strange = nil, nil
	for _, name := range slices.Sorted(maps.Keys(x.badMarks)) {
		err := x.badMarks[name]
		if isDamage(err) {
			x.found.Marks = append(x.found.Marks, name)
			continue
		}
		if err := x.stays(ctx, name, err, &x.strange); err != nil {
			return fmt.Errorf("mark %w", err)
		}
	}
	if x.sessions, err = x.r.listSessions(ctx); err != nil {
		return err
	}
	return relist(func() error { return x.compare(ctx) })
}

// stays adds an object that nobody here can open to the problems where it may be junk; elsewhere that is an error.
func (x *indexRepair) stays(ctx context.Context, name string, why error, problems *[]error) error {
	junk, err := x.r.mayBeJunk(ctx, why)
	if err == nil && !junk {
		err = fmt.Errorf("%s: %w", name, why)
	}
	if err == nil {
		*problems = append(*problems, fmt.Errorf("object %s: %w: it stays, and backups pass over it", name, why))
	}
	return err
}

func (x *indexRepair) compare(ctx context.Context) error {
	x.checked = time.Now().Round(0)
	x.found.Damaged, x.found.Missing, x.ended, x.unlisted = nil, nil, nil, nil
	x.found.Problems, x.lost = slices.Clone(x.strange), nil
	names, err := x.r.indexNames(ctx)
	if err != nil {
		return err
	}
	var good []string
	for _, name := range names {
		_, err := x.r.readIndexObject(ctx, name)
		switch {
		case isDamage(err):
			x.r.cache.drop(name)
			x.found.Damaged = append(x.found.Damaged, name)
		case isUnknown(err):
			if err := x.stays(ctx, name, err, &x.found.Problems); err != nil {
				return err
			}
		case err != nil:
			return err
		case !ofRunning(x.sessions, name):
			x.ended = append(x.ended, name)
		}
		if err == nil {
			good = append(good, name)
		}
	}
	g := x.r.newGather(emptyBase())
	g.keep = false
	l, err := x.r.gatherIndex(ctx, g, good, nil)
	if err != nil {
		return err
	}
	if x.stored, err = x.r.listPacks(ctx); err != nil {
		return err
	}
	x.found.Packs = len(x.stored)
	return x.differences(ctx, l)
}

// isDamage tells whether what was read is damaged for sure: what a newer version wrote, or who has newer keys, is
// nobody's to replace here.
func isDamage(err error) bool {
	return errors.Is(err, crypto.ErrDamaged) && !isUnknown(err)
}

// isUnknown tells whether what was read may be whole for somebody who knows more.
func isUnknown(err error) bool {
	return errors.Is(err, crypto.ErrNewer) || errors.Is(err, crypto.ErrWrongKey)
}

// differences finds what is listed but not stored, and stored but not listed. What is on record as deleted is
// neither.
func (x *indexRepair) differences(ctx context.Context, l *listing) error {
	x.listed, x.missing, x.renewed = map[PackID]bool{}, map[PackID]bool{}, map[PackID]bool{}
	var lost []PackRef
	deleted := deletedBy(x.marks)
	if err := l.uses(map[PackID]packUse{}, func(u packUse) {
		x.listed[u.ID] = true
		if _, ok := x.stored[u.ID]; !ok && !deleted[u.ID] {
			lost = append(lost, u.PackRef)
		}
	}); err != nil {
		return err
	}
	for _, p := range lost {
		switch _, err := x.r.backend.Stat(ctx, p.Name()); { // there are stores whose lists lag
		case err == nil:
			continue
		case !errors.Is(err, ErrNotExist):
			return err
		}
		if x.r.locker != nil {
			x.lost = append(x.lost, p)
			x.problem("pack %s: %w: what lists it is locked; the next backup of each host that comes across what it held stores that anew", p.Name(), ErrPackGone)
			continue
		}
		x.missing[p.ID] = true
		x.found.Missing = append(x.found.Missing, p.Name())
	}
	slices.Sort(x.found.Missing)
	for id, p := range x.stored {
		if (x.readAll || !x.listed[id]) && !deleted[id] {
			x.unlisted = append(x.unlisted, p)
		}
	}
	slices.SortFunc(x.unlisted, func(a, b storedPack) int { return strings.Compare(a.Name(), b.Name()) })
	return nil
}

// tables reads the tables of packs that are not listed and stores segments of them.
func (x *indexRepair) tables(ctx context.Context) error {
	var packs []*indexedPack
	var chunks []location
	var mu sync.Mutex
	flush := func() error {
		err := x.put(ctx, packs, chunks)
		packs, chunks = nil, nil
		return err
	}
	for batch := range slices.Chunk(x.unlisted, 256) {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(16)
		for _, p := range batch {
			g.Go(func() error {
				pack, entries, err := x.r.readTable(gctx, p)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.Is(err, ErrNotExist): // others have deleted it
					return nil
				case errors.Is(err, ErrArchived):
					x.found.Archived = append(x.found.Archived, p.Name())
					return nil
				case isDamage(err), isUnknown(err): // it stays as it is
					x.found.Problems = append(x.found.Problems, fmt.Errorf("pack %s: %w", p.Name(), err))
					return nil
				case err != nil:
					return err
				}
				x.found.Read++
				x.renewed[p.ID] = true
				if !x.listed[p.ID] {
					x.found.Added++
				}
				packs = append(packs, pack)
				for _, e := range entries {
					chunks = append(chunks, location{e, pack})
				}
				x.o.Progress("read tables", int64(x.found.Read), int64(len(x.unlisted)))
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		slices.Sort(x.found.Archived)
		if len(chunks) >= segmentEntries {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// put stores segments, unless this is a dry run.
func (x *indexRepair) put(ctx context.Context, packs []*indexedPack, chunks []location) error {
	x.found.Chunks += len(chunks)
	if x.o.DryRun {
		return nil
	}
	packsOf, chunksOf := map[Domain][]*indexedPack{}, map[Domain][]location{}
	for _, p := range packs {
		packsOf[p.domain()] = append(packsOf[p.domain()], p)
	}
	for _, l := range chunks {
		chunksOf[l.pack.domain()] = append(chunksOf[l.pack.domain()], l)
	}
	for d, packs := range packsOf {
		_, id, _, err := parseSessionName(markPrefix, x.name)
		if err != nil {
			return err
		}
		name := x.segmentName(d, id, x.made)
		x.made++
		object, err := x.r.sealSegment(d, name, marshalIndex(packs, chunksOf[d]))
		if err == nil {
			err = x.r.backend.Put(ctx, name, object)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readTable reads the table at the end of a stored pack, and its header, by which the index knows it.
func (r *Repository) readTable(ctx context.Context, p storedPack) (*indexedPack, []packEntry, error) {
	pack := &indexedPack{PackRef: p.PackRef}
	header, err := r.backend.Get(ctx, p.Name(), 0, crypto.HeaderSize)
	if err != nil {
		return nil, nil, err
	}
	copy(pack.header[:], header)
	size, err := crypto.PlainSize(p.size - crypto.Encapsulated(header))
	if err != nil {
		return nil, nil, err
	}
	pack.plainSize = size
	tail, err := r.readTail(ctx, pack, min(size, 16<<10))
	if err != nil {
		return nil, nil, err
	}
	n, err := tableSize(tail)
	if err == nil && n > int64(len(tail)) && n <= size {
		tail, err = r.readTail(ctx, pack, n)
	}
	if err != nil {
		return nil, nil, err
	}
	entries, err := parseTable(tail, size)
	if err == nil {
		err = ownTable(pack.PackRef, header, entries)
	}
	return pack, entries, err
}

// readTail reads the last n bytes of a pack's plaintext.
func (r *Repository) readTail(ctx context.Context, p *indexedPack, n int64) ([]byte, error) {
	return r.readRange(ctx, p, p.plainSize-n, n)
}

// replace puts segments in the place of index objects that list what is not there, or that are not believed, and
// deletes those that cannot be read. A pack whose table cannot be read stays as it was listed: its chunks may be whole.
// Of a locked repository nothing is replaced: what was there would go on to count.
func (x *indexRepair) replace(ctx context.Context) error {
	if x.r.locker != nil {
		return x.keepLocked(ctx)
	}
	if len(x.missing) > 0 || x.readAll {
		x.o.Progress("write the index", 0, 0)
		deleted := deletedBy(x.marks)
		if _, err := x.writeSegments(ctx, x.ended, func(id PackID) bool {
			return !x.missing[id] && !deleted[id] && !x.renewed[id]
		}); err != nil {
			return err
		}
		if err := x.deleteAll(ctx, x.ended); err != nil {
			return err
		}
	}
	return x.deleteAll(ctx, x.found.Damaged)
}

// keepLocked deletes the damaged index objects that are not locked, and tells of the others. No backup of this host relies
// on what is missing from then on.
func (x *indexRepair) keepLocked(ctx context.Context) error {
	deleted := x.found.Damaged[:0]
	for _, name := range x.found.Damaged {
		gone, err := x.r.delete(ctx, name)
		if err != nil {
			return err
		}
		if gone {
			deleted = append(deleted, name)
		} else {
			x.problem("object %s: %w: it is locked and stays, and backups pass over it", name, crypto.ErrDamaged)
		}
	}
	x.found.Damaged = deleted
	x.r.remember(x.lost)
	return nil
}

func (x *indexRepair) problem(format string, args ...any) {
	x.found.Problems = append(x.found.Problems, fmt.Errorf(format, args...))
}

// unmark deletes what cannot be read of marks whose collections do not run. The packs of such a mark are stored,
// or have just been taken out of the index.
func (x *indexRepair) unmark(ctx context.Context) error {
	deleted := x.found.Marks[:0]
	for _, name := range x.found.Marks {
		of, _ := markOf(name)
		switch info, err := x.r.backend.Stat(ctx, of+runSuffix); {
		case err == nil && x.now.Sub(info.Modified) < x.r.ages.silent:
			x.problem("mark %s: %w: its collection runs, or was killed within the last days", name, x.badMarks[name])
			continue
		case err != nil && !errors.Is(err, ErrNotExist):
			return err
		}
		switch gone, err := x.r.delete(ctx, name); {
		case err != nil:
			return err
		case !gone:
			x.problem("mark %s: %w: it is locked and stays, and is passed over", name, x.badMarks[name])
		default:
			deleted = append(deleted, name)
		}
	}
	x.found.Marks = deleted
	return x.r.LoadIndex(ctx)
}
