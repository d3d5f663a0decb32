package httpapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/models"
)

// Sessions opens sessions; *session.Authenticator is one.
type Sessions interface {
	Authenticate(ctx context.Context, authorization string) (auth.Principal, error)
	Drop(tokenID string)
}

// Config is what an API needs besides its handlers.
type Config struct {
	// Document is the OpenAPI document that requests are checked against.
	Document *openapi3.T
	// Problems is the API's table of problems, made by the function Problems; nil is Problems().
	Problems problem.Table
	Sessions Sessions
	// Certificates opens the sessions of those who send no Authorization header and have a client certificate; nil opens none.
	Certificates CertificateSessions
	Observer     *Observer
	// Ready tells whether requests may be served yet; nil means always. Until then every operation answers 503.
	Ready func() bool
	// PrincipalRate limits each customer's user, FailureRate the failed authentications of each address.
	PrincipalRate Rate
	FailureRate   Rate
	// TrustedProxies are the networks whose X-Forwarded-For is believed. Empty believes none.
	TrustedProxies []netip.Prefix
	// Site is what is served beside the API; nil is nothing.
	Site Site
	// MaxBody is the most that a request body may hold: DefaultMaxBody, which 0 means as well, or LargeBody.
	MaxBody int
	// Door is what every operation passes where connections, and no credentials, tell who calls; nil is none.
	Door Door
}

// API is an Echo instance with what every operation goes through: authentication, rate limit, validation.
type API struct {
	Echo *echo.Echo
	// Middlewares are the operations' own, by operationId, for the generated registration of routes.
	Middlewares map[string][]echo.MiddlewareFunc

	problems     problem.Table
	ready        func() bool
	sessions     Sessions
	certificates CertificateSessions
	observer     *Observer
	principals   *Limiter
	failures     *Limiter
	// suspects is a place for each credential that may be looked at while its address is over the limit of failures.
	suspects chan struct{}
}

// maxSuspects keeps what guessers cost the database to this many look-ups at a time. A neighbour of theirs with a good
// credential is served still, if a little later.
const maxSuspects = 2

// NewAPI builds the shared part of a listener. The caller registers the generated routes on Echo.
func NewAPI(cfg Config) (*API, error) {
	api := &API{
		Echo:         echo.New(),
		Middlewares:  map[string][]echo.MiddlewareFunc{},
		problems:     cfg.Problems,
		ready:        cfg.Ready,
		sessions:     cfg.Sessions,
		certificates: cfg.Certificates,
		observer:     cfg.Observer,
		principals:   NewLimiter(cfg.PrincipalRate),
		failures:     NewLimiter(cfg.FailureRate),
		suspects:     make(chan struct{}, maxSuspects),
	}
	if api.problems == nil {
		api.problems = Problems()
	}
	if api.ready == nil {
		api.ready = func() bool { return true }
	}
	api.Echo.HTTPErrorHandler = api.fail
	api.Echo.IPExtractor = sourceIP(cfg.TrustedProxies)
	api.Echo.Pre(CanonicalPaths)
	api.Echo.Pre(api.observer.middleware)
	if cfg.Site != nil {
		api.Echo.Pre(api.pages(cfg.Site))
	}
	for path, item := range cfg.Document.Paths.Map() {
		for method, op := range item.Operations() {
			chain, err := api.chain(cfg, item, op)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", method, path, err)
			}
			api.Middlewares[op.OperationID] = chain
		}
	}
	return api, nil
}

func (a *API) chain(cfg Config, item *openapi3.PathItem, op *openapi3.Operation) ([]echo.MiddlewareFunc, error) {
	v, err := newValidator(item, op)
	if err != nil {
		return nil, err
	}
	v.maxBody = cmp.Or(cfg.MaxBody, DefaultMaxBody)
	routine, _ := op.Extensions["x-routine"].(bool)
	chain := []echo.MiddlewareFunc{a.admit(op.OperationID, routine)}
	security := op.Security
	if security == nil {
		security = &cfg.Document.Security
	}
	if len(*security) > 0 {
		chain = append(chain, a.authenticate, a.limit)
	}
	if cfg.Door != nil {
		chain = append(chain, guarded(cfg.Door, v))
	}
	return append(chain, v.middleware), nil
}

