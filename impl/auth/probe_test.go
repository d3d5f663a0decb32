package auth_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

func TestProbeTellsWhetherSessionTokensCanBeVerified(t *testing.T) {
	for name, tc := range map[string]struct {
		mode authtest.Mode
		want error
	}{
		"an issuer that answers":             {authtest.Healthy, nil},
		"an issuer that refuses":             {authtest.Refuse, auth.ErrIssuerUnavailable},
		"an issuer without keys":             {authtest.Empty, auth.ErrIssuerUnavailable},
		"an issuer that is another's double": {authtest.Impostor, auth.ErrIssuerUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			issuer := authtest.NewIssuer(t)
			issuer.Break(tc.mode)
			oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience})
			require.NoError(t, err)
			require.ErrorIs(t, oidc.Probe(t.Context()), tc.want)
			require.Positive(t, issuer.Fetches(), "it asked")
		})
	}
}
