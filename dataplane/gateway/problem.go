package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// Problem is our own answer to a request that no provider answers: an RFC 9457 problem document, with the member
// `error` that the SDKs of OpenAI, Anthropic and Google print. Its text comes from one table, never from an error.
type Problem struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Code      string       `json:"code"`
	RequestID string       `json:"request_id"`
	Error     ProblemError `json:"error"`

	retryAfter string // in seconds, for the header
}

// ProblemError repeats a Problem in the shape in which providers tell errors.
type ProblemError struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    string `json:"code"`
}

// ProblemOf returns the answer for an error. One that the table does not know is an internal error.
func ProblemOf(err error, requestID string) Problem {
	row := rowOf(err)
	return Problem{
		Type:      problems + "/" + row.slug,
		Title:     row.title,
		Status:    row.status,
		Detail:    row.detail,
		Code:      row.code,
		RequestID: requestID,
		Error:     ProblemError{Message: row.detail, Type: row.code, Code: strings.ReplaceAll(row.slug, "-", "_")},

		retryAfter: retryAfter(err),
	}
}

// Header returns the headers that go with the document.
func (p Problem) Header() http.Header {
	header := http.Header{
		"Content-Type":           {"application/problem+json"},
		"Cache-Control":          {"no-store"},
		"X-Content-Type-Options": {"nosniff"},
		"X-Request-Id":           {p.RequestID},
		HeaderRequestID:          {p.RequestID},
	}
	switch p.Status {
	case http.StatusUnauthorized:
		header["Www-Authenticate"] = []string{`Bearer realm="aikeys"`} // RFC 6750, section 3
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		header["Retry-After"] = []string{p.retryAfter}
	case http.StatusMethodNotAllowed:
		header["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	}
	return header
}

// Body returns the document as it goes over the wire.
func (p Problem) Body() []byte {
	var body bytes.Buffer
	out := json.NewEncoder(&body)
	out.SetEscapeHTML(false)
	_ = out.Encode(p) // strings and a number: it can't fail
	return body.Bytes()
}

// Write answers with the document.
func (p Problem) Write(w http.ResponseWriter) {
	header := w.Header()
	for name, values := range p.Header() {
		header[name] = values
	}
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.Body()) //nolint:gosec // nothing of the request is in it; a reader that is gone can be told nothing
}

func rowOf(err error) row {
	for _, r := range table() {
		if errors.Is(err, r.sentinel) {
			return r
		}
	}
	return internal()
}

// rows are all answers that there are.
func rows() []row { return append(table(), internal()) }

// internal is the answer for whatever the table does not know.
func internal() row {
	return row{
		errInternal, http.StatusInternalServerError, "internal", "internal", "Internal error",
		"Something failed on the gateway's side; quote the request_id to those who run it.",
	}
}
