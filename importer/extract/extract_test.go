package extract_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer/extract"
)

// needRoot passes a test over that only root can run.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("HAKOBUNE_TEST_REQUIRE") != "" {
		t.Fatal("not root")
	}
	t.Skip("not root")
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// node is a record with its data: what of the content lies in data extents.
type node struct {
	archive.Entry
	Data string
}

// tree is a tree in memory, as a source of records.
type tree struct {
	nodes []node
	data  strings.Reader
}

func (s *tree) Next() (archive.Entry, error) {
	if len(s.nodes) == 0 {
		return archive.Entry{}, io.EOF
	}
	n := s.nodes[0]
	s.nodes = s.nodes[1:]
	s.data.Reset(n.Data)
	return n.Entry, nil
}

func (s *tree) Read(p []byte) (int, error) { return s.data.Read(p) }

func fillDir(t testing.TB, nodes []node, dir string, opts extract.Options) extract.Stats {
	t.Helper()
	if opts.Note == nil {
		opts.Note = func(path, what string) { t.Errorf("note: %q: %s", path, what) }
	}
	stats, err := extract.Tree(t.Context(), &tree{nodes: nodes}, dir, opts)
	ok(t, err)
	return stats
}

// capture walks a directory and reads its files. What is of no meaning elsewhere is left out.
func capture(t testing.TB, dir string, opts exporter.DirOptions) []node {
	t.Helper()
	d, err := exporter.OpenDir(dir, opts)
	ok(t, err)
	defer d.Close()
	var nodes []node
	first := map[uint64]string{}
	ok(t, d.Walk(t.Context(), func(e archive.Entry) error {
		ino, links := e.Ino, e.Nlink
		e.CTime, e.Ino, e.Dev, e.Nlink = archive.Time{}, 0, 0, 0
		n := node{Entry: e}
		switch {
		case e.Type != archive.Dir && links > 1 && first[ino] != "":
			n.Entry = archive.Entry{Path: e.Path, Type: archive.Hardlink, Link: first[ino]}
		case e.Type == archive.File:
			n.Data, n.Extents = readFile(t, d, e)
		}
		if links > 1 && first[ino] == "" {
			first[ino] = e.Path
		}
		nodes = append(nodes, n)
		return nil
	}))
	return nodes
}

func readFile(t testing.TB, d archive.Tree, e archive.Entry) (string, []archive.Extent) {
	t.Helper()
	c, err := d.Open(t.Context(), e)
	ok(t, err)
	defer c.Close()
	var data strings.Builder
	var extents []archive.Extent
	for {
		n, hole, err := c.Next()
		if err == io.EOF {
			return data.String(), extents
		}
		ok(t, err)
		extents = append(extents, archive.Extent{Length: n, Hole: hole})
		_, err = io.Copy(&data, c)
		ok(t, err)
	}
}

const block = 64 << 10

// An ACL that gives user 1000 more, as the kernel stores it, and a capability of a file.
var (
	acl        = []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
	capability = []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
)

