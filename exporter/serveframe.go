package exporter

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

// The protocol between a tree and its reader, over one stream of bytes each way.
//
// Either side begins with hello, the client first. Then come frames: length of the payload (4 bytes, big-endian), the
// number of the call (8 bytes), the kind (1 byte), the payload. The client numbers its calls from 1
// up and never twice. A call's answer is a stream of bytes in data frames, then one end frame. The
// server sends no more data of a call than window, and beyond it what more frames allow, so neither
// a slow call nor a forgotten one holds up the others, and nobody has to keep more than that.
//
//	call   c→s  operation (1 byte), number of the tree (uvarint), arguments
//	more   c→s  bytes that may be sent beyond those allowed so far (uvarint)
//	cancel c→s  the answer is of no interest any more
//	stat   c→s  of an open call: describe the file now; s→c: the entry
//	data   s→c  a part of the answer
//	end    s→c  the answer is complete (ok, then for an open call the entry of the file as it was
//	            when it was read to its end), or an error
//
// Operations and their answers:
//
//	tree   gob of a TreeRequest; no answer. The tree has the number of the call until it is closed.
//	close  ends a tree
//	walk   items: length (uvarint), then an entry, or the path and error of a report
//	open   offset (uvarint) and path. Extents: length*2 + 1 if it is a hole (uvarint), then data
//	clock  time of the server: seconds, nanoseconds (varint)
const hello = "HKSERVE\x01" // the last byte is the version

type kind byte

const (
	kindCall kind = iota + 1
	kindMore
	kindCancel
	kindStat
	kindData
	kindEnd
)

type operation byte

const (
	opTree operation = iota + 1
	opClose
	opWalk
	opOpen
	opClock
)

const (
	window     = 1 << 20  // bytes of a call on their way
	maxPayload = 64 << 10 // of a frame
	maxCalls   = 4096     // not ended, and trees not closed
	maxItem    = 64 << 20 // of a walk: a node with a great many large attributes
	headerSize = 13
)

// frame is one frame.
type frame struct {
	kind    kind
	call    uint64
	payload []byte
}

// link is one end of a connection.
type link struct {
	r *bufio.Reader

	senders atomic.Int32 // now in send
	mu      sync.Mutex
	w       *bufio.Writer
}

func newLink(rw io.ReadWriter) *link {
	return &link{r: bufio.NewReaderSize(rw, maxPayload), w: bufio.NewWriterSize(rw, maxPayload)}
}

// greet sends hello.
func (l *link) greet() error {
	if _, err := l.w.WriteString(hello); err != nil {
		return err
	}
	return l.w.Flush()
}

// meet wants to be greeted.
func (l *link) meet() error {
	got := make([]byte, len(hello))
	if _, err := io.ReadFull(l.r, got); err != nil {
		return fmt.Errorf("no greeting: %w", err)
	}
	if string(got[:len(got)-1]) != hello[:len(hello)-1] {
		return fmt.Errorf("not a server of trees: it says %q", got)
	}
	if got[len(got)-1] != hello[len(hello)-1] {
		return fmt.Errorf("protocol version %d, this is %d: the programs differ", got[len(got)-1], hello[len(hello)-1])
	}
	return nil
}

// receive reads the next frame, io.EOF if there is none. Only one goroutine receives.
func (l *link) receive() (frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	f := frame{kind: kind(head[12]), call: binary.BigEndian.Uint64(head[4:])}
	if n > maxPayload || f.kind < kindCall || f.kind > kindEnd {
		return frame{}, fmt.Errorf("frame of kind %d with %d bytes", f.kind, n)
	}
	f.payload = make([]byte, n)
	if _, err := io.ReadFull(l.r, f.payload); err != nil {
		return frame{}, fmt.Errorf("frame: %w", noEOF(err))
	}
	return f, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// send sends a frame, together with those that others are about to. Any number of goroutines sends.
func (l *link) send(k kind, call uint64, payload []byte) error {
	l.senders.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	var head [headerSize]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(payload)))
	binary.BigEndian.PutUint64(head[4:], call)
	head[12] = byte(k)
	l.w.Write(head[:]) // the error is sticky
	_, err := l.w.Write(payload)
	if l.senders.Add(-1) == 0 {
		err = l.w.Flush()
	}
	return err
}
