package chunkstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// The write pipeline: submit → encode (workers) → pack (openPacks open at a time) → seal, verify,
// upload (uploaders). Every stage is bounded, so a slow store holds back the reading of files.
//
// Memory: (workers + 1) x the longest chunk + workers x its encoding, and packs of 34 MiB: openPacks + 1
// plain ones, of which one is being sealed, and uploaders sealed ones. Whoever finds none free waits. All of
// it is used again: with pieces of this size the collector would otherwise do nothing else, and the system
// would have to find, clear and map new pages for each.
const (
	openPacks = 2 // chunks go to one of them at random, so that a pack's size tells little
	uploaders = 2

	usualChunk = 2 << 20 // room that most chunks fit into, at first
)

// job is a chunk on its way to a pack.
type job struct {
	kind  Kind
	id    ID
	plain []byte // of the pipeline's own
}

type pipeline struct {
	s       *Session
	jobs    chan job
	workers errgroup.Group
	uploads errgroup.Group
	sending sync.WaitGroup // the same, to be waited for in between
	sealing sync.Mutex
	scratch []byte // of whoever seals

	chunks        memory          // for plain chunks
	plain, sealed map[Kind]memory // for packs

	mu   sync.Mutex
	open map[Kind]*[openPacks]*packBuilder

	once     sync.Once
	finished chan struct{} // closed when no more jobs come
}

func newPipeline(s *Session) *pipeline {
	p := &pipeline{
		s: s, jobs: make(chan job), finished: make(chan struct{}),
		open:   map[Kind]*[openPacks]*packBuilder{Data: {}, Meta: {}},
		chunks: newMemory(runtime.GOMAXPROCS(0) + 1),
		plain:  map[Kind]memory{Data: newMemory(openPacks + 1), Meta: newMemory(openPacks + 1)},
		sealed: map[Kind]memory{Data: newMemory(uploaders), Meta: newMemory(uploaders)},
	}
	p.uploads.SetLimit(uploaders)
	for range runtime.GOMAXPROCS(0) {
		p.workers.Go(p.work)
	}
	return p
}

// memory is a number of pieces of memory, taken when they are needed first and then used again.
type memory chan []byte

func newMemory(pieces int) memory {
	m := make(memory, pieces)
	for range pieces {
		m <- nil
	}
	return m
}

