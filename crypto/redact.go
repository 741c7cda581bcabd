package crypto

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// placeholder, embedded in what holds a secret, is all that any of Go's ways to print a value gives of
// it. The secret itself is hidden besides.
type placeholder string

// hidden keeps a secret from package fmt where it cannot call the methods of placeholder: in an
// unexported field of somebody else's struct. It would follow pointers there (for a verb that does not
// fit), but prints a func as an address always.
type hidden[T any] func() T

func hide[T any](v T) hidden[T] { return func() T { return v } }

// String returns the placeholder.
func (p placeholder) String() string { return string(p) }

// GoString returns the placeholder.
func (p placeholder) GoString() string { return string(p) }

// Format writes the placeholder, for every verb and flag.
func (p placeholder) Format(f fmt.State, _ rune) {
	// A Formatter cannot report an error, and fmt's buffer has none.
	_, _ = io.WriteString(f, string(p))
}

// LogValue returns the placeholder.
func (p placeholder) LogValue() slog.Value { return slog.StringValue(string(p)) }

// MarshalJSON returns the placeholder as a JSON string.
func (p placeholder) MarshalJSON() ([]byte, error) { return json.Marshal(string(p)) }
