// Package secret is the type of the fields that a document marks x-secret, in the generated code of all documents. By
// hand, unlike what is beside it. It imports nothing of ours.
package secret

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

// Text is a field that the document marks x-secret. It goes over the wire as it is and prints as [redacted]
// everywhere else, so that a request that ends in a log or an error shows nothing. The zero value is empty.
type Text struct {
	// text is a closure because fmt, when it can't print what holds this value, prints the fields without asking for
	// methods; it follows strings and pointers, but not a func.
	text func() string
}

// New returns text as a field's value.
func New(text string) Text { return Text{text: func() string { return text }} }

// Reveal returns the text itself.
func (s Text) Reveal() string {
	if s.text == nil {
		return ""
	}
	return s.text()
}

// MarshalJSON returns the text as it goes over the wire.
func (s Text) MarshalJSON() ([]byte, error) { return json.Marshal(s.Reveal()) }

// UnmarshalJSON reads the text off the wire.
func (s *Text) UnmarshalJSON(wire []byte) error {
	var text string
	if err := json.Unmarshal(wire, &text); err != nil {
		return err
	}
	*s = New(text)
	return nil
}

// Format prints [redacted] for every verb.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns [redacted].
func (Text) String() string { return redacted }

// LogValue returns [redacted].
func (Text) LogValue() slog.Value { return slog.StringValue(redacted) }
