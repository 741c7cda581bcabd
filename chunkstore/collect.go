package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

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
	Orphans   PackCount // packs that no index lists, of sessions that died
	Young     PackCount // packs that nothing needs but that are left for now: a session runs, or has just ended
	Deleted   PackCount
	Rescued   int // packs that a snapshot came to need since they were condemned
	Waits     []RunningSession
	Fenced    []string // sessions that were given up for dead
	Indexes   [2]int   // objects of the index before and after
	Records   int      // of snapshots that were forgotten
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
	c := &collector{r: r, o: o, report: &CollectReport{}, now: time.Now()}
	if c.o.Progress == nil {
		c.o.Progress = func(string, int64, int64) {}
	}
	steps := []func(context.Context) error{c.survey, c.plan}
	if !o.DryRun {
		steps = []func(context.Context) error{c.begin, c.survey, c.plan, c.repack, c.mark, c.sweep, c.consolidate, c.tidy}
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
	wanted   []Outcome
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
	err := r.backend.List(ctx, sessionPrefix, func(i Info) error {
		s.begun[i.Name] = i.Modified
		return nil
	})
	if err == nil {
		err = r.backend.List(ctx, outcomePrefix, func(i Info) error {
			s.ended[sessionPrefix+strings.TrimPrefix(strings.TrimSuffix(i.Name, abortSuffix), outcomePrefix)] = i.Modified
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
	return relist(func() error { return c.surveyOnce(ctx) })
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
		now, listErr := c.r.Outcomes(ctx)
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

func (c *collector) assessOnce(ctx context.Context) error {
	var err error
	c.checked = time.Now().Round(0)
	if c.wanted, err = c.r.Outcomes(ctx); err != nil {
		return err
	}
	c.report.Snapshots = len(c.wanted)
	if err := c.r.LoadIndex(ctx); err != nil {
		return err
	}
	c.o.Progress("find what is needed", 0, 0)
	if c.live, err = c.r.live(ctx, c.wanted, deletedBy(c.marks), c.o.Walk()); err != nil {
		return err
	}
	c.packs, err = c.live.packs()
	return err
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

func (r *Repository) listPacks(ctx context.Context) (map[PackID]storedPack, error) {
	all := map[PackID]storedPack{}
	for _, prefix := range []string{dataPrefix, metaPrefix} {
		err := r.backend.List(ctx, prefix, func(i Info) error {
			ref, err := parsePackName(i.Name)
			if err != nil {
				return nil // nothing of ours: check tells
			}
			all[ref.ID] = storedPack{ref, i.Size, i.Modified}
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
			return c.missing(ctx, u.PackRef)
		}
	}
	for _, name := range c.sessions.running() {
		prefix := deltaPrefix + strings.TrimPrefix(name, sessionPrefix) + "-"
		names, err := listNames(ctx, c.r.backend, prefix)
		if err != nil {
			return err
		}
		for _, name := range names {
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

// missing says of a needed pack that is not there whether another collection has just deleted it, which is
// ErrNotExist, or it is lost.
func (c *collector) missing(ctx context.Context, p PackRef) error {
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
	plain, err := r.keys.Open(indexType(name), name, object)
	if err == nil {
		var d delta
		if d, err = parseIndex(plain); err == nil {
			return d, nil
		}
	}
	return delta{}, fmt.Errorf("object %s: %w", name, err)
}

// plan chooses the packs that are not needed, and those to be rewritten.
func (c *collector) plan(context.Context) error {
	deleted, left := deletedBy(c.marks), c.others()
	var partial []*packUsage
	var needed int64
	for id, u := range c.packs {
		needed += u.liveBytes
		switch {
		case u.stored == 0 || left[id] || deleted[id]:
		case u.unsure && u.live == 0:
			c.report.Young.add(u.stored)
		case u.live == 0:
			c.report.Unneeded.add(u.stored)
			c.dead = append(c.dead, u.PackRef)
		case !u.unsure:
			c.report.Unused += u.bytes - u.liveBytes
			partial = append(partial, u)
		}
	}
	for id, p := range c.stored {
		switch {
		case deleted[id]:
			c.leftover = append(c.leftover, p.PackRef)
		case c.packs[id] != nil || left[id]:
		case c.now.Sub(p.modified) < c.r.ages.orphan:
			c.report.Young.add(p.size)
		default:
			c.report.Orphans.add(p.size)
			c.dead = append(c.dead, p.PackRef)
		}
	}
	c.rewrite = c.choose(partial, needed)
	for _, u := range c.rewrite {
		c.report.Repack.add(u.stored)
	}
	return nil
}

// others returns the packs that are left to other marks: of collections that run, and those that are carried
// out anyway.
func (c *collector) others() map[PackID]bool {
	return packsOf(func(yield func(*mark) bool) {
		for _, m := range c.marks {
			if (c.isOwn(m) || c.runs(m)) && !m.done && !yield(m) {
				return
			}
		}
	})
}

func (c *collector) isOwn(m *mark) bool { return c.own != "" && strings.HasPrefix(m.name, c.own) }

// runs tells whether the collection of a mark may still run.
func (c *collector) runs(m *mark) bool {
	return !m.runs.IsZero() && c.now.Sub(m.runs) < c.r.ages.silent
}

const (
	smallPack = 4  // a pack below a quarter of the target is a small one
	manySmall = 16 // so many of one kind are merged
)

// choose returns the packs to be rewritten: those with the least that is needed, until what is unused is
// within bounds, and small ones where there are many. partial has all packs that may be.
func (c *collector) choose(partial []*packUsage, needed int64) []*packUsage {
	slices.SortFunc(partial, func(a, b *packUsage) int {
		if c := compareShare(a, b); c != 0 {
			return c
		}
		return strings.Compare(a.Name(), b.Name()) // the same packs in the same order each time
	})
	small := map[Kind]int{}
	for _, u := range partial {
		if u.small() {
			small[u.Kind]++
		}
	}
	unused, bound := c.report.Unused, int64(c.o.MaxUnused*float64(needed))
	budget := c.o.MaxRepack
	var chosen []*packUsage
	for _, u := range partial {
		wasteful := c.o.MaxUnused >= 0 && unused > bound && u.live < u.chunks
		if !wasteful && !(u.small() && small[u.Kind] >= manySmall) {
			continue
		}
		if c.o.MaxRepack > 0 {
			if budget -= u.stored; budget < 0 {
				break
			}
		}
		unused -= u.bytes - u.liveBytes
		chosen = append(chosen, u)
	}
	return chosen
}

func (u *packUsage) small() bool { return u.stored < int64(packTarget(u.Kind)/smallPack) }

// compareShare orders packs by the share of their bytes that is needed.
func compareShare(a, b *packUsage) int {
	x, y := float64(a.liveBytes)/float64(a.bytes), float64(b.liveBytes)/float64(b.bytes)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// repack stores what is needed of the chosen packs anew, in a session of its own that ends before
// anything is marked. A pack that cannot be read stays.
func (c *collector) repack(ctx context.Context) error {
	if len(c.rewrite) == 0 {
		return nil
	}
	s, err := c.r.Begin(ctx, BeginOptions{Host: c.o.Host, Program: "prune"})
	if err != nil {
		return err
	}
	if err := c.rewriteInto(ctx, s); err != nil {
		return errors.Join(err, s.Abort(ctx))
	}
	err = s.Retire(ctx)
	c.report.Repacked = s.Stats().StoredBytes
	return err
}

func (c *collector) rewriteInto(ctx context.Context, s *Session) error {
	avoid := packsOf(maps.Values(c.marks))
	var total, done int64
	for _, u := range c.rewrite {
		avoid[u.ID] = true
		total += u.stored
	}
	for _, p := range c.dead {
		avoid[p.ID] = true
	}
	c.r.index.avoid(avoid)
	for _, u := range c.rewrite {
		c.o.Progress("rewrite", done, total)
		err := c.rewritePack(ctx, s, u)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case s.err() != nil:
			return s.err()
		case err != nil:
			c.report.Problems = append(c.report.Problems, fmt.Errorf("pack %s: %w", u.Name(), err))
		default:
			c.dead = append(c.dead, u.PackRef)
		}
		done += u.stored
	}
	return nil
}

// rewritePack saves the chunks of one pack that are needed.
func (c *collector) rewritePack(ctx context.Context, s *Session, u *packUsage) error {
	object, err := c.r.backend.Get(ctx, u.Name(), 0, -1)
	if err != nil {
		return err
	}
	plain, entries, err := openPack(c.r.keys, u.PackRef, object)
	if err != nil {
		return err
	}
	for _, e := range entries {
		needed, err := c.needs(e.id, u.ID)
		if err != nil {
			return err
		}
		if !needed {
			continue
		}
		chunk, err := c.r.coder.decode(c.r.keys, e, plain[e.offset:][:e.stored])
		if err != nil {
			return err
		}
		if _, err := s.Save(ctx, e.kind, chunk); err != nil {
			return err
		}
	}
	return nil
}

// needs tells whether the copy of a chunk in that pack is a needed one.
func (c *collector) needs(id ID, pack PackID) (needed bool, err error) {
	err = c.live.list.each(id, func(at location, n int) bool {
		needed = at.pack.ID == pack && c.live.has(n)
		return !needed
	})
	return needed, err
}

// mark condemns what is dead. When the mark is durable, every session that may not have seen it is one
// that has begun and not ended: these are noted (2-format: G2, G3).
func (c *collector) mark(ctx context.Context) error {
	if len(c.dead) == 0 {
		return nil
	}
	m := &mark{name: c.name, condemns: c.dead, modified: c.now}
	if err := c.r.putSigned(ctx, crypto.TypeMark, m.name, marshalPackRefs(c.dead)); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	c.marks[m.name] = m
	if c.lag() > 0 { // whoever began just now may not have seen it, nor may we see them
		return nil
	}
	return c.note(ctx, m)
}

// lag is how late the lists of this store may be. Those that create conditionally are consistent (AWS, MinIO,
// Ceph, directories); of the others some are not (OpenStack Swift). There marking, noting for whom to wait, and
// deleting are steps of three collections.
func (c *collector) lag() time.Duration {
	if c.creates {
		return 0
	}
	return c.r.ages.lag
}

// note writes down for whom a mark waits.
func (c *collector) note(ctx context.Context, m *mark) error {
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return err
	}
	m.waits, m.waiting, m.noted = s.running(), true, c.now
	text, err := json.Marshal(waitsRecord{Version: 1, Sessions: m.waits})
	if err != nil {
		return err
	}
	return c.r.putSigned(ctx, crypto.TypeMark, m.name+waitsSuffix, text)
}

// sweep carries out the writer's marks for which nobody has to be waited any more, also those of earlier
// collections, which stopped before that. Marks of other writers are left to them; what they condemn and
// nobody needs comes into a mark of our own when they do not run.
func (c *collector) sweep(ctx context.Context) error {
	var ready []*mark
	for _, name := range slices.Sorted(maps.Keys(c.marks)) {
		m := c.marks[name]
		if m.done || m.condemns == nil || !c.isOwn(m) {
			continue
		}
		ok, err := c.ready(ctx, m)
		if err != nil {
			return err
		}
		if ok {
			ready = append(ready, m)
		}
	}
	if len(ready) > 0 {
		if err := c.recheck(ctx); err != nil {
			return err
		}
	}
	for _, m := range ready {
		if m = c.marks[m.name]; m == nil || m.done {
			continue
		}
		if err := c.carryOut(ctx, m); err != nil {
			return err
		}
	}
	return c.remove(ctx, c.leftover)
}

// ready tells whether all for whom a mark waits have ended. Those that are silent for too long are given up.
func (c *collector) ready(ctx context.Context, m *mark) (bool, error) {
	if !m.waiting { // its collection was killed before it wrote that down, or the lists had to catch up
		if c.now.Sub(m.modified) < c.lag() {
			return false, nil
		}
		if err := c.note(ctx, m); err != nil {
			return false, err
		}
	}
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return false, err
	}
	all := c.now.Sub(m.noted) >= c.lag()
	for _, name := range m.waits {
		begun, announced := s.begun[name]
		switch ended, ok := s.ended[name]; {
		case ok:
			all = all && c.now.Sub(ended) >= c.lag()
			continue
		case !announced: // the outcome is gone too: of a snapshot that was forgotten
			continue
		}
		gone, err := c.giveUp(ctx, name, begun)
		if err != nil {
			return false, err
		}
		all = all && gone && c.lag() == 0
	}
	return all, nil
}

// giveUp fences a session that is silent for too long, and reports whether it has ended by that.
func (c *collector) giveUp(ctx context.Context, name string, alive time.Time) (bool, error) {
	w, id, _, err := parseSessionName(sessionPrefix, name)
	if err != nil {
		return true, nil // nothing of ours
	}
	if err := c.r.backend.List(ctx, sessionName(deltaPrefix, w, id)+"-", func(i Info) error {
		if i.Modified.After(alive) {
			alive = i.Modified
		}
		return nil
	}); err != nil {
		return false, err
	}
	limit := c.r.ages.silent
	switch {
	case c.own == markPrefix+w.String()+"/": // nobody else is this writer while we are: the session's process has died
		limit = 0
	case !c.creates:
		limit = c.r.ages.record
	}
	if c.now.Sub(alive) < limit {
		c.report.wait(RunningSession{id, w, c.r.sessionHost(ctx, name), alive})
		return false, nil
	}
	if err := c.r.fence(ctx, w, id, c.creates); err != nil {
		return false, fmt.Errorf("give up session %s: %w", name, err)
	}
	c.report.Fenced = append(c.report.Fenced, name)
	return true, nil
}

// sessionHost returns which host a session says it runs on.
func (r *Repository) sessionHost(ctx context.Context, name string) string {
	var record sessionRecord
	object, err := r.backend.Get(ctx, name, 0, -1)
	if err == nil {
		object, err = r.keys.Open(crypto.TypeSession, name, object)
	}
	if err == nil {
		err = json.Unmarshal(object, &record)
	}
	if err != nil {
		r.log.Debug("a session does not say which host it runs on", "object", name, "error", err)
	}
	return record.Host
}

func (p *CollectReport) wait(s RunningSession) {
	if !slices.ContainsFunc(p.Waits, func(o RunningSession) bool { return o.Session == s.Session }) {
		p.Waits = append(p.Waits, s)
	}
}

// recheck computes anew what is needed, from what there is now: those that were waited for may have come
// to need something, and other collections have marked packs that no longer count as copies.
func (c *collector) recheck(ctx context.Context) error {
	var err error
	if c.marks, err = c.r.marks(ctx); err != nil {
		return err
	}
	return c.assess(ctx)
}

// carryOut puts on record which packs of a mark are deleted, those that nobody needs, and deletes them.
func (c *collector) carryOut(ctx context.Context, m *mark) error {
	var doomed []PackRef
	for _, p := range m.condemns {
		if c.rescues(p) {
			c.report.Rescued++
		} else {
			doomed = append(doomed, p)
		}
	}
	if err := c.fresh(); err != nil {
		return err
	}
	err := c.record(ctx, m.name+doneSuffix, marshalPackRefs(doomed))
	if errors.Is(err, ErrExist) {
		return nil // a copy of this host was faster, with another list perhaps
	}
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	m.done, m.deleted = true, doomed
	return c.remove(ctx, doomed)
}

// record is putSigned where nothing is there yet, as far as the store can tell.
func (c *collector) record(ctx context.Context, name string, body []byte) error {
	object, err := c.r.sealSigned(crypto.TypeMark, name, body)
	if err != nil {
		return err
	}
	if c.creates {
		return c.r.backend.(Creator).PutIfAbsent(ctx, name, object)
	}
	return c.r.backend.Put(ctx, name, object)
}

// rescues tells whether a condemned pack stays: because something of it is needed, or because no index object
// that could be seen lists it although it is not old enough for a pack of which that is to be expected.
func (c *collector) rescues(p PackRef) bool {
	u := c.packs[p.ID]
	if u == nil {
		s, stored := c.stored[p.ID]
		return stored && c.now.Sub(s.modified) < c.r.ages.orphan
	}
	return u.live > 0
}

// longLook is how old may be what a collection knows of what is needed when it acts on it: nobody waits for
// ever for a collection that stands still.
const longLook = 6 * time.Hour

// fresh returns an error if too much time has gone by since it was found out what is needed.
func (c *collector) fresh() error {
	if time.Now().Round(0).Sub(c.checked) > longLook { // by the wall clock: the other one stands still with the machine
		return errors.New("the collection stood still for too long: run it again")
	}
	return nil
}

// remove deletes packs that are on record as deleted.
func (c *collector) remove(ctx context.Context, packs []PackRef) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	if len(packs) > 0 {
		c.o.Progress("delete", 0, 0)
	}
	for _, p := range packs {
		if s, ok := c.stored[p.ID]; ok {
			c.report.Deleted.add(s.size)
			delete(c.stored, p.ID)
		}
		g.Go(func() error { return c.r.backend.Delete(gctx, p.Name()) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
