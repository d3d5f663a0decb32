package session_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/session"
	"github.com/agentrouter/aikeys/impl/session/sessiontest"
)

func TestProbeTellsWhetherSessionTokensCanBeVerified(t *testing.T) {
	for name, tc := range map[string]struct {
		mode sessiontest.Mode
		want error
	}{
		"an issuer that answers":             {sessiontest.Healthy, nil},
		"an issuer that refuses":             {sessiontest.Refuse, session.ErrIssuerUnavailable},
		"an issuer without keys":             {sessiontest.Empty, session.ErrIssuerUnavailable},
		"an issuer that is another's double": {sessiontest.Impostor, session.ErrIssuerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := sessiontest.NewIssuer(t)
			issuer.Break(tc.mode)
			oidc, err := session.NewOIDC(session.OIDCConfig{Issuer: issuer.URL, Audience: sessiontest.Audience})
			require.NoError(t, err)
			require.ErrorIs(t, oidc.Probe(t.Context()), tc.want)
			require.Positive(t, issuer.Fetches(), "it asked")
		})
	}
}
