package gateway

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
)

// Grant tells another proxy how to change a request that may pass: the proxy sets one header, which carries the
// provider's key. A Grant prints without the key.
type Grant struct {
	KeyID, Provider, Reason string
	// BaseURL is the only address that the key may be sent to. URL is the request's address below it, without the query.
	BaseURL, URL *url.URL
	// Header returns the header to set. The other CredentialHeaders must be removed.
	Header func() (name, value string)
	// Private names the request's headers that are not for the provider, except the header that Header returns.
	// Parameters names the query parameters that contain the caller's credential, spelled as sent. The proxy must
	// remove both.
	Private, Parameters []string
	// Protocols is the new value of Sec-WebSocket-Protocol. It is empty if the request has no such header, or if no
	// protocol is left in it.
	Protocols string
}

// Secret returns the provider's key as its SDKs take it: the header's value, without the scheme.
func (g Grant) Secret() string {
	name, value := g.Header()
	if name == headerAuthorization {
		return strings.TrimPrefix(value, "Bearer ")
	}
	return value
}

// Authorizer decides on requests that other proxies ask about. It is safe for concurrent use.
type Authorizer struct {
	common

	face      string              // how proxies ask: forward_auth, ext_authz or agent, in the log and the metrics
	upstreams map[string]*url.URL // in place of providers' base URLs; nil where the proxy decides on the destination
}

// NewAuthorizer returns an Authorizer; face names it in the log and the metrics. It uses the configuration's Resolver,
// Log, Metrics, FailedAuthLimit, Guard and TrustedProxies.
func NewAuthorizer(face string, cfg Config) (*Authorizer, error) {
	shared, err := newCommon(cfg)
	if err != nil {
		return nil, err
	}
	return &Authorizer{common: shared, face: face}, nil
}

// Authorize decides from a request's head whether the request may pass. peer is the address that the request came from.
// If Authorize refuses the request, it returns a problem in the dialect of the API that was called; otherwise the
// problem is nil.
func (a *Authorizer) Authorize(ctx context.Context, peer string, head Head) (Grant, *Problem) {
	grant, problem := a.authorize(ctx, peer, head)
	if problem != nil {
		problem.Dialect = head.dialect()
	}
	return grant, problem
}

func (a *Authorizer) authorize(ctx context.Context, peer string, head Head) (Grant, *Problem) {
	started := time.Now()
	key, send, credential, err := a.resolve(ctx, peer, head)
	method := ""
	if len(head.Methods) == 1 {
		method = head.Methods[0]
	}
	use := appendUse(nil, key, method, netaddr.Client(peer, head.Header["X-Forwarded-For"], a.proxies))
	if err != nil && key == nil {
		return Grant{}, a.Refuse(ctx, started, loggedProvider(head.Provider, err), err, use...)
	}
	if send.operation != "" {
		use = append(use, slog.String("operation", send.operation))
	}
	err = asLimit(key, err)
	a.resolver.CountUse(key, err != nil)
	if err != nil {
		return Grant{}, a.Refuse(ctx, started, head.Provider, err, use...)
	}
	a.record(ctx, slog.LevelInfo, http.StatusOK, head.Provider,
		append(use, slog.Duration("took", time.Since(started).Round(time.Microsecond)))...)
	kept := head.Header.Clone()
	stripRequest(kept, credential)
	grant := Grant{
		KeyID: key.ID, Provider: head.Provider, Reason: key.Reason, BaseURL: send.base, URL: send.url, Protocols: kept.Get(webSocketProtocols),
		Header:     func() (string, string) { return send.header, send.value },
		Parameters: credentialParameters(head.RawQuery, head.Provider, credential),
	}
	for sent := range head.Header {
		if _, stays := kept[sent]; !stays && sent != send.header {
			grant.Private = append(grant.Private, sent)
		}
	}
	return grant, nil
}

// Refuse records a refusal and returns the answer.
func (a *Authorizer) Refuse(ctx context.Context, started time.Time, provider string, err error, more ...slog.Attr) *Problem {
	problem := ProblemOf(err, NewRequestID(started))
	a.record(ctx, levelOf(problem.Status, err), problem.Status, provider,
		append(more, slog.Duration("took", time.Since(started).Round(time.Microsecond)),
			slog.String("request_id", problem.RequestID), slog.String("cause", causeOf(err)))...)
	return &problem
}

// resolve returns the key for a request and how to send it. With some errors it also returns the key, for the log.
func (a *Authorizer) resolve(ctx context.Context, peer string, head Head) (key *dataplane.Key, send sending, credential string, err error) {
	if head.Provider == "" {
		return nil, send, "", ErrNoProvider
	}
	caller, err := head.check()
	if err != nil {
		return nil, send, "", err
	}
	if key, err = a.guard.resolve(ctx, a.resolver, caller, peer, head.Header); err != nil {
		return nil, send, "", err
	}
	if key.IsCustom() {
		return key, send, "", errCustomByProxy
	}
	to, err := newDestination(key, a.upstreams[head.Provider])
	if err != nil {
		return key, send, "", err
	}
	if len(head.Paths) == 0 {
		return key, send, "", errNoPath // whether the operation may be served depends on the path
	}
	for i := range head.Paths {
		atThis, err := head.checkPath(i, to)
		if err != nil {
			return key, atThis, "", err
		}
		if i > 0 && (atThis.header != send.header || atThis.value != send.value) {
			return key, send, "", errNoPath // one of the paths may come from the caller
		}
		send = atThis
	}
	return key, send, caller.Credential, a.count(key)
}

// count counts a request against the key's limits. It refuses a key with a limit of concurrent requests, because the
// proxy does not say when a request ends.
func (a *Authorizer) count(key *dataplane.Key) error {
	if key.Limits != nil && key.Limits.Concurrent > 0 {
		return errConcurrentByProxy
	}
	end, err := a.resolver.Begin(key)
	if err == nil {
		end()
	}
	return err
}

// sending is how a request is sent: the header that carries the key, the base URL and URL, and the class of the
// operation.
type sending struct {
	header, value string
	base, url     *url.URL
	operation     string
}

// checkPath checks whether a key may serve a request for one of its paths, and returns how to send it there.
func (h *Head) checkPath(i int, to destination) (send sending, err error) {
	target, err := to.target(safePath(h.belowProvider(h.Paths[i])))
	if err != nil {
		return send, err
	}
	if send.operation, err = checkOperation(to, target); err != nil {
		return send, err
	}
	inBody, err := checkRestrictions(to, target, h.Header, h.queryOf(i))
	if err == nil && inBody {
		err = h.checkModel(to)
	}
	if err != nil {
		return send, err
	}
	send.header, send.value, err = to.key.HeaderAt(to.pathOnHost(target))
	send.base, send.url = to.base, target
	return send, err
}

// checkModel checks whether a key that is restricted to models may serve the head's Model.
func (h *Head) checkModel(to destination) error {
	switch {
	case h.Model == "":
		return errModelInBody
	case !to.allowsModel(h.Model):
		return errModelRestricted
	}
	return nil
}

func (a *Authorizer) record(ctx context.Context, level slog.Level, status int, provider string, more ...slog.Attr) {
	a.metrics.authorizations.WithLabelValues(a.face, countedProvider(provider), strconv.Itoa(status)).Inc()
	if a.log.Enabled(ctx, level) {
		a.log.LogAttrs(ctx, level, "authorization", append([]slog.Attr{
			slog.String("face", a.face), slog.String("provider", provider), slog.Int("status", status),
		}, more...)...)
	}
}
