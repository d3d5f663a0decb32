package gateway

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
)

func TestUpstreamsServeNoAdministrationEither(t *testing.T) {
	for _, test := range []struct{ own, pattern, base, path, want string }{
		{"https://api.example/v1", "/organization", "https://api.example/v1", "/v1/organization/users", operationAdministration},
		{"https://api.example/v1", "/organization", "https://api.example", "/v1/organization/users", operationAdministration},
		{"https://api.example/v1", "/organization", "https://proxy.example/deep/down", "/v1/organization", operationAdministration},
		{"https://api.example/v1", "/auth_keys", "https://api.example/v1", "/auth_\u212aey\u017f", operationAdministration},
		{"https://api.example", "/v1/organizations", "https://proxy.example/a/v1", "/organizations", operationAdministration},
		{"https://api.example", "/v1/organizations", "https://proxy.example/a/v1", "/v1/organizations", operationAdministration},
		{"https://api.example/api/v1", "/keys", "https://api.example", "/api/v1/keys", operationAdministration},
		{"https://api.example/api/v1", "/keys", "https://proxy.example/x", "/v1/keys", operationAdministration},
		{"https://api.example/v1", "/projects", "https://proxy.example/projects/v1", "/v1/chat", operationInference},
		{"https://api.example/v1", "/projects", "https://api.example/v1", "/models/projects", operationInference},
		{"https://api.example", "/v1/organizations", "https://api.example", "", operationInference},
	} {
		base, err := url.Parse(test.base)
		require.NoError(t, err)
		key := &dataplane.Key{BaseURL: test.own, Administration: []string{test.pattern}}
		class, err := operations{}.check(key, base, joinURL(base, safePath(test.path)))
		require.Equal(t, test.want, class, "%s of %s at %s", test.path, test.own, test.base)
		require.Equal(t, class == operationAdministration, err != nil)
	}
}
