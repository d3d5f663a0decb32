package agentrouter

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"net/http"
	"time"
)

const (
	firstDelay = 250 * time.Millisecond
	maxDelay   = 4 * time.Second
	maxAsked   = 30 * time.Second // a service that asks for more is down for longer than a call should last
)

// repeatable tells whether an answer is of those that may be another one in a moment. Every method is safe to repeat.
func repeatable(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return false
	}
}

// delayBefore returns how long to wait before a retry, the first being 0: as long as the service asks for, else a random
// time up to a bound that doubles, so that clients which failed together do not come back together. Not ok: give up.
func delayBefore(retry int, header http.Header) (d time.Duration, ok bool) {
	if asked, given := retryAfter(header); given {
		return asked, asked <= maxAsked
	}
	bound := min(maxDelay, firstDelay<<min(retry, 8))
	n, err := rand.Int(rand.Reader, big.NewInt(int64(bound)))
	if err != nil {
		return bound, true
	}
	return time.Duration(n.Int64()), true
}

// newUUID returns a random UUID, version 4.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}
