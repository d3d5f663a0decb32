package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/agentrouter/aikeys/dataplane"
)

// typePrefix precedes the slug in a problem's type. The control plane's public API explains the types under that path.
const typePrefix = "/problems/"

// The gateway's own sentinels.
var (
	errInternal        = errors.New("internal")
	errNoRoute         = errors.New("no such path")
	errPath            = errors.New("unsafe path")
	errProject         = errors.New("invalid project id")
	errMethod          = errors.New("method not allowed")
	errScheme          = errors.New("scheme is not bearer")
	errNoCredential    = errors.New("no credential")
	errTwoCredentials  = errors.New("two credentials")
	errForwardAuth     = errors.New("forward-auth secret is missing or wrong")
	errOverloaded      = errors.New("too many requests at once")
	errUnreachable     = errors.New("provider unreachable")
	errTimeout         = errors.New("provider timed out")
	errTooManyFailures = errors.New("too many failures from this address")

	// ErrNoProvider: a proxy asked without naming the provider. Its configuration is wrong, not the caller's request.
	ErrNoProvider = errors.New("no provider named")
)

// problemRow maps a sentinel to the answer for it.
type problemRow struct {
	sentinel error
	status   int
	code     string
	slug     string // the last segment of the problem's type
	title    string
	detail   string
}

const (
	codeInvalid         = "invalid_argument"
	codeUnauthenticated = "unauthenticated"
	codeDenied          = "permission_denied"
	codeNotFound        = "not_found"
	codeExhausted       = "resource_exhausted"
	codeUnavailable     = "unavailable"
	codeUnimplemented   = "unimplemented"
	codeInternal        = "internal"
)

