package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// wire is the way to the store: a transport whose connections are watched and limited, and which
// notes the store's clock.
type wire struct {
	transport *http.Transport
	ahead     atomic.Int64 // this host's clock less the store's, in nanoseconds, when last heard
}

func newWire(c Config) (*wire, error) {
	idle := c.Timeout
	if idle == 0 {
		idle = time.Minute
	}
	d := dialer{
		Dialer: net.Dialer{Timeout: min(idle, 30*time.Second), KeepAlive: 30 * time.Second},
		idle:   idle, up: newLimiter(c.UploadRate), down: newLimiter(c.DownloadRate),
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment, // HTTPS_PROXY, NO_PROXY: as every Go program does
		DialContext:           d.dial,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   min(idle, 30*time.Second),
		ResponseHeaderTimeout: idle,
		IdleConnTimeout:       min(idle, 30*time.Second), // before servers close them
		MaxIdleConnsPerHost:   32,                        // more than the program has requests at once
		DisableCompression:    true,                      // an object is the bytes that were stored
		WriteBufferSize:       128 << 10,
		ReadBufferSize:        128 << 10,
	}
	if c.CAFile != "" {
		pool, err := trust(c.CAFile)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = pool
	}
	return &wire{transport: t}, nil
}

// trust returns the system's authorities and those in the PEM file.
func trust(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("CA certificates: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a system without any, as a container from scratch
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("CA certificates: %s holds no PEM certificate", file)
	}
	return pool, nil
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.transport.RoundTrip(r)
	if err == nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			w.ahead.Store(int64(time.Since(date)))
		}
	}
	return resp, err
}

// skew returns how far this host's clock is ahead of the store's, as far as the whole seconds of
// an HTTP date can tell; 0 if nothing was heard yet.
func (w *wire) skew() time.Duration { return time.Duration(w.ahead.Load()) }

// dialer makes connections that give up when nothing moves, and keep to a rate.
type dialer struct {
	net.Dialer
	idle     time.Duration
	up, down *rate.Limiter // nil: no limit
}

// newLimiter allows perSecond bytes a second in small steps: smooth, but not a system call a packet.
func newLimiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/20, 512), 256<<10)))
}

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background()) // of the connection, which outlives the request
	return &conn{Conn: c, d: d, ctx: ctx, cancel: cancel}, nil
}

// conn is a connection with d's idle time and rates.
type conn struct {
	net.Conn
	d      *dialer
	ctx    context.Context // ends with Close: lets go of whoever waits for a turn
	cancel context.CancelFunc
}

// Read implements io.Reader. The transport always reads, also while it only writes, so a write
// moves the reader's deadline on, too.
func (c *conn) Read(p []byte) (int, error) {
	if c.d.down != nil {
		p = p[:min(len(p), c.d.down.Burst())]
	}
	if err := c.SetReadDeadline(time.Now().Add(c.d.idle)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	if waitErr := c.turn(c.d.down, n); err == nil {
		err = waitErr
	}
	return n, err
}

// Write implements io.Writer.
func (c *conn) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		part := p[done:]
		if c.d.up != nil {
			part = part[:min(len(part), c.d.up.Burst())]
		}
		if err := c.turn(c.d.up, len(part)); err != nil {
			return done, err
		}
		if err := c.SetDeadline(time.Now().Add(c.d.idle)); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(part)
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// turn waits until n bytes may pass l. Its error is that of a closed connection: that the wait was
// cancelled says nothing of the request, which may be made again.
func (c *conn) turn(l *rate.Limiter, n int) error {
	if l == nil {
		return nil
	}
	if l.WaitN(c.ctx, n) != nil {
		return net.ErrClosed
	}
	return nil
}

// Close implements io.Closer.
func (c *conn) Close() error {
	c.cancel()
	return c.Conn.Close()
}
