package gateway

import (
	"context"
	"errors"
	"net/http"

	"github.com/agentrouter/aikeys/dataplane"
)

// The sentinels of the gateway itself.
var (
	errInternal       = errors.New("internal")
	errNoRoute        = errors.New("no such path")
	errPath           = errors.New("unsafe path")
	errProject        = errors.New("project is no id")
	errMethod         = errors.New("method not allowed")
	errScheme         = errors.New("scheme is not bearer")
	errNoCredential   = errors.New("no credential")
	errTwoCredentials = errors.New("two credentials")
	errForwardAuth    = errors.New("forward-auth secret is missing or wrong")
	errOverloaded     = errors.New("too many requests at once")
	errUnreachable    = errors.New("provider unreachable")
	errTimeout        = errors.New("provider timed out")

	errTooManyFailures = errors.New("too many failures from this address")

	// ErrNoProvider says that a proxy asked without naming the provider: its configuration is wrong, not the request.
	ErrNoProvider = errors.New("no provider named")
)

type row struct {
	sentinel error
	status   int
	code     string
	slug     string
	title    string
	detail   string
}

// table maps errors to answers; the first row whose sentinel the error wraps counts.
//
// That there is no key is 403 rather than 404: SDKs, and people, take a 404 for a wrong path or an unknown model.
func table() []row { return append(callersFaults(), others()...) }

func callersFaults() []row {
	const invalid, unauthenticated, denied = "invalid_argument", "unauthenticated", "permission_denied"
	return []row{
		{errPath, http.StatusBadRequest, invalid, "unsafe-path", "Unsafe path",
			"The path has dot segments, empty segments or backslashes, plain or escaped; send it without."},
		{errProject, http.StatusBadRequest, invalid, "invalid-project", "Invalid project",
			"Send the header Agentrouter-Project once, with a project's id of 1 to 64 characters A-Z, a-z, 0-9, dot, underscore and dash."},
		{errNoCredential, http.StatusUnauthorized, unauthenticated, "no-credential", "Unauthenticated",
			"Send an AgentRouter API key where the provider's SDK sends its key: Authorization: Bearer, x-api-key, x-goog-api-key or api-key."},
		{errScheme, http.StatusUnauthorized, unauthenticated, "unknown-scheme", "Unauthenticated",
			"The header Authorization takes the scheme Bearer alone: Authorization: Bearer <AgentRouter API key>."},
		{errTwoCredentials, http.StatusUnauthorized, unauthenticated, "two-credentials", "Unauthenticated",
			"The request bears two different credentials; send one, in one of Authorization, x-api-key, x-goog-api-key and api-key."},
		{dataplane.ErrCallerUnauthenticated, http.StatusUnauthorized, unauthenticated, "caller-unauthenticated", "Unauthenticated",
			"The AgentRouter API key or session token that came with this request is not valid, is revoked, or has expired."},
		{errForwardAuth, http.StatusForbidden, denied, "forward-auth-refused", "Permission denied",
			"The header Agentrouter-Forward-Auth is missing or wrong; only the operator's own proxies may ask here."},
		{dataplane.ErrNotMember, http.StatusForbidden, denied, "not-a-member", "Permission denied",
			"You are not a member of this project; its owners can add users of their own customer."},
		{dataplane.ErrKeyRevoked, http.StatusForbidden, denied, "key-revoked", "Key revoked",
			"The provider key for this request has been revoked; no data plane may use it."},
		{dataplane.ErrCustomerNotServed, http.StatusForbidden, denied, "customer-not-served", "Customer not served",
			"This gateway does not serve your customer; use the one that does."},
		{dataplane.ErrUserKeyRequired, http.StatusForbidden, "not_found", "user-key-required", "User key required",
			"The project's policy requires a provider key of your own, and you have none registered; register one with user_scope."},
		{dataplane.ErrNoKey, http.StatusForbidden, "not_found", "no-key", "No key",
			"No active key of this provider may serve you; register one for the project, or look at the project's policy."},
		{errNoRoute, http.StatusNotFound, "not_found", "unknown-provider", "Unknown provider",
			"Paths begin with a provider's slug and go on as in its own API: /openai/chat/completions, /anthropic/v1/messages."},
		{dataplane.ErrInvalid, http.StatusNotFound, "not_found", "unknown-provider", "Unknown provider",
			"The control plane knows no such provider. Paths begin with a slug of its catalogue: /openai/chat/completions, /anthropic/v1/messages."},
		{errMethod, http.StatusMethodNotAllowed, invalid, "method-not-allowed", "Method not allowed",
			"The gateway passes on neither CONNECT nor TRACE nor TRACK."},
		{errTooManyFailures, http.StatusTooManyRequests, "resource_exhausted", "too-many-failures", "Too many failures",
			"Too many requests from this address had a wrong credential, project or provider; try again after the time in Retry-After."},
	}
}

func others() []row {
	const unavailable = "unavailable"
	return []row{
		{ErrNoProvider, http.StatusInternalServerError, "internal", "no-provider", "Provider not configured",
			"The proxy in front asked without naming the provider; its operator sets context_extensions.provider on the route."},
		{errDestination, http.StatusInternalServerError, "internal", "unsafe-destination", "Unsafe destination",
			"The provider's base URL is not one that a key may be sent to; those who run the gateway can look at its upstreams."},
		{dataplane.ErrUnsupportedAuth, http.StatusNotImplemented, "unimplemented", "unsupported-auth", "Unsupported provider",
			"This gateway can't sign requests in the way that this provider wants yet."},
		{errUnreachable, http.StatusBadGateway, unavailable, "provider-unreachable", "Provider unreachable",
			"The provider can't be reached, or broke off before it answered; the gateway does not try again by itself."},
		{errTimeout, http.StatusGatewayTimeout, unavailable, "provider-timeout", "Provider timed out",
			"The provider did not answer in time; the gateway does not try again by itself."},
		{errOverloaded, http.StatusServiceUnavailable, unavailable, "overloaded", "Overloaded",
			"The gateway is serving as many requests as it may; try again after the time in Retry-After."},
		{dataplane.ErrDataPlaneUnauthenticated, http.StatusServiceUnavailable, unavailable, "gateway-unauthenticated", "Unavailable",
			"The control plane refuses this gateway's own credential; those who run it have to renew it."},
		{dataplane.ErrUnavailable, http.StatusServiceUnavailable, unavailable, "unavailable", "Unavailable",
			"The gateway can't find out which key serves this request at the moment; try again after the time in Retry-After."},
		{context.DeadlineExceeded, http.StatusServiceUnavailable, unavailable, "unavailable", "Unavailable",
			"The gateway could not find out in time which key serves this request; try again after the time in Retry-After."},
		{context.Canceled, http.StatusServiceUnavailable, unavailable, "given-up", "Unavailable",
			"The request was given up before it was answered."},
	}
}
