package sealer

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

const (
	// bindingFormat is the first byte of the encoding of a Binding.
	bindingFormat = 1
	// maxPartLen is the longest part in bytes, since its length is encoded in one byte.
	maxPartLen = 255
)

// Binding identifies a secret: an envelope opens only under the binding that it was sealed with. It is authenticated, not
// encrypted, and is not part of the envelope: the caller knows it from the row.
type Binding struct {
	// CustomerID, ProjectID and KeyID say whose key it is and which one; 1 to 255 bytes each.
	CustomerID string
	ProjectID  string
	KeyID      string
	// Provider is the slug of the one provider that the key may be sent to; 1 to 255 bytes.
	Provider string
	// Version counts the secrets that the key has had, from 1. 0 is refused, since it is most likely a forgotten version.
	Version uint32
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

// addShortString adds s after its length in one byte; the builder fails if s is too long.
func addShortString(b *cryptobyte.Builder, s string) {
	b.AddUint8LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes([]byte(s)) })
}
