package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
)

// secret is a text that nothing prints: an API key of ours, a provider's key. It is behind a function, so that fmt and
// debuggers find none in whatever struct holds it. JSON has it in clear, for the profiles' file.
type secret struct{ text func() string }

const redacted = "[redacted]"

func newSecret(text string) secret {
	if text == "" {
		return secret{}
	}
	return secret{func() string { return text }}
}

func (s secret) reveal() string {
	if s.text == nil {
		return ""
	}
	return s.text()
}

// IsZero tells whether there is none.
func (s secret) IsZero() bool { return s.text == nil }

// Format writes [redacted], whatever the verb.
func (secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON writes it in clear.
func (s secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.reveal()) }

// UnmarshalJSON reads it.
func (s *secret) UnmarshalJSON(document []byte) error {
	var text string
	if err := json.Unmarshal(document, &text); err != nil {
		return err
	}
	*s = newSecret(text)
	return nil
}

// shortest is the length from which a secret is cut out of what is shown: shorter ones are in too many words.
const shortest = 8

// hide has a secret cut out of all that is shown from now on, should a server repeat it. One of several lines is looked
// for on one line too, as errors are shown.
func (p *program) hide(s secret) {
	for _, form := range []secret{s, newSecret(cli.OneLine(s.reveal()))} {
		if len(form.reveal()) >= shortest {
			p.hidden = append(p.hidden, form)
		}
	}
}

func (p *program) withoutSecrets(text string) string {
	for _, hidden := range p.hidden {
		text = strings.ReplaceAll(text, hidden.reveal(), redacted)
	}
	return text
}

// withoutSecretsIn is withoutSecrets for a JSON document, where a secret's characters may be escaped.
func (p *program) withoutSecretsIn(document []byte) []byte {
	var b bytes.Buffer
	for {
		start := bytes.IndexByte(document, '"')
		if start < 0 {
			b.Write(document)
			return b.Bytes()
		}
		end := endOfString(document, start)
		b.Write(document[:start])
		b.Write(p.withoutSecretsInString(document[start:end]))
		document = document[end:]
	}
}

func (p *program) withoutSecretsInString(quoted []byte) []byte {
	var text string
	if json.Unmarshal(quoted, &text) != nil {
		return quoted
	}
	cut := p.withoutSecrets(text)
	if cut == text {
		return quoted
	}
	again, err := json.Marshal(cut)
	if err != nil {
		return []byte(`"` + redacted + `"`)
	}
	return again
}

// endOfString is where the string of a JSON document ends that starts with the quotation mark there.
func endOfString(document []byte, start int) int {
	for i := start + 1; i < len(document); i++ {
		switch document[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(document)
}

// clean makes one line of a text, without secrets. What a terminal would obey is shown as its code: control characters,
// line ends, bidirectional overrides, characters without width.
func (p *program) clean(text string) string { return visible(p.withoutSecrets(text)) }

func visible(text string) string {
	if strings.IndexFunc(text, unsafe) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case unsafe(r):
			b.WriteString(escaped(r))
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

// unsafe tells what is not simply a character to see: Unicode counts some as letters and marks that show nothing. It takes
// the replacement character for a byte that is no UTF-8, which only costs a second look.
func unsafe(r rune) bool {
	return r == utf8.RuneError || !unicode.IsPrint(r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func escaped(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
