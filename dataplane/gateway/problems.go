package gateway

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/problem"
)

// The gateway's own sentinels.
var (
	errInternal        = errors.New("internal")
	errNoRoute         = errors.New("no such path")
	errPath            = errors.New("unsafe path")
	errProject         = errors.New("invalid project id")
	errLocation        = errors.New("impossible location")
	errMethod          = errors.New("method not allowed")
	errScheme          = errors.New("scheme is not bearer")
	errNoCredential    = errors.New("no credential")
	errTwoCredentials  = errors.New("two credentials")
	errForwardAuth     = errors.New("forward-auth secret is missing or wrong")
	errAdministration  = errors.New("administration of the provider's account")
	errUnserved        = errors.New("API can't be served")
	errOverloaded      = errors.New("too many requests at once")
	errUnreachable     = errors.New("provider unreachable")
	errTimeout         = errors.New("provider timed out")
	errTooManyFailures = errors.New("too many failures from this address")

	// errCustomByProxy: a proxy asked about a custom provider, whose requests it may send anywhere.
	errCustomByProxy = errors.New("a proxy asked about a custom provider")
	// errConcurrentByProxy: a proxy asked about a key with a limit of concurrent requests, and a proxy does not say
	// when requests end.
	errConcurrentByProxy = errors.New("a proxy asked about a key with a limit of concurrent requests")
	// ErrNoProvider: a proxy asked without naming the provider. Its configuration is wrong, not the caller's request.
	ErrNoProvider = errors.New("no provider named")
	// errNoPath: a proxy asked without naming the path, or named two that take the key in different ways. Its configuration is wrong, too.
	errNoPath = errors.New("no path named")
)

// isAny reports whether an error is one of some kinds.
func isAny(err error, kinds ...error) bool {
	return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(err, kind) })
}

// codes are the codes of problems by their status.
var codes = map[int]string{
	http.StatusBadRequest:          "invalid_argument",
	http.StatusUnauthorized:        "unauthenticated",
	http.StatusForbidden:           "permission_denied",
	http.StatusNotFound:            "not_found",
	http.StatusMethodNotAllowed:    "invalid_argument",
	http.StatusTooManyRequests:     "resource_exhausted",
	http.StatusInternalServerError: "internal",
	http.StatusNotImplemented:      "unimplemented",
	http.StatusBadGateway:          "unavailable",
	http.StatusServiceUnavailable:  "unavailable",
	http.StatusGatewayTimeout:      "unavailable",
}

func row(err error, status int, slug, title, detail string) problem.Row {
	return problem.Row{Err: err, Status: status, Code: codes[status], Slug: slug, Title: title, Detail: detail}
}

