package archive

import "iter"

// previous walks through the records of an earlier state of a tree in step with the tree itself.
type previous struct {
	next    func() (Entry, error, bool)
	stop    func()
	head    *Entry // the next one not yet passed, nil at the end
	removed int64
	err     error // why it ended early
}

func newPrevious(records iter.Seq2[Entry, error]) *previous {
	p := &previous{stop: func() {}}
	if records == nil {
		return p
	}
	p.next, p.stop = iter.Pull2(records)
	p.advance()
	return p
}

func (p *previous) advance() {
	e, err, ok := p.next()
	p.head = nil
	if ok && err == nil {
		p.head = &e
	}
	p.err = err
}

// seek returns the record of path, nil if there is none. Paths must ascend.
func (p *previous) seek(path string) *Entry {
	for p.head != nil {
		switch c := Compare(p.head.Path, path); {
		case c > 0:
			return nil
		case c == 0:
			e := p.head
			p.advance()
			return e
		}
		p.removed++
		p.advance()
	}
	return nil
}

// finish passes over the rest.
func (p *previous) finish() {
	for p.head != nil {
		p.removed++
		p.advance()
	}
}
