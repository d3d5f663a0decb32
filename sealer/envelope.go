package sealer

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"golang.org/x/crypto/cryptobyte"
)

// The wire format of an envelope:
//
//	1 byte   format, 1
//	1 byte   length of the KEK id, 1 to 255
//	…        KEK id: printable ASCII without blanks
//	2 bytes  length of the wrapped data key, big endian, 1 to 65535
//	…        data key (32 bytes) wrapped by the KEK, in the form of its backend
//	…        payload: 12-byte nonce, the secret encrypted with AES-256-GCM under the data key, 16-byte tag
//
// Associated data, where binding is the encoding of the Binding and the labels are ASCII:
//
//	data key  "aikeys/v1/data-key:" · 1 byte length of the KEK id · KEK id · binding
//	payload   "aikeys/v1/secret:" · binding
//
// The labels keep the two uses apart, so that a ciphertext made for one can't be passed off as the other.
const (
	envelopeFormat = 1

	dataKeyLabel = "aikeys/v1/data-key:"
	secretLabel  = "aikeys/v1/secret:"

	dataKeyLen = 32 // bytes, for AES-256
	nonceLen   = 12 // bytes; RFC 5116, section 5.1
	tagLen     = 16 // bytes; RFC 5116, section 5.1

	minPayloadLen = nonceLen + 1 + tagLen
	maxPayloadLen = nonceLen + MaxSecretLen + tagLen
)

// KEKIDOf returns the id of the key-encryption key that an envelope names, or ErrMalformed. It needs no KEK, and does
// not authenticate the bytes. Callers use it to find the envelopes that have to be re-wrapped.
func KEKIDOf(envelope []byte) (string, error) {
	parts, err := parseEnvelope(envelope)
	return parts.kekID, err
}

// envelopeParts are the fields of an envelope; the slices share the memory of the bytes that were parsed.
type envelopeParts struct {
	kekID   string
	wrapped []byte // the data key, wrapped
	payload []byte // the secret, encrypted
}

// parseEnvelope splits an envelope without authenticating it. Each set of parts has exactly one encoding.
func parseEnvelope(envelope []byte) (envelopeParts, error) {
	var (
		rest           = cryptobyte.String(envelope)
		format         uint8
		kekID, wrapped cryptobyte.String
	)
	if !rest.ReadUint8(&format) {
		return envelopeParts{}, fmt.Errorf("%w: no bytes", ErrMalformed)
	}
	if format != envelopeFormat {
		return envelopeParts{}, fmt.Errorf("%w: format %d, want %d", ErrMalformed, format, envelopeFormat)
	}
	if !rest.ReadUint8LengthPrefixed(&kekID) || !rest.ReadUint16LengthPrefixed(&wrapped) {
		return envelopeParts{}, fmt.Errorf("%w: cut off", ErrMalformed)
	}
	parts := envelopeParts{kekID: string(kekID), wrapped: wrapped, payload: rest}
	if err := parts.check(); err != nil {
		return envelopeParts{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return parts, nil
}

// encode is the inverse of parseEnvelope. It returns an error for parts that parseEnvelope would refuse. Such an error
// means that a KEKs has returned an invalid id or wrapped key.
func (p envelopeParts) encode() (Envelope, error) {
	if err := p.check(); err != nil {
		return Envelope{}, fmt.Errorf("encode envelope: %w", err)
	}
	var b cryptobyte.Builder
	b.AddUint8(envelopeFormat)
	addShortString(&b, p.kekID)
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(p.wrapped) })
	b.AddBytes(p.payload)
	encoded, err := b.Bytes()
	return Envelope{KEKID: p.kekID, Bytes: encoded}, err
}

// check enforces the limits of the wire format.
func (p envelopeParts) check() error {
	if n := len(p.kekID); n == 0 || n > maxPartLen {
		return fmt.Errorf("KEK id has %d bytes, want 1 to %d", n, maxPartLen)
	}
	for i := range len(p.kekID) {
		if p.kekID[i] <= ' ' || p.kekID[i] > '~' {
			return fmt.Errorf("KEK id has a byte that is not printable ASCII at %d", i)
		}
	}
	if n := len(p.wrapped); n == 0 || n > math.MaxUint16 {
		return fmt.Errorf("wrapped data key has %d bytes, want 1 to %d", n, math.MaxUint16)
	}
	if n := len(p.payload); n < minPayloadLen || n > maxPayloadLen {
		return fmt.Errorf("payload has %d bytes, want %d to %d", n, minPayloadLen, maxPayloadLen)
	}
	return nil
}

