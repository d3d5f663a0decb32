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
	errCustomByProxy = errors.New("custom provider asked about by a proxy")
	// errConcurrentByProxy: a proxy asked about a key that is limited to some requests at once, of which it does not say when they end.
	errConcurrentByProxy = errors.New("limit of concurrent requests asked about by a proxy")
	// ErrNoProvider: a proxy asked without naming the provider. Its configuration is wrong, not the caller's request.
	ErrNoProvider = errors.New("no provider named")
	// errNoPath: a proxy asked without naming the path, or named two that take the key in different ways. Its configuration is wrong, too.
	errNoPath = errors.New("no path named")
)

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

// problems has the gateway's answers to errors.
//
// A missing key is 403 rather than 404, because SDKs and people take a 404 for a wrong path or an unknown model.
var problems = problem.Table{
	{
		Err: errPath, Status: http.StatusBadRequest, Code: codeInvalid, Slug: "unsafe-path", Title: "Unsafe path",
		Detail: "The path has dot segments, empty segments or backslashes, plain or escaped; send it without.",
	},
	{
		Err: errLocation, Status: http.StatusBadRequest, Code: codeInvalid, Slug: "invalid-location", Title: "Invalid location",
		Detail: "The path must name a location of the provider, in lower case: /projects/{project}/locations/europe-west1/publishers/….",
	},
	{
		Err: errQuestion, Status: http.StatusBadRequest, Code: codeInvalid, Slug: "invalid-question", Title: "Invalid question",
		Detail: "Send POST /v1/key with one JSON object of at most 32 KiB that has provider, path and credential, and no members that the agent does not know.",
	},
	{
		Err: errProject, Status: http.StatusBadRequest, Code: codeInvalid, Slug: "invalid-project", Title: "Invalid project",
		Detail: "Send the header Agentrouter-Project once, with a project's id of 1 to 64 characters A-Z, a-z, 0-9, dot, underscore and dash.",
	},
	{
		Err: errNoCredential, Status: http.StatusUnauthorized, Code: codeUnauthenticated, Slug: "no-credential", Title: "Unauthenticated",
		Detail: "Send an AgentRouter API key where the provider's SDK sends its key: Authorization: Bearer, x-api-key, x-goog-api-key or api-key.",
	},
	{
		Err: errScheme, Status: http.StatusUnauthorized, Code: codeUnauthenticated, Slug: "unknown-scheme", Title: "Unauthenticated",
		Detail: "The header Authorization must have the scheme Bearer: Authorization: Bearer <AgentRouter API key>.",
	},
	{
		Err: errTwoCredentials, Status: http.StatusUnauthorized, Code: codeUnauthenticated, Slug: "two-credentials", Title: "Unauthenticated",
		Detail: "The request has two different credentials; send only one, in Authorization, x-api-key, x-goog-api-key or api-key.",
	},
	{
		Err: dataplane.ErrCallerUnauthenticated, Status: http.StatusUnauthorized, Code: codeUnauthenticated, Slug: "caller-unauthenticated", Title: "Unauthenticated",
		Detail: "The AgentRouter API key or session token that came with this request is not valid, is revoked, or has expired.",
	},
	{
		Err: errForwardAuth, Status: http.StatusForbidden, Code: codeDenied, Slug: "forward-auth-refused", Title: "Permission denied",
		Detail: "The header Agentrouter-Forward-Auth is missing or wrong; only the operator's own proxies may ask here.",
	},
	{
		Err: errAdministration, Status: http.StatusForbidden, Code: codeDenied, Slug: "operation-not-served", Title: "Operation not served",
		Detail: "This path administers the provider's account, or makes credentials or calls that a revocation does not end; the gateway serves inference only.",
	},
	{
		Err: dataplane.ErrNotMember, Status: http.StatusForbidden, Code: codeDenied, Slug: "not-a-member", Title: "Permission denied",
		Detail: "You are not a member of this project; its owners can add users of their own customer.",
	},
	{
		Err: dataplane.ErrKeyRevoked, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-revoked", Title: "Key revoked",
		Detail: "The provider key for this request has been revoked, and no other may serve you; register another.",
	},
	{
		Err: dataplane.ErrKeyDisabled, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-disabled", Title: "Key disabled",
		Detail: "The provider key for this request is disabled, and no other may serve you; enable it, or register another.",
	},
	{
		Err: dataplane.ErrKeyExpired, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-expired", Title: "Key expired",
		Detail: "The provider key for this request has expired, and no other may serve you; extend it, or register another.",
	},
	{
		Err: dataplane.ErrKeyRestricted, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-restricted", Title: "Key restricted",
		Detail: "The project's keys of this provider serve other users only; its owners can change that, or register another.",
	},
	{
		Err: errModelRestricted, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-restricted", Title: "Key restricted",
		Detail: "The provider key for this request may not be used for this model; the owner of the key can change that.",
	},
	{
		Err: errOperationRestricted, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-restricted", Title: "Key restricted",
		Detail: "The provider key for this request may not be used for this operation; the owner of the key can change that.",
	},
	{
		Err: errModelUnreadable, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-restricted", Title: "Key restricted",
		Detail: "The provider key for this request may be used for some models only, and which one the request is for can't be read: send `model` once, early in plain JSON. WebSockets, forms, files and batches are refused.",
	},
	{
		Err: errModelInBody, Status: http.StatusForbidden, Code: codeDenied, Slug: "key-restricted", Title: "Key restricted",
		Detail: "The provider key for this request may be used for some models only, and the proxy in front does not say which one the request is for; send it through the gateway's own proxy.",
	},
	{
		Err: dataplane.ErrCredentialRefused, Status: http.StatusForbidden, Code: codeDenied, Slug: "credential-refused", Title: "Credential refused",
		Detail: "The cloud's token service refuses the credential of the provider key for this request; check it there, and register another.",
	},
	{
		Err: dataplane.ErrCustomerNotServed, Status: http.StatusForbidden, Code: codeDenied, Slug: "customer-not-served", Title: "Customer not served",
		Detail: "This gateway does not serve your customer; use the one that does.",
	},
	{
		Err: dataplane.ErrUserKeyRequired, Status: http.StatusForbidden, Code: codeNotFound, Slug: "user-key-required", Title: "User key required",
		Detail: "The project's policy requires a provider key of your own, and you have none registered; register one with user_scope.",
	},
	{
		Err: dataplane.ErrNoKey, Status: http.StatusForbidden, Code: codeNotFound, Slug: "no-key", Title: "No key",
		Detail: "No active key of this provider may serve you; register one for the project, or look at the project's policy.",
	},
	{
		Err: errNoRoute, Status: http.StatusNotFound, Code: codeNotFound, Slug: "unknown-provider", Title: "Unknown provider",
		Detail: "Paths begin with a provider's slug and go on as in its own API: /openai/chat/completions, /anthropic/v1/messages.",
	},
	{
		Err: dataplane.ErrInvalid, Status: http.StatusNotFound, Code: codeNotFound, Slug: "unknown-provider", Title: "Unknown provider",
		Detail: "The control plane knows no such provider. Paths begin with a slug of its catalogue: /openai/chat/completions, /anthropic/v1/messages.",
	},
	{
		Err: errMethod, Status: http.StatusMethodNotAllowed, Code: codeInvalid, Slug: "method-not-allowed", Title: "Method not allowed",
		Detail: "The gateway does not pass on the methods CONNECT, TRACE and TRACK.",
	},
	{
		Err: errTooManyFailures, Status: http.StatusTooManyRequests, Code: codeExhausted, Slug: "too-many-failures", Title: "Too many failures",
		Detail: "Too many requests from this address had a wrong credential, project or provider; try again after the time in Retry-After.",
	},
	{
		Err: dataplane.ErrKeyLimited, Status: http.StatusTooManyRequests, Code: codeExhausted, Slug: "key-limited", Title: "Key limited",
		Detail: "The project's provider key for this request has a limit of its own, which is reached at this gateway; it is not the provider's. Try again after the time in Retry-After; the owner of the key can raise the limit.",
	},
	{
		Err: errNextRestricted, Status: http.StatusTooManyRequests, Code: codeExhausted, Slug: "key-limited", Title: "Key limited",
		Detail: "The provider key for this request is at a limit, its provider's or its own, and the next key may not be used for this request. Try again after the time in Retry-After.",
	},
	{
		Err: errConcurrentByProxy, Status: http.StatusForbidden, Code: codeDenied, Slug: "limit-not-enforced", Title: "Limit not enforced",
		Detail: "The provider key for this request has a limit of concurrent requests, and the proxy in front does not say when a request ends; send it through the gateway's own proxy.",
	},
	{
		Err: ErrNoProvider, Status: http.StatusInternalServerError, Code: codeInternal, Slug: "no-provider", Title: "Provider not configured",
		Detail: "The proxy in front asked without naming the provider; its operator sets context_extensions.provider on the route.",
	},
	{
		Err: errNoPath, Status: http.StatusInternalServerError, Code: codeInternal, Slug: "no-path", Title: "Path not configured",
		Detail: "The proxy in front must name the request's path in X-Forwarded-Uri or X-Original-Uri, and remove the other of the two; its operator can set both.",
	},
	{
		Err: errAddress, Status: http.StatusForbidden, Code: codeDenied, Slug: "address-not-allowed", Title: "Address not allowed",
		Detail: "The gateway's operator does not let it connect to this provider's address; they can allow a network with --upstream-allow.",
	},
	{
		Err: errCustomByProxy, Status: http.StatusForbidden, Code: codeDenied, Slug: "custom-provider-not-served", Title: "Custom provider not served",
		Detail: "Requests for this provider go through the gateway's own proxy: where another proxy sends them is not known here.",
	},
	{
		Err: errDestination, Status: http.StatusInternalServerError, Code: codeInternal, Slug: "unsafe-destination", Title: "Unsafe destination",
		Detail: "A key may not be sent to the provider's base URL; the gateway's operator can check its upstreams.",
	},
	{
		Err: dataplane.ErrUnsupportedAuth, Status: http.StatusNotImplemented, Code: codeUnimplemented, Slug: "unsupported-auth", Title: "Unsupported provider",
		Detail: "This provider takes its key in a way that this gateway does not know; its operator can upgrade it.",
	},
	{
		Err: errUnserved, Status: http.StatusNotImplemented, Code: codeUnimplemented, Slug: "api-not-served", Title: "API not served",
		Detail: "This part of the provider's API can't be served by a gateway; call the provider itself for it, with a credential of your own.",
	},
	{
		Err: errUnreachable, Status: http.StatusBadGateway, Code: codeUnavailable, Slug: "provider-unreachable", Title: "Provider unreachable",
		Detail: "The provider can't be reached, or broke off before it answered; the gateway does not try again by itself.",
	},
	{
		Err: errTimeout, Status: http.StatusGatewayTimeout, Code: codeUnavailable, Slug: "provider-timeout", Title: "Provider timed out",
		Detail: "The provider did not answer in time; the gateway does not try again by itself.",
	},
	{
		Err: errOverloaded, Status: http.StatusServiceUnavailable, Code: codeUnavailable, Slug: "overloaded", Title: "Overloaded",
		Detail: "The gateway is serving as many requests as it may; try again after the time in Retry-After.",
	},
	{
		Err: dataplane.ErrDataPlaneUnauthenticated, Status: http.StatusServiceUnavailable, Code: codeUnavailable, Slug: "gateway-unauthenticated", Title: "Unavailable",
		Detail: "The control plane refuses this gateway's own credential; its operator must renew it.",
	},
	{
		Err: dataplane.ErrTokenUnavailable, Status: http.StatusServiceUnavailable, Code: codeUnavailable, Slug: "token-unavailable", Title: "Token unavailable",
		Detail: "The cloud's token service gives no token for the provider key at the moment; try again after the time in Retry-After.",
	},
	{
		Err: dataplane.ErrUnavailable, Status: http.StatusServiceUnavailable, Code: codeUnavailable, Slug: "unavailable", Title: "Unavailable",
		Detail: "The gateway can't ask at the moment which key serves this request; try again after the time in Retry-After.",
	},
	{
		Err: context.DeadlineExceeded, Status: http.StatusServiceUnavailable, Code: codeUnavailable, Slug: "unavailable", Title: "Unavailable",
		Detail: "The gateway could not find out in time which key serves this request; try again after the time in Retry-After.",
	},
	{
		Err: context.Canceled, Status: http.StatusServiceUnavailable, Code: codeUnavailable, Slug: "given-up", Title: "Unavailable",
		Detail: "The request was cancelled before it was answered.",
	},
	{
		Err: errInternal, Status: http.StatusInternalServerError, Code: codeInternal, Slug: "internal", Title: "Internal error",
		Detail: "The gateway failed; give the request_id to its operator.",
	},
}

