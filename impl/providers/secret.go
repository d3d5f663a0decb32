package providers

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// MaxSecretBytes is the longest secret that is taken, in bytes: 16 KiB, many times a service account's key file.
const MaxSecretBytes = 16 << 10

// Refusal says why a secret was not taken.
type Refusal struct {
	// Reason is a sentence for the caller's eyes. It is made of fixed text and of names from the catalogue, never of any
	// part of the secret.
	Reason string
}

func (r *Refusal) Error() string { return r.Reason }

const (
	reasonEmpty   = "The secret is empty."
	reasonTooLong = "The secret is longer than 16 KiB."
	reasonSpace   = "The secret begins or ends with white space or a line end: give it without."
	reasonBearer  = `The secret begins with "Bearer": give the key alone, without it.`
	reasonMasked  = "The secret is a masked value or a placeholder: give the whole key, as the provider showed it once."
	reasonIsJSON  = "The secret is a JSON document, and this provider takes the key alone."
	reasonQuoted  = "The secret is in quotes: give it without."
	reasonChars   = "The secret has characters that no key has: it must be visible ASCII without spaces."
)

// maskPattern finds what stands in a key's place on screens and in examples: asterisks, bullets, ellipses, runs of x,
// <your key>, ${NAME}, {{ name }}, $NAME and your-api-key. None of it is by any likely chance part of a real key: a run
// of eight x in 40 random letters and digits is one in 10^10.
var maskPattern = regexp.MustCompile(
	`(?is)\*{3}|•{3}|…|\.{3}|x{8}|<.*>|\$\{.*\}|\{\{.*\}\}|^\$[a-z_]|your[-_ ](?:[a-z0-9]+[-_ ])*key`)

var bearerPattern = regexp.MustCompile(`^(?i:bearer)(?:[\s\pZ:]|$)`)

// CheckSecret tells whether a secret can be one of the provider's. It returns nil or a *[Refusal]. It judges the shape
// only: whether the provider accepts the secret shows on its first use.
func (c *Catalogue) CheckSecret(p Provider, secret string) error {
	if reason := c.refuse(p, secret); reason != "" {
		return &Refusal{Reason: reason}
	}
	return nil
}

// refuse returns the reason to refuse a secret, or "". Like every function of its kind here, it may put nothing of the
// secret into the reason.
func (c *Catalogue) refuse(p Provider, secret string) string {
	switch {
	case secret == "":
		return reasonEmpty
	case len(secret) > MaxSecretBytes:
		return reasonTooLong
	case strings.TrimSpace(secret) != secret:
		return reasonSpace
	case bearerPattern.MatchString(secret):
		return reasonBearer
	}
	if owner, ok := c.lookalike(p, secret); ok {
		return "The secret looks like a key of " + owner.DisplayName + ", not of " + p.DisplayName + "."
	}
	if p.SecretFormat == FormatJSON {
		return p.refuseCredential(secret)
	}
	return c.refuseToken(secret)
}

// lookalike returns the other provider that the secret's beginning belongs to: the one with the longest matching
// distinctive prefix, if that is longer than each matching prefix of p's own.
func (c *Catalogue) lookalike(p Provider, secret string) (owner Provider, ok bool) {
	longest := p.longestPrefix(secret, false)
	for _, other := range c.providers {
		if other.Slug == p.Slug {
			continue
		}
		if n := other.longestPrefix(secret, true); n > longest {
			owner, ok, longest = other, true, n
		}
	}
	return owner, ok
}

// shortestKey is the length, in bytes, from which a word is no mere abbreviation of a key.
const shortestKey = 16

// Reveals tells whether text, which is to be shown to people, gives a secret away: it holds the secret, a member of the
// credential document that the secret is, or a word that begins as only a provider's keys do.
func (c *Catalogue) Reveals(text, secret string) bool {
	parts := []string{secret}
	if members, err := readMembers(secret); err == nil {
		for _, value := range members {
			if unquoted, err := jsontext.AppendUnquote(nil, value); err == nil {
				parts = append(parts, string(unquoted))
			}
		}
	}
	for _, part := range parts {
		if len(part) >= shortestKey && strings.Contains(text, part) {
			return true
		}
	}
	for _, word := range strings.FieldsFunc(text, betweenWords) {
		for ; word != ""; _, word, _ = strings.Cut(word, "/") { // which a key may hold, or follow
			if c.beginsAsKey(word) {
				return true
			}
		}
	}
	return false
}

func betweenWords(r rune) bool {
	return unicode.IsSpace(r) || strings.ContainsRune(":=,;|'\"`()[]{}<>", r)
}

func (c *Catalogue) beginsAsKey(word string) bool {
	for _, p := range c.providers {
		if n := p.longestPrefix(word, true); n > 0 && len(word) >= n+shortestKey {
			return true
		}
	}
	return false
}

// refuseToken judges a secret that goes into a header field as it is. The grammar of RFC 9110 section 5.5 allows spaces
// inside a field value; no key has one, and Authorization's token68 (section 11.2) excludes it.
func (c *Catalogue) refuseToken(secret string) string {
	switch {
	case maskPattern.MatchString(secret) || c.isBlank(secret):
		return reasonMasked
	case secret[0] == '{' || secret[0] == '[':
		return reasonIsJSON
	case strings.ContainsRune("\"'`", rune(secret[0])):
		return reasonQuoted
	case !isVisibleASCII(secret):
		return reasonChars
	}
	return ""
}

// isBlank tells whether nothing but x, hyphens and underscores follows the longest known prefix: sk-xxxx, sk-ant-.
func (c *Catalogue) isBlank(secret string) bool {
	longest := 0
	for _, p := range c.providers {
		longest = max(longest, p.longestPrefix(secret, false))
	}
	return strings.Trim(secret[longest:], "xX-_") == ""
}

func isVisibleASCII(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// DisplaySuffix returns the end of a secret that people may see, to tell their keys apart: the last four characters,
// fewer for a secret of less than sixteen, since no more than a quarter is ever shown. It is empty for a JSON
// credential, whose end says nothing, and for text that is not UTF-8.
func DisplaySuffix(secret string) string {
	if !utf8.ValidString(secret) || strings.HasPrefix(strings.TrimSpace(secret), "{") {
		return ""
	}
	start := len(secret)
	for range min(4, utf8.RuneCountInString(secret)/4) {
		_, size := utf8.DecodeLastRuneInString(secret[:start])
		start -= size
	}
	return secret[start:]
}
