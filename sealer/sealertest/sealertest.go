// Package sealertest helps to test backends of package sealer and their users: Run is the contract suite that every
// backend passes, New gives a Sealer that works, and Unavailable one whose backend can be lost and found again.
//
// For tests only. Imports package sealer, its local backend and testify.
package sealertest

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/local"
)

// New returns a local Sealer with a KEK of its own, which is deleted when the test ends.
func New(t testing.TB) sealer.Sealer {
	t.Helper()
	backend, err := local.Open(filepath.Join(t.TempDir(), "keyset.json"))
	require.NoError(t, err)
	return backend
}

// Unavailable is a Sealer that fails like one whose backend cannot be reached: every method returns sealer.ErrUnavailable,
// whatever it is asked. SetAvailable ends and resumes that, at any time and from any goroutine.
type Unavailable struct {
	Fake
	available atomic.Bool
}

// NewUnavailable returns an Unavailable that hands calls to backend while it is available, which at first it is not.
func NewUnavailable(backend sealer.Sealer) *Unavailable {
	u := &Unavailable{}
	u.Fake = Fake{Sealer: backend, Before: func(ctx context.Context) error {
		if err := ctx.Err(); err != nil || u.available.Load() {
			return err
		}
		return sealer.ErrUnavailable
	}}
	return u
}

// SetAvailable lets calls through to the backend, or stops them.
func (u *Unavailable) SetAvailable(available bool) { u.available.Store(available) }

// Fake is a Sealer of which a test replaces the methods that it sets.
type Fake struct {
	sealer.Sealer
	Before     func(ctx context.Context) error // its error ends a call of any method; nil lets all calls through
	SealFunc   func(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error)
	OpenFunc   func(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error)
	RewrapFunc func(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Envelope, error)
}

// Seal implements sealer.Sealer.
func (f Fake) Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	if err := f.before(ctx); err != nil {
		return sealer.Envelope{}, err
	}
	if f.SealFunc != nil {
		return f.SealFunc(ctx, binding, secret)
	}
	return f.Sealer.Seal(ctx, binding, secret)
}

// Open implements sealer.Sealer.
func (f Fake) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	if err := f.before(ctx); err != nil {
		return sealer.Secret{}, err
	}
	if f.OpenFunc != nil {
		return f.OpenFunc(ctx, binding, envelope)
	}
	return f.Sealer.Open(ctx, binding, envelope)
}

// Rewrap implements sealer.Sealer.
func (f Fake) Rewrap(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Envelope, error) {
	if err := f.before(ctx); err != nil {
		return sealer.Envelope{}, err
	}
	if f.RewrapFunc != nil {
		return f.RewrapFunc(ctx, binding, envelope)
	}
	return f.Sealer.Rewrap(ctx, binding, envelope)
}

// PrimaryKEK implements sealer.Sealer.
func (f Fake) PrimaryKEK(ctx context.Context) (string, error) {
	if err := f.before(ctx); err != nil {
		return "", err
	}
	return f.Sealer.PrimaryKEK(ctx)
}

func (f Fake) before(ctx context.Context) error {
	if f.Before == nil {
		return nil
	}
	return f.Before(ctx)
}
