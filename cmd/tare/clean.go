package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
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

// hide has a secret cut out of all that is shown from now on, should a server repeat it.
func (p *program) hide(s secret) {
	if len(s.reveal()) >= shortest {
		p.hidden = append(p.hidden, s)
	}
}

func (p *program) withoutSecrets(text string) string {
	for _, hidden := range p.hidden {
		text = strings.ReplaceAll(text, hidden.reveal(), redacted)
	}
	return text
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

// unsafe tells what is not simply a character to see. It takes the replacement character for a byte that is no UTF-8,
// which only costs a second look.
func unsafe(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

func escaped(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
