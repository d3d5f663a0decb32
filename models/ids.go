package models

import (
	"crypto/rand"
	"regexp"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// IDs makes ULIDs (https://github.com/ulid/spec). Each id is greater than the previous one, even within a millisecond.
// If the clock steps back, an id has the time of the previous one. Ids of different processes are ordered by their
// clocks. The zero value is ready to use, and safe for concurrent use.
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

// maxMillis is the latest time of an id. It leaves room in a ULID's 48 bits for the milliseconds that Next may add.
const maxMillis = 1<<48 - 1<<20

// Next returns prefix and a new ULID.
func (g *IDs) Next(prefix string, now time.Time) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.entropy == nil {
		g.entropy = ulid.Monotonic(rand.Reader, 0)
	}
	// A ULID's time ranges from 1970 to 10889; a clock outside of that is broken.
	g.last = max(g.last, uint64(min(max(now.UnixMilli(), 0), maxMillis)))
	id, err := ulid.New(g.last, g.entropy)
	if err != nil { // the millisecond has no values left
		g.last++
		id = ulid.MustNew(g.last, g.entropy)
	}
	return prefix + id.String()
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidID reports whether text can be the id of a customer, project or user: 1 to 64 characters of A-Z, a-z, 0-9, dot,
// underscore and dash, except "-", which stands for the session's default, and "." and "..", which URL paths drop.
func ValidID(text string) bool {
	return idPattern.MatchString(text) && text != "-" && text != "." && text != ".."
}
