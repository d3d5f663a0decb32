// Package httpapi is what the HTTP APIs share. A request passes, in this order: the Observer, which gives it an id, a log line,
// metrics and a span (observe.go); the other spellings of its path and the pages beside the API; whether the service is ready;
// the API's own middleware, which authenticates it; and validation against the OpenAPI document (validate.go). Errors come back
// to one exit, which answers with a problem document (problems.go). A Server serves all that, and drains.
//
// The package knows no resource, no session and no database: it is linked into the process that holds the key-encryption
// keys. It may import leaves only.
package httpapi

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"

	"github.com/agentrouter/aikeys/internal/problem"
)

// Config is what an API needs besides its handlers. Document and Observer are required.
type Config struct {
	// Document is the OpenAPI document that requests are checked against.
	Document *openapi3.T
	// Problems is the API's table of problems, made by the function Problems; nil is Problems().
	Problems problem.Table
	Observer *Observer
	// Authenticate stands before the validation of every operation. It authenticates the request, sets the Actor of its Call
	// and decides whether it may go on. It is required unless no operation of the document asks for credentials.
	Authenticate echo.MiddlewareFunc
	// Ready reports whether requests may be served yet; until then every operation answers 503. Nil is always.
	Ready func() bool
	// TrustedProxies are the networks whose X-Forwarded-For is trusted.
	TrustedProxies []netip.Prefix
	// Site is what is served beside the API; nil is nothing.
	Site Site
	// MaxBody is the most bytes that a request body may have; 0 means DefaultMaxBody.
	MaxBody int
}

// API is an Echo instance with what every operation goes through.
type API struct {
	Echo *echo.Echo
	// Middlewares are the operations' own, by operationId, for the generated registration of routes.
	Middlewares map[string][]echo.MiddlewareFunc

	problems problem.Table
	ready    func() bool
}

// NewAPI returns the shared part of an API. The caller registers the generated routes on Echo.
func NewAPI(cfg Config) (*API, error) {
	api := &API{Echo: echo.New(), Middlewares: map[string][]echo.MiddlewareFunc{}, problems: cfg.Problems, ready: cfg.Ready}
	if api.problems == nil {
		api.problems = Problems()
	}
	if api.ready == nil {
		api.ready = func() bool { return true }
	}
	api.Echo.HTTPErrorHandler = api.fail
	api.Echo.IPExtractor = sourceIP(cfg.TrustedProxies)
	api.Echo.Pre(CanonicalPaths, cfg.Observer.middleware)
	if cfg.Site != nil {
		api.Echo.Pre(servePages(cfg.Site))
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

// chain returns what a request of an operation passes before the handler.
func (a *API) chain(cfg Config, item *openapi3.PathItem, op *openapi3.Operation) ([]echo.MiddlewareFunc, error) {
	v, err := newValidator(item, op)
	if err != nil {
		return nil, err
	}
	v.maxBody = cmp.Or(cfg.MaxBody, DefaultMaxBody)
	routine, _ := op.Extensions["x-routine"].(bool)
	chain := []echo.MiddlewareFunc{a.requireReady(op.OperationID, routine)}
	security := op.Security
	if security == nil {
		security = &cfg.Document.Security
	}
	switch {
	case cfg.Authenticate != nil:
		chain = append(chain, cfg.Authenticate)
	case len(*security) > 0:
		return nil, errors.New("the operation asks for credentials, and nothing authenticates it")
	}
	return append(chain, v.middleware), nil
}

// requireReady names the operation for the log and the metrics, and refuses it while the service starts.
func (a *API) requireReady(operationID string, routine bool) echo.MiddlewareFunc {
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

// RequireChecked stands right before the handlers. It refuses a request that came past an operation's own middlewares,
// because they were not registered.
func RequireChecked[Handler ~func(echo.Context, any) (any, error)](next Handler, _ string) Handler {
	return func(c echo.Context, request any) (any, error) {
		if !CallFrom(c.Request().Context()).checked {
			return nil, errors.New("operation registered without its middlewares")
		}
		return next(c, request)
	}
}

// sourceIP returns a function for the caller's address: the peer's own, or the nearest address in X-Forwarded-For that is not a
// trusted proxy.
func sourceIP(trusted []netip.Prefix) echo.IPExtractor {
	if len(trusted) == 0 {
		return echo.ExtractIPDirect()
	}
	options := []echo.TrustOption{echo.TrustLoopback(false), echo.TrustLinkLocal(false), echo.TrustPrivateNet(false)}
	for _, prefix := range trusted {
		prefix = prefix.Masked()
		options = append(options, echo.TrustIPRange(&net.IPNet{
			IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
		}))
	}
	forwarded := echo.ExtractIPFromXFFHeader(options...)
	return func(r *http.Request) string { return forwarded(r) }
}

// SessionDefault stands in a path for the session's own customer or project.
const SessionDefault = "-"

// CanonicalPaths rewrites, before routing, the other spellings of a project's resources to the one in the document: the
// short form /v1/aikeys…, and empty segments as in /v1/customers//projects//aikeys.
func CanonicalPaths(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		u.Path = canonicalPath(u.Path)
		if u.RawPath != "" {
			u.RawPath = canonicalPath(u.RawPath)
		}
		return next(c)
	}
}

func canonicalPath(path string) string {
	const short, customers, projects = "/v1/aikeys", "/v1/customers/", "/projects/"
	if rest, ok := strings.CutPrefix(path, short); ok && (rest == "" || rest[0] == '/') {
		return customers + SessionDefault + projects + SessionDefault + "/aikeys" + rest
	}
	rest, ok := strings.CutPrefix(path, customers)
	if !ok {
		return path
	}
	if strings.HasPrefix(rest, projects) {
		rest = SessionDefault + rest
	}
	customer, rest, ok := strings.Cut(rest, projects)
	if !ok {
		return path
	}
	if strings.HasPrefix(rest, "/") {
		rest = SessionDefault + rest
	}
	return customers + customer + projects + rest
}

// Site is what a listener serves beside its API: pages for people, without a session and also while the service starts.
// Their requests have an id, a log line and metrics like all others.
type Site interface {
	// Lookup returns the handler of a request, or nil if the site has no such page. Only GET and HEAD reach the handler.
	Lookup(r *http.Request) http.Handler
}

// sitePage is the name of the operation in logs and metrics for pages of the site.
const sitePage = "page"

func servePages(site Site) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			r := c.Request()
			page := site.Lookup(r)
			if page == nil {
				return next(c)
			}
			call := CallFrom(r.Context())
			call.Operation, call.routine = sitePage, true
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				c.Response().Header().Set("Allow", http.MethodGet+", "+http.MethodHead)
				return ErrMethodNotAllowed
			}
			page.ServeHTTP(c.Response(), r)
			return nil
		}
	}
}
