package sealer

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSamePayloadLooksAtNothingElse(t *testing.T) {
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
