package chunkstore

import (
	"container/list"
	"sync"
)

// recentBytes bounds the plaintext in a recent.
const recentBytes = 48 << 20

// recent keeps chunks of which a part was read lately. Small files share chunks with their neighbours of
// the night in which they changed; so in a tree that was backed up for many nights, the files that lie
// side by side take turns among one chunk of each of these nights.
type recent struct {
	mu    sync.Mutex
	byID  map[ID]*list.Element
	order list.List // of recentChunk, the one read last in front
	bytes int
}

type recentChunk struct {
	id    ID
	plain []byte
}

func newRecent() *recent { return &recent{byID: map[ID]*list.Element{}} }

// get returns a chunk, which is not to be written to.
func (c *recent) get(id ID) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byID[id]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(recentChunk).plain, true
}

// put adds a chunk, in the place of those that were not read for the longest time.
func (c *recent) put(id ID, plain []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[id] != nil {
		return
	}
	c.byID[id] = c.order.PushFront(recentChunk{id, plain})
	for c.bytes += len(plain); c.bytes > recentBytes; {
		last := c.order.Remove(c.order.Back()).(recentChunk)
		delete(c.byID, last.id)
		c.bytes -= len(last.plain)
	}
}
