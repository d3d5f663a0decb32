package httpapi

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/agentrouter/aikeys/internal/netaddr"
)

// Failed TLS handshakes are logged at a limited rate, because anyone who reaches the port can cause them.
const (
	handshakeLogBurst    = 5
	handshakeLogInterval = 10 * time.Second
)

// handshakeLog logs failed TLS handshakes.
type handshakeLog struct {
	log      *slog.Logger
	limit    *rate.Limiter
	unlogged atomic.Int64 // failures since the last line
}

func newHandshakeLog(log *slog.Logger) *handshakeLog {
	return &handshakeLog{log: log, limit: rate.NewLimiter(rate.Every(handshakeLogInterval), handshakeLogBurst)}
}

// add logs a failed handshake, or only counts it if the rate of log lines is exceeded. text comes from net/http and has
// the client's address and the cause.
func (h *handshakeLog) add(ctx context.Context, text string) {
	if !h.limit.Allow() {
		h.unlogged.Add(1)
		return
	}
	address, cause, _ := strings.Cut(text, ": ")
	h.log.InfoContext(ctx, "TLS handshake refused", slog.String("source_ip", netaddr.Parse(address).String()),
		slog.String("cause", handshakeCause(cause)), slog.Int64("unlogged_before", h.unlogged.Swap(0)))
}

// handshakeCause returns why a handshake failed, in fixed words: the texts of crypto/tls may quote the client, and most
// of its errors have no type of their own.
func handshakeCause(text string) string {
	for _, known := range [...]struct{ contains, means string }{
		{"didn't provide a certificate", "the client showed no certificate"},
		{"expired or is not yet valid", "the client's certificate has expired, or is not valid yet"},
		{"signed by unknown authority", "the client's certificate is of no authority that is trusted here"},
		{"failed to verify certificate", "the client's certificate is not valid"},
		{"remote error", "the client refused to go on; perhaps it does not trust this service's certificate"},
		{"unsupported versions", "no version of TLS in common"},
		{"does not look like a TLS handshake", "the client spoke no TLS"},
		{"HTTP request to an HTTPS server", "the client spoke no TLS"},
	} {
		if strings.Contains(text, known.contains) {
			return known.means
		}
	}
	return "the client left, or sent something that is not understood"
}
