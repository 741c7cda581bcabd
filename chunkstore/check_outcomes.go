package chunkstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/hakobune-dr/hakobune/crypto"
)

// claims reads what says whose systems are.
func (c *checker) claims(ctx context.Context) error {
	all, err := c.r.Claims(ctx, "")
	for _, claim := range all {
		if claim.Err != nil {
			c.fault(claim.Name, claim.Err)
		}
	}
	return err
}

// outcomes verifies every snapshot down to the index entries of its chunks.
func (c *checker) outcomes(ctx context.Context) error {
	for name, err := range c.forgets.bad {
		c.fault(name, err)
	}
	c.chains(c.listed)
	for _, o := range c.listed {
		if err := c.sealings(ctx, o); err != nil {
			return err
		}
		if o.Late && !o.Forgotten {
			c.fault(o.Name, errLate)
		}
		if !o.wanted() {
			continue
		}
		c.report.Snapshots++
		if err := o.Err; err != nil {
			c.fault(o.Name, err, o)
			continue
		}
		c.snapshots = append(c.snapshots, o)
		if err := c.snapshot(ctx, len(c.snapshots)-1); err != nil {
			return err
		}
	}
	return nil
}

// sealings verifies all objects of an outcome that was sealed anew and has others still.
func (c *checker) sealings(ctx context.Context, o Outcome) error {
	if len(o.Objects) < 2 || o.Err != nil {
		return nil
	}
	for _, name := range o.Objects {
		other, err := c.r.openOutcome(ctx, name)
		if err == nil && other.Digest != o.Digest {
			err = fmt.Errorf("%w: two objects of one snapshot differ", crypto.ErrDamaged)
		}
		if errors.Is(err, ErrNotExist) {
			continue // deleted since it was listed: the one that was read stays
		}
		if err := c.found(ctx, name, err, o); err != nil {
			return err
		}
	}
	return nil
}

// records verifies that what was done can be proved.
func (c *checker) records(ctx context.Context) error {
	all, err := c.r.Records(ctx)
	for _, record := range all {
		if record.Err != nil {
			c.fault(record.Objects[0], record.Err)
			continue
		}
		if err := c.recordSealings(ctx, record); err != nil {
			return err
		}
	}
	return err
}

// recordSealings verifies all objects of a record that was sealed anew and has others still.
func (c *checker) recordSealings(ctx context.Context, record Record) error {
	if len(record.Objects) < 2 {
		return nil
	}
	for _, name := range record.Objects {
		other, err := c.r.openRecord(ctx, Info{Name: name})
		if err == nil && (other.Kind != record.Kind || !other.Time.Equal(record.Time) || !bytes.Equal(other.Body, record.Body)) {
			err = fmt.Errorf("%w: two objects of one record differ", crypto.ErrDamaged)
		}
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err := c.found(ctx, name, err); err != nil {
			return err
		}
	}
	return nil
}

// chains looks for outcomes that a writer's later one names but that are gone, and were not forgotten, or
// replaced: somebody removed them, or the store shows an earlier state.
func (c *checker) chains(all []Outcome) {
	byName := map[string]Outcome{}
	for _, o := range all {
		byName[o.Name] = o
	}
	for _, o := range all {
		if o.Previous == nil {
			continue
		}
		name := sessionName(outcomePrefix, o.Writer, o.Previous.Session)
		before, ok := byName[name]
		if !ok && c.forgets.names[name] {
			continue
		}
		if !ok {
			c.fault(name, c.loss(errors.New("missing: the writer's next outcome names it")))
			continue
		}
		if before.Err != nil {
			continue // reported by itself
		}
		if before.Digest != o.Previous.SHA256 {
			c.fault(name, fmt.Errorf("%w: is not what the writer's next outcome names", crypto.ErrDamaged), before)
		}
	}
}

// snapshot verifies one snapshot, the n-th of c.snapshots.
func (c *checker) snapshot(ctx context.Context, n int) error {
	o := c.snapshots[n]
	missing := 0
	for ref, err := range c.r.outcomeRefs(ctx, o, c.o.Walk) {
		if err != nil {
			if IsLoss(err) {
				err = c.loss(err)
			}
			c.lacks(o, missing)
			return c.found(ctx, "", err, o)
		}
		l, ok, err := c.r.index.lookup(ref.ID)
		switch {
		case err != nil:
			return err
		case !ok || c.gone[l.pack.ID]:
			missing++
			continue
		case int64(ref.Offset)+int64(ref.Length) > int64(l.plain):
			c.fault("", fmt.Errorf("%w: chunk %v has %d bytes, the snapshot needs %d+%d", crypto.ErrDamaged, ref.ID, l.plain, ref.Offset, ref.Length), o)
		}
		users := c.users[l.pack.ID]
		if users == nil {
			users = map[int]bool{}
			c.users[l.pack.ID] = users
		}
		users[n] = true
	}
	c.lacks(o, missing)
	return ctx.Err()
}

// lacks reports that so many chunks of a snapshot are not in the index.
func (c *checker) lacks(o Outcome, chunks int) {
	if chunks > 0 {
		c.fault("", c.loss(fmt.Errorf("%d of its chunks: %w", chunks, ErrChunkMissing)), o)
	}
}
