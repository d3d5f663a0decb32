// Package sealer turns provider keys into envelopes and back. It is the contract between the code that stores secrets and the
// backends that hold key-encryption keys (KEKs).
//
// Each secret is encrypted under a fresh, random data key of its own. The data key is encrypted ("wrapped") under a
// KEK, which has an id and never leaves its backend. Ciphertext, wrapped data key and KEK id together are the envelope:
// opaque bytes that any database may hold, since only a Sealer with the KEK can open them. Replacing a KEK re-wraps
// data keys; the secrets themselves are not touched.
//
// Both layers authenticate a Binding: whose key it is, for which provider, in which version. An envelope that was moved to
// another row does not open there.
//
// NewEnvelopeSealer makes a Sealer from anything that can wrap and unwrap a data key; package local does so with a key file.
// Every backend passes the contract suite in package sealertest. The package imports internal/secret, and no other package of ours.
package sealer

import (
	"context"
	"errors"
)

// The sentinels that a Sealer returns, wrapped with %w. No error text holds a secret, a key or ciphertext.
var (
	// ErrBinding says that an envelope does not open under this binding: the binding is wrong, the row was moved, or the
	// bytes were changed. These cases can't be distinguished. A retry fails in the same way.
	ErrBinding = errors.New("envelope does not open under this binding")
	// ErrUnknownKEK says that an envelope names a key-encryption key that this sealer does not have or has disabled. The
	// envelope may be sound and opens once the key is back.
	ErrUnknownKEK = errors.New("unknown key-encryption key")
	// ErrMalformed says that the bytes are not an envelope that this version of the software can read.
	ErrMalformed = errors.New("not an envelope")
	// ErrUnavailable says that the backend cannot be reached or did not answer; a retry may work.
	ErrUnavailable = errors.New("sealer unavailable")
	// ErrInvalidBinding says that a part of a binding is missing or too long; no backend was asked.
	ErrInvalidBinding = errors.New("invalid binding")
	// ErrInvalidSecret says that a secret is empty (or was wiped), or is longer than MaxSecretLen.
	ErrInvalidSecret = errors.New("invalid secret")
)

// MaxSecretLen is the length of the longest secret that can be sealed, in bytes. It bounds the size of an envelope. The
// API accepts only much shorter secrets.
const MaxSecretLen = 64 << 10

// Envelope is a sealed secret.
type Envelope struct {
	// KEKID is the id of the key-encryption key that wraps the data key. Bytes contains the id, too. With the separate
	// field, a store can index the id and find the envelopes that still have to be re-wrapped.
	KEKID string
	// Bytes is the whole envelope, as Open and Rewrap take it.
	Bytes []byte
}

// Sealer seals secrets and opens them. Implementations are safe for concurrent use, do not change their arguments and keep no
// reference to them. When ctx is done, methods return an error that wraps ctx.Err().
type Sealer interface {
	// Seal encrypts secret under a fresh data key, wrapped by the primary KEK. Sealing the same secret twice gives
	// different envelopes. Errors: ErrInvalidBinding, ErrInvalidSecret, ErrUnavailable.
	Seal(ctx context.Context, binding Binding, secret Secret) (Envelope, error)

	// Open decrypts an envelope that was sealed under the same binding. The caller wipes the Secret. Errors:
	// ErrInvalidBinding, ErrMalformed, ErrUnknownKEK, ErrBinding, ErrUnavailable; the Secret is then empty.
	Open(ctx context.Context, binding Binding, envelope []byte) (Secret, error)

	// Rewrap returns the envelope with its data key wrapped by the primary KEK. If the primary KEK already wraps it,
	// the bytes are unchanged, but a wrong binding is still refused. Unless the data key comes from a service
	// (UntrustedKEKs), the secret is neither decrypted nor checked: an envelope with a damaged ciphertext is re-wrapped
	// and still does not open. Errors are those of Open.
	Rewrap(ctx context.Context, binding Binding, envelope []byte) (Envelope, error)

	// PrimaryKEK returns the id of the KEK that Seal currently uses. Error: ErrUnavailable.
	PrimaryKEK(ctx context.Context) (string, error)

	// KEKs returns all KEKs, the primary one first. Error: ErrUnavailable.
	KEKs(ctx context.Context) ([]KEK, error)
}
