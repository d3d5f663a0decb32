package sealer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func exampleParts() envelopeParts {
	return envelopeParts{
		kekID:   "test:1",
		wrapped: bytes.Repeat([]byte{0xaa}, 65),
		payload: bytes.Repeat([]byte{0xbb}, minPayloadLen),
	}
}

func exampleEnvelope(t testing.TB) []byte {
	envelope, err := exampleParts().encode()
	require.NoError(t, err)
	return envelope.Bytes
}

func TestEnvelopeRoundTrip(t *testing.T) {
	longest := envelopeParts{
		kekID:   strings.Repeat("k", 255),
		wrapped: make([]byte, 65535),
		payload: make([]byte, maxPayloadLen),
	}
	for name, parts := range map[string]envelopeParts{"example": exampleParts(), "longest": longest} {
		t.Run(name, func(t *testing.T) {
			envelope, err := parts.encode()
			require.NoError(t, err)
			require.Equal(t, parts.kekID, envelope.KEKID)
			parsed, err := parseEnvelope(envelope.Bytes)
			require.NoError(t, err)
			require.Equal(t, parts, parsed)
		})
	}
}

func TestKEKIDOf(t *testing.T) {
	t.Run("names the KEK", func(t *testing.T) {
		kekID, err := KEKIDOf(exampleEnvelope(t))
		require.NoError(t, err)
		require.Equal(t, "test:1", kekID)
	})

	edit := func(offset int, value byte) []byte {
		b := exampleEnvelope(t)
		b[offset] = value
		return b
	}
	whole := exampleEnvelope(t)
	for name, malformed := range map[string][]byte{
		"nil":                    nil,
		"empty":                  {},
		"format 0":               edit(0, 0),
		"a later format":         edit(0, 2),
		"text":                   []byte("sk-ant-0123456789"),
		"no KEK id":              edit(1, 0),
		"KEK id beyond the end":  edit(1, 255),
		"KEK id with a newline":  edit(2, '\n'),
		"KEK id with a blank":    edit(3, ' '),
		"KEK id with a high bit": edit(4, 'e'|0x80),
		"KEK id with DEL":        edit(5, 0x7f),
		"no data key":            append([]byte("\x01\x01k\x00\x00"), make([]byte, minPayloadLen)...),
		"data key beyond end":    edit(8, 0xff),
		"payload of nothing":     whole[:len(whole)-1],
		"payload too long":       append(bytes.Clone(whole), make([]byte, MaxSecretLen)...),
	} {
		t.Run(name, func(t *testing.T) {
			kekID, err := KEKIDOf(malformed)
			require.ErrorIs(t, err, ErrMalformed)
			require.Empty(t, kekID)
		})
	}
}

func TestParseEnvelopeDoesNotCopy(t *testing.T) {
	b := exampleEnvelope(t)
	parts, err := parseEnvelope(b)
	require.NoError(t, err)
	clear(b)
	require.Equal(t, make([]byte, len(parts.wrapped)), parts.wrapped)
	require.Equal(t, make([]byte, len(parts.payload)), parts.payload)
}

// FuzzParseEnvelope holds two invariants: whatever the bytes are, parsing returns parts or ErrMalformed; and parts
// encode to the bytes that they came from, so that no two byte strings are the same envelope.
func FuzzParseEnvelope(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1, 255, 'k'})
	f.Add([]byte{1, 1, 'k', 0xff, 0xff, 0})
	f.Add(exampleEnvelope(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		parts, err := parseEnvelope(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			require.Zero(t, parts)
			return
		}
		encoded, err := parts.encode()
		require.NoError(t, err)
		require.Equal(t, b, encoded.Bytes)
	})
}

func TestSamePayload(t *testing.T) {
	encode := func(change func(*envelopeParts)) []byte {
		parts := exampleParts()
		change(&parts)
		envelope, err := parts.encode()
		require.NoError(t, err)
		return envelope.Bytes
	}
	example := exampleEnvelope(t)
	require.True(t, SamePayload(example, encode(func(p *envelopeParts) { p.kekID, p.wrapped = "test:23", []byte{1} })))
	require.False(t, SamePayload(example, encode(func(p *envelopeParts) { p.payload = append(p.payload, 0) })))
	require.False(t, SamePayload(example, example[1:]))
	require.False(t, SamePayload(nil, example))
	require.False(t, SamePayload(nil, nil))
}
