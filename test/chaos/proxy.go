package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

// The faults of the way to a store.
const (
	slow    = "slow"        // delivered late
	reset   = "reset"       // the connection breaks before the store hears of the request
	cut     = "cut put"     // it breaks in the middle of what is put
	short   = "cut get"     // it breaks in the middle of an answer
	lost    = "lost answer" // the store did the work, its answer is lost
	late    = "late"        // the client hears nothing; the request gets through when it has perhaps been made again, and more
	refused = "503"         // the store refuses, for some time
	outage  = "outage"      // nothing gets through, for some time
)

// fault is one that may happen to a request: how often of 1000, and to which methods (none: to all).
type fault struct {
	name    string
	often   int
	methods []string
}

func faults() []fault {
	return []fault{
		{slow, 40, nil},
		{reset, 5, nil},
		{cut, 15, []string{http.MethodPut}},
		{short, 5, []string{http.MethodGet}},
		{lost, 15, []string{http.MethodPut, http.MethodDelete}},
		{late, 12, []string{http.MethodPut, http.MethodDelete}},
		{refused, 1, nil},
		{outage, 1, nil},
	}
}

// proxy is the way to the store.
type proxy struct {
	endpoint  string // where it listens
	store     string
	transport *http.Transport
	delayed   sync.WaitGroup // requests that are late

	mu       sync.Mutex
	dice     *rand.Rand
	quiet    bool
	storm    string // refused or outage
	until    time.Time
	fired    map[string]int
	requests int
}

func startProxy(store string, dice *rand.Rand) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{
		endpoint: l.Addr().String(), store: store, dice: dice, fired: map[string]int{},
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	}
	server := &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)} // it ends with the process
	go server.Serve(l)
	return p, nil
}

// calm ends all faults, and waits for what is late.
func (p *proxy) calm() {
	p.mu.Lock()
	p.quiet = true
	p.mu.Unlock()
	p.delayed.Wait()
}

// choose decides which fault a request meets, "" for none, and a number in [0, 1) for how much of it.
func (p *proxy) choose(method string) (string, float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	if p.quiet {
		return "", 0
	}
	much := p.dice.Float64()
	if time.Now().Before(p.until) {
		p.fired[p.storm]++
		return p.storm, much
	}
	roll := p.dice.IntN(1000)
	for _, f := range faults() {
		if roll -= f.often; roll >= 0 {
			continue
		}
		if !f.meets(method) {
			return "", 0
		}
		if f.name == refused || f.name == outage {
			p.storm, p.until = f.name, time.Now().Add(time.Duration(much*4*float64(time.Second)))
		}
		p.fired[f.name]++
		return f.name, much
	}
	return "", 0
}

func (f fault) meets(method string) bool {
	return f.methods == nil || slices.Contains(f.methods, method)
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, much := p.choose(r.Method)
	switch name {
	case slow:
		time.Sleep(time.Duration(much * float64(500*time.Millisecond)))
		p.answer(w, r, 1)
	case reset, outage:
		hangUp(w)
	case refused:
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>chaos</Message></Error>`)
	case cut:
		p.cutPut(r, much)
		hangUp(w)
	case short:
		p.answer(w, r, much)
	case lost:
		if resp, err := p.forward(r.Context(), r, r.Body); err == nil {
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		hangUp(w)
	case late:
		p.deliverLate(w, r, much)
	default:
		p.answer(w, r, 1)
	}
}

// forward sends a request on, which is signed for the host that it names.
func (p *proxy) forward(ctx context.Context, r *http.Request, body io.Reader) (*http.Response, error) {
	out := r.Clone(ctx)
	out.URL.Scheme, out.URL.Host, out.RequestURI = "http", p.store, ""
	out.Body = io.NopCloser(body)
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	return p.transport.RoundTrip(out)
}

// answer gives that share of the store's answer.
func (p *proxy) answer(w http.ResponseWriter, r *http.Request, share float64) {
	resp, err := p.forward(r.Context(), r, r.Body)
	if err != nil {
		hangUp(w)
		return
	}
	defer resp.Body.Close()
	maps.Copy(w.Header(), resp.Header)
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
	if share < 1 {
		io.CopyN(w, resp.Body, int64(share*float64(max(resp.ContentLength, 0))))
		http.NewResponseController(w).Flush()
		hangUp(w)
		return
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		panic(http.ErrAbortHandler) // the server then breaks the connection off
	}
}

// cutPut sends the beginning of what is put, and breaks off.
func (p *proxy) cutPut(r *http.Request, share float64) {
	part := io.LimitReader(r.Body, int64(share*float64(max(r.ContentLength, 0))))
	resp, err := p.forward(r.Context(), r, io.MultiReader(part, broken{}))
	if err == nil {
		resp.Body.Close()
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("cut") }

// deliverLate breaks the connection off and sends the request on after a while.
func (p *proxy) deliverLate(w http.ResponseWriter, r *http.Request, much float64) {
	body, err := io.ReadAll(r.Body)
	if err != nil || int64(len(body)) != r.ContentLength {
		hangUp(w)
		return
	}
	kept := r.Clone(context.Background())
	p.delayed.Go(func() {
		time.Sleep(time.Duration(much * float64(5*time.Second)))
		if resp, err := p.forward(context.Background(), kept, bytes.NewReader(body)); err == nil {
			resp.Body.Close()
		}
	})
	hangUp(w)
}

// hangUp resets the client's connection.
func hangUp(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}
