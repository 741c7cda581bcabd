package transfer

import (
	"context"
	"fmt"
	"iter"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// learn takes from the newest copy that the destination has of a snapshot of the same system which chunks
// are the same. A copy that cannot be read teaches nothing, and harms nothing: what is not known is read.
func (c *Copier) learn(ctx context.Context, s snapshot.Summary) error {
	if c.learned[s.System] {
		return nil
	}
	c.learned[s.System] = true
	for _, original := range c.source.Snapshots { // newest first
		if original.System != s.System {
			continue
		}
		if copied, ok := c.There(original); ok {
			if err := c.compare(ctx, original, copied); err != nil {
				return ctx.Err()
			}
			return nil
		}
	}
	return nil
}

// compare learns from one copy.
func (c *Copier) compare(ctx context.Context, original, copied snapshot.Summary) error {
	ours, err := c.source.Load(ctx, original)
	if err != nil {
		return err
	}
	theirs, err := c.target.Load(ctx, copied)
	if err != nil {
		return err
	}
	at := map[string]*snapshot.Archive{}
	for _, t := range trees(&theirs.System) {
		at[t.what] = *t.archive
	}
	for _, t := range trees(&ours.System) {
		from, to := *t.archive, at[t.what]
		if from == nil || to == nil {
			continue
		}
		if err := c.compareTree(ctx, from.Records, to.Records); err != nil {
			return fmt.Errorf("%s: %w", t.what, err)
		}
	}
	return nil
}

// compareTree learns from one tree, up to where the two differ in more than ids.
func (c *Copier) compareTree(ctx context.Context, from, to chunkstore.Stream) error {
	theirs, stop := iter.Pull2(archive.Records(ctx, c.to, to))
	defer stop()
	for e, err := range archive.Records(ctx, c.from, from) {
		if err != nil {
			return err
		}
		same, err, ok := theirs()
		if err != nil {
			return err
		}
		if !ok || !c.pair(&e, &same) {
			return nil
		}
	}
	return nil
}

// pair takes down the ids of two records that are the same but for these, and reports whether they are.
func (c *Copier) pair(from, to *archive.Entry) bool {
	if from.Path != to.Path || from.Type != to.Type || from.Size != to.Size || len(from.Extents) != len(to.Extents) {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range from.Extents {
		a, b := from.Extents[i].Refs, to.Extents[i].Refs
		if len(a) != len(b) {
			return false
		}
		for k := range a {
			if a[k].Offset != b[k].Offset || a[k].Length != b[k].Length {
				return false
			}
			c.ids[a[k].ID] = b[k].ID
		}
	}
	return true
}
