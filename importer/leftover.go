package importer

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hakobune-dr/hakobune/chunkstore"
	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// leftover is a directory that was filled in part, or changed by others: what of a tree's content it has is found by
// reading it, and holding each chunk against its id. Nothing else is trusted, neither names nor times.
type leftover struct {
	repo *chunkstore.Repository
	dir  *os.File

	mu    sync.Mutex
	found map[string]bool // what was answered, by path
}

func openLeftover(repo *chunkstore.Repository, dir string) (*leftover, error) {
	f, err := os.Open(dir)
	return &leftover{repo: repo, dir: f, found: make(map[string]bool)}, err
}

func (l *leftover) close() error { return l.dir.Close() }

// has reports whether a file has the content that its record says.
func (l *leftover) has(e *archive.Entry) bool {
	if len(e.Extents) == 0 {
		return false // it is in the record
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	known, ok := l.found[e.Path]
	if !ok {
		known = l.holds(e)
		l.found[e.Path] = known
	}
	return known
}

// holds is has without the memory. A file of several names is none of ours: the tree may give each its own content.
func (l *leftover) holds(e *archive.Entry) bool {
	f, err := openBeneath(l.dir, e.Path)
	if err != nil {
		return false // an old kernel too: all is fetched
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Size != e.Size {
		return false
	}
	var off int64
	for _, x := range e.Extents {
		if x.Hole {
			return false
		}
		for _, ref := range x.Refs {
			if !l.chunkAt(f, off, ref) {
				return false
			}
			off += int64(ref.Length)
		}
	}
	return off == e.Size
}

// leftoverChunk is longer than any chunk of a file's content.
const leftoverChunk = 16 << 20

func (l *leftover) chunkAt(f *os.File, off int64, ref chunkstore.Ref) bool {
	if ref.Offset != 0 || ref.Length > leftoverChunk {
		return false
	}
	b := make([]byte, ref.Length)
	_, err := f.ReadAt(b, off)
	return err == nil && l.repo.IsChunk(ref.ID, b)
}
