// Package ratelimit limits how often something may happen for each of many keys, such as users or addresses.
package ratelimit

import (
	"math"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// Rate is how often something may happen. A PerSecond of zero or less sets no limit.
type Rate struct {
	PerSecond float64
	// Burst is how many may come at once; zero means two seconds' worth, but at least one.
	Burst int
}

// maxKeys bounds the memory of a Limiter: about 200 bytes a key.
const maxKeys = 50_000

// Limiter counts for each key separately. It keeps a bounded number of keys, and evicts the least used. It is safe for
// concurrent use. A nil Limiter sets no limit.
type Limiter[K comparable] struct {
	rate    rate.Limit
	burst   int
	buckets *otter.Cache[K, *rate.Limiter]
}

// New returns a Limiter, or nil if r sets no limit.
func New[K comparable](r Rate) *Limiter[K] {
	if r.PerSecond <= 0 {
		return nil
	}
	burst := r.Burst
	if burst == 0 {
		burst = max(1, int(2*r.PerSecond))
	}
	return &Limiter[K]{
		rate: rate.Limit(r.PerSecond), burst: burst,
		buckets: otter.Must(&otter.Options[K, *rate.Limiter]{MaximumSize: maxKeys}),
	}
}

// Allow counts one for the key, and reports whether it is within the limit.
func (l *Limiter[K]) Allow(key K) bool {
	return l == nil || l.bucket(key).Allow()
}

// Quota is how much of its limit a key has left. It is zero if there is no limit.
type Quota struct {
	// Limit is how many may come at once, and Remaining how many still may.
	Limit, Remaining int
	// Reset is how many seconds it takes until Remaining is Limit again, rounded up.
	Reset int
}

// Take is Allow, and also returns what is left afterwards.
func (l *Limiter[K]) Take(key K) (left Quota, ok bool) {
	if l == nil {
		return Quota{}, true
	}
	bucket := l.bucket(key)
	ok = bucket.Allow()
	tokens := max(0, bucket.Tokens())
	missing := float64(l.burst) - tokens
	return Quota{Limit: l.burst, Remaining: int(tokens), Reset: int(math.Ceil(missing / float64(l.rate)))}, ok
}

func (l *Limiter[K]) bucket(key K) *rate.Limiter {
	bucket, ok := l.buckets.GetIfPresent(key)
	if !ok {
		bucket, _ = l.buckets.SetIfAbsent(key, rate.NewLimiter(l.rate, l.burst))
	}
	return bucket
}

// Exhausted reports whether the key has reached its limit, without counting.
func (l *Limiter[K]) Exhausted(key K) bool {
	if l == nil {
		return false
	}
	bucket, ok := l.buckets.GetIfPresent(key)
	return ok && bucket.Tokens() < 1
}

// RetryAfter returns how many seconds a key at its limit has to wait, at least 1.
func (l *Limiter[K]) RetryAfter() int {
	if l == nil {
		return 1
	}
	return int(math.Ceil(1 / float64(l.rate)))
}
