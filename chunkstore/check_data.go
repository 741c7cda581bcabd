package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// data reads the selected packs whole.
func (c *checker) data(ctx context.Context) error {
	selected, total := c.o.Data.selectPacks(c.stored)
	if len(selected) == 0 {
		return nil
	}
	indexed, err := c.indexed(selected)
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(3)
	for _, name := range selected {
		g.Go(func() error {
			ref, err := parsePackName(name)
			if err == nil {
				err = c.readPack(gctx, ref, indexed[ref.ID])
			}
			if gctx.Err() != nil {
				return gctx.Err()
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if errors.Is(err, ErrArchived) {
				c.report.Archived++
				return nil
			}
			if errors.Is(err, ErrNotExist) {
				err = c.loss(err)
			}
			if err != nil && (c.bad[name] == nil || !IsPassing(err)) {
				c.bad[name] = err
			}
			c.report.ReadPacks++
			c.report.ReadBytes += c.stored[name]
			if c.o.Progress != nil {
				c.o.Progress(c.report.ReadBytes, total)
			}
			return nil
		})
	}
	return g.Wait()
}

// indexed returns what the index says of the named packs.
func (c *checker) indexed(names []string) (map[PackID]packUse, error) {
	uses := make(map[PackID]packUse, len(names))
	err := c.r.index.packs(func(p packUse) {
		if _, ok := slices.BinarySearch(names, p.Name()); ok {
			uses[p.ID] = p
		}
	})
	return uses, err
}

// readPack verifies every byte of one pack and that the index lists what it holds. The zero indexed
// stands for a pack that the index does not know.
func (c *checker) readPack(ctx context.Context, ref PackRef, indexed packUse) error {
	object, err := c.r.backend.Get(ctx, ref.Name(), 0, -1)
	if err != nil {
		return err
	}
	plain, entries, err := openPack(c.r.keys, ref, object)
	if err != nil {
		return err
	}
	known := indexed.indexedPack != nil
	if known && !strings.HasPrefix(string(object[:crypto.HeaderSize]), string(indexed.header[:])) {
		return fmt.Errorf("%w: header differs from the one in the index", crypto.ErrDamaged)
	}
	if known && indexed.chunks != len(entries) {
		return fmt.Errorf("%w: holds %d chunks, the index lists %d", crypto.ErrDamaged, len(entries), indexed.chunks)
	}
	return errors.Join(c.r.verify(ref, object, plain, entries)...)
}
