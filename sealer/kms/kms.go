// Package kms has what the sealer backends of key management services share: a deadline for each call, a bound on concurrent
// calls, a circuit breaker for outages, a proof that wrapped keys unwrap, and a cache of the list of KEKs. A backend adds the
// calls of its service (Key).
//
// The package imports package sealer, and no other package of ours.
package kms

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/agentrouter/aikeys/sealer"
)

// ErrRefused wraps sealer.ErrUnavailable. It says that the service refused the request: the credentials lack a
// permission, or the key can't be used as it is configured. Retries fail until an operator has corrected the
// permissions or the key.
var ErrRefused = fmt.Errorf("%w: the key management service refuses", sealer.ErrUnavailable)

// Refuse returns an ErrRefused that says what is wrong and what to do.
func Refuse(format string, arguments ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, arguments...))
}

// Key is one key of a key management service, in all its versions. Wrap and Unwrap work as in sealer.KEKs. Their errors
// may also be ErrRefused; any other sealer.ErrUnavailable counts as an outage. A call ends with its context, and may be
// repeated.
type Key interface {
	// KEKs returns all KEKs, the primary one first, and checks that the key can be used. If it can't, ErrRefused says
	// why.
	KEKs(ctx context.Context) ([]sealer.KEK, error)
	// Owns reports whether a KEK id may belong to this key, without asking the service. Wrap and Unwrap are called only with such ids.
	Owns(kekID string) bool
	Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) (wrapped []byte, err error)
	Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) (dataKey []byte, err error)
}

// BatchKey is a Key that handles many data keys in one call. If one item fails, the whole call fails. All items of
// WrapAll name the same KEK.
type BatchKey interface {
	Key
	WrapAll(ctx context.Context, items []sealer.KeyItem) (wrapped [][]byte, err error)
	UnwrapAll(ctx context.Context, items []sealer.KeyItem) (dataKeys [][]byte, err error)
}

// Options are the options of New.
type Options struct {
	// WrapOnly says that the credentials lack the permission to unwrap. Without WrapOnly, each newly wrapped data key
	// is unwrapped once before it is used, so that a wrong answer of the service can't leave a secret unreadable.
	WrapOnly bool
	// Timeout bounds a call, with the wait for a free slot; 0 means 2 s.
	Timeout time.Duration
	// ListTTL is how long the list of KEKs is cached; 0 means 1 s. Until it expires, secrets may still be sealed under the previous
	// primary KEK.
	ListTTL time.Duration
	// CacheTTL is how long the data key of an opened envelope is cached, so that the envelope opens again without a
	// call. 0 means not at all.
	CacheTTL time.Duration
}

const (
	defaultTimeout = 2 * time.Second
	// maxCalls bounds concurrent calls; others wait.
	maxCalls = 64
	// After maxFailures failed calls in a row, none is sent for trialAfter. Then one call is sent as a trial.
	maxFailures = 5
	trialAfter  = time.Second
	// defaultListTTL is also how long the error of listing KEKs is cached.
	defaultListTTL = time.Second
	// rewrapCalls bounds the concurrent calls of a re-wrap, if the service takes no batches.
	rewrapCalls = 16
)

// Sealer is a sealer.Sealer and a sealer.BatchRewrapper with the KEKs of a key management service.
type Sealer struct {
	sealer.Sealer
	keks *guard
}

var (
	_ sealer.BatchRewrapper = (*Sealer)(nil)
	_ sealer.BatchKEKs      = (*guard)(nil)
	_ sealer.UntrustedKEKs  = (*guard)(nil)
)

// New returns a Sealer that has not asked its service yet.
func New(key Key, options Options) *Sealer {
	keks := &guard{
		key: key, wrapOnly: options.WrapOnly, timeout: cmp.Or(options.Timeout, defaultTimeout), listTTL: cmp.Or(options.ListTTL, defaultListTTL),
		slots: make(chan struct{}, maxCalls), asked: make(chan struct{}, 1), cache: newKeyCache(options.CacheTTL),
	}
	keks.circuit = gobreaker.NewCircuitBreaker[any](gobreaker.Settings{
		Timeout:      trialAfter,
		ReadyToTrip:  func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= maxFailures },
		IsSuccessful: func(err error) bool { return !isOutage(err) },
		IsExcluded:   func(err error) bool { return errors.Is(err, errAbandoned) },
	})
	return &Sealer{Sealer: sealer.NewEnvelopeSealer(keks), keks: keks}
}

