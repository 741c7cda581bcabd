package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hakobune-dr/hakobune/crypto"
)

// ErrChunkMissing says that the index does not know a chunk: the snapshot that needs it is damaged.
var ErrChunkMissing = errors.New("chunk is not in the index")

// Bounds of reading. A restore has a Read for each layer and volume that is on its way; each may hold a
// window, and beyond that as many as the repository's other Reads leave it. With ten at once that is
// (10 + sharedWindows) x windowBytes, recentBytes, and rangeReaders x 2 x rangeMax for what is being fetched.
const (
	windowBytes   = 8 << 20 // plaintext of the distinct chunks fetched together
	windowRefs    = 64 << 10
	sharedWindows = 8
	rangeGap      = 256 << 10 // bytes read for nothing rather than sending another request
	rangeMax      = 4 << 20   // for chunks that are smaller
	rangeReaders  = 6         // of all Reads of a repository
	metaPacks     = 4         // opened metadata packs kept in memory, 8 MiB each
)

// Chunk returns the plaintext of one chunk, verified.
func (r *Repository) Chunk(ctx context.Context, id ID) ([]byte, error) {
	if err := r.needIndex(ctx); err != nil {
		return nil, err
	}
	l, err := r.index.locate(id)
	if err != nil {
		return nil, err
	}
	if l.kind != Data {
		return r.metaChunk(ctx, Ref{ID: id, Length: l.plain})
	}
	found := map[ID][]byte{}
	err = r.fetchRange(ctx, []location{l}, func(id ID, b []byte) { found[id] = b })
	return found[id], err
}

// IsChunk reports whether plain is the content of the data chunk of that id.
func (r *Repository) IsChunk(id ID, plain []byte) bool {
	l, ok, err := r.index.lookup(id)
	if err != nil || !ok {
		return false
	}
	ids, err := r.ids(l.pack.domain())
	if err != nil {
		return false
	}
	own, err := chunkID(ids, Data, plain)
	return err == nil && own == id
}

// Whole returns the reference to a whole chunk.
func (r *Repository) Whole(ctx context.Context, id ID) (Ref, error) {
	if err := r.needIndex(ctx); err != nil {
		return Ref{}, err
	}
	l, err := r.index.locate(id)
	if err != nil {
		return Ref{}, err
	}
	return Ref{ID: id, Length: l.plain}, nil
}

// Named returns the value stored under a name in a domain, and whether there is one.
func (r *Repository) Named(ctx context.Context, d Domain, name string) ([]byte, bool, error) {
	if err := r.needIndex(ctx); err != nil {
		return nil, false, err
	}
	id, err := r.NamedID(d, name)
	if err != nil {
		return nil, false, err
	}
	if _, ok, err := r.index.lookup(id); !ok {
		return nil, false, err
	}
	b, err := r.Chunk(ctx, id)
	if err != nil {
		return nil, false, fmt.Errorf("value of %q: %w", name, err)
	}
	_, value, err := splitNamed(b)
	return value, err == nil, err
}

// NamedID returns the id of the chunk that holds the value of a name in a domain.
func (r *Repository) NamedID(d Domain, name string) (ID, error) {
	ids, err := r.ids(d)
	if err != nil {
		return ID{}, fmt.Errorf("id of %q: %w", name, err)
	}
	return ids.NamedID(name), nil
}

// openMeta is a metadata pack in memory.
type openMeta struct {
	id      PackID
	plain   []byte
	entries []packEntry
}

// metaChunk returns a metadata chunk by way of its whole pack, which is kept.
func (r *Repository) metaChunk(ctx context.Context, ref Ref) ([]byte, error) {
	b, err := r.readMetaChunk(ctx, ref)
	if (errors.Is(err, ErrNotExist) || errors.Is(err, ErrChunkMissing)) && r.reload(ctx) {
		b, err = r.readMetaChunk(ctx, ref)
	}
	return b, err
}

// reloadPause is how long an index that was read anew is taken for current.
const reloadPause = 10 * time.Second

