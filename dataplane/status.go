package dataplane

import (
	"fmt"
	"time"
)

// Status is how a Resolver fares.
type Status struct {
	// Connected tells whether a stream is open. Unauthenticated: the control plane has refused the data plane's credential,
	// and taken it for nothing since.
	Connected, Unauthenticated bool
	// TooStale: the control plane did not allow Config.MaxStale when the stream was to be opened last.
	TooStale bool
	// Leased tells whether the cache may be used without asking, and LeaseRemaining for how long.
	Leased         bool
	LeaseRemaining time.Duration
	// GraceRemaining is for how long what is cached serves while nobody answers: the lease, and MaxStale.
	GraceRemaining time.Duration
	// SessionID and ReplicaID are those of the last stream; Position is what has been acted on.
	SessionID, ReplicaID, Position string
	// Entries is how many answers are cached, about.
	Entries int
}

// Status tells how the resolver fares.
func (r *Resolver) Status() Status {
	r.channelMu.Lock()
	c := r.channel
	r.channelMu.Unlock()
	remaining, refused, grace := r.remaining(0), r.standing.refused(), r.cfg.MaxStale
	if refused {
		grace = 0
	}
	return Status{
		Connected: c.connected, Unauthenticated: refused, TooStale: c.tooStale,
		Leased: remaining > 0, LeaseRemaining: remaining, GraceRemaining: r.remaining(grace),
		SessionID: c.session, ReplicaID: c.replica, Position: c.position,
		Entries: r.store.size(),
	}
}

// remaining is how long it is until grace after the lease's end.
func (r *Resolver) remaining(grace time.Duration) time.Duration {
	return max(time.Duration(r.leaseEnd.Load())+grace-r.clock.Now(), 0)
}

// Format prints the resolver's status in place of what it holds.
func (r *Resolver) Format(f fmt.State, _ rune) { _, _ = fmt.Fprintf(f, "data plane %+v", r.Status()) }
