package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Call is what is known of the request at hand. The middlewares fill it in on the way to the handler, one after another.
type Call struct {
	// ID is a ULID, minted here: a caller's own id could be anything.
	ID string
	// SourceIP is the caller's address, taken from X-Forwarded-For only where a trusted proxy set it.
	SourceIP string
	// Operation is the operationId of the document; empty where no operation matched.
	Operation string
	// Actor is on whose behalf the request acts; nil before authentication.
	Actor Actor
	// Started is when the request's head was read.
	Started time.Time
	// Err is the error that the problem document was made from; nil on success.
	Err error

	// routine is set for operations that the document marks x-routine: they are logged only at debug, unless they fail.
	routine bool
	// checked is set once the request has passed everything that its operation asks for.
	checked bool
}

// Actor is the authenticated caller of a request.
type Actor interface {
	// LogAttrs returns the attributes that identify the actor in the request's log line.
	LogAttrs() []slog.Attr
}

type callKey struct{}

// CallFrom returns the call that ctx belongs to, an empty one outside any.
func CallFrom(ctx context.Context) *Call {
	if call, ok := ctx.Value(callKey{}).(*Call); ok {
		return call
	}
	return &Call{}
}

// newRequestID returns a ULID of the time. A clock beyond the years that a ULID holds is broken, and counts as the nearest one.
func newRequestID(now time.Time) string {
	millis := min(uint64(max(now.UnixMilli(), 0)), ulid.MaxTime())
	return ulid.MustNew(millis, rand.Reader).String() // it fails only for a time out of range, or without random numbers
}

// Observer gives every request its id, log line, metrics and span. What it writes is an allow-list: operation ids, our own
// ids, statuses and times. Paths, query strings, headers and bodies, which can hold anything, are never written.
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
	// The caller's trace goes on here, without its tracestate: that may hold any text.
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

// statusClientGone is logged for a request whose caller left before the answer, as nginx does: nothing failed here.
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
// Strangers can't fill the disk: a 401 is logged until its address is over the limit, when it becomes a 429, which is not; and
// the 422 of a credential that a gateway passes on is routine.
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

// isCauseLogged reports whether the error of a request with this status is logged: why a credential or an act was refused, and
// what failed. Those errors consist of fixed texts; the errors of other refusals may quote what was sent.
func isCauseLogged(status int) bool {
	return status >= http.StatusInternalServerError || status == http.StatusUnauthorized || status == http.StatusForbidden
}
