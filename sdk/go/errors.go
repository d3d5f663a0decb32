package agentrouter

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// The kinds of errors, for errors.Is: one for each of the API's codes, and ErrResponse.
var (
	ErrInvalidArgument    = errors.New("invalid_argument")    // the request is not as the method describes it
	ErrUnauthenticated    = errors.New("unauthenticated")     // the credential is not valid
	ErrPermissionDenied   = errors.New("permission_denied")   // not a member, or the role does not suffice
	ErrNotFound           = errors.New("not_found")           // does not exist, or the caller may not see it
	ErrAlreadyExists      = errors.New("already_exists")      // an active key already has the name
	ErrFailedPrecondition = errors.New("failed_precondition") // the project's state does not allow it
	ErrResourceExhausted  = errors.New("resource_exhausted")  // too many requests
	ErrUnavailable        = errors.New("unavailable")         // try again later
	ErrInternal           = errors.New("internal")            // a fault of the service
	ErrResponse           = errors.New("unexpected response") // the response does not follow the API
)

// Error is an error response of the service. It wraps one of the errors above.
type Error struct {
	Status     int                   // the HTTP status
	Code       string                // the problem's code, or the status's if the response has none; empty for ErrResponse
	Type       string                // the problem type's URI reference, more specific than the code
	Title      string                // the problem type in a few words
	Detail     string                // what went wrong and what to do about it
	RequestID  string                // quote it to support
	Fields     []aikeysv1.FieldError // the invalid fields
	RetryAfter time.Duration         // how long the service asks to wait; zero if it does not ask
	Unknown    aikeysv1.Unknown      // other members of the problem document

	kind error
}

// Error implements error: "403 permission_denied: <detail> (request 01…)".
func (e *Error) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d", e.Status)
	if e.Code != "" {
		text.WriteString(" " + e.Code)
	}
	if message := cmp.Or(e.Detail, e.Title); message != "" {
		text.WriteString(": " + message)
	}
	for i, field := range e.Fields {
		text.WriteString([]string{" [", "; "}[min(i, 1)] + field.Field + " " + field.Message)
	}
	if len(e.Fields) > 0 {
		text.WriteString("]")
	}
	if e.RequestID != "" {
		text.WriteString(" (request " + e.RequestID + ")")
	}
	return text.String()
}

// Unwrap returns the kind of error: the code's, or the status's if this version does not know the code.
func (e *Error) Unwrap() error { return e.kind }

// ConnectionError means that a call and its retries got no response: no connection, a broken one, or no time left.
type ConnectionError struct {
	Err     error // the HTTP client's error; it may wrap context.Canceled or context.DeadlineExceeded
	timeout bool
}

// Error implements error.
func (e *ConnectionError) Error() string { return "agentrouter: no answer: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ConnectionError) Unwrap() error { return e.Err }

// Timeout reports whether the call ran out of time.
func (e *ConnectionError) Timeout() bool { return e.timeout }

// CredentialError means that WithAPIKeySource returned no valid API key. Nothing was sent.
type CredentialError struct {
	Err error // the source's error
}

// Error implements error.
func (e *CredentialError) Error() string { return "agentrouter: no API key: " + e.Err.Error() }

// Unwrap returns the source's error.
func (e *CredentialError) Unwrap() error { return e.Err }

// ArgumentError means that a call was not sent because an argument can't be valid. It wraps ErrInvalidArgument.
type ArgumentError struct {
	Field   string // the parameter's name in the API
	Message string // what is wrong with it, to be read after the name
}

// Error implements error.
func (e *ArgumentError) Error() string { return "agentrouter: " + e.Field + " " + e.Message }

// Unwrap returns ErrInvalidArgument.
func (e *ArgumentError) Unwrap() error { return ErrInvalidArgument }

// problem is the API's problem document (RFC 9457).
type problem struct {
	Type      string                `json:"type"`
	Title     string                `json:"title"`
	Detail    string                `json:"detail"`
	Instance  string                `json:"instance"`
	Status    int                   `json:"status"`
	Code      string                `json:"code"`
	RequestID string                `json:"request_id"`
	Errors    []aikeysv1.FieldError `json:"errors"`
}

func newError(status int, header http.Header, body []byte) *Error {
	e := &Error{Status: status, RequestID: header.Get(requestIDHeader)}
	e.RetryAfter, _ = retryAfter(header)
	e.kind = kindOfStatus(status)
	if e.kind == ErrResponse { //nolint:errorlint // the sentinel itself, not an error that may wrap it
		e.Detail = "not a response of the API"
		return e
	}
	e.Code = e.kind.Error()
	var p problem
	if json.Unmarshal(body, &p) != nil || p.Code == "" {
		e.Detail = "the response is not a problem document; is there a proxy in between?"
		return e
	}
	e.Code, e.Type, e.Title, e.Detail, e.Fields = p.Code, p.Type, p.Title, p.Detail, p.Errors
	e.RequestID = cmp.Or(p.RequestID, e.RequestID)
	if kind := kindOfCode(p.Code); kind != nil {
		e.kind = kind
	}
	if json.Unmarshal(body, &e.Unknown) == nil {
		for _, name := range []string{"type", "title", "detail", "instance", "status", "code", "request_id", "errors"} {
			delete(e.Unknown, name)
		}
	}
	if len(e.Unknown) == 0 {
		e.Unknown = nil
	}
	return e
}

// responseError returns the error for a successful response that does not follow the API. It does not repeat the
// response.
func responseError(status int, header http.Header, detail string) *Error {
	return &Error{Status: status, RequestID: header.Get(requestIDHeader), Detail: detail, kind: ErrResponse}
}

func kindOfCode(code string) error {
	for _, kind := range []error{
		ErrInvalidArgument, ErrUnauthenticated, ErrPermissionDenied, ErrNotFound, ErrAlreadyExists,
		ErrFailedPrecondition, ErrResourceExhausted, ErrUnavailable, ErrInternal,
	} {
		if kind.Error() == code {
			return kind
		}
	}
	return nil
}

func kindOfStatus(status int) error {
	switch {
	case status == http.StatusUnauthorized:
		return ErrUnauthenticated
	case status == http.StatusForbidden:
		return ErrPermissionDenied
	case status == http.StatusNotFound:
		return ErrNotFound
	case status == http.StatusConflict:
		return ErrFailedPrecondition
	case status == http.StatusTooManyRequests:
		return ErrResourceExhausted
	case status >= 502 && status <= 504:
		return ErrUnavailable
	case status >= 500:
		return ErrInternal
	case status >= 400:
		return ErrInvalidArgument
	default:
		return ErrResponse
	}
}

// retryAfter reads Retry-After. ok is false if it is absent or not a number of seconds.
func retryAfter(header http.Header) (d time.Duration, ok bool) {
	seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 31)
	return time.Duration(seconds) * time.Second, err == nil
}
