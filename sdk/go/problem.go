package agentrouter

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	aikeysv1 "github.com/tetrateio/agentrouter-go/aikeys/v1"
)

// problem is the contract's problem document as far as an Error has a place for it.
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
	e := &Error{Status: status, RequestID: header.Get("X-Request-Id")}
	e.RetryAfter, _ = retryAfter(header)
	e.kind = kindOfStatus(status)
	if e.kind == ErrResponse { //nolint:errorlint // the sentinel itself, not an error that may wrap it
		e.Detail = "not an answer of the contract"
		return e
	}
	e.Code = e.kind.Error()
	var p problem
	if json.Unmarshal(body, &p) != nil || p.Code == "" {
		e.Detail = "the answer is no problem document; is there something else between here and the service?"
		return e
	}
	e.Code, e.Type, e.Title, e.Detail, e.Fields = p.Code, p.Type, p.Title, p.Detail, p.Errors
	e.RequestID = firstOf(p.RequestID, e.RequestID)
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

// responseError is a success that is not as the contract says. It does not repeat the answer.
func responseError(status int, header http.Header, detail string) *Error {
	return &Error{Status: status, RequestID: header.Get("X-Request-Id"), Detail: detail, kind: ErrResponse}
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

// retryAfter reads the header; not ok where it is absent or no number of seconds.
func retryAfter(header http.Header) (d time.Duration, ok bool) {
	seconds, err := strconv.ParseUint(header.Get("Retry-After"), 10, 31)
	return time.Duration(seconds) * time.Second, err == nil
}
