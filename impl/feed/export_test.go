package feed

import (
	"cmp"
	"time"
)

// Timing shortens the intervals of a feed; zero keeps one.
type Timing struct{ Maintenance, Grace, Silence time.Duration }

// Hasten changes a feed that does not run yet.
func Hasten(f *Feed, t Timing) {
	f.timing = timing{
		cmp.Or(t.Maintenance, f.timing.maintenance), cmp.Or(t.Grace, f.timing.replicaGrace), cmp.Or(t.Silence, f.timing.silence),
	}
}

// Streams returns how many streams are open.
func Streams(f *Feed) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Holds reports whether streams can join the feed, and whether it has read the transaction.
func Holds(f *Feed, tx int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready && f.serving != nil && f.position.Contains(tx)
}
