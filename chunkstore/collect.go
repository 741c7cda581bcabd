package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

// CollectOptions say how far a collection goes.
type CollectOptions struct {
	Host string // for those who look at the repository meanwhile
	// Walk returns what CheckOptions has under this name, anew for each time that all snapshots are walked:
	// within one it may leave out what was yielded for another snapshot. Required.
	Walk func() func(context.Context, Outcome) iter.Seq2[Ref, error]
	// MaxUnused is the share of the needed bytes that may stay beside them although nothing needs them:
	// packs are rewritten until there is less. 0.05 is 5 %; negative: whatever there is.
	MaxUnused float64
	// MaxRepack bounds the bytes of packs that are rewritten. 0: no bound.
	MaxRepack int64
	// MaxReencrypt bounds the bytes of packs that are rewritten because they are sealed in an older key epoch than
	// the newest. 0: none are; negative: no bound. With any, old index objects, outcomes and forget records are sealed
	// anew too.
	MaxReencrypt int64
	// MinAge is how old a pack must be to be touched, by the store's clock. 0: 24 hours, for there are stores
	// whose lists lag. Negative: any age, for a store whose lists show at once what was put.
	MinAge time.Duration
	// DryRun changes nothing and tells what would be done.
	DryRun bool
	// Progress is told what is being done, and how many bytes of how many where that is known. May be nil.
	Progress func(phase string, done, total int64)
}

// PackCount is a number of packs and their bytes in the store.
type PackCount struct {
	Packs int   `json:"packs"`
	Bytes int64 `json:"bytes"`
}

func (n *PackCount) add(bytes int64) {
	n.Packs++
	n.Bytes += bytes
}

// CollectReport says what a collection found and did.
type CollectReport struct {
	Snapshots int       // wanted
	Stored    PackCount // before
	Unneeded  PackCount // packs of which no snapshot needs anything
	Unused    int64     // bytes in other packs that no snapshot needs
	Repack    PackCount // packs that were rewritten, or are to be
	Repacked  int64     // bytes that were stored anew for that
	Old       PackCount // needed packs that stay sealed in an older key epoch than the newest
	Orphans   PackCount // packs that no index lists, of sessions that died
	Young     PackCount // packs that nothing needs but that are left for now: a session runs, or has just ended
	Deleted   PackCount
	Locked    PackCount // packs that nothing needs but that the store keeps, because they are locked still
	Rescued   int       // packs that a snapshot came to need since they were condemned
	Waits     []RunningSession
	Fenced    []string // sessions that were given up for dead
	Indexes   [2]int   // objects of the index before and after
	Records   int      // of snapshots that were forgotten
	Resealed  int      // outcomes, forget records, records and put-only hosts that were sealed anew, in the newest key epoch
	Problems  []error  // packs that could not be rewritten: they stay
}

// RunningSession is one for which deletions have to wait.
type RunningSession struct {
	Session SessionID
	Writer  crypto.WriterID
	Host    string    // as it says; empty where that cannot be read
	Since   time.Time // when it showed life last, by the store's clock
}

// ages are the times of the protocol, all by the store's clock.
type ages struct {
	pack   time.Duration // a younger pack is left alone: some stores' lists lag
	orphan time.Duration // so is one that no index lists
	silent time.Duration // a session that shows no life for that long is given up
	record time.Duration // how long what was done stays on record
	lag    time.Duration // how late a list may show what was put, on stores that create unconditionally
}

func defaultAges() ages {
	const day = 24 * time.Hour
	return ages{pack: day, orphan: 7 * day, silent: 3 * day, record: 7 * day, lag: time.Hour}
}

// Collect gives back what no wanted snapshot needs: it deletes packs, rewrites those that are needed only
// in part, and merges the objects of the index. It may run beside backups, restores and other collections
// on other hosts, and may be killed at any moment: the next one goes on where it stopped. What a running
// backup may rely on is deleted only when that has ended; where one runs, the deletion is left to the next
// collection (CollectReport.Waits).
//
// A snapshot that cannot be read is an error, for nobody knows what it needs. Memory: about 150 bytes for
// each pack and a bit for each chunk, beside what a session takes.
//
// The steps are those of docs/format.md ("Collection"), which protocol_test.go explores.
func (r *Repository) Collect(ctx context.Context, o CollectOptions) (*CollectReport, error) {
	if r.host != nil {
		return nil, fmt.Errorf("collect: %w", crypto.ErrPutOnly)
	}
	c := &collector{r: r, o: o, report: &CollectReport{}, now: time.Now()}
	if c.o.Progress == nil {
		c.o.Progress = func(string, int64, int64) {}
	}
	steps := []func(context.Context) error{c.survey, c.plan}
	if !o.DryRun {
		steps = []func(context.Context) error{c.begin, c.survey, c.plan, c.repack, c.mark, c.sweep, c.consolidate, c.tidy, c.reseal}
	}
	defer c.end(context.WithoutCancel(ctx))
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return c.report, fmt.Errorf("collect: %w", err)
		}
	}
	return c.report, nil
}