// get waits for a piece that nobody uses, and returns it empty with room for n bytes at least.
func (m memory) get(ctx context.Context, n int) ([]byte, error) {
	select {
	case b := <-m:
		if cap(b) < n {
			b = make([]byte, 0, n)
		}
		return b[:0], nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// put gives a piece back.
func (m memory) put(b []byte) { m <- b }

// submit hands over a copy of plain. It blocks until there is memory for it and a worker takes it.
func (p *pipeline) submit(ctx context.Context, kind Kind, id ID, plain []byte) error {
	j := job{kind: kind, id: id}
	for from, to := p.chunks, chan<- job(nil); ; {
		select {
		case b := <-from:
			if cap(b) < len(plain) {
				b = make([]byte, 0, max(len(plain), usualChunk))
			}
			j.plain = append(b[:0], plain...)
			from, to = nil, p.jobs
		case to <- j:
			return nil
		case <-ctx.Done():
			// The chunk was claimed, so others rely on its coming: the session cannot go on.
			p.s.fail(ctx.Err())
			return ctx.Err()
		case <-p.s.ctx.Done():
			return p.s.err()
		case <-p.finished:
			return fmt.Errorf("save a chunk: the session has ended")
		}
	}
}

// work encodes chunks and puts them into packs until there are no more.
func (p *pipeline) work() error {
	var scratch []byte
	for {
		select {
		case <-p.s.ctx.Done():
			return p.s.err()
		case <-p.finished:
			return nil
		case j := <-p.jobs:
			c, encoded := p.s.repo.coder.encode(j.plain, &scratch)
			if p.pack(packEntry{id: j.id, kind: j.kind, codec: c, plain: uint32(len(j.plain))}, encoded) != nil {
				return p.s.err()
			}
			p.chunks.put(j.plain)
		}
	}
}

// pack appends a chunk to one of the open packs. If that is full it is sent off first. Fails only when
// the session does.
func (p *pipeline) pack(e packEntry, encoded []byte) error {
	kind := packKind(e.kind)
	p.mu.Lock()
	defer p.mu.Unlock()
	slot, full := p.slot(kind, len(encoded))
	if full != nil {
		p.upload(full)
	}
	if *slot == nil {
		buf, err := p.plain[kind].get(p.s.ctx, 0)
		if err != nil {
			return err
		}
		*slot = newPackBuilder(kind, buf)
	}
	(*slot).add(e, encoded)
	return nil
}

// slot returns where n bytes go: to one of the open packs at random, if they fit into it, or else to
// another, so that one which is nearly full waits for what still fits. Where they fit into none the
// fullest is taken out, to be sent off.
func (p *pipeline) slot(kind Kind, n int) (slot **packBuilder, full *packBuilder) {
	open := p.open[kind]
	first := rand.IntN(openPacks)
	fullest := &open[first]
	for i := range openPacks {
		slot := &open[(first+i)%openPacks]
		if *slot == nil || (*slot).fits(n) {
			return slot, nil
		}
		if len((*slot).buf) > len((*fullest).buf) {
			fullest = slot
		}
	}
	full, *fullest = *fullest, nil
	return fullest, full
}

// packKind returns the kind of packs that chunks of kind k lie in.
func packKind(k Kind) Kind {
	if k == Data {
		return Data
	}
	return Meta
}

// upload seals, verifies and stores a pack behind the caller's back; it blocks while too many are
// under way.
func (p *pipeline) upload(b *packBuilder) {
	p.sending.Add(1)
	p.uploads.Go(func() error {
		defer p.sending.Done()
		if err := p.store(b); err != nil {
			p.s.fail(err)
			return err
		}
		return nil
	})
}

func (p *pipeline) store(b *packBuilder) error {
	s, r := p.s, p.s.repo
	ref, object, err := p.seal(b)
	if err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	defer p.sealed[b.kind].put(object)
	if err := s.store(s.ctx, ref.Name(), object); err != nil {
		return fmt.Errorf("store pack: %w", err)
	}
	if b.kind == Meta {
		r.cache.put(ref.Name(), object)
	}
	s.stats.stored.Add(int64(len(object)))
	s.stats.packs.Add(1)
	pack, err := indexPack(ref, object)
	if err != nil {
		return err
	}
	s.uploaded(pack, b.entries)
	return nil
}

// seal seals and verifies a pack. It gives the memory of the pack back; the object's is the caller's to
// give back. An error ends the session.
func (p *pipeline) seal(b *packBuilder) (PackRef, []byte, error) {
	buf, err := p.sealed[b.kind].get(p.s.ctx, int(b.sealedSize()))
	if err != nil {
		return PackRef{}, nil, err
	}
	p.sealing.Lock()
	defer p.sealing.Unlock()
	defer func() { p.plain[b.kind].put(b.buf) }()
	return sealPack(p.s.repo.keys, p.s.repo.coder, p.s.writer, b, buf, &p.scratch)
}

// settle waits until no upload is under way. Nothing may be submitted meanwhile.
func (p *pipeline) settle(ctx context.Context) error {
	idle := make(chan struct{})
	go func() {
		p.sending.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return p.s.err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush sends off what is in the open packs and waits until everything submitted is durable.
// Nothing may be submitted meanwhile or later.
func (p *pipeline) flush() error {
	p.once.Do(func() { close(p.finished) })
	if err := p.workers.Wait(); err != nil {
		return err
	}
	for _, kind := range []Kind{Data, Meta} {
		for _, b := range lastPacks(p.open[kind]) {
			p.upload(b)
		}
	}
	if err := p.uploads.Wait(); err != nil {
		return err
	}
	return p.s.err()
}

// lastPacks returns the packs with something in them, as one if it all fits into one.
func lastPacks(open *[openPacks]*packBuilder) []*packBuilder {
	var out []*packBuilder
	for i, b := range open {
		open[i] = nil
		switch {
		case b == nil:
		case len(out) > 0 && out[0].fits(len(b.buf)+len(b.entries)*packEntrySize):
			out[0].merge(b)
		default:
			out = append(out, b)
		}
	}
	return out
}

// stop waits for all goroutines; the session's context has ended before.
func (p *pipeline) stop() {
	p.once.Do(func() { close(p.finished) })
	p.workers.Wait()
	p.uploads.Wait()
}
