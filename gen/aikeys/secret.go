package aikeys

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// SecretText is a field that the document marks x-secret. It goes over the wire as it is and prints as [redacted]
// everywhere else, so that a request that ends in a log or an error shows nothing. The zero value is empty.
type SecretText struct {
	// text is a closure because fmt, when it can't print what holds this value, prints the fields without asking for
	// methods; it follows strings and pointers, but not a func.
	text func() string
}

// NewSecretText returns text as a field's value.
func NewSecretText(text string) SecretText { return SecretText{text: func() string { return text }} }

// Reveal returns the text itself.
func (s SecretText) Reveal() string {
	if s.text == nil {
		return ""
	}
	return s.text()
}

// MarshalJSON returns the text as it goes over the wire.
func (s SecretText) MarshalJSON() ([]byte, error) { return json.Marshal(s.Reveal()) }

// UnmarshalJSON reads the text off the wire.
func (s *SecretText) UnmarshalJSON(wire []byte) error {
	var text string
	if err := json.Unmarshal(wire, &text); err != nil {
		return err
	}
	*s = NewSecretText(text)
	return nil
}

// Format prints [redacted] for every verb.
func (SecretText) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns [redacted].
func (SecretText) String() string { return redacted }

// LogValue returns [redacted].
func (SecretText) LogValue() slog.Value { return slog.StringValue(redacted) }
