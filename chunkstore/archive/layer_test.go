package archive_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/internal/docker/dockertest"
)

func diffID(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }

// saveLayer commits a snapshot of one layer.
func saveLayer(t testing.TB, r *chunkstore.Repository, b []byte) {
	t.Helper()
	session(t, r, func(s *chunkstore.Session) (chunkstore.Stream, error) {
		n, err := archive.SaveLayer(t.Context(), s, diffID(b), bytes.NewReader(b))
		if err == nil && n != int64(len(b)) {
			t.Errorf("size %d, want %d", n, len(b))
		}
		return chunkstore.Stream{}, err
	})
}

func openLayer(t testing.TB, r *chunkstore.Repository, id string) []byte {
	t.Helper()
	rd, size, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, id)
	if err != nil {
		t.Fatal(err)
	}
	defer rd.Close()
	got, err := io.ReadAll(rd)
	if err != nil || int64(len(got)) != size {
		t.Fatalf("%d bytes of %d: %v", len(got), size, err)
	}
	return got
}

// tarOf makes a tar of files of all sizes, in one of the formats of archive/tar.
func tarOf(t testing.TB, format tar.Format) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data []byte) {
		h.Format = format
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Unix(1_700_000_000, 0)
	add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at}, nil)
	for i, n := range []int{0, 1, 511, 512, 513, 4096, 100_000, 128 << 10, 128<<10 + 1, 400_000} {
		add(tar.Header{Name: fmt.Sprintf("./f%d", i), Typeflag: tar.TypeReg, Mode: 0o644, ModTime: at}, noise(uint64(i), n))
	}
	for i := range 100 {
		name := fmt.Sprintf("usr/share/d%02d/f%03d", i/20, i)
		if format != tar.FormatUSTAR && i%7 == 0 {
			name = strings.Repeat("long/", 60) + name
		}
		add(tar.Header{Name: name, Typeflag: tar.TypeReg, ModTime: at}, noise(uint64(1000+i), 37*i))
	}
	if format == tar.FormatPAX {
		add(tar.Header{
			Name: "pax \xff", Typeflag: tar.TypeReg, ModTime: at.Add(123456789), Uid: 4_000_000_000,
			PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b\x00c", "VENDOR.big": strings.Repeat("x", 100_000)},
		}, noise(7, 5000))
	}
	add(tar.Header{Name: "link", Typeflag: tar.TypeLink, Linkname: "./f5", ModTime: at}, nil)
	add(tar.Header{Name: "sym", Typeflag: tar.TypeSymlink, Linkname: "../elsewhere", ModTime: at}, nil)
	add(tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, ModTime: at}, nil)
	add(tar.Header{Name: "f5", Typeflag: tar.TypeReg, ModTime: at}, noise(99, 3000)) // the same name once more
	add(tar.Header{Name: "f5", Typeflag: tar.TypeReg, ModTime: at}, noise(98, 3000))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// streams are tars, and what is none, all to come back as they were.
func streams(t testing.TB) map[string][]byte {
	t.Helper()
	ustar, pax, gnu := tarOf(t, tar.FormatUSTAR), tarOf(t, tar.FormatPAX), tarOf(t, tar.FormatGNU)
	flipped := bytes.Clone(pax)
	flipped[len(flipped)/2/512*512+20] ^= 1
	return map[string][]byte{
		"ustar": ustar, "pax": pax, "gnu": gnu,
		"no trailer":     pax[:len(pax)-1024],
		"half a trailer": pax[:len(pax)-512],
		"much padding":   append(bytes.Clone(pax), make([]byte, 300_000)...),
		"two tars":       append(bytes.Clone(ustar), gnu...),
		"garbage after":  append(bytes.Clone(pax), noise(1, 400_000)...),
		"cut in a file":  pax[:len(pax)/2+100],
		"cut in a head":  pax[:1024+77],
		"damaged inside": flipped,
		"empty":          nil,
		"one byte":       {0},
		"zeros":          make([]byte, 10240),
		"no tar":         noise(2, 2<<20),
		"text":           []byte(strings.Repeat("this is no tar\n", 1000)),
	}
}