// sample is a tree with everything that a file system of Linux can hold. The extents are those that
// a walk of it gives.
func sample() []node {
	at := archive.Time{Sec: 1234567890, Nsec: 123456789}
	data := func(n int64) []archive.Extent { return []archive.Extent{{Length: n}} }
	nodes := []node{
		{Entry: archive.Entry{Path: "\xff\xfe not utf-8\n", Type: archive.File, Mode: 0o644, Size: 1, Extents: data(1)}, Data: "x"},
		{Entry: archive.Entry{Path: "acl", Type: archive.File, Mode: 0o674, Xattrs: []archive.Xattr{
			{Name: "system.posix_acl_access", Value: acl},
			{Name: "user.empty", Value: []byte{}},
			{Name: "user.n", Value: bytes.Repeat([]byte("v"), 1000)},
		}}},
		{Entry: archive.Entry{Path: "block", Type: archive.BlockDevice, Mode: 0o660, Rdev: unix.Mkdev(259, 1_000_000), UID: 3}},
		{Entry: archive.Entry{Path: "capable", Type: archive.File, Mode: 0o755, UID: 9, Size: 3, Extents: data(3), Xattrs: []archive.Xattr{
			{Name: "security.capability", Value: capability},
			{Name: "trusted.t", Value: []byte("kept")},
		}}, Data: "cap"},
		{Entry: archive.Entry{Path: "char", Type: archive.CharDevice, Mode: 0o666, Rdev: unix.Mkdev(1, 3), Xattrs: []archive.Xattr{{Name: "trusted.dev", Value: []byte("d")}}}},
		{Entry: archive.Entry{Path: "dir", Type: archive.Dir, Mode: 0o1777, UID: 4_000_000_000, GID: 65537, MTime: archive.Time{Sec: 1, Nsec: 1}, Xattrs: []archive.Xattr{
			{Name: "system.posix_acl_default", Value: acl},
			{Name: "user.d", Value: []byte("d")},
		}}},
		{Entry: archive.Entry{Path: "dir/empty", Type: archive.Dir}},
		{Entry: archive.Entry{Path: "dir/file", Type: archive.File, Mode: 0o600, Size: 4, Extents: data(4)}, Data: "file"},
		{Entry: archive.Entry{Path: "dir/sgid", Type: archive.Dir, Mode: 0o2555, GID: 12}},
		{Entry: archive.Entry{Path: "dir/sgid/file", Type: archive.File, Mode: 0o604, GID: 13}},
		{Entry: archive.Entry{Path: "dir/two", Type: archive.Hardlink, Link: "capable"}},
		{Entry: archive.Entry{Path: "dir!", Type: archive.File, Mode: 0o400}},
		{Entry: archive.Entry{Path: "fifo", Type: archive.FIFO, Mode: 0o2640}},
		{Entry: archive.Entry{Path: "hole", Type: archive.File, Mode: 0o600, Size: 1 << 40, Extents: []archive.Extent{{Length: 1 << 40, Hole: true}}}},
		{Entry: archive.Entry{Path: "holes", Type: archive.File, Mode: 0o600, Size: 5*block + 1, Extents: []archive.Extent{
			{Length: block, Hole: true}, {Length: block}, {Length: 2 * block, Hole: true}, {Length: block + 1},
		}}, Data: strings.Repeat("d", 2*block+1)},
		{Entry: archive.Entry{Path: "large", Type: archive.File, Mode: 0o600, Size: 1 << 20, Extents: data(1 << 20)}, Data: strings.Repeat("l", 1<<20)},
		{Entry: archive.Entry{Path: "link1", Type: archive.Symlink, Mode: 0o777, UID: 5, Link: strings.Repeat("../", 200) + "\xff", Xattrs: []archive.Xattr{{Name: "trusted.l", Value: []byte("l")}}}},
		{Entry: archive.Entry{Path: "link2", Type: archive.Hardlink, Link: "link1"}},
		{Entry: archive.Entry{Path: strings.Repeat("n", 255), Type: archive.File, Mode: 0o4711, UID: 4_000_000_000, GID: 2}},
		{Entry: archive.Entry{Path: "old", Type: archive.File, Mode: 0o000, MTime: archive.Time{Sec: -1_000_000_000, Nsec: 1}}},
		{Entry: archive.Entry{Path: "pipe2", Type: archive.Hardlink, Link: "fifo"}},
		{Entry: archive.Entry{Path: "socket", Type: archive.Socket, Mode: 0o700, UID: 1}},
		{Entry: archive.Entry{Path: "suid", Type: archive.File, Mode: 0o6755, UID: 1, GID: 1}},
		{Entry: archive.Entry{Path: "tail", Type: archive.File, Mode: 0o600, Size: 3 * block, Extents: []archive.Extent{{Length: block}, {Length: 2 * block, Hole: true}}}, Data: strings.Repeat("t", block)},
		{Entry: archive.Entry{Type: archive.Dir, Mode: 0o750, UID: 7, GID: 8, Xattrs: []archive.Xattr{{Name: "user.root", Value: []byte("r")}}}},
	}
	for i := range nodes {
		if n := &nodes[i]; n.Type != archive.Hardlink && n.MTime == (archive.Time{}) {
			n.MTime = at
		}
	}
	slices.SortFunc(nodes, func(a, b node) int { return archive.Compare(a.Path, b.Path) })
	return nodes
}