// admit names the operation, and turns it away while the service starts.
func (a *API) admit(operationID string, routine bool) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			call := CallFrom(c.Request().Context())
			call.Operation, call.routine = operationID, routine
			if !a.ready() {
				return ErrNotReady
			}
			return next(c)
		}
	}
}

func (a *API) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		call := CallFrom(c.Request().Context())
		address := addressKey(call.SourceIP)
		principal, err := a.openSession(c, address)
		if errors.Is(err, auth.ErrUnauthenticated) {
			if ok, wait := a.failures.Allow(address); !ok {
				return &problem.Wait{Kind: ErrTooManyRequests, Seconds: wait}
			}
		}
		if err != nil {
			return err
		}
		call.Principal = principal
		err = next(c)
		if errors.Is(err, models.ErrSessionEnded) {
			a.sessions.Drop(principal.TokenID)
		}
		return err
	}
}

// openSession opens the session of a request's credential: its Authorization header, or without one the client certificate.
func (a *API) openSession(c echo.Context, address string) (auth.Principal, error) {
	r := c.Request()
	ctx, headers := r.Context(), r.Header.Values("Authorization")
	certified := len(headers) == 0 && a.certificates != nil && hasCertificate(r)
	if len(headers) != 1 && !certified {
		return auth.Principal{}, fmt.Errorf("%w: %d Authorization headers", auth.ErrUnauthenticated, len(headers))
	}
	if a.failures.exhausted(address) {
		select {
		case a.suspects <- struct{}{}:
			defer func() { <-a.suspects }()
		case <-ctx.Done():
			return auth.Principal{}, ctx.Err()
		}
	}
	if certified {
		return a.openCertificate(c.Response(), r)
	}
	return a.sessions.Authenticate(ctx, headers[0])
}

func (a *API) limit(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		who := CallFrom(c.Request().Context()).Principal
		if ok, wait := a.principals.Allow(who.CustomerID + "/" + who.UserID); !ok {
			return &problem.Wait{Kind: ErrTooManyRequests, Seconds: wait}
		}
		return next(c)
	}
}

// RequireChecked stands right before the handlers: a request that came past an operation's own middlewares, because they
// were not registered, is refused.
func RequireChecked[Handler ~func(echo.Context, any) (any, error)](next Handler, _ string) Handler {
	return func(c echo.Context, request any) (any, error) {
		if !CallFrom(c.Request().Context()).checked {
			return nil, errors.New("operation registered without its middlewares")
		}
		return next(c, request)
	}
}

// fail is the one exit for errors.
func (a *API) fail(err error, c echo.Context) {
	call := CallFrom(c.Request().Context())
	call.Err = err
	if c.Response().Committed {
		return
	}
	doc := a.document(err, call.ID)
	if c.Request().ContentLength != 0 && bodyUnread(doc.Status) {
		// Else net/http would wait for the rest of a body that nobody wants.
		c.Response().Header().Set("Connection", "close")
	}
	problem.Write(c.Response(), doc, err)
}

// bodyUnread tells the refusals that come before the body was read.
func bodyUnread(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusTooManyRequests:
		return true
	}
	return false
}

// sourceIP finds the caller's address: the peer's own, or the nearest address in X-Forwarded-For that is no trusted proxy.
func sourceIP(trusted []netip.Prefix) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, prefix := range trusted {
		options = append(options, echo.TrustIPRange(ipNet(prefix)))
	}
	forwarded := echo.ExtractIPFromXFFHeader(options...)
	return func(r *http.Request) string { return forwarded(r) }
}
