package failover

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
	"github.com/hakobune-dr/hakobune/importer"
)

// SorryPage is what people see while the system is on its way: at ports of this host, from the start of Run until the
// container that publishes the port is started, or all are and before the first gate. Requests are answered with status 503.
type SorryPage struct {
	Published bool   // answer wherever the system seems to publish HTTP: container ports 80, 3000, 5000 and 8000 to 8999
	Ports     []int  // of this host, where to answer too
	Body      []byte // HTML; empty: a page in English
}

// at lists where to answer, for a system that is restored so.
func (p SorryPage) at(sys *snapshot.System, o importer.Options) []int {
	ports := slices.Clone(p.Ports)
	for _, c := range sys.Containers {
		for _, published := range c.Ports {
			if port, err := strconv.Atoi(hostPort(published, o.Ports)); err == nil && p.Published && c.State == "running" && speaksHTTP(published.Container) {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// hostPort is the port of this host at which a port will be published.
func hostPort(p snapshot.Port, moved map[string]string) string {
	for _, key := range []string{p.HostPort + "/tcp", p.HostPort} {
		if to, ok := moved[key]; ok {
			return to[strings.LastIndexByte(to, ':')+1:]
		}
	}
	return p.HostPort
}

// speaksHTTP guesses by a container's port, as in "80/tcp".
func speaksHTTP(port string) bool {
	number, protocol, _ := strings.Cut(port, "/")
	n, err := strconv.Atoi(number)
	return err == nil && (protocol == "" || protocol == "tcp") && (n == 80 || n == 3000 || n == 5000 || n >= 8000 && n < 9000)
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

// open begins to answer at ports. That one is taken is told, and stops nothing.
func (p SorryPage) open(ctx context.Context, ports []int, tell func(port int, err error)) *sorry {
	if len(p.Body) == 0 {
		p.Body = []byte(sorryBody)
	}
	s := &sorry{servers: map[int]*http.Server{}, listeners: map[int]net.Listener{}}
	for _, port := range ports {
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
