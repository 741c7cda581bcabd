package exporter_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
	"github.com/hakobune-dr/hakobune/exporter"
)

// flatTree has a few files, none longer than its name.
type flatTree []archive.Entry

func (f flatTree) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	for _, e := range f {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (f flatTree) Open(ctx context.Context, e archive.Entry) (archive.Content, error) {
	for _, have := range f {
		if have.Path == e.Path {
			return &flatFile{Reader: bytes.NewReader([]byte(e.Path)), Entry: have}, nil
		}
	}
	return nil, archive.ErrVanished
}

type flatFile struct {
	*bytes.Reader
	archive.Entry
	begun bool
}

func (f *flatFile) Next() (int64, bool, error) {
	if f.begun {
		return 0, false, io.EOF
	}
	f.begun = true
	return f.Reader.Size(), false, nil
}
func (f *flatFile) Stat() (archive.Entry, error) { return f.Entry, nil }
func (f *flatFile) Close() error                 { return nil }

func flat() flatTree {
	return flatTree{
		{Type: archive.Dir, Mode: 0o755},
		{Path: "a", Type: archive.File, Mode: 0o644, Size: 1, Xattrs: []archive.Xattr{{Name: "user.x", Value: []byte("x")}}},
		{Path: "b", Type: archive.Symlink, Link: "a"},
	}
}

func openFlat(exporter.TreeRequest) (archive.Tree, error) { return flat(), nil }

// use makes each call of a Remote once.
func use(ctx context.Context, r *exporter.Remote) error {
	r.Clock(ctx)
	tree, err := r.Open(ctx, exporter.TreeRequest{Path: "p"})
	if err != nil {
		return err
	}
	defer tree.Close()
	if err := tree.Walk(ctx, func(archive.Entry) error { return nil }); err != nil {
		return err
	}
	c, err := tree.Open(ctx, archive.Entry{Path: "a"})
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		if _, _, err := c.Next(); err != nil {
			break
		}
		io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	}
	_, err = c.Stat()
	return err
}

// tee is one end of a connection that records what passes.
type tee struct {
	net.Conn
	mu       sync.Mutex
	in, sent bytes.Buffer
}

func (t *tee) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.in.Write(p[:n])
	return n, err
}

func (t *tee) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.sent.Write(p)
	t.mu.Unlock()
	return t.Conn.Write(p)
}

// conversation returns what the two sides of a true one say.
func conversation(t testing.TB) (client, server []byte) {
	t.Helper()
	here, there := net.Pipe()
	rec := &tee{Conn: here}
	go exporter.ServeTree(context.Background(), there, openFlat)
	r, err := exporter.DialTree(t.Context(), rec)
	check(t, err)
	check(t, use(t.Context(), r))
	check(t, r.Close())
	return rec.sent.Bytes(), rec.in.Bytes()
}

const helloSize = 8

func FuzzServeTree(f *testing.F) {
	client, _ := conversation(f)
	f.Add(client[helloSize:])
	f.Add(client[helloSize : len(client)-5])
	greeting := client[:helloSize:helloSize]
	f.Fuzz(func(t *testing.T, in []byte) {
		exporter.ServeTree(t.Context(), struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(append(greeting, in...)), io.Discard}, openFlat)
	})
}

// scripted is a server that says what it says, one frame after each that it hears, if it hears any.
type scripted struct {
	out    []byte
	heard  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (s *scripted) Write(p []byte) (int, error) {
	select {
	case s.heard <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *scripted) Read(p []byte) (int, error) {
	select {
	case <-s.heard:
	case <-s.closed:
		return 0, io.ErrClosedPipe
	case <-time.After(time.Millisecond):
	}
	n := min(len(s.out), 13)
	if n == 13 {
		n += int(min(binary.BigEndian.Uint32(s.out), uint32(len(s.out)-13)))
	}
	if n == 0 {
		return 0, io.EOF
	}
	n = copy(p, s.out[:n])
	s.out = s.out[n:]
	return n, nil
}

func (s *scripted) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func FuzzDialTree(f *testing.F) {
	_, server := conversation(f)
	f.Add(server[helloSize:])
	f.Add(server[helloSize : len(server)-5])
	greeting := server[:helloSize:helloSize]
	f.Fuzz(func(t *testing.T, in []byte) {
		s := &scripted{heard: make(chan struct{}, 100), closed: make(chan struct{}), out: append(greeting, in...)}
		r, err := exporter.DialTree(t.Context(), s)
		if err != nil {
			return
		}
		use(t.Context(), r)
		r.Close()
	})
}
