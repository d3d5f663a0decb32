package agentrouter

import (
	"errors"
	"fmt"
	"strings"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// What an error is, for errors.Is: one for each code of the contract, and ErrResponse.
var (
	ErrInvalidArgument    = errors.New("invalid_argument")    // the request is not as the method describes it
	ErrUnauthenticated    = errors.New("unauthenticated")     // the credential opens no session
	ErrPermissionDenied   = errors.New("permission_denied")   // no member, or the role does not suffice
	ErrNotFound           = errors.New("not_found")           // not there, or not for the caller to see
	ErrAlreadyExists      = errors.New("already_exists")      // an active key has the name already
	ErrFailedPrecondition = errors.New("failed_precondition") // the project's state does not allow it
	ErrResourceExhausted  = errors.New("resource_exhausted")  // too many requests
	ErrUnavailable        = errors.New("unavailable")         // come back later
	ErrInternal           = errors.New("internal")            // a fault of the service
	ErrResponse           = errors.New("unexpected response") // the answer is not one of the contract's
)

// Error is an answer of the service that is no success. Unwrap gives one of the errors above.
type Error struct {
	Status     int                   // the HTTP status
	Code       string                // the problem's code, the status's where the answer has none; empty for ErrResponse
	Type       string                // a URI reference of the kind of problem, finer than the code
	Title      string                // the kind of problem in a few words
	Detail     string                // what went wrong and what to do about it
	RequestID  string                // to quote to support
	Fields     []aikeysv1.FieldError // the fields at fault
	RetryAfter time.Duration         // what the service asked to wait for; zero where it did not
	Unknown    aikeysv1.Unknown      // further members of the problem document

	kind error
}

// Error says what went wrong and where: "403 permission_denied: <detail> (request 01…)".
func (e *Error) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%d", e.Status)
	if e.Code != "" {
		text.WriteString(" " + e.Code)
	}
	if said := firstOf(e.Detail, e.Title); said != "" {
		text.WriteString(": " + said)
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

// Unwrap returns which of the package's errors it is: by code, and by status where the code is a new one.
func (e *Error) Unwrap() error { return e.kind }

// ConnectionError is a call that got no answer, after its retries: no connection, a broken one, or no time left.
type ConnectionError struct {
	Err     error // as the HTTP client gave it; context.Canceled and context.DeadlineExceeded can be told with errors.Is
	timeout bool
}

// Error says what failed.
func (e *ConnectionError) Error() string { return "agentrouter: no answer: " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ConnectionError) Unwrap() error { return e.Err }

// Timeout tells whether the time was up.
func (e *ConnectionError) Timeout() bool { return e.timeout }

// ArgumentError is a call that was not sent, as an argument can't be right. It is an ErrInvalidArgument.
type ArgumentError struct {
	Field   string // the parameter's name in the contract
	Message string // what is wrong with it, to be read after the name
}

// Error names the argument.
func (e *ArgumentError) Error() string { return "agentrouter: " + e.Field + " " + e.Message }

// Unwrap returns ErrInvalidArgument.
func (e *ArgumentError) Unwrap() error { return ErrInvalidArgument }

func firstOf(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}
