// Package verdict judges what a provider's answer says about the key of the request. It applies the provider's rules to answers to real
// traffic and to tests of keys.
//
// A rule looks at one member of an error document. It never searches the whole document for a word, because providers
// quote requests in their errors: one caller's text must not decide the state of a key that others share.
package verdict

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Verdict is what an answer says about the key.
type Verdict string

// The verdicts. Rules give the first six.
const (
	Accepted       Verdict = "accepted"
	Rejected       Verdict = "rejected"        // the provider does not accept the key: it is unknown, expired or disabled
	Leaked         Verdict = "leaked"          // rejected because the provider has seen the key in public
	QuotaExhausted Verdict = "quota_exhausted" // the key's account has no balance left
	Restricted     Verdict = "restricted"      // the key is valid, but not for this request
	Unrelated      Verdict = "unrelated"       // the answer is about the request, the region or the network, not the key
	Forbidden      Verdict = "forbidden"       // a 403 that no rule knows, about the key or the request
	RateLimited    Verdict = "rate_limited"    // the key is valid, but used too often
	Unknown        Verdict = ""                // the answer says nothing about the key
)

// IsFailure reports whether the key has failed: every request with it will fail, too.
func (v Verdict) IsFailure() bool {
	return slices.Contains([]Verdict{Rejected, Leaked, QuotaExhausted}, v)
}

// BodyLimit is how many bytes of an answer's body need to be read. Error documents are much shorter.
const BodyLimit = 8 << 10

// Rule recognises answers by their status and, with At, by a member of their JSON body.
type Rule struct {
	Status int `yaml:"status"`
	// At is the path to a member, its names joined with dots; arrays add no name. If it is empty, only the status counts.
	At string `yaml:"at"`
	// Is is the member's whole value, Begins its prefix. If both are empty, the member only has to exist.
	Is     string  `yaml:"is"`
	Begins string  `yaml:"begins"`
	Means  Verdict `yaml:"means"`
}

// Rules are a provider's rules. The first match decides.
type Rules []Rule

// NeedBody reports whether a rule for answers with this status looks at their body.
func (rules Rules) NeedBody(status int) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Status == status && r.At != "" })
}

// Match returns the verdict of the first rule that matches an answer. The first BodyLimit bytes of the body are enough.
func (rules Rules) Match(status int, body []byte) (v Verdict, ok bool) {
	var members []member
	if rules.NeedBody(status) {
		members = membersOf(body)
	}
	for _, r := range rules {
		if r.Status == status && r.matches(members) {
			if slices.Contains(ruled, r.Means) {
				return r.Means, true
			}
			return Unknown, true // the rule has a verdict of a later version
		}
	}
	return Unknown, false
}

// Judge returns the verdict of an answer to real traffic. Without a matching rule, the status decides.
func (rules Rules) Judge(status int, body []byte) Verdict {
	if v, ok := rules.Match(status, body); ok {
		return v
	}
	switch {
	case status == http.StatusUnauthorized:
		return Rejected
	case status == http.StatusPaymentRequired:
		return QuotaExhausted
	case status == http.StatusForbidden:
		return Forbidden
	case status == http.StatusTooManyRequests:
		return RateLimited
	case status == http.StatusBadRequest, status < http.StatusContinue, status >= http.StatusInternalServerError:
		return Unknown // some providers look at the request before they look at the key
	}
	return Accepted
}

// ruled are the verdicts that rules may give.
var ruled = []Verdict{Accepted, Rejected, Leaked, QuotaExhausted, Restricted, Unrelated}

func (r Rule) matches(members []member) bool {
	return r.At == "" || slices.ContainsFunc(members, func(m member) bool {
		return m.path == r.At && (r.Is == "" || m.value == r.Is) && strings.HasPrefix(m.value, r.Begins)
	})
}

var errRule = errors.New("a rule needs a status of 200 to 499 and a known meaning; is and begins need at, and exclude each other")

// Validate returns an error if a rule is invalid.
func (rules Rules) Validate() error {
	for _, r := range rules {
		if r.Status < http.StatusOK || r.Status >= http.StatusInternalServerError || !slices.Contains(ruled, r.Means) ||
			r.At == "" && r.Is+r.Begins != "" || r.Is != "" && r.Begins != "" {
			return errRule
		}
	}
	return nil
}

// member is a text, number or boolean of a document, and its path: the names that lead to it, joined with dots.
type member struct{ path, value string }

// maxDepth bounds the nesting of members.
const maxDepth = 8

// membersOf returns the members of a JSON document, up to the first error in its syntax. The end of the document may be
// missing. A text that does not begin like JSON has no members.
func membersOf(document []byte) (members []member) {
	d := jsontext.NewDecoder(bytes.NewReader(document), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	for {
		token, err := d.ReadToken()
		if err != nil {
			return members
		}
		switch token.Kind() {
		case '"', '0', 't', 'f':
		default:
			continue
		}
		depth := d.StackDepth()
		if kind, length := d.StackIndex(depth); depth > maxDepth || kind == '{' && length%2 == 1 {
			continue // a name; its value follows
		}
		members = append(members, member{pathOf(d), token.String()})
	}
}

// pathOf returns the path of the value that was read last.
func pathOf(d *jsontext.Decoder) string {
	var names []string
	level := 0
	for name := range d.StackPointer().Tokens() {
		level++
		if kind, _ := d.StackIndex(level); kind == '{' {
			names = append(names, name)
		}
	}
	return strings.Join(names, ".")
}
