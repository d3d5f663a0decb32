package ratelimit

import (
	"context"
	"net/netip"
	"time"

	"golang.org/x/time/rate"
)

const (
	// A suspect is an address over its limit of failures. suspectLookUps is how many look-ups per second one suspect
	// may cause, allSuspectLookUps how many all suspects together may cause.
	suspectLookUps    = 5
	allSuspectLookUps = 100
	// maxSuspects is how many credentials of suspects are looked up at a time, for each kind of credential; others wait for at most
	// suspectPatience.
	maxSuspects     = 2
	suspectPatience = 2 * time.Second
)

// Guesses limits how many wrong credentials an address may send, and how many look-ups it may cause once it is over that limit. A
// nil Guesses limits nothing.
type Guesses struct {
	failures, lookUps, reports *Limiter[netip.Addr]
	all                        *rate.Limiter
	places                     [2]chan struct{} // for API keys and for JWTs
	onRefusal                  func(ctx context.Context, address netip.Addr, isFirst bool)
}

// NewGuesses returns a Guesses for a limit of failures, or nil if failures sets no limit. onRefusal is called when
// something is refused; isFirst is set once a minute for each address.
func NewGuesses(failures Rate, onRefusal func(ctx context.Context, address netip.Addr, isFirst bool)) *Guesses {
	if failures.PerSecond <= 0 {
		return nil
	}
	return &Guesses{
		failures: New[netip.Addr](failures), lookUps: New[netip.Addr](Rate{PerSecond: suspectLookUps, Burst: suspectLookUps}),
		reports: New[netip.Addr](Rate{PerSecond: 1. / 60, Burst: 1}), all: rate.NewLimiter(allSuspectLookUps, allSuspectLookUps),
		places:    [2]chan struct{}{make(chan struct{}, maxSuspects), make(chan struct{}, maxSuspects)},
		onRefusal: onRefusal,
	}
}

// IsSuspect reports whether an address is over its limit of failures.
func (g *Guesses) IsSuspect(address netip.Addr) bool {
	return g != nil && g.failures.Exhausted(address)
}

// Begin takes a place for the look-up of a suspect's credential. JWTs have places of their own, since they wait for
// their issuer. If the look-up is refused, release is nil; err is ctx's error if ctx has ended, and nil otherwise.
func (g *Guesses) Begin(ctx context.Context, address netip.Addr, isJWT bool) (release func(), err error) {
	if !g.lookUps.Allow(address) || !g.all.Allow() {
		g.refuse(ctx, address)
		return nil, nil //nolint:nilnil // as the comment says
	}
	places := g.places[0]
	if isJWT {
		places = g.places[1]
	}
	patience := time.NewTimer(suspectPatience)
	defer patience.Stop()
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-patience.C:
		g.refuse(ctx, address)
		return nil, nil //nolint:nilnil // as the comment says
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Fail counts a wrong credential, and reports whether the address is within its limit.
func (g *Guesses) Fail(ctx context.Context, address netip.Addr) bool {
	if g == nil || g.failures.Allow(address) {
		return true
	}
	g.refuse(ctx, address)
	return false
}

// RetryAfter returns how many seconds an address at its limit has to wait, at least 1.
func (g *Guesses) RetryAfter() int { return g.failures.RetryAfter() }

func (g *Guesses) refuse(ctx context.Context, address netip.Addr) {
	g.onRefusal(ctx, address, g.reports.Allow(address))
}
