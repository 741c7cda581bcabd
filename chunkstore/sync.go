package chunkstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// SyncOptions tune Sync. The zero value copies and deletes nothing.
type SyncOptions struct {
	// Delete removes what the source does not have any more.
	Delete bool
	// Progress is told how many of the bytes that are to be copied have been, beginning with none. May be nil; it is
	// called by several goroutines at once.
	Progress func(done, total int64)
}

// SyncReport says what Sync did.
type SyncReport struct {
	Copied, Kept, Deleted int   // objects; Kept: that were there before
	Bytes                 int64 // copied
}

// ErrOther says that the place to copy to holds another repository, or something else.
var ErrOther = errors.New("another repository is there, or something else")

// syncOrder is the order in which objects are copied: what leads to others comes after them, so that a place
// at which the copying stopped holds whole snapshots only, and before the first copy is whole no repository.
// Key slots come first: what a rotation's new keys seal is of use to nobody without them. Marks, forget records, claims and what is on record of put-only hosts
// come before the index and the outcomes that they concern. Lists are made from the end to the start: outcomes before what
// they need, deltas before the segments that replace them, slots last.
var syncOrder = []string{
	slotPrefix, dataPrefix, metaPrefix, markPrefix, forgetPrefix, claimPrefix, hostPrefix, recordPrefix, segmentPrefix, deltaPrefix, sessionPrefix, outcomePrefix, configName,
}

// Sync makes the place to hold what the repository at from holds, as it is stored: same keys, no decryption.
// It needs no key. What is there already is not sent again, so a Sync that was interrupted goes on. Each pack is
// compared with its name on the way. from may be in use meanwhile; to must be used by nobody but readers, for
// its clock tells when something was copied, not when it was made: forget and collect at from.
//
// ErrNoRepository: from holds none. ErrOther: to holds a different one.
//
// Of a locked repository the copies are not locked.
func Sync(ctx context.Context, from, to Backend, o SyncOptions) (*SyncReport, error) {
	from = view(ctx, from)
	if err := sameRepository(ctx, from, to); err != nil {
		return nil, fmt.Errorf("sync: %w", err)
	}
	s := &syncer{from: from, to: to, o: o, sent: map[string]bool{}}
	if s.o.Progress == nil {
		s.o.Progress = func(int64, int64) {}
	}
	err := s.passes(ctx)
	if err == nil && o.Delete {
		err = s.clean(ctx)
	}
	if err != nil {
		return &s.report, fmt.Errorf("sync: %w", err)
	}
	return &s.report, nil
}

// sameRepository refuses a target that holds something else.
func sameRepository(ctx context.Context, from, to Backend) error {
	ours, err := from.Get(ctx, configName, 0, -1)
	if errors.Is(err, ErrNotExist) {
		return fmt.Errorf("%s: %w", from.Location(), ErrNoRepository)
	}
	if err != nil {
		return err
	}
	theirs, err := to.Get(ctx, configName, 0, -1)
	switch {
	case errors.Is(err, ErrNotExist):
		return onlyOurs(ctx, to)
	case err != nil:
		return err
	case !bytes.Equal(ours, theirs):
		return fmt.Errorf("%s: %w", to.Location(), ErrOther)
	}
	return nil
}

// onlyOurs refuses a place without a repository in which there is anything but what an earlier Sync may have left.
func onlyOurs(ctx context.Context, to Backend) error {
	return to.List(ctx, "", func(i Info) error {
		if !isObjectName(i.Name) {
			return fmt.Errorf("%s: %w: %s", to.Location(), ErrOther, i.Name)
		}
		return nil
	})
}

type syncer struct {
	from, to Backend
	o        SyncOptions
	report   SyncReport
	listed   map[string]int64 // of the source, by name
	sent     map[string]bool  // names of what was not there at first
	wrong    map[string]bool  // names of objects that the target has in another length
	total    int64
	done     atomic.Int64
}

