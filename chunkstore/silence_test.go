package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/crypto"
)

// history is a repository with every kind of object: three nights, one of them forgotten and collected; two more,
// another one forgotten, a record, a claim, and a collection that waits for a session. states are what the store showed on the way.
type history struct {
	now      *mem.Store
	states   []*mem.Store
	contents map[string][]byte // of the snapshots there are, by the name of the outcome
}

func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{now: mem.New(mem.Options{}), contents: map[string][]byte{}}
	host := t.TempDir()
	newRepository(t, h.now, chunkstore.Options{StateDir: host})
	seed := uint64(0)
	night := func() {
		content := words(seed, 600)
		seed++
		s, err := backup(t.Context(), reopen(t, h.now, chunkstore.Options{StateDir: host}), content)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range outcomes(t, reopen(t, h.now, chunkstore.Options{})) {
			if o.Session == s.ID() {
				h.contents[o.Name] = content
			}
		}
		h.states = append(h.states, h.now.Clone())
	}
	lose := func() {
		delete(h.contents, outcomes(t, reopen(t, h.now, chunkstore.Options{}))[0].Name)
		forget(t, h.now, 0)
		h.states = append(h.states, h.now.Clone())
	}
	collect := func() {
		r := reopen(t, h.now, chunkstore.Options{StateDir: host})
		chunkstore.SetAges(r, 0, 0, time.Hour, time.Hour)
		if _, err := r.Collect(t.Context(), collectOptions(r)); err != nil {
			t.Fatal(err)
		}
	}
	night()
	night()
	lose()
	collect()
	h.states = append(h.states, h.now.Clone())
	night()
	addRecord(t, reopen(t, h.now, chunkstore.Options{}), "drill", "of shop")
	if err := reopen(t, h.now, chunkstore.Options{}).Claim(t.Context(), "shop", 1, "home"); err != nil {
		t.Fatal(err)
	}
	lose()
	waiting, err := reopen(t, h.now, chunkstore.Options{}).Begin(t.Context(), chunkstore.BeginOptions{Host: "other"})
	if err != nil {
		t.Fatal(err)
	}
	collect()
	h.states = append(h.states, h.now.Clone())
	if err := waiting.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	night()
	return h
}

// readsBack returns an error unless the repository at b lists exactly the snapshots of h but for lacking, and
// each reads back.
func (h *history) readsBack(ctx context.Context, b chunkstore.Backend, lacking string) error {
	r, err := chunkstore.Open(ctx, b, password, chunkstore.Options{})
	if err != nil {
		return err
	}
	all, err := r.Outcomes(ctx)
	if err != nil {
		return err
	}
	want := len(h.contents)
	if lacking != "" {
		want--
	}
	if len(all) != want {
		return fmt.Errorf("%d snapshots, want %d", len(all), want)
	}
	for _, o := range all {
		if o.Err != nil {
			return o.Err
		}
		got, err := contentOf(ctx, r, o)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, h.contents[o.Name]) {
			return fmt.Errorf("snapshot %s reads back as something else", o.Name)
		}
	}
	return nil
}

func contentOf(ctx context.Context, r *chunkstore.Repository, o chunkstore.Outcome) ([]byte, error) {
	rd := r.Read(ctx, walk(r)(ctx, o))
	defer rd.Close()
	return io.ReadAll(rd)
}

// silence counts what was done to objects, and what of it nobody noticed.
type silence struct {
	tried, silent int
	harmless      int // nothing says so, and every snapshot is there and reads back
	unborn        int // the end of a writer's chain is gone: as if that backup had never been
}

func (s *silence) demand(t *testing.T, noticed bool, what string, args ...any) {
	t.Helper()
	if s.tried++; !noticed {
		s.silent++
		t.Errorf("in silence: "+what, args...)
	}
}

func (s *silence) print(t *testing.T, what string) {
	t.Helper()
	t.Logf("%s: %d tried, %d silent, %d harmless, %d as if never written", what, s.tried, s.silent, s.harmless, s.unborn)
}

