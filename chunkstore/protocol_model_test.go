package chunkstore_test

// The protocol by which backups and collections share a repository without locks, as a transition system: what
// every process may do next in a state of the store. protocol_test.go explores it.
//
// What is one step here: everything that another process can see or that depends on what others did. So a pack and
// its delta are put in one step (until an index names it, nobody can see a pack), and LIST plus GET of one kind of
// objects are one step too: objects never change, and a GET that finds its object deleted makes the reader list
// again, so a reading that succeeds is worth what the LIST said. Deltas and segments are two LISTs. A process may
// stall anywhere, by the others going on, and crash anywhere.
//
// The program does less than it might: only the writer of a mark carries it out, so that it needs no verdict of several
// where creation is not conditional; what the marks of writers that do not run condemn comes into a mark of its own.
//
// What is not modelled: a request that takes effect after its sender gave it up, packs that no index lists, damage,
// fencing without conditional writes, how long a silent session is waited for (any may be fenced at any time), and
// that snapshots are metadata in packs, too (their chunks are chunks).

import (
	"fmt"
	"iter"
	"math/bits"
	"strings"
)

// A session makes at most one pack and one delta that lists it; all three go by the session's number.
const (
	oldSessions     = 3 // ended before the model begins
	maxBackups      = 4
	maxCollections  = 3
	firstBackup     = oldSessions
	firstCollection = firstBackup + maxBackups
	maxSessions     = firstCollection + maxCollections
	operator        = maxSessions // who forgets snapshots, and whoever removes what is old
)

// set is a set of sessions, of their packs, or of chunks.
type set uint16

func one(n int) set { return 1 << n }

func (s set) has(n int) bool { return s&one(n) != 0 }

func (s set) first() set { return s & -s }

func (s set) last() set { return one(bits.Len16(uint16(s))) >> 1 }

func (s set) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for ; s != 0; s &^= s.first() {
			if !yield(bits.TrailingZeros16(uint16(s))) {
				return
			}
		}
	}
}

// objects are what lies in the store.
type objects struct {
	sessions  set // s/
	snapshots set // n/ that are snapshots
	aborts    set // n/ that are abort markers
	forgotten set // f/, by the snapshots they name
	packs     set
	deltas    set                 // i/
	segments  [maxCollections]set // x/, by the collection that wrote it: the packs that it lists
	holds     [maxSessions]set    // the chunks of each pack; never changes once the pack was put
	marks     [maxCollections]mark
}

// mark is the object g/M with those that belong to it.
type mark struct {
	has   uint8 // which of the objects exist: placed, waiting, done
	young uint8 // with lag: how long LIST may still miss the done record; who begins meanwhile is an elder, too
	packs set   // g/M
	wait  set   // g/M-wait
	done  set   // g/M-done
	// elders are the collectors at work since before the done record. They are no object: "old" is what a
	// repository calls a mark when there cannot be any.
	elders set
}

const (
	placed = 1 << iota
	waiting
	done
)

func (m mark) is(what uint8) bool { return m.has&what != 0 }

// ended are the sessions that will add nothing any more, or in vain. A session's s/ is removed after its outcome was
// put, so one that is gone tells the same as an outcome, also when that has been removed in its turn.
func (o *objects) ended() set { return o.snapshots | o.aborts | ^o.sessions }

// segmented are the packs that segments list.
func (o *objects) segmented() set {
	var all set
	for _, s := range o.segments {
		all |= s
	}
	return all
}

// swept are the packs that done records list.
func (o *objects) swept() set {
	var all set
	for _, m := range o.marks {
		all |= m.done
	}
	return all
}

// content are the chunks of some packs.
func (o *objects) content(packs set) set {
	var all set
	for n := range packs.all() {
		all |= o.holds[n]
	}
	return all
}

// world is a state: the store, and what the processes know.
type world struct {
	objects
	reported   set // sessions that told their user of success
	backups    [maxBackups]writing
	collectors [maxCollections]collector
}

// writing is a backup under way.
type writing struct {
	at        stage
	fresh     uint8 // chunks that it must upload: a set
	condemned set
	known     set // packs that the index listed
}

// collector is a process that collects, resumes what another left undone, and consolidates the index: each once, in
// any order.
type collector struct {
	at        stage
	used      uint8 // what it has begun already: collected, resumed, consolidated
	mark      uint8 // that it works on
	pause     uint8 // with lag: how long it still waits
	repack    set   // chunks to move to a pack of its own
	live      set   // chunks that wanted snapshots need
	condemned set
	known     set // packs that the index listed
	doomed    set // packs to mark; of the mark; to delete
	merged    set // consolidation: deltas to delete
	replaced  set // and segments
}