// RewrapAll implements sealer.BatchRewrapper.
func (s *Sealer) RewrapAll(ctx context.Context, items []sealer.Item) ([]sealer.Result, error) {
	return sealer.RewrapAll(ctx, s.Sealer, items)
}

// Close drops the cached data keys, and closes the Key if it is an io.Closer.
func (s *Sealer) Close() error {
	s.keks.cache.close()
	if closer, ok := s.keks.key.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// errAbandoned marks the error of a call whose context ended, which says nothing about the service.
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
	asked  chan struct{}          // holds a token while a goroutine reads listed or asks the service
	outage atomic.Pointer[string] // the text of the last outage's error
}

// listing is the service's last list of KEKs, or the error of asking.
type listing struct {
	keks  []sealer.KEK
	err   error
	until time.Time
}

// List implements sealer.KEKs. It asks the service at most once in Options.ListTTL; callers share the answer or the error.
func (g *guard) List(ctx context.Context) ([]sealer.KEK, error) {
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

// prove returns nil if the wrapped form of a data key unwraps to that data key.
func (g *guard) prove(ctx context.Context, kekID string, dataKey, wrapped, associatedData []byte) error {
	found, err := g.unwrap(ctx, kekID, wrapped, associatedData)
	defer clear(found)
	switch {
	case errors.Is(err, sealer.ErrUnavailable):
		return fmt.Errorf("unwrap a data key to check it: %w", err)
	case !isSame(found, dataKey, err):
		return errUnproven
	}
	return nil
}

// errUnproven says that a data key that the service has just wrapped does not unwrap to the same data key.
var errUnproven = fmt.Errorf("%w: the data key that the key management service has just wrapped does not unwrap to the same; nothing was sealed", sealer.ErrUnavailable)

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

// unwrap asks the service, even if the data key is cached.
func (g *guard) unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) ([]byte, error) {
	if !g.key.Owns(kekID) {
		return nil, errForeign
	}
	return call(ctx, g, func(ctx context.Context) ([]byte, error) {
		return g.key.Unwrap(ctx, kekID, wrapped, associatedData)
	})
}

// errForeign says that a KEK does not belong to the configured key. It is returned without asking the service, so that another
// sealer can open the envelope even during an outage.
var errForeign = fmt.Errorf("%w: it is no version of the configured key", sealer.ErrUnknownKEK)

// call calls the service if the circuit is closed and a slot becomes free in time. If ctx has ended, the error wraps
// ctx's error.
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

// late returns the error of a call whose context has ended: the caller's context, or the one with the time limit.
func (g *guard) late(ctx context.Context, failure error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w: %w", sealer.ErrUnavailable, errAbandoned, ctx.Err())
	}
	err := fmt.Errorf("%w: the key management service did not answer within %s", sealer.ErrUnavailable, g.timeout)
	text := err.Error()
	g.outage.Store(&text)
	if failure != nil && !isOutage(failure) && !errors.Is(failure, context.DeadlineExceeded) {
		return failure // it answered just before
	}
	return err
}

// ReadParameters stores the parameters of a URL in targets, by their names. A parameter may be given only once, and
// must not be empty.
func ReadParameters(query url.Values, targets map[string]*string) error {
	for name, values := range query {
		target, known := targets[name]
		switch {
		case !known:
			return fmt.Errorf("has the parameter %q; known are %s", name, strings.Join(slices.Sorted(maps.Keys(targets)), ", "))
		case len(values) != 1 || values[0] == "":
			return fmt.Errorf("has the parameter %q without a value, or twice", name)
		}
		*target = values[0]
	}
	return nil
}
