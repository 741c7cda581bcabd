package importer

import (
	"context"
	"io"
	"sync"

	"github.com/hakobune-dr/hakobune/chunkstore/snapshot"
)

// meterStep is how many bytes pass between two events.
const meterStep = 1 << 20

// meter tells an observer how many bytes of a phase have passed through its readers, which may be
// used from several goroutines at once.
type meter struct {
	observer snapshot.Observer

	mu    sync.Mutex
	event snapshot.Event
	told  int64
}

func (m *meter) add(n int, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.event.Done += int64(n)
	if m.event.Done-m.told < meterStep && m.event.Done != m.event.Total {
		return
	}
	m.told = m.event.Done
	m.event.What = what
	m.observer.Notify(m.event)
}

// whole tells that the phase is complete: what did not pass through was small, or in place already.
func (m *meter) whole() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.event.Done != m.event.Total {
		m.event.Done = m.event.Total
		m.observer.Notify(m.event)
	}
}

// reader counts what is read from r.
func (m *meter) reader(r io.Reader, what string) io.Reader { return &meteredReader{m, r, what} }

type meteredReader struct {
	meter *meter
	r     io.Reader
	what  string
}

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if n > 0 {
		r.meter.add(n, r.what)
	}
	return n, err
}

// layers counts what is read of layers.
func (m *meter) layers(open openLayer) openLayer {
	return func(ctx context.Context, diffID string) (io.ReadCloser, int64, error) {
		l, size, err := open(ctx, diffID)
		if err != nil {
			return nil, 0, err
		}
		return struct {
			io.Reader
			io.Closer
		}{m.reader(l, "layer "+diffID), l}, size, nil
	}
}
