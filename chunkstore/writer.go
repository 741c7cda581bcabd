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

// claimWriter returns the id under which sessions of this process write: a put-only host has one, which two processes of one
// machine do not use at once.
func (r *Repository) claimWriter() (w crypto.WriterID, release func(), err error) {
	if r.host == nil {
		return claimWriter(r.opts.StateDir, r.keys.Repository())
	}
	w = r.host.Writer
	if r.opts.StateDir == "" {
		return w, func() {}, nil
	}
	dir := filepath.Join(r.opts.StateDir, r.keys.Repository().String())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return w, nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "host-"+w.String()), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return w, nil, fmt.Errorf("state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return w, nil, ErrHostBusy
		}
		return w, nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return w, func() { f.Close() }, nil
}

// hasDied tells whether w is an id that dir remembers and no process uses now: what it had begun, and not ended, nobody goes on with.
func hasDied(dir string, repo crypto.RepositoryID, w crypto.WriterID) bool {
	if dir == "" {
		return false
	}
	for n := 0; ; n++ {
		f, err := os.OpenFile(filepath.Join(dir, repo.String(), fmt.Sprintf("writer-%d", n)), os.O_RDWR, 0)
		if err != nil {
			return false
		}
		known, ok := knownWriter(f)
		found := ok && known == w
		free := found && syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
		f.Close()
		if found {
			return free
		}
	}
}

// knownWriter reads the id in f, if there is a valid one.
func knownWriter(f *os.File) (w crypto.WriterID, ok bool) {
	text := make([]byte, 2*len(w))
	if _, err := f.ReadAt(text, 0); err != nil {
		return w, false
	}
	_, err := hex.Decode(w[:], text)
	return w, err == nil
}

// readWriter reads the id in f, or writes a new one if there is no valid one.
func readWriter(f *os.File) (crypto.WriterID, error) {
	w, ok := knownWriter(f)
	if ok {
		return w, nil
	}
	w = crypto.NewWriterID()
	if _, err := f.WriteAt([]byte(w.String()), 0); err != nil {
		return w, fmt.Errorf("remember the writer id: %w", err)
	}
	return w, nil
}
