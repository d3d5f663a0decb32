package sealer

import (
	"bytes"
	"fmt"
	"math"

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

// KEKIDOf returns the id of the key-encryption key that an envelope names, or ErrMalformed. It needs no KEK, and it does not
// authenticate the bytes. It serves to find the envelopes that have to be re-wrapped.
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

// parseEnvelope splits an envelope without authenticating it. Given parts have exactly one encoding.
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

// encode is the inverse of parseEnvelope. It fails on parts that parseEnvelope would refuse, which means that a KEKs returned
// an invalid id or wrapped key.
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

// SamePayload reports whether two envelopes hold the same ciphertext, as an envelope and its re-wrapped copy do. It needs no
// KEK and does not compare the data keys. It returns false if either is malformed.
func SamePayload(a, b []byte) bool {
	first, err := parseEnvelope(a)
	if err != nil {
		return false
	}
	second, err := parseEnvelope(b)
	return err == nil && bytes.Equal(first.payload, second.payload)
}