// SamePayload reports whether two envelopes hold the same ciphertext, as an envelope and its re-wrapped form do. It
// needs no KEK and does not compare the data keys. It returns false if either is malformed.
func SamePayload(a, b []byte) bool {
	first, err := parseEnvelope(a)
	if err != nil {
		return false
	}
	second, err := parseEnvelope(b)
	return err == nil && bytes.Equal(first.payload, second.payload)
}

// KEKs are the key-encryption keys of a backend, as NewEnvelopeSealer uses them. An id is 1 to 255 bytes of printable ASCII
// without blanks, and is never reused for another key. Implementations must be safe for concurrent use, keep no reference to
// their arguments, and put neither keys nor wrapped keys in error texts.
type KEKs interface {
	// List returns all KEKs, at least the primary one, which is first. The caller does not change the list. Error: ErrUnavailable.
	List(ctx context.Context) ([]KEK, error)

	// Wrap encrypts a data key of 32 bytes and authenticates associatedData, at most 1,304 bytes. It returns 1 to 65535
	// bytes. Errors: ErrUnknownKEK, ErrUnavailable.
	Wrap(ctx context.Context, kekID string, dataKey, associatedData []byte) (wrapped []byte, err error)

	// Unwrap reverses Wrap. It returns the data key, which the caller may zero. Errors: ErrUnknownKEK, ErrUnavailable,
	// and ErrBinding if wrapped and associatedData do not belong together under this KEK.
	Unwrap(ctx context.Context, kekID string, wrapped, associatedData []byte) (dataKey []byte, err error)
}

// UntrustedKEKs are KEKs of a service that may return a wrong data key. If a re-wrap wrapped a wrong data key, nobody
// could read the secret any more. Therefore a re-wrap first checks that the data key decrypts the secret, and wipes the
// plaintext.
type UntrustedKEKs interface {
	KEKs
	// Reject drops a cached data key that does not decrypt its secret.
	Reject(kekID string, wrapped, associatedData []byte)
}

// NewEnvelopeSealer returns a Sealer whose data keys are wrapped by keks. It has no other state, so its envelopes open in every
// process with the same KEKs.
func NewEnvelopeSealer(keks KEKs) Sealer { return &envelopeSealer{keks: keks} }

type envelopeSealer struct{ keks KEKs }

// Seal implements Sealer.
func (s *envelopeSealer) Seal(ctx context.Context, binding Binding, secret Secret) (envelope Envelope, err error) {
	defer wrap(&err, "seal")
	bound, err := begin(ctx, binding)
	if err != nil {
		return Envelope{}, err
	}
	if n := secret.Len(); n == 0 || n > MaxSecretLen {
		return Envelope{}, fmt.Errorf("%w: it has %d bytes, want 1 to %d", ErrInvalidSecret, n, MaxSecretLen)
	}
	// crypto/rand.Read never fails: it ends the program rather than return bytes that are not random.
	dataKey := make([]byte, dataKeyLen)
	rand.Read(dataKey)
	defer clear(dataKey)

	cipher, err := subtle.NewAESGCM(dataKey)
	if err != nil {
		return Envelope{}, err
	}
	payload, err := cipher.Encrypt(secret.Reveal(), secretContext(bound))
	if err != nil {
		return Envelope{}, err
	}
	return s.wrapPrimary(ctx, bound, dataKey, payload)
}

// wrap adds the name of an operation to its error, if there is one.
func wrap(err *error, operation string) {
	if *err != nil {
		*err = fmt.Errorf("%s: %w", operation, *err)
	}
}

// Open implements Sealer.
func (s *envelopeSealer) Open(ctx context.Context, binding Binding, envelope []byte) (secret Secret, err error) {
	defer wrap(&err, "open")
	bound, err := begin(ctx, binding)
	if err != nil {
		return Secret{}, err
	}
	parts, dataKey, err := s.unwrap(ctx, bound, envelope)
	if err != nil {
		return Secret{}, err
	}
	defer clear(dataKey)

	plaintext, err := decryptSecret(s.keks, parts, bound, dataKey)
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(plaintext), nil
}

