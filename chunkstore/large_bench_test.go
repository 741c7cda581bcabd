package chunkstore_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
	"github.com/hakobune-dr/hakobune/crypto"
)

// The repository of BenchmarkLarge: the index of BenchmarkIndex, and 20 hosts that made 1000 snapshots each. A snapshot
// needs a tenth of one delta's chunks that none before it had: what it shares with those before, a walk reads once.
const (
	largeSnapshots = 20_000
	largeWriters   = 20
	largePerDelta  = largeSnapshots / benchDeltas
	largeChunks    = benchChunks / largePerDelta                     // of a snapshot
	largePacks     = (benchChunks + benchPerPack - 1) / benchPerPack // of a delta
)

// largeStore adds the packs of the index to a directory: they are listed, and deleted, and have no content.
type largeStore struct {
	*local.Store
	packs []chunkstore.Info

	mu   sync.Mutex
	gone map[string]bool // packs that were deleted
}

func (s *largeStore) List(ctx context.Context, prefix string, fn func(chunkstore.Info) error) error {
	if !strings.HasPrefix(prefix, "p/") {
		return s.Store.List(ctx, prefix, fn)
	}
	s.mu.Lock()
	left := slices.DeleteFunc(slices.Clone(s.packs), func(p chunkstore.Info) bool { return s.gone[p.Name] })
	s.mu.Unlock()
	for _, p := range left {
		if strings.HasPrefix(p.Name, prefix) {
			if err := fn(p); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (s *largeStore) Delete(ctx context.Context, name string) error {
	if strings.HasPrefix(name, "p/") {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.gone[name] = true
		return nil
	}
	return s.Store.Delete(ctx, name)
}

// largeDelta returns the chunks of a delta, the same each time.
func largeDelta(d int) []chunkstore.IndexEntry {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], uint64(d))
	rng := rand.NewChaCha8(seed)
	entries := make([]chunkstore.IndexEntry, benchChunks)
	for i := range entries {
		rng.Read(entries[i].ID[:])
		entries[i].Pack, entries[i].Offset = uint32(d*largePacks+i/benchPerPack), uint32(i%benchPerPack)
	}
	return entries
}

// largeRepository makes the repository.
func largeRepository(b *testing.B) *largeStore {
	dir := b.TempDir()
	if err := local.Create(dir); err != nil {
		b.Fatal(err)
	}
	s := &largeStore{Store: openLocal(b, dir), gone: map[string]bool{}}
	r := newRepository(b, s, chunkstore.Options{})
	for d := range benchDeltas {
		name := fmt.Sprintf("i/%016x/%032x-0", 0, d)
		if err := chunkstore.PutIndex(b.Context(), r, name, largeDelta(d)); err != nil {
			b.Fatal(err)
		}
	}
	for n := range uint32(benchDeltas * largePacks) {
		ref := chunkstore.PackRef{Kind: chunkstore.Data, ID: chunkstore.NumberedPack(n)}
		s.packs = append(s.packs, chunkstore.Info{Name: ref.Name(), Size: crypto.SealedSize(32 << 20), Modified: time.Now()})
	}
	slices.SortFunc(s.packs, func(a, b chunkstore.Info) int { return strings.Compare(a.Name, b.Name) })
	for n := range largeSnapshots {
		largeOutcome(b, r, n)
	}
	return s
}

// largeOutcome stores the n-th snapshot, whose summary is n.
func largeOutcome(b *testing.B, r *chunkstore.Repository, n int) {
	var w crypto.WriterID
	var id chunkstore.SessionID
	w[0] = byte(n % largeWriters)
	binary.BigEndian.PutUint64(id[:], uint64(n)<<16)
	summary, err := json.Marshal(n)
	if err != nil {
		b.Fatal(err)
	}
	if err := chunkstore.PutOutcome(b.Context(), r, w, id, chunkstore.Outcome{Host: fmt.Sprint("host-", w[0]), Summary: summary}); err != nil {
		b.Fatal(err)
	}
}

// largeWalk yields what a snapshot needs.
func largeWalk(_ context.Context, o chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return func(yield func(chunkstore.Ref, error) bool) {
		var n int
		if err := json.Unmarshal(o.Summary, &n); err != nil {
			yield(chunkstore.Ref{}, err)
			return
		}
		for _, e := range largeDelta(n / largePerDelta)[n%largePerDelta*largeChunks:][:largeChunks] {
			if !yield(chunkstore.Ref{ID: e.ID, Length: 1}, nil) {
				return
			}
		}
	}
}

// BenchmarkLarge lists, checks, forgets and collects in a repository of 10 TiB and 20,000 snapshots. The steps build on
// each other, so each runs once (-benchtime 1x): listing without and with a cache; a check of the structure; half of
// the snapshots forgotten; a collection of what they had alone, half of all packs, first as a trial.
func BenchmarkLarge(b *testing.B) {
	s := largeRepository(b)
	cache := b.TempDir()
	step := func(name string, opts chunkstore.Options, do func(*testing.B, *chunkstore.Repository)) {
		b.Run(name, func(b *testing.B) {
			r := reopen(b, s, opts)
			grown, cpu := rss(b), cpuTime(b)
			for range b.N {
				do(b, r)
			}
			b.ReportMetric((cpuTime(b)-cpu).Seconds()/float64(b.N), "cpu-s/op")
			peak, _ := grown()
			b.ReportMetric(peak/1e6, "peak-MB")
		})
	}
	var all []chunkstore.Outcome
	list := func(b *testing.B, r *chunkstore.Repository) {
		var err error
		if all, err = r.Outcomes(b.Context()); err != nil || len(all) == 0 {
			b.Fatal(len(all), err)
		}
	}
	collect := func(dry bool) func(*testing.B, *chunkstore.Repository) {
		return func(b *testing.B, r *chunkstore.Repository) {
			report, err := r.Collect(b.Context(), chunkstore.CollectOptions{
				Walk: func() func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] { return largeWalk }, MaxUnused: -1, MinAge: -1, DryRun: dry,
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(report.Deleted.Packs), "deleted")
		}
	}
	step("snapshots/no cache", chunkstore.Options{}, list)
	step("snapshots/cold", chunkstore.Options{CacheDir: cache}, list)
	step("snapshots/warm", chunkstore.Options{CacheDir: cache}, list)
	step("check", chunkstore.Options{}, func(b *testing.B, r *chunkstore.Repository) {
		report, err := r.Check(b.Context(), chunkstore.CheckOptions{Walk: largeWalk})
		if err != nil || report.Snapshots != largeSnapshots || len(report.Faults) > 0 {
			b.Fatal(report.Snapshots, len(report.Faults), err)
		}
	})
	step("forget", chunkstore.Options{CacheDir: cache}, func(b *testing.B, r *chunkstore.Repository) {
		if err := r.Forget(b.Context(), "host", slices.DeleteFunc(all, func(o chunkstore.Outcome) bool { return o.Session[5]%2 == 0 })); err != nil {
			b.Fatal(err)
		}
	})
	step("prune/trial", chunkstore.Options{CacheDir: cache}, collect(true))
	step("prune", chunkstore.Options{CacheDir: cache}, collect(false))
	step("prune/nothing to do", chunkstore.Options{CacheDir: cache}, collect(false))
}
