package mount_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/mem"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
	"github.com/hakobune-dr/hakobune/importer/mount"
)

// needsFUSE passes a test over where there is no /dev/fuse or no right to use it.
func needsFUSE(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err == nil && os.Geteuid() == 0 {
		f.Close()
		return
	}
	if os.Getenv("HAKOBUNE_TEST_REQUIRE") == "1" || os.Getenv("CI") == "true" {
		t.Fatalf("no FUSE: %v, user %d", err, os.Geteuid())
	}
	t.Skipf("no FUSE: %v, user %d", err, os.Geteuid())
}

// tree makes a directory with one of everything.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	big := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{2}).Read(big)
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	must(os.MkdirAll(at("etc/deep/er"), 0o750), os.Mkdir(at("empty"), 0o700))
	for name, content := range map[string][]byte{"big": big, "etc/small": []byte("small"), "etc/deep/er/none": nil, "etc/deep.er": bytes.Repeat([]byte("bundled "), 100), "\xff odd\n": []byte("x")} {
		must(os.WriteFile(at(name), content, 0o640))
	}
	sparse, err := os.Create(at("sparse"))
	must(err)
	_, err = sparse.WriteAt([]byte("end"), 5<<20)
	must(err, sparse.Close(), os.Link(at("big"), at("etc/second")), os.Symlink("../big", at("etc/link")))
	must(unix.Mkfifo(at("fifo"), 0o600), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(os.Chown(at("etc/small"), 1234, 4321), os.Chmod(at("etc/small"), 0o4711), unix.Setxattr(at("etc/small"), "user.note", []byte("kept"), 0))
	must(os.Chtimes(at("etc/small"), time.Time{}, time.Unix(1_000_000_000, 123_456_789)))
	return dir
}

