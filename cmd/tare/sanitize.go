package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/internal/secret"
)

const redacted = "[redacted]"

// minRedacted is the length of the shortest secret that is redacted: shorter ones are part of too many words.
const minRedacted = 8

// registerSecret has all later output show [redacted] in place of a secret, in case a server repeats it. If the secret
// has several lines, it also registers them joined to one line, because errors are printed on one line.
func (p *program) registerSecret(s secret.Text) {
	for _, form := range []string{s.Reveal(), cli.OneLine(s.Reveal())} {
		if len(form) >= minRedacted {
			p.redacted = append(p.redacted, secret.New(form))
		}
	}
}

func (p *program) redact(text string) string {
	for _, s := range p.redacted {
		text = strings.ReplaceAll(text, s.Reveal(), redacted)
	}
	return text
}

// redactJSON is redact for a JSON document, in which the characters of a secret may be escaped.
func (p *program) redactJSON(document []byte) []byte {
	var b bytes.Buffer
	for {
		start := bytes.IndexByte(document, '"')
		if start < 0 {
			b.Write(document)
			return b.Bytes()
		}
		end := stringEnd(document, start)
		b.Write(document[:start])
		b.Write(p.redactJSONString(document[start:end]))
		document = document[end:]
	}
}

func (p *program) redactJSONString(quoted []byte) []byte {
	var text string
	if json.Unmarshal(quoted, &text) != nil {
		return quoted
	}
	without := p.redact(text)
	if without == text {
		return quoted
	}
	again, err := json.Marshal(without)
	if err != nil {
		return []byte(`"` + redacted + `"`)
	}
	return again
}

// stringEnd returns the end of the JSON string that begins with the quotation mark at start.
func stringEnd(document []byte, start int) int {
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

// sanitize makes a text safe to print on one line: secrets are redacted and unsafe characters are shown as their codes.
func (p *program) sanitize(text string) string { return escapeControl(p.redact(text)) }

// escapeControl shows unsafe characters, line ends and invalid UTF-8 as their codes.
func escapeControl(text string) string {
	if strings.IndexFunc(text, isUnsafe) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case isUnsafe(r):
			b.WriteString(escapeRune(r))
		default:
			b.WriteRune(r)
		}
		text = text[size:]
	}
	return b.String()
}

// isUnsafe reports whether a character can mislead: a terminal would act on it, it changes the direction of text, or it
// is invisible. The replacement character is unsafe because it may stand for invalid UTF-8.
func isUnsafe(r rune) bool {
	return r == utf8.RuneError || !unicode.IsPrint(r) ||
		unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

func escapeRune(r rune) string {
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// isID reports whether a text is not empty and has only characters of ids, which are harmless in a shell.
func isID(text string) bool {
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-", r)
	})
}