func TestLayerRoundTrip(t *testing.T) {
	r := newRepository(t)
	for name, b := range streams(t) {
		t.Run(name, func(t *testing.T) {
			saveLayer(t, r, b)
			if got := openLayer(t, r, diffID(b)); !bytes.Equal(got, b) {
				t.Errorf("%d bytes came back as %d others", len(b), len(got))
			}
			checkRefs(t, r, diffID(b))
		})
	}
}

func checkRefs(t *testing.T, r *chunkstore.Repository, id string) {
	t.Helper()
	for ref, err := range archive.LayerRefs(t.Context(), r, chunkstore.Domain{}, id) {
		if err != nil {
			t.Fatal(err)
		}
		if b, err := r.Chunk(t.Context(), ref.ID); err != nil || int(ref.Offset+ref.Length) > len(b) {
			t.Errorf("%v: %v", ref, err)
		}
	}
}

// What GNU tar makes, in every format that it knows, with holes, long names, and of odd files.
func TestLayerGNUTar(t *testing.T) {
	gnu, err := exec.LookPath("tar")
	if err != nil {
		if os.Getenv("HAKOBUNE_TEST_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	for name, n := range map[string]int{"a": 10, "b": 5000, "c": 300_000, strings.Repeat("n", 200): 700, "\xff\xfe": 600} {
		if err := os.WriteFile(filepath.Join(dir, name), noise(uint64(n), n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	holes, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(40) { // more fragments than one header holds
		if _, err := holes.WriteAt(noise(uint64(i), 70_000), i<<20); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(holes.Truncate(100<<20), holes.Close(), os.Symlink("a", filepath.Join(dir, "s")),
		os.Link(filepath.Join(dir, "b"), filepath.Join(dir, "b2"))); err != nil {
		t.Fatal(err)
	}
	r := newRepository(t)
	plain := "--exclude=holes" // 100 MiB as it is
	for _, args := range [][]string{
		{plain, "--format=ustar", "--exclude=nnn*"},
		{plain, "--format=gnu"},
		{plain, "--format=oldgnu"},
		{plain, "--format=posix"},
		{"--sparse", "--format=gnu"},
		{"--sparse", "--format=oldgnu"},
		{"--sparse", "--format=posix"},
		{"--sparse", "--format=posix", "--sparse-version=0.0"},
		{"--sparse", "--format=posix", "--sparse-version=0.1"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			b, err := exec.Command(gnu, append(args, "-C", dir, "-cf", "-", ".")...).Output()
			if err != nil {
				t.Fatal(err)
			}
			saveLayer(t, r, b)
			if got := openLayer(t, r, diffID(b)); !bytes.Equal(got, b) {
				t.Errorf("%d bytes came back as %d others", len(b), len(got))
			}
		})
	}
}

// The layers of an image as an engine has it.
func TestLayerOfEngine(t *testing.T) {
	h := dockertest.Engines(t)[0]
	saved, err := dockertest.Client(t, h).ImageSave(t.Context(), []string{dockertest.Busybox(t, h)})
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	r := newRepository(t)
	layers := 0
	tr := tar.NewReader(saved)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, "/layer.tar") || h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		saveLayer(t, r, b)
		if !bytes.Equal(openLayer(t, r, diffID(b)), b) {
			t.Errorf("%s came back otherwise", h.Name)
		}
		layers++
	}
	if layers == 0 {
		t.Error("the image has no layer")
	}
}

func TestHasLayer(t *testing.T) {
	r, b := newRepository(t), tarOf(t, tar.FormatPAX)
	has := func() (size int64, ok bool) {
		session(t, r, func(s *chunkstore.Session) (_ chunkstore.Stream, err error) {
			size, ok, err = archive.HasLayer(t.Context(), s, diffID(b))
			return chunkstore.Stream{}, err
		})
		return size, ok
	}
	if _, ok := has(); ok {
		t.Error("an empty repository has it")
	}
	saveLayer(t, r, b)
	if size, ok := has(); !ok || size != int64(len(b)) {
		t.Error("it is not there", size, ok)
	}
	saveLayer(t, r, b) // once more does no harm
	if got := openLayer(t, r, diffID(b)); !bytes.Equal(got, b) {
		t.Error("it is not the same any more")
	}
}

// The same layer gives the same chunks in every session: what one saved serves the other.
func TestLayerDeterministic(t *testing.T) {
	r, b := newRepository(t), tarOf(t, tar.FormatPAX)
	saveLayer(t, r, b)
	session(t, r, func(s *chunkstore.Session) (chunkstore.Stream, error) {
		for _, rd := range []io.Reader{bytes.NewReader(b), iotest.HalfReader(bytes.NewReader(b)), iotest.DataErrReader(bytes.NewReader(b))} {
			if _, err := archive.SaveLayer(t.Context(), s, diffID(b), rd); err != nil {
				t.Error(err)
			}
		}
		if n := s.Stats().NewChunks; n != 0 {
			t.Errorf("%d new chunks", n)
		}
		return chunkstore.Stream{}, nil
	})
}

// A file of a layer that a container changed nothing but the mode of is in the repository already.
func TestLayerSharesLargeFiles(t *testing.T) {
	r, b := newRepository(t), tarOf(t, tar.FormatPAX)
	saveLayer(t, r, b)
	tr := newTree(file("f9", noise(9, 400_000)), file("f8", noise(8, 128<<10+1)))
	session(t, r, func(s *chunkstore.Session) (chunkstore.Stream, error) {
		if _, err := archive.WriteTree(t.Context(), tr, s, io.Discard, archive.TreeOptions{}); err != nil {
			t.Error(err)
		}
		if n := s.Stats().NewChunks; n != 0 {
			t.Errorf("%d new chunks", n)
		}
		return chunkstore.Stream{}, nil
	})
}

func TestSaveLayerRefuses(t *testing.T) {
	r, b := newRepository(t), tarOf(t, tar.FormatPAX)
	boom := errors.New("boom")
	s, err := r.Begin(t.Context(), chunkstore.BeginOptions{Host: "test"})
	if err != nil {
		t.Fatal(err)
	}
	save := func(id string, rd io.Reader) error {
		_, err := archive.SaveLayer(t.Context(), s, id, rd)
		return err
	}
	if err := save(diffID(b), bytes.NewReader(b[:len(b)-1])); err == nil {
		t.Error("a shorter stream was taken for the layer")
	}
	if err := save(diffID(b), bytes.NewReader(append(bytes.Clone(b), 0))); err == nil {
		t.Error("a longer stream was taken for the layer")
	}
	for _, n := range []int{0, 100, 512, 20_000, 300_000, len(b) - 600, len(b)} {
		if err := save(diffID(b), io.MultiReader(bytes.NewReader(b[:n]), iotest.ErrReader(boom))); !errors.Is(err, boom) {
			t.Errorf("error after %d bytes: %v", n, err)
		}
	}
	for _, id := range []string{"", "sha256:", "md5:" + diffID(b)[7:], diffID(b)[7:], strings.ToUpper(diffID(b)), diffID(b) + "0", "sha256:" + strings.Repeat("g", 64)} {
		if err := save(id, bytes.NewReader(b)); err == nil {
			t.Errorf("digest %q was accepted", id)
		}
		if _, _, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, id); err == nil {
			t.Errorf("digest %q was opened", id)
		}
	}
	// The session is none the worse for it.
	if err := save(diffID(nil), bytes.NewReader(nil)); err != nil {
		t.Error(err)
	}
	if err := s.Commit(t.Context(), "test", func(chunkstore.SessionStats) any { return nil }, chunkstore.Stream{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, diffID(b)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("something was recorded", err)
	}
	if got := openLayer(t, r, diffID(nil)); len(got) != 0 {
		t.Error("an empty layer came back with", len(got))
	}
}

// forge stores a descriptor as somebody might who wants to pass one stream off as another.
func forge(t *testing.T, r *chunkstore.Repository, id string, change func(l map[string]any), from []byte) {
	t.Helper()
	saveLayer(t, r, from)
	value, ok, err := r.Named(t.Context(), chunkstore.Domain{}, "layer:"+diffID(from))
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	var l map[string]any
	if err := json.Unmarshal(value, &l); err != nil {
		t.Fatal(err)
	}
	l["diff_id"] = id
	change(l)
	if value, err = json.Marshal(l); err != nil {
		t.Fatal(err)
	}
	session(t, r, func(s *chunkstore.Session) (chunkstore.Stream, error) {
		_, err := s.SetNamed(t.Context(), "layer:"+id, value)
		return chunkstore.Stream{}, err
	})
}

// Not one byte too many, and never an io.EOF, comes of a layer that is not what its name says.
func TestOpenLayerForged(t *testing.T) {
	a := tarOf(t, tar.FormatPAX)
	b := bytes.Clone(a)
	b[len(b)/2] ^= 1
	for name, change := range map[string]func(l map[string]any){
		"content": func(map[string]any) {},
		"shorter": func(l map[string]any) { l["size"] = len(a) - 1 },
		"longer":  func(l map[string]any) { l["size"] = len(a) + 1 },
		"empty":   func(l map[string]any) { l["size"] = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			r, id := newRepository(t), diffID(a)
			from := b
			if name != "content" {
				from = append(bytes.Clone(a), 'x')[:len(a)]
				id = diffID(b)
			}
			forge(t, r, id, change, from)
			rd, size, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, id)
			if err != nil {
				t.Fatal(err)
			}
			defer rd.Close()
			n, err := io.Copy(io.Discard, rd)
			if !errors.Is(err, archive.ErrFormat) || n >= size && size > 0 {
				t.Errorf("%d bytes of %d, %v", n, size, err)
			}
			if _, err := rd.Read(make([]byte, 1)); !errors.Is(err, archive.ErrFormat) {
				t.Errorf("the error was forgotten: %v", err)
			}
		})
	}
	for name, change := range map[string]func(l map[string]any){
		"version": func(l map[string]any) { l["version"] = 2 },
		"other":   func(l map[string]any) { l["diff_id"] = diffID(nil) },
		"size":    func(l map[string]any) { l["size"] = -1 },
		"list":    func(l map[string]any) { l["chunks"] = l["recipe"] },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t)
			forge(t, r, diffID(b), change, a)
			if _, _, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, diffID(b)); !errors.Is(err, archive.ErrFormat) {
				t.Error(err)
			}
		})
	}
}

