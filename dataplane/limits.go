package dataplane

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
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

// limiter counts the requests of keys that have limits, and remembers which keys are left aside.
type limiter struct {
	serving atomic.Pointer[[]serving] // what the last heartbeats said, the newest last

	mu      sync.Mutex
	counted map[string]*counts         // by key id; guarded by mu
	aside   map[secretID]time.Duration // until when, by the Clock; guarded by mu
}

// secretID is a version of a key.
type secretID struct {
	keyID   string
	version int
}

// counts are how many requests a key has served. A minute and a day have the numbers that they have since 1970.
type counts struct {
	minute, day                 int64
	inMinute, inDay, concurrent int
	// minuteSeen and daySeen are when the minute and the day were first seen, by the Clock, which is never set back.
	minuteSeen, daySeen time.Duration
}

// serving is how many data planes share the limits of a customer's keys, as a heartbeat has it.
type serving struct {
	others     int // of customers that are not named
	byCustomer map[string]int
	until      time.Duration // when another heartbeat's numbers have been in force for shareDelay, by the Clock; never for the newest
}

// shareDelay is how long a share stays small when fewer data planes are connected. Those that are missing may be about to connect again, and
// serve meanwhile.
const shareDelay = 5 * time.Second

// maxServing bounds how many heartbeats' numbers are remembered. More than one a second change nothing.
const maxServing = 8

// setServing records what a heartbeat says, at the time now. Only the stream calls it.
func (l *limiter) setServing(m *gen.StreamMessage, now time.Duration) {
	if m.DataPlanes == nil {
		return
	}
	newest := serving{others: *m.DataPlanes, byCustomer: make(map[string]int, len(m.DataPlanesByCustomer)), until: math.MaxInt64}
	for _, of := range m.DataPlanesByCustomer {
		newest.byCustomer[of.CustomerID] = of.DataPlanes
	}
	var all []serving
	if before := l.serving.Load(); before != nil {
		for _, s := range *before {
			if s.until = min(s.until, now+shareDelay); now < s.until {
				all = append(all, s)
			}
		}
	}
	all = append(all, newest)
	all = all[max(len(all)-maxServing, 0):]
	l.serving.Store(&all)
}

// share returns this data plane's part of a limit of a customer's key, at the time now. Where there are more data planes than requests, each
// has one.
func (l *limiter) share(limit int, customer string, now time.Duration) int {
	dataPlanes := 1
	if all := l.serving.Load(); all != nil {
		for i := range *all {
			s := &(*all)[i]
			n, ok := s.byCustomer[customer]
			if !ok {
				n = s.others
			}
			if now < s.until {
				dataPlanes = max(dataPlanes, n)
			}
		}
	}
	return max(limit/dataPlanes, 1)
}

// Begin counts a request that a key, which Resolve returned, is about to serve. Call end when the request has ended, its answer included. The
// error is a *LimitError if the key has served as many requests as it may on this data plane: refuse the request then. Begin does not count
// what it refuses. The counts begin at zero when the program starts.
func (r *Resolver) Begin(key *Key) (end func(), err error) {
	if key.Limits == nil {
		return func() {}, nil
	}
	end, limited := r.limiter.begin(key, time.Now(), r.clock.Now()) //nolint:forbidigo // limits are those of UTC's minutes and days
	if limited != nil {
		r.metrics.limited.WithLabelValues(limited.Limit).Inc()
		return nil, limited
	}
	return end, nil
}

func (l *limiter) begin(key *Key, now time.Time, passed time.Duration) (end func(), limited *LimitError) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.countsOf(key.ID, now, passed)
	if limited := l.reached(key, c, now, passed); limited != nil {
		return nil, limited
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

// reached returns which limit of a key is reached, or nil. The caller holds mu.
func (l *limiter) reached(key *Key, c *counts, now time.Time, passed time.Duration) *LimitError {
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
		if limit.limit > 0 && limit.used >= l.share(limit.limit, key.CustomerID, passed) {
			return &LimitError{limit.name, max(limit.wait, time.Second)}
		}
	}
	return nil
}

