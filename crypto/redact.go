package crypto

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// What follows keeps secrets out of messages and logs: each way that Go prints a value gives the
// placeholder of String.

// String returns a placeholder without the secret.
func (m Master) String() string { return fmt.Sprintf("[master secret of epoch %d]", m.epoch) }

// GoString returns what String returns.
func (m Master) GoString() string { return m.String() }

// Format writes what String returns, for every verb and flag.
func (m Master) Format(f fmt.State, _ rune) { redact(f, m.String()) }

// LogValue returns what String returns.
func (m Master) LogValue() slog.Value { return slog.StringValue(m.String()) }

// MarshalJSON returns what String returns, as a JSON string.
func (m Master) MarshalJSON() ([]byte, error) { return json.Marshal(m.String()) }

// String returns a placeholder that names the repository, without any key.
func (k *Keys) String() string { return fmt.Sprintf("[keys of repository %v]", k.repo) }

// GoString returns what String returns.
func (k *Keys) GoString() string { return k.String() }

// Format writes what String returns, for every verb and flag.
func (k *Keys) Format(f fmt.State, _ rune) { redact(f, k.String()) }

// LogValue returns what String returns.
func (k *Keys) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON returns what String returns, as a JSON string.
func (k *Keys) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }

func redact(w io.Writer, placeholder string) {
	// A Formatter has no way to report an error: fmt's own buffer never returns one.
	_, _ = io.WriteString(w, placeholder)
}
