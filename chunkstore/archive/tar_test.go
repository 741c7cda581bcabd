package archive_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// changes is what a read-write layer can hold, within what a tar can carry.
func changes() *tree {
	at := archive.Time{Sec: 1_763_000_000, Nsec: 123_456_789}
	nd := func(path string, typ archive.Type, change func(n *node)) node {
		n := node{Entry: archive.Entry{Path: path, Type: typ, Mode: 0o644, UID: 1000, GID: 4_000_000_000, MTime: at}}
		if change != nil {
			change(&n)
		}
		return n
	}
	capability := []archive.Xattr{{Name: "security.capability", Value: append([]byte{1, 0, 0, 2, 0, 4}, make([]byte, 14)...)}}
	linked := func(path string) node {
		return nd(path, archive.File, func(n *node) {
			n.data, n.Ino, n.Nlink, n.Dev, n.Xattrs = noise(5, 3000), 77, 2, 1, capability
		})
	}
	return newTree(
		nd("", archive.Dir, func(n *node) { n.Mode, n.UID, n.GID = 0o755, 0, 0 }),
		nd("block", archive.BlockDevice, func(n *node) { n.Rdev = unix.Mkdev(8, 300) }),
		nd("char", archive.CharDevice, func(n *node) { n.Rdev = unix.Mkdev(1<<20, 3) }),
		nd("dir", archive.Dir, func(n *node) { n.Mode = 0o3755 }),
		nd("dir/deleted", archive.Whiteout, func(n *node) { n.Entry = archive.Entry{Path: "dir/deleted", Type: archive.Whiteout} }),
		nd("dir/empty", archive.File, nil),
		nd("dir/link", archive.Symlink, func(n *node) { n.Link, n.Mode = strings.Repeat("l/", 300)+"\xff", 0o777 }),
		nd("fifo", archive.FIFO, func(n *node) { n.Mode = 0o4711 }),
		nd("file", archive.File, func(n *node) {
			n.data = noise(1, 300_000)
			n.Xattrs = append(slices.Clip(capability), archive.Xattr{Name: "user.\xff", Value: []byte("a=b\n\x00")})
		}),
		linked("hard1"), linked("hard2"),
		nd("inline", archive.File, func(n *node) { n.data = []byte("inline") }),
		nd("opaque", archive.Dir, func(n *node) { n.Opaque = true }),
		nd("opaque/f", archive.File, func(n *node) { n.data = noise(2, 1000) }),
		nd(strings.Repeat("n", 255)+"/\xff\xfe\n", archive.FIFO, nil),
	)
}

func writeTar(t *testing.T, tr archive.Tree, o archive.TarOptions) ([]byte, []archive.Lost) {
	t.Helper()
	r := newRepository(t)
	st, _ := save(t, r, tr, nil)
	rd := archive.OpenTree(t.Context(), r, st)
	defer rd.Close()
	var b bytes.Buffer
	lost, err := archive.WriteTar(t.Context(), rd, &b, o)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), lost
}

