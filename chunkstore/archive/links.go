package archive

// links finds the later names of nodes that have several. It forgets a node when all its names
// have come by.
type links map[inode]*names

type inode struct{ dev, ino uint64 }

type names struct {
	first string
	typ   Type
	left  uint32 // names still to come
}

// first returns the path under which the node of e came first, if this is a later one. Directories
// have no second name, and whiteouts share one inode without being links.
func (l links) first(e *Entry) (string, bool) {
	if e.Nlink < 2 || e.Ino == 0 || e.Type == Dir || e.Type == Whiteout {
		return "", false
	}
	key := inode{e.Dev, e.Ino}
	n, ok := l[key]
	if !ok || n.typ != e.Type {
		l[key] = &names{first: e.Path, typ: e.Type, left: e.Nlink - 1}
		return "", false
	}
	if n.left--; n.left == 0 {
		delete(l, key)
	}
	return n.first, true
}