// problems maps errors to answers; the first row whose sentinel an error wraps applies, and the last one to every other
// error.
//
// A missing key is 403 rather than 404, because SDKs and people take a 404 for a wrong path or an unknown model.
var problems = []problemRow{
	{errPath, http.StatusBadRequest, codeInvalid, "unsafe-path", "Unsafe path",
		"The path has dot segments, empty segments or backslashes, plain or escaped; send it without."},
	{errProject, http.StatusBadRequest, codeInvalid, "invalid-project", "Invalid project",
		"Send the header Agentrouter-Project once, with a project's id of 1 to 64 characters A-Z, a-z, 0-9, dot, underscore and dash."},
	{errNoCredential, http.StatusUnauthorized, codeUnauthenticated, "no-credential", "Unauthenticated",
		"Send an AgentRouter API key where the provider's SDK sends its key: Authorization: Bearer, x-api-key, x-goog-api-key or api-key."},
	{errScheme, http.StatusUnauthorized, codeUnauthenticated, "unknown-scheme", "Unauthenticated",
		"The header Authorization takes the scheme Bearer alone: Authorization: Bearer <AgentRouter API key>."},
	{errTwoCredentials, http.StatusUnauthorized, codeUnauthenticated, "two-credentials", "Unauthenticated",
		"The request bears two different credentials; send one, in one of Authorization, x-api-key, x-goog-api-key and api-key."},
	{dataplane.ErrCallerUnauthenticated, http.StatusUnauthorized, codeUnauthenticated, "caller-unauthenticated", "Unauthenticated",
		"The AgentRouter API key or session token that came with this request is not valid, is revoked, or has expired."},
	{errForwardAuth, http.StatusForbidden, codeDenied, "forward-auth-refused", "Permission denied",
		"The header Agentrouter-Forward-Auth is missing or wrong; only the operator's own proxies may ask here."},
	{dataplane.ErrNotMember, http.StatusForbidden, codeDenied, "not-a-member", "Permission denied",
		"You are not a member of this project; its owners can add users of their own customer."},
	{dataplane.ErrKeyRevoked, http.StatusForbidden, codeDenied, "key-revoked", "Key revoked",
		"The provider key for this request has been revoked; no data plane may use it."},
	{dataplane.ErrCustomerNotServed, http.StatusForbidden, codeDenied, "customer-not-served", "Customer not served",
		"This gateway does not serve your customer; use the one that does."},
	{dataplane.ErrUserKeyRequired, http.StatusForbidden, codeNotFound, "user-key-required", "User key required",
		"The project's policy requires a provider key of your own, and you have none registered; register one with user_scope."},
	{dataplane.ErrNoKey, http.StatusForbidden, codeNotFound, "no-key", "No key",
		"No active key of this provider may serve you; register one for the project, or look at the project's policy."},
	{errNoRoute, http.StatusNotFound, codeNotFound, "unknown-provider", "Unknown provider",
		"Paths begin with a provider's slug and go on as in its own API: /openai/chat/completions, /anthropic/v1/messages."},
	{dataplane.ErrInvalid, http.StatusNotFound, codeNotFound, "unknown-provider", "Unknown provider",
		"The control plane knows no such provider. Paths begin with a slug of its catalogue: /openai/chat/completions, /anthropic/v1/messages."},
	{errMethod, http.StatusMethodNotAllowed, codeInvalid, "method-not-allowed", "Method not allowed",
		"The gateway passes on neither CONNECT nor TRACE nor TRACK."},
	{errTooManyFailures, http.StatusTooManyRequests, codeExhausted, "too-many-failures", "Too many failures",
		"Too many requests from this address had a wrong credential, project or provider; try again after the time in Retry-After."},
	{ErrNoProvider, http.StatusInternalServerError, codeInternal, "no-provider", "Provider not configured",
		"The proxy in front asked without naming the provider; its operator sets context_extensions.provider on the route."},
	{errDestination, http.StatusInternalServerError, codeInternal, "unsafe-destination", "Unsafe destination",
		"The provider's base URL is not one that a key may be sent to; those who run the gateway can look at its upstreams."},
	{dataplane.ErrUnsupportedAuth, http.StatusNotImplemented, codeUnimplemented, "unsupported-auth", "Unsupported provider",
		"This gateway can't sign requests in the way that this provider wants yet."},
	{errUnreachable, http.StatusBadGateway, codeUnavailable, "provider-unreachable", "Provider unreachable",
		"The provider can't be reached, or broke off before it answered; the gateway does not try again by itself."},
	{errTimeout, http.StatusGatewayTimeout, codeUnavailable, "provider-timeout", "Provider timed out",
		"The provider did not answer in time; the gateway does not try again by itself."},
	{errOverloaded, http.StatusServiceUnavailable, codeUnavailable, "overloaded", "Overloaded",
		"The gateway is serving as many requests as it may; try again after the time in Retry-After."},
	{dataplane.ErrDataPlaneUnauthenticated, http.StatusServiceUnavailable, codeUnavailable, "gateway-unauthenticated", "Unavailable",
		"The control plane refuses this gateway's own credential; those who run it have to renew it."},
	{dataplane.ErrUnavailable, http.StatusServiceUnavailable, codeUnavailable, "unavailable", "Unavailable",
		"The gateway can't find out which key serves this request at the moment; try again after the time in Retry-After."},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, codeUnavailable, "unavailable", "Unavailable",
		"The gateway could not find out in time which key serves this request; try again after the time in Retry-After."},
	{context.Canceled, http.StatusServiceUnavailable, codeUnavailable, "given-up", "Unavailable",
		"The request was given up before it was answered."},
	{errInternal, http.StatusInternalServerError, codeInternal, "internal", "Internal error",
		"Something failed on the gateway's side; quote the request_id to those who run it."},
}

func rowOf(err error) problemRow {
	for _, row := range problems {
		if errors.Is(err, row.sentinel) {
			return row
		}
	}
	return problems[len(problems)-1]
}

// Problem is the gateway's answer to a request that no provider answers: an RFC 9457 problem document, with the member
// `error` that the SDKs of OpenAI, Anthropic and Google print. Its text comes from a table, never from an error.
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

// ProblemError repeats a Problem in the shape of providers' errors.
type ProblemError struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    string `json:"code"`
}

// ProblemOf returns the answer for an error. An error that is not in the table is an internal error.
func ProblemOf(err error, requestID string) Problem {
	row := rowOf(err)
	return Problem{
		Type:      typePrefix + row.slug,
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
	_, _ = w.Write(p.Body()) //nolint:gosec // it repeats nothing of the request; the caller may be gone
}