// headers returns a line for each entry, in order.
func headers(t *testing.T, b []byte) (all []*tar.Header, content map[string][]byte) {
	t.Helper()
	content = map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, content
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
		if content[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriteTarLayer(t *testing.T) {
	tr := changes()
	b, lost := writeTar(t, tr, archive.TarOptions{Layer: true})
	if len(lost) > 0 {
		t.Error(lost)
	}
	all, content := headers(t, b)
	var names []string
	for _, h := range all {
		names = append(names, string(h.Typeflag)+" "+h.Name)
	}
	long := strings.Repeat("n", 255) + "/\xff\xfe\n"
	want := []string{
		"5 ./", "4 block", "3 char", "5 dir/", "0 dir/.wh.deleted", "0 dir/empty", "2 dir/link", "6 fifo", "0 file",
		"0 hard1", "1 hard2", "0 inline", "6 " + long, "5 opaque/", "0 opaque/.wh..wh..opq", "0 opaque/f",
	}
	if d := cmp.Diff(want, names); d != "" {
		t.Fatal(d)
	}
	for _, h := range all {
		if strings.Contains(h.Name, ".wh.") {
			continue
		}
		n := tr.nodes[strings.Trim(strings.TrimPrefix(h.Name, "./"), "/")]
		if h.Mode != int64(n.Mode) || h.Uid != int(n.UID) || h.Gid != int(n.GID) || !h.ModTime.Equal(time.Unix(n.MTime.Sec, int64(n.MTime.Nsec))) {
			t.Errorf("%s: mode %o, owner %d:%d, time %v", h.Name, h.Mode, h.Uid, h.Gid, h.ModTime)
		}
		if h.Typeflag != tar.TypeLink && !bytes.Equal(content[h.Name], n.data) {
			t.Errorf("%s: content differs", h.Name)
		}
		for _, x := range n.Xattrs {
			if got := h.PAXRecords["SCHILY.xattr."+x.Name]; got != string(x.Value) {
				t.Errorf("%s: %s = %q", h.Name, x.Name, got)
			}
		}
	}
	again, _ := writeTar(t, tr, archive.TarOptions{Layer: true})
	if !bytes.Equal(b, again) {
		t.Error("another tar of the same tree")
	}
}

func TestWriteTarLost(t *testing.T) {
	plain := func(path string, typ archive.Type) node {
		return node{Entry: archive.Entry{Path: path, Type: typ, Mode: 0o644}}
	}
	linked := func(path string, ino uint64, typ archive.Type) node {
		n := plain(path, typ)
		n.Ino, n.Nlink, n.Dev = ino, 2, 1
		return n
	}
	at := func(path string, sec int64) node {
		n := plain(path, archive.File)
		n.MTime = archive.Time{Sec: sec, Nsec: 5}
		return n
	}
	xattr := func(path string, xs ...archive.Xattr) node {
		n := plain(path, archive.File)
		n.Xattrs = xs
		return n
	}
	opaque := plain("opaque", archive.Dir)
	opaque.Opaque = true
	dev := plain("zero", archive.CharDevice)
	far := plain("far", archive.BlockDevice)
	far.Rdev = unix.Mkdev(1<<21, 0)
	var large []archive.Xattr
	for _, name := range []string{"user.a", "user.b", "user.c"} {
		large = append(large, archive.Xattr{Name: name, Value: noise(1, 60_000)})
	}
	for i := range 20 {
		large = append(large, archive.Xattr{Name: "user.d" + string(rune('a'+i)), Value: noise(2, 60_000)})
	}
	root := dir("")
	root.Mode = 0o700
	tr := newTree(
		root, xattr("xe", archive.Xattr{Name: "user.e"}), plain(".wh.dir", archive.Dir), plain(".wh.dir/f", archive.File), plain("a.wh.b", archive.File),
		far, linked("s1", 50, archive.Socket), linked("s2", 50, archive.Socket),
		linked(".wh.first", 51, archive.File), linked("second", 51, archive.File),
		at("old", -1), at("oldest", math.MinInt64/2), opaque, plain("gone", archive.Whiteout), plain(".wh.gone", archive.Whiteout),
		xattr("x", archive.Xattr{Name: "user.a=b", Value: []byte("c")}, archive.Xattr{Name: "user.b", Value: []byte("d")}),
		xattr("xs", large...), xattr("xt", archive.Xattr{Name: "trusted.t", Value: []byte("e")}), dev,
	)
	common := map[string]string{
		"far": "device number", "s1": "socket", "s2": "hard link to what is left out",
		"x": "extended attribute user.a=b, for its name", "xe": "extended attribute user.e, which has no value", "xs": "extended attribute user.dt, for its size",
	}
	layer := map[string]string{
		"":        "owner, mode and attributes of the root directory",
		".wh.dir": "name that a layer takes for a whiteout", ".wh.dir/f": "name that a layer takes for a whiteout",
		".wh.first": "name that a layer takes for a whiteout", "second": "hard link to what is left out",
		".wh.gone": "name that a layer takes for a whiteout", "old": "time before 1970", "oldest": "time before 1970",
		"zero": "device 0:0, which a layer takes for a whiteout",
		"xt":   "extended attribute trusted.t, which not every engine takes",
	}
	archived := map[string]string{".wh.gone": "whiteout", "gone": "whiteout", "opaque": "that it hides what lies below"}
	for _, c := range []struct {
		o    archive.TarOptions
		more map[string]string
	}{{archive.TarOptions{Layer: true}, layer}, {archive.TarOptions{}, archived}} {
		b, lost := writeTar(t, tr, c.o)
		got := map[string]string{}
		for _, l := range lost {
			got[l.Path] = l.Why
		}
		want := maps.Clone(common)
		maps.Copy(want, c.more)
		if d := cmp.Diff(want, got); d != "" {
			t.Error(d)
		}
		for _, h := range first(headers(t, b)) {
			if c.o.Layer && strings.Contains("/"+h.Name, "/.wh.") && h.Name != ".wh.gone" && h.Name != "opaque/.wh..wh..opq" {
				t.Errorf("%s is in the layer", h.Name)
			}
			if h.Name == "old" && h.ModTime.Unix() != map[bool]int64{true: 0, false: -1}[c.o.Layer] {
				t.Errorf("%s: %v", h.Name, h.ModTime)
			}
		}
	}
}

func first[A, B any](a A, _ B) A { return a }

// A tar of a tree makes the same tree again.
func TestTarTreeRoundTrip(t *testing.T) {
	tr := changes()
	b, _ := writeTar(t, tr, archive.TarOptions{Layer: true})
	got, err := archive.NewTarTree(iotest.HalfReader(bytes.NewReader(b)), archive.TarTreeOptions{Layer: true, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	s1, s2 := newStore(), newStore()
	want, have := write(t, tr, s1, archive.TreeOptions{}), write(t, got, s2, archive.TreeOptions{})
	for _, p := range []pass{want, have} {
		for i := range p.entries {
			p.entries[i].CTime, p.entries[i].Ino = archive.Time{}, 0
		}
	}
	if d := cmp.Diff(want.entries, have.entries); d != "" {
		t.Error(d)
	}
	if len(have.notices) > 0 {
		t.Error(have.notices)
	}
	if d := cmp.Diff(slices.Sorted(maps.Keys(s1.chunkNames())), slices.Sorted(maps.Keys(s2.chunkNames()))); d != "" {
		t.Error("other chunks", d)
	}
}

func (s *store) chunkNames() map[string]bool {
	names := map[string]bool{}
	for id := range s.chunks {
		names[id.String()] = true
	}
	return names
}

// odd makes a tar by hand.
func odd(t *testing.T, hs ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		content := h.PAXRecords["content"]
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestTarTreeNames(t *testing.T) {
	f := func(name string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeReg, PAXRecords: map[string]string{"content": name}}
	}
	d := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir} }
	l := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to}
	}
	for name, c := range map[string]struct {
		hs    []tar.Header
		plain bool
		want  string // paths with a sign of what they are; "" means refused
	}{
		"order":              {hs: []tar.Header{f("b"), d("a!"), d("./a/"), f("/a/c")}, want: "a/ a/c a!/ b"},
		"last one counts":    {hs: []tar.Header{f("a"), f("./a"), d("b"), d("b")}, want: "a b/"},
		"link":               {hs: []tar.Header{f("b"), l("a", "./b"), l("c", "a")}, want: "a b=a c=a"},
		"link, target anew":  {hs: []tar.Header{f("b"), l("c", "b"), f("b")}, want: "b c"},
		"link to nothing":    {hs: []tar.Header{l("a", "b"), f("b")}},
		"link to directory":  {hs: []tar.Header{d("b"), l("a", "b")}},
		"upwards":            {hs: []tar.Header{f("../a")}},
		"upwards inside":     {hs: []tar.Header{f("a/../../b")}},
		"within":             {hs: []tar.Header{f("a/../b")}, want: "b"},
		"beneath a file":     {hs: []tar.Header{f("a"), f("a/b")}},
		"whiteouts":          {hs: []tar.Header{f(".wh.a"), f("b/.wh.c"), f(".wh..wh.plnk"), d(".wh..wh.orph")}, want: "a- b/c-"},
		"whiteout, not such": {hs: []tar.Header{f(".wh.a")}, plain: true, want: ".wh.a"},
		"whiteout of none":   {hs: []tar.Header{f("a/.wh.")}},
		"whiteout of parent": {hs: []tar.Header{f("a/.wh...")}},
		"hidden, then there": {hs: []tar.Header{f(".wh.a"), d("a"), f("a/b"), f("c"), f(".wh.c")}, want: "a/! a/b c"},
		"opaque":             {hs: []tar.Header{d("a"), f("a/.wh..wh..opq"), f("b/.wh..wh..opq"), f(".wh.b")}, want: "a/! b/!"},
		"opaque root":        {hs: []tar.Header{f(".wh..wh..opq"), f("a")}, want: "/! a"},
		"odd type":           {hs: []tar.Header{{Name: "a", Typeflag: 'V'}}},
	} {
		t.Run(name, func(t *testing.T) {
			tr, err := archive.NewTarTree(bytes.NewReader(odd(t, c.hs...)), archive.TarTreeOptions{Layer: !c.plain, Dir: t.TempDir()})
			if err != nil {
				if c.want != "" {
					t.Error(err)
				}
				return
			}
			defer tr.Close()
			s := newStore()
			var got []string
			for _, e := range write(t, tr, s, archive.TreeOptions{}).entries {
				sign := map[archive.Type]string{archive.Dir: "/", archive.Hardlink: "=" + e.Link, archive.Whiteout: "-"}[e.Type]
				if e.Opaque {
					sign += "!"
				}
				got = append(got, e.Path+sign)
			}
			if g := strings.Join(got, " "); g != c.want {
				t.Errorf("got %q, want %q", g, c.want)
			}
		})
	}
}

