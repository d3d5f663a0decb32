package main

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer/local"
)

func TestKeysInUse(t *testing.T) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		url := e.URL(t)
		environ := with(newLocalEnviron(t), "AIKEYS_DATABASE_URL="+url)
		mustAikeysd(t, environ, "migrate", "up")
		v := newInstallation(t, environ, 2)
		revoked := call(t, newClient(), http.MethodDelete, v.api+"/v1/aikeys/"+v.ids[1], v.token, "")
		require.Equal(t, http.StatusOK, revoked.status, revoked.body)
		require.Equal(t, exitOK, v.wait())

		keks, err := local.List(v.keyset)
		require.NoError(t, err)
		old := keks[0].ID
		got := aikeysd(t, environ, "keys", "in-use", "--kek", old)
		require.Equal(t, exitFailure, got.code)
		require.Equal(t, "3 envelopes need "+old+"\n", got.stdout, "an active key, a revoked one, and the canary")
		require.Contains(t, got.stderr, old+" is in use in "+databaseName(url)+"; before you retire it, run: aikeysd rewrap")

		newKEK := v.rotate()
		require.Equal(t, "0 envelopes need "+newKEK+"\n", mustAikeysd(t, environ, "keys", "in-use", "--kek", newKEK))
		mustAikeysd(t, environ, "rewrap")
		require.Equal(t, "0 envelopes need "+old+"\n", mustAikeysd(t, environ, "keys", "in-use", "--kek", old))
		require.Equal(t, exitFailure, aikeysd(t, environ, "keys", "in-use", "--kek", newKEK).code)
	})
}

func TestKeysInUseFailures(t *testing.T) {
	environ := newLocalEnviron(t)
	got := aikeysd(t, environ, "keys", "in-use")
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "--kek: is required")
	got = aikeysd(t, environ, "keys", "in-use", "--kek", "local:5f0c1a2b")
	require.Equal(t, exitFailure, got.code)
	require.Contains(t, got.stderr, "there is no database at ", "it makes none")
}
