package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
)

var (
	cheap = crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}
	// A key file costs nothing to try, unlike a passphrase, and these tests open often.
	password = crypto.KeyFile(crypto.NewKeyFile())
)

func newRepository(t testing.TB, b chunkstore.Backend, opts chunkstore.Options) *chunkstore.Repository {
	t.Helper()
	if _, err := chunkstore.Init(t.Context(), b, password, crypto.SlotInfo{Label: "test"}, cheap, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	return reopen(t, b, opts)
}

func reopen(t testing.TB, b chunkstore.Backend, opts chunkstore.Options) *chunkstore.Repository {
	t.Helper()
	r, err := chunkstore.Open(t.Context(), b, password, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// noise returns n bytes that do not compress, words n that do; both by seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	rng.Read(b)
	return b
}

func words(seed uint64, n int) []byte {
	var b bytes.Buffer
	rng := rand.New(rand.NewPCG(seed, 2))
	for b.Len() < n {
		fmt.Fprintf(&b, "row %d of the table holds %x\n", rng.IntN(1000), rng.IntN(100))
	}
	return b.Bytes()[:n]
}

// snapshot is a test's snapshot: its body names the content, which is one split stream.
func backup(ctx context.Context, r *chunkstore.Repository, content []byte) (*chunkstore.Session, error) {
	s, err := r.Begin(ctx, chunkstore.BeginOptions{Host: "test"})
	if err != nil {
		return nil, err
	}
	if err := save(ctx, s, content); err != nil {
		return s, errors.Join(err, s.Abort(ctx))
	}
	return s, nil
}

func save(ctx context.Context, s *chunkstore.Session, content []byte) error {
	refs, err := s.Split(ctx, chunkstore.Data, bytes.NewReader(content))
	if err != nil {
		return err
	}
	w := s.NewStream(ctx)
	for _, ref := range refs {
		fmt.Fprintf(w, "%v %d\n", ref.ID, ref.Length)
	}
	body, err := w.Finish()
	if err != nil {
		return err
	}
	return s.Commit(ctx, "test", func(chunkstore.SessionStats) any { return map[string]int{"size": len(content)} }, body)
}

// nothing is an empty summary.
func nothing(chunkstore.SessionStats) any { return nil }

// walk yields the refs in a test snapshot's body.
func walk(r *chunkstore.Repository) func(context.Context, chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
	return func(ctx context.Context, o chunkstore.Outcome) iter.Seq2[chunkstore.Ref, error] {
		return func(yield func(chunkstore.Ref, error) bool) {
			b, err := r.ReadStream(ctx, o.Body)
			if err != nil {
				yield(chunkstore.Ref{}, err)
				return
			}
			for line := range strings.Lines(string(b)) {
				var ref chunkstore.Ref
				id, n, _ := strings.Cut(strings.TrimSpace(line), " ")
				_, err := fmt.Sscan(n, &ref.Length)
				if !yield(ref, errors.Join(err, ref.ID.UnmarshalText([]byte(id)))) {
					return
				}
			}
		}
	}
}

func restore(t testing.TB, r *chunkstore.Repository, o chunkstore.Outcome) []byte {
	t.Helper()
	b, err := restored(t.Context(), r, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func restored(ctx context.Context, r *chunkstore.Repository, o chunkstore.Outcome) ([]byte, error) {
	var refs []chunkstore.Ref
	for ref, err := range walk(r)(ctx, o) {
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	rd := r.Read(ctx, func(yield func(chunkstore.Ref, error) bool) {
		for _, ref := range refs {
			if !yield(ref, nil) {
				return
			}
		}
	})
	b, err := io.ReadAll(rd)
	return b, errors.Join(err, rd.Close())
}

func check(t testing.TB, r *chunkstore.Repository) *chunkstore.CheckReport {
	t.Helper()
	report, err := r.Check(t.Context(), chunkstore.CheckOptions{Walk: walk(r), Data: chunkstore.Everything})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func wantClean(t testing.TB, r *chunkstore.Repository) {
	t.Helper()
	for _, f := range check(t, r).Faults {
		t.Errorf("fault: %s: %v", f.Object, f.Err)
	}
}

func TestRoundTrip(t *testing.T) {
	for name, content := range map[string][]byte{
		"empty": {}, "byte": {7}, "text": words(1, 3<<20), "noise": noise(1, 90<<20),
		"mixed": slices.Concat(words(2, 20<<20), noise(2, 20<<20), make([]byte, 30<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mem.New(mem.Options{})
			r := newRepository(t, b, chunkstore.Options{CacheDir: t.TempDir(), StateDir: t.TempDir()})
			s, err := backup(t.Context(), r, content)
			if err != nil {
				t.Fatal(err)
			}
			r = reopen(t, b, chunkstore.Options{})
			all, err := r.Outcomes(t.Context())
			if err != nil || len(all) != 1 || all[0].Session != s.ID() {
				t.Fatalf("outcomes: %v, %v", all, err)
			}
			if !bytes.Equal(restore(t, r, all[0]), content) {
				t.Error("content differs")
			}
			wantClean(t, r)
		})
	}
}

func TestDeduplication(t *testing.T) {
	b := mem.New(mem.Options{})
	opts := chunkstore.Options{StateDir: t.TempDir()}
	content := noise(3, 40<<20)
	if _, err := backup(t.Context(), newRepository(t, b, opts), content); err != nil {
		t.Fatal(err)
	}
	s, err := backup(t.Context(), reopen(t, b, opts), content)
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.NewBytes > 200 || got.StoredBytes > 10_000 {
		t.Errorf("the same again stored %+v", got)
	}
	edited := slices.Concat(content[:20<<20], []byte("inserted"), content[20<<20:])
	if s, err = backup(t.Context(), reopen(t, b, opts), edited); err != nil {
		t.Fatal(err)
	}
	if got := s.Stats(); got.NewBytes > 2*8<<20 {
		t.Errorf("an insertion stored %+v", got)
	}
	r := reopen(t, b, chunkstore.Options{})
	all, err := r.Outcomes(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("%d outcomes, %v", len(all), err)
	}
	if all[1].Sequence != 2 || all[1].Previous == nil || all[1].Previous.Session != all[0].Session {
		t.Errorf("the writer's chain is broken: %+v", all[1])
	}
	if packs, err := r.ForeignPacks(t.Context(), all[1]); err != nil || len(packs) == 0 {
		t.Errorf("the second snapshot lists %d foreign packs, %v", len(packs), err)
	}
	wantClean(t, r)
}

func TestOpenErrors(t *testing.T) {
	ctx := t.Context()
	b := mem.New(mem.Options{})
	if _, err := chunkstore.Open(ctx, b, password, chunkstore.Options{}); !errors.Is(err, chunkstore.ErrNoRepository) {
		t.Errorf("nothing there: %v", err)
	}
	newRepository(t, b, chunkstore.Options{})
	if _, err := chunkstore.Init(ctx, b, password, crypto.SlotInfo{}, cheap, chunkstore.ChunkerParams{}); !errors.Is(err, chunkstore.ErrRepositoryExists) {
		t.Errorf("init twice: %v", err)
	}
	if _, err := chunkstore.Open(ctx, b, crypto.Passphrase([]byte("wrong")), chunkstore.Options{}); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("wrong password: %v", err)
	}
	config, err := b.Get(ctx, "config", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		old, new string
		want     error
	}{
		"newer version":   {`"version":1`, `"version":2`, crypto.ErrNewer},
		"unknown feature": {`"version":1`, `"version":1,"features":["x"]`, crypto.ErrNewer},
		"altered chunker": {`"bits":19`, `"bits":20`, crypto.ErrDamaged},
		"not a config":    {`hakobune`, `else`, crypto.ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			altered := strings.Replace(string(config), tc.old, tc.new, 1)
			if altered == string(config) {
				t.Fatal("nothing altered")
			}
			other := mem.New(mem.Options{})
			if err := b.List(ctx, "k/", func(i chunkstore.Info) error {
				slot, err := b.Get(ctx, i.Name, 0, -1)
				return errors.Join(err, other.Put(ctx, i.Name, slot))
			}); err != nil {
				t.Fatal(err)
			}
			if err := other.Put(ctx, "config", []byte(altered)); err != nil {
				t.Fatal(err)
			}
			if _, err := chunkstore.Open(ctx, other, password, chunkstore.Options{}); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestSlots(t *testing.T) {
	ctx := t.Context()
	b := mem.New(mem.Options{})
	newRepository(t, b, chunkstore.Options{})
	slots, err := chunkstore.Slots(ctx, b)
	if err != nil || len(slots) != 1 {
		t.Fatalf("%v, %v", slots, err)
	}
	if err := chunkstore.RemoveSlot(ctx, b, password, slots[0].ID); !errors.Is(err, chunkstore.ErrLastSlot) {
		t.Errorf("removing the last slot: %v", err)
	}
	second := crypto.Passphrase([]byte("another"))
	if _, err := chunkstore.AddSlot(ctx, b, crypto.Passphrase([]byte("no")), second, crypto.SlotInfo{}, cheap); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("adding without the key: %v", err)
	}
	id, err := chunkstore.AddSlot(ctx, b, password, second, crypto.SlotInfo{Label: "second"}, cheap)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chunkstore.Open(ctx, b, second, chunkstore.Options{}); err != nil {
		t.Errorf("opening with the new slot: %v", err)
	}
	if err := chunkstore.RemoveSlot(ctx, b, second, slots[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := chunkstore.Open(ctx, b, password, chunkstore.Options{}); !errors.Is(err, crypto.ErrWrongKey) {
		t.Errorf("opening with the removed slot: %v", err)
	}
	if err := chunkstore.RemoveSlot(ctx, b, second, "0000"); !errors.Is(err, chunkstore.ErrNotExist) {
		t.Errorf("removing what is not there: %v (have %s)", err, id)
	}
}

func TestNamed(t *testing.T) {
	ctx := t.Context()
	b := mem.New(mem.Options{})
	r := newRepository(t, b, chunkstore.Options{})
	s, err := r.Begin(ctx, chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetNamed(ctx, "layer:x", []byte("value")); err != nil {
		t.Fatal(err)
	}
	if err := save(ctx, s, noise(4, 100)); err != nil {
		t.Fatal(err)
	}
	r = reopen(t, b, chunkstore.Options{})
	if v, ok, err := r.Named(ctx, chunkstore.Domain{}, "layer:x"); !ok || err != nil || string(v) != "value" {
		t.Errorf("%q, %v, %v", v, ok, err)
	}
	if _, ok, err := r.Named(ctx, chunkstore.Domain{}, "layer:y"); ok || err != nil {
		t.Errorf("a name never set: %v, %v", ok, err)
	}
}

// A long metadata stream keeps its list of chunks in a stream of its own.
func TestLongStream(t *testing.T) {
	ctx := t.Context()
	r := newRepository(t, mem.New(mem.Options{}), chunkstore.Options{})
	s, err := r.Begin(ctx, chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content := noise(5, 30<<20)
	st, err := s.SaveStream(ctx, content)
	if err != nil {
		t.Fatal(err)
	}
	if st.Depth != 1 || len(st.Chunks) > 64 {
		t.Errorf("depth %d, %d chunks", st.Depth, len(st.Chunks))
	}
	if err := s.Commit(ctx, "test", nothing, st); err != nil {
		t.Fatal(err)
	}
	if got, err := r.ReadStream(ctx, st); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	st.Size++
	if _, err := r.ReadStream(ctx, st); !errors.Is(err, crypto.ErrDamaged) {
		t.Errorf("a wrong size: %v", err)
	}
}

// Pieces of one chunk, over and over and out of order, as small files in bundles give.
func TestReadPieces(t *testing.T) {
	ctx := t.Context()
	r := newRepository(t, mem.New(mem.Options{}), chunkstore.Options{})
	s, err := r.Begin(ctx, chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	content := noise(6, 60<<20)
	refs, err := s.Split(ctx, chunkstore.Data, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, "test", nothing, chunkstore.Stream{}); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	var pieces []chunkstore.Ref
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		n := rng.IntN(len(refs))
		whole := refs[n]
		p := chunkstore.Ref{ID: whole.ID, Offset: uint32(rng.IntN(int(whole.Length)))}
		p.Length = uint32(rng.IntN(int(min(whole.Length-p.Offset, 50_000))))
		start := int(p.Offset)
		for _, r := range refs[:n] {
			start += int(r.Length)
		}
		want.Write(content[start:][:p.Length])
		pieces = append(pieces, p)
	}
	rd := r.Read(ctx, func(yield func(chunkstore.Ref, error) bool) {
		for _, p := range pieces {
			if !yield(p, nil) {
				return
			}
		}
	})
	got, err := io.ReadAll(rd)
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%d bytes of %d, %v", len(got), want.Len(), err)
	}
	if err := rd.Close(); err != nil {
		t.Error(err)
	}
	if _, err := rd.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after Close: %v", err)
	}
}

// A reading that is cancelled does not look like one that has come to its end.
func TestReadCancelled(t *testing.T) {
	r := newRepository(t, mem.New(mem.Options{}), chunkstore.Options{})
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	refs, err := s.Split(t.Context(), chunkstore.Data, bytes.NewReader(noise(7, 100_000)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "test", nothing, chunkstore.Stream{}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		rd := r.Read(ctx, func(yield func(chunkstore.Ref, error) bool) {
			for _, ref := range refs {
				if !yield(ref, nil) {
					return
				}
			}
		})
		if b, err := io.ReadAll(rd); err == nil {
			t.Errorf("%d bytes and no error", len(b))
		} else if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Readings hold no more than a bounded number of windows together, and still none waits for another:
// of any number that nobody goes on reading, one more can be read to its end.
func TestReadsDoNotWaitForEachOther(t *testing.T) {
	r := newRepository(t, mem.New(mem.Options{}), chunkstore.Options{})
	content := noise(40, 40<<20)
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	refs, err := s.Split(t.Context(), chunkstore.Data, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), "test", nothing, chunkstore.Stream{}); err != nil {
		t.Fatal(err)
	}
	open := func() io.ReadCloser {
		return r.Read(t.Context(), func(yield func(chunkstore.Ref, error) bool) {
			for _, ref := range refs {
				if !yield(ref, nil) {
					return
				}
			}
		})
	}
	for range 12 {
		rd := open()
		defer rd.Close()
		if _, err := rd.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // what the first one held is free again for the second
		rd := open()
		got, err := io.ReadAll(rd)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A tree that was backed up for many nights has files side by side that lie in chunks of each of these
// nights. Reading it in order fetches none of them over and over.
func TestReadTakesTurns(t *testing.T) {
	store := mem.New(mem.Options{})
	r := newRepository(t, store, chunkstore.Options{})
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const nights, size, piece = 30, 1 << 20, 4096
	var ids []chunkstore.ID
	for n := range nights {
		id, err := s.Save(t.Context(), chunkstore.Data, noise(uint64(100+n), size))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	if err := s.Commit(t.Context(), "test", nothing, chunkstore.Stream{}); err != nil {
		t.Fatal(err)
	}
	counted := &fetched{Backend: store}
	r = reopen(t, counted, chunkstore.Options{})
	rd := r.Read(t.Context(), func(yield func(chunkstore.Ref, error) bool) {
		for at := 0; at < size; at += piece {
			for _, id := range ids {
				if !yield(chunkstore.Ref{ID: id, Offset: uint32(at), Length: piece}, nil) {
					return
				}
			}
		}
	})
	n, err := io.Copy(io.Discard, rd)
	if err != nil || n != nights*size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if err := rd.Close(); err != nil {
		t.Fatal(err)
	}
	if got := counted.bytes.Load(); got > 2*nights*size {
		t.Errorf("fetched %d bytes for chunks of %d", got, nights*size)
	}
}

// fetched counts the bytes that are got of a backend.
type fetched struct {
	chunkstore.Backend
	bytes atomic.Int64
}

func (f *fetched) Get(ctx context.Context, name string, off, n int64) ([]byte, error) {
	b, err := f.Backend.Get(ctx, name, off, n)
	f.bytes.Add(int64(len(b)))
	return b, err
}
