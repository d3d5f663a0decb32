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

// Limits are how many requests a key may serve on all data planes together; zero means any number. Begin enforces this
// data plane's share.
type Limits struct {
	// RequestsPerMinute and RequestsPerDay count from the beginning of a minute and of a day in UTC.
	RequestsPerMinute, RequestsPerDay int
	// Concurrent counts requests until they end, including streams and upgraded connections.
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

// LimitError is ErrKeyLimited with the limit that is reached and the time to wait.
type LimitError struct {
	// Limit is the limit that is reached: requests_per_minute, requests_per_day or concurrent.
	Limit string
	// RetryAfter is the time until the key may serve again, at least a second.
	RetryAfter time.Duration
}

// Error returns the text of ErrKeyLimited.
func (*LimitError) Error() string { return ErrKeyLimited.Error() }

// Unwrap returns ErrKeyLimited.
func (*LimitError) Unwrap() error { return ErrKeyLimited }

// maxLimited bounds how many keys' requests are counted, at about 150 bytes each.
const maxLimited = 50_000

// limiter counts the requests of keys that have limits, and knows which keys are set aside.
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

// counts are how many requests a key has served. minute and day are numbered from 1970.
type counts struct {
	minute, day                 int64
	inMinute, inDay, concurrent int
	// minuteSeen and daySeen are when the minute and the day were first seen, by the Clock, which is never set back.
	minuteSeen, daySeen time.Duration
}

// serving is how many data planes share the limits of a customer's keys, according to one heartbeat.
type serving struct {
	others     int // the number for customers that are not in byCustomer
	byCustomer map[string]int
	until      time.Duration // shareDelay after the next heartbeat, by the Clock; math.MaxInt64 for the newest
}

// shareDelay is how long a share stays small after data planes have disconnected. They may reconnect soon, and may
// still serve in the meantime.
const shareDelay = 5 * time.Second

// maxServing bounds how many heartbeats' numbers are remembered. At one heartbeat a second, shareDelay needs fewer.
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

// share returns this data plane's part of a limit of a customer's key at the time now, at least 1.
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

// countsOf returns the counts of a key for the minute and the day of now; passed is the same moment by the Clock. If the system's time was set
// back, the counts continue until a minute or a day has passed by the Clock, so that setting the time back does not reset a limit. The caller
// holds mu.
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

// makeRoom drops the counts of earlier days. If that is not enough, it also drops the counts of some other keys, and
// these keys may then exceed their limits. The caller holds mu.
func (l *limiter) makeRoom(day int64) {
	maps.DeleteFunc(l.counted, func(_ string, c *counts) bool { return c.concurrent == 0 && c.day != day })
	for id, c := range l.counted {
		if len(l.counted) <= maxLimited/8*7 { // an eighth at once: each call looks through all counts
			return
		}
		if c.concurrent == 0 {
			delete(l.counted, id)
		}
	}
}

const (
	// asideTime is how long a key is set aside if its provider does not say how long to wait.
	asideTime = 30 * time.Second
	// maxAsideTime is the longest time for which a key is set aside before it is tried again.
	maxAsideTime = 5 * time.Minute
	// maxAside is how many keys can be set aside at a time. Further keys keep serving although they are at a limit.
	maxAside = 10_000
	// maxLimitedKeys is how many keys are skipped for one request: as many as a fetch can name.
	maxLimitedKeys = 20
)

// SetAside sets a key aside after its provider has answered that the key is at a limit. wait is the time that the
// answer asks for; it is raised to one second or cut to five minutes. While the key is set aside, Resolve returns the
// next key. If the project's policy does not allow that (NextIfLimited), SetAside does nothing. Report and ReportAnswer
// set a key aside for 30 seconds after a 429, unless it is already set aside.
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

// isAside reports whether the next key serves instead of this one, because this one was set aside or has reached its own limit here.
func (r *Resolver) isAside(key *Key) bool {
	now, wall := r.clock.Now(), time.Now() //nolint:forbidigo // limits are those of UTC's minutes and days
	l := &r.limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	if until, ok := l.aside[secretID{key.ID, key.Version}]; ok && now < until {
		return true
	}
	return key.Limits != nil && l.reached(key, l.countsOf(key.ID, wall, now), wall, now) != nil
}

// resolveNext returns the key that serves a request while its first key is aside: the next key in order that is not aside. Each answer is cached
// separately, so the first key serves again as soon as it is no longer aside. If all keys are aside, or no answer comes, the first key
// serves; it is resolved again, since it may have been revoked in the meantime.
func (r *Resolver) resolveNext(ctx context.Context, req Request, first *Key) (*Key, error) {
	limited, next := []string{first.ID}, req
	for len(limited) <= maxLimitedKeys {
		next.limited = strings.Join(limited, ",")
		key, err := r.resolve(ctx, next)
		if err != nil || slices.Contains(limited, key.ID) {
			break
		}
		if !key.NextIfLimited || !r.isAside(key) {
			return key, nil
		}
		limited = append(limited, key.ID)
	}
	return r.resolve(ctx, req)
}