const (
	collected = 1 << iota
	resumed
	consolidated
)

// stage says what a process did last.
type stage uint8

const (
	resting stage = iota // not begun, or a collector between two passes

	announced // B1
	readMarks
	readDeltas
	decided // B2
	indexed // B3
	over    // B4

	repacking // G1
	repackAnnounced
	repackStored
	chosen  // G1
	marked  // G2
	awaited // G3
	cleared // G4
	relistedMarks
	relistedOutcomes
	relistedDeltas
	judged   // G5
	deleting // G6

	gatheredDone // consolidation
	gatheredDeltas
	gathered
	written
)

// collecting are the collectors that are at work, by the numbers of their sessions.
func (w *world) collecting() set {
	var all set
	for j, c := range w.collectors {
		if c.at != resting {
			all |= one(firstCollection + j)
		}
	}
	return all
}

// action labels a step.
type action struct {
	who  int
	what string
	on   set
}

func (a action) String() string {
	who := "operator"
	if a.who < operator {
		who = fmt.Sprintf("collection %d", a.who)
	}
	if a.who < firstCollection {
		who = fmt.Sprintf("backup %d", a.who)
	}
	members := make([]string, 0, maxSessions)
	for n := range a.on.all() {
		members = append(members, fmt.Sprint(n))
	}
	return fmt.Sprintf("%s: %s {%s}", who, a.what, strings.Join(members, " "))
}

// crash is what a collector does that ends without leaving a trace, or stops to wait for a better day; another pass may
// follow. For others there is no such step: nobody can tell who crashed from who stalls for ever.
const crash = "stops"

// protocol is the system to explore: the rules, and a scenario under them.
type protocol struct {
	flaws
	needs       [maxSessions]set // chunks of the snapshots, those of old sessions too
	start       objects
	backups     int
	collections int
	passes      uint8 // that a collector may begin
	repack      bool
	forgettable set  // snapshots that the operator may forget at any time
	expire      bool // what is old may be removed
	// unconditional is a store that does not put if absent. (How sessions are fenced there is not modelled.)
	unconditional bool
	lag           int // steps for which a LIST may miss an object
	pauseMark     int // steps from a mark to the LIST of sessions
	pauseWait     int // steps from the last outcome waited for to the recheck
	pauseDone     int // steps from a done record until nobody begins any more who does not see it
}

// flaws are deviations from the protocol that exploration must find fault with.
type flaws struct {
	blind          bool // backups do not look at marks
	indexFirst     bool // backups list marks after deltas
	noRecheck      bool // what was marked is deleted
	overwrite      bool // a commit replaces an abort marker
	overfence      bool // an abort marker replaces a snapshot
	listFirst      bool // sessions are listed before the mark is put
	dropMarked     bool // consolidation leaves out marked packs, too
	countMarked    bool // the recheck trusts in packs that others marked
	unmarkAtOnce   bool // the mark goes with its done record
	unmarkEarly    bool // a mark goes though older collectors run
	lateDone       bool // the done record is put after the deletes, by each who ends the mark
	ownVerdict     bool // the done record is put before the deletes, but may replace another
	segmentsFirst  bool // segments are listed before deltas
	condemnsUnseen bool // the recheck lets go what the index does not list
}

// emit takes a step and the state it leads to.
type emit func(action, world)

// next gives every possible step from w. seen is what LIST shows, which is the store unless listings lag.
func (p *protocol) next(w *world, seen *objects, out emit) {
	for i := range p.backups {
		p.backup(w, seen, i, out)
	}
	for j := range p.collections {
		p.collector(w, seen, j, out)
	}
	p.operator(w, out)
}

// live are the chunks that wanted snapshots need.
func (p *protocol) live(o *objects) set {
	var all set
	for n := range (o.snapshots &^ o.forgotten).all() {
		all |= p.needs[n]
	}
	return all
}

// condemned are the packs that marks forbid to rely on. The done record is the verdict on a mark: packs that it does
// not list are free again. Without conditional writes there is no verdict, and what is marked is never free.
func (p *protocol) condemned(o *objects) set {
	var all set
	for _, m := range o.marks {
		if m.is(placed) && (!m.is(done) || p.unconditional) {
			all |= m.packs
		}
		all |= m.done
	}
	return all
}