func TestOpenLayerCloseEarly(t *testing.T) {
	r, b := newRepository(t), tarOf(t, tar.FormatPAX)
	saveLayer(t, r, b)
	for _, n := range []int64{0, 1, 10_000, 700_000} {
		rd, _, err := archive.OpenLayer(t.Context(), r, chunkstore.Domain{}, diffID(b))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, rd, n); err != nil {
			t.Error(err)
		}
		if err := rd.Close(); err != nil {
			t.Error(err)
		}
		if _, err := rd.Read(make([]byte, 1)); err == nil {
			t.Error("read after Close")
		}
	}
}

func FuzzLayer(f *testing.F) {
	for _, b := range streams(f) {
		f.Add(b[:min(len(b), 50_000)])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newStore()
		got, err := archive.TakeApart(s, bytes.NewReader(b), func(id chunkstore.ID) []byte { return s.chunks[id] })
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%x came back as %x: %v", b, got, err)
		}
	})
}

// BenchmarkSaveLayer takes a layer of files of all sizes apart and stores it.
func BenchmarkSaveLayer(b *testing.B) {
	layer := tarOf(b, tar.FormatPAX)
	s := &discard{}
	b.SetBytes(int64(len(layer)))
	for b.Loop() {
		if err := archive.SkimLayer(s, bytes.NewReader(layer)); err != nil {
			b.Fatal(err)
		}
	}
}
