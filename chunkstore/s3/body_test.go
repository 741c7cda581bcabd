package s3

import (
	"bytes"
	"io"
	"testing"
)

// What net/http still reads after a request has failed is not what the memory holds by then.
func TestBodyIsTakenBack(t *testing.T) {
	data := []byte("of the request")
	b := newBody(data)
	first := make([]byte, 6)
	if _, err := io.ReadFull(b, first); err != nil || string(first) != "of the" {
		t.Fatalf("%q, %v", first, err)
	}
	b.takeBack()
	copy(data, bytes.Repeat([]byte("X"), len(data)))
	if rest, err := io.ReadAll(b); err == nil || len(rest) > 0 {
		t.Errorf("after it was taken back: %q, %v", rest, err)
	}
}
