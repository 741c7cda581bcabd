package chunkstore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/crypto"
)

const (
	// fewIndexes is how many objects an index may have and is still read fast.
	fewIndexes = 16
	// segmentEntries is how many chunks one segment lists: 25 MB, of packs that no other segment lists.
	segmentEntries = 512 << 10
)

// consolidate merges the index objects of all sessions that have ended into segments, without the packs
// that were deleted. It creates the segments before it deletes what they replace, so at any moment the
// index has every pack that is stored. Another collection may do the same: then it begins again.
//
// Of a locked repository the index is not merged: its objects could not be deleted.
func (c *collector) consolidate(ctx context.Context) error {
	if c.r.locker != nil {
		return nil
	}
	// From here on nobody asks for each pack, or for what is needed of it.
	lists, merged := c.lists(deletedBy(c.marks)), false
	c.live, c.packs, c.stored, c.rewrite, c.dead = nil, nil, nil, nil, nil
	err := c.r.relist(ctx, func() error {
		var err error
		merged, err = c.mergeIndex(ctx, lists)
		return err
	})
	if err == nil && merged {
		err = c.r.LoadIndex(ctx)
	}
	if err != nil {
		return fmt.Errorf("merge the index: %w", err)
	}
	return nil
}

// mergeIndex is one attempt; it reports whether there was something to do. lists says that the index lists deleted packs.
func (c *collector) mergeIndex(ctx context.Context, lists bool) (bool, error) {
	s, err := c.r.listSessions(ctx)
	if err != nil {
		return false, err
	}
	names, err := c.r.indexNames(ctx)
	if err != nil {
		return false, err
	}
	c.report.Indexes = [2]int{len(names), len(names)}
	ended := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return ofRunning(s, name) || c.isJunk(ctx, name) })
	deleted := deletedBy(c.marks)
	if c.lag() > 0 {
		if waits, err := c.removeMerged(ctx, ended, deleted); err != nil || waits {
			return false, err
		}
	}
	old, err := c.oldIndex(ctx, ended)
	if err != nil || len(ended) <= fewIndexes && !lists && !old {
		return false, err
	}
	c.o.Progress("merge the index", 0, 0)
	segments, err := c.writeSegments(ctx, ended, func(id PackID) bool { return !deleted[id] })
	if err != nil {
		return false, err
	}
	if c.lag() > 0 {
		c.report.Indexes[1] += segments
		return true, nil
	}
	c.report.Indexes[1] = len(names) - len(ended) + segments
	return true, c.deleteAll(ctx, ended)
}

// removeMerged deletes those of the named index objects that list nothing beside what the newest merge lists, or what is
// deleted, once every list shows that. It reports whether merging anew has to wait.
func (c *collector) removeMerged(ctx context.Context, names []string, deleted map[PackID]bool) (waits bool, err error) {
	merged, young, err := c.newestMerge(ctx, names)
	if err != nil || young || len(merged) == 0 {
		return young, err
	}
	listed := map[PackID]bool{}
	for _, name := range merged {
		d, err := c.r.readIndexObject(ctx, name)
		if err != nil {
			return false, err
		}
		for record := range slices.Chunk(d.packs, indexPackSize) {
			listed[packRecordID(record)] = true
		}
	}
	var replaced []string
	for _, name := range names {
		if slices.Contains(merged, name) {
			continue
		}
		d, err := c.r.readIndexObject(ctx, name)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(slices.Collect(slices.Chunk(d.packs, indexPackSize)), func(record []byte) bool {
			id := packRecordID(record)
			return !listed[id] && !deleted[id]
		}) {
			replaced = append(replaced, name)
		}
	}
	c.report.Indexes[1] -= len(replaced)
	return len(replaced) > 0, c.deleteAll(ctx, replaced)
}

// newestMerge returns those of the named index objects that are the segments written last. young tells that some list may
// not show them yet.
func (c *collector) newestMerge(ctx context.Context, names []string) (merged []string, young bool, err error) {
	var newest Info // the later one by name of two of the same second: whoever sees both chooses the same
	for _, name := range names {
		if !strings.HasPrefix(name, segmentPrefix) {
			continue
		}
		i, err := c.r.backend.Stat(ctx, name)
		if err != nil {
			return nil, false, err
		}
		if !i.Modified.Before(newest.Modified) {
			newest = i
		}
	}
	if newest.Name == "" {
		return nil, false, nil
	}
	of := newest.Name[strings.LastIndexByte(newest.Name, '/') : strings.LastIndexByte(newest.Name, '-')+1]
	for _, name := range names {
		if strings.HasPrefix(name, segmentPrefix) && strings.Contains(name, of) { // of put-only hosts too
			merged = append(merged, name)
		}
	}
	return merged, c.now.Sub(newest.Modified) < c.lag(), nil
}

