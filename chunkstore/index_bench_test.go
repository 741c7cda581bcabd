package chunkstore_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
)

// The size of the repository in BenchmarkIndex: 10 TiB of content.
const (
	benchDeltas  = 2000
	benchChunks  = 3500 // of a delta
	benchPerPack = 21
)

// benchRepository returns a directory with a repository of that many chunks, and half a million of their
// ids.
func benchRepository(b *testing.B) (string, []chunkstore.ID) {
	dir := b.TempDir()
	if err := local.Create(dir); err != nil {
		b.Fatal(err)
	}
	r := newRepository(b, openLocal(b, dir), chunkstore.Options{})
	var sample []chunkstore.ID
	rng := rand.NewChaCha8([32]byte{1})
	for d := range benchDeltas {
		entries := make([]chunkstore.IndexEntry, benchChunks)
		for i := range entries {
			rng.Read(entries[i].ID[:])
			entries[i].Pack = uint32((d*benchChunks + i) / benchPerPack)
			entries[i].Offset = uint32(i % benchPerPack)
			if i%14 == 0 {
				sample = append(sample, entries[i].ID)
			}
		}
		if err := chunkstore.PutIndex(b.Context(), r, fmt.Sprintf("i/0000000000000000/%032x-0", d), entries); err != nil {
			b.Fatal(err)
		}
	}
	return dir, sample
}

func openLocal(b *testing.B, dir string) *local.Store {
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// rss starts a measurement of the process's memory: what the returned function tells is by how many
// bytes it grew at most since, and what the heap holds more.
func rss(b *testing.B) func() (peak, heap float64) {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // sets VmHWM back
		b.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	rss0, heap0 := status(b, "VmRSS"), m.HeapAlloc
	return func() (float64, float64) {
		peak := status(b, "VmHWM") - rss0
		runtime.GC()
		runtime.ReadMemStats(&m)
		return peak, float64(m.HeapAlloc) - float64(heap0)
	}
}

// cpuTime is what the process has used; on a busy machine it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}

func status(b *testing.B, field string) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), field+":")
	kb, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(after, "kB", 2)[0]))
	if err != nil {
		b.Fatal(err)
	}
	return float64(kb) * 1024
}

// BenchmarkIndex starts with, and looks up in, an index of 7 million chunks: cold without and with an
// empty cache, warm, and with new deltas beside a warm cache.
func BenchmarkIndex(b *testing.B) {
	dir, ids := benchRepository(b)
	cache := b.TempDir()
	load := func(b *testing.B, opts chunkstore.Options, before func()) *chunkstore.Repository {
		var r *chunkstore.Repository
		var peak, heap float64
		var cpu time.Duration
		for b.Loop() {
			b.StopTimer()
			before()
			r = reopen(b, openLocal(b, dir), opts)
			grown := rss(b)
			before := cpuTime(b)
			b.StartTimer()
			if err := r.LoadIndex(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			cpu += cpuTime(b) - before
			p, h := grown()
			peak, heap = max(peak, p), max(heap, h)
			b.StartTimer()
		}
		b.ReportMetric(cpu.Seconds()/float64(b.N), "cpu-s/op")
		b.ReportMetric(peak/1e6, "peak-MB")
		b.ReportMetric(heap/1e6, "heap-MB")
		return r
	}
	empty := func() {
		if err := cmp.Or(os.RemoveAll(cache), os.Mkdir(cache, 0o700)); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("cold/no cache", func(b *testing.B) { load(b, chunkstore.Options{}, func() {}) })
	b.Run("cold/cache", func(b *testing.B) { load(b, chunkstore.Options{CacheDir: cache}, empty) })
	var r *chunkstore.Repository
	b.Run("warm", func(b *testing.B) { r = load(b, chunkstore.Options{CacheDir: cache}, func() {}) })
	if r == nil {
		return // not selected
	}
	for what, ids := range map[string][]chunkstore.ID{"in order": ids, "random": shuffled(ids), "absent": others(len(ids))} {
		b.Run("lookup/"+what, func(b *testing.B) { benchLookups(b, r, ids, 1) })
	}
	b.Run("lookup/two at once", func(b *testing.B) { benchLookups(b, r, ids, 2) })
	if base, _, _ := chunkstore.IndexState(r); base != benchDeltas*benchChunks {
		b.Errorf("%d chunks in the base", base)
	}
}

func shuffled(ids []chunkstore.ID) []chunkstore.ID {
	out := append([]chunkstore.ID(nil), ids...)
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func others(n int) []chunkstore.ID {
	out := make([]chunkstore.ID, n)
	rng := rand.NewChaCha8([32]byte{2})
	for i := range out {
		rng.Read(out[i][:])
	}
	return out
}

func benchLookups(b *testing.B, r *chunkstore.Repository, ids []chunkstore.ID, workers int) {
	grown := rss(b)
	start, cpu := time.Now(), cpuTime(b)
	n := 0
	for b.Loop() {
		var g errgroup.Group
		for w := range workers {
			g.Go(func() error {
				for i := range 10_000 {
					if _, err := chunkstore.Lookup(r, ids[(n+w*len(ids)/2+i)%len(ids)]); err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
		n += 10_000
	}
	b.ReportMetric(float64(n*workers)/time.Since(start).Seconds(), "lookups/s")
	b.ReportMetric(float64(n*workers)/(cpuTime(b)-cpu).Seconds(), "lookups/cpu-s")
	peak, _ := grown()
	b.ReportMetric(peak/1e6, "peak-MB")
}