// reload reads the index anew where a pack is gone that it lists, for a collection may have rewritten it, or where it does not
// list a chunk, for lists may lag. It reports whether to look again; not each time where packs are simply missing.
func (r *Repository) reload(ctx context.Context) bool {
	r.loadMu.Lock()
	defer r.loadMu.Unlock()
	if time.Since(r.reloaded) < reloadPause {
		return r.changed
	}
	r.lags(ctx) // the index is read accordingly
	before := r.index.loaded.Load()
	if err := r.loadIndex(ctx); err != nil {
		r.log.Warn("the index could not be read anew after a pack was gone", "error", err)
		return false
	}
	r.reloaded, r.changed = time.Now(), !r.index.loaded.Load().same(before)
	return r.changed
}

func (r *Repository) readMetaChunk(ctx context.Context, ref Ref) ([]byte, error) {
	l, err := r.index.locate(ref.ID)
	if err != nil {
		return nil, err
	}
	if l.plain != ref.Length {
		return nil, fmt.Errorf("%w: chunk %v has %d bytes, its reference says %d", crypto.ErrDamaged, ref.ID, l.plain, ref.Length)
	}
	m, err := r.metaPack(ctx, l.pack)
	if err != nil {
		return nil, err
	}
	if int64(l.offset)+int64(l.stored) > int64(len(m.plain)) {
		return nil, fmt.Errorf("%w: chunk %v lies beyond its pack", crypto.ErrDamaged, ref.ID)
	}
	return r.decode(l.pack, l.packEntry, m.plain[l.offset:][:l.stored])
}

// metaPack returns an opened metadata pack: from memory, the cache, or the backend.
func (r *Repository) metaPack(ctx context.Context, p *indexedPack) (openMeta, error) {
	r.metaMu.Lock()
	defer r.metaMu.Unlock()
	if i := slices.IndexFunc(r.meta, func(m openMeta) bool { return m.id == p.ID }); i >= 0 {
		m := r.meta[i]
		copy(r.meta[1:i+1], r.meta[:i])
		r.meta[0] = m
		return m, nil
	}
	name := p.Name()
	object, err := r.cachedGet(ctx, name)
	if err != nil {
		return openMeta{}, fmt.Errorf("pack: %w", err)
	}
	plain, entries, err := openPack(r.keys, p.PackRef, object)
	if err != nil {
		// A damaged copy in the cache must not hide a good one in the repository.
		r.cache.drop(name)
		if object, err = r.cachedGet(ctx, name); err != nil {
			return openMeta{}, fmt.Errorf("pack: %w", err)
		}
		if plain, entries, err = openPack(r.keys, p.PackRef, object); err != nil {
			r.cache.drop(name)
			return openMeta{}, fmt.Errorf("pack %s: %w", name, err)
		}
	}
	m := openMeta{p.ID, plain, entries}
	r.meta = append([]openMeta{m}, r.meta[:min(len(r.meta), metaPacks-1)]...)
	return m, nil
}

// Read returns the bytes of the refs back to back. Chunks are fetched ahead, in parallel, by
// ranges of packs, each verified against its id before a byte of it is handed over. The first error,
// also one that refs yields, ends the reading. Close must be called; it stops the work behind.
func (r *Repository) Read(ctx context.Context, refs iter.Seq2[Ref, error]) io.ReadCloser {
	return r.ReadNear(ctx, refs, nil)
}

// Near may have chunks at hand that need not be fetched then. Its methods are called from a goroutine of the reading.
type Near interface {
	// Chunk returns what may be the content of a data chunk of a length, or nil. It is held against the id before a
	// byte of it is used, and the caller's to keep.
	Chunk(id ID, length uint32) []byte
	// Used is told how many of the bytes that are read come from here.
	Used(n int64)
}

// ReadNear is Read that fetches only what near does not have. Nil has nothing.
func (r *Repository) ReadNear(ctx context.Context, refs iter.Seq2[Ref, error], near Near) io.ReadCloser {
	ctx, cancel := context.WithCancel(ctx)
	rd := &reader{windows: make(chan window, sharedWindows), cancel: cancel, ended: ctx.Err}
	rd.wg.Go(func() {
		defer close(rd.windows)
		r.readAhead(ctx, refs, near, rd.windows)
	})
	return rd
}