// broken says what is wrong with a state, if anything. Every chunk of every wanted snapshot is in a pack that exists
// and that the index lists: at any time, not only at rest. And no success was reported of a snapshot that is not there.
func (p *protocol) broken(w *world) string {
	found := w.packs & (w.deltas | w.segmented())
	if lost := p.live(&w.objects) &^ w.content(found); lost != 0 {
		return "a snapshot has lost a chunk"
	}
	if w.reported&^w.forgotten&^w.snapshots != 0 {
		return "a snapshot that was reported is not there"
	}
	return ""
}

// readIndex adds to known what one of two LISTs of the index says, and tells whether that was all. Deltas come first,
// because consolidation puts a segment before it deletes deltas: in the other order a pack may be missed in both. Where
// nobody consolidates there is nothing between the two.
func (p *protocol) readIndex(seen *objects, known set, first bool) (set, bool) {
	if p.passes&consolidated == 0 {
		return seen.deltas | seen.segmented(), true
	}
	if first != p.segmentsFirst {
		return known | seen.deltas, !first
	}
	return known | seen.segmented(), !first
}

func (p *protocol) backup(w *world, seen *objects, i int, out emit) {
	n, b, t := firstBackup+i, w.backups[i], *w
	to := func(what string, on set, then writing) {
		t.backups[i] = then
		out(action{n, what, on}, t)
	}
	switch b.at {
	case resting:
		t.sessions |= one(n)
		to("B1 PUT session", 0, writing{at: announced})
	case announced:
		c := p.condemned(seen)
		if p.blind || p.indexFirst {
			c = 0
		}
		to("B2 LIST marks", c, writing{at: readMarks, condemned: c})
	case readMarks, readDeltas:
		known, whole := p.readIndex(seen, b.known, b.at == readMarks)
		if !whole {
			to("B2 LIST half the index", known, writing{at: readDeltas, condemned: b.condemned, known: known})
			return
		}
		if p.indexFirst {
			b.condemned = p.condemned(seen)
		}
		usable := known &^ b.condemned
		then := writing{at: decided, fresh: uint8(p.needs[n] &^ w.content(usable))}
		if then.fresh == 0 {
			then.at = indexed
		}
		to("B2 LIST the rest of the index, usable", usable, then)
	case decided:
		t.packs, t.deltas, t.holds[n] = t.packs|one(n), t.deltas|one(n), set(b.fresh)
		to("B3 PUT pack and delta with chunks", set(b.fresh), writing{at: indexed})
	case indexed:
		what := "B4 is fenced"
		if p.overwrite || !w.aborts.has(n) {
			what = "B4 commits"
			t.snapshots, t.aborts, t.reported = t.snapshots|one(n), t.aborts&^one(n), t.reported|one(n)
		}
		to(what, 0, writing{at: over})
	}
}

// pass is a collector's state while steps from it are made.
type pass struct {
	*protocol
	w    *world
	seen *objects
	j    int
	out  emit
}

// to emits a step of the collector to then, after t, which is the world but for the collector itself.
func (s *pass) to(what string, on set, t world, then collector) {
	then.used |= s.w.collectors[s.j].used
	t.collectors[s.j] = then
	n := firstCollection + s.j
	if then.at == resting {
		for k := range t.marks {
			t.marks[k].elders &^= one(n)
		}
	}
	s.out(action{n, what, on}, t)
}

// stop ends the pass, after t.
func (s *pass) stop(what string, t world) { s.to(what, 0, t, collector{at: resting}) }

func (p *protocol) collector(w *world, seen *objects, j int, out emit) {
	s, c := &pass{p, w, seen, j, out}, w.collectors[j]
	if c.at != resting && (p.passes != collected || p.expire) {
		s.stop(crash, *w)
	}
	switch {
	case c.pause > 0:
	case c.at == resting:
		s.begin(c)
	case c.at <= chosen:
		s.prepare(c)
	case c.at <= awaited:
		s.await(c)
	case c.at <= relistedDeltas:
		s.recheck(c)
	case c.at <= deleting:
		s.sweep(c)
	default:
		s.consolidate(c)
	}
}

