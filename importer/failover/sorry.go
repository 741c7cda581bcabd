package failover

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// SorryPage is what people see while the system is on its way: at ports of this host, from the start of Run until the
// container that publishes the port is started, or all are and before the first gate. Requests are answered with status 503.
type SorryPage struct {
	Ports []int  // of this host, where the system publishes HTTP
	Body  []byte // HTML; empty: a page in English
}

const sorryBody = `<!doctype html>
<meta charset="utf-8">
<title>Back soon</title>
<p>This service is being moved to another site. Please try again in a few minutes.</p>
`

// sorryRetry is after how many seconds a client may ask again.
const sorryRetry = 15

// sorry holds the ports until they are needed.
type sorry struct {
	servers   map[int]*http.Server
	listeners map[int]net.Listener
}

// open begins to answer. That a port is taken is told, and stops nothing.
func (p SorryPage) open(ctx context.Context, tell func(port int, err error)) *sorry {
	if len(p.Body) == 0 {
		p.Body = []byte(sorryBody)
	}
	s := &sorry{servers: map[int]*http.Server{}, listeners: map[int]net.Listener{}}
	for _, port := range p.Ports {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", ":"+strconv.Itoa(port))
		if err != nil {
			tell(port, err)
			continue
		}
		s.listeners[port] = l
		s.servers[port] = &http.Server{Handler: http.HandlerFunc(p.serve), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second}
		go s.servers[port].Serve(l) // until close
	}
	return s
}

func (p SorryPage) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Retry-After", strconv.Itoa(sorryRetry))
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	w.WriteHeader(http.StatusServiceUnavailable)
	if r.Method != http.MethodHead {
		w.Write(p.Body)
	}
}

// close gives ports up; all of them without an argument. They are free when it returns, which is at once: nobody who
// is being answered is waited for.
func (s *sorry) close(ports ...int) {
	for port, server := range s.servers {
		if len(ports) == 0 || slices.Contains(ports, port) {
			s.listeners[port].Close() // the server may not know it yet
			server.Close()
			delete(s.servers, port)
		}
	}
}

// ValidPorts refuses what is no port.
func (p SorryPage) ValidPorts() error {
	for _, port := range p.Ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("%d is no port", port)
		}
	}
	return nil
}
