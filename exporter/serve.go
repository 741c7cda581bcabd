package exporter

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// TreeRequest says which tree a Remote is to open on the other side.
type TreeRequest struct {
	Path    string
	Options DirOptions // Report is told on the side that asks
}

// OpenRequest opens the directory that a request names, as OpenDir does.
func OpenRequest(req TreeRequest) (archive.Tree, error) {
	return OpenDir(req.Path, req.Options)
}

// ServeTree answers a Remote at the other end of rw until that ends the connection (which is no
// error) or ctx ends. open opens the trees that are asked for; those that are closers are closed.
//
// A Remote is trusted to ask for what open allows, and with nothing else: whatever it sends, the
// memory used is bounded, by 64 KiB for each file that it has open at a time, of at most maxCalls.
func ServeTree(ctx context.Context, rw io.ReadWriter, open func(TreeRequest) (archive.Tree, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{link: newLink(rw), open: open, answers: map[uint64]*answer{}, trees: map[uint64]*servedTree{}}
	if c, ok := rw.(io.Closer); ok {
		defer context.AfterFunc(ctx, func() { c.Close() })() // so that nothing waits for rw any more
	}
	err := s.run(ctx)
	cause := context.Cause(ctx)
	cancel()
	s.running.Wait()
	for _, t := range s.trees {
		err = errors.Join(err, t.close())
	}
	if cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("serve trees: %w", err)
	}
	return nil
}

// server is one run of ServeTree.
type server struct {
	*link
	open    func(TreeRequest) (archive.Tree, error)
	running sync.WaitGroup
	last    uint64 // call

	mu      sync.Mutex
	answers map[uint64]*answer
	trees   map[uint64]*servedTree
}

// servedTree is a tree that a client has open.
type servedTree struct {
	archive.Tree
	users   sync.WaitGroup               // calls that use it
	walking chan struct{}                // holds one while it is walked
	report  func(path string, err error) // of the walk
}

func (t *servedTree) close() error {
	t.users.Wait()
	if c, ok := t.Tree.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

func (s *server) run(ctx context.Context) error {
	if err := s.meet(); err != nil {
		return err
	}
	if err := s.greet(); err != nil {
		return err
	}
	for {
		f, err := s.receive()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = s.handle(ctx, f)
		}
		if err != nil {
			return err
		}
	}
}

func (s *server) handle(ctx context.Context, f frame) error {
	if f.kind == kindCall {
		return s.call(ctx, f)
	}
	s.mu.Lock()
	a := s.answers[f.call]
	s.mu.Unlock()
	if a == nil {
		return nil // it ended meanwhile
	}
	r := reading{b: f.payload}
	switch f.kind {
	case kindMore:
		a.allow(r.uvarint())
	case kindCancel:
		a.cancel()
	case kindStat:
		a.wantStat()
	default:
		return broken("frame of kind %d from a client", f.kind)
	}
	if r.bad {
		return broken("frame of kind %d", f.kind)
	}
	return nil
}

// call begins to answer a call.
func (s *server) call(ctx context.Context, f frame) error {
	r := reading{b: f.payload}
	op, number := operation(r.byte()), r.uvarint()
	if r.bad || f.call <= s.last {
		return broken("call %d", f.call)
	}
	s.last = f.call
	ctx, cancel := context.WithCancel(ctx)
	a := &answer{server: s, id: f.call, credit: window, wake: make(chan struct{}, 1), cancel: cancel}

	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers)+len(s.trees) >= maxCalls {
		cancel()
		return broken("more than %d calls at once", maxCalls)
	}
	t := s.trees[number]
	if t != nil {
		t.users.Add(1)
		if op == opClose {
			delete(s.trees, number)
		}
	}
	s.answers[a.id] = a
	s.running.Go(func() {
		defer cancel()
		a.end(a.do(ctx, op, t, r.b))
	})
	return nil
}

func (s *server) newTree(id uint64, args []byte) error {
	var req TreeRequest
	if err := gob.NewDecoder(bytes.NewReader(args)).Decode(&req); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	t := &servedTree{walking: make(chan struct{}, 1), report: func(string, error) {}}
	req.Options.Report = func(path string, err error) { t.report(path, err) }
	tree, err := s.open(req)
	if err != nil {
		return err
	}
	t.Tree = tree
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trees[id] = t
	return nil
}

// answer is a call that is being answered.
type answer struct {
	*server
	id     uint64
	cancel context.CancelFunc
	stat   func() []byte // of an open call: the file's entry now, nil if there is none

	mu     sync.Mutex
	credit uint64
	asked  bool // for the stat
	wake   chan struct{}
}

// do carries out an operation and returns the payload of its end.
func (a *answer) do(ctx context.Context, op operation, t *servedTree, args []byte) ([]byte, error) {
	if t != nil && op != opClose {
		defer t.users.Done()
	}
	switch {
	case op == opTree:
		return nil, a.newTree(a.id, args)
	case op == opClock:
		now := time.Now()
		b := binary.AppendVarint(nil, now.Unix())
		return nil, a.write(ctx, binary.AppendVarint(b, int64(now.Nanosecond())))
	case t == nil:
		return nil, errors.New("no such tree")
	case op == opClose:
		t.users.Done()
		return nil, t.close()
	case op == opWalk:
		return nil, a.walk(ctx, t)
	case op == opOpen:
		return a.content(ctx, t, args)
	}
	return nil, fmt.Errorf("unknown operation %d", op)
}

