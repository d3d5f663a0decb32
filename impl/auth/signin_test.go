package auth_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

func TestSignInServersAreTheIssuers(t *testing.T) {
	issuer, now := authtest.NewIssuer(t), newClock()
	cfg := auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience, ClientID: "web", Now: now.Now}
	oidc, err := auth.NewOIDC(cfg)
	require.NoError(t, err)

	for _, mode := range []authtest.Mode{authtest.Elsewhere, authtest.Refuse} {
		issuer.Break(mode)
		require.Equal(t, []string{issuer.URL, "https://oauth2.example.com/token"}, oidc.SignInServers(t.Context()), "what is known is kept")
		now.Advance(time.Hour)
	}

	issuer.Break(authtest.Hang)
	cfg.HTTPClient = &http.Client{Timeout: 100 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	oidc, err = auth.NewOIDC(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.Equal(t, []string{issuer.URL}, oidc.SignInServers(ctx), "nobody waits for an issuer that hangs")

	cfg.ClientID = ""
	oidc, err = auth.NewOIDC(cfg)
	require.NoError(t, err)
	require.Empty(t, oidc.SignInServers(t.Context()), "without a client, nobody signs in")
	require.Empty(t, (*auth.OIDC)(nil).SignInServers(t.Context()))
}