func (s *pass) begin(c collector) {
	may := s.passes &^ c.used
	if may&collected != 0 {
		s.choose(collector{used: collected, mark: uint8(s.j), live: s.live(s.seen)})
	}
	if may&consolidated != 0 {
		drop := s.seen.swept()
		if s.dropMarked {
			drop = s.condemned(s.seen)
		}
		s.to("consolidates, GET done records", drop, *s.w, collector{at: gatheredDone, used: consolidated, condemned: drop})
	}
	if may&resumed == 0 {
		return
	}
	for k, m := range s.seen.marks {
		then := collector{at: marked, used: resumed, mark: uint8(k), pause: uint8(s.pauseMark), doomed: m.packs}
		switch {
		case m.is(done) && (m.packs&^m.done == 0 || !s.unconditional):
			if m.done&s.w.packs == 0 {
				continue // nothing was left undone
			}
			then.at, then.pause, then.doomed = deleting, 0, m.done
		case !m.is(placed):
			continue
		case s.w.marks[k].is(waiting):
			then.at, then.pause = awaited, 0
		}
		s.to("resumes mark", one(firstCollection+k), *s.w, then)
	}
}

// prepare is what comes between G1 and G2: nothing, or repacking, in a session of the collector's own.
func (s *pass) prepare(c collector) {
	n, t := firstCollection+s.j, *s.w
	then := c
	switch c.at {
	case repacking:
		t.sessions |= one(n)
		then.at = repackAnnounced
		s.to("PUT session for repacking", 0, t, then)
	case repackAnnounced:
		t.packs, t.deltas, t.holds[n] = t.packs|one(n), t.deltas|one(n), c.repack
		then.at, then.repack = repackStored, 0
		s.to("PUT pack and delta with chunks", c.repack, t, then)
	case repackStored:
		t.aborts |= one(n) // or finds that it was fenced, which is the same
		then.at = chosen
		s.to("PUT abort marker of its session", 0, t, then)
	case chosen:
		if s.listFirst {
			s.listSessions(c, marked)
		} else {
			s.putMark(c, marked)
		}
	}
}

// choose is G1: it finds packs without which every live chunk still has a copy. Which copy is kept is up to the collector.
// It is one step because nothing rests on it but efficiency: the choice may be out of date when the mark is put, and
// the recheck does not trust in it.
func (s *pass) choose(c collector) {
	packs := (s.seen.deltas | s.seen.segmented()) &^ s.condemned(s.seen)
	for i, pick := range []func(set) set{set.first, set.last} {
		var kept set
		for chunk := range c.live.all() {
			kept |= pick(s.holding(packs, chunk))
		}
		then := collector{at: chosen, used: c.used, mark: c.mark, doomed: packs &^ kept & s.seen.ended()}
		if then.doomed != 0 {
			s.to("G1 LISTs, candidates", then.doomed, *s.w, then)
		} else if i == 0 {
			s.to("G1 finds nothing", 0, *s.w, collector{used: c.used})
		}
		if s.repack {
			s.chooseRepack(c, kept, then)
		}
	}
}

// chooseRepack adds a pack to the candidates that holds live chunks beside others.
func (s *pass) chooseRepack(c collector, kept set, then collector) {
	candidates := then.doomed
	for old := range (kept & s.seen.ended() & s.w.packs).all() {
		then.at, then.doomed, then.repack = repacking, candidates|one(old), s.w.holds[old]&c.live
		if then.repack != s.w.holds[old] {
			s.to("G1 LISTs, candidates, the last one to be repacked", then.doomed, *s.w, then)
		}
	}
}

// holding are those of some packs that have a chunk.
func (s *pass) holding(packs set, chunk int) set {
	var all set
	for n := range packs.all() {
		if s.w.holds[n].has(chunk) {
			all |= one(n)
		}
	}
	return all
}

func (s *pass) putMark(c collector, at stage) {
	t := *s.w
	m := &t.marks[c.mark]
	m.packs, m.has = c.doomed, m.has|placed
	s.to("G2 PUT mark", c.doomed, t, collector{at: at, mark: c.mark, doomed: c.doomed, pause: uint8(s.pauseMark)})
}

// listSessions is G3. Any LIST after the mark was put will do, so it is harmless to replace the wait list of another.
func (s *pass) listSessions(c collector, at stage) {
	t := *s.w
	m := &t.marks[c.mark]
	m.wait, m.has = s.seen.sessions&^s.seen.ended(), m.has|waiting
	s.to("G3 LIST sessions, waits for", m.wait, t, collector{at: at, mark: c.mark, doomed: c.doomed})
}

