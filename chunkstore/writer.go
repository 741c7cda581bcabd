package chunkstore

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hakobune-dr/hakobune/crypto"
)

// claimWriter returns the id under which this process may write: one that dir remembers and no
// other process uses now, else a new one, remembered. release gives it up. The ids need not be
// kept: a host that lost them only begins a new chain of snapshots.
func claimWriter(dir string, repo crypto.RepositoryID) (w crypto.WriterID, release func(), err error) {
	if dir == "" {
		return crypto.NewWriterID(), func() {}, nil
	}
	dir = filepath.Join(dir, repo.String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return w, nil, fmt.Errorf("state directory: %w", err)
	}
	for n := 0; ; n++ {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("writer-%d", n)), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return w, nil, fmt.Errorf("state directory: %w", err)
		}
		// The lock ends with the process, however it ends.
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				continue
			}
			return w, nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		w, err := readWriter(f)
		if err != nil {
			f.Close()
			return w, nil, err
		}
		return w, func() { f.Close() }, nil
	}
}

// readWriter reads the id in f, or writes a new one if there is no valid one.
func readWriter(f *os.File) (crypto.WriterID, error) {
	text := make([]byte, 2*len(crypto.WriterID{}))
	var w crypto.WriterID
	if _, err := f.ReadAt(text, 0); err == nil {
		if _, err := hex.Decode(w[:], text); err == nil {
			return w, nil
		}
	}
	w = crypto.NewWriterID()
	if _, err := f.WriteAt([]byte(w.String()), 0); err != nil {
		return w, fmt.Errorf("remember the writer id: %w", err)
	}
	return w, nil
}
