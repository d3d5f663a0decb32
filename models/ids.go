package models

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// IDs mints ULIDs (https://github.com/ulid/spec) that rise within a process, also within one millisecond. The zero value
// is ready; it is safe for concurrent use.
type IDs struct {
	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy
}

// Prefixes of the ids that people see.
const (
	KeyIDPrefix   = "byok_"
	EventIDPrefix = "evt_"
)

// Next returns prefix and a new ULID.
func (g *IDs) Next(prefix string, now time.Time) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.entropy == nil {
		g.entropy = ulid.Monotonic(rand.Reader, 0)
	}
	id, err := ulid.New(ulid.Timestamp(now), g.entropy)
	if err != nil {
		// The millisecond's 2^80 values ran out, or the clock is past the year 10889: start afresh.
		g.entropy = ulid.Monotonic(rand.Reader, 0)
		id = ulid.MustNew(ulid.Timestamp(now), g.entropy)
	}
	return prefix + id.String()
}
