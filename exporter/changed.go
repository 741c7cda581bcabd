package exporter

import (
	"iter"
	"slices"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// changed counts the entries that differ from those of the last snapshot, new and removed ones too.
func (s *source) changed() (int64, error) {
	var n int64
	next, stop := func() (archive.Entry, error, bool) { return archive.Entry{}, nil, false }, func() {}
	if s.previous != nil {
		next, stop = iter.Pull2(s.previous)
	}
	defer stop()
	old, bad, ok := next()
	for e, err := range s.spool.Records() {
		if err != nil {
			return 0, err
		}
		for ok && bad == nil && archive.Compare(old.Path, e.Path) < 0 {
			n++ // removed
			old, bad, ok = next()
		}
		if !ok || bad != nil || old.Path != e.Path {
			n++
			continue
		}
		if differs(old, e) {
			n++
		}
		old, bad, ok = next()
	}
	for ok && bad == nil { // an earlier snapshot that cannot be read to its end counts as far as it goes
		n++
		old, bad, ok = next()
	}
	return n, nil
}

// differs compares what a restore would bring back, the content by size and time.
func differs(a, b archive.Entry) bool {
	return a.Type != b.Type || a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Size != b.Size ||
		a.MTime != b.MTime || a.Rdev != b.Rdev || a.Link != b.Link || a.Opaque != b.Opaque ||
		!slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y archive.Xattr) bool {
			return x.Name == y.Name && string(x.Value) == string(y.Value)
		})
}
