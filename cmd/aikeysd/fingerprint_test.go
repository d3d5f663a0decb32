package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFingerprintsAreMadeOfOlderKeys(t *testing.T) {
	t.Parallel()
	i := install(t, newEnviron(t), 2)
	found := func() int {
		got := call(t, http.MethodPost, i.api+"/v1/customers/-/projects/-/leaks", i.owner, `{"values":["OPENAI_API_KEY=`+fakeSecret+`"],"revoke":false}`)
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.NotContains(t, got.body, fakeSecret)
		return strings.Count(got.body, `"key_id"`)
	}
	require.Equal(t, 2, found())
	query(t, databaseOf(i.environ), `DELETE FROM key_fingerprints`)
	require.Zero(t, found())
	require.Equal(t, "made the fingerprints of 2 versions of keys\n", mustAikeysd(t, i.environ, "keys", "fingerprint"))
	require.Equal(t, 2, found())
	require.Equal(t, "made the fingerprints of 0 versions of keys\n", mustAikeysd(t, i.environ, "keys", "fingerprint"))
	require.Contains(t, mustAikeysd(t, i.environ, "admin", "events", "--type", "fingerprints.made"), "aikeysd keys fingerprint")

	query(t, databaseOf(i.environ), `DELETE FROM key_fingerprints`)
	query(t, databaseOf(i.environ), corruptFirstKey)
	got := aikeysd(t, i.environ, "keys", "fingerprint")
	require.Equal(t, exitUnreadable, got.code, got.stderr)
	require.Equal(t, 1, found())
	require.Equal(t, exitOK, i.wait())
}
