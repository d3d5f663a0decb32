package sealer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"golang.org/x/crypto/cryptobyte"
)

// KEKs are the key-encryption keys of a backend, as NewEnvelopeSealer uses them. An id is 1 to 255 bytes of printable ASCII
// without blanks, and is never reused for another key. Implementations must be safe for concurrent use, keep no reference to
// their arguments, and put neither keys nor wrapped keys in error texts.
type KEKs interface {
	// Primary returns the id of the KEK to wrap new data keys with, or ErrUnavailable.
	Primary(ctx context.Context) (kekID string, err error)

	// Wrap encrypts a data key of 32 bytes and authenticates associatedData, at most 1,304 bytes. It returns 1 to
	// 65535 bytes, ErrUnknownKEK or ErrUnavailable.
	Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) (wrapped []byte, err error)

	// Unwrap reverses Wrap. It returns the data key in memory that the caller may zero, ErrUnknownKEK, ErrUnavailable,
	// or ErrBinding if wrapped and associatedData do not belong together under this KEK.
	Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) (dataKey []byte, err error)
}

// NewEnvelopeSealer returns a Sealer whose data keys are wrapped by keks. It has no other state, so its envelopes open in every
// process with the same KEKs.
func NewEnvelopeSealer(keks KEKs) Sealer { return &envelopeSealer{keks: keks} }

type envelopeSealer struct{ keks KEKs }

// Seal implements Sealer.
func (s *envelopeSealer) Seal(ctx context.Context, binding Binding, secret Secret) (Envelope, error) {
	bound, err := begin(ctx, binding)
	if err != nil {
		return Envelope{}, fmt.Errorf("seal: %w", err)
	}
	if n := secret.Len(); n == 0 || n > MaxSecretLen {
		return Envelope{}, fmt.Errorf("seal: %w: it has %d bytes, want 1 to %d", ErrInvalidSecret, n, MaxSecretLen)
	}
	// crypto/rand.Read never fails: it ends the program rather than return bytes that are not random.
	dataKey := make([]byte, dataKeyLen)
	rand.Read(dataKey)
	defer clear(dataKey)

	cipher, err := subtle.NewAESGCM(dataKey)
	if err != nil {
		return Envelope{}, fmt.Errorf("seal: %w", err)
	}
	payload, err := cipher.Encrypt(secret.Reveal(), secretContext(bound))
	if err != nil {
		return Envelope{}, fmt.Errorf("seal: %w", err)
	}
	envelope, err := s.wrapPrimary(ctx, bound, dataKey, payload)
	if err != nil {
		return Envelope{}, fmt.Errorf("seal: %w", err)
	}
	return envelope, nil
}

// Open implements Sealer.
func (s *envelopeSealer) Open(ctx context.Context, binding Binding, envelope []byte) (Secret, error) {
	bound, err := begin(ctx, binding)
	if err != nil {
		return Secret{}, fmt.Errorf("open: %w", err)
	}
	parts, dataKey, err := s.unwrap(ctx, bound, envelope)
	if err != nil {
		return Secret{}, fmt.Errorf("open: %w", err)
	}
	defer clear(dataKey)

	cipher, err := subtle.NewAESGCM(dataKey)
	if err != nil {
		return Secret{}, fmt.Errorf("open: %w", err)
	}
	plaintext, err := cipher.Decrypt(parts.payload, secretContext(bound))
	if err != nil {
		return Secret{}, fmt.Errorf("open: %w", ErrBinding)
	}
	return NewSecret(plaintext), nil
}

// Rewrap implements Sealer.
func (s *envelopeSealer) Rewrap(ctx context.Context, binding Binding, envelope []byte) (Envelope, error) {
	bound, err := begin(ctx, binding)
	if err != nil {
		return Envelope{}, fmt.Errorf("re-wrap: %w", err)
	}
	parts, dataKey, err := s.unwrap(ctx, bound, envelope)
	if err != nil {
		return Envelope{}, fmt.Errorf("re-wrap: %w", err)
	}
	defer clear(dataKey)

	primary, err := s.keks.Primary(ctx)
	if err != nil {
		return Envelope{}, fmt.Errorf("re-wrap: %w", err)
	}
	if parts.kekID == primary {
		return Envelope{KEKID: primary, Bytes: bytes.Clone(envelope)}, nil
	}
	rewrapped, err := s.wrapPrimary(ctx, bound, dataKey, parts.payload)
	if err != nil {
		return Envelope{}, fmt.Errorf("re-wrap: %w", err)
	}
	return rewrapped, nil
}

// PrimaryKEK implements Sealer.
func (s *envelopeSealer) PrimaryKEK(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("primary KEK: %w", err)
	}
	kekID, err := s.keks.Primary(ctx)
	if err != nil {
		return "", fmt.Errorf("primary KEK: %w", err)
	}
	return kekID, nil
}

// wrapPrimary makes an envelope under the primary KEK. If the KEK was retired between the call of Primary and that of Wrap, it
// asks the backend once more.
func (s *envelopeSealer) wrapPrimary(ctx context.Context, bound, dataKey, payload []byte) (Envelope, error) {
	for again := true; ; again = false {
		primary, err := s.keks.Primary(ctx)
		if err != nil {
			return Envelope{}, err
		}
		envelope, err := s.wrap(ctx, primary, bound, dataKey, payload)
		if !again || !errors.Is(err, ErrUnknownKEK) {
			return envelope, err
		}
	}
}

// wrap makes an envelope of a payload and its data key, under the given KEK.
func (s *envelopeSealer) wrap(
	ctx context.Context, kekID string, bound, dataKey, payload []byte,
) (Envelope, error) {
	associatedData, err := dataKeyContext(kekID, bound)
	if err != nil {
		return Envelope{}, err
	}
	wrapped, err := s.keks.Wrap(ctx, kekID, dataKey, associatedData)
	if err != nil {
		return Envelope{}, err
	}
	return envelopeParts{kekID: kekID, wrapped: wrapped, payload: payload}.encode()
}

// unwrap parses an envelope and returns its parts and its data key, which the caller zeroes.
func (s *envelopeSealer) unwrap(ctx context.Context, bound, envelope []byte) (envelopeParts, []byte, error) {
	parts, err := parseEnvelope(envelope)
	if err != nil {
		return envelopeParts{}, nil, err
	}
	associatedData, err := dataKeyContext(parts.kekID, bound)
	if err != nil {
		return envelopeParts{}, nil, err
	}
	dataKey, err := s.keks.Unwrap(ctx, parts.kekID, parts.wrapped, associatedData)
	if err != nil {
		return envelopeParts{}, nil, err
	}
	if n := len(dataKey); n != dataKeyLen {
		clear(dataKey)
		return envelopeParts{}, nil, fmt.Errorf("%w: data key has %d bytes, want %d", ErrMalformed, n, dataKeyLen)
	}
	return parts, dataKey, nil
}

// begin is the common first step of the methods: it returns ctx's error if ctx is done, and encodes the binding.
func begin(ctx context.Context, binding Binding) (bound []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return binding.AssociatedData()
}

// dataKeyContext returns the associated data of a wrapped data key. It includes the KEK id, so that the header of an envelope
// is authenticated too, and fails if the id is too long.
func dataKeyContext(kekID string, bound []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddBytes([]byte(dataKeyLabel))
	addShortString(&b, kekID)
	b.AddBytes(bound)
	return b.Bytes()
}

// secretContext returns the associated data of an encrypted secret.
func secretContext(bound []byte) []byte { return append([]byte(secretLabel), bound...) }
