package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/crypto"
	"github.com/hakobune-dr/hakobune/exporter"
)

// How processes end: the program's exit codes, of which a backup here has the first, the fourth, and one for what cannot be.
const (
	exitFailed = 1
	exitDamage = 4
	exitFenced = 5
)

// backup is one backup, in a process of its own.
type backup struct {
	endpoint, dir, system, history, key string
	retry                               time.Duration
	dice                                *rand.Rand
}

func runBackup(ctx context.Context, args []string) (int, error) {
	var b backup
	f := flag.NewFlagSet("chaos backup", flag.ContinueOnError)
	f.StringVar(&b.endpoint, "endpoint", "", "of the store")
	f.StringVar(&b.dir, "dir", "", "`DIR` of the host")
	f.StringVar(&b.system, "system", "", "name of the system")
	f.StringVar(&b.history, "history", "", "`FILE` for what was stored")
	f.StringVar(&b.key, "key", "", "`FILE` with the key")
	f.DurationVar(&b.retry, "retry", 0, "how long a call is repeated")
	seed := f.Uint64("seed", 0, "of the content")
	if err := f.Parse(args); err != nil {
		return exitFailed, err
	}
	b.dice = rand.New(rand.NewPCG(*seed, 1))
	err := b.run(ctx)
	switch {
	case err == nil:
		return 0, nil
	case errors.Is(err, crypto.ErrDamaged), errors.Is(err, chunkstore.ErrChunkMissing):
		return exitDamage, err
	case errors.Is(err, chunkstore.ErrFenced):
		return exitFenced, err
	}
	return exitFailed, err
}

func (b *backup) run(ctx context.Context) error {
	repo, err := b.open(ctx)
	if err != nil {
		return err
	}
	sum, err := b.change()
	if err != nil {
		return err
	}
	s, err := repo.Begin(ctx, chunkstore.BeginOptions{Host: b.system})
	if err != nil {
		return err
	}
	system, err := b.save(ctx, s)
	if err == nil {
		err = note(b.history, "try %s %s", s.ID().Random(), sum)
	}
	if err != nil {
		return errors.Join(err, s.Abort(ctx))
	}
	snap := &snapshot.Snapshot{Summary: snapshot.Summary{System: b.system, Host: b.system, Time: time.Now().Truncate(0), Complete: true}, System: system}
	if err := snapshot.Commit(ctx, s, snap); err != nil {
		return err
	}
	return note(b.history, "good %s %s", s.ID().Random(), sum)
}

func (b *backup) open(ctx context.Context) (*chunkstore.Repository, error) {
	key, err := os.ReadFile(b.key)
	if err != nil {
		return nil, err
	}
	at, err := openStore(ctx, b.endpoint)
	if err != nil {
		return nil, err
	}
	return chunkstore.Open(ctx, chunkstore.Retry(at, chunkstore.RetryOptions{MaxElapsed: b.retry}), crypto.KeyFile(key), chunkstore.Options{
		CacheDir: filepath.Join(b.dir, "cache", "hakobune"), StateDir: filepath.Join(b.dir, "state", "hakobune"),
	})
}

func (b *backup) data() string { return filepath.Join(b.dir, "data") }

// blocks is how many different files there are in the world: few, so that hosts share what they store.
const blocks = 120

// change makes other files, and returns the sum of them all.
func (b *backup) change() (string, error) {
	if err := os.RemoveAll(b.data()); err != nil {
		return "", err
	}
	if err := os.MkdirAll(b.data(), 0o700); err != nil {
		return "", err
	}
	sums := map[string][]byte{}
	for range 5 + b.dice.IntN(20) {
		n := b.dice.IntN(blocks)
		if b.dice.IntN(8) == 0 {
			n = b.dice.Int() // what nobody else has
		}
		name, content := fmt.Sprintf("block-%d", n), block(n)
		sum := sha256.Sum256(content)
		sums[name] = sum[:]
		if err := os.WriteFile(filepath.Join(b.data(), name), content, 0o600); err != nil {
			return "", err
		}
	}
	return total(sums), nil
}

// block is a file's content: up to 300 KB that do not compress.
func block(n int) []byte {
	dice := rand.New(rand.NewPCG(uint64(n), 2))
	content := make([]byte, 100+dice.IntN(300_000))
	rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}).Read(content)
	return content
}

// total is the sum of files, by their names and sums.
func total(sums map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		fmt.Fprintf(h, "%s %x\n", name, sums[name])
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// save stores the files as a volume, and one of a few layers, which are found by their names.
func (b *backup) save(ctx context.Context, s *chunkstore.Session) (system snapshot.System, err error) {
	layer := layer(b.dice.IntN(10))
	diffID := fmt.Sprintf("sha256:%x", sha256.Sum256(layer))
	size, known, err := archive.HasLayer(ctx, s, diffID)
	if err == nil && !known {
		size, err = archive.SaveLayer(ctx, s, diffID, bytes.NewReader(layer))
	}
	if err != nil {
		return system, err
	}
	from, err := exporter.OpenDir(b.data(), exporter.DirOptions{})
	if err != nil {
		return system, err
	}
	defer from.Close()
	w := s.NewStream(ctx)
	stats, err := archive.WriteTree(ctx, from, s, w, archive.TreeOptions{})
	records, finish := w.Finish()
	tree := &snapshot.Archive{Records: records, Entries: stats.Entries, Bytes: stats.Bytes}
	return snapshot.System{
		Name:    b.system,
		Images:  []snapshot.Image{{Config: "sha256:" + diffID[7:], Layers: []snapshot.Layer{{DiffID: diffID, Size: size}}}},
		Volumes: []snapshot.Volume{{Name: "data", Content: tree}},
	}, errors.Join(err, finish)
}

// layer is a tar of one file.
func layer(n int) []byte {
	var b bytes.Buffer
	w, content := tar.NewWriter(&b), block(-1-n)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "layer", Mode: 0o600, Size: int64(len(content))}), write(w, content), w.Close()); err != nil {
		panic(err) // to memory
	}
	return b.Bytes()
}

func write(w io.Writer, b []byte) error {
	_, err := w.Write(b)
	return err
}

// tarSum is total of the files in a tar.
func tarSum(r io.Reader) (string, error) {
	sums := map[string][]byte{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return total(sums), nil
		}
		if err != nil {
			return "", err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, t); err != nil {
			return "", err
		}
		sums[filepath.Base(h.Name)] = sum.Sum(nil)
	}
}
