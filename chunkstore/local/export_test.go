package local

import (
	"os"

	"github.com/hakobune-dr/hakobune/chunkstore"
)

// WithoutLinks makes s believe that its file system has neither hard links nor RENAME_NOREPLACE,
// as exFAT through FUSE.
func (s *Store) WithoutLinks() {
	s.link = func(*os.File, string, string) error { return chunkstore.ErrUnsupported }
}
