package models

import (
	"crypto/rand"
	"regexp"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// IDs makes ULIDs (https://github.com/ulid/spec) that rise as long as it lives, also within one millisecond and when the
// clock steps back: an id's time is then that of the id before it. Ids of different processes are ordered as their clocks are.
// The zero value is ready; it is safe for concurrent use.
type IDs struct {
	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy
	last    uint64 // milliseconds since the Unix epoch
}

// Prefixes of the ids that people see.
const (
	KeyIDPrefix   = "byok_"
	EventIDPrefix = "evt_"
)

// maxMillis is short of a ULID's 48 bits by what running out of values may add.
const maxMillis = 1<<48 - 1<<20

// Next returns prefix and a new ULID.
func (g *IDs) Next(prefix string, now time.Time) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.entropy == nil {
		g.entropy = ulid.Monotonic(rand.Reader, 0)
	}
	// A ULID holds the years from 1970 to 10889; a clock beyond them is broken.
	g.last = max(g.last, uint64(min(max(now.UnixMilli(), 0), maxMillis)))
	id, err := ulid.New(g.last, g.entropy)
	if err != nil { // the millisecond's values ran out
		g.last++
		id = ulid.MustNew(g.last, g.entropy)
	}
	return prefix + id.String()
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidID reports whether text can name a customer, project or user: 1 to 64 characters of A-Z, a-z, 0-9, dot, underscore and
// dash. A lone dash, which stands for the session's default, and "." and "..", which paths resolve away, are not ids.
func ValidID(text string) bool {
	return idPattern.MatchString(text) && text != "-" && text != "." && text != ".."
}