func bytesOf(t *testing.T, b chunkstore.Backend, name string) []byte {
	t.Helper()
	object, err := b.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

// Every bit of every object is flipped, and every object cut at every length: whoever reads it whole refuses it,
// and of a pack also whoever reads a part of it. The config and the key slots are read by opening the repository.
func TestSilenceOfObjects(t *testing.T) {
	h := newHistory(t)
	r := reopen(t, h.now, chunkstore.Options{})
	var s silence
	stride := 1
	if testing.Short() {
		stride = 7 // of bits: every byte still has its turn
	}
	kinds := map[string]bool{}
	for _, name := range names(t, h.now) {
		if strings.HasPrefix(name, "probe/") {
			continue
		}
		kinds[name[:2]] = true
		object := bytesOf(t, h.now, name)
		verify := verifier(t, r, h.now, name)
		if err := verify(object); err != nil {
			t.Fatalf("%s untouched: %v", name, err)
		}
		for bit := 0; bit < 8*len(object); bit += stride {
			object[bit/8] ^= 1 << (bit % 8)
			s.demand(t, verify(object) != nil, "%s: bit %d", name, bit)
			object[bit/8] ^= 1 << (bit % 8)
		}
		for n := range object {
			s.demand(t, verify(object[:n]) != nil, "%s: cut to %d bytes", name, n)
		}
		s.demand(t, verify(append(bytes.Clone(object), 0)) != nil, "%s: a byte longer", name)
		if strings.HasPrefix(name, "p/") || strings.HasPrefix(name, "t/") {
			inRanges(t, r, name, object, &s)
		}
	}
	if len(kinds) != 12 {
		t.Errorf("kinds of objects: %v", kinds)
	}
	s.print(t, "bits and lengths")
}

// inRanges flips bits of a pack behind its header for one who reads a range.
func inRanges(t *testing.T, r *chunkstore.Repository, name string, object []byte, s *silence) {
	t.Helper()
	damaged := bytes.Clone(object)
	for bit := 8 * crypto.HeaderSize; bit < 8*len(object); bit += 5 {
		damaged[bit/8] ^= 1 << (bit % 8)
		s.demand(t, chunkstore.VerifyRange(r, name, damaged, object) != nil, "%s: a range, bit %d", name, bit)
		damaged[bit/8] ^= 1 << (bit % 8)
	}
}

// verifier returns what reads the object.
func verifier(t *testing.T, r *chunkstore.Repository, b *mem.Store, name string) func([]byte) error {
	if name != "config" && !strings.HasPrefix(name, "k/") {
		return func(object []byte) error { return chunkstore.Verify(r, name, object) }
	}
	c := b.Clone()
	return func(object []byte) error {
		if err := c.Put(t.Context(), name, object); err != nil {
			t.Fatal(err)
		}
		_, err := chunkstore.Open(t.Context(), c, password, chunkstore.Options{})
		return err
	}
}

// Through the whole of a check: some bits of every object, emptied objects, and every two swapped.
func TestSilenceOfChecks(t *testing.T) {
	h := newHistory(t)
	all := slices.DeleteFunc(names(t, h.now), func(n string) bool { return strings.HasPrefix(n, "probe/") })
	if noticed(t, h.now) {
		t.Fatal("the untouched repository is at fault")
	}
	var s silence
	rng := rand.New(rand.NewPCG(1, 2))
	bits, stride := 3, 1
	if testing.Short() {
		bits, stride = 1, 5
	}
	for i, name := range all {
		object := bytesOf(t, h.now, name)
		c := h.now.Clone()
		for range bits {
			bit := rng.IntN(8 * len(object))
			damaged := bytes.Clone(object)
			damaged[bit/8] ^= 1 << (bit % 8)
			replace(t, c, name, damaged)
			s.demand(t, noticed(t, c), "%s: bit %d", name, bit)
		}
		replace(t, c, name, nil)
		s.demand(t, noticed(t, c), "%s: emptied", name)
		for j := i + 1; j < len(all); j += stride {
			c := h.now.Clone()
			replace(t, c, name, bytesOf(t, h.now, all[j]))
			replace(t, c, all[j], object)
			s.demand(t, noticed(t, c), "%s and %s swapped", name, all[j])
		}
	}
	s.print(t, "checks")
}

// Every object vanishes, and every object that there was comes back, alone and together with all others of its
// time: a check notices, or every snapshot is there and reads back. What cannot be told from a backup that never
// was is the end of a writer's chain.
func TestSilenceOfReplays(t *testing.T) {
	h := newHistory(t)
	if err := h.readsBack(t.Context(), h.now, ""); err != nil {
		t.Fatal(err)
	}
	var s silence
	judge := func(c *mem.Store, lacking, what string) {
		t.Helper()
		heard, err := noticed(t, c), h.readsBack(t.Context(), c, "")
		switch {
		case !heard && err == nil:
			s.harmless++
		case !heard && lacking != "" && h.readsBack(t.Context(), c, lacking) == nil:
			s.unborn++
			heard = true
		}
		s.demand(t, heard || err == nil, "%s: %v", what, err)
	}
	present := names(t, h.now)
	snapshots := outcomes(t, reopen(t, h.now, chunkstore.Options{}))
	last := snapshots[len(snapshots)-1].Name
	for _, name := range present {
		c := h.now.Clone()
		if err := c.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		lacking := ""
		if name == last {
			lacking = name
		}
		judge(c, lacking, name+" deleted")
	}
	for n, state := range h.states {
		together := h.now.Clone()
		for _, name := range names(t, state) {
			if slices.Contains(present, name) {
				continue
			}
			old := bytesOf(t, state, name)
			c := h.now.Clone()
			if err := errors.Join(c.Put(t.Context(), name, old), together.Put(t.Context(), name, old)); err != nil {
				t.Fatal(err)
			}
			judge(c, "", fmt.Sprintf("%s of state %d is back", name, n))
		}
		judge(together, "", fmt.Sprintf("all of state %d is back", n))
	}
	s.print(t, "replays")
}

// A mark that cannot be read keeps nobody from reading, but no backup relies on what it may have condemned, and
// nothing is collected. Where another object of the mark tells what it condemned, backups go on.
func TestDamagedMarks(t *testing.T) {
	h := newHistory(t)
	ctx := t.Context()
	marks := slices.DeleteFunc(names(t, h.now), func(n string) bool { return !strings.HasPrefix(n, "g/") })
	if len(marks) < 4 {
		t.Fatalf("marks: %v", marks)
	}
	refused := 0
	for _, name := range marks {
		c := h.now.Clone()
		damaged := bytesOf(t, c, name)
		damaged[len(damaged)-1] ^= 1
		replace(t, c, name, damaged)
		if err := h.readsBack(ctx, c, ""); err != nil {
			t.Errorf("%s: a restore: %v", name, err)
		}
		if _, err := tryCollect(ctx, c); !errors.Is(err, chunkstore.ErrMarks) || !errors.Is(err, crypto.ErrDamaged) {
			t.Errorf("%s: a collection: %v", name, err)
		}
		report := check(t, reopen(t, c, chunkstore.Options{}))
		if len(report.Faults) != 1 || report.Faults[0].Object != name {
			t.Errorf("%s: a check: %+v", name, report.Faults)
		}
		_, err := backup(ctx, reopen(t, c, chunkstore.Options{}), words(9, 100))
		if alone := !slices.Contains(marks, name+"-done") && !strings.Contains(strings.TrimPrefix(name, "g/"), "-"); alone != errors.Is(err, chunkstore.ErrMarks) {
			t.Errorf("%s: a backup: %v", name, err)
		} else if alone {
			refused++
		}
	}
	if refused != 1 {
		t.Errorf("%d marks of %v kept a backup from running, want one", refused, marks)
	}
}
