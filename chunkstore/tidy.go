package chunkstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// deleteAll deletes objects, several at a time, but for those that are locked.
func (c *collector) deleteAll(ctx context.Context, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, name := range names {
		g.Go(func() error {
			_, err := c.r.delete(ctx, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// tidy deletes the records that are of no use any more.
func (c *collector) tidy(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.tidySessions, c.tidyOutcomes, c.tidyMarks, c.tidyAside} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("tidy: %w", err)
		}
	}
	return nil
}

// tidySessions deletes what announced sessions that have ended.
func (c *collector) tidySessions(ctx context.Context) error {
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return err
	}
	var names []string
	for name := range s.begun {
		if _, ended := s.ended[name]; ended {
			names = append(names, name)
		}
	}
	return c.deleteAll(ctx, names)
}

// tidyOutcomes deletes outcomes of forgotten snapshots and, after a time, of sessions that gave up by
// themselves, but not those that a writer's next one names which stays, or may name as far as can be read. One by which a collection
// gave a session up stays: were it gone, that session, should it come back to life, could commit. So does each
// writer's newest, which the next one will name; and one whose session is still announced, which would then
// look as if it ran.
func (c *collector) tidyOutcomes(ctx context.Context) error {
	all, _, err := c.r.allOutcomes(ctx)
	if err != nil {
		return err
	}
	announced, err := listNames(ctx, c.r.backend, sessionPrefix)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, name := range announced {
		keep[outcomePrefix+strings.TrimPrefix(name, sessionPrefix)] = true
	}
	newest, unread := map[crypto.WriterID]string{}, map[crypto.WriterID]bool{}
	for _, o := range all {
		newest[o.Writer] = max(newest[o.Writer], o.Name)
		unread[o.Writer] = unread[o.Writer] || o.Err != nil
	}
	goes := func(o Outcome) bool {
		return o.Forgotten && o.Name != newest[o.Writer] && !slices.Contains(announced, sessionName(sessionPrefix, o.Writer, o.Session))
	}
	for _, o := range all {
		if o.Previous != nil && !goes(o) {
			keep[sessionName(outcomePrefix, o.Writer, o.Previous.Session)] = true
		}
	}
	var names []string
	for _, o := range all {
		switch old := c.now.Sub(o.Modified) > c.r.ages.record; {
		case o.Name == newest[o.Writer]:
		case goes(o):
			names = append(names, o.Objects...)
			c.report.Records++
		case o.Err == nil && o.Aborted && !o.Fenced && old && !keep[o.Name] && !unread[o.Writer]:
			names = append(names, o.Objects...)
		}
	}
	return c.deleteAll(ctx, names)
}

// tidyMarks deletes marks that were carried out long ago, when nobody is there who may have read the index
// before and no index object lists their packs; those of other writers that have come to mean nothing, because
// none of their packs is there any more; and signs of life of collections that died. A mark that can still be
// carried out stays, for nobody but its writer knows whether it is about to be.
func (c *collector) tidyMarks(ctx context.Context) error {
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return err
	}
	oldest := c.now // of those who run
	for _, name := range s.running() {
		oldest = earlier(oldest, s.begun[name])
	}
	done := map[string]time.Time{}
	var dead []string
	if err := c.r.backend.List(ctx, markPrefix, func(i Info) error {
		if name, ok := strings.CutSuffix(i.Name, doneSuffix); ok {
			done[name] = i.Modified
		}
		switch runs := strings.HasSuffix(i.Name, runSuffix); {
		case runs && c.now.Sub(i.Modified) > c.r.ages.record && i.Name != c.name+runSuffix:
			dead = append(dead, i.Name)
		case runs:
			oldest = earlier(oldest, i.Modified)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := c.deleteAll(ctx, dead); err != nil {
		return err
	}
	stored, err := c.r.listPacks(ctx)
	if err != nil {
		return err
	}
	listed, err := c.listedPacks()
	if err != nil {
		return err
	}
	for name, m := range c.marks {
		at, isDone := done[name]
		old := isDone && c.now.Sub(at) > c.r.ages.record && oldest.After(at)
		moot := !isDone && m.condemns != nil && !c.isOwn(m) && !c.runs(m)
		if !old && !moot || slices.ContainsFunc(m.packs(), func(p PackRef) bool {
			_, there := stored[p.ID]
			return there || listed[p.ID]
		}) {
			continue
		}
		for _, suffix := range []string{waitsSuffix, "", doneSuffix} { // in this order: never a mark that looks as if not carried out
			if gone, err := c.r.delete(ctx, name+suffix); err != nil {
				return err
			} else if !gone {
				break
			}
		}
	}
	return nil
}

// tidyAside deletes damaged packs that were set aside long ago: everything that snapshots need has just been found
// elsewhere.
func (c *collector) tidyAside(ctx context.Context) error {
	var names []string
	if err := c.r.backend.List(ctx, asidePrefix, func(i Info) error {
		if c.now.Sub(i.Modified) > c.r.ages.record {
			names = append(names, i.Name)
		}
		return nil
	}); err != nil {
		return err
	}
	return c.deleteAll(ctx, names)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
