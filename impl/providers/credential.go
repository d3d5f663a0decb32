package providers

import (
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// hostLabelPattern is one label of a host name (RFC 1123 section 2.1): it cannot leave the domain that follows it.
var hostLabelPattern = regexp.MustCompile(`^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

var (
	errNotObject     = errors.New("not a JSON object")
	errTrailingBytes = errors.New("trailing bytes")
)

// refuseCredential judges a JSON credential by the provider's fields. Members that are not listed are let through.
func (p Provider) refuseCredential(secret string) string {
	members, err := readMembers(secret)
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return "The credential's JSON has a member twice."
	case errors.Is(err, errTrailingBytes):
		return "The credential's JSON is followed by something else: give one object."
	case err != nil:
		return "The secret must be a JSON object with the members " + strings.Join(p.RequiredFields(), ", ") + "."
	}
	missing := slices.DeleteFunc(p.RequiredFields(), func(name string) bool {
		_, ok := members[name]
		return ok
	})
	if len(missing) > 0 {
		return "The credential lacks the members " + strings.Join(missing, ", ") + "."
	}
	for _, f := range p.Fields {
		value, ok := members[f.Name]
		if !ok {
			continue
		}
		if reason := p.refuseMember(f, value); reason != "" {
			return "The credential's " + f.Name + " " + reason + "."
		}
	}
	return ""
}

// refuseMember returns what is wrong with a member's value, as the end of a sentence, or "".
func (p Provider) refuseMember(f Field, value jsontext.Value) string {
	unquoted, err := jsontext.AppendUnquote(nil, value) // an error for any value but a string
	text := string(unquoted)
	switch {
	case err != nil, strings.TrimSpace(text) == "":
		return "must be a string that is not empty"
	case maskPattern.MatchString(text):
		return "is a masked value or a placeholder"
	case len(f.OneOf) > 0 && !slices.Contains(f.OneOf, text):
		return "must be " + strings.Join(f.OneOf, " or ")
	case strings.Contains(p.BaseURL, "{"+f.Name+"}") && !hostLabelPattern.MatchString(text):
		return "must be a name of letters, digits and hyphens, not a URL or a host"
	case f.Multiline && !isVisibleASCII(strings.NewReplacer(" ", "", "\r", "", "\n", "").Replace(text)):
		return "must be ASCII text"
	case !f.Multiline && !isVisibleASCII(text):
		return "must be visible ASCII without spaces"
	}
	return ""
}

// readMembers reads one JSON object (RFC 8259) and returns its members' values as they are written. Duplicate names, at
// any depth, and invalid UTF-8 are errors, as RFC 7493 has it. Its errors hold parts of the document: they are only to
// be compared, never shown.
func readMembers(document string) (map[string]jsontext.Value, error) {
	decoder := jsontext.NewDecoder(strings.NewReader(document))
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != jsontext.KindBeginObject {
		return nil, errNotObject
	}
	members := map[string]jsontext.Value{}
	for {
		token, err := decoder.ReadToken()
		if err != nil {
			return nil, err
		}
		if token.Kind() == jsontext.KindEndObject {
			break
		}
		name := token.String() // copied now: the token does not survive the next read
		value, err := decoder.ReadValue()
		if err != nil {
			return nil, err
		}
		members[name] = value.Clone()
	}
	if _, err := decoder.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errTrailingBytes
	}
	return members, nil
}
