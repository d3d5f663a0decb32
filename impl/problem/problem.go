// Package problem turns errors into RFC 9457 problem documents. One table maps the sentinels of models, sealer, serving and
// session to statuses, codes and texts; a document's text comes from that table alone, never from an error. It may import
// models, sealer, impl/resolution and impl/auth.
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"
)

// ContentType is the media type of a problem document (RFC 9457, section 3).
const ContentType = "application/problem+json"

// Field is one field, parameter or header at fault. Message never repeats what was sent.
type Field struct {
	Field   string `json:"field"`
	Message string `json:"message"`
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

// Error is an error that names the fields at fault. Kind is the sentinel that it amounts to.
type Error struct {
	Kind   error
	Fields []Field
}

// Error returns the kind and the names of the fields.
func (e *Error) Error() string {
	text := e.Kind.Error()
	for _, f := range e.Fields {
		text += fmt.Sprintf("; %s %s", f.Field, f.Message)
	}
	return text
}

// Unwrap returns the kind.
func (e *Error) Unwrap() error { return e.Kind }

// Invalid is an ErrInvalid that names one field.
func Invalid(field, message string) error {
	return &Error{Kind: ErrInvalid, Fields: []Field{{Field: field, Message: message}}}
}

// From returns the document for err. An error that the table does not know is an internal one.
func From(err error, requestID string) Document {
	doc := lookUp(err).document(requestID)
	var detailed *Error
	if errors.As(err, &detailed) && doc.Status < http.StatusInternalServerError {
		doc.Errors = detailed.Fields
	}
	return doc
}

func (r row) document(requestID string) Document {
	return Document{
		Type:      "/problems/" + r.slug,
		Title:     r.title,
		Status:    r.status,
		Detail:    r.detail,
		Instance:  "urn:request:" + requestID,
		Code:      r.code,
		RequestID: requestID,
	}
}

// Write answers with the document, and the headers that its status asks for.
func Write(w http.ResponseWriter, doc Document, err error) {
	header := w.Header()
	header.Set("Content-Type", ContentType)
	switch doc.Status {
	case http.StatusUnauthorized:
		// RFC 6750, section 3.
		header.Set("WWW-Authenticate", `Bearer realm="aikeys"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		header.Set("Retry-After", strconv.Itoa(retryAfter(err)))
	}
	w.WriteHeader(doc.Status)
	// The status is sent; a reader that is gone can be told nothing more.
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	_ = out.Encode(doc)
}

// Wait is an error that knows when a retry may work.
type Wait struct {
	Kind    error
	Seconds int
}

// Error returns the kind.
func (w *Wait) Error() string { return w.Kind.Error() }

// Unwrap returns the kind.
func (w *Wait) Unwrap() error { return w.Kind }

func retryAfter(err error) int {
	var wait *Wait
	if errors.As(err, &wait) && wait.Seconds > 1 {
		return wait.Seconds
	}
	return 1
}

func lookUp(err error) row {
	for _, r := range table {
		if errors.Is(err, r.sentinel) {
			return r
		}
	}
	var fromEcho *echo.HTTPError
	if errors.As(err, &fromEcho) {
		for _, r := range table {
			if r.status == fromEcho.Code {
				return r
			}
		}
	}
	return internal
}