// isJunk tells whether an index object of a put-only host does not open: nobody knows what it was.
func (c *collector) isJunk(ctx context.Context, name string) bool {
	if !c.r.ofPutOnly(name) {
		return false
	}
	_, err := c.r.readIndexObject(ctx, name)
	return isDamage(err)
}

// oldIndex tells whether one of the index objects is to be sealed anew, in the newest key epoch.
func (c *collector) oldIndex(ctx context.Context, names []string) (bool, error) {
	if c.o.MaxReencrypt == 0 || c.r.keys.Epoch() == 1 {
		return false, nil
	}
	for _, name := range names {
		object, err := c.r.cachedGet(ctx, name)
		if err != nil {
			return false, err
		}
		if c.isOld(object) {
			return true, nil
		}
	}
	return false, nil
}

// ofRunning tells whether an index object is of a session that has not ended.
func ofRunning(s sessions, name string) bool {
	w, id, _, err := parseSessionName(deltaPrefix, name)
	if err != nil {
		return false // a segment
	}
	session := sessionName(sessionPrefix, w, id)
	_, begun := s.begun[session]
	_, ended := s.ended[session]
	return begun && !ended
}

// lists tells whether the index lists one of the packs.
func (c *collector) lists(packs map[PackID]bool) bool {
	found := false
	for id := range packs {
		found = found || c.packs[id] != nil
	}
	return found
}

// writeSegments reads the named index objects and stores what they list of the packs that are kept. It returns
// the number of segments.
func (c *collector) writeSegments(ctx context.Context, names []string, keep func(PackID) bool) (int, error) {
	g := c.r.newGather(emptyBase())
	g.keep = false
	l, err := c.r.gatherIndex(ctx, g, names, nil)
	if err != nil {
		return 0, err
	}
	id := newSessionID(time.Now())
	filling, of := map[Domain]*segment{}, map[PackID]*segment{}
	var segments []*segment
	if err := l.uses(map[PackID]packUse{}, func(u packUse) {
		if !keep(u.ID) {
			return
		}
		d := u.domain()
		s := filling[d]
		if s == nil || s.chunks+u.chunks > segmentEntries && s.chunks > 0 {
			s = &segment{name: c.segmentName(d, id, len(segments)), domain: d}
			filling[d], segments = s, append(segments, s)
		}
		s.chunks += u.chunks
		of[u.ID] = s
	}); err != nil {
		return 0, err
	}
	for _, s := range segments {
		if err := c.writeSegment(ctx, l, s, of); err != nil {
			return 0, err
		}
	}
	return len(segments), nil
}

// segment is one that is to be written.
type segment struct {
	name   string
	domain Domain
	chunks int
}

// segmentName returns the name of the n-th segment of a collection. A put-only host must find and open those that list what
// is of it.
func (c *collector) segmentName(d Domain, id SessionID, n int) string {
	writer := strings.TrimPrefix(c.own, markPrefix)
	if d != (Domain{}) {
		writer = crypto.WriterID(d).String() + "/"
	}
	return fmt.Sprintf("%s%s%s-%d", segmentPrefix, writer, id, n)
}

// sealSegment seals a segment for those whose packs it lists.
func (r *Repository) sealSegment(d Domain, name string, plain []byte) ([]byte, error) {
	if d != (Domain{}) {
		return r.keys.SealForHost(crypto.TypeSegment, name, plain)
	}
	return r.keys.Seal(crypto.TypeSegment, name, plain)
}

// writeSegment stores a segment.
func (c *collector) writeSegment(ctx context.Context, l *listing, s *segment, of map[PackID]*segment) error {
	seen := map[PackID]*indexedPack{}
	var packs []*indexedPack
	var chunks []location
	if err := l.entries(func(at location, _ int) error {
		if of[at.pack.ID] != s {
			return nil
		}
		p := seen[at.pack.ID]
		if p == nil {
			p = at.pack
			seen[p.ID], packs = p, append(packs, p)
		}
		chunks = append(chunks, location{at.packEntry, p})
		return nil
	}); err != nil {
		return err
	}
	object, err := c.r.sealSegment(s.domain, s.name, marshalIndex(packs, chunks))
	if err != nil {
		return err
	}
	// What was read of the index long ago may list packs that nobody remembers to be deleted.
	if err := c.fresh(); err != nil {
		return err
	}
	return c.r.backend.Put(ctx, s.name, object)
}

// listedPacks returns the packs that the index lists now.
func (c *collector) listedPacks() (map[PackID]bool, error) {
	listed := map[PackID]bool{}
	err := c.r.index.packs(func(p packUse) { listed[p.ID] = true })
	return listed, err
}
