package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

// site is a repository that several hosts use for months of a simulated clock: what they stored and did not forget.
type site struct {
	store chunkstore.Backend
	lag   time.Duration // of lists
	end   time.Time

	mu                                     sync.Mutex
	wanted                                 map[chunkstore.SessionID][]byte
	unsure                                 map[chunkstore.SessionID][]byte // whoever committed or forgot them died on it
	deleted, fenced, died, restored, stood int
}

var errDied = errors.New("the host died")

// process is one run of a command on a host: each of its calls to the store takes its time, now and then hours and
// rarely days, and at some call it may die.
func (s *site) process(rng *rand.Rand, slow bool) chunkstore.Backend {
	var mu sync.Mutex
	dead, calls, dies := false, 0, 1+rng.IntN(400)
	wait := func() {
		mu.Lock()
		d := time.Duration(rng.Int64N(int64(5 * time.Second)))
		switch n := rng.IntN(2000); {
		case n == 0 && slow:
			d = time.Duration(rng.Int64N(int64(9 * 24 * time.Hour)))
		case n < 30 && slow:
			d = time.Duration(rng.Int64N(int64(5 * time.Hour)))
		}
		mu.Unlock()
		time.Sleep(d)
	}
	return storetest.Intercept(s.store, func(_ context.Context, _ storetest.Call, next func() error) error {
		wait()
		mu.Lock()
		calls++
		dead = dead || calls == dies
		stop := dead
		mu.Unlock()
		if stop {
			return errDied
		}
		err := next()
		wait()
		return err
	})
}

// open opens the repository in a new process of the host with that state directory.
func (s *site) open(t *testing.T, rng *rand.Rand, dir string, slow bool) (*chunkstore.Repository, error) {
	t.Helper()
	return chunkstore.Open(t.Context(), s.process(rng, slow), password, chunkstore.Options{
		StateDir: filepath.Join(dir, "state"), CacheDir: filepath.Join(dir, "cache"),
	})
}

// nightly backs up each day.
func (s *site) nightly(t *testing.T, rng *rand.Rand) {
	dir := t.TempDir()
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(rng.Int64N(int64(30 * time.Hour))))
		content := slices.Concat(noise(uint64(rng.IntN(6)), 60_000), noise(uint64(rng.IntN(6)), 60_000))
		r, err := s.open(t, rng, dir, true)
		var session *chunkstore.Session
		if err == nil {
			session, err = backup(t.Context(), r, content)
		}
		s.mu.Lock()
		switch {
		case err == nil:
			s.wanted[session.ID()] = content
		case errors.Is(err, chunkstore.ErrFenced):
			s.fenced++
		case errors.Is(err, errDied):
			if s.died++; session != nil {
				s.unsure[session.ID()] = content
			}
		default:
			t.Errorf("backup: %v", err)
		}
		s.mu.Unlock()
	}
}

// forget forgets some of what there is, every few days.
func (s *site) forget(t *testing.T, rng *rand.Rand) {
	dir := t.TempDir()
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(rng.Int64N(int64(72 * time.Hour))))
		r, err := s.open(t, rng, dir, false)
		if err != nil {
			continue // it died
		}
		all, err := r.Outcomes(t.Context())
		if err != nil {
			continue
		}
		s.mu.Lock()
		all = slices.DeleteFunc(all, func(o chunkstore.Outcome) bool { return s.wanted[o.Session] == nil || rng.IntN(3) > 0 })
		for _, o := range all {
			s.unsure[o.Session] = s.wanted[o.Session]
			delete(s.wanted, o.Session)
		}
		s.mu.Unlock()
		if len(all) == 0 || r.Forget(t.Context(), "forgetful", all) != nil {
			continue
		}
		s.mu.Lock()
		for _, o := range all {
			delete(s.unsure, o.Session)
		}
		s.mu.Unlock()
	}
}

// collect collects each day.
func (s *site) collect(t *testing.T, rng *rand.Rand) {
	dir := t.TempDir()
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(rng.Int64N(int64(24 * time.Hour))))
		r, err := s.open(t, rng, dir, true)
		var report *chunkstore.CollectReport
		if err == nil {
			report, err = r.Collect(t.Context(), collectOptions(r))
		}
		s.mu.Lock()
		if report != nil {
			s.deleted += report.Deleted.Packs
		}
		switch {
		case errors.Is(err, errDied):
			s.died++
		case err != nil && time.Now().Before(s.end): // it stood still for too long: nothing may be lost by it
			s.stood++
			t.Log(err)
		}
		s.mu.Unlock()
	}
}

// look restores something that is wanted, at any moment.
func (s *site) look(t *testing.T, rng *rand.Rand) {
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(rng.Int64N(int64(24 * time.Hour))))
		r, err := chunkstore.Open(t.Context(), s.store, password, chunkstore.Options{})
		if err != nil {
			t.Errorf("look: %v", err)
			return
		}
		all, err := r.Outcomes(t.Context())
		if err != nil {
			t.Errorf("look: %v", err)
			return
		}
		s.mu.Lock()
		wanted := maps.Clone(s.wanted)
		s.mu.Unlock()
		for _, o := range all {
			if wanted[o.Session] != nil && rng.IntN(4) == 0 {
				s.tryRestore(t, r, o)
			}
		}
	}
}

