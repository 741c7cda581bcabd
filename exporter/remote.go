package exporter

import (
	"bufio"
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

// Remote is a connection to ServeTree on another host. It may be used by several goroutines at once.
// For each file that is open and each walk, up to 1 MiB is kept here.
type Remote struct {
	*link
	rw   io.ReadWriteCloser
	done chan struct{} // closed when nothing is received any more

	order sync.Mutex // calls are sent in the order of their numbers

	mu    sync.Mutex
	calls map[uint64]*call
	last  uint64 // call
	err   error  // why the connection ended
}

// ErrRemote says that the connection to the other side is broken, or the program there ended. It is
// wrapped by the error of every call that this concerns.
var ErrRemote = errors.New("connection to the helper is lost")

// DialTree begins to talk to a ServeTree at the other end of rw. Remote.Close closes rw; so does
// DialTree if it fails.
func DialTree(ctx context.Context, rw io.ReadWriteCloser) (*Remote, error) {
	r := &Remote{link: newLink(rw), rw: rw, done: make(chan struct{}), calls: map[uint64]*call{}}
	stop := context.AfterFunc(ctx, func() { rw.Close() })
	err := r.greet()
	if err == nil {
		err = r.meet()
	}
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("dial helper: %w", errors.Join(err, rw.Close()))
	}
	go r.run()
	return r, nil
}

// Close ends the connection, and with an error all that is under way.
func (r *Remote) Close() error {
	r.fail(errors.New("closed"))
	err := r.rw.Close()
	<-r.done
	return err
}

// run receives frames until the connection ends.
func (r *Remote) run() {
	defer close(r.done)
	for {
		f, err := r.receive()
		if err == nil {
			err = r.handle(f)
		}
		if err != nil {
			r.fail(noEOF(err))
			return
		}
	}
}

func (r *Remote) handle(f frame) error {
	r.mu.Lock()
	c, last := r.calls[f.call], r.last
	r.mu.Unlock()
	if f.kind < kindStat || f.call == 0 || f.call > last {
		return broken("frame of kind %d for call %d", f.kind, f.call)
	}
	if c == nil {
		return nil // nobody wants to know any more
	}
	return c.receive(f.kind, f.payload)
}

// fail ends all calls. Only the first error counts.
func (r *Remote) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = fmt.Errorf("%w: %w", ErrRemote, err)
	for _, c := range r.calls {
		c.fail(r.err)
	}
}

// begin begins a call.
func (r *Remote) begin(ctx context.Context, op operation, tree uint64, args []byte) (*call, error) {
	r.order.Lock()
	defer r.order.Unlock()
	c := &call{remote: r, wake: make(chan struct{}, 1)}
	if err := r.add(c); err != nil {
		return nil, err
	}
	c.stop = context.AfterFunc(ctx, func() { c.fail(ctx.Err()) })
	err := r.send(kindCall, c.id, append(binary.AppendUvarint([]byte{byte(op)}, tree), args...))
	if err != nil {
		c.close()
		return nil, fmt.Errorf("%w: %w", ErrRemote, err)
	}
	return c, nil
}

// add gives a call its number.
func (r *Remote) add(c *call) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err
	}
	r.last++
	c.id = r.last
	r.calls[c.id] = c
	return nil
}

// ask makes a call whose answer is short, and returns it.
func (r *Remote) ask(ctx context.Context, op operation, tree uint64, args []byte) (id uint64, answer []byte, err error) {
	c, err := r.begin(ctx, op, tree, args)
	if err != nil {
		return 0, nil, err
	}
	defer c.close()
	answer, err = io.ReadAll(io.LimitReader(c, maxPayload))
	return c.id, answer, err
}

// Open opens a tree on the other side.
func (r *Remote) Open(ctx context.Context, req TreeRequest) (*RemoteTree, error) {
	t := &RemoteTree{remote: r, report: req.Options.Report}
	req.Options.Report = nil
	var args bytes.Buffer
	err := gob.NewEncoder(&args).Encode(req)
	if err == nil && args.Len() > maxArgs {
		err = fmt.Errorf("%d bytes of options are too many", args.Len())
	}
	if err == nil {
		t.id, _, err = r.ask(ctx, opTree, 0, args.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("open %q by helper: %w", req.Path, err)
	}
	return t, nil
}

// maxArgs is how much a call takes beside its operation and tree.
const maxArgs = maxPayload - 1 - binary.MaxVarintLen64

// Clock returns the time of the other side, in which the times of its trees are to be seen.
func (r *Remote) Clock(ctx context.Context) (time.Time, error) {
	_, b, err := r.ask(ctx, opClock, 0, nil)
	in := reading{b: b}
	now := time.Unix(in.varint(), in.varint())
	if err == nil && in.bad {
		err = broken("time")
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("clock of helper: %w", err)
	}
	return now, nil
}

// RemoteTree is a tree on the other side of a Remote.
type RemoteTree struct {
	remote *Remote
	id     uint64
	report func(path string, err error)
}

var (
	_ archive.Tree        = (*RemoteTree)(nil)
	_ archive.RangeOpener = (*RemoteTree)(nil)
)

// Close closes the tree on the other side.
func (t *RemoteTree) Close() error {
	c, err := t.remote.begin(context.Background(), opClose, t.id, nil)
	if err == nil {
		c.close()
	}
	return err
}

// Walk implements archive.Tree.
func (t *RemoteTree) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	c, err := t.remote.begin(ctx, opWalk, t.id, nil)
	if err != nil {
		return fmt.Errorf("walk: %w", err)
	}
	defer c.close()
	in := bufio.NewReaderSize(c, maxPayload)
	var item bytes.Buffer
	for {
		n, err := binary.ReadUvarint(in)
		if err == io.EOF {
			return nil
		}
		if err == nil && n > maxItem {
			err = broken("item of %d bytes", n)
		}
		if err == nil {
			item.Reset()
			_, err = io.CopyN(&item, in, int64(n)) // takes no memory for what does not come
			err = noEOF(err)
		}
		if err != nil {
			return fmt.Errorf("walk: %w", err)
		}
		if err := t.item(item.Bytes(), fn); err != nil {
			return err
		}
	}
}

func (t *RemoteTree) item(b []byte, fn func(archive.Entry) error) error {
	r := reading{b: b}
	switch what := r.byte(); what {
	case itemEntry:
		e := r.entry()
		if r.bad {
			return broken("entry")
		}
		return fn(e)
	case itemReport:
		path, err := string(r.bytes()), r.error()
		if r.bad {
			return broken("report")
		}
		if t.report == nil {
			return fmt.Errorf("read %q: %w", path, err)
		}
		t.report(path, err)
		return nil
	default:
		return broken("item %d", what)
	}
}

// Open implements archive.Tree. It does not wait for the other side: that the file has vanished
// says the first method of the content.
func (t *RemoteTree) Open(ctx context.Context, e archive.Entry) (archive.Content, error) {
	return t.OpenAt(ctx, e, 0)
}

// OpenAt implements archive.RangeOpener.
func (t *RemoteTree) OpenAt(ctx context.Context, e archive.Entry, off int64) (archive.Content, error) {
	args := append(binary.AppendUvarint(nil, uint64(off)), e.Path...)
	if len(args) > maxArgs || off < 0 {
		return nil, fmt.Errorf("open a path of %d bytes at %d by helper: %w", len(e.Path), off, archive.ErrUnreadable)
	}
	c, err := t.remote.begin(ctx, opOpen, t.id, args)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", e.Path, err)
	}
	return &remoteContent{call: c, path: e.Path}, nil
}
