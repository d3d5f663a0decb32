package httpapi

import (
	"context"
	"errors"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/internal/problem"
)

// The refusals that all APIs have in common, besides problem.ErrInvalid.
var (
	ErrTooLarge         = errors.New("body too large")
	ErrMediaType        = errors.New("unsupported media type")
	ErrNoRoute          = errors.New("no such path")
	ErrMethodNotAllowed = errors.New("method not allowed")
	ErrTooManyRequests  = errors.New("too many requests")
	ErrNotReady         = errors.New("not ready")
	ErrInternal         = errors.New("internal")
	// ErrUnrecorded is joined to a refusal that could not be written to the audit trail. It has no row in the table, so
	// the answer comes from the refusal's row.
	ErrUnrecorded = errors.New("refusal not recorded in the audit trail")
)

// Problems returns the table of an API. First come the rows about the whole request, which all APIs share; then the
// API's own rows; and last the router's rows and the internal error, which answers for errors without a row.
func Problems(own ...problem.Row) problem.Table {
	return slices.Concat(problem.Table{
		{Err: problem.ErrInvalid, Status: http.StatusBadRequest, Code: "invalid_argument", Slug: "invalid-argument", Title: "Invalid argument",
			Detail: "The request is not as this method describes it; see errors."},
		{Err: ErrTooLarge, Status: http.StatusRequestEntityTooLarge, Code: "invalid_argument", Slug: "body-too-large", Title: "Body too large",
			Detail: "The body is over the limit of 64 KiB."},
		{Err: ErrMediaType, Status: http.StatusUnsupportedMediaType, Code: "invalid_argument", Slug: "unsupported-media-type", Title: "Unsupported media type",
			Detail: "Send the body as application/json in UTF-8, without a content encoding."},
		{Err: ErrTooManyRequests, Status: http.StatusTooManyRequests, Code: "resource_exhausted", Slug: "resource-exhausted", Title: "Too many requests",
			Detail: "You have sent too many requests; try again after the time in Retry-After."},
		{Err: ErrNotReady, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
			Detail: "The service is starting, or waiting for its database; try again after the time in Retry-After."},
		{Err: context.Canceled, Status: http.StatusServiceUnavailable, Code: "unavailable", Slug: "unavailable", Title: "Unavailable",
			Detail: "The request was cancelled before it was answered."},
	}, own, problem.Table{
		{Err: ErrNoRoute, Status: http.StatusNotFound, Code: "not_found", Slug: "no-such-path", Title: "No such path",
			Detail: "There is no such path; the API begins at /v1, and /openapi.yaml describes it."},
		{Err: ErrMethodNotAllowed, Status: http.StatusMethodNotAllowed, Code: "invalid_argument", Slug: "method-not-allowed", Title: "Method not allowed",
			Detail: "This path does not have that method; the header Allow lists those that it has."},
		{Err: ErrInternal, Status: http.StatusInternalServerError, Code: "internal", Slug: "internal", Title: "Internal error",
			Detail: "The service failed; give the request_id to its operator."},
	})
}

// fail answers with the problem document of an error. It is the one exit for errors.
func (a *API) fail(err error, c echo.Context) {
	call := CallFrom(c.Request().Context())
	call.Err = err
	if c.Response().Committed {
		return
	}
	doc := a.document(err, call.ID)
	if c.Request().ContentLength != 0 && isBodyUnread(doc.Status) {
		// Otherwise net/http would wait for the rest of a body that nothing reads.
		c.Response().Header().Set("Connection", "close")
	}
	problem.Write(c.Response(), doc, err)
}

// isBodyUnread reports whether a refusal with this status comes before the body was read.
func isBodyUnread(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests:
		return true
	}
	return false
}

// document returns the document for an error of a handler, of the router or of the generated code.
func (a *API) document(err error, requestID string) problem.Document {
	err = mapRouterError(err)
	doc := a.problems.Document(err, requestID)
	// Errors of Echo and of the generated code have a status, and a text that may quote the request.
	if fromEcho := (*echo.HTTPError)(nil); doc.Status == http.StatusInternalServerError && errors.As(err, &fromEcho) {
		return a.problems.FindStatus(fromEcho.Code).Document(requestID)
	}
	return doc
}

// mapRouterError gives the router's errors their own rows, so that an unknown path differs from a missing resource.
func mapRouterError(err error) error {
	switch {
	case errors.Is(err, echo.ErrNotFound):
		return ErrNoRoute
	case errors.Is(err, echo.ErrMethodNotAllowed):
		return ErrMethodNotAllowed
	}
	return err
}