func TestExtractFidelity(t *testing.T) {
	needRoot(t)
	want := sample()
	first, second := filepath.Join(t.TempDir(), "made"), t.TempDir()
	stats := fillDir(t, want, first, extract.Options{})
	got := capture(t, first, exporter.DirOptions{})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("extracted and walked (-want +got):\n%s", diff)
	}
	if wantStats := (extract.Stats{Entries: int64(len(want)), Bytes: 1 + 3 + 4 + 2*block + 1 + 1<<20 + block}); stats != wantStats {
		t.Errorf("stats %+v, want %+v", stats, wantStats)
	}
	fillDir(t, got, second, extract.Options{})
	if diff := cmp.Diff(want, capture(t, second, exporter.DirOptions{})); diff != "" {
		t.Errorf("once more (-want +got):\n%s", diff)
	}
	for name, most := range map[string]int64{"hole": 0, "holes": 2*block + 4096, "tail": block} {
		var st unix.Stat_t
		ok(t, unix.Stat(filepath.Join(second, name), &st))
		if used := st.Blocks * 512; used > most {
			t.Errorf("%s takes %d bytes of disk, not %d", name, used, most)
		}
	}
}

func TestExtractInline(t *testing.T) {
	dir := t.TempDir()
	fillDir(t, []node{
		dirNode(""),
		{Entry: archive.Entry{Path: "f", Type: archive.File, Mode: 0o600, Size: 6, Inline: []byte("inline"), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}, Data: "not to be read"},
	}, dir, extract.Options{})
	if got, err := os.ReadFile(filepath.Join(dir, "f")); err != nil || string(got) != "inline" {
		t.Errorf("%q, %v", got, err)
	}
}