// A tar that an engine ended early is refused, wherever it did.
func TestTarTreeTrailer(t *testing.T) {
	zeros := tar.Header{Name: "zeros", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"content": string(make([]byte, 4096))}}
	b := odd(t, zeros, tar.Header{Name: "d", Typeflag: tar.TypeDir}, zeros)
	open := func(b []byte, tail io.Reader) error {
		tr, err := archive.NewTarTree(io.MultiReader(bytes.NewReader(b), tail), archive.TarTreeOptions{Dir: t.TempDir()})
		if err == nil {
			err = tr.Close()
		}
		return err
	}
	none := bytes.NewReader(nil)
	if err := open(b, none); err != nil {
		t.Error(err)
	}
	if err := open(append(bytes.Clone(b), make([]byte, 9000)...), none); err != nil {
		t.Error("with more padding:", err)
	}
	for n := 0; n < len(b); n += 256 {
		if err := open(b[:n], none); err == nil {
			t.Errorf("cut at %d of %d: accepted", n, len(b))
		}
	}
	boom := errors.New("boom")
	for _, n := range []int{0, 600, len(b) - 512, len(b)} {
		if err := open(b[:n], iotest.ErrReader(boom)); !errors.Is(err, boom) {
			t.Errorf("error after %d bytes: %v", n, err)
		}
	}
}

