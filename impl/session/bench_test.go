package session_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/session"
	"github.com/agentrouter/aikeys/impl/session/sessiontest"
)

func BenchmarkAuthenticateCached(b *testing.B) {
	b.Run("api_key", func(b *testing.B) {
		store := newTokens()
		text, _ := store.Mint(b)
		benchmark(b, session.New(session.Config{Tokens: store}), text)
	})
	b.Run("jwt", func(b *testing.B) {
		issuer := sessiontest.NewIssuer(b)
		benchmark(b, oidcSessions(b, issuer, newClock()), issuer.Sign(ann(nil)))
	})
}

func benchmark(b *testing.B, a *session.Authenticator, token string) {
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
