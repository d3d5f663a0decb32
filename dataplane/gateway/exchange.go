package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/agentrouter/aikeys/dataplane"
)

// noProvider stands in logs and metrics for what came instead of a provider's slug, which can be anything.
const noProvider = "none"

// statusClientGone is told of a request whose caller left before the answer, as nginx does.
const statusClientGone = 499

// exchange is one request on its way through.
type exchange struct {
	id         string
	started    time.Time
	provider   string // for logs and metrics: one that the control plane knows, or noProvider
	credential string
	key        *dataplane.Key
	target     *url.URL
	sent       time.Time // when it left for the provider; zero if it has not
	status     int       // as answered, by the provider or by us
	answered   bool      // whether an answer has begun
	cut        bool      // whether it ended before its end
	err        error     // why we refused
	stack      []byte    // of a panic
	duplex     bool      // whether the answer may begin before the request's body has ended
	bodyRead   atomic.Bool
}

// leavesBody tells whether the answer comes before the end of the request's body. The connection then can't be used
// again: net/http would read the rest and the next request at once.
func (ex *exchange) leavesBody() bool { return ex.duplex && !ex.bodyRead.Load() }

// NewRequestID returns a new ULID.
func NewRequestID(now time.Time) string {
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil { // after the year 10889
		return ulid.ULID{}.String()
	}
	return id.String()
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	ex, ok := ctx.Value(exchangeKey{}).(*exchange)
	if !ok {
		return &exchange{} // never: ServeHTTP puts it there
	}
	return ex
}

// providerOf returns what to call a provider that resolving failed for: its slug if the control plane knows it.
func providerOf(slug string, err error) string {
	for _, known := range [...]error{
		dataplane.ErrNoKey, dataplane.ErrUserKeyRequired, dataplane.ErrKeyRevoked, dataplane.ErrUnsupportedAuth,
	} {
		if errors.Is(err, known) {
			return slug
		}
	}
	return noProvider
}

// record writes the exchange's log line and counts it. What it tells is an allow-list: paths, queries, headers and
// bodies can hold anything, and are never among it.
func (g *Gateway) record(ctx context.Context, ex *exchange) {
	g.metrics.requests.WithLabelValues(ex.provider, strconv.Itoa(ex.status)).Inc()
	if !ex.sent.IsZero() {
		g.metrics.added.Observe(ex.sent.Sub(ex.started).Seconds())
	}
	level := levelOf(ex.status, ex.err)
	if !g.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 8)
	attrs = append(attrs,
		slog.String("request_id", ex.id), slog.String("provider", ex.provider), slog.Int("status", ex.status),
		slog.Duration("took", time.Since(ex.started).Round(time.Microsecond)))
	if ex.key != nil {
		attrs = append(attrs, slog.String("key_id", ex.key.ID))
	}
	if ex.cut {
		attrs = append(attrs, slog.Bool("cut", true))
	}
	if ex.err != nil {
		attrs = append(attrs, slog.String("cause", causeOf(ex.err)))
	}
	if ex.stack != nil {
		attrs = append(attrs, slog.String("stack", string(ex.stack)))
	}
	g.log.LogAttrs(ctx, level, "request", attrs...)
}

// levelOf keeps strangers from filling the log; err is why we refused, nil where the provider answered.
func levelOf(status int, err error) slog.Level {
	switch {
	case err == nil, status == statusClientGone:
		return slog.LevelInfo
	case status == http.StatusInternalServerError:
		return slog.LevelError
	case status > http.StatusInternalServerError:
		return slog.LevelWarn
	case status == http.StatusForbidden:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