// await is G3 and G4. To stop is one of the moves anyhow.
func (s *pass) await(c collector) {
	if c.at == marked {
		if s.listFirst {
			s.putMark(c, awaited)
		} else {
			s.listSessions(c, awaited)
		}
		return
	}
	alive := s.w.marks[c.mark].wait &^ s.w.ended()
	if alive == 0 {
		s.clear(collector{at: cleared, mark: c.mark, doomed: c.doomed, pause: uint8(s.pauseWait)})
	}
	if s.overfence {
		alive = s.w.marks[c.mark].wait &^ s.w.aborts // those that were alive when it looked
	}
	for n := range alive.all() {
		t := *s.w
		t.aborts, t.snapshots = t.aborts|one(n), t.snapshots&^one(n)
		s.to("G4 fences session", one(n), t, c)
	}
}

// clear ends G4. Outcomes stay, so unless time must pass the next step may be taken at once: that they were there when
// it is taken is all that counts.
func (s *pass) clear(then collector) {
	switch {
	case s.noRecheck:
		then.at = judged
		s.to("G4 all outcomes are there", 0, *s.w, then)
	case s.pauseWait == 0:
		s.recheck(then)
	default:
		s.to("G4 all outcomes are there", 0, *s.w, then)
	}
}

// recheck is G5. Here the order of the LISTs does not matter, only that they come after the last outcome waited for.
func (s *pass) recheck(c collector) {
	then := c
	switch c.at {
	case cleared:
		m := s.seen.marks[c.mark]
		if m.is(done) && !s.unconditional {
			then.at, then.doomed = deleting, m.done
			s.to("G5 LIST marks, finds the verdict", m.done, *s.w, then)
			return
		}
		then.at, then.condemned = relistedMarks, s.condemned(s.seen)
		if s.countMarked {
			then.condemned = c.doomed | s.seen.swept()
		}
		s.to("G5 LIST marks, condemned", then.condemned, *s.w, then)
	case relistedMarks:
		then.at, then.live = relistedOutcomes, s.live(s.seen)
		s.to("G5 LIST outcomes and forget records, chunks live", then.live, *s.w, then)
	case relistedOutcomes, relistedDeltas:
		known, whole := s.readIndex(s.seen, c.known, c.at == relistedOutcomes)
		then.at, then.known = relistedDeltas, known
		if !whole {
			s.to("G5 LIST half the index", known, *s.w, then)
			return
		}
		doomed := s.dispensable(then)
		s.to("G5 LIST the rest of the index, will delete", doomed, *s.w, collector{at: judged, mark: c.mark, doomed: doomed})
	}
}

// dispensable are the packs of a mark whose live chunks all have copies that nobody has condemned. Of a pack that the
// index does not list it is not known what would be lost.
func (s *pass) dispensable(c collector) set {
	copies := c.known &^ c.condemned
	may := c.doomed & c.known
	if s.condemnsUnseen {
		may = c.doomed
	}
	var all set
	for n := range may.all() {
		var held set
		if c.known.has(n) {
			held = s.w.holds[n]
		}
		if held&c.live&^s.w.content(copies&^one(n)) == 0 {
			all |= one(n)
		}
	}
	return all
}

// sweep is G6 and G7: the done record is the verdict, on which all who work on the mark agree, so it is put if
// absent, and before the first delete.
func (s *pass) sweep(c collector) {
	t := *s.w
	switch left := c.doomed & s.w.packs; {
	case c.at == judged && !s.lateDone:
		c.at, c.doomed = deleting, s.conclude(&t, c)
		s.deleted("G6 PUT done record if absent, deletes", c.doomed, t, c)
	case left != 0:
		c.at = deleting
		t.packs &^= left.first()
		s.deleted("G7 DELETE pack", left.first(), t, c)
	default:
		if s.lateDone {
			s.conclude(&t, c)
		}
		s.stop("G7 is done", t)
	}
}

// deleted ends the pass with the last delete.
func (s *pass) deleted(what string, on set, t world, c collector) {
	if c.doomed&t.packs == 0 && !s.lateDone {
		if s.unmarkAtOnce {
			t.marks[c.mark] = mark{}
		}
		c = collector{at: resting}
	}
	s.to(what, on, t, c)
}

// conclude puts the done record of c's mark and returns what is to be deleted by it. Without conditional writes
// everybody puts one of his own, and they add up.
func (s *pass) conclude(t *world, c collector) set {
	m := &t.marks[c.mark]
	switch {
	case s.unconditional:
		m.done |= c.doomed
	case m.is(done) && !s.lateDone && !s.ownVerdict:
		return m.done
	default:
		m.done = c.doomed
	}
	m.has, m.elders, m.young = m.has|done, m.elders|t.collecting(), uint8(s.pauseDone)
	return c.doomed
}

