package feed

import "time"

// Hasten makes a feed that does not run yet keep house more often, and sooner take replicas for dead and streams for silent.
func Hasten(f *Feed, house, beatGrace, ackSilence time.Duration) {
	f.house, f.beatGrace, f.ackSilence = house, beatGrace, ackSilence
}

// Streams returns how many streams are open.
func Streams(f *Feed) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.streams)
}

// Wake makes the feed read.
func Wake(f *Feed) { f.wakeUp() }

// Ready tells whether the feed has read from the database.
func Ready(f *Feed) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ready
}

// Holds tells whether the feed has read a transaction.
func Holds(f *Feed, tx int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.position.Holds(tx)
}
