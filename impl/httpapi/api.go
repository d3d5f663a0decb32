// Package httpapi has the code that the HTTP APIs share. A request takes these steps: CanonicalPaths rewrites its path;
// the Observer gives it an id, a log line, metrics and a span; the Site answers a request for a page; a service that is
// not ready refuses the request; the API's own middleware authenticates it; and the validator checks it against the
// OpenAPI document (validate.go). All errors reach one exit, which answers with a problem document (problems.go).
// NewServer returns the server that accepts the connections, with this package's limits, and drains when it stops.
//
// The package knows no resource, no session and no database: it is linked into the process that holds the key-encryption
// keys. It may import leaves only.
package httpapi

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/labstack/echo/v4"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/problem"
)

// Config is what an API needs besides its handlers. Document, Problems and Observer are required.
type Config struct {
	// Document is the OpenAPI document that requests are checked against.
	Document *openapi3.T
	// Problems is the API's table of problems, made by the function Problems.
	Problems problem.Table
	Observer *Observer
	// Authenticate comes before the validation of each operation, unless the operation's own "security" is empty. It
	// authenticates the request, sets the Actor of its Call, and may refuse it. It is required if an operation of the
	// document needs credentials.
	Authenticate echo.MiddlewareFunc
	// Ready reports whether requests may be served yet; until then every operation answers 503. Nil means always.
	Ready func() bool
	// TrustedProxies are the networks whose X-Forwarded-For is trusted.
	TrustedProxies []netip.Prefix
	// Site is what is served beside the API; nil means nothing.
	Site Site
	// Examples makes the API answer with an example from the document if the request prefers one (see answerByExample).
	// It is for mocks.
	Examples bool
	// MaxBody is the maximum size of a request body in bytes; 0 means DefaultMaxBody.
	MaxBody int
}

// API is an Echo instance with the middlewares of every operation.
type API struct {
	Echo *echo.Echo
	// Middlewares are the middlewares of each operation, by operationId. The generated registration of routes uses
	// them.
	Middlewares map[string][]echo.MiddlewareFunc

	problems problem.Table
	ready    func() bool
}

// NewAPI returns the shared part of an API. The caller registers the generated routes on Echo.
func NewAPI(cfg Config) (*API, error) {
	api := &API{Echo: echo.New(), Middlewares: map[string][]echo.MiddlewareFunc{}, problems: cfg.Problems, ready: cfg.Ready}
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

// chain returns the middlewares that a request of an operation passes before the handler.
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
	switch isOpen := op.Security != nil && len(*op.Security) == 0; {
	case isOpen: // the document says that this operation needs no credential
	case cfg.Authenticate != nil:
		chain = append(chain, cfg.Authenticate)
	case len(*security) > 0:
		return nil, errors.New("the operation asks for credentials, and nothing authenticates it")
	}
	chain = append(chain, v.middleware)
	if cfg.Examples {
		answer, err := answerByExample(op)
		if err != nil {
			return nil, err
		}
		chain = append(chain, answer)
	}
	return chain, nil
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

// RequireChecked is the last middleware before the handlers. It refuses a request that did not pass its operation's own
// middlewares, because they were not registered.
func RequireChecked[Handler ~func(echo.Context, any) (any, error)](next Handler, _ string) Handler {
	return func(c echo.Context, request any) (any, error) {
		if !CallFrom(c.Request().Context()).checked {
			return nil, errors.New("operation registered without its middlewares")
		}
		return next(c, request)
	}
}

// sourceIP returns a function that returns the client's address as text (see netaddr.Client). The text is empty for a
// peer without an address, such as the peer of a unix socket.
func sourceIP(trusted []netip.Prefix) echo.IPExtractor {
	return func(r *http.Request) string {
		address := netaddr.Client(r.RemoteAddr, r.Header["X-Forwarded-For"], trusted)
		if !address.IsValid() {
			return ""
		}
		return address.String()
	}
}

// SessionDefault in a path means the session's own customer or project.
const SessionDefault = "-"

// CanonicalPaths rewrites paths before routing; see CanonicalPath.
func CanonicalPaths(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		u.Path = CanonicalPath(u.Path)
		if u.RawPath != "" {
			u.RawPath = CanonicalPath(u.RawPath)
		}
		return next(c)
	}
}

