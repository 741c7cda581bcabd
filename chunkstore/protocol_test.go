package chunkstore_test

import (
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// exploration is what was found in the states that were reached.
type exploration struct {
	states, bad int
	whole       bool            // no state is missing, but what comes after bad ones
	taken       map[string]bool // the steps that led to new states, by their names
	what        string          // is wrong with the first bad state
	trace       []action        // the shortest way there
}

func (e exploration) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d states, %d bad", e.states, e.bad)
	if e.bad > 0 {
		fmt.Fprintf(&b, "; after %d steps %s", len(e.trace), e.what)
	}
	return b.String()
}

// steps prints a trace, a step a line.
func steps(trace []action) string {
	var b strings.Builder
	for i, a := range trace {
		fmt.Fprintf(&b, "\n%4d  %v", i+1, a)
	}
	return b.String()
}

// reached is a state that is to be explored from; link says how it was reached first: by which of the steps from which
// other state.
type (
	reached struct {
		world
		id uint32
	}
	link struct {
		from uint32
		nth  uint16
	}
)

// explorer visits states breadth first, so that the first bad one has the shortest trace. Like TLC it remembers of a
// state a fingerprint of 64 bits: that two of five million states have the same, so that one is passed over, has a chance
// of one in a million, in another place at each run.
type explorer struct {
	*protocol
	seed    maphash.Seed
	visited map[uint64]struct{}
	links   []link
	layer   []reached
	result  exploration
	first   uint32 // the first bad state
}

// explore visits all states, or whole layers until they have limit states or enough bad ones. Bad states are not explored
// from.
func explore(p *protocol, limit, enough int) exploration {
	e := &explorer{protocol: p, seed: maphash.MakeSeed(), visited: map[uint64]struct{}{}}
	e.result.taken = map[string]bool{}
	e.reach(&world{objects: p.start}, "", link{})
	var layer []reached
	for len(e.layer) > 0 && len(e.links) < limit && e.result.bad < enough {
		layer, e.layer = e.layer, layer[:0]
		for i := range layer {
			from, nth := &layer[i], uint16(0)
			p.next(&from.world, &from.objects, func(a action, to world) {
				e.reach(&to, a.what, link{from.id, nth})
				nth++
			})
		}
	}
	e.result.states, e.result.whole = len(e.links), len(e.layer) == 0
	if e.result.bad > 0 {
		e.result.trace = e.replay(e.first)
	}
	return e.result
}

// reach takes note of a state, unless it was reached before.
func (e *explorer) reach(w *world, step string, by link) {
	e.canonical(w)
	key := maphash.Comparable(e.seed, *w)
	if _, ok := e.visited[key]; ok {
		return
	}
	e.visited[key] = struct{}{}
	e.result.taken[step] = true
	id := uint32(len(e.links))
	e.links = append(e.links, by)
	if what := e.broken(w); what == "" {
		e.layer = append(e.layer, reached{*w, id})
	} else if e.result.bad++; e.result.bad == 1 {
		e.result.what, e.first = what, id
	}
}

// replay makes the way to a state once more.
func (e *explorer) replay(id uint32) []action {
	var way []link
	for ; id != 0; id = e.links[id].from {
		way = append(way, e.links[id])
	}
	var trace []action
	w := world{objects: e.start}
	for _, l := range slices.Backward(way) {
		from, nth := w, uint16(0)
		e.next(&from, &from.objects, func(a action, to world) {
			if nth == l.nth {
				trace, w = append(trace, a), to
				e.canonical(&w)
			}
			nth++
		})
	}
	return trace
}

// Chunks of the scenarios.
const (
	chunkA set = 1 << iota
	chunkB
)

// twoCopies is a store where chunk a, which a snapshot needs, lies in two packs, so that collections may differ on which
// to keep; chunk b is needed by a snapshot that was forgotten, and by backups to come.
func twoCopies(backups, collections int) *protocol {
	p := &protocol{backups: backups, collections: collections, passes: collected}
	p.needs = [maxSessions]set{chunkA, chunkB, 0, chunkB, chunkA | chunkB, chunkA, chunkB}
	p.start = objects{snapshots: 0b011, forgotten: 0b010, packs: 0b011, deltas: 0b011}
	p.start.holds = [maxSessions]set{chunkA, chunkA | chunkB}
	return p
}

func (p *protocol) with(change func(*protocol)) *protocol {
	change(p)
	return p
}

// scenario is a protocol with a name: what happens, or what is wrong with it.
type scenario struct {
	name string
	*protocol
	steps []string // that must be taken somewhere, lest the scenario proves nothing
}