// consolidate is what replaces deltas, and older segments, by a segment.
func (s *pass) consolidate(c collector) {
	t := *s.w
	switch c.at {
	case gatheredDone:
		c.at, c.merged = gatheredDeltas, s.seen.deltas&s.seen.ended()
		c.known = c.merged
		s.to("consolidates, GET deltas", c.merged, t, c)
	case gatheredDeltas:
		for k, packs := range s.seen.segments {
			if packs != 0 {
				c.known, c.replaced = c.known|packs, c.replaced|one(k)
			}
		}
		c.at = gathered
		s.to("consolidates, GET segments", c.replaced, t, c)
	case gathered:
		t.segments[s.j] = c.known &^ c.condemned
		s.to("PUT segment with", t.segments[s.j], t, collector{at: written, merged: c.merged & t.deltas, replaced: c.replaced})
	case written:
		switch {
		case c.merged != 0:
			t.deltas &^= c.merged.first()
			s.to("DELETE delta", c.merged.first(), t, collector{at: written, merged: c.merged &^ c.merged.first(), replaced: c.replaced})
		case c.replaced != 0:
			t.segments[bits.TrailingZeros16(uint16(c.replaced))] = 0
			s.to("DELETE segment", c.replaced.first(), t, collector{at: written, replaced: c.replaced &^ c.replaced.first()})
		default:
			s.stop("has consolidated", t)
		}
	}
}

// operator is who forgets snapshots.
func (p *protocol) operator(w *world, out emit) {
	for n := range (p.forgettable & w.snapshots &^ w.forgotten).all() {
		t := *w
		t.forgotten |= one(n)
		out(action{operator, "forgets snapshot", one(n)}, t)
	}
	if p.expire {
		p.remove(w, out)
	}
}

// remove is what collections do with what is old, at any time.
func (p *protocol) remove(w *world, out emit) {
	for n := range (w.sessions & w.ended()).all() {
		t := *w
		t.sessions &^= one(n)
		out(action{operator, "DELETE session", one(n)}, t)
	}
	for n := range (w.snapshots & w.forgotten &^ w.sessions).all() {
		t := *w
		t.snapshots &^= one(n)
		out(action{operator, "DELETE outcome", one(n)}, t)
	}
	for k, m := range w.marks {
		if p.old(w, m) {
			t := *w
			t.marks[k] = mark{}
			what := "DELETE mark"
			if m.done != 0 {
				what = "DELETE mark of packs that are gone"
			}
			out(action{operator, what, one(firstCollection + k)}, t)
		}
	}
}

// old tells whether a mark may be removed: all was deleted that was to be, no index lists it, nor is there anybody who
// could still list it in one.
func (p *protocol) old(w *world, m mark) bool {
	return m.is(done) && (!p.unconditional || m.packs&^m.done == 0) &&
		m.done&(w.packs|w.deltas|w.segmented()) == 0 && m.young == 0 && (m.elders == 0 || p.unmarkEarly)
}

// lagging is what LIST shows of o where it may miss objects that were not there in past. Each call of shown says which
// of the new ones it does not miss.
func (o *objects) lagging(past *objects, shown func() set) objects {
	seen := *o
	seen.sessions &= past.sessions | shown()
	seen.snapshots &= past.snapshots | shown()
	seen.aborts &= past.aborts | shown()
	seen.forgotten &= past.forgotten | shown()
	seen.deltas &= past.deltas | shown()
	for k := range seen.marks {
		if m := &seen.marks[k]; !shown().has(0) {
			m.has &= past.marks[k].has
			if !m.is(done) {
				m.done = 0
			}
		}
		if seen.segments[k] != past.segments[k] && !shown().has(0) {
			seen.segments[k] = 0
		}
	}
	return seen
}

// canonical takes what can make no difference any more out of a state, so that fewer states differ: the rest of a mark
// once its done record is there, those of a wait list that have ended, and elders where no mark is ever removed.
func (p *protocol) canonical(w *world) {
	for k := range w.marks {
		m := &w.marks[k]
		if !p.overfence {
			m.wait &^= w.ended()
		}
		if m.is(done) && !p.lateDone && !p.ownVerdict && !p.unconditional {
			m.packs, m.wait = 0, 0
		}
		if !p.expire {
			m.elders = 0
		}
	}
}