// CanonicalPath returns the document's spelling of a path. The other spellings of a project's resources are the short form
// /v1/aikeys…, and empty segments as in /v1/customers//projects//aikeys.
func CanonicalPath(path string) string {
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

// Site has the pages for people that a listener serves beside its API. They need no session, and are served even while
// the service starts. Their requests have an id, a log line and metrics like all others.
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

// Call describes the current request. The middlewares fill it in, one after another, on the way to the handler.
type Call struct {
	// ID is a ULID that the service makes, since a caller's id could be anything.
	ID string
	// SourceIP is the caller's address, taken from X-Forwarded-For only if a trusted proxy set it.
	SourceIP string
	// Operation is the operationId of the document; empty where no operation matched.
	Operation string
	// Actor is the authenticated caller; nil before authentication.
	Actor Actor
	// Started is when the request's head was read.
	Started time.Time
	// Err is the error that the problem document was made from; nil on success.
	Err error

	// routine is set for operations that the document marks x-routine: they are logged only at debug, unless they fail.
	routine bool
	// checked is set once the request has passed all middlewares of its operation.
	checked bool
}

// Actor is the authenticated caller of a request.
type Actor interface {
	// LogAttrs returns the attributes that identify the actor in the request's log line.
	LogAttrs() []slog.Attr
}

type callKey struct{}

// CallFrom returns the call that ctx belongs to, or an empty call outside any.
func CallFrom(ctx context.Context) *Call {
	if call, ok := ctx.Value(callKey{}).(*Call); ok {
		return call
	}
	return &Call{}
}

// newRequestID returns a new ULID with the given time. A time outside the range of a ULID is replaced by the nearest
// time within the range.
func newRequestID(now time.Time) string {
	millis := min(uint64(max(now.UnixMilli(), 0)), ulid.MaxTime())
	return ulid.MustNew(millis, rand.Reader).String() // it fails only for a time out of range, or without random numbers
}

// Observer gives every request its id, log line, metrics and span. It writes ids, statuses, times, the names and
// addresses of clients, and errors with fixed texts. It never writes paths, query strings, headers or bodies, because
// they can hold anything.
type Observer struct {
	log      *slog.Logger
	tracer   trace.Tracer
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

// NewObserver returns an Observer for one listener, named in the metrics. A nil tracer means no traces.
func NewObserver(listener string, log *slog.Logger, metrics prometheus.Registerer, tracer trace.Tracer) (*Observer, error) {
	labels := prometheus.Labels{"listener": listener}
	o := &Observer{
		log: log, tracer: tracer,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "aikeys_http_requests_total", Help: "Requests answered, by operation and status.", ConstLabels: labels,
		}, []string{"operation", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "aikeys_http_request_duration_seconds", Help: "Time from a request's head to the end of its answer.", ConstLabels: labels,
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"operation"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "aikeys_http_requests_in_flight", Help: "Requests being answered.", ConstLabels: labels,
		}),
	}
	for _, c := range []prometheus.Collector{o.requests, o.duration, o.inFlight} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return o, nil
}

// strictTransport makes browsers insist on HTTPS for one year, in seconds (RFC 6797, section 6.1.1).
const strictTransport = "max-age=31536000"

func (o *Observer) middleware(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		call := &Call{Started: time.Now(), SourceIP: c.RealIP()}
		call.ID = newRequestID(call.Started)
		ctx := context.WithValue(c.Request().Context(), callKey{}, call)
		span := trace.SpanFromContext(ctx)
		if o.tracer != nil {
			ctx, span = o.startSpan(ctx, c.Request())
		}
		c.SetRequest(c.Request().WithContext(ctx))
		header := c.Response().Header()
		header.Set("X-Request-Id", call.ID)
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		if c.Request().TLS != nil {
			header.Set("Strict-Transport-Security", strictTransport)
		}
		o.inFlight.Inc()
		defer o.inFlight.Dec()
		if err := o.recovered(next, c); err != nil {
			c.Error(err)
		}
		o.record(ctx, c, call, span)
		return nil
	}
}