// whole are scenarios small enough to visit every state: of two backups and two collections, where n is 2, and with
// one backup or none where collections do more than their round.
func whole(n int) []scenario {
	round := []string{"B3 PUT pack and delta with chunks", "B4 commits", "B4 is fenced", "G4 fences session", "G7 DELETE pack"}
	return []scenario{
		{"forget", twoCopies(n, 2).with(func(p *protocol) { p.forgettable = 0b11011 }), append(round, "forgets snapshot")},
		{"repack", twoCopies(n, 2).with(func(p *protocol) { p.repack = true }), append(round, "PUT session for repacking")},
		{"resume", twoCopies(n, 2).with(resume), append(round, "resumes mark", "G5 LIST marks, finds the verdict")},
		{"resume without conditional writes", twoCopies(1, 2).with(resume).with(func(p *protocol) { p.unconditional = true }), append(round, "resumes mark")},
		{"consolidate", twoCopies(n-1, 2).with(consolidate), []string{"DELETE delta", "DELETE segment", "G7 DELETE pack"}},
		{"remove", twoCopies(n-1, 2).with(remove), []string{"DELETE session", "DELETE outcome", "DELETE mark", "G7 DELETE pack"}},
		{"remove and consolidate", twoCopies(0, n).with(remove).with(consolidate), []string{"DELETE mark of packs that are gone"}},
	}
}

// resume lets collections end each other's marks.
func resume(p *protocol) { p.passes |= resumed }

// consolidate lets collections replace the index.
func consolidate(p *protocol) { p.passes |= consolidated }

// remove lets snapshots be forgotten, and what is old go.
func remove(p *protocol) {
	p.expire, p.forgettable, p.start.sessions = true, 0b11011, 0b011
}

func TestProtocol(t *testing.T) {
	n := 2
	if testing.Short() {
		n = 1
	}
	for _, p := range whole(n) {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := explore(p.protocol, 10_000_000, 1)
			t.Logf("%s: %v", p.name, e)
			if e.bad > 0 {
				t.Error(steps(e.trace))
			}
			if !e.whole {
				t.Error("there are more states")
			}
			for _, step := range p.steps {
				if !e.taken[step] {
					t.Errorf("step %q was never taken", step)
				}
			}
		})
	}
}

// move is a step that a walk may take.
type move struct {
	action
	to world
}

// walker goes one random way through the states of a protocol. Who is how fast changes at random, so that processes
// stall for long.
type walker struct {
	*protocol
	world
	rng   *rand.Rand
	speed [maxSessions + 1]float64
	past  []objects // the store at the last steps, as many as listings lag
	moves []move
	trace []action
}

// randomWalk goes until nothing is left to do, and says what is wrong where it ended.
func randomWalk(p *protocol, rng *rand.Rand) (string, []action) {
	w := &walker{protocol: p, world: world{objects: p.start}, rng: rng}
	for i := range w.speed {
		w.speed[i] = w.anySpeed()
	}
	for w.step() {
		if what := p.broken(&w.world); what != "" {
			return what, w.trace
		}
	}
	return "", w.trace
}

func (w *walker) anySpeed() float64 { return 1 / float64(int(1)<<w.rng.IntN(10)) }

// step takes one of the steps that are possible and reports whether there was one.
func (w *walker) step() bool {
	w.moves = w.moves[:0]
	seen := w.listing()
	w.next(&w.world, &seen, func(a action, to world) { w.moves = append(w.moves, move{a, to}) })
	if len(w.moves) == 0 {
		return false
	}
	if w.rng.IntN(8) == 0 {
		w.speed[w.rng.IntN(len(w.speed))] = w.anySpeed()
	}
	if m := w.choose(); m != nil {
		w.world, w.trace = m.to, append(w.trace, m.action)
	}
	w.tick()
	return true
}

// listing is what LIST shows now. Half of the time it lags as much as it may.
func (w *walker) listing() objects {
	if w.lag == 0 {
		return w.objects
	}
	w.past = append(w.past, w.objects)
	if len(w.past) > w.lag+1 {
		w.past = w.past[1:]
	}
	worst := w.rng.IntN(2) == 0
	return w.lagging(&w.past[0], func() set {
		if worst {
			return 0
		}
		return set(w.rng.Uint32())
	})
}

// choose picks a move by the speed of who makes it; nil lets time pass, where that changes anything.
func (w *walker) choose() *move {
	weight := func(m *move) float64 {
		if m.what == crash {
			return w.speed[m.who] / 64
		}
		return w.speed[m.who]
	}
	var total float64
	if w.lag > 0 && slices.ContainsFunc(w.collectors[:], func(c collector) bool { return c.pause > 0 }) {
		total = 1. / 64
	}
	for i := range w.moves {
		total += weight(&w.moves[i])
	}
	at := w.rng.Float64() * total
	for i := range w.moves {
		if at -= weight(&w.moves[i]); at < 0 {
			return &w.moves[i]
		}
	}
	return nil
}

// tick lets the time of one step pass for those who wait.
func (w *walker) tick() {
	for j := range w.collectors {
		if c := &w.collectors[j]; c.pause > 0 {
			c.pause--
		}
	}
	for k := range w.marks {
		if m := &w.marks[k]; m.young > 0 {
			m.elders |= w.collecting()
			m.young--
		}
	}
}

// large is more than can be visited as a whole: everything at once.
func large() *protocol {
	p := twoCopies(maxBackups, maxCollections)
	p.repack = true
	return p.with(resume).with(consolidate).with(remove).with(func(p *protocol) { p.forgettable = 0b1111011 })
}

