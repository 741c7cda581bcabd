package docker

import (
	"strings"
	"sync"
)

// tail is a writer that remembers the end of what is written: enough for an error message, however
// much comes. Safe for concurrent use.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// tailSize bounds a tail in bytes.
const tailSize = 4096

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

// String returns the remembered text without white space around it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(strings.ToValidUTF8(string(t.buf), "?"))
}
