package exporter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// serve connects a Remote with a server that opens trees by open.
func serve(t testing.TB, open func(exporter.TreeRequest) (archive.Tree, error)) (*exporter.Remote, net.Conn) {
	t.Helper()
	here, there := net.Pipe() // without any buffer, so that what waits for another shows
	served := make(chan error)
	go func() {
		err := exporter.ServeTree(context.Background(), there, open)
		there.Close()
		served <- err
	}()
	r, err := exporter.DialTree(t.Context(), here)
	check(t, err)
	t.Cleanup(func() {
		r.Close()
		if err := <-served; err != nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("server: %v", err)
		}
	})
	return r, here
}

func remoteDir(t testing.TB, r *exporter.Remote, path string, opts exporter.DirOptions) *exporter.RemoteTree {
	t.Helper()
	tree, err := r.Open(t.Context(), exporter.TreeRequest{Path: path, Options: opts})
	check(t, err)
	t.Cleanup(func() { tree.Close() })
	return tree
}

func TestServeTree(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir, "a/\xff\n", "a/b/c", "excluded/x", "mount/hidden", "z")
	check(t, os.WriteFile(filepath.Join(dir, "large"), bytes.Repeat([]byte("0123456789abcdef"), 1<<18), 0o600))
	check(t, os.Truncate(filepath.Join(dir, "large"), 8<<20))
	check(t, os.WriteFile(filepath.Join(dir, "empty"), nil, 0o4711))
	check(t, unix.Setxattr(filepath.Join(dir, "a/b"), "user.x", bytes.Repeat([]byte("x"), 3000), 0))
	check(t, unix.Setxattr(filepath.Join(dir, "a/b"), "user.empty", nil, 0))
	check(t, unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFBLK|0o600, int(unix.Mkdev(300, 70000))))
	check(t, os.Symlink("target", filepath.Join(dir, "link")))
	setTimes(t, filepath.Join(dir, "z"), archive.Time{Sec: -5, Nsec: 7})
	check(t, unix.Mount("none", filepath.Join(dir, "mount"), "tmpfs", 0, ""))
	t.Cleanup(func() { check(t, unix.Unmount(filepath.Join(dir, "mount"), unix.MNT_DETACH)) })

	var localReports, remoteReports []string
	report := func(list *[]string) func(string, error) {
		return func(path string, err error) {
			*list = append(*list, fmt.Sprint(path, ": ", err, errors.Is(err, exporter.ErrMountPoint)))
		}
	}
	local := openDir(t, dir, exporter.DirOptions{Exclude: []string{"exc*"}, Report: report(&localReports)})
	r, _ := serve(t, exporter.OpenRequest)
	remote := remoteDir(t, r, dir, exporter.DirOptions{Exclude: []string{"exc*"}, Report: report(&remoteReports)})
	want := walk(t, local)
	if diff := cmp.Diff(want, walk(t, remote)); diff != "" {
		t.Errorf("walk differs (-local +remote):\n%s", diff)
	}
	if diff := cmp.Diff(localReports, remoteReports); diff != "" || len(localReports) == 0 {
		t.Errorf("reports differ (-local +remote):\n%s", diff)
	}
	for _, e := range want {
		if e.Type != archive.File {
			continue
		}
		for _, off := range []int64{0, 1, 4 << 20, 5 << 20, 1 << 40} {
			here, err := local.OpenAt(t.Context(), e, off)
			check(t, err)
			there, err := remote.OpenAt(t.Context(), e, off)
			check(t, err)
			wantContent, wantExtents := drain(t, here)
			content, extents := drain(t, there)
			if !bytes.Equal(wantContent, content) || wantExtents != extents {
				t.Errorf("%q from %d on: %d bytes %q, want %d bytes %q", e.Path, off, len(content), extents, len(wantContent), wantExtents)
			}
			wantStat, err := here.Stat()
			check(t, err)
			stat, err := there.Stat()
			check(t, err)
			if diff := cmp.Diff(wantStat, stat); diff != "" {
				t.Errorf("stat differs (-local +remote):\n%s", diff)
			}
			check(t, errors.Join(here.Close(), there.Close()))
		}
	}
	now, err := r.Clock(t.Context())
	if since := time.Since(now); err != nil || since < 0 || since > time.Minute {
		t.Errorf("clock: %v, %v", now, err)
	}
}

// TestServeTreeErrors: what callers branch on keeps its meaning across the connection.
func TestServeTreeErrors(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, dir, "d/file")
	r, _ := serve(t, exporter.OpenRequest)
	if _, err := r.Open(t.Context(), exporter.TreeRequest{Path: dir + "/none"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
	tree := remoteDir(t, r, dir, exporter.DirOptions{Overlay: true})
	for path, want := range map[string]error{
		"none": archive.ErrVanished, "d": archive.ErrVanished, "d/file/x": archive.ErrVanished,
		strings.Repeat("p", 1<<20): archive.ErrUnreadable, "../x": nil,
	} {
		c, err := tree.Open(t.Context(), archive.Entry{Path: path})
		if err == nil {
			_, _, err = c.Next()
			check(t, c.Close())
		}
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("open %.20q: %v", path, err)
		}
	}
	check(t, unix.Setxattr(filepath.Join(dir, "d"), "trusted.overlay.redirect", []byte("e"), 0))
	err := tree.Walk(t.Context(), func(archive.Entry) error { return nil })
	var foreign *exporter.ForeignError
	if !errors.As(err, &foreign) || *foreign != (exporter.ForeignError{Path: "d", Xattr: "trusted.overlay.redirect"}) {
		t.Errorf("walk of a foreign layer: %v", err)
	}
	stop := errors.New("stop")
	if err := tree.Walk(t.Context(), func(archive.Entry) error { return stop }); err != stop {
		t.Errorf("walk that is stopped: %v", err)
	}
	check(t, tree.Close())
	if err := tree.Walk(t.Context(), func(archive.Entry) error { return nil }); err == nil {
		t.Error("a closed tree is walked")
	}
}