// lagging lets listings lag, and collections wait for as long as that demands.
func lagging(p *protocol) {
	p.lag = 6
	p.pauseMark, p.pauseWait, p.pauseDone = 2*p.lag+1, p.lag+1, p.lag+1
}

func TestProtocolWalks(t *testing.T) {
	long := 1500 * time.Millisecond
	if testing.Short() {
		long /= 5
	}
	for name, p := range map[string]*protocol{
		"prompt":                     large(),
		"lagging":                    large().with(lagging),
		"without conditional writes": large().with(lagging).with(func(p *protocol) { p.unconditional = true }),
	} {
		t.Run(name, func(t *testing.T) {
			seed := rand.Uint64()
			rng, walks, taken := rand.New(rand.NewPCG(seed, 0)), 0, 0
			for start := time.Now(); time.Since(start) < long; walks++ {
				what, trace := randomWalk(p, rng)
				if taken += len(trace); what != "" {
					t.Fatalf("seed %d, walk %d: %s%s", seed, walks, what, steps(trace))
				}
			}
			t.Logf("seed %d: %d walks, %d steps", seed, walks, taken)
		})
	}
}

// flawed are deviations from the protocol, each with the smallest scenario known to convict it.
func flawed() []scenario {
	flaw := func(name string, p *protocol, changes ...func(*protocol)) scenario {
		for _, change := range changes {
			change(p)
		}
		return scenario{name: name, protocol: p}
	}
	return []scenario{
		flaw("backups do not look at marks", twoCopies(1, 1), func(p *protocol) { p.blind = true }),
		flaw("backups list marks after deltas", twoCopies(1, 1), consolidate, remove, func(p *protocol) { p.indexFirst = true }),
		flaw("no recheck", twoCopies(1, 1), func(p *protocol) { p.noRecheck = true }),
		flaw("a commit replaces an abort marker", twoCopies(1, 1), func(p *protocol) { p.overwrite = true }),
		flaw("an abort marker replaces a snapshot", twoCopies(1, 1), func(p *protocol) { p.overfence = true }),
		flaw("sessions are listed before the mark", twoCopies(1, 1), func(p *protocol) { p.listFirst = true }),
		flaw("the recheck trusts in marked packs", twoCopies(0, 2), func(p *protocol) { p.countMarked = true }),
		flaw("a mark goes with its done record", twoCopies(1, 1), func(p *protocol) { p.unmarkAtOnce = true }),
		flaw("a mark goes while elders consolidate", twoCopies(0, 2), consolidate, func(p *protocol) { p.expire, p.unmarkEarly = true, true }),
		flaw("the done record comes after the deletes", twoCopies(0, 2), resume, func(p *protocol) { p.lateDone = true }),
		flaw("the done record may be replaced", twoCopies(0, 2), resume, func(p *protocol) { p.ownVerdict = true }),
		flaw("consolidation drops marked packs", twoCopies(1, 1), consolidate, func(p *protocol) { p.dropMarked = true }),
		flaw("segments are listed first, and what is not listed goes", twoCopies(0, 2), consolidate, func(p *protocol) { p.segmentsFirst, p.condemnsUnseen = true, true }),
		flaw("a mark goes while elders resume", twoCopies(1, 2), resume, func(p *protocol) { p.expire, p.unmarkEarly = true, true }),
	}
}

// TestProtocolFlaws: each rule is needed, and the exploration would notice if the code did without.
func TestProtocolFlaws(t *testing.T) {
	all, enough := flawed(), math.MaxInt
	if testing.Short() {
		all, enough = all[:len(all)-1], 1 // the last has most of the states
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			e := explore(p.protocol, 5_000_000, enough)
			t.Logf("%s: %v%s", p.name, e, steps(e.trace))
			if e.bad == 0 {
				t.Error("nothing bad was found")
			}
		})
	}
}

// TestProtocolLag: how long a collection waits is enough where listings lag (see TestProtocolWalks), and less is not.
func TestProtocolLag(t *testing.T) {
	flaws := map[string]*protocol{
		"one lag from the mark to the sessions": twoCopies(2, 1).with(lagging).with(func(p *protocol) { p.pauseMark = p.lag + 1 }),
		"none from the outcomes to the recheck": twoCopies(2, 1).with(lagging).with(func(p *protocol) { p.pauseWait = 0 }),
		"what is not listed goes":               twoCopies(2, 2).with(lagging).with(consolidate).with(func(p *protocol) { p.condemnsUnseen = true }),
	}
	if !testing.Short() { // it takes thousands of long walks to find this one
		flaws["none before a mark is old"] = large().with(lagging).with(func(p *protocol) { p.pauseDone = 0 })
	}
	for name, p := range flaws {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(1, 2))
			for n := range 100_000 {
				if what, trace := randomWalk(p, rng); what != "" {
					t.Logf("%s: in walk %d %s%s", name, n, what, steps(trace))
					return
				}
			}
			t.Error("nothing bad was found")
		})
	}
}
