package httpapi

import (
	"math"
	"net/netip"
	"sync"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"
)

// Rate is how often something may happen. Zero PerSecond means without limit.
type Rate struct {
	PerSecond float64
	// Burst is how many may come at once; zero means twice a second's worth, at least one.
	Burst int
}

// limiterCount bounds the memory of a Limiter: about 200 bytes a key.
const limiterCount = 50_000

// Limiter counts by key, each key for itself. It keeps a bounded number of keys and forgets those that come least.
type Limiter struct {
	rate    rate.Limit
	burst   int
	buckets *otter.Cache[string, *rate.Limiter]
}

// NewLimiter returns a Limiter, nil when r sets no limit. A nil Limiter allows everything.
func NewLimiter(r Rate) *Limiter {
	if r.PerSecond <= 0 {
		return nil
	}
	burst := r.Burst
	if burst == 0 {
		burst = max(1, int(2*r.PerSecond))
	}
	return &Limiter{rate: rate.Limit(r.PerSecond), burst: burst, buckets: otter.Must(&otter.Options[string, *rate.Limiter]{
		MaximumSize: limiterCount,
	})}
}

// Allow counts one for key. When it is too many, it returns false and how many seconds to wait, at least 1.
func (l *Limiter) Allow(key string) (bool, int) {
	if l == nil {
		return true, 0
	}
	bucket, ok := l.buckets.GetIfPresent(key)
	if !ok {
		bucket, _ = l.buckets.SetIfAbsent(key, rate.NewLimiter(l.rate, l.burst))
	}
	if bucket.Allow() {
		return true, 0
	}
	return false, int(math.Ceil(1 / float64(l.rate)))
}

// exhausted tells whether key has used up what it may, without counting.
func (l *Limiter) exhausted(key string) bool {
	if l == nil {
		return false
	}
	bucket, ok := l.buckets.GetIfPresent(key)
	return ok && bucket.Tokens() < 1
}

// Gate bounds how many of a key's requests are under way at once. It holds only the keys that have some.
type Gate struct {
	limit int
	mu    sync.Mutex
	held  map[string]int
}

// NewGate returns a Gate that lets limit requests of each key through at once.
func NewGate(limit int) *Gate { return &Gate{limit: limit, held: map[string]int{}} }

// Enter lets one in, who must call leave, or refuses: ErrTooManyRequests.
func (g *Gate) Enter(key string) (leave func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.held[key] >= g.limit {
		return nil, ErrTooManyRequests
	}
	g.held[key]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held[key]--; g.held[key] == 0 {
			delete(g.held, key)
		}
	}, nil
}

// addressKey is what failures are counted by: an IPv4 address, or the /64 that one IPv6 host usually has to itself.
func addressKey(ip string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Unmap().Is4() {
		return ip
	}
	prefix, err := addr.Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.String()
}
