package chunkstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// mark condemns what is dead. When the mark is durable, every session that may not have seen it is one
// that has begun and not ended: these are noted (2-format: G2, G3).
func (c *collector) mark(ctx context.Context) error {
	if len(c.dead) == 0 {
		return nil
	}
	m := &mark{name: c.name, condemns: c.dead, modified: c.now}
	if err := c.r.putSigned(ctx, crypto.TypeMark, m.name, marshalPackRefs(c.dead)); err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	c.marks[m.name] = m
	if c.lag() > 0 { // whoever began just now may not have seen it, nor may we see them
		return nil
	}
	return c.note(ctx, m)
}

// lag is how late the lists of this store may be. Those that create conditionally are consistent (AWS, MinIO,
// Ceph, directories); of the others some are not (OpenStack Swift). There marking, noting for whom to wait, and
// deleting are steps of three collections.
func (c *collector) lag() time.Duration {
	if c.creates {
		return 0
	}
	return c.r.ages.lag
}

// note writes down for whom a mark waits.
func (c *collector) note(ctx context.Context, m *mark) error {
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return err
	}
	m.waits, m.waiting, m.noted = s.running(), true, c.now
	text, err := json.Marshal(waitsRecord{Version: 1, Sessions: m.waits})
	if err != nil {
		return err
	}
	return c.r.putSigned(ctx, crypto.TypeMark, m.name+waitsSuffix, text)
}

// sweep carries out the writer's marks for which nobody has to be waited any more, also those of earlier
// collections, which stopped before that. Marks of other writers are left to them; what they condemn and
// nobody needs comes into a mark of our own when they do not run.
func (c *collector) sweep(ctx context.Context) error {
	var ready []*mark
	for _, name := range slices.Sorted(maps.Keys(c.marks)) {
		m := c.marks[name]
		if m.done || m.condemns == nil || !c.isOwn(m) {
			continue
		}
		ok, err := c.ready(ctx, m)
		if err != nil {
			return err
		}
		if ok {
			ready = append(ready, m)
		}
	}
	if len(ready) > 0 {
		if err := c.recheck(ctx); err != nil {
			return err
		}
	}
	for _, m := range ready {
		if m = c.marks[m.name]; m == nil || m.done {
			continue
		}
		if err := c.carryOut(ctx, m); err != nil {
			return err
		}
	}
	return c.remove(ctx, c.leftover)
}

// ready tells whether all for whom a mark waits have ended. Those that are silent for too long are given up.
func (c *collector) ready(ctx context.Context, m *mark) (bool, error) {
	if !m.waiting { // its collection was killed before it wrote that down, or the lists had to catch up
		if c.now.Sub(m.modified) < c.lag() {
			return false, nil
		}
		if err := c.note(ctx, m); err != nil {
			return false, err
		}
	}
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return false, err
	}
	all := c.now.Sub(m.noted) >= c.lag()
	for _, name := range m.waits {
		begun, announced := s.begun[name]
		switch ended, ok := s.ended[name]; {
		case ok:
			all = all && c.now.Sub(ended) >= c.lag()
			continue
		case !announced: // the outcome is gone too: of a snapshot that was forgotten
			continue
		}
		gone, err := c.giveUp(ctx, name, begun)
		if err != nil {
			return false, err
		}
		all = all && gone && c.lag() == 0
	}
	return all, nil
}

// giveUp fences a session that is silent for too long, and reports whether it has ended by that.
func (c *collector) giveUp(ctx context.Context, name string, alive time.Time) (bool, error) {
	w, id, _, err := parseSessionName(sessionPrefix, name)
	if err != nil {
		return true, nil // nothing of ours
	}
	if err := c.r.backend.List(ctx, sessionName(deltaPrefix, w, id)+"-", func(i Info) error {
		if i.Modified.After(alive) {
			alive = i.Modified
		}
		return nil
	}); err != nil {
		return false, err
	}
	limit := c.r.ages.silent
	switch {
	case c.own == markPrefix+w.String()+"/": // nobody else is this writer while we are: the session's process has died
		limit = 0
	case c.creates && hasDied(c.r.opts.StateDir, c.r.keys.Repository(), w): // if it has ended instead, it keeps its outcome
		limit = 0
	case !c.creates:
		limit = c.r.ages.record
	}
	if c.now.Sub(alive) < limit {
		c.report.wait(RunningSession{id, w, c.r.sessionHost(ctx, name), alive})
		return false, nil
	}
	if err := c.r.fence(ctx, w, id, c.creates); err != nil {
		return false, fmt.Errorf("give up session %s: %w", name, err)
	}
	c.report.Fenced = append(c.report.Fenced, name)
	return true, nil
}