// passes copies until there is nothing to copy, or what comes is new: what a collection at the source has
// replaced meanwhile is found by listing again.
func (s *syncer) passes(ctx context.Context) error {
	for range loadAttempts {
		before := s.report.Copied
		if err := relist(func() error { return s.pass(ctx) }); err != nil || s.report.Copied == before {
			return err
		}
	}
	return nil
}

// pass copies what the target lacks.
func (s *syncer) pass(ctx context.Context) error {
	lists := map[string][]Info{}
	s.listed, s.wrong, s.total, s.report.Kept = map[string]int64{}, map[string]bool{}, 0, 0
	s.done.Store(0)
	for i := len(syncOrder) - 1; i >= 0; i-- {
		prefix := syncOrder[i]
		missing, err := s.missing(ctx, prefix)
		if err != nil {
			return err
		}
		lists[prefix] = missing
		for _, info := range missing {
			s.total += info.Size
		}
	}
	if s.total > 0 {
		s.o.Progress(0, s.total)
	}
	for _, prefix := range syncOrder {
		at := syncCopies
		if prefix == outcomePrefix { // the order in which they were put says which is the newest
			slices.SortFunc(lists[prefix], func(a, b Info) int { return a.Modified.Compare(b.Modified) })
			at = 1
		}
		if err := s.copyAll(ctx, lists[prefix], at); err != nil {
			return err
		}
	}
	return nil
}

// missing lists what the source has under a prefix and the target has not, or in another length: no object
// ever changes.
func (s *syncer) missing(ctx context.Context, prefix string) ([]Info, error) {
	there := map[string]int64{}
	note := func(into map[string]int64) func(Info) error {
		return func(i Info) error {
			into[i.Name] = i.Size
			return nil
		}
	}
	if err := s.to.List(ctx, prefix, note(there)); err != nil {
		return nil, err
	}
	var missing []Info
	err := s.from.List(ctx, prefix, func(i Info) error {
		if !isObjectName(i.Name) {
			return nil // nobody knows what it is
		}
		s.listed[i.Name] = i.Size
		size, ok := there[i.Name]
		if ok && size == i.Size {
			if !s.sent[i.Name] {
				s.report.Kept++
			}
			return nil
		}
		s.wrong[i.Name], s.sent[i.Name] = ok, true
		missing = append(missing, i)
		return nil
	})
	return missing, err
}

// syncCopies is how many objects are copied at a time, of at most about 34 MiB each.
const syncCopies = 4

// copyAll copies, so many at a time.
func (s *syncer) copyAll(ctx context.Context, list []Info, at int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(at)
	var copied, copiedBytes atomic.Int64
	for _, info := range list {
		g.Go(func() error {
			if err := s.copy(ctx, info.Name); err != nil {
				return err
			}
			copied.Add(1)
			copiedBytes.Add(info.Size)
			s.o.Progress(s.done.Add(info.Size), s.total)
			return nil
		})
	}
	err := g.Wait()
	s.report.Copied += int(copied.Load())
	s.report.Bytes += copiedBytes.Load()
	return err
}

func (s *syncer) copy(ctx context.Context, name string) error {
	object, err := s.from.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	if ref, err := parsePackName(name); err == nil && sha256.Sum256(object) != ref.ID {
		return fmt.Errorf("%s at %s: its bytes do not match its name; hakobune check tells more", name, s.from.Location())
	}
	if s.wrong[name] { // where a name exists a Put may do nothing
		if err := s.to.Delete(ctx, name); err != nil {
			return err
		}
	}
	return s.to.Put(ctx, name, object)
}

// clean deletes what the source had not when it was listed: what leads to others first.
func (s *syncer) clean(ctx context.Context) error {
	for i := len(syncOrder) - 1; i >= 0; i-- {
		var names []string
		if err := s.to.List(ctx, syncOrder[i], func(info Info) error {
			if _, ok := s.listed[info.Name]; !ok && isObjectName(info.Name) {
				names = append(names, info.Name)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, name := range names {
			if err := s.to.Delete(ctx, name); err != nil {
				return err
			}
			s.report.Deleted++
		}
	}
	return nil
}
