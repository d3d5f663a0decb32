package dataplane

import (
	"errors"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
)

// Limits are how many requests a key may serve on all data planes together; zero is any number. Begin enforces this data plane's share.
type Limits struct {
	// RequestsPerMinute and RequestsPerDay count from the begin of a minute and of a day in UTC.
	RequestsPerMinute, RequestsPerDay int
	// Concurrent counts requests until they end, streams and upgraded connections among them.
	Concurrent int
}

// ErrKeyLimited says that the key has served as many requests as its limits allow here. See LimitError.
var ErrKeyLimited = errors.New("the key is at its limit")

// The names of limits.
const (
	limitPerDay     = "requests_per_day"
	limitPerMinute  = "requests_per_minute"
	limitConcurrent = "concurrent"
)

// LimitError is ErrKeyLimited with what a caller may want to know.
type LimitError struct {
	// Limit is the one that is reached: requests_per_minute, requests_per_day or concurrent.
	Limit string
	// RetryAfter is when a request may be served again, at least a second.
	RetryAfter time.Duration
}

// Error returns the text of ErrKeyLimited.
func (*LimitError) Error() string { return ErrKeyLimited.Error() }

// Unwrap returns ErrKeyLimited.
func (*LimitError) Unwrap() error { return ErrKeyLimited }

// maxLimited bounds how many keys' requests are counted, at about 150 bytes each.
const maxLimited = 50_000

// limiter counts the requests of keys that have limits.
type limiter struct {
	serving atomic.Pointer[serving]

	mu      sync.Mutex
	counted map[string]*counts // by key id; guarded by mu
}

// counts are how many requests a key has served. A minute and a day have the numbers that they have since 1970.
type counts struct {
	minute, day                 int64
	inMinute, inDay, concurrent int
}

// serving is how many data planes share the limits of a customer's keys, as the last heartbeat that said so has it.
type serving struct {
	others     int // of customers that are not named
	byCustomer map[string]int
}

// setServing records what a heartbeat says.
func (l *limiter) setServing(m *gen.StreamMessage) {
	if m.DataPlanes == nil {
		return
	}
	now := &serving{others: *m.DataPlanes, byCustomer: make(map[string]int, len(m.DataPlanesByCustomer))}
	for _, of := range m.DataPlanesByCustomer {
		now.byCustomer[of.CustomerID] = of.DataPlanes
	}
	l.serving.Store(now)
}

// share returns this data plane's part of a limit of a customer's key. Where there are more data planes than requests, each has one.
func (l *limiter) share(limit int, customer string) int {
	dataPlanes := 1
	if s := l.serving.Load(); s != nil {
		dataPlanes = s.others
		if n, ok := s.byCustomer[customer]; ok {
			dataPlanes = n
		}
	}
	return max(limit/max(dataPlanes, 1), 1)
}

// Begin counts a request that a key, which Resolve returned, is about to serve. Call end when the request has ended, its answer included. The
// error is a *LimitError if the key has served as many requests as it may on this data plane: refuse the request then. Begin does not count
// what it refuses. The counts begin at zero when the program starts.
func (r *Resolver) Begin(key *Key) (end func(), err error) {
	if key.Limits == nil {
		return func() {}, nil
	}
	end, limited := r.limiter.begin(key, time.Now()) //nolint:forbidigo // limits are those of UTC's minutes and days
	if limited != nil {
		r.metrics.limited.WithLabelValues(limited.Limit).Inc()
		return nil, limited
	}
	return end, nil
}

func (l *limiter) begin(key *Key, now time.Time) (end func(), limited *LimitError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.countsOf(key.ID, now)
	nextMinute, nextDay := now.Truncate(time.Minute).Add(time.Minute), now.Truncate(24*time.Hour).Add(24*time.Hour) // in UTC, from the year 1
	for _, limit := range []struct {
		name        string
		limit, used int
		wait        time.Duration
	}{
		{limitPerDay, key.Limits.RequestsPerDay, c.inDay, nextDay.Sub(now)},
		{limitPerMinute, key.Limits.RequestsPerMinute, c.inMinute, nextMinute.Sub(now)},
		{limitConcurrent, key.Limits.Concurrent, c.concurrent, time.Second},
	} {
		if limit.limit > 0 && limit.used >= l.share(limit.limit, key.CustomerID) {
			return nil, &LimitError{limit.name, max(limit.wait, time.Second)}
		}
	}
	c.inMinute++
	c.inDay++
	c.concurrent++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		c.concurrent--
	}), nil
}

// countsOf returns the counts of a key for the minute and the day of a time. The caller holds mu.
func (l *limiter) countsOf(keyID string, now time.Time) *counts {
	seconds := now.Unix() //nolint:forbidigo // of the clock's minutes and days
	minute, day := seconds/60, seconds/(24*60*60)
	c := l.counted[keyID]
	if c == nil {
		if len(l.counted) >= maxLimited {
			l.makeRoom(day)
		}
		c = &counts{minute: math.MinInt64, day: math.MinInt64}
		l.counted[keyID] = c
	}
	if c.minute != minute {
		c.minute, c.inMinute = minute, 0
	}
	if c.day != day {
		c.day, c.inDay = day, 0
	}
	return c
}

// makeRoom forgets counts of other days and, if that is not enough, of some keys: those may then serve more than their limits. The caller
// holds mu.
func (l *limiter) makeRoom(day int64) {
	maps.DeleteFunc(l.counted, func(_ string, c *counts) bool { return c.concurrent == 0 && c.day != day })
	for id, c := range l.counted {
		if len(l.counted) < maxLimited {
			return
		}
		if c.concurrent == 0 {
			delete(l.counted, id)
		}
	}
}
