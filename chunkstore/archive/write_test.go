package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// pass is one WriteTree and what came of it.
type pass struct {
	raw     []byte
	entries []archive.Entry
	stats   archive.TreeStats
	notices []archive.Notice
}

func (p pass) records() iter.Seq2[archive.Entry, error] {
	return func(yield func(archive.Entry, error) bool) {
		for _, e := range p.entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (p pass) find(t *testing.T, path string) archive.Entry {
	t.Helper()
	for _, e := range p.entries {
		if e.Path == path {
			return e
		}
	}
	t.Fatalf("no record of %q", path)
	return archive.Entry{}
}

func (p pass) paths() []string {
	var all []string
	for _, e := range p.entries {
		all = append(all, e.Path)
	}
	return all
}

func write(t *testing.T, tr archive.Tree, s *store, opts archive.TreeOptions) pass {
	t.Helper()
	var b bytes.Buffer
	var p pass
	var err error
	opts.Note = func(n archive.Notice) { p.notices = append(p.notices, n) }
	if p.stats, err = archive.WriteTree(t.Context(), tr, s, &b, opts); err != nil {
		t.Fatal(err)
	}
	p.raw = b.Bytes()
	p.entries = decode(t, p.raw)
	if n := int64(len(p.entries)); n != p.stats.Entries {
		t.Errorf("%d records, counted %d", n, p.stats.Entries)
	}
	return p
}

// check compares what was recorded with what the tree holds.
func (p pass) check(t *testing.T, s *store, tr *tree) {
	t.Helper()
	for _, e := range p.entries {
		n := tr.nodes[e.Path]
		if n == nil {
			t.Errorf("record of %q, which is not in the tree", e.Path)
			continue
		}
		if e.Type == archive.Hardlink {
			n = tr.nodes[e.Link]
			e = p.find(t, e.Link)
		}
		if n.Type == archive.File && !bytes.Equal(s.data(t, e), n.data) {
			t.Errorf("%q: content differs", e.Path)
		}
	}
	if len(p.entries) != len(tr.nodes) {
		t.Errorf("%d records of %d nodes", len(p.entries), len(tr.nodes))
	}
}

// sample is a tree with files of all sizes.
func sample() *tree {
	nodes := []node{dir(""), dir("d"), dir("d/e")}
	for i := range 400 {
		nodes = append(nodes, file(fmt.Sprintf("d/small%03d", i), noise(uint64(i), 600+40*i)))
	}
	for i := range 40 {
		nodes = append(nodes, file(fmt.Sprintf("d/e/tiny%02d", i), noise(uint64(i), i*15)))
	}
	for i, n := range []int{512, 513, 128 << 10, 128<<10 + 1, 1 << 20, 3 << 20} {
		nodes = append(nodes, file(fmt.Sprintf("d/size%d", i), noise(uint64(1000+i), n)))
	}
	return newTree(nodes...)
}

func TestWriteTree(t *testing.T) {
	s, tr := newStore(), sample()
	var told atomic.Int64
	p := write(t, tr, s, archive.TreeOptions{Progress: func(n int64) { told.Add(n) }})
	p.check(t, s, tr)
	if len(p.notices) > 0 {
		t.Error(p.notices)
	}
	var bytes int64
	for _, n := range tr.nodes {
		bytes += n.Size
	}
	want := archive.TreeStats{
		Entries: int64(len(tr.nodes)), Bytes: bytes, ReadBytes: bytes,
		ReadFiles: int64(len(tr.nodes) - 4), New: int64(len(tr.nodes)), // 3 directories, one empty file
	}
	if d := cmp.Diff(want, p.stats); d != "" {
		t.Error(d)
	}
	if told.Load() != bytes {
		t.Errorf("progress told of %d bytes", told.Load())
	}
	if e := p.find(t, "d/size0"); len(e.Inline) != 512 {
		t.Errorf("512 bytes are not inline: %+v", e)
	}
	// 8.4 MB in 400 small files: bundles, not 400 chunks.
	if s.saves > 40+s.splits*80 || s.splits != 3 {
		t.Errorf("%d chunks saved, %d streams split", s.saves, s.splits)
	}
}

// The same tree gives the same bytes, however many read it.
func TestWriteTreeDeterministic(t *testing.T) {
	s, tr := newStore(), sample()
	want := write(t, tr, s, archive.TreeOptions{Workers: 1})
	for _, workers := range []int{2, 16} {
		if got := write(t, tr, newStore(), archive.TreeOptions{Workers: workers}); !bytes.Equal(want.raw, got.raw) {
			t.Errorf("%d workers give other records", workers)
		}
	}
}

func TestWriteTreeUnchanged(t *testing.T) {
	s, tr := newStore(), sample()
	first := write(t, tr, s, archive.TreeOptions{})
	tr.opened()
	saves := s.saves
	again := write(t, tr, s, archive.TreeOptions{Previous: first.records()})
	if o := tr.opened(); len(o) > 0 {
		t.Errorf("opened %v", o)
	}
	if s.saves != saves || !same(again.stats) || again.stats.ReadFiles != 0 {
		t.Errorf("%d saves more, %+v", s.saves-saves, again.stats)
	}
	if !bytes.Equal(first.raw, again.raw) {
		t.Error("other records of the same tree")
	}
	forced := write(t, tr, s, archive.TreeOptions{Previous: first.records(), Rescan: true})
	if len(tr.opened()) == 0 || !same(forced.stats) {
		t.Errorf("rescan: %+v", forced.stats)
	}
}

func TestWriteTreeOneChange(t *testing.T) {
	s, tr := newStore(), sample()
	first := write(t, tr, s, archive.TreeOptions{})
	tr.opened()
	for name, change := range map[string]func(n *node){
		"size":  func(n *node) { n.data = append(n.data, 'x') },
		"mtime": func(n *node) { n.data[0]++; n.MTime.Nsec++ },
		"ctime": func(n *node) { n.data[0]++; n.CTime.Nsec++ },
		"inode": func(n *node) { n.data[0]++; n.Ino += 1000 },
	} {
		for _, path := range []string{"d/small100", "d/size5", "d/e/tiny20"} {
			t.Run(name+" "+path, func(t *testing.T) {
				n := *tr.nodes[path]
				n.data = bytes.Clone(n.data)
				old := *tr.nodes[path]
				change(&n)
				tr.put(n)
				p := write(t, tr, s, archive.TreeOptions{Previous: first.records()})
				if d := cmp.Diff(map[string]int{path: 1}, tr.opened()); d != "" {
					t.Error("opened:", d)
				}
				if p.stats.Changed != 1 || p.stats.New+p.stats.Removed != 0 || same(p.stats) {
					t.Errorf("%+v", p.stats)
				}
				p.check(t, s, tr)
				tr.nodes[path] = &old
			})
		}
	}
}

// What changes one file of a bundle, or adds or takes one away, leaves the bundles elsewhere alone
// when everything is read anew.
func TestBundlesStable(t *testing.T) {
	tr := sample()
	before := newStore()
	write(t, tr, before, archive.TreeOptions{})
	for name, change := range map[string]func(){
		"changed": func() { tr.nodes["d/small200"].data[7]++ },
		"added":   func() { tr.put(file("d/small200a", noise(9999, 5000))) },
		"removed": func() { delete(tr.nodes, "d/small201") },
		"grown":   func() { tr.put(file("d/small202", noise(9998, 100<<10))) },
	} {
		t.Run(name, func(t *testing.T) {
			change()
			after := newStore()
			p := write(t, tr, after, archive.TreeOptions{})
			p.check(t, after, tr)
			fresh := 0
			for id := range after.chunks {
				if _, old := before.chunks[id]; !old {
					fresh++
				}
			}
			if fresh == 0 || fresh > 4 {
				t.Errorf("%d of %d chunks are new", fresh, len(after.chunks))
			}
			before = after
		})
	}
}

func TestWriteTreeChunkGone(t *testing.T) {
	s, tr := newStore(), sample()
	first := write(t, tr, s, archive.TreeOptions{})
	tr.opened()
	gone := first.find(t, "d/small100").Extents[0].Refs[0].ID
	s.gone[gone] = true
	delete(s.chunks, gone)
	p := write(t, tr, s, archive.TreeOptions{Previous: first.records()})
	p.check(t, s, tr)
	opened := tr.opened()
	if opened["d/small100"] != 1 {
		t.Error("what lay in the chunk was not read")
	}
	for path := range opened {
		if x := first.find(t, path).Extents; len(x) != 1 || x[0].Refs[0].ID != gone {
			t.Errorf("%s was read, and its chunk is there", path)
		}
	}
}

func TestWriteTreeRacy(t *testing.T) {
	start := time.Now()
	s, tr := newStore(), newTree(dir(""))
	for name, age := range map[string]time.Duration{"old": 25 * time.Millisecond, "racy": 15 * time.Millisecond, "future": -time.Hour} {
		at := start.Add(-age)
		n := file(name, noise(1, 1000))
		n.CTime = archive.Time{Sec: at.Unix(), Nsec: int32(at.Nanosecond())}
		tr.put(n)
	}
	first := write(t, tr, s, archive.TreeOptions{Start: start})
	for name, trusted := range map[string]bool{"old": true, "racy": false, "future": false} {
		if e := first.find(t, name); trusted != (e.CTime != archive.Time{}) {
			t.Errorf("%s: ctime %v", name, e.CTime)
		}
	}
	tr.opened()
	write(t, tr, s, archive.TreeOptions{Start: start, Previous: first.records()})
	if d := cmp.Diff(map[string]int{"racy": 1, "future": 1}, tr.opened()); d != "" {
		t.Error(d)
	}
}

func TestWriteTreeSparse(t *testing.T) {
	s := newStore()
	data := noise(5, 4<<20)
	sparse := func(path string, size int, holes ...[2]int64) node {
		n := file(path, bytes.Clone(data[:size]))
		n.holes = holes
		for _, h := range holes {
			clear(n.data[h[0] : h[0]+h[1]])
		}
		return n
	}
	tr := newTree(
		sparse("begin", 8192, [2]int64{0, 4096}),
		sparse("end", 8192, [2]int64{4096, 4096}),
		sparse("middle", 100<<10, [2]int64{4096, 4096}, [2]int64{20480, 8192}),
		sparse("only", 4096, [2]int64{0, 4096}),
		sparse("tiny", 300, [2]int64{0, 300}),
		sparse("large", 4<<20, [2]int64{4096, 1 << 20}, [2]int64{2 << 20, 2 << 20}),
		sparse("large only", 1<<20, [2]int64{0, 1 << 20}),
		sparse("split hole", 8192, [2]int64{0, 4096}, [2]int64{4096, 2048}),
	)
	p := write(t, tr, s, archive.TreeOptions{})
	p.check(t, s, tr)
	shape := map[string]string{}
	for _, e := range p.entries {
		for _, x := range e.Extents {
			if x.Hole {
				shape[e.Path] += fmt.Sprintf("-%d", x.Length)
			} else {
				shape[e.Path] += fmt.Sprintf("+%d", x.Length)
			}
		}
	}
	want := map[string]string{
		"begin": "-4096+4096", "end": "+4096-4096", "middle": "+4096-4096+12288-8192+73728", "only": "-4096",
		"tiny": "-300", "large": "+4096-1048576+1044480-2097152", "large only": "-1048576", "split hole": "-6144+2048",
	}
	if d := cmp.Diff(want, shape); d != "" {
		t.Error(d)
	}
	if p.stats.ReadBytes >= p.stats.Bytes/2 {
		t.Errorf("holes were read: %+v", p.stats)
	}
}

// A large file is cut in the same chunks whether its segments are read one by one or in parallel.
func TestWriteTreeSegments(t *testing.T) {
	if testing.Short() {
		t.Skip("130 MiB under the race detector take long")
	}
	big := file("big", noise(3, 130<<20))
	big.holes = [][2]int64{{60 << 20, 8 << 20}} // over the edge of a segment
	clear(big.data[60<<20 : 68<<20])
	tr := newTree(big, file("small", noise(1, 1000)))
	s1, s2 := newStore(), newStore()
	one := write(t, tr, s1, archive.TreeOptions{})
	if s1.splits != 3 || tr.opened()["big"] != 1 {
		t.Errorf("%d segments", s1.splits)
	}
	many := write(t, rangeTree{tr}, s2, archive.TreeOptions{Workers: 3})
	if s2.splits != 3 || tr.opened()["big"] != 3 {
		t.Errorf("%d segments", s2.splits)
	}
	one.check(t, s1, tr)
	if !bytes.Equal(one.raw, many.raw) {
		t.Error("other records")
	}
}

func TestWriteTreeTorn(t *testing.T) {
	touch := func(n *node) { n.CTime.Nsec++ }
	once := func(path string, size int, f func(n *node)) node {
		n := file(path, noise(1, size))
		n.onRead = f
		return n
	}
	var ever func(n *node)
	ever = func(n *node) { n.CTime.Nsec++; n.onRead = ever }
	s := newStore()
	tr := newTree(
		dir(""),
		once("ever", 1000, ever),
		once("large", 200<<10, touch),
		once("large shrinks", 200<<10, func(n *node) { n.data = n.data[:1000]; n.Size = 1000; n.CTime.Nsec++ }),
		once("small", 1000, func(n *node) { n.data[0]++; n.CTime.Nsec++ }),
		once("small grows", 1000, func(n *node) { n.data = append(n.data, 1, 2, 3); n.Size = 1003; n.MTime.Nsec++ }),
		once("small to large", 1000, func(n *node) { n.data = noise(2, 200<<10); n.Size = 200 << 10; n.MTime.Nsec++ }),
	)
	p := write(t, tr, s, archive.TreeOptions{})
	want := []archive.Notice{
		{Path: "ever", What: archive.Torn},
		{Path: "large", What: archive.Torn},
		{Path: "large shrinks", What: archive.Torn},
		{Path: "small to large", What: archive.Torn},
	}
	if d := cmp.Diff(want, p.notices); d != "" || p.stats.Torn != 4 {
		t.Error(d, p.stats)
	}
	for _, e := range p.entries {
		if e.Type != archive.File {
			continue
		}
		torn := slices.ContainsFunc(want, func(n archive.Notice) bool { return n.Path == e.Path })
		if e.Torn != torn || e.CTime != (archive.Time{}) {
			t.Errorf("%s: torn %v, ctime %v", e.Path, e.Torn, e.CTime)
		}
	}
	for _, path := range []string{"small", "small grows"} {
		if !bytes.Equal(s.data(t, p.find(t, path)), tr.nodes[path].data) {
			t.Errorf("%s is not what it was when it held still", path)
		}
	}
	tr.opened()
	write(t, tr, s, archive.TreeOptions{Previous: p.records()})
	if o := tr.opened(); len(o) != 6 {
		t.Errorf("the next pass opened only %v", o)
	}
}

// same reports whether a pass found the tree as the one before had it.
func same(s archive.TreeStats) bool {
	return s.New+s.Changed+s.Removed+s.Vanished+s.Unreadable == 0
}

func TestWriteTreeLeavesOut(t *testing.T) {
	gone := func(n *node) error { return fmt.Errorf("open: %w", archive.ErrVanished) }
	a, b, c := file("a", noise(1, 1000)), file("b", noise(1, 300<<10)), file("c", noise(1, 100))
	a.onOpen, b.onOpen, c.onOpen = gone, gone, gone
	denied := errors.New("input/output error")
	d, e := file("d", noise(1, 1000)), file("e", noise(1, 200<<10))
	d.readErr, e.readErr = errors.Join(archive.ErrUnreadable, denied), errors.Join(archive.ErrUnreadable, denied)
	tr, s := newTree(dir(""), a, b, c, d, e, file("f", noise(2, 1000))), newStore()
	p := write(t, tr, s, archive.TreeOptions{})
	if d := cmp.Diff([]string{"", "f"}, p.paths()); d != "" {
		t.Error(d)
	}
	var got []string
	for _, n := range p.notices {
		got = append(got, n.Path+" "+n.What.String())
		if (n.What == archive.Unreadable) != errors.Is(n.Err, denied) {
			t.Errorf("%+v", n)
		}
	}
	want := []string{
		"a vanished while the tree was read", "b vanished while the tree was read", "c vanished while the tree was read",
		"d cannot be read", "e cannot be read",
	}
	if d := cmp.Diff(want, got); d != "" || p.stats.Vanished != 3 || p.stats.Unreadable != 2 || same(p.stats) {
		t.Error(d, p.stats)
	}
}

// Anybody in a container can make a path that is longer than a record takes. It must not keep the
// rest from being stored.
func TestWriteTreeLeavesOutLongPaths(t *testing.T) {
	long := strings.Repeat(strings.Repeat("d", 250)+"/", 66) + "end"
	tr, s := newTree(dir(""), file("a", noise(1, 10)), file(long, noise(2, 10)), file("z", noise(3, 10))), newStore()
	p := write(t, tr, s, archive.TreeOptions{})
	if d := cmp.Diff([]string{"", "a", "z"}, p.paths()); d != "" || p.stats.Unreadable != 1 {
		t.Error(d, p.stats)
	}
}

func TestWriteTreeHardLinks(t *testing.T) {
	linked := func(path string, ino uint64, n uint32, typ archive.Type) node {
		e := archive.Entry{Path: path, Type: typ, Mode: 0o600, Ino: ino, Dev: 7, Nlink: n}
		if typ == archive.Symlink {
			e.Link = "target"
		}
		nd := node{Entry: e}
		if typ == archive.File {
			nd.data = noise(ino, 2000)
		}
		return nd
	}
	other := linked("z other device", 1, 2, archive.File)
	other.Dev = 8
	tr := newTree(
		dir(""),
		linked("a", 1, 3, archive.File), linked("b", 1, 3, archive.File), linked("c", 1, 3, archive.File),
		linked("d", 2, 2, archive.FIFO), linked("e", 2, 2, archive.FIFO),
		linked("f", 3, 2, archive.Symlink), linked("g", 3, 2, archive.Symlink),
		linked("w1", 4, 2, archive.Whiteout), linked("w2", 4, 2, archive.Whiteout),
		linked("x", 5, 2, archive.Dir), linked("y", 5, 2, archive.Dir),
		linked("y1", 6, 1, archive.File), linked("y2", 6, 1, archive.File),
		other,
	)
	s := newStore()
	p := write(t, tr, s, archive.TreeOptions{})
	got := map[string]string{}
	for _, e := range p.entries {
		if e.Type == archive.Hardlink {
			got[e.Path] = e.Link
		}
	}
	if d := cmp.Diff(map[string]string{"b": "a", "c": "a", "e": "d", "g": "f"}, got); d != "" {
		t.Error(d)
	}
	if o := tr.opened(); o["a"] != 1 || o["b"]+o["c"] != 0 {
		t.Errorf("opened %v", o)
	}
	p.check(t, s, tr)
}

// The first name of a file vanishes between walk and read: the next one takes its place.
func TestWriteTreeFirstNameVanishes(t *testing.T) {
	for _, size := range []int{0, 100, 1000, 200 << 10} {
		var nodes []node
		for _, path := range []string{"a", "b", "c", "d"} {
			n := file(path, noise(1, size))
			n.Ino, n.Nlink, n.Dev = 5, 4, 1
			if path < "c" {
				n.onOpen = func(*node) error { return archive.ErrVanished }
			}
			nodes = append(nodes, n)
		}
		tr, s := newTree(nodes...), newStore()
		p := write(t, tr, s, archive.TreeOptions{})
		first := "c"
		if size == 0 {
			first = "a" // nothing of it needs to be read
		}
		for _, e := range p.entries {
			if e.Path == first && (e.Type != archive.File || !bytes.Equal(s.data(t, e), nodes[0].data)) ||
				e.Path != first && (e.Type != archive.Hardlink || e.Link != first) {
				t.Errorf("size %d: %+v", size, e)
			}
		}
		if want := 4 - int(first[0]-'a'); len(p.entries) != want {
			t.Errorf("size %d: %d names", size, len(p.entries))
		}
	}
}

func TestWriteTreeRemoved(t *testing.T) {
	s, tr := newStore(), sample()
	first := write(t, tr, s, archive.TreeOptions{})
	for _, p := range []string{"d/e/tiny00", "d/small000", "d/small399"} {
		delete(tr.nodes, p)
	}
	tr.put(file("a new one", nil))
	n := *tr.nodes["d"]
	n.Mode = 0o700
	tr.put(n)
	p := write(t, tr, s, archive.TreeOptions{Previous: first.records()})
	if p.stats.Removed != 3 || p.stats.New != 1 || p.stats.Changed != 1 {
		t.Errorf("%+v", p.stats)
	}
}

func TestWriteTreePreviousFails(t *testing.T) {
	s, tr := newStore(), sample()
	first := write(t, tr, s, archive.TreeOptions{})
	boom := errors.New("boom")
	half := func(yield func(archive.Entry, error) bool) {
		for i, e := range first.entries {
			if i == 100 {
				yield(archive.Entry{}, boom)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
	tr.opened()
	p := write(t, tr, s, archive.TreeOptions{Previous: half})
	p.check(t, s, tr)
	if len(p.notices) != 1 || p.notices[0].What != archive.NoPrevious || !errors.Is(p.notices[0].Err, boom) {
		t.Error(p.notices)
	}
	if o := len(tr.opened()); o == 0 || o > len(first.entries)-100 {
		t.Errorf("opened %d files", o)
	}
}

// Each error ends the writing and comes out, and nothing is left running.
func TestWriteTreeErrors(t *testing.T) {
	boom := errors.New("boom")
	for name, set := range map[string]func(tr *tree, s *store){
		"walk":  func(tr *tree, _ *store) { tr.fail = boom },
		"open":  func(tr *tree, _ *store) { tr.nodes["d/small200"].onOpen = func(*node) error { return boom } },
		"read":  func(tr *tree, _ *store) { tr.nodes["d/small200"].readErr = boom },
		"large": func(tr *tree, _ *store) { tr.nodes["d/size5"].readErr = boom },
		"save":  func(_ *tree, s *store) { s.fail = boom },
	} {
		t.Run(name, func(t *testing.T) {
			tr, s := sample(), newStore()
			set(tr, s)
			var b bytes.Buffer
			_, err := archive.WriteTree(t.Context(), tr, s, &b, archive.TreeOptions{})
			if !errors.Is(err, boom) {
				t.Errorf("got %v", err)
			}
			if _, err := decodeAll(b.Bytes()); err == nil {
				t.Error("the records are complete")
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	tr := sample()
	tr.nodes["d/small200"].onOpen = func(*node) error { cancel(); return nil }
	if _, err := archive.WriteTree(ctx, tr, newStore(), &bytes.Buffer{}, archive.TreeOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	link := newTree(node{Entry: archive.Entry{Path: "a", Type: archive.Hardlink, Link: "b"}})
	if _, err := archive.WriteTree(t.Context(), link, newStore(), &bytes.Buffer{}, archive.TreeOptions{}); err == nil {
		t.Error("a tree with a hard link was accepted")
	}
}

// Passes as a quiesced backup does them: to a spool, again to a spool, and last to the snapshot.
func TestWriteTreePasses(t *testing.T) {
	s, tr := newStore(), sample()
	var prev iter.Seq2[archive.Entry, error]
	for i := range 3 {
		spool, err := archive.NewSpool()
		if err != nil {
			t.Fatal(err)
		}
		stats, err := archive.WriteTree(t.Context(), tr, s, spool, archive.TreeOptions{Previous: prev})
		if err != nil {
			t.Fatal(err)
		}
		if want := []int64{445, 1, 1}[i]; stats.ReadFiles != want {
			t.Errorf("pass %d read %d files", i, stats.ReadFiles)
		}
		prev = spool.Records()
		tr.put(file("d/small100", noise(uint64(100+i), 3000+i)))
	}
	last := write(t, tr, s, archive.TreeOptions{Previous: prev})
	last.check(t, s, tr)
	full := newStore()
	whole := write(t, tr, full, archive.TreeOptions{})
	strip := func(es []archive.Entry) []string {
		var all []string
		for _, e := range es {
			all = append(all, fmt.Sprint(e.Path, e.Type, e.Size, e.MTime))
		}
		return all
	}
	if d := cmp.Diff(strip(whole.entries), strip(last.entries)); d != "" {
		t.Error(d)
	}
}

// A great many nodes between two small files do not pile up behind their bundle.
func TestWriteTreeLongWait(t *testing.T) {
	nodes := []node{file("a", noise(1, 1000))}
	for i := range 20_000 {
		nodes = append(nodes, dir(fmt.Sprintf("d%05d", i)))
	}
	nodes = append(nodes, file("z", noise(2, 1000)))
	tr, s := newTree(nodes...), newStore()
	p := write(t, tr, s, archive.TreeOptions{})
	p.check(t, s, tr)
	if s.saves != 2 {
		t.Errorf("%d bundles", s.saves)
	}
}

func TestWriteTreeKeepsNewMetadata(t *testing.T) {
	s, tr := newStore(), newTree(dir(""), file("f", noise(1, 1000)))
	first := write(t, tr, s, archive.TreeOptions{})
	tr.nodes["f"].Xattrs = []archive.Xattr{{Name: "user.a", Value: []byte("b")}}
	p := write(t, tr, s, archive.TreeOptions{Previous: first.records()})
	if e := p.find(t, "f"); len(e.Xattrs) != 1 || p.stats.Changed != 1 {
		t.Errorf("%+v", e)
	}
}

func TestNames(t *testing.T) {
	var nodes []node
	for _, p := range []string{"", "\xff\xfe", "new\nline", " ", "-rf", "*", "日本", strings.Repeat("l", 255), "a", "a/..b", "a/...", "a/.wh.x"} {
		if p == "" || p == "a" {
			nodes = append(nodes, dir(p))
			continue
		}
		nodes = append(nodes, file(p, []byte(p)))
	}
	tr, s := newTree(nodes...), newStore()
	p := write(t, tr, s, archive.TreeOptions{})
	p.check(t, s, tr)
	if d := cmp.Diff(slices.SortedFunc(maps.Keys(tr.nodes), archive.Compare), p.paths()); d != "" {
		t.Error(d)
	}
}

func BenchmarkWriteTree(b *testing.B) {
	var nodes []node
	for i := range 20_000 {
		nodes = append(nodes, file(fmt.Sprintf("d%03d/f%05d", i/100, i), noise(uint64(i%50), 2000)))
	}
	tr := newTree(nodes...)
	s := &discard{}
	spool, err := archive.NewSpool()
	if err != nil {
		b.Fatal(err)
	}
	if _, err := archive.WriteTree(b.Context(), tr, s, spool, archive.TreeOptions{}); err != nil {
		b.Fatal(err)
	}
	prev := spool.Records()
	for name, p := range map[string]iter.Seq2[archive.Entry, error]{"read": nil, "unchanged": prev} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := archive.WriteTree(b.Context(), tr, s, discardWriter{}, archive.TreeOptions{Previous: p}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(nodes)), "ns/entry")
		})
	}
}

// discard is a Saver that keeps nothing, to measure what is not its own time.
type discard struct{}

func (*discard) Save(context.Context, chunkstore.Kind, []byte) (chunkstore.ID, error) {
	return id(1), nil
}

func (*discard) Split(_ context.Context, _ chunkstore.Kind, r io.Reader) ([]chunkstore.Ref, error) {
	n, err := io.Copy(io.Discard, r)
	if n == 0 {
		return nil, err
	}
	return []chunkstore.Ref{{ID: id(1), Length: uint32(n)}}, err
}

func (*discard) Keep(...chunkstore.ID) bool { return true }

type discardWriter struct{}

func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
