package sealer

import (
	"errors"

	"github.com/agentrouter/aikeys/internal/secret"
)

var errNotEncodable = errors.New("a secret has no binary encoding; seal it")

// Secret is a plaintext in memory. It formats, logs and marshals as "[redacted]"; only Reveal returns its bytes. Copies of a
// Secret share the bytes, so wiping one wipes all. The zero Secret is empty.
//
// A Secret may be read by several goroutines at once, but not while it is wiped.
type Secret struct {
	secret.Redacted

	// plaintext is a func so that nothing prints the secret. fmt does not call the methods of an unexported field, and
	// debuggers and test failures dump values without calling methods. They follow slices and pointers, but can't look
	// into a func.
	plaintext func() *[]byte
}

// NewSecret takes ownership of plaintext: the caller must not use the slice afterwards.
func NewSecret(plaintext []byte) Secret {
	return Secret{plaintext: func() *[]byte { return &plaintext }}
}

// Reveal returns the plaintext itself, not a copy, so Wipe zeroes it. It returns nil for an empty or wiped Secret.
func (s Secret) Reveal() []byte {
	if s.plaintext == nil {
		return nil
	}
	return *s.plaintext()
}

// Len returns the length of the plaintext in bytes; 0 once it is wiped.
func (s Secret) Len() int { return len(s.Reveal()) }

// Wipe zeroes the plaintext and leaves the Secret empty; wiping again does nothing. Wipe only shortens the time for
// which a secret stays in memory: the runtime and libraries that handled the secret may have made copies.
func (s Secret) Wipe() {
	if s.plaintext == nil {
		return
	}
	plaintext := s.plaintext()
	clear(*plaintext)
	*plaintext = nil
}

// MarshalText returns "[redacted]"; the encoders of JSON, XML and YAML use it. A Secret can't be unmarshaled.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalBinary always fails, so that encoding/gob and similar encoders refuse a Secret instead of storing "[redacted]".
func (Secret) MarshalBinary() ([]byte, error) { return nil, errNotEncodable }
