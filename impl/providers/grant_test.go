package providers

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAzureEndpointDecidesTheHostAndTheCloud(t *testing.T) {
	azure := lookup(t, load(t), "azure_openai")
	const public, government = "https://login.microsoftonline.com/t/oauth2/v2.0/token", "https://login.microsoftonline.us/t/oauth2/v2.0/token"
	for endpoint, authority := range map[string]string{
		"https://r.openai.azure.com": public, "https://r.openai.azure.com/": public, "https://R.Services.AI.azure.com/": public,
		"https://r-1.cognitiveservices.azure.com/": public, "https://r.openai.azure.us/": government, "https://r.services.ai.azure.us": government,
		"https://r.cognitiveservices.azure.us": government,
	} {
		host, _, ok := azure.endpointHost(endpoint)
		require.True(t, ok, endpoint)
		for _, cloudless := range []string{`"api_key": "EXAMPLEEXAMPLEEXAMPLE"`, `"tenant_id": "t", "client_id": "c", "client_secret": "s&scope=evil"`} {
			document := fmt.Sprintf(`{"endpoint": %q, %s}`, endpoint, cloudless)
			require.Empty(t, refusal(t, load(t), azure, document))
			got, err := azure.Credential(document, time.Now())
			require.NoError(t, err)
			require.Equal(t, "https://"+host, got.BaseURL)
			if got.Grant == nil {
				require.Equal(t, Credential{BaseURL: "https://" + host, Secret: "EXAMPLEEXAMPLEEXAMPLE", Style: AuthAPIKey}, got)
				continue
			}
			require.Empty(t, got.Secret)
			require.Equal(t, authority, got.Grant.URL)
			form, err := url.ParseQuery(got.Grant.Form.Reveal())
			require.NoError(t, err)
			scope := map[string]string{public: "https://cognitiveservices.azure.com/.default", government: "https://cognitiveservices.azure.us/.default"}
			require.Equal(t, url.Values{
				"grant_type": {"client_credentials"}, "client_id": {"c"}, "client_secret": {"s&scope=evil"}, "scope": {scope[authority]},
			}, form)
			require.NotContains(t, fmt.Sprintf("%v %+v %#v", got.Grant, *got.Grant, got), "evil")
		}
	}
}