// problems has the gateway's answers to errors.
//
// A missing key is 403 rather than 404, because SDKs and people take a 404 for a wrong path or an unknown model.
var problems = problem.Table{
	row(errPath, http.StatusBadRequest, "unsafe-path", "Unsafe path",
		"The path has dot segments, empty segments or backslashes, plain or escaped; send it without."),
	row(errLocation, http.StatusBadRequest, "invalid-location", "Invalid location",
		"The path must name a location of the provider, in lower case: /projects/{project}/locations/europe-west1/publishers/…."),
	row(errQuestion, http.StatusBadRequest, "invalid-question", "Invalid question",
		"Send POST /v1/key with one JSON object of at most 32 KiB that has provider, path and credential, and no members that the agent does not know."),
	row(errProject, http.StatusBadRequest, "invalid-project", "Invalid project",
		"Send the header Agentrouter-Project once, with a project's id of 1 to 64 characters A-Z, a-z, 0-9, dot, underscore and dash."),
	row(errNoCredential, http.StatusUnauthorized, "no-credential", "Unauthenticated",
		"Send an AgentRouter API key where the provider's SDK sends its key: Authorization: Bearer, x-api-key, x-goog-api-key or api-key."),
	row(errScheme, http.StatusUnauthorized, "unknown-scheme", "Unauthenticated",
		"The header Authorization must have the scheme Bearer: Authorization: Bearer <AgentRouter API key>."),
	row(errTwoCredentials, http.StatusUnauthorized, "two-credentials", "Unauthenticated",
		"The request has two different credentials; send only one, in Authorization, x-api-key, x-goog-api-key or api-key."),
	row(dataplane.ErrCallerUnauthenticated, http.StatusUnauthorized, "caller-unauthenticated", "Unauthenticated",
		"The AgentRouter API key or session token that came with this request is not valid, is revoked, or has expired."),
	row(errForwardAuth, http.StatusForbidden, "forward-auth-refused", "Permission denied",
		"The header Agentrouter-Forward-Auth is missing or wrong; only the operator's own proxies may ask here."),
	row(errAdministration, http.StatusForbidden, "operation-not-served", "Operation not served",
		"This path administers the provider's account, or makes credentials or calls that a revocation does not end; the gateway serves inference only."),
	row(dataplane.ErrNotMember, http.StatusForbidden, "not-a-member", "Permission denied",
		"You are not a member of this project; its owners can add users of their own customer."),
	row(dataplane.ErrKeyRevoked, http.StatusForbidden, "key-revoked", "Key revoked",
		"The provider key for this request has been revoked, and no other may serve you; register another."),
	row(dataplane.ErrKeyDisabled, http.StatusForbidden, "key-disabled", "Key disabled",
		"The provider key for this request is disabled, and no other may serve you; enable it, or register another."),
	row(dataplane.ErrKeyExpired, http.StatusForbidden, "key-expired", "Key expired",
		"The provider key for this request has expired, and no other may serve you; extend it, or register another."),
	row(dataplane.ErrKeyRestricted, http.StatusForbidden, "key-restricted", "Key restricted",
		"The project's keys of this provider serve other users only; its owners can change that, or register another."),
	row(errModelRestricted, http.StatusForbidden, "key-restricted", "Key restricted",
		"The provider key for this request may not be used for this model; the owner of the key can change that."),
	row(errOperationRestricted, http.StatusForbidden, "key-restricted", "Key restricted",
		"The provider key for this request may not be used for this operation; the owner of the key can change that."),
	row(errModelUnreadable, http.StatusForbidden, "key-restricted", "Key restricted",
		"The provider key for this request may be used for some models only, and the gateway can't read which model this request is for: send `model` once, early in plain JSON. WebSockets, forms, files and batches are refused."),
	row(errModelInBody, http.StatusForbidden, "key-restricted", "Key restricted",
		"The provider key for this request may be used for some models only, and the proxy in front does not say which model this request is for; send it through the gateway's own proxy."),
	row(dataplane.ErrCredentialRefused, http.StatusForbidden, "credential-refused", "Credential refused",
		"The cloud's token service refuses the credential of the provider key for this request; check it there, and register another."),
	row(dataplane.ErrCustomerNotServed, http.StatusForbidden, "customer-not-served", "Customer not served",
		"This gateway does not serve your customer; use the one that does."),
	{
		Err: dataplane.ErrUserKeyRequired, Status: http.StatusForbidden, Code: "not_found", Slug: "user-key-required", Title: "User key required",
		Detail: "The project's policy requires a provider key of your own, and you have none registered; register one with user_scope.",
	},
	{
		Err: dataplane.ErrNoKey, Status: http.StatusForbidden, Code: "not_found", Slug: "no-key", Title: "No key",
		Detail: "No active key of this provider may serve you; register one for the project, or look at the project's policy.",
	},
	row(errNoRoute, http.StatusNotFound, "unknown-provider", "Unknown provider",
		"Paths begin with a provider's slug and go on as in its own API: /openai/chat/completions, /anthropic/v1/messages."),
	row(dataplane.ErrInvalid, http.StatusNotFound, "unknown-provider", "Unknown provider",
		"The control plane knows no such provider. Paths begin with a slug of its catalogue: /openai/chat/completions, /anthropic/v1/messages."),
	row(errMethod, http.StatusMethodNotAllowed, "method-not-allowed", "Method not allowed",
		"The gateway does not pass on the methods CONNECT, TRACE and TRACK."),
	row(errTooManyFailures, http.StatusTooManyRequests, "too-many-failures", "Too many failures",
		"Too many requests from this address had a wrong credential, project or provider; try again after the time in Retry-After."),
	row(dataplane.ErrKeyLimited, http.StatusTooManyRequests, "key-limited", "Key limited",
		"The project's provider key for this request has a limit of its own, which is reached at this gateway; it is not the provider's. Try again after the time in Retry-After; the owner of the key can raise the limit."),
	row(errNextRestricted, http.StatusTooManyRequests, "key-limited", "Key limited",
		"The provider key for this request is at a limit, its provider's or its own, and the next key may not be used for this request. Try again after the time in Retry-After."),
	row(errConcurrentByProxy, http.StatusForbidden, "limit-not-enforced", "Limit not enforced",
		"The provider key for this request has a limit of concurrent requests, and the proxy in front does not say when a request ends; send it through the gateway's own proxy."),
	row(ErrNoProvider, http.StatusInternalServerError, "no-provider", "Provider not configured",
		"The proxy in front asked without naming the provider; its operator sets context_extensions.provider on the route."),
	row(errNoPath, http.StatusInternalServerError, "no-path", "Path not configured",
		"The proxy in front must name the request's path in X-Forwarded-Uri or X-Original-Uri, and remove the other of the two; its operator can set both."),
	row(errAddress, http.StatusForbidden, "address-not-allowed", "Address not allowed",
		"The gateway's operator does not let it connect to this provider's address; they can allow a network with --upstream-allow."),
	row(errCustomByProxy, http.StatusForbidden, "custom-provider-not-served", "Custom provider not served",
		"Requests for this provider go through the gateway's own proxy: where another proxy sends them is not known here."),
	row(errDestination, http.StatusInternalServerError, "unsafe-destination", "Unsafe destination",
		"A key may not be sent to the provider's base URL; the gateway's operator can check its upstreams."),
	row(dataplane.ErrUnsupportedAuth, http.StatusNotImplemented, "unsupported-auth", "Unsupported provider",
		"This provider takes its key in a way that this gateway does not know; its operator can upgrade it."),
	row(errUnserved, http.StatusNotImplemented, "api-not-served", "API not served",
		"This part of the provider's API can't be served by a gateway; call the provider itself for it, with a credential of your own."),
	row(errUnreachable, http.StatusBadGateway, "provider-unreachable", "Provider unreachable",
		"The provider can't be reached, or broke off before it answered; the gateway does not try again by itself."),
	row(errTimeout, http.StatusGatewayTimeout, "provider-timeout", "Provider timed out",
		"The provider did not answer in time; the gateway does not try again by itself."),
	row(errOverloaded, http.StatusServiceUnavailable, "overloaded", "Overloaded",
		"The gateway is serving as many requests as it may; try again after the time in Retry-After."),
	row(dataplane.ErrDataPlaneUnauthenticated, http.StatusServiceUnavailable, "gateway-unauthenticated", "Unavailable",
		"The control plane refuses this gateway's own credential; its operator must renew it."),
	row(dataplane.ErrTokenUnavailable, http.StatusServiceUnavailable, "token-unavailable", "Token unavailable",
		"The cloud's token service gives no token for the provider key at the moment; try again after the time in Retry-After."),
	row(dataplane.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "Unavailable",
		"The gateway can't ask at the moment which key serves this request; try again after the time in Retry-After."),
	row(context.DeadlineExceeded, http.StatusServiceUnavailable, "unavailable", "Unavailable",
		"The gateway could not find out in time which key serves this request; try again after the time in Retry-After."),
	row(context.Canceled, http.StatusServiceUnavailable, "given-up", "Unavailable",
		"The request was cancelled before it was answered."),
	row(errInternal, http.StatusInternalServerError, "internal", "Internal error",
		"The gateway failed; give the request_id to its operator."),
}

