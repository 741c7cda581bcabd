package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/crypto"
)

// plan chooses the packs that are not needed, and those to be rewritten.
func (c *collector) plan(ctx context.Context) error {
	deleted, left := deletedBy(c.marks), c.others()
	var partial []*packUsage
	var needed int64
	for id, u := range c.packs {
		needed += u.liveBytes
		switch {
		case u.stored == 0 || left[id] || deleted[id]:
		case u.unsure && u.live == 0:
			c.report.Young.add(u.stored)
		case u.live == 0:
			c.report.Unneeded.add(u.stored)
			c.dead = append(c.dead, u.PackRef)
		case c.stored[id].archived: // to read it would take hours and cost something
		case u.ofHost: // whoever stores for a put-only host would have to be it
		case !u.unsure:
			c.report.Unused += u.bytes - u.liveBytes
			partial = append(partial, u)
		}
	}
	for id, p := range c.stored {
		switch {
		case deleted[id]:
			c.leftover = append(c.leftover, p.PackRef)
		case c.packs[id] != nil || left[id]:
		case c.now.Sub(p.modified) < c.r.ages.orphan:
			c.report.Young.add(p.size)
		default:
			c.report.Orphans.add(p.size)
			c.dead = append(c.dead, p.PackRef)
		}
	}
	if c.r.locker == nil { // what is locked takes its space, rewritten or not
		c.rewrite = c.choose(partial, needed)
	}
	chosen := map[PackID]bool{}
	for _, u := range c.rewrite {
		chosen[u.ID] = true
		c.report.Repack.add(u.stored)
	}
	for id, u := range c.packs {
		if u.live > 0 && u.stored > 0 && !deleted[id] && !chosen[id] && u.old {
			c.report.Old.add(u.stored)
		}
	}
	return c.unlocked(ctx)
}

// isOld tells whether an object is sealed in an older key epoch than the newest. What put-only hosts have sealed stays as it
// is.
func (c *collector) isOld(object []byte) bool {
	return len(object) >= crypto.HeaderSize && !crypto.OfHost(object) && crypto.ObjectEpoch(object) < c.r.keys.Epoch()
}

// others returns the packs that are left to other marks: of collections that run, and those that are carried
// out anyway.
func (c *collector) others() map[PackID]bool {
	return packsOf(func(yield func(*mark) bool) {
		for _, m := range c.marks {
			if (c.isOwn(m) || c.runs(m)) && !m.done && !yield(m) {
				return
			}
		}
	})
}

func (c *collector) isOwn(m *mark) bool { return c.own != "" && strings.HasPrefix(m.name, c.own) }

// runs tells whether the collection of a mark may still run.
func (c *collector) runs(m *mark) bool {
	return !m.runs.IsZero() && c.now.Sub(m.runs) < c.r.ages.silent
}

const (
	smallPack = 4  // a pack below a quarter of the target is a small one
	manySmall = 16 // so many of one kind are merged
)

// choose returns the packs to be rewritten: those with the least that is needed, until what is unused is
// within bounds, small ones where there are many, and those of old key epochs. partial has all packs that may be.
func (c *collector) choose(partial []*packUsage, needed int64) []*packUsage {
	slices.SortFunc(partial, func(a, b *packUsage) int {
		return cmp.Or(compareShare(a, b), strings.Compare(a.Name(), b.Name())) // the same order each time
	})
	small := map[Kind]int{}
	for _, u := range partial {
		if u.small() {
			small[u.Kind]++
		}
	}
	unused, bound := c.report.Unused, int64(c.o.MaxUnused*float64(needed))
	budget, reencrypt := c.o.MaxRepack, c.o.MaxReencrypt
	var chosen []*packUsage
	for _, u := range partial {
		worthwhile := c.o.MaxUnused >= 0 && unused > bound && u.live < u.chunks || u.small() && small[u.Kind] >= manySmall
		if !worthwhile {
			if !u.old || reencrypt >= 0 && reencrypt < u.stored {
				continue
			}
			reencrypt -= max(0, min(u.stored, reencrypt))
		}
		if c.o.MaxRepack > 0 {
			if budget -= u.stored; budget < 0 {
				break
			}
		}
		unused -= u.bytes - u.liveBytes
		chosen = append(chosen, u)
	}
	return chosen
}

func (u *packUsage) small() bool { return u.stored < int64(packTarget(u.Kind)/smallPack) }

// compareShare orders packs by the share of their bytes that is needed.
func compareShare(a, b *packUsage) int {
	return cmp.Compare(float64(a.liveBytes)/float64(a.bytes), float64(b.liveBytes)/float64(b.bytes))
}

// repack stores what is needed of the chosen packs anew, in a session of its own that ends before
// anything is marked. A pack that cannot be read stays.
func (c *collector) repack(ctx context.Context) error {
	if len(c.rewrite) == 0 {
		return nil
	}
	s, err := c.r.Begin(ctx, BeginOptions{Host: c.o.Host, Program: "prune"})
	if err != nil {
		return err
	}
	if err := c.rewriteInto(ctx, s); err != nil {
		return errors.Join(err, s.Abort(ctx))
	}
	err = s.Retire(ctx)
	c.report.Repacked = s.Stats().StoredBytes
	return err
}

func (c *collector) rewriteInto(ctx context.Context, s *Session) error {
	avoid := packsOf(maps.Values(c.marks))
	var total, done int64
	for _, u := range c.rewrite {
		avoid[u.ID] = true
		total += u.stored
	}
	for _, p := range c.dead {
		avoid[p.ID] = true
	}
	c.r.index.avoid(avoid)
	for _, u := range c.rewrite {
		c.o.Progress("rewrite", done, total)
		err := c.rewritePack(ctx, s, u)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case s.err() != nil:
			return s.err()
		case err != nil:
			c.report.Problems = append(c.report.Problems, fmt.Errorf("pack %s: %w", u.Name(), err))
		default:
			c.dead = append(c.dead, u.PackRef)
		}
		done += u.stored
	}
	return nil
}

// rewritePack saves the chunks of one pack that are needed.
func (c *collector) rewritePack(ctx context.Context, s *Session, u *packUsage) error {
	object, err := c.r.backend.Get(ctx, u.Name(), 0, -1)
	if err != nil {
		return err
	}
	plain, entries, err := openPack(c.r.keys, u.PackRef, object)
	if err != nil {
		return err
	}
	for _, e := range entries {
		needed, err := c.needs(e.id, u.ID)
		if err != nil {
			return err
		}
		if !needed {
			continue
		}
		chunk, err := c.r.coder.decode(c.r.keys, e, plain[e.offset:][:e.stored])
		if err != nil {
			return err
		}
		if _, err := s.Save(ctx, e.kind, chunk); err != nil {
			return err
		}
	}
	return nil
}

// needs tells whether the copy of a chunk in that pack is a needed one.
func (c *collector) needs(id ID, pack PackID) (needed bool, err error) {
	err = c.live.list.each(id, func(at location, n int) bool {
		needed = at.pack.ID == pack && c.live.has(n)
		return !needed
	})
	return needed, err
}
