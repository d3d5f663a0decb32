package sealer

import "bytes"

// SamePayload tells whether two envelopes hold the same ciphertext, as an envelope does that was re-wrapped and the one
// that it was made from. It needs no KEK, and says nothing of the data keys. What is no envelope is the same as nothing.
func SamePayload(a, b []byte) bool {
	first, err := parseEnvelope(a)
	if err != nil {
		return false
	}
	second, err := parseEnvelope(b)
	return err == nil && bytes.Equal(first.payload, second.payload)
}
