package docsite

import (
	"slices"
	"strings"
)

// reference is what the API reference shows. "make generate" has read it out of the API's document.
type reference struct {
	Description string      `json:"description"`
	Groups      []group     `json:"groups"`
	Objects     []object    `json:"objects"` // those that fields link to
	Operations  []operation `json:"operations"`
}

// group is a tag of the document.
type group struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// operation is one operation of the document.
type operation struct {
	ID          string     `json:"id"`
	Method      string     `json:"method"`
	Path        string     `json:"path"`
	Tags        []string   `json:"tags"`
	Summary     string     `json:"summary"`
	Description string     `json:"description"`
	Open        bool       `json:"open"` // it takes no credential
	Parameters  []field    `json:"parameters"`
	Body        *payload   `json:"body"`
	Responses   []response `json:"responses"`
	Samples     []struct {
		Label  string `json:"label"`
		Source string `json:"source"`
	} `json:"samples"`
}

type object struct {
	Name        string  `json:"name"`
	Description string  `json:"description"`
	Fields      []field `json:"fields"`
}

// field is a member of an object, a parameter or a header.
type field struct {
	Name        string   `json:"name"`
	In          string   `json:"in"` // path, query or header
	Type        string   `json:"type"`
	Object      string   `json:"object"` // the object of the type, or of its items
	Required    bool     `json:"required"`
	Description string   `json:"description"`
	Values      []string `json:"values"`
	MayGrow     bool     `json:"may_grow"` // values are added without notice
	Limits      string   `json:"limits"`
	Default     string   `json:"default"`
	Example     string   `json:"example"`
}

// payload is a JSON body.
type payload struct {
	Fields   []field `json:"fields"`
	Examples []struct {
		Summary string `json:"summary"`
		Text    string `json:"text"`
	} `json:"examples"`
	Secret bool `json:"secret"` // it has a secret
}

type response struct {
	Status      string  `json:"status"`
	Description string  `json:"description"`
	Headers     []field `json:"headers"`
	payload
}

// In returns the operations of a group.
func (r reference) In(group string) []operation {
	return slices.DeleteFunc(slices.Clone(r.Operations), func(o operation) bool { return !slices.Contains(o.Tags, group) })
}

// OK is the response to a request that succeeds.
func (o operation) OK() response {
	return o.Responses[slices.IndexFunc(o.Responses, response.isOK)]
}

// Failures are the responses to a request that does not.
func (o operation) Failures() []response {
	return slices.DeleteFunc(slices.Clone(o.Responses), response.isOK)
}

func (r response) isOK() bool { return strings.HasPrefix(r.Status, "2") }

// Own are the operation's parameters without the customer and the project, which nearly all operations have.
func (o operation) Own() []field {
	return slices.DeleteFunc(slices.Clone(o.Parameters), func(f field) bool { return f.Own() != "" })
}

// Prefix is the part of the field's type before the object's name.
func (f field) Prefix() string { return strings.TrimSuffix(f.Type, f.Object) }

// Own is the value with which a reader's own customer and project are meant; empty for all other parameters.
func (f field) Own() string {
	if f.In == "path" && (f.Name == "customer_id" || f.Name == "project_id") {
		return "-"
	}
	return ""
}
