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
		to, err := newDestination(key, base)
		require.NoError(t, err)
		class, err := checkOperation(to, to.join(safePath(test.path)))
		require.Equal(t, test.want, class, "%s of %s at %s", test.path, test.own, test.base)
		require.Equal(t, class == operationAdministration, err != nil)
		key.AllOperations = true
		allowed, err := checkOperation(to, to.join(safePath(test.path)))
		require.NoError(t, err, "the project's policy says so")
		require.Equal(t, class, allowed)
	}
}

func TestRoutesServeNoAdministration(t *testing.T) {
	key := &dataplane.Key{
		BaseURL: "https://api.example/v1beta", Administration: []string{"/auth_tokens", "/upload/*/auth_tokens", "/tunedModels/*:transferOwnership"},
		Routes: []dataplane.Route{{Path: "/v1alpha"}, {Path: "/upload"}, {Path: "/v1beta/openai"}},
	}
	for _, base := range []string{"https://api.example/v1beta", "https://proxy.example/deep/v1beta", "https://proxy.example/deep"} {
		for path, want := range map[string]string{
			"/v1alpha/auth_tokens":        operationAdministration,
			"/v1alpha/Auth_Tokens;a=b":    operationAdministration,
			"/v1beta/auth_tokens/t":       operationAdministration,
			"/v1beta/openai/auth_tokens":  operationAdministration,
			"/upload/v1beta/auth_tokens":  operationAdministration,
			"/v1alpha/models/auth_tokens": operationInference,
			"/upload/v1beta/files":        operationInference,

			"/v1beta/tunedModels/m:transferOwnership":   operationAdministration,
			"/v1alpha/tunedmodels/m:transferownership":  operationAdministration,
			"/v1beta/tunedModels/m%3atransferOwnership": operationAdministration,
			"/v1beta/tunedModels/m:generateContent":     operationInference,
			"/v1beta/tunedModels/m":                     operationInference,
			"/v1beta/openai/chat":                       operationInference,
		} {
			upstream, err := url.Parse(base)
			require.NoError(t, err)
			to, err := newDestination(key, upstream)
			require.NoError(t, err)
			class, _ := checkOperation(to, to.join(safePath(path)))
			require.Equal(t, want, class, "%s at %s", path, base)
		}
	}
}
