package local_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/local"
	"github.com/hakobune-dr/hakobune/chunkstore/storetest"
)

func open(t *testing.T, dir string) *local.Store {
	t.Helper()
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestContract(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) chunkstore.Backend { return open(t, t.TempDir()) })
}

func TestContractWithoutLinks(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) chunkstore.Backend {
		s := open(t, t.TempDir())
		s.WithoutLinks()
		return s
	})
}

func names(t *testing.T, s *local.Store) []string {
	t.Helper()
	names := []string{}
	err := s.List(t.Context(), "", func(i chunkstore.Info) error {
		names = append(names, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if _, err := local.Open(filepath.Join(dir, "missing"), local.Options{}); !errors.Is(err, chunkstore.ErrNoStore) {
		t.Errorf("a missing directory: %v; want ErrNoStore", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := local.Open(file, local.Options{}); err == nil {
		t.Error("a file opened as a directory")
	}
	if err := local.Create(file); err == nil {
		t.Error("a file passed for a directory that was created")
	}
	deep := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := local.Create(deep); err != nil {
			t.Fatal(err)
		}
	}
	if fi, err := os.Stat(deep); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("created with %v, %v", fi.Mode(), err)
	}
	t.Chdir(dir)
	if got := open(t, "a/b/c").Location(); got != deep {
		t.Errorf("Location = %s, want %s", got, deep)
	}
}

// Nobody but the owner reads, and nobody writes by accident.
func TestModes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(t.Context(), "p/aa/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"p": 0o700 | fs.ModeDir, "p/aa": 0o700 | fs.ModeDir, "p/aa/x": 0o400} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, fi.Mode(), err, want)
		}
	}
}

// Temporary files are never listed; old ones are removed in passing, young ones may be somebody's.
func TestStaleTemporaryFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(t.Context(), "p/aa/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"~old": 25 * time.Hour, "~young": 23 * time.Hour} {
		file := filepath.Join(dir, "p/aa", name)
		if err := os.WriteFile(file, []byte("half"), 0o400); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"p/aa/x"}, names(t, s)); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"x", "~young"}, files(t, filepath.Join(dir, "p/aa"))); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// What others put into the directory is neither listed nor followed nor waited for.
func TestForeignFiles(t *testing.T) {
	ctx, dir, outside := t.Context(), t.TempDir(), t.TempDir()
	s := open(t, dir)
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		s.Put(ctx, "p/x", []byte("x")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "p", "link")),
		os.Symlink(outside, filepath.Join(dir, "q")),
		syscall.Mkfifo(filepath.Join(dir, "p", "fifo"), 0o600),
		os.Mkdir(filepath.Join(dir, "lost+found"), 0o700),
		os.WriteFile(filepath.Join(dir, "README"), []byte("x"), 0o600),
		os.MkdirAll(filepath.Join(dir, "e/m/p/t/y"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"p/link", "q/secret"} {
		if data, err := s.Get(ctx, name, 0, -1); err == nil {
			t.Errorf("Get(%s) left the directory and read %q", name, data)
		}
	}
	if err := s.Put(ctx, "q/new", []byte("x")); err == nil {
		t.Error("Put left the directory")
	}
	if got := files(t, outside); len(got) != 1 {
		t.Errorf("outside there is now %v", got)
	}
	if _, err := s.Get(ctx, "p/fifo", 0, -1); !errors.Is(err, chunkstore.ErrNotExist) {
		t.Errorf("Get of a FIFO: %v; want ErrNotExist", err)
	}
	if err := os.Remove(filepath.Join(dir, "q")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "p", "link")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"p/x"}, names(t, s)); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// A directory that is removed under the store is no empty store.
func TestRemovedDirectory(t *testing.T) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "repo")
	if err := local.Create(dir); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if err := s.Put(ctx, "p/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil { // like the mount point of a disk that was unplugged
		t.Fatal(err)
	}
	_, getErr := s.Get(ctx, "p/x", 0, -1)
	_, statErr := s.Stat(ctx, "p/x")
	for op, err := range map[string]error{
		"Get": getErr, "Stat": statErr,
		"List":        s.List(ctx, "", func(chunkstore.Info) error { return nil }),
		"ListPrefix":  s.List(ctx, "p/", func(chunkstore.Info) error { return nil }),
		"Put":         s.Put(ctx, "p/y", []byte("y")),
		"PutIfAbsent": s.PutIfAbsent(ctx, "z", []byte("z")),
	} {
		if !errors.Is(err, chunkstore.ErrNoStore) {
			t.Errorf("%s: %v; want ErrNoStore", op, err)
		}
	}
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("the new directory holds %v", got)
	}
}

// Directories that somebody tidied away are made again.
func TestRemovedSubdirectory(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	b := open(t, dir)
	if err := b.Put(ctx, "p/aa/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "p")); err != nil {
		t.Fatal(err)
	}
	if err := b.Put(ctx, "p/aa/y", []byte("y")); err != nil {
		t.Error(err)
	}
}

func TestFullAndReadOnly(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("HAKOBUNE_TEST_REQUIRE") == "1" {
			t.Fatal(err)
		}
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := open(t, dir)
	if err := s.Put(ctx, "p/small", []byte("x")); err != nil {
		t.Fatal(err)
	}
	err := s.Put(ctx, "p/large", make([]byte, 2<<20))
	if !errors.Is(err, chunkstore.ErrPermanent) || !strings.Contains(err.Error(), "put p/large: the file system is full") {
		t.Errorf("on a full file system: %v", err)
	}
	if diff := cmp.Diff([]string{"small"}, files(t, filepath.Join(dir, "p"))); diff != "" {
		t.Errorf("left there (-want +got):\n%s", diff)
	}
	if err := syscall.Mount("none", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	err = s.Put(ctx, "p/new", []byte("x"))
	if !errors.Is(err, chunkstore.ErrAccess) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("Put on a read-only file system: %v", err)
	}
	if err := s.Delete(ctx, "p/small"); !errors.Is(err, chunkstore.ErrAccess) {
		t.Errorf("Delete on a read-only file system: %v", err)
	}
	if got, err := s.Get(ctx, "p/small", 0, -1); err != nil || !bytes.Equal(got, []byte("x")) {
		t.Errorf("Get on a read-only file system: %q, %v", got, err)
	}
}

func TestPermission(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(t.Context(), "p/x", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "p"), 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dir, "p"), 0o700) })
	asNobody(func() {
		if err := s.Put(t.Context(), "p/y", []byte("y")); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("Put without permission: %v; want ErrAccess", err)
		}
		if err := s.Delete(t.Context(), "p/x"); !errors.Is(err, chunkstore.ErrAccess) {
			t.Errorf("Delete without permission: %v; want ErrAccess", err)
		}
	})
}

// asNobody runs f on a thread to which root's privileges on files do not apply.
func asNobody(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if os.Getuid() == 0 {
			syscall.Setfsuid(65534)
		}
		f()
	}()
	<-done
}
