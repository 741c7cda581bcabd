package archive

import (
	"iter"
	"strings"
)

// beneath reports whether path is at root or beneath it.
func beneath(path, root string) bool {
	rest, ok := strings.CutPrefix(path, root)
	return ok && (root == "" || rest == "" || rest[0] == '/')
}

// inside iterates over the entries at root and beneath: one run of the order, so it ends there.
func inside(entries iter.Seq2[Entry, error], root string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for e, err := range entries {
			in := err != nil || beneath(e.Path, root)
			if !in && Compare(e.Path, root) > 0 {
				return
			}
			if in && !yield(e, err) {
				return
			}
		}
	}
}

// linkedOutside returns the paths outside of root whose nodes have a further name inside.
func linkedOutside(entries iter.Seq2[Entry, error], root string) (map[string]bool, error) {
	wanted := map[string]bool{}
	for e, err := range inside(entries, root) {
		if err != nil {
			return nil, err
		}
		if e.Type == Hardlink && !beneath(e.Link, root) {
			wanted[e.Link] = true
		}
	}
	return wanted, nil
}

// subtree iterates over the entries at root and beneath, where the first of several names of a node
// outside takes the place of that node.
func subtree(entries iter.Seq2[Entry, error], root string, wanted map[string]bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		nodes := map[string]Entry{}  // what is wanted from outside
		names := map[string]string{} // the name it has inside
		for e, err := range entries {
			switch {
			case err != nil:
			case !beneath(e.Path, root):
				if wanted[e.Path] {
					nodes[e.Path] = e
				}
				if Compare(e.Path, root) > 0 {
					return
				}
				continue
			case e.Type == Hardlink && wanted[e.Link]:
				e = moveIn(e, nodes, names)
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// moveIn gives the Hardlink e a target inside, or makes it the node itself.
func moveIn(e Entry, nodes map[string]Entry, names map[string]string) Entry {
	if name, ok := names[e.Link]; ok {
		e.Link = name
		return e
	}
	node, ok := nodes[e.Link]
	if !ok {
		return e // a tree that this package did not write
	}
	names[e.Link] = e.Path
	node.Path = e.Path
	return node
}
