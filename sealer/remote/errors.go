package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/agentrouter/aikeys/gen/secrets"
	"github.com/agentrouter/aikeys/sealer"
)

// What an error may wrap besides sealer.ErrUnavailable.
var (
	// ErrNotAllowed says that secrets-svc does not know this client, or does not let it do that. It lasts until the
	// service's operator changes it.
	ErrNotAllowed = errors.New("secrets-svc does not allow this client to do that; its operator lists the clients and what each may do")
	// ErrAnswer says that an answer is none of secrets-svc's: too long, garbled, or of a kind that the contract lacks.
	// Perhaps another program listens there, or another version of it.
	ErrAnswer = errors.New("the answer is not one of secrets-svc's")
)

// What becomes of a request that gets no answer.
var (
	errUnreached = errors.New("secrets-svc can't be reached")
	errBroken    = errors.New("the connection to secrets-svc broke")
)

// unanswered is the error for a request without an answer.
func unanswered(err error) error {
	if errors.Is(err, errUnreached) {
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w: %w", sealer.ErrUnavailable, errBroken, err)
}

// busyError is a 503.
type busyError struct{ after time.Duration }

// Error implements error.
func (e *busyError) Error() string { return "secrets-svc is busy, or its own backend can't be reached" }

// Unwrap returns sealer.ErrUnavailable.
func (e *busyError) Unwrap() error { return sealer.ErrUnavailable }

// garbled is an error that says what is wrong with an answer, and quotes none of it.
func garbled(what string) error {
	return fmt.Errorf("%w: %w: %s", sealer.ErrUnavailable, ErrAnswer, what)
}

// refusal turns an answer other than 200 into an error, by its status and its problem's type. Of what it says only the
// request id is repeated.
func refusal(response *http.Response) error {
	var problem secrets.Problem
	if text, err := readAtMost(response, maxProblem); err == nil {
		_ = json.Unmarshal(text, &problem) // what is no problem document has no type
	}
	switch status := response.StatusCode; {
	case status == http.StatusServiceUnavailable:
		return &busyError{after: retryAfter(response.Header)}
	case status == http.StatusForbidden:
		return fmt.Errorf("%w: %w", sealer.ErrUnavailable, ErrNotAllowed)
	case status == http.StatusUnprocessableEntity:
		if sentinel := sentinelOf(path.Base(problem.Type)); sentinel != nil {
			return sentinel
		}
		return garbled("a 422 of an unknown type")
	case status >= http.StatusInternalServerError:
		return fmt.Errorf("%w: secrets-svc answered %d%s", sealer.ErrUnavailable, status, requestID(problem))
	default:
		return garbled(fmt.Sprintf("status %d%s", status, requestID(problem)))
	}
}

// sentinelOf returns the error for the last part of a problem's type, nil if it is none that is about an envelope.
func sentinelOf(slug string) error {
	switch slug {
	case "does-not-open":
		return sealer.ErrBinding
	case "unknown-kek":
		return sealer.ErrUnknownKEK
	case "malformed-envelope":
		return sealer.ErrMalformed
	}
	return nil
}

// requestID is where to look in the service's log.
func requestID(problem secrets.Problem) string {
	if n := len(problem.RequestID); n == 0 || n > 26 {
		return ""
	}
	return fmt.Sprintf(" (request_id %q there)", problem.RequestID)
}
