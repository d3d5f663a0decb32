package sealer

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const redacted = "[redacted]"

var errNotEncodable = errors.New("a secret has no binary encoding; seal it")

// Secret is a plaintext in memory. It formats, logs and marshals as "[redacted]"; only Reveal returns its bytes. Copies of a
// Secret share the bytes, so wiping one wipes all. The zero Secret is empty.
//
// A Secret may be read by several goroutines at once, but not while it is wiped.
type Secret struct {
	// plaintext is a closure because fmt does not call the methods of an unexported field, and the dumpers of debuggers and
	// test failures call no methods at all: they follow slices and pointers, but can't look into a func.
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

// Wipe zeroes the plaintext and leaves the Secret empty; wiping again does nothing. It shortens the time for which a secret
// stays in memory and promises no more: the runtime and the libraries that handled it may have made copies.
func (s Secret) Wipe() {
	if s.plaintext == nil {
		return
	}
	plaintext := s.plaintext()
	clear(*plaintext)
	*plaintext = nil
}

// Format makes every verb of package fmt print "[redacted]", including %x and %d.
func (Secret) Format(f fmt.State, _ rune) {
	// A fmt.State can't report a failed write; fmt's own printers ignore it too.
	_, _ = io.WriteString(f, redacted)
}

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// LogValue makes package slog log "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "[redacted]"; the encoders of JSON, XML and YAML use it. A Secret can't be unmarshaled.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalBinary always fails, so that encoding/gob and similar encoders refuse a Secret instead of storing "[redacted]".
func (Secret) MarshalBinary() ([]byte, error) { return nil, errNotEncodable }
