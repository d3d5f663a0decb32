package dataplane

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// The constants that tests need.
const (
	DownFor     = downFor
	RefusedFor  = refusedFor
	MaxEventLog = maxEventLog
	MaxLimited  = maxLimited
)

// Sizes holds the numbers of things that a resolver keeps: entries in the index by project, keys to report, usage
// counts to send, and keys whose requests are counted.
type Sizes struct{ Indexed, Reports, Usage, Limited int }

// SizesOf returns the sizes of a resolver.
func SizesOf(r *Resolver) Sizes {
	all := []sync.Locker{&r.store.mu, &r.reports.mu, &r.usage.mu, &r.limiter.mu}
	for _, mu := range all {
		mu.Lock()
	}
	sizes := Sizes{Reports: len(r.reports.outcomes), Usage: len(r.usage.counts), Limited: len(r.limiter.counted)}
	for _, entries := range r.store.byProject {
		sizes.Indexed += len(entries)
	}
	for _, mu := range all {
		mu.Unlock()
	}
	return sizes
}

// Feed has the resolver read a given stream to its end.
func Feed(r *Resolver, stream io.Reader) error {
	s := &session{r: r, sent: r.clock.Now(), acks: newAcker(r)}
	silence := time.AfterFunc(time.Hour, func() {})
	defer silence.Stop()
	return s.readMessages(stream, silence)
}

// WithIntervals changes intervals for which there are no settings. Zero keeps the default.
func WithIntervals(ack, report, usage, refused time.Duration) func(*Config) {
	return func(cfg *Config) { cfg.intervals = intervals{ack, report, usage, refused} }
}

// StreamTimeout returns the timeout of the HTTP client that reads the stream.
func StreamTimeout(r *Resolver) (time.Duration, bool) {
	client, ok := r.stream.Client.(*http.Client)
	return client.Timeout, ok
}

// BeginAt is Begin at the time now, when the Clock's time is passed.
func BeginAt(r *Resolver, key *Key, now time.Time, passed time.Duration) bool {
	_, limited := r.limiter.begin(key, now, passed)
	return limited == nil
}
