package gateway

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"github.com/agentrouter/aikeys/dataplane"
)

const (
	// guardedAddresses and guardedRequests bound a guard's memory, about 200 and 50 bytes each.
	guardedAddresses = 50_000
	guardedRequests  = 50_000
	// maxSuspects is how many requests of addresses over their limit may be looked up at a time.
	maxSuspects = 2
	// suspectPatience is how long a request waits for its turn among them.
	suspectPatience = 2 * time.Second
)

// guard keeps guessers from having the control plane look all their guesses up. It counts the failures of each address.
// What comes from one that is over the limit is looked up a few at a time, unless it was served before: a neighbour of
// theirs with a good credential is served still, and does not wait for them. A nil guard lets everything through.
type guard struct {
	rate     rate.Limit
	burst    int
	proxies  []netip.Prefix
	failures *otter.Cache[netip.Addr, *rate.Limiter]
	seed     maphash.Seed
	served   *otter.Cache[uint64, struct{}] // hashes of requests; who could make two collide gains a turn
	suspects chan struct{}
}

func newGuard(cfg Config) *guard {
	if cfg.FailedAuthLimit <= 0 {
		return nil
	}
	return &guard{
		rate: rate.Limit(cfg.FailedAuthLimit / 60), burst: int(math.Ceil(cfg.FailedAuthLimit)), proxies: cfg.TrustedProxies,
		failures: otter.Must(&otter.Options[netip.Addr, *rate.Limiter]{MaximumSize: guardedAddresses}),
		served:   otter.Must(&otter.Options[uint64, struct{}]{MaximumSize: guardedRequests}),
		seed:     maphash.MakeSeed(), suspects: make(chan struct{}, maxSuspects),
	}
}

// resolve is the resolver's, for a request that came from peer with these headers.
func (g *guard) resolve(
	ctx context.Context, resolver Resolver, request dataplane.Request, peer string, header http.Header,
) (*dataplane.Key, error) {
	if g == nil {
		return resolver.Resolve(ctx, request)
	}
	id := g.hash(request)
	_, known := g.served.GetIfPresent(id)
	if !known && g.exhausted(g.client(peer, header)) {
		leave, err := g.queue(ctx)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	key, err := resolver.Resolve(ctx, request)
	switch {
	case err == nil && !known:
		g.served.Set(id, struct{}{})
	case isFailure(err):
		g.served.Invalidate(id)
		if !g.count(g.client(peer, header)) {
			return nil, g.tooMany()
		}
	}
	return key, err
}

// isFailure tells the refusals that strangers can provoke, and each of which may cost a look-up.
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

// queue waits for a turn.
func (g *guard) queue(ctx context.Context) (leave func(), err error) {
	patience := time.NewTimer(suspectPatience)
	defer patience.Stop()
	select {
	case g.suspects <- struct{}{}:
		return func() { <-g.suspects }, nil
	case <-patience.C:
		return nil, g.tooMany()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *guard) exhausted(from netip.Addr) bool {
	bucket, ok := g.failures.GetIfPresent(from)
	return ok && bucket.Tokens() < 1
}

// count takes a failure down, and tells whether it is within the limit.
func (g *guard) count(from netip.Addr) bool {
	bucket, ok := g.failures.GetIfPresent(from)
	if !ok {
		bucket, _ = g.failures.SetIfAbsent(from, rate.NewLimiter(g.rate, g.burst))
	}
	return bucket.Allow()
}

// client is whom a request is counted for: the peer or, of a trusted proxy, the nearest address in X-Forwarded-For that
// is none. Of IPv6 it is the /64, which one host usually has to itself.
func (g *guard) client(peer string, header http.Header) netip.Addr {
	address := addressOf(peer)
	if g.trusts(address) {
		hops := strings.Split(strings.Join(header["X-Forwarded-For"], ","), ",")
		for i := len(hops) - 1; i >= 0 && g.trusts(address); i-- {
			hop := addressOf(strings.TrimSpace(hops[i]))
			if !hop.IsValid() {
				break
			}
			address = hop
		}
	}
	if address.Is6() {
		if prefix, err := address.Prefix(64); err == nil {
			return prefix.Addr()
		}
	}
	return address
}

func (g *guard) trusts(address netip.Addr) bool {
	for _, proxy := range g.proxies {
		if proxy.Contains(address) {
			return true
		}
	}
	return false
}

// addressOf reads an address, with a port or without; the zero one if it is none.
func addressOf(text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, _ := netip.ParseAddrPort(text)
		address = withPort.Addr()
	}
	return address.Unmap().WithZone("")
}

// tooManyFailures says when to come again.
type tooManyFailures struct{ seconds int }

func (g *guard) tooMany() error { return &tooManyFailures{int(math.Ceil(1 / float64(g.rate)))} }

// Error tells what it is.
func (*tooManyFailures) Error() string { return errTooManyFailures.Error() }

// Unwrap returns errTooManyFailures.
func (*tooManyFailures) Unwrap() error { return errTooManyFailures }

// retryAfter returns the header's value for an error, in seconds.
func retryAfter(err error) string {
	if wait := (*tooManyFailures)(nil); errors.As(err, &wait) {
		return strconv.Itoa(wait.seconds)
	}
	return "1"
}
