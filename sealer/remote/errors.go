package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/sealer"
)

// The errors that an error may wrap besides sealer.ErrUnavailable.
var (
	// ErrNotAllowed says that secrets-svc does not know this client or denies it the operation. Only the service's operator can
	// change that.
	ErrNotAllowed = errors.New("secrets-svc does not allow this client to do that; its operator lists the clients and what each may do")
	// ErrAnswer says that an answer does not follow the contract of secrets-svc: it is too long, garbled or of an
	// unknown kind. Another program, or another version of secrets-svc, may listen at the address.
	ErrAnswer = errors.New("the answer does not follow the contract of secrets-svc")
)

// The errors of a request without an answer.
var (
	errUnreached = errors.New("secrets-svc can't be reached")
	errBroken    = errors.New("the connection to secrets-svc broke")
)

// unanswered returns the error for a request without an answer.
func unanswered(err error) error {
	if errors.Is(err, errUnreached) {
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w: %w", sealer.ErrUnavailable, errBroken, err)
}

// busyError is the error for a 503.
type busyError struct{ after time.Duration }

// Error implements error.
func (e *busyError) Error() string { return "secrets-svc is busy, or its own backend can't be reached" }

// Unwrap returns sealer.ErrUnavailable, and the time after which package backoff retries.
func (e *busyError) Unwrap() []error {
	return []error{sealer.ErrUnavailable, &backoff.RetryAfterError{Duration: e.after}}
}

// garbled returns an error that says what is wrong with an answer, and does not quote it.
func garbled(what string) error {
	return fmt.Errorf("%w: %w: %s", sealer.ErrUnavailable, ErrAnswer, what)
}

// refusal turns an answer other than 200 into an error, by its status and its problem's type. It quotes only the request id.
func refusal(response *http.Response) error {
	var problem secrets.Problem
	if text, err := readAtMost(response, maxProblem); err == nil {
		_ = json.Unmarshal(text, &problem) // without a problem document there is no type
	}
	switch status := response.StatusCode; {
	case status == http.StatusServiceUnavailable:
		return &busyError{after: retryAfter(response.Header)}
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, ErrNotAllowed)
	case status == http.StatusUnprocessableEntity:
		if sentinel := envelopeProblems[path.Base(problem.Type)]; sentinel != nil {
			return sentinel
		}
		return garbled("a 422 of an unknown type")
	case status >= http.StatusInternalServerError:
		return fmt.Errorf("%w: secrets-svc answered %d%s", sealer.ErrUnavailable, status, requestID(problem))
	default:
		return garbled(fmt.Sprintf("status %d%s", status, requestID(problem)))
	}
}

// envelopeProblems maps the problems that concern an envelope, by the last part of their type, to our errors.
var envelopeProblems = map[string]error{
	"does-not-open": sealer.ErrBinding, "unknown-kek": sealer.ErrUnknownKEK, "malformed-envelope": sealer.ErrMalformed,
}

// requestID returns a note with the request id, to find the request in the service's log.
func requestID(problem secrets.Problem) string {
	if n := len(problem.RequestID); n == 0 || n > 26 {
		return ""
	}
	return fmt.Sprintf(" (request_id %q there)", problem.RequestID)
}
