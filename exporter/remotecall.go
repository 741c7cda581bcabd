package exporter

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// call is a call of a Remote: the stream of bytes that answers it. One goroutine reads it.
type call struct {
	remote *Remote
	id     uint64
	stop   func() bool // ends the watch over the context
	read   int         // bytes read of which the other side does not know yet

	mu    sync.Mutex
	queue [][]byte
	held  int // bytes received of which the other side does not know that they were read
	ended bool
	err   error  // how it ended
	last  []byte // payload of the end
	stat  []byte // answer to kindStat
	wake  chan struct{}
}

// receive takes a frame from the connection. It never waits.
func (c *call) receive(k kind, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.rouse()
	if c.ended {
		return nil
	}
	switch k {
	case kindData:
		if c.held += len(payload); c.held > window {
			return broken("call %d: more data than allowed", c.id)
		}
		c.queue = append(c.queue, payload)
	case kindStat:
		c.stat = payload
	case kindEnd:
		c.ended = true
		r := reading{b: payload}
		if r.byte() != 0 {
			c.err = r.error()
		}
		if r.bad {
			return broken("end of call %d", c.id)
		}
		c.last = r.b
	}
	return nil
}

func (c *call) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.ended, c.err = true, err
		c.queue = nil
	}
	c.rouse()
}

func (c *call) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Read reads the answer.
func (c *call) Read(p []byte) (int, error) {
	for {
		n, err := c.next(p)
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		<-c.wake
	}
}

// next reads what is there.
func (c *call) next(p []byte) (n int, err error) {
	c.mu.Lock()
	if len(c.queue) == 0 {
		if c.ended {
			if err = c.err; err == nil {
				err = io.EOF
			}
		}
		c.mu.Unlock()
		return 0, err
	}
	n = copy(p, c.queue[0])
	if c.queue[0] = c.queue[0][n:]; len(c.queue[0]) == 0 {
		c.queue = c.queue[1:]
	}
	c.read += n
	tell := 0
	if c.read >= window/2 && !c.ended {
		tell, c.read = c.read, 0
		c.held -= tell
	}
	c.mu.Unlock()
	if tell > 0 {
		err = c.remote.send(kindMore, c.id, binary.AppendUvarint(nil, uint64(tell)))
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrRemote, err)
		}
	}
	return n, err
}

// ReadByte reads one byte of the answer.
func (c *call) ReadByte() (byte, error) {
	var b [1]byte
	_, err := c.Read(b[:])
	return b[0], err
}

// close ends the call, if it has not ended.
func (c *call) close() {
	c.stop()
	c.remote.mu.Lock()
	delete(c.remote.calls, c.id)
	c.remote.mu.Unlock()
	c.mu.Lock()
	open := !c.ended || c.err != nil
	c.ended, c.queue = true, nil
	c.mu.Unlock()
	if open {
		_ = c.remote.send(kindCancel, c.id, nil) // if that fails there is nobody to cancel
	}
}

// remoteContent is the content of a file on the other side.
type remoteContent struct {
	call *call
	path string
	left int64 // of the current data extent
}

func (c *remoteContent) fail(what string, err error) error {
	return fmt.Errorf("%s %q: %w", what, c.path, noEOF(err))
}

// Next implements archive.Content.
func (c *remoteContent) Next() (length int64, hole bool, err error) {
	if _, err := io.CopyN(io.Discard, c.call, c.left); err != nil {
		return 0, false, c.fail("read", err)
	}
	c.left = 0
	v, err := binary.ReadUvarint(c.call)
	if err == io.EOF {
		return 0, false, io.EOF
	}
	if err != nil {
		return 0, false, c.fail("open", err)
	}
	length, hole = int64(v>>1), v&1 != 0
	if !hole {
		c.left = length
	}
	return length, hole, nil
}

// Read implements archive.Content.
func (c *remoteContent) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.call.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err != nil {
		err = c.fail("read", err)
	}
	return n, err
}

// Stat implements archive.Content.
func (c *remoteContent) Stat() (archive.Entry, error) {
	b, err := c.call.describe()
	if err != nil {
		return archive.Entry{}, c.fail("stat", err)
	}
	r := reading{b: b}
	e := r.entry()
	if r.bad {
		return archive.Entry{}, c.fail("stat", broken("entry"))
	}
	e.Path = c.path
	return e, nil
}

// describe waits for the end of the call or, where there is more to come, asks for the stat.
func (c *call) describe() ([]byte, error) {
	for asked := false; ; {
		c.mu.Lock()
		ended, stat, last, err := c.ended, c.stat, c.last, c.err
		c.stat = nil
		c.mu.Unlock()
		switch {
		case ended:
			return last, err
		case stat != nil:
			return stat, nil
		case !asked:
			asked = true
			if err := c.remote.send(kindStat, c.id, nil); err != nil {
				return nil, fmt.Errorf("%w: %w", ErrRemote, err)
			}
		default:
			<-c.wake
		}
	}
}

// Close implements archive.Content.
func (c *remoteContent) Close() error {
	c.call.close()
	return nil
}
