package dataplane

import (
	"io"
	"net/http"
	"time"
)

// Indexed returns the number of entries in the index by project.
func Indexed(r *Resolver) (n int) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for _, entries := range r.store.byProject {
		n += len(entries)
	}
	return n
}

// DownFor and RefusedFor are how long no request is sent after a failure and after a refused credential.
const (
	DownFor    = downFor
	RefusedFor = refusedFor
)

// MaxLog is the number of events kept for fetches in flight.
const MaxLog = maxEventLog

// Feed has the resolver read a given stream to its end.
func Feed(r *Resolver, stream io.Reader) error {
	s := &session{r: r, sent: r.clock.Now(), acks: newAcker(r)}
	silence := time.AfterFunc(time.Hour, func() {})
	defer silence.Stop()
	return s.readMessages(stream, silence)
}

// Waiting returns the number of keys that wait to be reported.
func Waiting(r *Resolver) int {
	r.reports.mu.Lock()
	defer r.reports.mu.Unlock()
	return len(r.reports.outcomes)
}

// WithIntervals changes times that are not settings: between acknowledgements, between reports, and before the stream is
// opened again after a refusal. Zero keeps the default.
func WithIntervals(ack, report, refused time.Duration) func(*Config) {
	return func(cfg *Config) { cfg.intervals = intervals{ack: ack, report: report, refused: refused} }
}

// WithUsageInterval changes the time between batches of counts.
func WithUsageInterval(d time.Duration) func(*Config) {
	return func(cfg *Config) { cfg.intervals.usage = d }
}

// WaitingUsage returns the number of counts that wait to be sent for the first time.
func WaitingUsage(r *Resolver) int {
	r.usage.mu.Lock()
	defer r.usage.mu.Unlock()
	return len(r.usage.counts)
}

// StreamTimeout returns the timeout of the HTTP client that reads the stream.
func StreamTimeout(r *Resolver) (time.Duration, bool) {
	client, ok := r.stream.Client.(*http.Client)
	return client.Timeout, ok
}

// MaxLimited bounds how many keys' requests are counted.
const MaxLimited = maxLimited

// BeginAt is Begin at a time, when the Clock says passed.
func BeginAt(r *Resolver, key *Key, now time.Time, passed time.Duration) bool {
	_, limited := r.limiter.begin(key, now, passed)
	return limited == nil
}

// Limited returns the number of keys whose requests are counted.
func Limited(r *Resolver) int {
	r.limiter.mu.Lock()
	defer r.limiter.mu.Unlock()
	return len(r.limiter.counted)
}
