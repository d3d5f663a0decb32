package providers_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/providers"
)

func TestSecretPartsAreAllThatIsSecret(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	aws := `{"region":"us-east-1","access_key_id":"id","secret_access_key":"key","session_token":"token","note":"x"}`
	for slug, tc := range map[string][]string{
		"openai": {"sk-1", "sk-1"}, "bedrock": {aws, aws, "id", "key", "token"},
		"vertex": {`{"type":"service_account","client_email":"e","private_key":"pem","token_uri":"u"}`, `{"type":"service_account","client_email":"e","private_key":"pem","token_uri":"u"}`, "pem"},
	} {
		p, _ := catalogue.Lookup(slug)
		require.Equal(t, tc[1:], p.SecretParts(tc[0]))
	}
	require.Empty(t, providers.Provider{AuthStyle: providers.AuthNone}.SecretParts(providers.NoSecret))
}

// A secret is a candidate in every form in which it may have leaked.
func TestCandidatesHaveTheSecret(t *testing.T) {
	for _, secret := range []string{"sk-proj-0123456789abcdef", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "QmFzZTY0S2V5VGhhdEVuZHM=", "short"} {
		for _, found := range []string{
			"%", " %\n", "\ufeff%", `"%"`, "'%',", "OPENAI_API_KEY=%", "export OPENAI_API_KEY='%'", `key: "%"`, "KEY = %;", `{"a": "b", "key": "%"}`,
		} {
			require.Contains(t, providers.Candidates(strings.ReplaceAll(found, "%", secret)), secret, "%s", found)
		}
	}
	for _, found := range []string{"Bearer sk-proj-0123456789abcdef", "Authorization: Bearer sk-proj-0123456789abcdef", "-H 'x-api-key: sk-proj-0123456789abcdef' https://example.com"} {
		require.Contains(t, providers.Candidates(found), "sk-proj-0123456789abcdef")
	}
	require.LessOrEqual(t, len(providers.Candidates(strings.Repeat("0123456789abcdef0 ", 900))), 24)
}