// dirNode, fileNode and linkNode are plain records of this user.
func dirNode(path string) node {
	return node{Entry: archive.Entry{Path: path, Type: archive.Dir, Mode: 0o755, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
}

func fileNode(path, content string) node {
	n := node{Entry: archive.Entry{Path: path, Type: archive.File, Mode: 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}, Data: content}
	if n.Size = int64(len(content)); n.Size > 0 {
		n.Extents = []archive.Extent{{Length: n.Size}}
	}
	return n
}

func linkNode(path, target string) node {
	return node{Entry: archive.Entry{Path: path, Type: archive.Symlink, Link: target, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
}

// TestExtractDeep goes deeper than directories are kept open, and comes back to each.
func TestExtractDeep(t *testing.T) {
	dir := t.TempDir()
	nodes := []node{dirNode("")}
	path := ""
	const depth = 150
	for range depth {
		path = strings.TrimPrefix(path+"/"+strings.Repeat("d", 60), "/")
		nodes = append(nodes, dirNode(path))
	}
	for range depth {
		path = filepath.Dir(path)
		nodes = append(nodes, fileNode(strings.TrimPrefix(path+"/", "./")+"z", "z"))
	}
	fillDir(t, nodes, dir, extract.Options{})
	if diff := cmp.Diff(nodes, capture(t, dir, exporter.DirOptions{})); diff != "" {
		t.Error(diff)
	}
}

func TestExtractOverlay(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	for _, name := range []string{"lower/emptied/x", "lower/kept/gone", "upper/x", "work/x", "merged/x"} {
		ok(t, os.MkdirAll(filepath.Join(top, name), 0o755))
	}
	upper, merged := filepath.Join(top, "upper"), filepath.Join(top, "merged")
	want := []node{
		dirNode(""), dirNode("emptied"), dirNode("kept"),
		{Entry: archive.Entry{Path: "kept/gone", Type: archive.Whiteout}},
		fileNode("kept/new", "new"),
	}
	want[1].Opaque = true
	want[2].Xattrs = []archive.Xattr{
		{Name: "trusted.overlay.overlay.opaque", Value: []byte("y")},
		{Name: "user.overlay.opaque", Value: []byte("y")},
	}
	evil := slices.Clone(want)
	evil[2].Xattrs = append([]archive.Xattr{{Name: "trusted.overlay.redirect", Value: []byte("/emptied")}}, want[2].Xattrs...)
	var notes []string
	fillDir(t, evil, upper, extract.Options{
		Overlay: true, Existing: extract.Remove,
		Note: func(path, what string) { notes = append(notes, path+": "+what) },
	})
	if diff := cmp.Diff([]string{"kept: attribute trusted.overlay.redirect is not restored: it is the overlay driver's"}, notes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, capture(t, upper, exporter.DirOptions{Overlay: true})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	ok(t, unix.Mount("overlay", merged, "overlay", 0, "lowerdir="+top+"/lower,upperdir="+upper+",workdir="+top+"/work"))
	defer unix.Unmount(merged, unix.MNT_DETACH)
	var seen []string
	ok(t, fs.WalkDir(os.DirFS(merged), ".", func(path string, d fs.DirEntry, err error) error {
		seen = append(seen, path)
		return err
	}))
	if diff := cmp.Diff([]string{".", "emptied", "kept", "kept/new"}, seen); diff != "" {
		t.Errorf("mounted: %s", diff)
	}

	// In another directory a whiteout has no meaning, and neither has opaqueness.
	notes = nil
	fillDir(t, want, t.TempDir(), extract.Options{Note: func(path, what string) { notes = append(notes, path) }})
	if diff := cmp.Diff([]string{"kept/gone"}, notes); diff != "" {
		t.Error(diff)
	}
}

func TestExtractExisting(t *testing.T) {
	needRoot(t)
	want := []node{dirNode(""), dirNode("a"), fileNode("a/file", "new"), fileNode("b", "new"), linkNode("c", "new"), dirNode("d"), {Entry: archive.Entry{Path: "e", Type: archive.Hardlink, Link: "b"}}}
	outside := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o600))
	existing := []node{
		dirNode(""), fileNode("0", "old"), dirNode("a"), fileNode("a/!", "old"), linkNode("a/file", outside+"/file"), dirNode("a/z"), fileNode("a/z/f", "old"),
		dirNode("b"), dirNode("b/dir"), fileNode("b/dir/f", ""), fileNode("c", "old"), linkNode("d", outside), dirNode("e"), dirNode("lost+found"), fileNode("z", "old"),
	}
	existing[2].Xattrs = []archive.Xattr{{Name: "system.posix_acl_default", Value: acl}, {Name: "user.old", Value: []byte("old")}}
	for _, test := range []struct {
		existing extract.Existing
		kept     []string
	}{
		{extract.Keep, []string{"0", "a/!", "a/z", "a/z/f", "lost+found", "z"}},
		{extract.Remove, []string{"lost+found"}},
	} {
		dir := t.TempDir()
		fillDir(t, existing, dir, extract.Options{})
		fillDir(t, want, dir, extract.Options{Existing: test.existing})
		all := slices.Clone(want)
		for _, n := range existing {
			if slices.Contains(test.kept, n.Path) {
				all = append(all, n)
			}
		}
		slices.SortFunc(all, func(a, b node) int { return archive.Compare(a.Path, b.Path) })
		got := capture(t, dir, exporter.DirOptions{})
		for i := range got {
			if got[i].Type == archive.Symlink {
				got[i].Mode = 0
			}
		}
		if diff := cmp.Diff(all, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", test.existing, diff)
		}
		_, err := extract.Tree(t.Context(), &tree{nodes: want}, dir, extract.Options{})
		if !errors.Is(err, extract.ErrNotEmpty) {
			t.Errorf("into what is not empty: %v", err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(outside, "file")); err != nil || string(got) != "outside" {
		t.Errorf("outside: %q, %v", got, err)
	}
}

func TestExtractKeepRoot(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	ok(t, os.Chmod(dir, 0o710))
	ok(t, unix.Setxattr(dir, "user.mine", []byte("m"), 0))
	root := dirNode("")
	root.UID = 77
	fillDir(t, []node{root, fileNode("f", "f")}, dir, extract.Options{KeepRoot: true})
	got := capture(t, dir, exporter.DirOptions{})[0]
	if got.Mode != 0o710 || got.UID != 0 || len(got.Xattrs) != 1 {
		t.Errorf("the root became %+v", got)
	}
}

func TestExtractFull(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	ok(t, unix.Mount("none", dir, "tmpfs", 0, "size=256k"))
	defer unix.Unmount(dir, unix.MNT_DETACH)
	_, err := extract.Tree(t.Context(), &tree{nodes: []node{
		dirNode(""), fileNode("a", "small"), fileNode("b", strings.Repeat("b", 1<<20)), fileNode("c", ""),
	}}, dir, extract.Options{})
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), `"b": write`) {
		t.Errorf("no error of a full disk: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "a" {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestExtractCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := extract.Tree(ctx, &tree{nodes: []node{dirNode("")}}, t.TempDir(), extract.Options{})
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