// Problems returns the gateway's answers to errors.
func Problems() problem.Table { return slices.Clone(problems) }

// Problem is the gateway's answer to a request that no provider answers: an error in the dialect of the API that was
// called, with the members of an RFC 9457 problem document. Its text comes from a table, or is the text that the
// control plane wrote for the caller. It never comes from an error.
type Problem struct {
	problem.Document

	Error   ProblemError `json:"error"`
	Dialect Dialect      `json:"-"`
	cause   error        // for the headers
}

// ProblemError repeats a Problem in the shape of providers' errors.
type ProblemError struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Code    string `json:"code"`
}

// ProblemOf returns the answer for an error. An error that is not in the table is an internal error.
func ProblemOf(err error, requestID string) Problem {
	row := problems.Find(err)
	doc := row.Document(requestID)
	if refused := (*dataplane.Refusal)(nil); errors.As(err, &refused) {
		doc.Detail = cmp.Or(refused.Detail, doc.Detail)
	}
	if unserved := (*unservedAPI)(nil); errors.As(err, &unserved) {
		doc.Detail = unserved.Error() + " " + doc.Detail
	}
	shown := ProblemError{Message: doc.Detail, Type: doc.Code, Code: strings.ReplaceAll(row.Slug, "-", "_")}
	return Problem{Document: doc, Error: shown, cause: err}
}