// places bounds the windows in memory.
type places chan struct{}

func (p places) leave() { <-p }

// window is a run of refs with all the chunks that they need.
type window struct {
	refs   []Ref
	chunks map[ID][]byte
	err    error  // ends the reading after refs
	place  places // where the window counts
}

type reader struct {
	windows chan window
	cancel  context.CancelFunc
	ended   func() error // why there may be no more windows although the refs have not ended
	wg      sync.WaitGroup
	win     window
	cur     []byte
	err     error
}

func (rd *reader) Read(p []byte) (int, error) {
	for len(rd.cur) == 0 && rd.err == nil {
		rd.next()
	}
	if len(rd.cur) == 0 {
		return 0, rd.err
	}
	n := copy(p, rd.cur)
	rd.cur = rd.cur[n:]
	return n, nil
}

// next makes the following ref current.
func (rd *reader) next() {
	if len(rd.win.refs) == 0 {
		rd.done()
		if rd.err = rd.win.err; rd.err != nil {
			return
		}
		var ok bool
		if rd.win, ok = <-rd.windows; !ok {
			rd.err = cmp.Or(rd.ended(), io.EOF)
		}
		return
	}
	ref := rd.win.refs[0]
	rd.win.refs = rd.win.refs[1:]
	b := rd.win.chunks[ref.ID]
	if int64(ref.Offset)+int64(ref.Length) > int64(len(b)) {
		rd.err = fmt.Errorf("%w: chunk %v of %d bytes has no piece %d+%d", crypto.ErrDamaged, ref.ID, len(b), ref.Offset, ref.Length)
		return
	}
	rd.cur = b[ref.Offset:][:ref.Length]
}

// done gives the place of the current window to another.
func (rd *reader) done() {
	if rd.win.place != nil {
		rd.win.place.leave()
	}
	rd.win.chunks, rd.win.place = nil, nil
}

// Close stops reading ahead and waits for it.
func (rd *reader) Close() error {
	rd.cancel()
	rd.done()
	for rd.win = range rd.windows { // the producer may be waiting to hand one over
		rd.done()
	}
	rd.wg.Wait()
	if rd.err == nil {
		rd.err = io.ErrClosedPipe
	}
	rd.cur = nil
	return nil
}

// readAhead produces windows until the refs end or fail.
func (r *Repository) readAhead(ctx context.Context, refs iter.Seq2[Ref, error], near Near, out chan<- window) {
	own := make(places, 1)
	send := func(w window) bool {
		select {
		case out <- w:
			return w.err == nil
		case <-ctx.Done():
			if w.place != nil {
				w.place.leave()
			}
			return false
		}
	}
	if err := r.needIndex(ctx); err != nil {
		send(window{err: err})
		return
	}
	p := newPlan()
	flush := func() bool {
		place := own
		select {
		case own <- struct{}{}:
		case r.windows <- struct{}{}:
			place = r.windows
		case <-ctx.Done():
			return false
		}
		w := r.fetchWindow(ctx, p, near)
		if errors.Is(w.err, ErrNotExist) && r.reload(ctx) {
			w = r.fetchAgain(ctx, p.refs, near)
		}
		w.place = place
		p = newPlan()
		return send(w)
	}
	for ref, err := range refs {
		if err == nil {
			err = p.add(r.index, ref)
		}
		if errors.Is(err, ErrChunkMissing) && r.reload(ctx) {
			err = p.add(r.index, ref)
		}
		if err != nil {
			if !flush() {
				return
			}
			send(window{err: err})
			return
		}
		if p.full() && !flush() {
			return
		}
	}
	if len(p.refs) > 0 {
		flush()
	}
}

// fetchAgain is fetchWindow for refs, by the index as it is now.
func (r *Repository) fetchAgain(ctx context.Context, refs []Ref, near Near) window {
	p := newPlan()
	for _, ref := range refs {
		if err := p.add(r.index, ref); err != nil {
			return window{err: err}
		}
	}
	return r.fetchWindow(ctx, p, near)
}

