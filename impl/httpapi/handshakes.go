package httpapi

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Refused TLS handshakes are told a few at once, and then one now and then: whoever reaches the port can fail as often as
// they like.
const (
	toldAtOnce = 5
	toldEvery  = 10 * time.Second
)

// handshakes tells of TLS handshakes that failed.
type handshakes struct {
	log *slog.Logger

	mu     sync.Mutex
	limit  *rate.Limiter
	untold int // since the last one that was told
}

func newHandshakes(log *slog.Logger) *handshakes {
	return &handshakes{log: log, limit: rate.NewLimiter(rate.Every(toldEvery), toldAtOnce)}
}

// failed takes what net/http says of one: the client's address, and why.
func (h *handshakes) failed(ctx context.Context, said string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.limit.Allow() {
		h.untold++
		return
	}
	address, why, _ := strings.Cut(said, ": ")
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	h.log.InfoContext(ctx, "TLS handshake refused", slog.String("source_ip", address), slog.String("cause", handshakeCause(why)),
		slog.Int("untold_before", h.untold))
	h.untold = 0
}

// handshakeCause is why a handshake failed in words of ours: those of crypto/tls, of which most have no type, may quote what
// the client sent.
func handshakeCause(said string) string {
	for _, known := range [...]struct{ said, means string }{
		{"didn't provide a certificate", "the client showed no certificate"},
		{"expired or is not yet valid", "the client's certificate has expired, or is not valid yet"},
		{"signed by unknown authority", "the client's certificate is of no authority that is trusted here"},
		{"failed to verify certificate", "the client's certificate does not pass"},
		{"remote error", "the client refused to go on; perhaps it does not trust this service's certificate"},
		{"unsupported versions", "no version of TLS in common"},
		{"does not look like a TLS handshake", "the client spoke no TLS"},
		{"HTTP request to an HTTPS server", "the client spoke no TLS"},
	} {
		if strings.Contains(said, known.said) {
			return known.means
		}
	}
	return "the client left, or sent what was not understood"
}
