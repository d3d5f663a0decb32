package agentrouter

import (
	"encoding/json"
	"fmt"
	"log/slog"
)

// Secret is a provider's secret in the arguments of a call. It prints as [redacted], in logs and as JSON too.
type Secret string

const redacted = "[redacted]"

// Format implements fmt.Formatter, for all verbs.
func (Secret) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// APIKey is the text of an API key. It prints as [redacted].
type APIKey struct{ text func() string }

// Reveal returns the text.
func (k APIKey) Reveal() string {
	if k.text == nil {
		return ""
	}
	return k.text()
}

// String returns "[redacted]".
func (APIKey) String() string { return redacted }

// GoString returns the same as String.
func (APIKey) GoString() string { return redacted }

// MarshalText implements encoding.TextMarshaler: it returns the same as String.
func (APIKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (k *APIKey) UnmarshalJSON(wire []byte) error {
	var text string
	err := json.Unmarshal(wire, &text)
	k.text = func() string { return text }
	return err
}
