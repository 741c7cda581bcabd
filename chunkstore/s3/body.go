package s3

import (
	"bytes"
	"io"
	"sync"
)

// body is a request's body, in memory that is only lent to the request: net/http may go on reading
// for a moment after a request has failed, when the memory already serves for something else.
type body struct {
	mu sync.Mutex
	r  *bytes.Reader
}

func newBody(data []byte) *body { return &body{r: bytes.NewReader(data)} }

// Read implements io.Reader. After takeBack there is nothing to read.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == nil {
		return 0, io.ErrClosedPipe
	}
	return b.r.Read(p)
}

// takeBack ends the loan: when it returns nobody reads the memory, now or later.
func (b *body) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.r = nil
}