// sessionHost returns which host a session says it runs on.
func (r *Repository) sessionHost(ctx context.Context, name string) string {
	record, err := r.readSession(ctx, name)
	if err != nil {
		r.log.Debug("a session does not say which host it runs on", "object", name, "error", err)
	}
	return record.Host
}

func (r *Repository) readSession(ctx context.Context, name string) (record sessionRecord, err error) {
	object, err := r.backend.Get(ctx, name, 0, -1)
	if err == nil {
		object, err = r.keys.Open(crypto.TypeSession, name, object)
	}
	if err == nil {
		err = unmarshalVersioned(object, &record)
	}
	return record, err
}

func (p *CollectReport) wait(s RunningSession) {
	if !slices.ContainsFunc(p.Waits, func(o RunningSession) bool { return o.Session == s.Session }) {
		p.Waits = append(p.Waits, s)
	}
}

// recheck computes anew what is needed, from what there is now: those that were waited for may have come
// to need something, and other collections have marked packs that no longer count as copies.
func (c *collector) recheck(ctx context.Context) error {
	var err error
	if c.marks, err = c.r.marks(ctx); err != nil {
		return err
	}
	return c.assess(ctx)
}

// carryOut puts on record which packs of a mark are deleted, those that nobody needs, and deletes them.
func (c *collector) carryOut(ctx context.Context, m *mark) error {
	var doomed []PackRef
	for _, p := range m.condemns {
		if c.rescues(p) {
			c.report.Rescued++
		} else {
			doomed = append(doomed, p)
		}
	}
	if err := c.fresh(); err != nil {
		return err
	}
	err := c.record(ctx, m.name+doneSuffix, marshalPackRefs(doomed))
	if errors.Is(err, ErrExist) {
		return nil // a copy of this host was faster, with another list perhaps
	}
	if err != nil {
		return fmt.Errorf("mark: %w", err)
	}
	m.done, m.deleted = true, doomed
	return c.remove(ctx, doomed)
}

// record is putSigned where nothing is there yet, as far as the store can tell.
func (c *collector) record(ctx context.Context, name string, body []byte) error {
	object, err := c.r.sealSigned(crypto.TypeMark, name, body)
	if err != nil {
		return err
	}
	if c.creates {
		return c.r.backend.(Creator).PutIfAbsent(ctx, name, object)
	}
	return c.r.backend.Put(ctx, name, object)
}

// rescues tells whether a condemned pack stays: because something of it is needed, or because no index object
// that could be seen lists it although it is not old enough for a pack of which that is to be expected.
func (c *collector) rescues(p PackRef) bool {
	u := c.packs[p.ID]
	if u == nil {
		s, stored := c.stored[p.ID]
		return stored && c.now.Sub(s.modified) < c.r.ages.orphan
	}
	return u.live > 0
}

// longLook is how old may be what a collection knows of what is needed when it acts on it: nobody waits for
// ever for a collection that stands still.
const longLook = 6 * time.Hour

// fresh returns an error if too much time has gone by since it was found out what is needed.
func (c *collector) fresh() error {
	if time.Now().Round(0).Sub(c.checked) > longLook { // by the wall clock: the other one stands still with the machine
		return errors.New("the collection stood still for too long: run it again")
	}
	return nil
}

// remove deletes packs that are on record as deleted.
func (c *collector) remove(ctx context.Context, packs []PackRef) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	if len(packs) > 0 {
		c.o.Progress("delete", 0, 0)
	}
	var mu sync.Mutex
	for _, p := range packs {
		g.Go(func() error {
			gone, err := c.r.delete(gctx, p.Name())
			mu.Lock()
			defer mu.Unlock()
			s, ok := c.stored[p.ID]
			switch {
			case err != nil || !ok:
				return err
			case !gone: // the session that has come to need it locked it, and died
				c.report.Locked.add(s.size)
				return nil
			}
			c.report.Deleted.add(s.size)
			delete(c.stored, p.ID)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}
