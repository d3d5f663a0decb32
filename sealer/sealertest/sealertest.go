// Package sealertest helps to test backends of package sealer and their users: Run is the contract suite that every
// backend passes, New returns a Sealer that works, and NewUnavailable returns one whose backend a test makes available
// or unavailable.
//
// For tests only. It imports package sealer, its local backend and testify.
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

// Secret is the plaintext that MustSeal seals. No error text and no envelope may hold it.
const Secret = "sk-canary-d41d8cd98f00b204e9800998" //nolint:gosec // G101: not a credential

// Binding returns the binding that MustSeal uses.
func Binding() sealer.Binding {
	return sealer.Binding{CustomerID: "cust_1", ProjectID: "proj_1", KeyID: "byok_1", Provider: "openai", Version: 1}
}

// MustSeal seals Secret under Binding.
func MustSeal(t testing.TB, s sealer.Sealer) sealer.Envelope {
	t.Helper()
	envelope, err := s.Seal(t.Context(), Binding(), sealer.NewSecret([]byte(Secret)))
	require.NoError(t, err)
	return envelope
}

// RequireOpens requires that an envelope opens to Secret under Binding.
func RequireOpens(t testing.TB, s sealer.Sealer, envelope []byte) {
	t.Helper()
	secret, err := s.Open(t.Context(), Binding(), envelope)
	require.NoError(t, err)
	require.Equal(t, Secret, string(secret.Reveal()))
}

// Unavailable is a Sealer that a test makes available or unavailable. While it is unavailable, its methods return
// sealer.ErrUnavailable. SetAvailable may be called at any time and from any goroutine.
type Unavailable struct {
	Fake
	available atomic.Bool
}

// NewUnavailable returns an Unavailable that is not available yet. While it is available, backend answers its calls.
func NewUnavailable(backend sealer.Sealer) *Unavailable {
	u := &Unavailable{}
	u.Fake = Fake{Sealer: backend, before: func(ctx context.Context) error {
		if err := ctx.Err(); err != nil || u.available.Load() {
			return err
		}
		return sealer.ErrUnavailable
	}}
	return u
}

// SetAvailable lets calls through to the backend, or stops them.
func (u *Unavailable) SetAvailable(available bool) { u.available.Store(available) }

// Fake is a Sealer whose methods a test may replace.
type Fake struct {
	sealer.Sealer
	before     func(ctx context.Context) error // each method calls it first, and stops if it fails; may be nil
	SealFunc   func(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error)
	OpenFunc   func(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error)
	RewrapFunc func(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Envelope, error)
}

// Seal implements sealer.Sealer.
func (f Fake) Seal(ctx context.Context, binding sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	if err := f.enter(ctx); err != nil {
		return sealer.Envelope{}, err
	}
	if f.SealFunc != nil {
		return f.SealFunc(ctx, binding, secret)
	}
	return f.Sealer.Seal(ctx, binding, secret)
}

// Open implements sealer.Sealer.
func (f Fake) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	if err := f.enter(ctx); err != nil {
		return sealer.Secret{}, err
	}
	if f.OpenFunc != nil {
		return f.OpenFunc(ctx, binding, envelope)
	}
	return f.Sealer.Open(ctx, binding, envelope)
}

// Rewrap implements sealer.Sealer.
func (f Fake) Rewrap(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Envelope, error) {
	if err := f.enter(ctx); err != nil {
		return sealer.Envelope{}, err
	}
	if f.RewrapFunc != nil {
		return f.RewrapFunc(ctx, binding, envelope)
	}
	return f.Sealer.Rewrap(ctx, binding, envelope)
}

// PrimaryKEK implements sealer.Sealer.
func (f Fake) PrimaryKEK(ctx context.Context) (string, error) {
	if err := f.enter(ctx); err != nil {
		return "", err
	}
	return f.Sealer.PrimaryKEK(ctx)
}

// KEKs implements sealer.Sealer.
func (f Fake) KEKs(ctx context.Context) ([]sealer.KEK, error) {
	if err := f.enter(ctx); err != nil {
		return nil, err
	}
	return f.Sealer.KEKs(ctx)
}

func (f Fake) enter(ctx context.Context) error {
	if f.before == nil {
		return nil
	}
	return f.before(ctx)
}
