package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hakobune-dr/hakobune/internal/testserver"
)

// A line to the store of 20 Mbit/s, with a latency of 100 ms, whose connections break every few hundred kilobytes. A second
// place is filled over it, a standby made ready from there, and the system fails over. The first two are ended in the middle
// and run again. All come to an end, no object that arrived is sent again, and what is told of the progress is true.
func TestBadLine(t *testing.T) {
	if testing.Short() {
		t.Skip("the program under test is built without the race detector")
	}
	all := machines(t)
	const name = "hakotest-line"
	home, standby := all["E29G"], all["E20"]
	newPair(t, home, name)
	standby.wipe(t, name)
	t.Cleanup(func() { standby.wipe(t, name) })
	minio := testserver.MinIO(t)
	l := newLine(t, minio.Endpoint)
	place := "s3:http://" + l.address + "/ark/second"

	near := newWorld(t, "", onStore(minio)...)
	near.init(t)
	for night := range 6 { // with small packs
		home.docker(t, "exec", name+"-db", "sh", "-c", fmt.Sprintf("head -c 400000 /dev/urandom >/data/%d", night))
		near.backup(t, home, name)
	}
	sums := home.docker(t, "exec", name+"-db", "sh", "-c", "sha256sum /data/*")
	newWorld(t, "s3:http://"+minio.Endpoint+"/ark/first", onStore(minio)...).init(t, "--create-bucket") // makes the bucket

	l.syncs(t, near, place)
	l.getsReady(t, newWorld(t, place, onStore(minio)...), standby, name)
	if got := standby.docker(t, "exec", name+"-db", "sh", "-c", "sha256sum /data/*"); got != sums {
		t.Errorf("at the standby:\n%s\nwant\n%s", got, sums)
	}
	if l.broken.Load() == 0 {
		t.Error("no connection broke")
	}
}

// syncs fills a second place.
func (l *line) syncs(t *testing.T, near *world, place string) {
	args := []string{"sync", "--json", "--to", place}
	first := l.cutShort(t, near, syscall.SIGTERM, args...)
	if first.code != 130 {
		t.Errorf("%s: exit %d\n%s", first.commandLine, first.code, first.err)
	}
	l.rest(t)
	l.calm.Store(true) // now each byte is sent for once, and can be counted
	before := l.up.Load()
	again := near.ok(t, args...)
	sent := l.up.Load() - before
	l.calm.Store(false)
	s := again.summary(t, "summary")
	copied, kept, size := s["copied"].(float64), s["kept"].(float64), s["bytes"].(float64)
	t.Logf("sync: %.0f objects were there, %.0f copied: %.0f bytes, %d sent", kept, copied, size, sent)
	if kept == 0 || copied == 0 || float64(sent) > size+5000*(copied+20) {
		t.Errorf("%.0f objects were there, %.0f copied: %.0f bytes, %d sent", kept, copied, size, sent)
	}
	for _, o := range []outcome{first, again} {
		o.progressed(t, "copy", o.code == 0)
	}
}

// getsReady stages the system, and has it come up.
func (l *line) getsReady(t *testing.T, w *world, standby machine, name string) {
	args := []string{"standby", "sync", "--json", "--host", standby.Host.Host, name}
	first := l.cutShort(t, w, syscall.SIGKILL, args...)
	again := w.ok(t, args...)
	s := again.summary(t, "summary")
	t.Logf("standby sync: after it was killed %v of %v bytes were fetched", s["fetched"], s["bytes"])
	first.progressed(t, "volumes", false)
	again.progressed(t, "volumes", true)
	r := w.ok(t, "failover", "--json", "--host", standby.Host.Host, name).summary(t, "failover")
	t.Logf("failover: %v bytes were fetched, %v were staged, RTO %s", r["fetched"], r["staged"], lasted(r["rto"]))
	if r["fetched"].(float64) > 1000 {
		t.Errorf("%v bytes were fetched that were staged", r["fetched"])
	}
}

// cutShort runs the program and sends it a signal when the line has carried a MiB. It carries no more until the program has
// ended.
func (l *line) cutShort(t *testing.T, w *world, sig syscall.Signal, args ...string) outcome {
	t.Helper()
	l.limit.Store(l.up.Load() + l.down.Load() + 1<<20)
	defer l.limit.Store(0)
	cmd := w.command(args...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return outcome{cmd.ProcessState.ExitCode(), out.String(), stderr.String(), 0, "hakobune " + strings.Join(args, " ")}
		case <-time.After(5 * time.Millisecond):
			if l.full() {
				cmd.Process.Signal(sig) // it may have ended
			}
		}
	}
}

