package dataplane

import (
	"io"
	"time"
)

// Indexed returns how many entries the index by project holds.
func Indexed(r *Resolver) (n int) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for _, among := range r.store.projects {
		n += len(among)
	}
	return n
}

// DownFor is how long a control plane that failed is left alone, RefusedFor one that refused the data plane's credential.
const (
	DownFor    = downFor
	RefusedFor = refusedFor
)

// MaxLog is how many events are kept for fetches on their way.
const MaxLog = maxLog

// Feed has the resolver follow a stream that is already there, to its end.
func Feed(r *Resolver, stream io.Reader) error {
	s := &session{r: r, anchor: r.clock.Now(), acks: newAcker(r)}
	silence := time.AfterFunc(time.Hour, func() {})
	defer silence.Stop()
	return s.follow(stream, silence)
}

// Waiting returns how many keys wait to be reported.
func Waiting(r *Resolver) int {
	r.reports.mu.Lock()
	defer r.reports.mu.Unlock()
	return len(r.reports.fates)
}
