package exporter

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/hakobune-dr/hakobune/chunkstore/archive"
)

// diffTree is what a file system has on top of another one, as an overlay's upper directory would
// hold it: nodes that are new or differ, the directories above them, and whiteouts.
type diffTree struct {
	archive.Tree // of the whole file system
	entries      []archive.Entry
}

// newDiffTree compares two trees, node by node and byte by byte. The result reads from now.
func newDiffTree(ctx context.Context, base, now archive.Tree) (*diffTree, error) {
	old, err := listTree(ctx, base)
	if err != nil {
		return nil, err
	}
	nodes, err := listTree(ctx, now)
	if err != nil {
		return nil, err
	}
	d := differ{base: base, now: now, old: old, nodes: nodes, changed: make([]bool, len(nodes))}
	if err := d.compare(ctx); err != nil {
		return nil, err
	}
	d.keepLinksTogether()
	return &diffTree{now, d.entries()}, nil
}

// Walk implements archive.Tree.
func (d *diffTree) Walk(ctx context.Context, fn func(archive.Entry) error) error {
	for _, e := range d.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func listTree(ctx context.Context, t archive.Tree) ([]archive.Entry, error) {
	var list []archive.Entry
	err := t.Walk(ctx, func(e archive.Entry) error {
		list = append(list, e)
		return nil
	})
	return list, err
}

// differ compares two lists of nodes, both in Compare order.
type differ struct {
	base, now archive.Tree
	old       []archive.Entry
	nodes     []archive.Entry
	changed   []bool // of nodes: goes into the result
	gone      []archive.Entry
}

func (d *differ) compare(ctx context.Context) error {
	i := 0
	under := "\x00" // nothing of old below this path counts: it went with it
	for n := range d.nodes {
		e := &d.nodes[n]
		for i < len(d.old) && archive.Compare(d.old[i].Path, e.Path) < 0 {
			under = d.remove(d.old[i], under)
			i++
		}
		if i == len(d.old) || d.old[i].Path != e.Path {
			d.changed[n] = true
			continue
		}
		o := &d.old[i]
		i++
		if e.Type != archive.Dir && o.Type == archive.Dir {
			under = o.Path // the file hides what was in the directory
		}
		same, err := d.same(ctx, o, e)
		if err != nil {
			return err
		}
		d.changed[n] = !same
	}
	for ; i < len(d.old); i++ {
		under = d.remove(d.old[i], under)
	}
	return nil
}

// remove notes that a node is gone, unless it went with what is above it.
func (d *differ) remove(e archive.Entry, under string) string {
	if strings.HasPrefix(e.Path, under+"/") {
		return under
	}
	d.gone = append(d.gone, archive.Entry{Path: e.Path, Type: archive.Whiteout})
	return e.Path
}

// same compares two nodes of one path, the content of files too: neither size nor time tells a change
// that took care of them.
func (d *differ) same(ctx context.Context, o, e *archive.Entry) (bool, error) {
	if o.Differs(e) {
		return false, nil
	}
	if e.Type != archive.File || e.Size == 0 {
		return true, nil
	}
	a, err := d.base.Open(ctx, *o)
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := d.now.Open(ctx, *e)
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sameContent(a, b)
}

func sameContent(a, b archive.Content) (bool, error) {
	for _, c := range []archive.Content{a, b} {
		if _, _, err := c.Next(); err != nil { // a tar's files are one extent
			return false, err
		}
	}
	x, y := make([]byte, 128<<10), make([]byte, 128<<10)
	for {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if string(x[:n]) != string(y[:m]) {
			return false, nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if errA != nil {
			return true, nil
		}
	}
}

// keepLinksTogether takes in all names of a node of which one is taken in, as the overlay does when
// it copies the node up.
func (d *differ) keepLinksTogether() {
	type inode struct{ dev, ino uint64 }
	linked := map[inode]bool{}
	for i, e := range d.nodes {
		if d.changed[i] && e.Nlink > 1 && e.Type != archive.Dir {
			linked[inode{e.Dev, e.Ino}] = true
		}
	}
	for i, e := range d.nodes {
		if e.Type != archive.Dir && linked[inode{e.Dev, e.Ino}] {
			d.changed[i] = true
		}
	}
}

// entries returns the result, in order: what is in it, and the directories above.
func (d *differ) entries() []archive.Entry {
	needed := map[string]bool{"": true}
	above := func(path string) {
		for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
			needed[path[:i]] = true
		}
	}
	for i, e := range d.nodes {
		if d.changed[i] {
			above(e.Path)
		}
	}
	for _, e := range d.gone {
		above(e.Path)
	}
	result := d.gone
	for i, e := range d.nodes {
		if d.changed[i] || needed[e.Path] {
			result = append(result, e)
		}
	}
	slices.SortFunc(result, func(a, b archive.Entry) int { return archive.Compare(a.Path, b.Path) })
	return result
}
