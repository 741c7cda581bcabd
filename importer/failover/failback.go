package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// NotReadyError says why a system cannot come home yet.
type NotReadyError struct{ why, hint string }

func (e *NotReadyError) Error() string { return e.why }

// Hint returns the next step.
func (e *NotReadyError) Hint() string { return e.hint }

// ReadyForFailback reports whether a system may be brought home to site by the snapshot: another site has it and
// has stored this snapshot itself since it got it, or a failback to site has begun already. Where a StandIn makes the
// last snapshot only the owner counts.
func ReadyForFailback(cat *snapshot.Catalog, s snapshot.Summary, site snapshot.Site, standIn bool) error {
	t := cat.Owner(s.System)
	switch {
	case t == nil || t.Site.Is(site) && t.Why != snapshot.WhyFailback:
		return &NotReadyError{fmt.Sprintf("system %s belongs to no other site that it could come home from", s.System), "hakobune status tells whose each system is"}
	case t.Site.Is(site):
		return nil // goes on
	case standIn:
		return nil
	case s.Stray || s.Term != t.Number:
		return &NotReadyError{
			fmt.Sprintf("snapshot %s of %s is from before site %s got the system: what was written there since would be left behind", s.ID[:8], s.System, t.Site.Name),
			fmt.Sprintf("back it up at site %s first, and stop it there: hakobune backup --quiesce stop %s", t.Site.Name, s.System),
		}
	}
	return nil
}

// hadHere loads the snapshot that is likely to say best what this site still has of the system: the newest that it made
// itself, or that with which another site took the system over. Nil if there is none that can be read: then more is
// fetched, and nothing else is different.
func (f *run) hadHere(ctx context.Context) *snapshot.Snapshot {
	name := f.snap.System.Name
	for _, s := range f.cat.Snapshots {
		if s.System == name && s.Site == f.o.Site.Name {
			return f.load(ctx, s)
		}
	}
	newest := ""
	number := 0
	for _, t := range f.cat.Terms {
		if t.System == name && t.Why == snapshot.WhyFailover && t.Number > number {
			newest, number = t.Snapshot, t.Number
		}
	}
	for _, s := range f.cat.Snapshots {
		if s.ID == newest {
			return f.load(ctx, s)
		}
	}
	return nil
}

func (f *run) load(ctx context.Context, s snapshot.Summary) *snapshot.Snapshot {
	had, err := f.cat.Load(ctx, s)
	if err != nil {
		return nil
	}
	return had
}

// kept lists all of the system that was moved aside here and is still there: by this run, or by one before it that did not
// end. Of what is not on this host, only what this run moved is known.
func (f *run) kept(ctx context.Context) ([]string, error) {
	all := slices.Clone(f.res.Restore.Left)
	add := func(kind importer.Kind, name string) {
		if text := string(kind) + " " + name; !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	names, err := f.engine.Names(ctx)
	if err != nil {
		return all, err
	}
	for _, c := range f.snap.System.Containers {
		for _, n := range names.Containers {
			if strings.HasPrefix(n.Name, snapshot.AsideName(c.Name, "")) {
				add(importer.KindContainer, n.Name)
			}
		}
	}
	for _, v := range f.snap.System.Volumes {
		for _, n := range names.Volumes {
			if strings.HasPrefix(n.Name, snapshot.AsideName(v.Name, "")) {
				add(importer.KindVolume, n.Name)
			}
		}
	}
	if !f.engine.Facts().Local {
		return all, nil
	}
	for _, b := range f.snap.System.Binds {
		path := filepath.Clean(b.Source)
		entries, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			continue // where there is nothing to be restored to there is nothing aside
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), snapshot.AsideName(filepath.Base(path), "")) {
				add(importer.KindBind, filepath.Join(filepath.Dir(path), e.Name()))
			}
		}
	}
	return all, nil
}

// notHomeYet returns an error if a failback in that term is on record: another one would move aside what was written at home since.
func (f *run) notHomeYet(ctx context.Context, term int) error {
	records, err := f.repo.Records(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		var done Record
		if r.Kind != KindFailback || r.Err != nil || json.Unmarshal(r.Body, &done) != nil || done.System != f.snap.System.Name || done.Term != term {
			continue
		}
		return &NotReadyError{
			fmt.Sprintf("system %s came home at %s already", done.System, r.Modified.UTC().Format(time.DateTime)),
			"hakobune status tells how it stands; hakobune restore brings back what it has lost here",
		}
	}
	return nil
}
