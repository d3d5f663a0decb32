package auth_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/auth"
)

func TestNewOIDC(t *testing.T) {
	for name, cfg := range map[string]auth.OIDCConfig{
		"no issuer":             {Audience: "a"},
		"no audience":           {Issuer: "https://issuer.example"},
		"http":                  {Issuer: "http://issuer.example", Audience: "a"},
		"http on a look-alike":  {Issuer: "http://localhost.example", Audience: "a"},
		"another scheme":        {Issuer: "file:///etc/issuer", Audience: "a"},
		"no host":               {Issuer: "https://", Audience: "a"},
		"no URL":                {Issuer: "https://issuer example", Audience: "a"},
		"a password":            {Issuer: "https://u:p@issuer.example", Audience: "a"},
		"a query":               {Issuer: "https://issuer.example/?tenant=1", Audience: "a"},
		"a fragment":            {Issuer: "https://issuer.example/#x", Audience: "a"},
		"host without a scheme": {Issuer: "issuer.example", Audience: "a"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := auth.NewOIDC(cfg)
			require.Error(t, err)
		})
	}
	for _, issuer := range []string{
		"https://issuer.example", "https://issuer.example/realms/acme/", "http://localhost:5556/dex",
		"http://127.0.0.1:8080", "http://[::1]:8080",
	} {
		t.Run("accepted: "+issuer, func(t *testing.T) {
			_, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer, Audience: "a"})
			require.NoError(t, err)
		})
	}
}

func TestParseClaimNames(t *testing.T) {
	for text, want := range map[string]auth.ClaimNames{
		"":                                      {Customer: "customer_id", User: "sub", Project: "project_id"},
		"  ":                                    {Customer: "customer_id", User: "sub", Project: "project_id"},
		"user=login":                            {Customer: "customer_id", User: "login", Project: "project_id"},
		"user=a=b":                              {Customer: "customer_id", User: "a=b", Project: "project_id"},
		"customer=org_id,user=sub,project=proj": {Customer: "org_id", User: "sub", Project: "proj"},
		"project=https://x.example/p, customer=org": {Customer: "org", User: "sub", Project: "https://x.example/p"},
	} {
		got, err := auth.ParseClaimNames(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"role=admin", "user", "user=", "=x", "user=a,user=b", "user=a,", ",", "User=a", "user =a"} {
		_, err := auth.ParseClaimNames(text)
		require.Error(t, err, text)
	}
}
