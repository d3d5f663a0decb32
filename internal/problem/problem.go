// Package problem turns errors into problem documents (RFC 9457). A document's text comes from a table or from an
// Error, never from the text of any other error, so it can't leak what such a text quotes.
//
// Each API has a Table in a file problems.go beside its handlers. The table maps errors to statuses, codes and texts. For an API of
// impl/httpapi, httpapi.Problems adds the rows that all APIs share. Any other table ends with the row of the internal error, which
// answers for unknown errors:
//
//	var problems = problem.Table{
//		{Err: errNoCredential, Status: 401, Code: "unauthenticated", Slug: "no-credential", Title: "…", Detail: "…"},
//		{Err: errInternal, Status: 500, Code: "internal", Slug: "internal", Title: "…", Detail: "…"},
//	}
//	problem.Write(w, problems.Document(err, requestID), err)
//
// An API whose documents have more members embeds Document in a type of its own, and calls SetHeader and Encode instead of
// Write. Handlers refuse a field with Invalid or Error, and say with Wait when a retry may work.
package problem

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
)

// ContentType is the media type of a problem document (RFC 9457, section 3).
const ContentType = "application/problem+json"

// ErrInvalid says that an argument of the request is invalid. Each table has a row for it.
var ErrInvalid = errors.New("invalid argument")

// Row is the answer to an error.
type Row struct {
	// Err is the sentinel that the row answers for.
	Err    error
	Status int
	// Code is the machine-readable kind of the problem, such as not_found. Several types may have the same code.
	Code string
	// Slug is the last segment of the type's URL, /problems/<slug>.
	Slug   string
	Title  string
	Detail string
}

// Document returns the document of the row.
func (r Row) Document(requestID string) Document {
	return Document{
		Type:      "/problems/" + r.Slug,
		Title:     r.Title,
		Status:    r.Status,
		Detail:    r.Detail,
		Instance:  "urn:request:" + requestID,
		Code:      r.Code,
		RequestID: requestID,
	}
}

// Table lists the problems of an API. The answer to an error is the first row whose sentinel the error wraps, or the
// last row if there is none. A table is not empty.
type Table []Row

// Find returns the row that answers for err.
func (t Table) Find(err error) Row {
	for _, row := range t {
		if errors.Is(err, row.Err) {
			return row
		}
	}
	return t[len(t)-1]
}

// FindStatus returns the first row of a status, or the last row if no row has it.
func (t Table) FindStatus(status int) Row {
	for _, row := range t {
		if row.Status == status {
			return row
		}
	}
	return t[len(t)-1]
}

// Document returns the document for err, with err's fields and detail unless it is an error of the service itself.
func (t Table) Document(err error, requestID string) Document {
	doc := t.Find(err).Document(requestID)
	var detailed *Error
	if errors.As(err, &detailed) && doc.Status < http.StatusInternalServerError {
		doc.Errors, doc.Detail = detailed.Fields, cmp.Or(detailed.Detail, doc.Detail)
	}
	return doc
}

// Type is a type of problem with everything that the tables say about it.
type Type struct {
	Row
	// Details are the detail texts of the type's rows.
	Details []string
}

// Types returns the types of problems in the tables, sorted by status, each once. The Row of a type is its first row.
func Types(tables ...Table) []Type {
	var types []Type
	for _, row := range slices.Concat(tables...) {
		at := slices.IndexFunc(types, func(t Type) bool { return t.Slug == row.Slug })
		if at < 0 {
			types = append(types, Type{Row: row})
			at = len(types) - 1
		}
		if !slices.Contains(types[at].Details, row.Detail) {
			types[at].Details = append(types[at].Details, row.Detail)
		}
	}
	slices.SortStableFunc(types, func(a, b Type) int { return a.Status - b.Status })
	return types
}

// Document is the wire form of a problem.
type Document struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail"`
	Instance  string  `json:"instance"`
	Code      string  `json:"code"`
	RequestID string  `json:"request_id"`
	Errors    []Field `json:"errors,omitempty"`
}

// Field is one field, parameter or header at fault. Message never repeats what was sent.
type Field struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Write answers with the document for err.
func Write(w http.ResponseWriter, doc Document, err error) {
	SetHeader(w.Header(), doc.Status, err)
	w.WriteHeader(doc.Status)
	_ = Encode(w, doc) // the status is sent: a failed write leaves nothing to do
}

// SetHeader sets the headers that go with a problem document of a status.
func SetHeader(header http.Header, status int, err error) {
	header.Set("Content-Type", ContentType)
	switch status {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Bearer realm="aikeys"`) // RFC 6750, section 3
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		header.Set("Retry-After", strconv.Itoa(retryAfter(err)))
	}
}

// Encode writes a document in JSON. It leaves <, > and & as they are: documents are not embedded in HTML.
func Encode(w io.Writer, doc any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(doc)
}

// Error is an error that names the fields at fault, or has a more detailed text than its row.
type Error struct {
	Kind   error // the sentinel that it wraps
	Fields []Field
	// Detail replaces the row's if it is not empty. The caller reads it.
	Detail string
}

// Error returns the text of the kind, and the fields with their messages.
func (e *Error) Error() string {
	text := e.Kind.Error()
	for _, f := range e.Fields {
		text += fmt.Sprintf("; %s %s", f.Field, f.Message)
	}
	return text
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Invalid returns an ErrInvalid that names one field.
func Invalid(field, message string) error {
	return &Error{Kind: ErrInvalid, Fields: []Field{{Field: field, Message: message}}}
}

// Wait is an error that says when a retry may work.
type Wait struct {
	Kind    error // the sentinel that it wraps
	Seconds int
}

// Error returns the text of the kind.
func (w *Wait) Error() string { return w.Kind.Error() }

// Unwrap returns the kind.
func (w *Wait) Unwrap() error { return w.Kind }

// retryAfter returns the value of the header Retry-After in seconds: at least 1.
func retryAfter(err error) int {
	var wait *Wait
	if errors.As(err, &wait) && wait.Seconds > 1 {
		return wait.Seconds
	}
	return 1
}