type collector struct {
	r       *Repository
	o       CollectOptions
	report  *CollectReport
	release func() // of the writer
	own     string // with what the names of the writer's marks begin
	name    string // of the mark
	now     time.Time
	creates bool // the store creates conditionally

	marks    map[string]*mark
	sessions sessions
	stored   map[PackID]storedPack
	live     *liveSet
	packs    map[PackID]*packUsage
	dead     []PackRef
	leftover []PackRef // on record as deleted, and stored
	rewrite  []*packUsage
	checked  time.Time // when it was last found out what is needed, by this host's clock
}

type storedPack struct {
	PackRef
	size     int64
	modified time.Time
	archived bool
}

// begin shows that a collection runs, and learns the store's time by that.
func (c *collector) begin(ctx context.Context) error {
	var err error
	if c.creates, err = c.r.conditional(ctx); err != nil {
		return fmt.Errorf("probe for conditional writes: %w", err)
	}
	w, release, err := claimWriter(c.r.opts.StateDir, c.r.keys.Repository())
	if err != nil {
		return err
	}
	c.release = release
	c.own = markPrefix + w.String() + "/"
	c.name = sessionName(markPrefix, w, newSessionID(time.Now()))
	if err := c.r.putSigned(ctx, crypto.TypeMark, c.name+runSuffix, []byte(c.o.Host)); err != nil {
		return err
	}
	info, err := c.r.backend.Stat(ctx, c.name+runSuffix)
	c.now = info.Modified
	return err
}

func (c *collector) end(ctx context.Context) {
	if c.release == nil {
		return
	}
	defer c.release()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := c.r.backend.Delete(ctx, c.name+runSuffix); err != nil {
		c.r.log.Warn("the collection's sign of life stays until a later one removes it", "error", err)
	}
}

// sessions are those that have an object under s/, and when they showed life last; and which have ended.
type sessions struct {
	begun map[string]time.Time // by name: when
	ended map[string]time.Time // by the names under sessionPrefix: when
}