// plan is a window before it is fetched.
type plan struct {
	refs   []Ref
	chunks map[ID]location
	wanted map[ID]int64 // bytes of each chunk that the refs name
	bytes  int64
}

func newPlan() *plan { return &plan{chunks: map[ID]location{}, wanted: map[ID]int64{}} }

func (p *plan) full() bool { return p.bytes >= windowBytes || len(p.refs) >= windowRefs }

func (p *plan) add(x *index, ref Ref) error {
	if _, ok := p.chunks[ref.ID]; !ok {
		l, err := x.locate(ref.ID)
		if err != nil {
			return err
		}
		p.chunks[ref.ID] = l
		p.bytes += int64(l.plain)
	}
	p.refs = append(p.refs, ref)
	p.wanted[ref.ID] += int64(ref.Length)
	return nil
}

// fetchWindow fetches the chunks of a plan, but for those that are remembered or at hand, and remembers
// those of which the rest may be wanted next.
func (r *Repository) fetchWindow(ctx context.Context, p *plan, near Near) window {
	w := window{refs: p.refs, chunks: make(map[ID][]byte, len(p.chunks))}
	var missing []location
	var used int64
	for id, l := range p.chunks {
		if b, ok := r.recent.get(id); ok {
			w.chunks[id] = b
		} else if b := r.atHand(near, l); b != nil {
			w.chunks[id] = b
			used += p.wanted[id]
		} else {
			missing = append(missing, l)
		}
	}
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rangeReaders)
	for run := range ranges(missing) {
		g.Go(func() error {
			select {
			case r.fetching <- struct{}{}:
				defer r.fetching.leave()
			case <-ctx.Done():
				return ctx.Err()
			}
			return r.fetchRange(ctx, run, func(id ID, b []byte) {
				mu.Lock()
				defer mu.Unlock()
				w.chunks[id] = b
			})
		})
	}
	if err := g.Wait(); err != nil {
		return window{err: err}
	}
	for _, l := range missing {
		if p.wanted[l.id] < int64(l.plain) {
			r.recent.put(l.id, w.chunks[l.id])
		}
	}
	if used > 0 {
		near.Used(used)
	}
	return w
}

// atHand returns a chunk that near has, nil if it has not or what it has is another.
func (r *Repository) atHand(near Near, l location) []byte {
	if near == nil || l.kind != Data {
		return nil
	}
	b := near.Chunk(l.id, l.plain)
	if b == nil || !r.IsChunk(l.id, b) {
		return nil
	}
	return b
}

// ranges groups chunks into runs that are worth one request each: near each other in one pack.
func ranges(chunks []location) iter.Seq[[]location] {
	slices.SortFunc(chunks, func(a, b location) int {
		return cmp.Or(slices.Compare(a.pack.ID[:], b.pack.ID[:]), cmp.Compare(a.offset, b.offset))
	})
	return func(yield func([]location) bool) {
		for len(chunks) > 0 {
			n := 1
			first, end := chunks[0], chunks[0].offset+chunks[0].stored
			for n < len(chunks) && chunks[n].pack.ID == first.pack.ID && chunks[n].offset <= end+rangeGap &&
				chunks[n].offset+chunks[n].stored-first.offset <= rangeMax {
				end = chunks[n].offset + chunks[n].stored
				n++
			}
			if !yield(chunks[:n]) {
				return
			}
			chunks = chunks[n:]
		}
	}
}

// fetchRange reads one run of chunks of one pack with one request, and gives each verified
// plaintext to found.
func (r *Repository) fetchRange(ctx context.Context, run []location, found func(ID, []byte)) error {
	p, first, last := run[0].pack, run[0], run[len(run)-1]
	off, n := int64(first.offset), int64(last.offset)+int64(last.stored)-int64(first.offset)
	plain, err := r.readRange(ctx, p, off, n)
	if err != nil {
		return err
	}
	for _, l := range run {
		b, err := r.decode(l.pack, l.packEntry, plain[int64(l.offset)-off:][:l.stored])
		if err != nil {
			return fmt.Errorf("pack %s: %w", p.Name(), err)
		}
		found(l.id, b)
	}
	return nil
}
