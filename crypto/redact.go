package crypto

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// placeholder, embedded in what holds a secret, is all that any of Go's ways to print a value gives of
// it. Secrets themselves lie behind pointers, because package fmt cannot reach these methods through
// an unexported field of somebody else's struct, but prints a pointer there as an address.
type placeholder string

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