// world is a mounted repository.
type world struct {
	source, dir string
	down        atomic.Bool // the store fails
	cancel      context.CancelFunc
	ended       chan error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	needsFUSE(t)
	w := &world{source: tree(t), dir: t.TempDir(), ended: make(chan error, 1)}
	b := storetest.Intercept(mem.New(mem.Options{}), func(_ context.Context, c storetest.Call, next func() error) error {
		if w.down.Load() {
			return storetest.ErrCrashed
		}
		return next()
	})
	key := crypto.KeyFile(crypto.NewKeyFile())
	if _, err := chunkstore.Init(t.Context(), b, key, crypto.SlotInfo{}, crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	repo, err := chunkstore.Open(t.Context(), b, key, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for day := range 2 {
		store(t, repo, w.source, day)
	}
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	ready := make(chan struct{})
	go func() {
		w.ended <- mount.Serve(ctx, repo, cat, cat.Snapshots, w.dir, mount.Options{Ready: func() { close(ready) }})
	}()
	t.Cleanup(func() {
		cancel()
		_ = unix.Unmount(w.dir, unix.MNT_DETACH) // if it is still there
	})
	select {
	case <-ready:
	case err := <-w.ended:
		t.Fatal(err)
	}
	return w
}

func store(t *testing.T, repo *chunkstore.Repository, source string, day int) {
	t.Helper()
	s, err := repo.Begin(t.Context(), chunkstore.BeginOptions{Host: "home"})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := exporter.OpenDir(source, exporter.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	out := s.NewStream(t.Context())
	stats, err := archive.WriteTree(t.Context(), dir, s, out, archive.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := out.Finish()
	if err != nil {
		t.Fatal(err)
	}
	content := &snapshot.Archive{Records: st, Entries: stats.Entries, Bytes: stats.Bytes}
	if err := snapshot.Commit(t.Context(), s, &snapshot.Snapshot{
		Summary: snapshot.Summary{System: "shop", Host: "home", Complete: true, Time: time.Date(2026, 11, 1+day, 2, 0, 0, 0, time.UTC)},
		System: snapshot.System{
			Name: "shop", Volumes: []snapshot.Volume{{Name: "db", Content: content}, {Name: "unread"}},
			Binds: []snapshot.Bind{{Source: "/etc/shop", Content: content}},
		},
	}); err != nil {
		t.Fatal(err)
	}
}

// described returns all that can be said of a tree, by path.
func described(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return err
		}
		text := fmt.Sprintf("%o %d:%d rdev %x links %d at %d.%09d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
		note := make([]byte, 100)
		if n, err := unix.Lgetxattr(name, "user.note", note); err == nil {
			text += " note " + string(note[:n])
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			text += fmt.Sprintf(" size %d sum %x", st.Size, crc(content))
		case unix.S_IFLNK:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			text += " to " + target
		case unix.S_IFDIR:
			text = strings.Replace(text, fmt.Sprintf("links %d", st.Nlink), "", 1) // file systems count those as they like
		}
		all[strings.TrimPrefix(name, dir)] = text
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func crc(b []byte) (sum uint64) {
	for _, c := range b {
		sum = sum*1099511628211 + uint64(c)
	}
	return sum
}

// Every file comes back as it was, by any of its names, and in pieces; nothing can be written.
func TestMount(t *testing.T) {
	w := newWorld(t)
	latest := filepath.Join(w.dir, "shop", "latest")
	target, err := os.Readlink(latest)
	if err != nil || !strings.HasPrefix(target, "2026-11-02T02.00.00Z-") {
		t.Errorf("latest is %q, %v", target, err)
	}
	for _, part := range []string{"volumes/db", "binds/%2Fetc%2Fshop"} {
		if diff := cmp.Diff(described(t, w.source), described(t, filepath.Join(w.dir, "shop", target, part))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", part, diff)
		}
	}
	if entries, err := os.ReadDir(filepath.Join(w.dir, "shop")); err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
	if entries, err := os.ReadDir(filepath.Join(latest, "volumes")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if text, err := os.ReadFile(filepath.Join(latest, "system.json")); err != nil || !bytes.Contains(text, []byte(`"unread"`)) {
		t.Errorf("%s, %v", text, err)
	}
	inPieces(t, filepath.Join(w.source, "big"), filepath.Join(latest, "volumes/db/big"))
	if _, err := os.OpenFile(filepath.Join(latest, "volumes/db/big"), os.O_WRONLY, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("open for writing: %v", err)
	}
	if err := os.Remove(filepath.Join(latest, "volumes/db/big")); !errors.Is(err, syscall.EROFS) {
		t.Errorf("remove: %v", err)
	}
	if _, err := os.Stat(filepath.Join(latest, "volumes/db/etc/nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	w.cancel()
	if err := <-w.ended; err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(w.dir); err != nil || len(entries) > 0 {
		t.Errorf("after the end: %v, %v", entries, err)
	}
}

func inPieces(t *testing.T, want, got string) {
	t.Helper()
	whole, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(got)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rng := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		off := rng.IntN(len(whole))
		piece := make([]byte, min(rng.IntN(300<<10), len(whole)-off))
		if _, err := f.ReadAt(piece, int64(off)); err != nil || !bytes.Equal(piece, whole[off:off+len(piece)]) {
			t.Fatalf("%d bytes at %d differ: %v", len(piece), off, err)
		}
	}
}

// Where the store is gone reading is an error and no waiting; umount by somebody else ends it.
func TestMountWithoutStore(t *testing.T) {
	w := newWorld(t)
	volume := filepath.Join(w.dir, "shop", "latest", "volumes/db")
	if _, err := os.Stat(filepath.Join(volume, "big")); err != nil {
		t.Fatal(err)
	}
	w.down.Store(true)
	if _, err := os.ReadFile(filepath.Join(volume, "big")); !errors.Is(err, syscall.EIO) {
		t.Errorf("a file: %v", err)
	}
	w.down.Store(false)
	if _, err := os.ReadFile(filepath.Join(volume, "big")); err != nil {
		t.Errorf("when the store is back: %v", err)
	}
	if err := unix.Unmount(w.dir, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-w.ended; err != nil {
		t.Error(err)
	}
}

func TestMountRefused(t *testing.T) {
	needsFUSE(t)
	b := mem.New(mem.Options{})
	key := crypto.KeyFile(crypto.NewKeyFile())
	if _, err := chunkstore.Init(t.Context(), b, key, crypto.SlotInfo{}, crypto.KDF{Time: 1, MemoryKiB: 19 << 10, Threads: 1}, chunkstore.ChunkerParams{}); err != nil {
		t.Fatal(err)
	}
	repo, err := chunkstore.Open(t.Context(), b, key, chunkstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cat, err := snapshot.ReadCatalog(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.Serve(t.Context(), repo, cat, nil, filepath.Join(t.TempDir(), "nothing"), mount.Options{}); err == nil {
		t.Error("mounted at a directory that is not there")
	}
}
