package exporter_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// TestWalkLive walks and reads a directory in which others write all the time. Whatever they do,
// the order holds, files that nobody touches are there, contents keep their lengths, and what fails
// is that something vanished.
func TestWalkLive(t *testing.T) {
	dir := t.TempDir()
	for i := range 20 {
		write(t, dir, fmt.Sprintf("steady%02d/file", i))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for w := range 3 {
		rnd := rand.New(rand.NewPCG(1, uint64(w)))
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					disturb(dir, rnd)
				}
			}
		})
	}
	replaced := func(_ string, err error) {
		if err.Error() != "replaced while it was read" {
			t.Error(err)
		}
	}
	d := openDir(t, dir, exporter.DirOptions{Report: replaced})
	walks, reads, vanished := 0, 0, 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); walks++ {
		steady := 0
		entries := walk(t, d)
		if walks%2 == 1 {
			entries = walkStat(t, d, func(*archive.Entry) bool { return false })
		}
		for _, e := range entries {
			if e.Type != archive.File {
				continue
			}
			err := readLive(t, d, e)
			reads++
			switch {
			case errors.Is(err, archive.ErrVanished):
				vanished++
			case err != nil:
				t.Fatal(err)
			case filepath.Base(e.Path) == "file":
				steady++
			}
		}
		if steady != 20 {
			t.Fatalf("%d of 20 files that nobody touches", steady)
		}
	}
	t.Logf("%d walks, %d files read, %d vanished", walks, reads, vanished)
}

// disturb does one random thing to a directory.
func disturb(dir string, rnd *rand.Rand) {
	name := func() string {
		return filepath.Join(dir, fmt.Sprintf("d%d", rnd.IntN(4)), fmt.Sprint("f", rnd.IntN(8)))
	}
	path := name()
	switch rnd.IntN(10) {
	case 0:
		os.RemoveAll(filepath.Dir(path))
	case 1:
		os.Rename(path, name())
	case 2:
		os.Remove(path)
		unix.Mkfifo(path, 0o600)
	case 3:
		os.Remove(path)
		os.Symlink("nowhere", path)
	case 4:
		os.Remove(path)
		os.Mkdir(path, 0o755)
	case 5:
		os.Rename(filepath.Dir(path), filepath.Dir(name())+"x")
	default:
		os.Mkdir(filepath.Dir(path), 0o755)
		rewrite(path, rnd)
	}
}

// rewrite cuts a file to some length and writes it anew, following no link and waiting for no FIFO.
func rewrite(path string, rnd *rand.Rand) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	f.Truncate(rnd.Int64N(1 << 20))
	f.Write(make([]byte, rnd.IntN(200_000)))
}

func readLive(t *testing.T, tree archive.Tree, e archive.Entry) error {
	c, err := tree.Open(t.Context(), e)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		length, hole, err := c.Next()
		if err == io.EOF {
			_, err = c.Stat()
			return err
		}
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, c)
		if err != nil {
			return err
		}
		if !hole && n != length {
			return fmt.Errorf("%q: an extent of %d bytes gave %d", e.Path, length, n)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	dir := b.TempDir()
	for i := range 5000 {
		write(b, dir, fmt.Sprintf("d%03d/e%d/f%d", i%100, i%3, i))
	}
	d := openDir(b, dir, exporter.DirOptions{})
	r, _ := serve(b, exporter.OpenRequest)
	for name, tree := range map[string]archive.Tree{"local": d, "remote": remoteDir(b, r, dir, exporter.DirOptions{})} {
		b.Run(name, func(b *testing.B) {
			n := 0
			for b.Loop() {
				check(b, tree.Walk(b.Context(), func(archive.Entry) error { n++; return nil }))
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "nodes/s")
		})
		b.Run(name+"-read", func(b *testing.B) {
			n := 0
			for b.Loop() {
				check(b, tree.Walk(b.Context(), func(e archive.Entry) error {
					if e.Type == archive.File {
						readAll(b, tree, e)
						n++
					}
					return nil
				}))
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "files/s")
		})
	}
}