// running returns the names of those that have not ended.
func (s sessions) running() []string {
	var names []string
	for name := range s.begun {
		if _, ended := s.ended[name]; !ended {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// listSessions lists sessions before outcomes, so that one which ends in between has ended.
func (r *Repository) listSessions(ctx context.Context) (sessions, error) {
	s := sessions{begun: map[string]time.Time{}, ended: map[string]time.Time{}}
	err := r.backend.List(ctx, r.own(sessionPrefix), func(i Info) error {
		s.begun[i.Name] = i.Modified
		return nil
	})
	if err == nil {
		err = r.backend.List(ctx, r.own(outcomePrefix), func(i Info) error {
			s.ended[sessionPrefix+strings.TrimPrefix(sealedFirst(i.Name), outcomePrefix)] = i.Modified
			return nil
		})
	}
	if err != nil {
		return s, fmt.Errorf("list sessions: %w", err)
	}
	return s, nil
}

// survey finds out what there is and what is needed. Where another collection deletes meanwhile what this
// one has just read of, it begins again.
func (c *collector) survey(ctx context.Context) error {
	c.o.Progress("list", 0, 0)
	return c.r.relist(ctx, func() error { return c.surveyOnce(ctx) })
}

// surveyOnce lists outcomes first, so that the index and the list of packs have all that these need.
func (c *collector) surveyOnce(ctx context.Context) error {
	var err error
	if c.marks, err = c.r.marks(ctx); err != nil {
		return err
	}
	if c.sessions, err = c.r.listSessions(ctx); err != nil {
		return err
	}
	if err := c.assess(ctx); err != nil {
		return err
	}
	if c.stored, err = c.r.listPacks(ctx); err != nil {
		return err
	}
	c.report.Stored = PackCount{}
	for _, p := range c.stored {
		c.report.Stored.add(p.size)
	}
	return c.unsure(ctx)
}

// assess computes what is needed, from the outcomes that there are now. A snapshot that cannot be read may
// just have been forgotten and collected by others, or a pack of it rewritten: then it begins again.
func (c *collector) assess(ctx context.Context) error {
	before := "" // the outcome that failed
	for {
		err := c.assessOnce(ctx)
		var failed *snapshotError
		if !errors.As(err, &failed) {
			return err
		}
		now, listErr := c.wanted(ctx)
		if listErr != nil {
			return listErr
		}
		wanted := slices.ContainsFunc(now, func(o Outcome) bool { return o.Name == failed.outcome.Name })
		switch gone := errors.Is(err, ErrNotExist); {
		case wanted && gone && failed.outcome.Name == before:
			return fmt.Errorf("%w: %v; nothing was deleted", crypto.ErrDamaged, err) // no longer what relist waits for
		case wanted && !gone:
			return err
		}
		before = failed.outcome.Name
		if c.marks, err = c.r.marks(ctx); err != nil {
			return err
		}
	}
}

// wanted returns all snapshots. While the store does not give a forget record, some that were forgotten and collected would
// count as wanted, and seem to be lost.
func (c *collector) wanted(ctx context.Context) ([]Outcome, error) {
	all, f, err := c.r.allOutcomes(ctx)
	if err == nil {
		err = firstPassing(f.bad)
	}
	return slices.DeleteFunc(all, func(o Outcome) bool { return !o.wanted() }), err
}

func (c *collector) assessOnce(ctx context.Context) error {
	c.checked = time.Now().Round(0)
	wanted, err := c.wanted(ctx)
	if err != nil {
		return err
	}
	c.live, c.packs = nil, nil // of a look before this one
	c.report.Snapshots = len(wanted)
	if err := c.r.LoadIndex(ctx); err != nil {
		return err
	}
	c.o.Progress("find what is needed", 0, 0)
	if c.live, err = c.r.live(ctx, wanted, deletedBy(c.marks), c.o.Walk()); err != nil {
		return err
	}
	c.packs, err = c.live.packs(c.isOld)
	return err
}

func (r *Repository) listPacks(ctx context.Context) (map[PackID]storedPack, error) {
	all := map[PackID]storedPack{}
	for _, prefix := range []string{dataPrefix, metaPrefix} {
		err := r.backend.List(ctx, prefix, func(i Info) error {
			ref, err := parsePackName(i.Name)
			if err != nil {
				return nil // nothing of ours: check tells
			}
			all[ref.ID] = storedPack{ref, i.Size, i.Modified, i.Archived}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list packs: %w", err)
		}
	}
	return all, nil
}

// unsure notes which packs may not be touched: those of sessions that have not ended, and young ones. It
// takes note of the sizes in the store too.
func (c *collector) unsure(ctx context.Context) error {
	for id, u := range c.packs {
		p, ok := c.stored[id]
		u.stored = p.size
		u.unsure = ok && c.now.Sub(p.modified) < c.minAge()
		if !ok && u.live > 0 {
			if err := c.missing(ctx, u.PackRef); err != nil {
				return err
			}
			u.unsure = true
		}
	}
	for _, name := range c.sessions.running() {
		prefix := deltaPrefix + strings.TrimPrefix(name, sessionPrefix) + "-"
		names, err := listNames(ctx, c.r.backend, prefix)
		if err != nil {
			return err
		}
		for _, name := range names {
			if c.isJunk(ctx, name) {
				continue
			}
			d, err := c.r.readIndexObject(ctx, name)
			if err != nil {
				return err
			}
			for record := range slices.Chunk(d.packs, indexPackSize) {
				if u := c.packs[packRecordID(record)]; u != nil {
					u.unsure = true
				}
			}
		}
	}
	return nil
}

// missing says of a needed pack that is not listed whether another collection has just deleted it, which is
// ErrNotExist, or it is lost; nil if it is there.
func (c *collector) missing(ctx context.Context, p PackRef) error {
	if there, err := c.r.hasObject(ctx, p.Name()); err != nil || there {
		return err // it was not listed yet
	}
	marks, err := c.r.marks(ctx)
	switch {
	case err != nil:
		return err
	case deletedBy(marks)[p.ID]:
		return fmt.Errorf("pack %s: %w", p.Name(), ErrNotExist)
	}
	return fmt.Errorf("%w: pack %s, which snapshots need, is missing; nothing was deleted", crypto.ErrDamaged, p.Name())
}

func (c *collector) minAge() time.Duration {
	if c.o.MinAge == 0 {
		return c.r.ages.pack
	}
	return max(c.o.MinAge, 0)
}

func (r *Repository) readIndexObject(ctx context.Context, name string) (delta, error) {
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return delta{}, err
	}
	return r.openIndex(name, object)
}
