// Package secret has the type of the fields that a document marks x-secret. The generated code of all documents uses it.
package secret

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"unicode/utf8"
)

const redacted = "[redacted]"

// Text is the value of a field that a document marks x-secret. It is sent as it is and prints as [redacted] everywhere else,
// so that a request in a log or an error does not show it. The zero value is empty.
type Text struct {
	// text is a closure because fmt prints unexported fields of a struct without calling their methods. It follows strings
	// and pointers, but prints only the address of a func.
	text func() string
}

// New returns text as a secret.
func New(text string) Text { return Text{text: func() string { return text }} }

// Reveal returns the text itself.
func (s Text) Reveal() string {
	if s.text == nil {
		return ""
	}
	return s.text()
}

// MarshalJSON implements json.Marshaler. It does not redact: it is what sends the text.
func (s Text) MarshalJSON() ([]byte, error) { return json.Marshal(s.Reveal()) }

// UnmarshalJSON implements json.Unmarshaler.
func (s *Text) UnmarshalJSON(wire []byte) error {
	if plain, ok := plainString(wire); ok {
		*s = New(Cleared(plain))
		return nil
	}
	var text string
	if err := json.Unmarshal(wire, &text); err != nil {
		return err
	}
	*s = New(Cleared(text))
	return nil
}

// plainString returns what is between the quotes of a JSON string in ASCII without escapes. It shares the memory of wire, so that no
// copy is left behind.
func plainString(wire []byte) (plain []byte, ok bool) {
	if len(wire) < 2 || wire[0] != '"' || wire[len(wire)-1] != '"' {
		return nil, false
	}
	plain = wire[1 : len(wire)-1]
	for _, c := range plain {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return nil, false
		}
	}
	return plain, true
}

// Format prints [redacted] for every verb.
func (Text) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String returns [redacted].
func (Text) String() string { return redacted }

// LogValue returns [redacted].
func (Text) LogValue() slog.Value { return slog.StringValue(redacted) }
