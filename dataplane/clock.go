package dataplane

import "time"

// Clock tells how much time has passed. Leases and expiry go by it; it must never go back.
type Clock interface {
	// Now is the time since a moment that stays the same.
	Now() time.Duration
}

// systemClock is the system's monotonic clock, which setting the time of day does not move.
type systemClock struct{ start time.Time }

func (c systemClock) Now() time.Duration { return time.Since(c.start) }
