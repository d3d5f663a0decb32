// Package kms is what the sealer backends of key management services have in common: a deadline for each call, a bound on calls
// at once, a circuit that keeps an outage from taking the service with it, a proof of what the service wrapped, and a cache of
// which key is primary. A backend adds the calls of its service (Key).
//
// Of our packages it imports sealer alone.
package kms

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/agentrouter/aikeys/sealer"
)

// ErrRefused wraps sealer.ErrUnavailable. It says that the service answered and refuses: the credentials lack a permission, or the
// key can't be used as it is configured. A retry fails until an operator has changed that.
var ErrRefused = fmt.Errorf("%w: the key management service refuses", sealer.ErrUnavailable)

// Key is one key of a key management service, in all its versions. Wrap and Unwrap are those of sealer.KEKs. Their errors may also be
// ErrRefused; any other sealer.ErrUnavailable counts as an outage. A call ends with its context, and may be repeated.
type Key interface {
	sealer.KEKLister // checks as well that the key can be used; ErrRefused says why not
	// Owns reports whether a KEK id may be one of this key's, without asking the service. Wrap and Unwrap get no other.
	Owns(kekID string) bool
	Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) (wrapped []byte, err error)
	Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) (dataKey []byte, err error)
}

// BatchKey is a Key that handles many data keys in one call, which fails as a whole. All items name the same KEK to WrapAll.
type BatchKey interface {
	Key
	WrapAll(ctx context.Context, items []sealer.KeyItem) (wrapped [][]byte, err error)
	UnwrapAll(ctx context.Context, items []sealer.KeyItem) (dataKeys [][]byte, err error)
}

// Options are the options of New.
type Options struct {
	// WrapOnly says that the credentials may not unwrap. Otherwise each wrapped data key is unwrapped once before it is used, so that
	// a service that answers wrongly leaves no secret that can't be read.
	WrapOnly bool
	// Timeout is the longest that a call may take, waiting included; 0 means 2 s.
	Timeout time.Duration
	// ListTTL is how long the list of KEKs is cached; 0 means 1 s. Within it, new secrets may still be sealed under the primary KEK of
	// before.
	ListTTL time.Duration
	// MaxCalls is how many calls are under way at once; others wait. 0 means 64.
	MaxCalls int
	// CacheTTL is how long the data key of an envelope that was opened is cached, so that it opens again without a call. 0 caches none.
	CacheTTL time.Duration
}

const (
	defaultTimeout  = 2 * time.Second
	defaultMaxCalls = 64
	// maxFailures is how many calls in a row fail before no more are sent; trialAfter is when one more is sent as a trial.
	maxFailures = 5
	trialAfter  = time.Second
	// defaultListTTL is also how long the error of listing KEKs is cached.
	defaultListTTL = time.Second
	// rewrapCalls is how many calls a re-wrap has under way at once, if the service takes no batches.
	rewrapCalls = 16
)

// Sealer is a sealer.Sealer, a sealer.KEKLister and a sealer.BatchRewrapper with the KEKs of a key management service.
type Sealer struct {
	sealer.Sealer
	keks *guard
}

var (
	_ sealer.KEKLister      = (*Sealer)(nil)
	_ sealer.BatchRewrapper = (*Sealer)(nil)
	_ sealer.BatchKEKs      = (*guard)(nil)
	_ sealer.UntrustedKEKs  = (*guard)(nil)
)

// New returns a Sealer that has not asked its service yet.
func New(key Key, options Options) *Sealer {
	timeout, calls := cmp.Or(max(options.Timeout, 0), defaultTimeout), cmp.Or(max(options.MaxCalls, 0), defaultMaxCalls)
	keks := &guard{
		key: key, wrapOnly: options.WrapOnly, timeout: timeout, listTTL: cmp.Or(max(options.ListTTL, 0), defaultListTTL),
		slots: make(chan struct{}, calls), asked: make(chan struct{}, 1), cache: newKeyCache(options.CacheTTL),
	}
	keks.circuit = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Timeout:      trialAfter,
		ReadyToTrip:  func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= maxFailures },
		IsSuccessful: func(err error) bool { return !isOutage(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, errAbandoned) },
	})
	return &Sealer{Sealer: sealer.NewEnvelopeSealer(keks), keks: keks}
}

// KEKs implements sealer.KEKLister. It asks the service at most once in Options.ListTTL.
func (s *Sealer) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list KEKs: %w", err)
	}
	keks, err := s.keks.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list KEKs: %w", err)
	}
	return append([]sealer.KEK{}, keks...), nil
}

// RewrapAll implements sealer.BatchRewrapper.
func (s *Sealer) RewrapAll(ctx context.Context, items []sealer.Item) ([]sealer.Result, error) {
	return sealer.RewrapAll(ctx, s.Sealer, items)
}

// Close drops the data keys that are cached.
func (s *Sealer) Close() error {
	s.keks.cache.close()
	return nil
}

// errAbandoned marks the error of a call whose caller has gone, which says nothing about the service.
var errAbandoned = errors.New("the caller has gone")

// isOutage reports whether an error says that the service is away or overloaded.
func isOutage(err error) bool {
	return errors.Is(err, sealer.ErrUnavailable) && !errors.Is(err, ErrRefused)
}

// guard implements sealer.KEKs with a Key.
type guard struct {
	key      Key
	wrapOnly bool
	timeout  time.Duration
	listTTL  time.Duration
	circuit  *gobreaker.CircuitBreaker[any]
	slots    chan struct{}
	cache    *keyCache

	listed atomic.Pointer[listing]
	asked  chan struct{} // holds a token while a goroutine reads listed, and asks the service if that is too old
	outage atomic.Pointer[string]
}