// tryRestore restores a snapshot; where lists lag, it may have to wait until they show what the snapshot needs.
func (s *site) tryRestore(t *testing.T, r *chunkstore.Repository, o chunkstore.Outcome) {
	got, err := restored(t.Context(), r, o)
	if err != nil && s.lag > 0 {
		time.Sleep(s.lag)
		if r, err = chunkstore.Open(t.Context(), s.store, password, chunkstore.Options{}); err == nil {
			got, err = restored(t.Context(), r, o)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	want := s.wanted[o.Session]
	if want == nil {
		return // forgotten meanwhile
	}
	if s.restored++; err != nil || !bytes.Equal(got, want) {
		t.Errorf("snapshot %v differs: %v", o.Session, err)
	}
}

// Months of a repository by the simulated clock, with the times of the protocol as they are: hosts back up, forget and
// collect, stand still for hours or days, and die at any call. What was reported and not forgotten is there, at every
// moment and in the end; also where the store creates unconditionally and no two of its lists show the same.
func TestMonths(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // hosts have state and a cache
	}
	const day = 24 * time.Hour
	length := 45 * day
	if testing.Short() {
		length = 15 * day
	}
	t.Run("conditional", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { months(t, length, 0, 1) }) })
	t.Run("lists lag", func(t *testing.T) { synctest.Test(t, func(t *testing.T) { months(t, length/3, 50*time.Minute, 1) }) })
}

// months lets so much time go by at a store whose lists lag by up to lag, no two alike.
func months(t *testing.T, length, lag time.Duration, seed uint64) {
	fresh := mem.New(mem.Options{})
	newRepository(t, fresh, chunkstore.Options{})
	store := chunkstore.Backend(fresh)
	if lag > 0 {
		store = (&storetest.Lag{Delay: lag, Share: rand.New(rand.NewPCG(seed, 99)).Float64}).Wrap(storetest.Unsupported(fresh))
	}
	s := &site{store: store, lag: lag, end: time.Now().Add(length), wanted: map[chunkstore.SessionID][]byte{}, unsure: map[chunkstore.SessionID][]byte{}}
	var wg sync.WaitGroup
	for i, do := range []func(*testing.T, *rand.Rand){s.nightly, s.nightly, s.nightly, s.forget, s.collect, s.collect, s.look} {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() { do(t, rng) })
	}
	wg.Wait()
	time.Sleep(2 * lag) // lists show everything by then
	r := reopen(t, store, chunkstore.Options{})
	all := outcomes(t, r)
	for _, o := range all {
		want := s.wanted[o.Session]
		if want == nil {
			want = s.unsure[o.Session]
		}
		if got := restore(t, r, o); !bytes.Equal(got, want) {
			t.Errorf("snapshot %v differs", o.Session)
		}
		delete(s.wanted, o.Session)
	}
	if len(s.wanted) > 0 {
		t.Errorf("%d snapshots are gone", len(s.wanted))
	}
	wantClean(t, r)
	t.Logf("%d snapshots left, %d restored meanwhile; %d packs deleted, %d sessions fenced, %d processes died, %d collections stood still",
		len(all), s.restored, s.deleted, s.fenced, s.died, s.stood)
	if s.deleted == 0 && lag == 0 { // where lists lag it may take more than weeks until a mark is carried out
		t.Error("nothing was ever deleted")
	}
}

// A session that has just committed is not given up by a collection whose lists do not show that yet.
func TestCommitThatIsNotListed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, contents := forgetful(t)
		store := (&storetest.Lag{Delay: 50 * time.Minute}).Wrap(storetest.Unsupported(base))
		host := t.TempDir()
		collect := func(record time.Duration) *chunkstore.CollectReport { // after which silence it gives sessions up
			r := reopen(t, store, chunkstore.Options{StateDir: host})
			chunkstore.SetAges(r, 0, 0, 0, record)
			chunkstore.SetLag(r, time.Hour)
			report, err := r.Collect(t.Context(), collectOptions(r))
			if err != nil {
				t.Fatal(err)
			}
			return report
		}
		time.Sleep(time.Hour)
		s, err := reopen(t, store, chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{})
		if err != nil {
			t.Fatal(err)
		}
		collect(time.Hour * 999) // marks
		time.Sleep(2 * time.Hour)
		collect(time.Hour * 999) // waits for the session
		time.Sleep(2 * time.Hour)
		content := noise(80, 50_000)
		if err := save(t.Context(), s, content); err != nil {
			t.Fatal(err)
		}
		if report := collect(0); len(report.Fenced) != 1 {
			t.Fatalf("it was not taken for silent: %+v", report)
		}
		time.Sleep(2 * time.Hour)
		collect(0)
		time.Sleep(2 * time.Hour)
		r := reopen(t, store, chunkstore.Options{})
		all := outcomes(t, r)
		if len(all) != len(contents)+1 || !bytes.Equal(restore(t, r, all[len(contents)]), content) {
			t.Errorf("%d snapshots", len(all))
		}
		wantClean(t, r)
	})
}
