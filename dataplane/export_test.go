package dataplane

import (
	"io"
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