// Header returns the headers that go with the document.
func (p Problem) Header() http.Header {
	header := http.Header{
		"Cache-Control":          {"no-store"},
		"X-Content-Type-Options": {"nosniff"},
		"X-Request-Id":           {p.RequestID},
		HeaderRequestID:          {p.RequestID},
	}
	problem.SetHeader(header, p.Status, p.cause)
	if limited := (*dataplane.LimitError)(nil); errors.As(p.cause, &limited) {
		header["Retry-After"] = []string{strconv.Itoa(int(math.Ceil(limited.RetryAfter.Seconds())))}
		header[HeaderLimit] = []string{limited.Limit}
	}
	if !p.Dialect.isProblemDocument() {
		header["Content-Type"] = []string{"application/json"}
	}
	if p.Status == http.StatusMethodNotAllowed {
		header["Allow"] = []string{"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}
	}
	return header
}

// Body returns the document as it goes over the wire.
func (p Problem) Body() []byte {
	var body bytes.Buffer
	_ = problem.Encode(&body, p.form()) // strings and numbers: it can't fail
	return body.Bytes()
}

// Write answers with the document.
func (p Problem) Write(w http.ResponseWriter) {
	maps.Copy(w.Header(), p.Header())
	w.WriteHeader(p.Status)
	_, _ = w.Write(p.Body()) //nolint:gosec // it repeats nothing of the request; the caller may be gone
}

// Dialect is the form of an API's errors. SDKs and frameworks show the text of an error only if it has the form that they expect.
type Dialect string

// The dialects of the provider catalogue, which describes them. The zero value is DialectOpenAI.
const (
	DialectOpenAI     Dialect = "openai"
	DialectPerplexity Dialect = "perplexity"
	DialectAnthropic  Dialect = "anthropic"
	DialectGoogle     Dialect = "google"
)

// dialectOf returns the dialect of the API that a caller's path below a provider belongs to. For a provider that is not
// in the catalogue, it decides by headers that only the SDKs of one vendor send.
func dialectOf(provider, path string, header http.Header) Dialect {
	if known, ok := readCatalogue().bySlug[provider]; ok {
		if _, err := parsePath(path); err == nil {
			target := known.requests.join(safePath(path))
			if route, ok := known.requests.key.Route(known.requests.pathOnHost(target)); ok && known.byRoute[route.Path] != "" {
				return known.byRoute[route.Path]
			}
		}
		return known.dialect
	}
	switch {
	case header["Anthropic-Version"] != nil:
		return DialectAnthropic
	case header[headerXGoogAPIKey] != nil:
		return DialectGoogle
	}
	return DialectOpenAI
}

// form returns the members of the problem's document in its dialect. The members of RFC 9457 stay where the dialect
// leaves room for them. `message` is for SDKs that read no other member.
func (p Problem) form() map[string]any {
	shown := map[string]any{"message": p.Error.Message, "type": p.Error.Type, "code": p.Error.Code}
	document := map[string]any{
		"type": p.Type, "title": p.Title, "status": p.Status, "detail": p.Detail, "code": p.Code, "request_id": p.RequestID,
		"message": p.Detail, "error": shown,
	}
	switch p.Dialect {
	case DialectAnthropic:
		document["type"], document["problem_type"] = "error", p.Type
		shown["type"] = cmp.Or(anthropicTypes[p.Status], "invalid_request_error")
		if p.Status >= http.StatusInternalServerError {
			shown["type"] = cmp.Or(anthropicTypes[p.Status], "api_error")
		}
	case DialectGoogle:
		shown["code"], shown["status"] = p.Status, cmp.Or(googleStatuses[p.Status], "INVALID_ARGUMENT")
		shown["details"] = []map[string]string{{
			"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": strings.ToUpper(p.Error.Code), "domain": "agentrouter",
		}}
	default:
		maps.Copy(document, map[string]any{"object": "error", "param": nil}) // Mistral's
		shown["param"] = nil
		if p.Dialect == DialectPerplexity {
			shown["code"] = p.Status
		}
	}
	return document
}

// isProblemDocument reports whether the dialect's documents are sent as problem documents. Anthropic's documents use
// `type` for something else, and Google's SDK for Node reads only plain JSON.
func (d Dialect) isProblemDocument() bool { return d != DialectAnthropic && d != DialectGoogle }

// anthropicTypes are Anthropic's names of errors by status: platform.claude.com/docs/en/api/errors. Any other 4xx is an
// invalid_request_error, and any other 5xx an api_error.
var anthropicTypes = map[int]string{
	http.StatusUnauthorized:    "authentication_error",
	http.StatusForbidden:       "permission_error",
	http.StatusNotFound:        "not_found_error",
	http.StatusTooManyRequests: "rate_limit_error",
	http.StatusGatewayTimeout:  "timeout_error",
}

// googleStatuses are Google's names of errors by status, from google.rpc.Code. Other errors are INVALID_ARGUMENT.
var googleStatuses = map[int]string{
	http.StatusUnauthorized:        "UNAUTHENTICATED",
	http.StatusForbidden:           "PERMISSION_DENIED",
	http.StatusNotFound:            "NOT_FOUND",
	http.StatusTooManyRequests:     "RESOURCE_EXHAUSTED",
	http.StatusInternalServerError: "INTERNAL",
	http.StatusNotImplemented:      "UNIMPLEMENTED",
	http.StatusBadGateway:          "UNAVAILABLE",
	http.StatusServiceUnavailable:  "UNAVAILABLE",
	http.StatusGatewayTimeout:      "DEADLINE_EXCEEDED",
}