// decryptSecret returns the secret of an envelope. If the secret does not decrypt, it returns ErrBinding, and
// UntrustedKEKs drop the data key from their cache.
func decryptSecret(keks KEKs, parts envelopeParts, bound, dataKey []byte) ([]byte, error) {
	cipher, err := subtle.NewAESGCM(dataKey)
	if err != nil {
		return nil, err
	}
	plaintext, err := cipher.Decrypt(parts.payload, secretContext(bound))
	if err == nil {
		return plaintext, nil
	}
	reject(keks, parts, bound)
	return nil, ErrBinding
}

func reject(keks KEKs, parts envelopeParts, bound []byte) {
	if untrusted, ok := keks.(UntrustedKEKs); ok {
		if associatedData, err := dataKeyContext(parts.kekID, bound); err == nil {
			untrusted.Reject(parts.kekID, parts.wrapped, associatedData)
		}
	}
}

// checkDataKey returns ErrBinding if a data key of UntrustedKEKs does not decrypt its secret. It trusts other KEKs.
func checkDataKey(keks KEKs, parts envelopeParts, bound, dataKey []byte) error {
	if _, ok := keks.(UntrustedKEKs); !ok {
		return nil
	}
	plaintext, err := decryptSecret(keks, parts, bound, dataKey)
	clear(plaintext)
	return err
}

// Rewrap implements Sealer.
func (s *envelopeSealer) Rewrap(ctx context.Context, binding Binding, envelope []byte) (rewrapped Envelope, err error) {
	defer wrap(&err, "re-wrap")
	bound, err := begin(ctx, binding)
	if err != nil {
		return Envelope{}, err
	}
	parts, dataKey, err := s.unwrap(ctx, bound, envelope)
	if err != nil {
		return Envelope{}, err
	}
	defer clear(dataKey)

	if err := checkDataKey(s.keks, parts, bound, dataKey); err != nil {
		return Envelope{}, err
	}
	primary, err := primaryOf(ctx, s.keks)
	if err != nil {
		return Envelope{}, err
	}
	if parts.kekID == primary {
		return Envelope{KEKID: primary, Bytes: bytes.Clone(envelope)}, nil
	}
	return s.wrapPrimary(ctx, bound, dataKey, parts.payload)
}

// PrimaryKEK implements Sealer.
func (s *envelopeSealer) PrimaryKEK(ctx context.Context) (kekID string, err error) {
	defer wrap(&err, "primary KEK")
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return primaryOf(ctx, s.keks)
}

// KEKs implements Sealer.
func (s *envelopeSealer) KEKs(ctx context.Context) (keks []KEK, err error) {
	defer wrap(&err, "list KEKs")
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	keks, err = s.keks.List(ctx)
	return slices.Clone(keks), err
}

// primaryOf returns the id of the KEK to wrap new data keys with.
func primaryOf(ctx context.Context, keks KEKs) (string, error) {
	list, err := keks.List(ctx)
	if err != nil {
		return "", err
	}
	return list[0].ID, nil
}