// Problems returns the gateway's answers to errors.
func Problems() problem.Table { return slices.Clone(problems) }

// Problem is the gateway's answer to a request that no provider answers: an error in the dialect of the API that was called, with the
// members of an RFC 9457 problem document. Its text comes from a table, or is the control plane's for the caller, and never that of an error.
type Problem struct {
	Dialect   Dialect      `json:"-"`
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail"`
	Code      string       `json:"code"`
	RequestID string       `json:"request_id"`
	Error     ProblemError `json:"error"`

	cause error // for the headers
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
	return Problem{
		Type: doc.Type, Title: doc.Title, Status: doc.Status, Detail: doc.Detail, Code: doc.Code, RequestID: requestID,
		Error: ProblemError{Message: doc.Detail, Type: doc.Code, Code: strings.ReplaceAll(row.Slug, "-", "_")},
		cause: err,
	}
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

// dialectOf returns the dialect of the API that a caller's path below a provider belongs to. For a provider that the catalogue does not
// have, it goes by the headers that only the SDKs of one vendor send.
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

// form returns the members of the problem's document in its dialect. Those of a problem document stay, where the dialect leaves room for
// them, and `message` is for the SDKs that look for nothing else.
func (p Problem) form() map[string]any {
	shown := map[string]any{"message": p.Error.Message, "type": p.Error.Type, "code": p.Error.Code}
	document := map[string]any{
		"type": p.Type, "title": p.Title, "status": p.Status, "detail": p.Detail, "code": p.Code, "request_id": p.RequestID,
		"message": p.Detail, "error": shown,
	}
	switch p.Dialect {
	case DialectAnthropic:
		document["type"], document["problem_type"] = "error", p.Type
		shown["type"] = anthropicType(p.Status)
	case DialectGoogle:
		shown["code"], shown["status"] = p.Status, googleStatus(p.Status)
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

// isProblemDocument reports whether the dialect's documents go as problem documents. Anthropic's have another `type`, and Google's SDK for
// Node reads plain JSON alone.
func (d Dialect) isProblemDocument() bool { return d != DialectAnthropic && d != DialectGoogle }

// anthropicType returns what Anthropic calls an error of the status: platform.claude.com/docs/en/api/errors.
func anthropicType(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "authentication_error"
	case status == http.StatusForbidden:
		return "permission_error"
	case status == http.StatusNotFound:
		return "not_found_error"
	case status == http.StatusTooManyRequests:
		return "rate_limit_error"
	case status == http.StatusGatewayTimeout:
		return "timeout_error"
	case status >= http.StatusInternalServerError:
		return "api_error"
	}
	return "invalid_request_error"
}

// googleStatus returns what Google calls an error of the status: the names of google.rpc.Code.
func googleStatus(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusInternalServerError:
		return "INTERNAL"
	case http.StatusNotImplemented:
		return "UNIMPLEMENTED"
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	case http.StatusGatewayTimeout:
		return "DEADLINE_EXCEEDED"
	}
	return "INVALID_ARGUMENT"
}