// end ends the answer. What cannot be sent any more is not: the connection is at its end then.
func (a *answer) end(payload []byte, err error) {
	a.server.mu.Lock()
	delete(a.answers, a.id)
	a.server.mu.Unlock()
	if err != nil {
		payload = appendError([]byte{1}, err)
	} else {
		payload = append([]byte{0}, payload...)
	}
	_ = a.send(kindEnd, a.id, payload)
}

func (a *answer) allow(n uint64) {
	a.mu.Lock()
	a.credit = min(a.credit+min(n, window), window)
	a.mu.Unlock()
	a.rouse()
}

func (a *answer) wantStat() {
	a.mu.Lock()
	a.asked = true
	a.mu.Unlock()
	a.rouse()
}

func (a *answer) rouse() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take waits until something may be sent, at most n bytes, and returns how much.
func (a *answer) take(ctx context.Context, n int) (int, error) {
	for {
		a.mu.Lock()
		asked := a.asked && a.stat != nil
		n := min(n, maxPayload, int(a.credit))
		a.asked, a.credit = a.asked && !asked, a.credit-uint64(n)
		a.mu.Unlock()
		if asked {
			if err := a.send(kindStat, a.id, a.stat()); err != nil {
				return 0, err
			}
		}
		if n > 0 {
			return n, nil
		}
		select {
		case <-a.wake:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// write sends a part of the answer.
func (a *answer) write(ctx context.Context, p []byte) error {
	for len(p) > 0 {
		n, err := a.take(ctx, len(p))
		if err == nil {
			err = a.send(kindData, a.id, p[:n])
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return ctx.Err()
}

// walk answers with the items of a walk.
func (a *answer) walk(ctx context.Context, t *servedTree) error {
	select { // one walk at a time; the one before may not have noticed yet that it was cancelled
	case t.walking <- struct{}{}:
		defer func() { <-t.walking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var buf, item []byte
	add := func() error {
		buf = appendBytes(buf, item)
		if len(buf) < maxPayload/2 {
			return nil
		}
		err := a.write(ctx, buf)
		buf = buf[:0]
		return err
	}
	var lost error // of add, where it cannot be returned
	t.report = func(path string, err error) {
		item = appendBytes(append(item[:0], itemReport), path)
		item = appendError(item, err)
		lost = errors.Join(lost, add())
	}
	err := t.Walk(ctx, func(e archive.Entry) error {
		item = appendEntry(append(item[:0], itemEntry), &e)
		return errors.Join(lost, add())
	})
	return errors.Join(err, a.write(ctx, buf))
}

// What an item of a walk is.
const (
	itemEntry  = 1
	itemReport = 2
)

// content answers with the extents of a file and their data, and ends with its stat.
func (a *answer) content(ctx context.Context, t *servedTree, args []byte) (stat []byte, err error) {
	r := reading{b: args}
	off := int64(r.uvarint())
	e := archive.Entry{Path: string(r.b), Type: archive.File}
	if r.bad {
		return nil, errors.New("open: no path")
	}
	c, err := openAt(ctx, t.Tree, e, off)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	a.mu.Lock()
	a.stat = func() []byte {
		b, err := describe(c)
		if err != nil {
			return nil
		}
		return b
	}
	a.mu.Unlock()
	if err := a.extents(ctx, c); err != nil {
		return nil, err
	}
	return describe(c)
}

func openAt(ctx context.Context, tree archive.Tree, e archive.Entry, off int64) (archive.Content, error) {
	if off == 0 {
		return tree.Open(ctx, e)
	}
	ranges, ok := tree.(archive.RangeOpener)
	if !ok {
		return nil, fmt.Errorf("open %q: the tree cannot begin in the middle", e.Path)
	}
	return ranges.OpenAt(ctx, e, off)
}

func describe(c archive.Content) ([]byte, error) {
	e, err := c.Stat()
	if err != nil {
		return nil, err
	}
	e.Path, e.Xattrs = "", nil
	return appendEntry(nil, &e), nil
}

func (a *answer) extents(ctx context.Context, c archive.Content) error {
	buf := make([]byte, 0, maxPayload)
	for {
		n, hole, err := c.Next()
		if err == io.EOF {
			return a.write(ctx, buf)
		}
		if err != nil {
			return err
		}
		buf = binary.AppendUvarint(buf, uint64(n)<<1|uint64(boolByte(hole)))
		for !hole {
			if len(buf) > maxPayload-binary.MaxVarintLen64 {
				if err := a.write(ctx, buf); err != nil {
					return err
				}
				buf = buf[:0]
			}
			n, err := c.Read(buf[len(buf) : maxPayload-binary.MaxVarintLen64+1])
			buf = buf[:len(buf)+n]
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
	}
}
