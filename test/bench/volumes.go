package main

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// seed makes the data of every run the same.
const seed = 20261126

func newRandom() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed & 0xff, seed >> 8 & 0xff}) }

// smallFiles backs up a volume of many small files, of which one in a hundred changes.
func (b *bench) smallFiles(ctx context.Context) error {
	s, err := b.volume(ctx, "smallfiles")
	if err != nil {
		return err
	}
	w := &smallWriter{dir: s.dir, random: newRandom()}
	w.numbers = rand.New(w.random)
	for i := range b.files {
		if err := w.write(i); err != nil {
			return err
		}
	}
	tools := b.forVolume(s, false)
	t := b.newTable("A volume of small files", true, heads(tools))
	t.intro = fmt.Sprintf("%d files in %d directories, %s, half of it compressible.", b.files, (b.files+perDir-1)/perDir, size(w.bytes))
	change := func() error {
		for range b.files / 100 {
			if err := w.write(w.numbers.IntN(b.files)); err != nil {
				return err
			}
		}
		return nil
	}
	return b.volumeSteps(ctx, t, s, tools, "1 % of the files changed", change)
}

const perDir = 100

type smallWriter struct {
	dir     string
	random  *rand.ChaCha8
	numbers *rand.Rand
	bytes   int64
}

// write writes file i anew: between 0.5 and 20 KiB, small ones more often than large ones.
func (w *smallWriter) write(i int) error {
	data := make([]byte, int(512*math.Pow(40, w.numbers.Float64())))
	w.random.Read(data[:len(data)/2])
	copy(data[len(data)/2:], bytes.Repeat(fmt.Appendf(nil, "lesson %d, of the harbour. ", i), len(data)/40+1))
	w.bytes += int64(len(data))
	dir := filepath.Join(w.dir, fmt.Sprintf("%04d", i/perDir))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%07d.txt", i)), data, 0o644)
}

// bigFile backs up a volume with one large file, as that of a virtual machine or a database.
func (b *bench) bigFile(ctx context.Context) error {
	s, err := b.volume(ctx, "bigfile")
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(s.dir, "disk.img"))
	if err != nil {
		return err
	}
	defer file.Close()
	random, block := newRandom(), make([]byte, 1<<20)
	for range b.big {
		random.Read(block)
		if _, err := file.Write(block); err != nil {
			return err
		}
	}
	tools := b.forVolume(s, true)
	t := b.newTable("A volume with one large file", true, heads(tools))
	t.intro = size(b.big<<20) + " that do not compress."
	numbers := rand.New(random)
	change := func() error {
		for range 1000 {
			random.Read(block[:16<<10])
			if _, err := file.WriteAt(block[:16<<10], numbers.Int64N(b.big<<20-16<<10)); err != nil {
				return err
			}
		}
		return nil
	}
	return b.volumeSteps(ctx, t, s, tools, "1000 times 16 KiB overwritten", change)
}

// volumeSteps backs up first, after a change, and after none; then the volume goes, for its room.
func (b *bench) volumeSteps(ctx context.Context, t *table, s source, tools []*tool, changed string, change func() error) error {
	if err := b.create(ctx, tools); err != nil {
		return err
	}
	read := "tar -c " + s.dir + " | cat" // tar does not read what goes to /dev/null
	if err := b.step(ctx, t, "first", tools, read); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	if err := b.step(ctx, t, changed, tools, read); err != nil {
		return err
	}
	if err := b.step(ctx, t, "nothing changed", tools, read); err != nil {
		return err
	}
	_, err := b.host.output(ctx, nil, "docker rm -f "+s.name+" && docker volume rm "+s.name)
	return err
}

// volume makes an empty volume that a sleeping container of a tiny image uses.
func (b *bench) volume(ctx context.Context, scenario string) (source, error) {
	s := source{scenario: scenario, name: "hkbench-" + scenario}
	dir, err := b.host.output(ctx, nil, "tar -c -C / bin/busybox | docker import - hkbench-tiny >&2"+
		" && docker run -d --name "+s.name+" -v "+s.name+":/data hkbench-tiny /bin/busybox sleep 1000000 >&2"+
		" && docker volume inspect -f '{{.Mountpoint}}' "+s.name)
	s.dir = dir
	return s, err
}
