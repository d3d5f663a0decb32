package gateway_test

import (
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway"
)

func TestTheGatewayKnowsTheProvidersOfTheCatalogue(t *testing.T) {
	slugs, err := gateway.Providers()
	require.NoError(t, err)
	require.Equal(t, catalogue(t), slugs)
}

func TestUpstreamsThatCannotWorkAreToldAllAtOnce(t *testing.T) {
	require.NoError(t, gateway.CheckUpstreams(nil))
	require.NoError(t, gateway.CheckUpstreams(map[string]*url.URL{
		"openai": mustURL(t, "https://llm.internal/v1/"), "anthropic": mustURL(t, "http://127.0.0.1:1"), "groq": mustURL(t, "http://[::1]:1/a/b"),
	}))
	for _, bad := range []string{
		"http://llm.internal", "https://u:hunter2@x.example", "https://x.example?hunter2", "https://x.example?", "https://x.example#a",
		"https://x.example/a//b", "https://x.example/../v1", "https://x.example/%2e%2e/v1", "https://x.example:0", "https://x.example:65536",
		"ftp://x.example", "https:x.example", "https://",
	} {
		err := gateway.CheckUpstreams(map[string]*url.URL{"openai": mustURL(t, bad)})
		require.ErrorContains(t, err, "the URL of openai must be https", bad)
		require.NotContains(t, err.Error(), "hunter2")
		_, err = gateway.New(gateway.Config{Resolver: refusing(nil), Upstreams: map[string]*url.URL{"openai": mustURL(t, bad)}})
		require.Error(t, err, bad)
	}
	err := gateway.CheckUpstreams(map[string]*url.URL{
		"OpenAI": mustURL(t, "https://x.example"), "https://u:hunter2@x": mustURL(t, "https://x.example"), "openai": nil,
		"opnai": mustURL(t, "https://x.example"),
	})
	require.Len(t, strings.Split(err.Error(), "\n"), 4)
	require.ErrorContains(t, err, "there is no provider opnai; this release knows openai, anthropic, ")
	require.NotContains(t, err.Error(), "hunter2")
}

// catalogue returns the slugs of spec/providers.yaml.
func catalogue(t testing.TB) (slugs []string) {
	t.Helper()
	text, err := os.ReadFile("../../spec/providers.yaml")
	require.NoError(t, err)
	for _, slug := range regexp.MustCompile(`(?m)^  - slug: (\S+)$`).FindAllSubmatch(text, -1) {
		slugs = append(slugs, string(slug[1]))
	}
	return slugs
}