// listing is the service's last list of KEKs, or the error of asking.
type listing struct {
	keks  []sealer.KEK
	err   error
	until time.Time
}

// Primary implements sealer.KEKs.
func (g *guard) Primary(ctx context.Context) (string, error) {
	keks, err := g.list(ctx)
	if err != nil {
		return "", err
	}
	return keks[0].ID, nil
}

// list returns the KEKs, the primary one first. Callers that come at once share one answer or error.
func (g *guard) list(ctx context.Context) ([]sealer.KEK, error) {
	select {
	case g.asked <- struct{}{}:
		defer func() { <-g.asked }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", sealer.ErrUnavailable, ctx.Err())
	}
	if found := g.listed.Load(); found != nil && time.Now().Before(found.until) {
		return found.keks, found.err
	}
	keks, err := call(ctx, g, func(ctx context.Context) ([]sealer.KEK, error) {
		keks, err := g.key.KEKs(ctx)
		if err == nil && len(keks) == 0 {
			err = fmt.Errorf("%w: it lists no key", sealer.ErrUnavailable)
		}
		return keks, err
	})
	if ctx.Err() != nil {
		return nil, err // not cached: it concerns this caller only
	}
	ttl := g.listTTL
	if err != nil {
		ttl = min(ttl, defaultListTTL)
	}
	g.listed.Store(&listing{keks: keks, err: err, until: time.Now().Add(ttl)})
	return keks, err
}

// Wrap implements sealer.KEKs.
func (g *guard) Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) ([]byte, error) {
	if !g.key.Owns(kekID) {
		return nil, errForeign
	}
	wrapped, err := call(ctx, g, func(ctx context.Context) ([]byte, error) {
		return g.key.Wrap(ctx, kekID, dataKey, associatedData)
	})
	if errors.Is(err, sealer.ErrUnknownKEK) {
		g.listed.Store(nil) // another key is primary now
	}
	if err != nil || g.wrapOnly {
		return wrapped, err
	}
	return wrapped, g.prove(ctx, kekID, dataKey, wrapped, associatedData)
}

// prove returns nil if a wrapped data key unwraps to itself.
func (g *guard) prove(ctx context.Context, kekID string, dataKey, wrapped, associatedData []byte) error {
	found, err := g.unwrap(ctx, kekID, wrapped, associatedData)
	defer clear(found)
	switch {
	case errors.Is(err, sealer.ErrUnavailable):
		return fmt.Errorf("unwrap what was wrapped: %w", err)
	case !isSame(found, dataKey, err):
		return errUnproven
	}
	return nil
}

// errUnproven says that the service has wrapped something else than it was given.
var errUnproven = fmt.Errorf("%w: what the key management service has just wrapped does not unwrap to the same; nothing was sealed", sealer.ErrUnavailable)

func isSame(found, dataKey []byte, err error) bool {
	return err == nil && subtle.ConstantTimeCompare(found, dataKey) == 1
}

// Unwrap implements sealer.KEKs.
func (g *guard) Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	digest := digestOf(kekID, wrapped, associatedData)
	if dataKey := g.cache.get(digest); dataKey != nil {
		return dataKey, nil
	}
	dataKey, err := g.unwrap(ctx, kekID, wrapped, associatedData)
	if err == nil {
		g.cache.put(digest, dataKey)
	}
	return dataKey, err
}

// Reject implements sealer.UntrustedKEKs.
func (g *guard) Reject(kekID string, wrapped, associatedData []byte) {
	g.cache.drop(digestOf(kekID, wrapped, associatedData))
}

// unwrap asks the service, whatever is cached.
func (g *guard) unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	if !g.key.Owns(kekID) {
		return nil, errForeign
	}
	return call(ctx, g, func(ctx context.Context) ([]byte, error) {
		return g.key.Unwrap(ctx, kekID, wrapped, associatedData)
	})
}

// errForeign says that a KEK does not belong to the key that the service is set up with. That does not depend on whether the service can be reached, so that another
// sealer can be asked.
var errForeign = fmt.Errorf("%w: it is no version of the configured key", sealer.ErrUnknownKEK)

// call calls the service if its circuit is closed and a slot is free in time. Its error wraps ctx's if ctx ended.
func call[T any](ctx context.Context, g *guard, send func(context.Context) (T, error)) (answer T, err error) {
	limited, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	_, err = g.circuit.Execute(func() (any, error) {
		select {
		case g.slots <- struct{}{}:
			defer func() { <-g.slots }()
		case <-limited.Done():
			return nil, g.late(ctx, nil)
		}
		var failure error
		answer, failure = send(limited)
		if limited.Err() != nil && failure != nil {
			return nil, g.late(ctx, failure)
		}
		if isOutage(failure) {
			text := failure.Error()
			g.outage.Store(&text)
		}
		return nil, failure
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = fmt.Errorf("%w: not asked, as the last %d calls failed; the last one: %s", sealer.ErrUnavailable, maxFailures, *g.outage.Load())
	}
	return answer, err
}

// late returns the error of a call that its context ended: the caller's, or the one with the time limit.
func (g *guard) late(ctx context.Context, failure error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w: %w", sealer.ErrUnavailable, errAbandoned, ctx.Err())
	}
	text := fmt.Sprintf("%s: the key management service did not answer within %s", sealer.ErrUnavailable, g.timeout)
	g.outage.Store(&text)
	if errors.Is(failure, ErrRefused) || !errors.Is(failure, sealer.ErrUnavailable) && failure != nil && !errors.Is(failure, context.DeadlineExceeded) {
		return failure // it did answer, just before
	}
	return fmt.Errorf("%w: the key management service did not answer within %s", sealer.ErrUnavailable, g.timeout)
}
