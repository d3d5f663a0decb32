package gateway

import (
	"net/http"
	"strconv"
	"time"

	"github.com/agentrouter/aikeys/dataplane"
)

// setAside sets a key aside after its provider has limited it, if the answer says for how long. Otherwise the report of the answer does so.
func (g *Gateway) setAside(key *dataplane.Key, answer *http.Response, now time.Time) {
	if answer.StatusCode != http.StatusTooManyRequests {
		return
	}
	if wait, ok := retryAfter(answer.Header, now); ok {
		g.resolver.SetAside(key, wait)
	}
}

// retryAfter returns how long a header says that requests are refused: a number of seconds, or a date (RFC 9110).
func retryAfter(header http.Header, now time.Time) (wait time.Duration, ok bool) {
	text := header.Get("Retry-After")
	const most = 24 * 60 * 60 // so that no number is too large for a Duration
	if seconds, err := strconv.ParseUint(text, 10, 64); err == nil {
		return time.Duration(min(seconds, most)) * time.Second, true
	}
	at, err := http.ParseTime(text)
	if err != nil {
		return 0, false
	}
	return at.Sub(now), true
}
