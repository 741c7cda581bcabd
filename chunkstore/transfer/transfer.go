// Package transfer copies snapshots from one repository to another that has other keys. The same content has
// other chunk ids there, so it is not enough to move objects, as chunkstore.Sync does between places of one
// repository: contents are read and verified, saved in a session of the destination, and the records of
// trees are written anew with the ids that they have there.
//
// # What is read
//
// Of two nights almost all is the same, and a copy each night must not read all of it. A chunk's id at the
// destination cannot be told from its id at the source, but the two are found side by side: the records of a
// tree that was copied are those of its original in the same order, with other ids. So before a system's
// first snapshot of a run is copied, its newest copy is compared with the original, record by record, and what
// this teaches need not be read. Only metadata is read for it. A layer that the destination knows by its
// DiffID is not read either.
//
// # What is stored
//
// Chunks of trees are taken as they are, whatever the destination's chunking would make of them. Layers are
// streams that anybody may store again at the destination, so they are put together, which verifies them
// by their digest, and cut as they would be there.
//
// A copy is a session like any other: it is there whole or not at all, collections respect it, and what a
// run that was interrupted had saved is not stored again by the next.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// ErrSame says that both ends are one repository, perhaps at two places: chunkstore.Sync is for that.
var ErrSame = errors.New("source and destination are the same repository")

// Options tune a Copier. The zero value is ready for use.
type Options struct {
	Host    string // for those who look at the destination meanwhile
	Program string // the same
}

// maxKnown is how many chunk ids are kept from one part of a snapshot to the next: 200 MB of memory. Beyond
// that, a chunk that comes again is read again.
const maxKnown = 2 << 20

// Copier copies snapshots from one repository to another, one after the other. Not for concurrent use.
type Copier struct {
	from, to *chunkstore.Repository
	source   *snapshot.Catalog
	target   *snapshot.Catalog
	there    map[snapshot.Origin]snapshot.Summary // snapshots of the destination by what they are copies of, or themselves
	o        Options
	observer snapshot.Observer
	learned  map[string]bool // systems

	mu  sync.Mutex
	ids map[chunkstore.ID]chunkstore.ID // of a chunk at the destination, by that at the source; zero: it is being read

	read atomic.Int64 // bytes of content of the current snapshot
}

// New returns a Copier of snapshots of the catalog source, which is that of from. ErrSame is wrapped where
// the two repositories are one.
func New(ctx context.Context, from *chunkstore.Repository, source *snapshot.Catalog, to *chunkstore.Repository, o Options) (*Copier, error) {
	if from.Config().Repository == to.Config().Repository {
		return nil, fmt.Errorf("%s and %s: %w", from.Backend().Location(), to.Backend().Location(), ErrSame)
	}
	target, err := snapshot.ReadCatalog(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("list the snapshots of the destination: %w", err)
	}
	c := &Copier{
		from: from, to: to, source: source, target: target, o: o,
		there: map[snapshot.Origin]snapshot.Summary{}, learned: map[string]bool{}, ids: map[chunkstore.ID]chunkstore.ID{},
	}
	for _, s := range target.Snapshots {
		c.there[identity(to, s)] = s
	}
	return c, nil
}

// identity names a snapshot of repo in all repositories that it may be copied to.
func identity(repo *chunkstore.Repository, s snapshot.Summary) snapshot.Origin {
	if s.Origin != nil {
		return snapshot.Origin{Repository: s.Origin.Repository, Snapshot: s.Origin.Snapshot}
	}
	return snapshot.Origin{Repository: repo.Config().Repository.String(), Snapshot: s.ID}
}

// There returns the snapshot of the destination that is a copy of s, or what s is a copy of, if it has one.
func (c *Copier) There(s snapshot.Summary) (snapshot.Summary, bool) {
	found, ok := c.there[identity(c.from, s)]
	return found, ok
}

// Copied is what Copy made.
type Copied struct {
	snapshot.Summary       // of the copy; its Stats.NewBytes and Stored are what it cost at the destination
	Read             int64 // bytes of content read from the source
}

// Copy copies a snapshot of the source's catalog, unless There has it already. After an error the destination
// has no such snapshot; what was stored serves the next attempt.
func (c *Copier) Copy(ctx context.Context, s snapshot.Summary, observer snapshot.Observer) (*Copied, error) {
	c.observer = observer
	c.read.Store(0)
	copied, err := c.copy(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("copy snapshot %s of %s: %w", s.ID, s.System, err)
	}
	return copied, nil
}

