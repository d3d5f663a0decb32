package auth_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

func BenchmarkAuthenticateCached(b *testing.B) {
	b.Run("api_key", func(b *testing.B) {
		store := newTokens()
		text, _ := store.Mint(b)
		benchmark(b, auth.New(auth.Config{Tokens: store}), text)
	})
	b.Run("jwt", func(b *testing.B) {
		issuer := authtest.NewIssuer(b)
		benchmark(b, oidcSessions(b, issuer, newClock()), issuer.Sign(ann(nil)))
	})
}

func benchmark(b *testing.B, a *auth.Authenticator, token string) {
	b.Helper()
	header := bearer(token)
	_, err := a.Authenticate(b.Context(), header)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), header); err != nil {
			b.Fatal(err)
		}
	}
}
