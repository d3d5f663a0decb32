// Package secret has types whose values do not print. The generated code of all documents uses Text for fields marked x-secret.
package secret

import (
	"encoding/json"
	"unicode/utf8"
)

// Text is the value of a field that a document marks x-secret. JSON has it in clear; it prints and logs as "[redacted]", so that a
// request in a log or an error does not show it. The zero value is empty.
type Text struct {
	Redacted

	// text is a closure because fmt prints unexported fields of a struct without calling their methods. Of a string,
	// fmt would print the text; of a func, it prints only the address.
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

// MarshalJSON implements json.Marshaler. It does not redact, since requests and answers carry the text.
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

// plainString returns the text of a JSON string that is ASCII without escapes. It shares the memory of wire, so that no copy is left
// behind.
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