func (c *Copier) copy(ctx context.Context, s snapshot.Summary) (*Copied, error) {
	if found, ok := c.There(s); ok {
		return &Copied{Summary: found}, nil
	}
	snap, err := c.source.Load(ctx, s)
	if err != nil {
		return nil, err
	}
	if err := c.learn(ctx, s); err != nil {
		return nil, err
	}
	session, err := c.to.Begin(ctx, chunkstore.BeginOptions{Host: c.o.Host, Program: c.o.Program})
	if err != nil {
		return nil, fmt.Errorf("begin at the destination: %w", err)
	}
	if err := c.carry(ctx, session, snap); err != nil {
		return nil, errors.Join(err, ignoreEnded(ctx, session.Abort(ctx)))
	}
	origin := identity(c.from, s)
	origin.Stored = s.Stored
	snap.Origin = &origin
	if err := snapshot.Commit(ctx, session, snap); err != nil {
		return nil, err
	}
	c.there[identity(c.to, snap.Summary)] = snap.Summary
	return &Copied{snap.Summary, c.read.Load()}, nil
}

// ignoreEnded drops the error of an attempt to leave word behind where the command itself was ended.
func ignoreEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// carry saves everything that snap holds in a session of the destination, and makes snap refer to that.
func (c *Copier) carry(ctx context.Context, session *chunkstore.Session, snap *snapshot.Snapshot) error {
	done := map[string]bool{}
	for _, name := range layers(&snap.System) {
		if done[name] {
			continue
		}
		done[name] = true
		err := c.layer(ctx, session, snap.System.Domain, name)
		if errors.Is(err, fs.ErrNotExist) {
			if !snap.Complete {
				continue // the backup could not read it, and its problems say so
			}
			err = fmt.Errorf("%w: %w", chunkstore.ErrChunkMissing, err)
		}
		if err != nil {
			return err
		}
	}
	for _, t := range trees(&snap.System) {
		if *t.archive == nil {
			continue
		}
		moved := **t.archive
		var err error
		if moved.Records, err = c.tree(ctx, session, t.what, moved.Records); err != nil {
			return fmt.Errorf("%s: %w", t.what, err)
		}
		*t.archive = &moved
	}
	return nil
}

// layer copies a layer unless the destination has it. fs.ErrNotExist is wrapped where the source has not.
func (c *Copier) layer(ctx context.Context, session *chunkstore.Session, d chunkstore.Domain, diffID string) error {
	_, known, err := archive.HasLayer(ctx, session, diffID)
	if err != nil || known {
		return err
	}
	what := "layer " + diffID
	c.tell(what)
	r, _, err := archive.OpenLayer(ctx, c.from, d, diffID)
	if err != nil {
		return err
	}
	_, err = archive.SaveLayer(ctx, session, diffID, &counter{r, func(n int64) {
		c.read.Add(n)
		c.tell(what)
	}})
	return errors.Join(err, r.Close())
}

// tell tells how much has been read.
func (c *Copier) tell(what string) {
	c.observer.Notify(snapshot.Event{Phase: "copy", What: what, Done: c.read.Load()})
}

// layers names all that a system has as layers.
func layers(sys *snapshot.System) []string {
	var names []string
	for _, image := range sys.Images {
		for _, l := range image.Layers {
			names = append(names, l.DiffID)
		}
	}
	for _, b := range sys.Blobs {
		names = append(names, b.Stored())
	}
	return names
}

// part is a tree of a system: where its archive stands, and what it is.
type part struct {
	what    string // "container web", "volume shop_db", "bind /etc/shop"
	archive **snapshot.Archive
}

func trees(sys *snapshot.System) []part {
	var list []part
	for i := range sys.Containers {
		list = append(list, part{"container " + sys.Containers[i].Name, &sys.Containers[i].Changes})
	}
	for i := range sys.Volumes {
		list = append(list, part{"volume " + sys.Volumes[i].Name, &sys.Volumes[i].Content})
	}
	for i := range sys.Binds {
		list = append(list, part{"bind " + sys.Binds[i].Source, &sys.Binds[i].Content})
	}
	return list
}

// OldestFirst sorts snapshots in the order in which they are copied best: that in which they were stored.
func OldestFirst(list []snapshot.Summary) []snapshot.Summary {
	return slices.SortedStableFunc(slices.Values(list), func(a, b snapshot.Summary) int { return a.Stored.Compare(b.Stored) })
}