type panicError struct{ stack []byte }

func (*panicError) Error() string { return "panic" }

// recovered turns a panic into an error. The value of the panic may hold a secret, so only the stack is kept.
func (o *Observer) recovered(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler { //nolint:errorlint // the value that net/http documents for aborting
			panic(p)
		}
		err = &panicError{stack: debug.Stack()}
	}()
	return next(c)
}

func (o *Observer) startSpan(ctx context.Context, r *http.Request) (context.Context, trace.Span) {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	// The caller's trace continues here without its tracestate, which may hold any text.
	ctx = trace.ContextWithRemoteSpanContext(ctx, trace.SpanContextFromContext(ctx).WithTraceState(trace.TraceState{}))
	return o.tracer.Start(ctx, "request", trace.WithSpanKind(trace.SpanKindServer)) //nolint:spancheck // record ends it
}

func (o *Observer) record(ctx context.Context, c echo.Context, call *Call, span trace.Span) {
	status, took := statusOf(ctx, c, call), time.Since(call.Started)
	operation := call.Operation
	if operation == "" {
		operation = "none"
	}
	o.requests.WithLabelValues(operation, strconv.Itoa(status)).Inc()
	o.duration.WithLabelValues(operation).Observe(took.Seconds())
	if span.IsRecording() {
		span.SetName(operation)
		span.SetAttributes(attribute.Int("http.response.status_code", status), attribute.String("aikeys.request_id", call.ID))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
		span.End()
	}
	if level := levelOf(c.Request().Method, status, call); o.log.Enabled(ctx, level) {
		o.log.LogAttrs(ctx, level, "request", attributes(operation, status, call, took)...)
	}
}

// statusClientGone is logged for a request whose caller left before the answer, as in nginx: nothing failed here.
const statusClientGone = 499

func statusOf(ctx context.Context, c echo.Context, call *Call) int {
	if ctx.Err() != nil && errors.Is(call.Err, context.Canceled) {
		return statusClientGone
	}
	return c.Response().Status
}

// levelOf returns the level of a request's log line. Changes and refusals are logged; successful reads and routine operations
// only at debug, which keeps the log readable under load.
//
// Strangers can't fill the disk. A 401 is logged until its address is over the limit; from then on the address gets a
// 429, which is not logged. The 422 for a credential that a gateway passes on is routine.
func levelOf(method string, status int, call *Call) slog.Level {
	switch {
	case errors.Is(call.Err, ErrUnrecorded):
		return slog.LevelError
	case status == http.StatusTooManyRequests,
		call.Actor == nil && (status == http.StatusNotFound || status == http.StatusMethodNotAllowed):
		return slog.LevelDebug
	case status >= http.StatusInternalServerError && status != http.StatusServiceUnavailable:
		return slog.LevelError
	case status == http.StatusServiceUnavailable:
		return slog.LevelWarn
	case status < http.StatusBadRequest && (method == http.MethodGet || call.routine),
		status == http.StatusUnprocessableEntity && call.routine:
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

func attributes(operation string, status int, call *Call, took time.Duration) []slog.Attr {
	attrs := []slog.Attr{
		slog.String("request_id", call.ID), slog.String("operation", operation), slog.Int("status", status),
		slog.Duration("took", took.Round(time.Microsecond)), slog.String("source_ip", call.SourceIP),
	}
	if call.Actor != nil {
		attrs = append(attrs, call.Actor.LogAttrs()...)
	}
	if call.Err != nil && isCauseLogged(status) {
		attrs = append(attrs, slog.String("error", call.Err.Error()))
	}
	if crash := (*panicError)(nil); errors.As(call.Err, &crash) {
		attrs = append(attrs, slog.String("stack", string(crash.stack)))
	}
	return attrs
}

// isCauseLogged reports whether the error of a request with this status is logged. The errors of failures, and of
// refused credentials and operations, are logged, because they consist of fixed texts. The errors of other refusals are
// not logged, because they may quote the request.
func isCauseLogged(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusUnauthorized || status == http.StatusForbidden
}
