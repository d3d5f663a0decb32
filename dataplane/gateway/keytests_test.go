package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

func TestTestsGoWhereRequestsGo(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Host + r.URL.RequestURI()
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
	}))
	t.Cleanup(server.Close)
	host := server.Listener.Addr().String()
	upstream, err := url.Parse(server.URL + "/proxy/v1")
	require.NoError(t, err)
	g, err := gateway.New(gateway.Config{Resolver: dataplanetest.Refusing(nil), Upstreams: map[string]*url.URL{"openai": upstream}})
	require.NoError(t, err)
	t.Cleanup(g.Close)
	for _, tc := range []struct{ provider, base, url, want string }{
		{"openai", "https://api.openai.com/v1", "https://api.openai.com/v1/models?limit=1", host + "/proxy/v1/models?limit=1"},
		{"groq", "https://api.groq.com/openai/v1", "http://api.groq.com/openai/v1/models", ""},
		{"x-vllm", "https://llm.example/v1", "https://evil.example/v1/models", ""},
		{"x-vllm", server.URL + "/v1", server.URL + "/v1/models", ""}, // an address of this machine, which the operator does not allow
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tc.url, http.NoBody)
		require.NoError(t, err)
		response, err := g.SendTest(tc.provider, tc.base, request)
		if tc.want == "" {
			require.Error(t, err, tc.url)
			require.Empty(t, asked)
			continue
		}
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusFound, response.StatusCode, "no redirect is followed")
		require.Equal(t, tc.want, <-asked)
	}
}
