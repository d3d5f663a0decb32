package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzQuery: whoever takes the parameters out, the proxy or an Envoy that is told their names, leaves none that bears the
// caller's credential, and none that Gemini would read as a key; and the proxy leaves everything else.
func FuzzQuery(f *testing.F) {
	const credential = "ak_EXAMPLE"
	for _, query := range []string{
		"key=" + credential, "%6bey=" + credential, "alt=sse&k%65y=" + credential + "&key", "a=b&&key=%61k_EXAMPLE", "key=a&key=b",
		"%6b%65%79=%61%6b", "%4bey=x", "k+ey=x", "a=x" + credential, credential + "=a", "key;x=1", "%zzkey=1", "=", "&", "a=b=c",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		for _, provider := range []string{QueryKeyProvider, "openai"} {
			_, _ = CallerOf(http.Header{}, query, provider) // does not panic
			names := credentialParameters(query, provider, credential)
			var byName []string
			eachParameter(query, func(pair string) {
				if name, _, _ := strings.Cut(pair, "="); !slices.Contains(names, name) {
					byName = append(byName, pair)
				}
			})
			proxied := withoutCredential(query, provider, credential)
			for _, left := range []string{proxied, strings.Join(byName, "&")} {
				require.NotContains(t, left, credential)
				values, _ := url.ParseQuery(left) // as lenient servers do
				require.False(t, provider == QueryKeyProvider && values.Has(QueryKey), left)
			}
			if names == nil {
				kept := strings.FieldsFunc(proxied, func(r rune) bool { return r == '&' })
				require.ElementsMatch(t, byName, kept)
			}
		}
	})
}

func TestNoOtherCredentialGoesInTheQuery(t *testing.T) {
	for provider, queries := range map[string][]string{
		"gemini":       {"key=other", "%6bey=x", "access_token=x", "oauth_token", "$access_token=x", "%24httpHeaders=Authorization:Bearer+x", "$httpMethod=DELETE"},
		"vertex":       {"key=other", "access_token=x"},
		"azure_openai": {"api-key=other", "api%2Dkey=x", "API-Key=x", "Subscription-Key=x"},
		"bedrock":      {"X-Amz-Credential=AKIDEXAMPLE%2F20261129", "X-Amz-Signature=x", "x-amz-security-token=x"},
	} {
		for _, query := range queries {
			require.Equal(t, "alt=sse&a=b", withoutCredential("alt=sse&"+query+"&a=b", provider, "ak_EXAMPLE"), provider)
		}
	}
	require.Equal(t, "key=a&access_token=b", withoutCredential("key=a&access_token=b", "openai", "ak_EXAMPLE"), "names that mean nothing there")
}

// Claude's programs add a token of their own, and SDKs a key that is left in the environment.
func TestOurKeyCountsBesideForeignOnes(t *testing.T) {
	const ours, second = "ak_01M8H8236WYX8787KJMGSKFAWB_x_y", "ak_01M8H8236WYX8787KJMGSKFAWC_x_y"
	for _, header := range []http.Header{
		{"Authorization": {"Bearer sk-ant-oat01-EXAMPLE"}, "X-Api-Key": {ours}},
		{"Authorization": {"Bearer " + ours}, "X-Api-Key": {"sk-ant-EXAMPLE"}, "Api-Key": {"EXAMPLE"}},
	} {
		caller, err := CallerOf(header, "", "anthropic")
		require.NoError(t, err)
		require.Equal(t, ours, caller.Credential)
		stripRequest(header, ours)
		require.Empty(t, header)
	}
	caller, err := CallerOf(http.Header{"X-Goog-Api-Key": {ours}}, "key=AIza-EXAMPLE", QueryKeyProvider)
	require.NoError(t, err)
	require.Equal(t, ours, caller.Credential)
	for _, header := range []http.Header{
		{"Authorization": {"Bearer " + ours}, "X-Api-Key": {second}},
		{"Authorization": {"Bearer session"}, "X-Api-Key": {"sk-ant-EXAMPLE"}},
	} {
		_, err := CallerOf(header, "", "anthropic")
		require.ErrorIs(t, err, errTwoCredentials)
	}
}