// full reports whether the line has carried what it may.
func (l *line) full() bool {
	limit := l.limit.Load()
	return limit > 0 && l.up.Load()+l.down.Load() >= limit
}

// progressed wants a phase to be told of as it was: nothing that is less than before, and whole at a good end.
func (o outcome) progressed(t *testing.T, phase string, whole bool) {
	t.Helper()
	var done, total, told float64
	for text := range strings.Lines(o.out) {
		var s struct {
			Type        string `json:"message_type"`
			Phase       string
			Done, Total float64
		}
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			continue // cut by the kill
		}
		if s.Type != "status" || s.Phase != phase {
			continue
		}
		if told++; s.Done < done && s.Total == total || s.Done > s.Total && s.Total > 0 {
			t.Errorf("%s: %s: %v of %v after %v of %v", o.commandLine, phase, s.Done, s.Total, done, total)
		}
		done, total = s.Done, s.Total
	}
	if whole && (told == 0 || done != total) {
		t.Errorf("%s: %s was told %v times, at the end %v of %v\n%s", o.commandLine, phase, told, done, total, o.out)
	}
}

// line is a bad line to a server.
type line struct {
	address  string
	up, down atomic.Int64 // bytes that got through
	broken   atomic.Int64 // connections
	open     atomic.Int64 // connections
	calm     atomic.Bool  // none breaks
	limit    atomic.Int64 // bytes, up and down, after which nothing gets through; 0: there is none

	mu   sync.Mutex
	free time.Time // when the line has carried what it was given
	dice *rand.Rand
}

const (
	lineRate    = 20e6 / 8 // bytes a second
	lineLatency = 50 * time.Millisecond
)

// newLine opens a line to an address, as long as the test goes on.
func newLine(t *testing.T, server string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{address: listener.Addr().String(), dice: rand.New(rand.NewPCG(1, 2))}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			l.open.Add(1)
			all.Go(func() {
				defer l.open.Add(-1)
				l.carry(ctx, client, server)
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		listener.Close()
		all.Wait()
	})
	return l
}

// rest waits until nothing is under way.
func (l *line) rest(t *testing.T) {
	t.Helper()
	for range 600 {
		if l.open.Load() == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%d connections are still open", l.open.Load())
}

// carry carries one connection until both ends have closed it, or it breaks.
func (l *line) carry(ctx context.Context, client net.Conn, address string) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer server.Close()
	c := &connection{line: l}
	l.mu.Lock()
	c.left.Store(200_000 + l.dice.Int64N(1_000_000))
	l.mu.Unlock()
	ctx, c.end = context.WithCancel(ctx)
	defer c.end()
	stop := context.AfterFunc(ctx, func() {
		for _, end := range []net.Conn{client, server} {
			end.(*net.TCPConn).SetLinger(0) // a reset
			end.Close()
		}
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { c.copy(ctx, server, client, &l.up) })
	both.Go(func() { c.copy(ctx, client, server, &l.down) })
	both.Wait()
}

// connection is one on a line.
type connection struct {
	*line
	left atomic.Int64 // bytes until it breaks
	end  func()
}

// piece is what is on its way.
type piece struct {
	data    []byte
	arrives time.Time
}

func (c *connection) copy(ctx context.Context, to, from net.Conn, count *atomic.Int64) {
	way := make(chan piece, 64)
	go func() {
		defer close(way)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			select {
			case way <- piece{b[:n], c.carried(n).Add(lineLatency)}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range way {
		for wait := time.Until(p.arrives); wait > 0 || c.full(); wait = 5 * time.Millisecond {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			}
			if !c.full() {
				break
			}
		}
		if c.left.Add(-int64(len(p.data))) < 0 && !c.calm.Load() {
			c.broken.Add(1)
			c.end()
			return
		}
		if _, err := to.Write(p.data); err != nil {
			c.end()
			return
		}
		count.Add(int64(len(p.data)))
	}
	to.(*net.TCPConn).CloseWrite()
}

// carried returns when the line has carried that many bytes more.
func (l *line) carried(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / lineRate * float64(time.Second)))
	return l.free
}