// GNU tar reads what we write, and what it writes we read, holes and all.
func TestTarTreeGNUTar(t *testing.T) {
	gnu, err := exec.LookPath("tar")
	if err != nil {
		if os.Getenv("HAKOBUNE_TEST_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	data := make([]byte, 3<<20)
	copy(data[1<<20:], noise(1, 70_000))
	f, err := os.Create(dir + "/sparse")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(data[1<<20:1<<20+70_000], 1<<20)
	if err := errors.Join(err, f.Truncate(3<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "posix"} {
		b, err := exec.Command(gnu, "--sparse", "--format="+format, "-C", dir, "-cf", "-", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		tr, err := archive.NewTarTree(bytes.NewReader(b), archive.TarTreeOptions{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		s := newStore()
		if got := s.data(t, write(t, tr, s, archive.TreeOptions{}).find(t, "sparse")); !bytes.Equal(got, data) {
			t.Errorf("%s: content differs", format)
		}
		tr.Close()
	}
	b, _ := writeTar(t, changes(), archive.TarOptions{})
	cmd := exec.Command(gnu, "-tf", "-")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "tar:") {
		t.Errorf("%v: %s", err, out)
	}
}

func FuzzTarTree(f *testing.F) {
	for _, b := range streams(f) {
		f.Add(b[:min(len(b), 20_000)], true)
	}
	f.Fuzz(func(t *testing.T, b []byte, layer bool) {
		for r := tar.NewReader(bytes.NewReader(b)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Size > 1<<20 {
				return // holes, which only take long
			}
		}
		tr, err := archive.NewTarTree(bytes.NewReader(b), archive.TarTreeOptions{Layer: layer, Dir: t.TempDir()})
		if err != nil {
			return
		}
		defer tr.Close()
		if _, err := archive.WriteTree(t.Context(), tr, newStore(), io.Discard, archive.TreeOptions{}); err != nil {
			t.Error(err)
		}
	})
}
