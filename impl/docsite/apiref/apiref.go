// Package apiref has the types of generated/summary.json: the parts of the public API's document that docsite shows.
// Command generate writes the file, and docsite reads it, so that the service parses neither YAML nor schemas when it
// starts. The package imports none of our packages.
package apiref

import (
	"slices"
	"strings"
)

// Placeholder stands for the reader's base URL in pages and documents until a request comes. The host is reserved and never
// resolves (RFC 2606).
const Placeholder = "http://reader.invalid"

// Summary is the content of the file.
type Summary struct {
	Version     string      `json:"version"`
	Server      string      `json:"server"` // the first server of the document in the repository
	Description string      `json:"description"`
	Groups      []Group     `json:"groups"`
	Objects     []Object    `json:"objects"` // the objects that fields link to, in the document's order
	Operations  []Operation `json:"operations"`
}

// Group is a tag of the document.
type Group struct {
	Name        string `json:"name" yaml:"name"`
	Description string `json:"description" yaml:"description"`
}

// Operation is one operation of the document.
type Operation struct {
	ID          string     `json:"id" yaml:"operationId"`
	Method      string     `json:"method" yaml:"-"`
	Path        string     `json:"path" yaml:"-"`
	Tags        []string   `json:"tags" yaml:"tags"`
	Summary     string     `json:"summary" yaml:"summary"`
	Description string     `json:"description" yaml:"description"`
	Open        bool       `json:"open,omitempty" yaml:"-"` // it takes no credential
	Parameters  []Field    `json:"parameters,omitempty" yaml:"-"`
	Body        *Payload   `json:"body,omitempty" yaml:"-"`
	Responses   []Response `json:"responses" yaml:"-"`
	Samples     []Sample   `json:"samples" yaml:"x-codeSamples"`
}

// Sample is a program that calls an operation.
type Sample struct {
	Label  string `json:"label" yaml:"label"`
	Source string `json:"source" yaml:"source"`
}

// Object is a schema that fields link to.
type Object struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Fields      []Field `json:"fields"`
}

// Field is a member of an object, a parameter or a header.
type Field struct {
	Name        string   `json:"name"`
	In          string   `json:"in,omitempty"` // path, query or header
	Type        string   `json:"type"`
	Object      string   `json:"object,omitempty"` // the object of the type, or of its items
	Required    bool     `json:"required,omitempty"`
	Description string   `json:"description,omitempty"`
	Values      []string `json:"values,omitempty"`
	MayGrow     bool     `json:"may_grow,omitempty"` // values are added without notice
	Limits      string   `json:"limits,omitempty"`
	Default     string   `json:"default,omitempty"`
	Example     string   `json:"example,omitempty"`
}

// Payload is a JSON body.
type Payload struct {
	Fields   []Field   `json:"fields,omitempty"`
	Examples []Example `json:"examples,omitempty"`
	Secret   bool      `json:"secret,omitempty"` // it has a secret
}

// Example is an example of a body.
type Example struct {
	Summary string `json:"summary,omitempty"`
	Text    string `json:"text"`
}

// Response is an answer of an operation.
type Response struct {
	Status      string  `json:"status"`
	Description string  `json:"description"`
	Headers     []Field `json:"headers,omitempty"`
	Payload
}

// In returns the operations of a group.
func (s Summary) In(group string) []Operation {
	return slices.DeleteFunc(slices.Clone(s.Operations), func(o Operation) bool { return !slices.Contains(o.Tags, group) })
}

// OK returns the response to a request that succeeds.
func (o Operation) OK() Response {
	return o.Responses[slices.IndexFunc(o.Responses, Response.isOK)]
}

// Failures returns the responses to requests that fail.
func (o Operation) Failures() []Response {
	return slices.DeleteFunc(slices.Clone(o.Responses), Response.isOK)
}

func (r Response) isOK() bool { return strings.HasPrefix(r.Status, "2") }

// Own returns the operation's parameters without the customer and the project, which nearly all operations have.
func (o Operation) Own() []Field {
	return slices.DeleteFunc(slices.Clone(o.Parameters), func(f Field) bool { return f.Own() != "" })
}

// Prefix returns the part of the field's type before the object's name.
func (f Field) Prefix() string { return strings.TrimSuffix(f.Type, f.Object) }

// Own returns the value that means the reader's own customer or project; it is empty for all other parameters.
func (f Field) Own() string {
	if f.In == "path" && (f.Name == "customer_id" || f.Name == "project_id") {
		return "-"
	}
	return ""
}