// wrapPrimary makes an envelope under the primary KEK. If the KEK was retired between the calls of List and Wrap, it tries once
// more.
func (s *envelopeSealer) wrapPrimary(ctx context.Context, bound, dataKey, payload []byte) (Envelope, error) {
	for again := true; ; again = false {
		primary, err := primaryOf(ctx, s.keks)
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
		reject(s.keks, parts, bound)
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

// dataKeyContext returns the associated data of a wrapped data key. It includes the KEK id, so that the header of an
// envelope is authenticated too. If the id is too long, it returns an error.
func dataKeyContext(kekID string, bound []byte) ([]byte, error) {
	var b cryptobyte.Builder
	b.AddBytes([]byte(dataKeyLabel))
	addShortString(&b, kekID)
	b.AddBytes(bound)
	return b.Bytes()
}

// ParseDataKeyContext returns the KEK id and the binding that the associated data of a wrapped data key encodes, or
// ErrMalformed. Backends use it if their key management service takes names and values instead of associated data in
// bytes.
func ParseDataKeyContext(associatedData []byte) (kekID string, binding Binding, err error) {
	var (
		rest   = cryptobyte.String(associatedData)
		label  []byte
		parts  [5]cryptobyte.String // the KEK id and the texts of a binding
		format uint8
	)
	ok := rest.ReadBytes(&label, len(dataKeyLabel)) && string(label) == dataKeyLabel && rest.ReadUint8LengthPrefixed(&parts[0]) &&
		rest.ReadUint8(&format) && format == bindingFormat
	for i := 1; i < len(parts); i++ {
		ok = ok && rest.ReadUint8LengthPrefixed(&parts[i])
	}
	if ok = ok && rest.ReadUint32(&binding.Version) && rest.Empty(); !ok {
		return "", Binding{}, fmt.Errorf("%w: not the associated data of a data key", ErrMalformed)
	}
	binding.CustomerID, binding.ProjectID = string(parts[1]), string(parts[2])
	binding.KeyID, binding.Provider = string(parts[3]), string(parts[4])
	return string(parts[0]), binding, nil
}

// secretContext returns the associated data of an encrypted secret.
func secretContext(bound []byte) []byte { return append([]byte(secretLabel), bound...) }

const (
	// bindingFormat is the first byte of the encoding of a Binding.
	bindingFormat = 1
	// maxPartLen is the length of the longest part in bytes; the length is encoded in one byte.
	maxPartLen = 255
)

// Binding identifies a secret: an envelope opens only under the binding that it was sealed with. A binding is
// authenticated and not encrypted. It is not part of the envelope: the caller takes it from the row.
type Binding struct {
	// CustomerID, ProjectID and KeyID identify the key and its owner; 1 to 255 bytes each.
	CustomerID string
	ProjectID  string
	KeyID      string
	// Provider is the only provider that the key may be sent to, as ProviderAt returns it; 1 to 255 bytes.
	Provider string
	// Version is the number of this secret among the key's secrets, counted from 1. 0 is refused, because it most
	// likely means that the caller did not set the version.
	Version uint32
}

// CanaryBinding returns the binding of a database's canary, a random value that shows whether a keyset belongs to the
// database. The binding belongs to no tenant, because "-" is not a valid id: in paths, it means the session's default.
func CanaryBinding() Binding {
	return Binding{CustomerID: "-", ProjectID: "-", KeyID: "canary", Provider: "-", Version: 1}
}

// AssociatedData encodes the binding as the associated data of an AEAD. Two different bindings never have the same
// encoding, because each part is preceded by its length:
//
//	1 byte   format, 1
//	4 times  1 byte length n, then n bytes: CustomerID, ProjectID, KeyID, Provider in this order
//	4 bytes  Version, big endian
//
// It returns ErrInvalidBinding for a part that is empty or too long and for version 0. Every stored envelope depends on this
// format, so it never changes; a new format has to begin with another byte.
func (b Binding) AssociatedData() ([]byte, error) {
	parts := []struct{ name, value string }{
		{"customer id", b.CustomerID},
		{"project id", b.ProjectID},
		{"key id", b.KeyID},
		{"provider", b.Provider},
	}
	var encoding cryptobyte.Builder
	encoding.AddUint8(bindingFormat)
	for _, part := range parts {
		if n := len(part.value); n == 0 || n > maxPartLen {
			return nil, fmt.Errorf("%w: %s has %d bytes, want 1 to %d", ErrInvalidBinding, part.name, n, maxPartLen)
		}
		addShortString(&encoding, part.value)
	}
	if b.Version == 0 {
		return nil, fmt.Errorf("%w: version is 0, want 1 or more", ErrInvalidBinding)
	}
	encoding.AddUint32(b.Version)
	return encoding.Bytes()
}

// ProviderAt returns the value for Binding.Provider. If a provider's slug alone does not determine where its keys are
// sent, destination is a digest of the place, so that a key opens only for this place. For other providers, destination
// is empty.
func ProviderAt(slug, destination string) string {
	if destination == "" {
		return slug
	}
	return slug + "#" + destination
}

// addShortString adds s after its length in one byte; the builder fails if s is too long.
func addShortString(b *cryptobyte.Builder, s string) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}
