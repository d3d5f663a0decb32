package fingerprint_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/fingerprint"
)

func TestFingerprintsCanNotBeJoinedAcrossCustomers(t *testing.T) {
	of := func(random, customer, secret string) string {
		key, err := fingerprint.NewKey([]byte(random))
		require.NoError(t, err)
		require.Equal(t, "[redacted] [redacted]", fmt.Sprintf("%v %#v", key, key))
		found, err := key.Of(customer, secret)
		require.NoError(t, err)
		require.Len(t, found[0], 32)
		return string(found[0])
	}
	one := of("r", "acme", "sk-1")
	require.Equal(t, one, of("r", "acme", "sk-1"))
	for _, other := range []string{of("r", "globex", "sk-1"), of("s", "acme", "sk-1"), of("r", "acme", "sk-2")} {
		require.NotEqual(t, one, other)
	}
}

func TestAPrivateKeyIsTheSameHoweverItsLinesAreBroken(t *testing.T) {
	key, err := fingerprint.NewKey([]byte("r"))
	require.NoError(t, err)
	found, err := key.Of("acme", "-----BEGIN KEY-----\nab\ncd\n-----END KEY-----\n", `-----BEGIN KEY-----\nab\ncd\n-----END KEY-----\n`,
		"  -----BEGIN KEY-----\r\nabcd\r\n-----END KEY-----")
	require.NoError(t, err)
	require.Equal(t, found[0], found[1])
	require.Equal(t, found[0], found[2])
}
