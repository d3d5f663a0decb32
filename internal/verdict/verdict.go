// Package verdict judges what a provider's answer says of the key that the request carried. The rules are data of the provider; this
// package applies them, to answers to real traffic and to answers to a test of a key alike.
//
// A rule looks at one member of an error document rather than for a word anywhere in it, because providers quote requests in their
// errors: the text of a caller must not decide how a key fares that others share.
package verdict

import (
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Verdict is what an answer says of the key.
type Verdict string

// The verdicts. Rules give the first six.
const (
	Accepted       Verdict = "accepted"
	Rejected       Verdict = "rejected"        // the provider does not take the key: unknown, expired, disabled
	Leaked         Verdict = "leaked"          // the same, because the provider has seen the key in public
	QuotaExhausted Verdict = "quota_exhausted" // the account of the key has no balance left
	Restricted     Verdict = "restricted"      // the key is good, and may not do what was asked
	Unrelated      Verdict = "unrelated"       // it is about the request, the region or the network, and says nothing of the key
	Forbidden      Verdict = "forbidden"       // a 403 that no rule knows: it may be about the key or about the request
	RateLimited    Verdict = "rate_limited"    // the key is good, and used too often now
	Unknown        Verdict = ""                // nothing is known
)

// IsFailure reports whether the answer is the key's failure: others will get it, too, whatever they ask for.
func (v Verdict) IsFailure() bool {
	return slices.Contains([]Verdict{Rejected, Leaked, QuotaExhausted}, v)
}

// BodyLimit is how many bytes of an answer's body are read. Error documents are much shorter.
const BodyLimit = 8 << 10

// Rule recognises answers by their status and, with At, by a member of their JSON body.
type Rule struct {
	Status int `yaml:"status"`
	// At is the path to a member, its names joined with dots. Arrays on the way do not count. Empty is a rule for the status alone.
	At string `yaml:"at"`
	// Is is the member's whole value, and Begins how it begins. Without both, the member need only be there.
	Is     string  `yaml:"is"`
	Begins string  `yaml:"begins"`
	Means  Verdict `yaml:"means"`
}

// Rules are a provider's rules. The first that matches decides.
type Rules []Rule

// NeedBody reports whether a rule for answers with this status looks at their body.
func (rules Rules) NeedBody(status int) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Status == status && r.At != "" })
}

// Match returns what the first rule that matches an answer says. The beginning of the body is enough.
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
			return Unknown, true // a meaning that only later versions know
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

// errRule is the error of a rule that makes no sense.
var errRule = errors.New("a rule needs a status of 200 to 499, a known meaning, and at for is or begins, of which it has one")

// Validate returns an error if a rule makes no sense.
func (rules Rules) Validate() error {
	for _, r := range rules {
		if r.Status < http.StatusOK || r.Status >= http.StatusInternalServerError || !slices.Contains(ruled, r.Means) ||
			r.At == "" && r.Is+r.Begins != "" || r.Is != "" && r.Begins != "" {
			return errRule
		}
	}
	return nil
}

// member is a text, number or boolean of a document, and the names that lead to it, joined with dots.
type member struct{ path, value string }

// maxDepth is how deep a document is looked at.
const maxDepth = 8

// membersOf returns the members of a JSON document, of which the end may be missing: none if it is something else.
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
			continue // a name, of which the value follows
		}
		members = append(members, member{pathOf(d), token.String()})
	}
}

// pathOf returns the names that lead to the value that was read last.
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
