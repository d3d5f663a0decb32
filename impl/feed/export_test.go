package feed

import "time"

// Hasten shortens the intervals of a feed that does not run yet.
func Hasten(f *Feed, maintenance, replicaGrace, silence time.Duration) {
	f.timing = timing{maintenance: maintenance, replicaGrace: replicaGrace, silence: silence}
}

// Streams returns how many streams are open.
func Streams(f *Feed) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// Ready reports whether the feed has read from the database.
func Ready(f *Feed) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

// Holds reports whether the feed has read a transaction.
func Holds(f *Feed, tx int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.position.Contains(tx)
}
