package gateway

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/internal/netaddr"
	"github.com/agentrouter/aikeys/internal/problem"
	"github.com/agentrouter/aikeys/internal/ratelimit"
)

const (
	// maxServed bounds the memory of recentlyServed, at about 50 bytes each.
	maxServed = 50_000
	// maxThrottled is how many requests of addresses over their limit are looked up at a time.
	maxThrottled = 2
	// throttleTimeout is how long such a request waits for its turn.
	throttleTimeout = 2 * time.Second
)

// guard limits how often one address can cause look-ups with wrong credentials. It counts the failures of each address.
// Requests from an address over its limit are looked up a few at a time, except those that were served before: a good
// credential behind the same address is served without waiting. A nil guard limits nothing.
type guard struct {
	proxies  []netip.Prefix
	failures *ratelimit.Limiter[netip.Addr]
	seed     maphash.Seed
	// recentlyServed has the hashes of requests that were served. A collision would only skip the wait.
	recentlyServed *otter.Cache[uint64, struct{}]
	throttled      chan struct{} // holds a value for each request of an address over its limit that is being looked up
}

func newGuard(cfg Config) *guard {
	if cfg.FailedAuthLimit <= 0 {
		return nil
	}
	return &guard{
		proxies:  cfg.TrustedProxies,
		failures: ratelimit.New[netip.Addr](ratelimit.Rate{PerSecond: cfg.FailedAuthLimit / 60, Burst: int(math.Ceil(cfg.FailedAuthLimit))}),
		seed:     maphash.MakeSeed(),

		recentlyServed: otter.Must(&otter.Options[uint64, struct{}]{MaximumSize: maxServed}),
		throttled:      make(chan struct{}, maxThrottled),
	}
}

// resolve calls the resolver for a request that came from peer with these headers, if the guard admits it.
func (g *guard) resolve(
	ctx context.Context, resolver Resolver, request dataplane.Request, peer string, header http.Header,
) (*dataplane.Key, error) {
	if g == nil {
		return resolver.Resolve(ctx, request)
	}
	id := g.hash(request)
	_, known := g.recentlyServed.GetIfPresent(id)
	if !known && g.failures.Exhausted(g.clientAddress(peer, header)) {
		release, err := g.waitForTurn(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	key, err := resolver.Resolve(ctx, request)
	switch {
	case err == nil && !known:
		g.recentlyServed.Set(id, struct{}{})
	case isFailure(err):
		g.recentlyServed.Invalidate(id)
		if !g.failures.Allow(g.clientAddress(peer, header)) {
			return nil, g.tooManyFailures()
		}
	}
	return key, err
}

// isFailure reports whether strangers can cause the refusal at will, each time with a look-up.
func isFailure(err error) bool {
	for _, failure := range [...]error{dataplane.ErrCallerUnauthenticated, dataplane.ErrNotMember, dataplane.ErrInvalid} {
		if errors.Is(err, failure) {
			return true
		}
	}
	return false
}

func (g *guard) hash(request dataplane.Request) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	for _, field := range [...]string{request.Credential, request.ProjectID, request.Provider} {
		_, _ = h.WriteString(field) // it can't fail
		_ = h.WriteByte(0)          // which is in none of them
	}
	return h.Sum64()
}

// waitForTurn waits until the request of an address over its limit may be looked up.
func (g *guard) waitForTurn(ctx context.Context) (release func(), err error) {
	select {
	case g.throttled <- struct{}{}:
		return func() { <-g.throttled }, nil
	case <-time.After(throttleTimeout):
		return nil, g.tooManyFailures()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// clientAddress returns the address that failures are counted by: that of the peer or, behind trusted proxies, of the client
// that they name in X-Forwarded-For. For IPv6 it is the /64 network, which one host usually has to itself.
func (g *guard) clientAddress(peer string, header http.Header) netip.Addr {
	return netaddr.Host(netaddr.Client(peer, header["X-Forwarded-For"], g.proxies))
}

// tooManyFailures returns errTooManyFailures with the time to wait before the next request.
func (g *guard) tooManyFailures() error {
	return &problem.Wait{Kind: errTooManyFailures, Seconds: g.failures.RetryAfter()}
}
