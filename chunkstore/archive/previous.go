package archive

import "iter"

// previous walks through the records of an earlier state of a tree in step with the tree itself.
type previous struct {
	next    func() (Entry, error, bool)
	stop    func()
	head    *Entry // the next one not yet passed, nil at the end
	found   *Entry // what was sought last
	removed int64
	err     error // why it ended early
}

func newPrevious(records iter.Seq2[Entry, error]) *previous {
	p := &previous{stop: func() {}}
	if records == nil {
		return p
	}
	p.next, p.stop = readAhead(records)
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

// seek returns the record of path, nil if there is none. Paths must not descend.
func (p *previous) seek(path string) *Entry {
	if p.found != nil && p.found.Path == path {
		return p.found
	}
	p.found = nil
	for p.head != nil {
		switch c := Compare(p.head.Path, path); {
		case c > 0:
			return nil
		case c == 0:
			p.found = p.head
			p.advance()
			return p.found
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

// aheadEntries is how many records are handed over at a time.
const aheadEntries = 256

// readAhead is iter.Pull2 with a goroutine that decodes records while others are compared. Stop must
// be called; it waits for the goroutine.
func readAhead(records iter.Seq2[Entry, error]) (next func() (Entry, error, bool), stop func()) {
	type batch struct {
		entries []Entry
		err     error // follows the entries
	}
	batches, quit := make(chan batch, 2), make(chan struct{})
	go func() {
		defer close(batches)
		var b batch
		send := func() bool {
			select {
			case batches <- b:
				b.entries = make([]Entry, 0, aheadEntries)
				return true
			case <-quit:
				return false
			}
		}
		for e, err := range records {
			if b.err = err; err == nil {
				b.entries = append(b.entries, e)
			}
			if (err != nil || len(b.entries) == aheadEntries) && !send() || err != nil {
				return
			}
		}
		send()
	}()
	var now batch
	next = func() (Entry, error, bool) {
		for len(now.entries) == 0 {
			if now.err != nil {
				return Entry{}, now.err, true
			}
			var ok bool
			if now, ok = <-batches; !ok {
				return Entry{}, nil, false
			}
		}
		e := now.entries[0]
		now.entries = now.entries[1:]
		return e, nil, true
	}
	stop = func() {
		close(quit)
		for range batches {
		}
	}
	return next, stop
}
