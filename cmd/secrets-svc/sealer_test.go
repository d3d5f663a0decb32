package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/cmd/internal/cli"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
	"github.com/agentrouter/aikeys/sealer/vault/vaulttest"
)

// The keys move from the keyset file to OpenBao, behind clients that notice nothing but the new ids.
func TestKeysInOpenBao(t *testing.T) {
	bao := vaulttest.Start(t)
	i := install(t)
	i.create()
	s := i.launch()
	client := i.client()
	old := sealertest.MustSeal(t, client)
	s.stop()

	for _, name := range []string{"aikeys-main", "aikeys-other"} {
		bao.Call(t, http.MethodPost, "transit/keys/"+name, nil)
	}
	url := bao.URLWithToken(t, "aikeys-{namespace}", vaulttest.Policy(t, "aikeys-main"))
	s = i.launch("--sealer", url, "--sealer-old", "local")
	sealertest.RequireOpens(t, client, old.Bytes)
	moved, err := client.Rewrap(t.Context(), sealertest.Binding(), old.Bytes)
	require.NoError(t, err)
	require.Equal(t, "vault:transit/aikeys-main:v1", moved.KEKID)
	sealertest.RequireOpens(t, client, moved.Bytes)
	s.stop()

	got := i.run([]string{"SECRETS_SVC_SEALER=" + url}, "check")
	require.Equal(t, cli.ExitOK, got.code, got.stdout)
	require.Contains(t, got.stdout, "primary vault:transit/aikeys-main:v1; 0 enabled, 0 retired")
	s = i.launch("--sealer", url)
	sealertest.RequireOpens(t, client, moved.Bytes)
	_, err = client.Open(t.Context(), sealertest.Binding(), old.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnknownKEK)
	keks, err := client.KEKs(t.Context())
	require.NoError(t, err)
	require.Equal(t, []sealer.KEK{{ID: moved.KEKID, State: sealer.KEKPrimary}}, keks)

	bao.Seal(t)
	_, err = client.Open(t.Context(), sealertest.Binding(), moved.Bytes)
	require.ErrorIs(t, err, sealer.ErrUnavailable)
	_, body := s.get("/metrics")
	require.Contains(t, body, `secrets_svc_keyset_readable{namespace="main"} 0`)
	bao.Unseal(t)
	require.Eventually(t, func() bool {
		_, err := client.Open(t.Context(), sealertest.Binding(), moved.Bytes)
		return err == nil
	}, patience, often)

	// Each namespace has a key of its own, and the token's policy names one.
	i.clients(strings.ReplaceAll(i.read("clients.yaml"), "main", "other"))
	require.Eventually(t, func() bool {
		_, err := client.Open(t.Context(), sealertest.Binding(), moved.Bytes)
		return err != nil
	}, patience, often)
	got = i.run([]string{"SECRETS_SVC_SEALER=" + url}, "check")
	require.Equal(t, cli.ExitFailure, got.code)
	require.Contains(t, got.stdout, "its policy have read on transit/keys/aikeys-other")
}