// slowTree has files without end that change all the time.
type slowTree struct{ opened, closed sync.WaitGroup }

func (*slowTree) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	for i := 0; ; i++ {
		if err := fn(archive.Entry{Path: fmt.Sprintf("%09d", i), Type: archive.File}); err != nil {
			return err
		}
	}
}

func (s *slowTree) Open(ctx context.Context, e archive.Entry) (archive.Content, error) {
	s.closed.Add(1)
	s.opened.Done()
	return &endless{tree: s}, nil
}

type endless struct {
	tree *slowTree
	read int64
}

func (c *endless) Next() (int64, bool, error) { return 1 << 40, false, nil }

func (c *endless) Read(p []byte) (int, error) {
	c.read += int64(len(p))
	return len(p), nil
}
func (c *endless) Stat() (archive.Entry, error) { return archive.Entry{Size: c.read}, nil }

func (c *endless) Close() error {
	c.tree.closed.Done()
	return nil
}

// TestServeTreeFlow: calls that nobody reads hold nothing up and take no more memory than they may,
// and a stat is answered in the middle of a file.
func TestServeTreeFlow(t *testing.T) {
	endlessTree := &slowTree{}
	r, _ := serve(t, func(exporter.TreeRequest) (archive.Tree, error) { return endlessTree, nil })
	tree := remoteDir(t, r, "", exporter.DirOptions{})
	const n = 50
	endlessTree.opened.Add(n)
	var all []archive.Content
	for range n {
		c, err := tree.Open(t.Context(), archive.Entry{Path: "f"})
		check(t, err)
		all = append(all, c)
	}
	endlessTree.opened.Wait()
	seen := 0
	stop := errors.New("stop")
	if err := tree.Walk(t.Context(), func(archive.Entry) error {
		if seen++; seen == 200_000 {
			return stop
		}
		return nil
	}); err != stop {
		t.Error(err)
	}
	for _, c := range all {
		st, err := c.Stat()
		check(t, err)
		if st.Size > 2<<20 {
			t.Errorf("%d bytes were read ahead", st.Size)
		}
		_, _, err = c.Next()
		check(t, err)
		_, err = io.CopyN(io.Discard, c, 3<<20)
		check(t, err)
		check(t, c.Close())
	}
	endlessTree.closed.Wait() // each is closed on the other side too
}

func TestServeTreeCancel(t *testing.T) {
	endlessTree := &slowTree{}
	r, conn := serve(t, func(exporter.TreeRequest) (archive.Tree, error) { return endlessTree, nil })
	tree := remoteDir(t, r, "", exporter.DirOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	endlessTree.opened.Add(1)
	c, err := tree.Open(ctx, archive.Entry{Path: "f"})
	check(t, err)
	_, _, err = c.Next()
	check(t, err)
	cancel()
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	check(t, c.Close())
	endlessTree.closed.Wait()
	err = tree.Walk(ctx, func(archive.Entry) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("walk: %v", err)
	}

	// The other side ends in the middle of everything.
	var g errgroup.Group
	g.Go(func() error { return tree.Walk(t.Context(), func(archive.Entry) error { return nil }) })
	endlessTree.opened.Add(1)
	g.Go(func() error {
		c, err := tree.Open(t.Context(), archive.Entry{Path: "f"})
		if err != nil {
			return err
		}
		defer c.Close()
		if _, _, err = c.Next(); err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		return err
	})
	time.Sleep(20 * time.Millisecond)
	conn.Close()
	if err := g.Wait(); !errors.Is(err, exporter.ErrRemote) {
		t.Errorf("after the connection broke: %v", err)
	}
	if _, err := r.Clock(t.Context()); !errors.Is(err, exporter.ErrRemote) {
		t.Errorf("a call afterwards: %v", err)
	}
}

func TestDialTreeRefuses(t *testing.T) {
	for greeting, want := range map[string]string{
		"":                             "no greeting",
		"HKSERVE\x02":                  "the programs differ",
		"exec format error, sorry\r\n": "not a server of trees",
	} {
		here, there := net.Pipe()
		go func() {
			there.Write([]byte(greeting))
			there.Close()
		}()
		go io.Copy(io.Discard, there)
		if _, err := exporter.DialTree(t.Context(), here); err == nil || !strings.Contains(err.Error(), want) && greeting != "" {
			t.Errorf("greeted with %q: %v", greeting, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	here, _ := net.Pipe()
	if _, err := exporter.DialTree(ctx, here); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("greeted by nobody: %v", err)
	}
}

// TestServeTreeConcurrent reads many files at a time, of two trees over one connection.
func TestServeTreeConcurrent(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	r, _ := serve(t, exporter.OpenRequest)
	var g errgroup.Group
	for i, dir := range dirs {
		for f := range 200 {
			write(t, dir, fmt.Sprintf("d%d/tree%d-file%d", f%7, i, f))
		}
		tree := remoteDir(t, r, dir, exporter.DirOptions{})
		for range 4 {
			g.Go(func() error {
				for _, e := range walk(t, openDir(t, dir, exporter.DirOptions{})) {
					if e.Type == archive.File && readAll(t, tree, e) != filepath.Base(e.Path) {
						return fmt.Errorf("wrong content of %q", e.Path)
					}
				}
				return nil
			})
		}
	}
	check(t, g.Wait())
}
