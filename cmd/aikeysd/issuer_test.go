package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth/authtest"
)

const issuerWarning = "the OIDC issuer can't be read"

// withIssuer returns the variables with an issuer in them.
func withIssuer(environ []string, url string) []string {
	return with(environ, "AIKEYS_OIDC_ISSUER="+url, "AIKEYS_OIDC_AUDIENCE="+authtest.Audience)
}

func TestOIDCIssuer(t *testing.T) {
	issuer := authtest.NewIssuer(t)
	environ := withIssuer(newEnviron(t), issuer.URL)
	newOwner(t, environ)
	s := startReady(t, environ)
	token := issuer.Sign(map[string]any{"customer_id": "acme", "project_id": "chat", "sub": "alice"})
	require.Equal(t, http.StatusOK, call(t, newClient(), http.MethodGet, s.api+"/v1/whoami", token, "").status)
	require.Regexp(t, `issuer +ok +`+issuer.URL+` answers\n`, mustAikeysd(t, environ, "check"))
	require.Equal(t, exitOK, s.wait())
	require.NotContains(t, s.stderr.String(), issuerWarning)
}

func TestOIDCIssuerDown(t *testing.T) {
	issuer := authtest.NewIssuer(t)
	issuer.Break(authtest.Fail)
	environ := withIssuer(newEnviron(t), issuer.URL)
	token := newOwner(t, environ)
	s := startReady(t, environ)
	s.eventually("the warning", func() bool { return strings.Contains(s.stderr.String(), issuerWarning) })
	require.Contains(t, s.stderr.String(), `"level":"WARN"`)
	require.Contains(t, s.stderr.String(), `"issuer":"`+issuer.URL+`"`)
	require.Equal(t, http.StatusOK, call(t, newClient(), http.MethodGet, s.api+"/v1/whoami", token, "").status)
	require.Equal(t, exitOK, s.wait())
}
