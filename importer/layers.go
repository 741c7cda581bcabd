package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// layerStore opens layers by their DiffID: those of the repository, and those that were synthesised
// from changes and lie in unlinked files. It may be used from several goroutines at once.
type layerStore struct {
	repo    *chunkstore.Repository
	domain  chunkstore.Domain
	fetched *atomic.Int64 // counts what is read of the repository
	near    nears         // have what need not be fetched; set before any layer is opened
	there   *engineLayers // that the engine has; nil: not looked for. Set before any layer is opened

	mu      sync.Mutex
	spooled map[string]spooledLayer
}

type spooledLayer struct {
	file *os.File
	size int64
}

// open is an openLayer.
func (s *layerStore) open(ctx context.Context, diffID string) (io.ReadCloser, int64, error) {
	s.mu.Lock()
	l, ok := s.spooled[diffID]
	s.mu.Unlock()
	if ok {
		return io.NopCloser(io.NewSectionReader(l.file, 0, l.size)), l.size, nil
	}
	if r, size := s.there.open(ctx, diffID); r != nil {
		return r, size, nil
	}
	r, size, err := archive.OpenLayerNear(ctx, s.repo, s.domain, diffID, s.near.source())
	if err != nil {
		return nil, 0, err
	}
	return struct {
		io.Reader
		io.Closer
	}{counted{r, s.fetched}, r}, size, nil
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// keep takes over a spooled layer. A second one of the same DiffID is closed.
func (s *layerStore) keep(diffID string, l spooledLayer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spooled == nil {
		s.spooled = make(map[string]spooledLayer)
	}
	if _, ok := s.spooled[diffID]; ok {
		return l.file.Close()
	}
	s.spooled[diffID] = l
	return nil
}

// close gives the space of the spooled layers back, and closes what is near.
func (s *layerStore) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, l := range s.spooled {
		errs = append(errs, l.file.Close())
	}
	s.spooled = nil
	s.near.close()
	return errors.Join(errs...)
}

// unlinkedFile makes a file that has no name, and is gone when it is closed.
func unlinkedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "hakobune-")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("temporary file: %w", err), f.Close())
	}
	return f, nil
}
