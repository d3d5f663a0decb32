package providers

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// SecretParts returns what is secret in a provider's secret: the whole of it, and the fields of a credential that are neither public nor the
// same in all credentials. It returns nothing for a provider that takes no key.
func (p Provider) SecretParts(secret string) []string {
	if p.AuthStyle == AuthNone {
		return nil
	}
	parts := []string{secret}
	members, err := readMembers(secret)
	if err != nil {
		return parts
	}
	for _, f := range p.Fields {
		if text, ok := textOf(members[f.Name]); ok && !f.Public && len(f.OneOf) == 0 {
			parts = append(parts, text)
		}
	}
	return parts
}

// maxCandidates bounds how many texts Candidates returns.
const maxCandidates = 24

// Candidates returns the texts that may be the secret in what was found somewhere: all of it, and what is left without a name and quotes, as
// in a line of an .env file, a header or a credential's JSON.
func Candidates(found string) []string {
	found = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(found), byteOrderMark))
	all := []string{found}
	if members, err := readMembers(found); err == nil {
		for _, value := range members {
			if text, ok := textOf(value); ok {
				all = append(all, text)
			}
		}
	}
	for _, separator := range []string{"=", ":"} { // a key may end with equals signs
		if _, rest, ok := strings.Cut(found, separator); ok {
			all = append(all, strings.Trim(strings.TrimSpace(rest), "\"'`;,"))
		}
	}
	all = append(all, strings.Trim(found, "\"'`;,"))
	for _, word := range strings.FieldsFunc(found, isSeparator) {
		if len(word) >= shortestKey {
			all = append(all, word)
		}
	}
	var distinct []string
	for _, text := range all {
		if text != "" && len(distinct) < maxCandidates && !slices.Contains(distinct, text) {
			distinct = append(distinct, text)
		}
	}
	return distinct
}

// textOf returns the text of a member's value; ok is false unless it is a non-empty string.
func textOf(value jsontext.Value) (text string, ok bool) {
	unquoted, err := jsontext.AppendUnquote(nil, value)
	return string(unquoted), err == nil && len(unquoted) > 0
}