// countsOf returns the counts of a key for the minute and the day of a time, at which the Clock says passed. If the time was set back, the
// counts go on for as long as a minute and a day last: a clock that is set back gives no fresh limit. The caller holds mu.
func (l *limiter) countsOf(keyID string, now time.Time, passed time.Duration) *counts {
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
	if minute > c.minute || minute < c.minute && passed-c.minuteSeen >= time.Minute {
		c.minute, c.minuteSeen, c.inMinute = minute, passed, 0
	}
	if day > c.day || day < c.day && passed-c.daySeen >= 24*time.Hour {
		c.day, c.daySeen, c.inDay = day, passed, 0
	}
	return c
}

// makeRoom forgets counts of other days and, if that is not enough, of some keys: those may then serve more than their limits. The caller
// holds mu.
func (l *limiter) makeRoom(day int64) {
	maps.DeleteFunc(l.counted, func(_ string, c *counts) bool { return c.concurrent == 0 && c.day != day })
	for id, c := range l.counted {
		if len(l.counted) <= maxLimited/8*7 { // not one by one: each time looks through all
			return
		}
		if c.concurrent == 0 {
			delete(l.counted, id)
		}
	}
}

const (
	// asideTime is how long a key is left aside if its provider does not say how long to wait.
	asideTime = 30 * time.Second
	// maxAsideTime bounds how long a key is left aside before it is tried again.
	maxAsideTime = 5 * time.Minute
	// maxAside is how many keys may be left aside; of further ones, the limit goes unnoticed.
	maxAside = 10_000
	// maxLimitedKeys is how many keys are passed over for one request, as many as a fetch may name.
	maxLimitedKeys = 20
)

// SetAside leaves a key aside whose provider has answered that it is at a limit, for as long as the answer says, a second at least and five
// minutes at most: Resolve returns the next key meanwhile, if the project's policy says so (NextIfLimited). Otherwise it does nothing.
// Report and ReportAnswer do so after a 429, for 30 seconds, unless the key is aside already.
func (r *Resolver) SetAside(key *Key, wait time.Duration) {
	if key == nil || !key.NextIfLimited {
		return
	}
	now := r.clock.Now()
	r.limiter.setAside(secretID{key.ID, key.Version}, now, now+min(max(wait, time.Second), maxAsideTime))
}

func (l *limiter) setAside(of secretID, now, until time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.aside) >= maxAside {
		maps.DeleteFunc(l.aside, func(_ secretID, until time.Duration) bool { return until <= now })
	}
	if old, ok := l.aside[of]; ok || len(l.aside) < maxAside {
		l.aside[of] = max(old, until)
	}
}

// isAside reports whether the next key is to serve instead of this one: it was left aside, or has served as many requests as it may here.
func (r *Resolver) isAside(key *Key) bool {
	if !key.NextIfLimited {
		return false
	}
	now, wall := r.clock.Now(), time.Now() //nolint:forbidigo // limits are those of UTC's minutes and days
	l := &r.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if until, ok := l.aside[secretID{key.ID, key.Version}]; ok && now < until {
		return true
	}
	return key.Limits != nil && l.reached(key, l.countsOf(key.ID, wall, now), wall, now) != nil
}

// resolveNext returns the key that serves a request while a key is left aside: the first in order that is not. Each answer is cached beside
// that of the request itself, which serves again as soon as its key may. If all are left aside, or if there is no answer, the first serves
// after all; it is asked for again because it may have ended in the meantime.
func (r *Resolver) resolveNext(ctx context.Context, req Request, first *Key) (*Key, error) {
	limited, next := []string{first.ID}, req
	for len(limited) <= maxLimitedKeys {
		next.limited = strings.Join(limited, ",")
		key, err := r.resolve(ctx, next)
		if err != nil || slices.Contains(limited, key.ID) {
			break
		}
		if !r.isAside(key) {
			return key, nil
		}
		limited = append(limited, key.ID)
	}
	return r.resolve(ctx, req)
}
