package gateway

import (
	"net/url"
	"strings"
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

// An SDK shows the sentence. Nothing is sent.
func TestWhatCannotBeServedIsRefusedByName(t *testing.T) {
	for _, test := range []struct{ provider, base, path, want string }{
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-sonic-v1%3A0/invoke-with-bidirectional-stream", "InvokeModelWithBidirectionalStream is not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/MODEL/m/invoke-with-bidirectional-stream/", "InvokeModelWithBidirectionalStream is not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/agents/a/agentAliases/b/sessions/c/text", "Bedrock's agents are not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/knowledgebases/k/retrieve", "Bedrock's knowledge bases are not served: "},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/model/agents/converse", ""},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/model/m/invoke-with-response-stream", ""},
		{"bedrock", "https://bedrock-runtime.us-east-1.amazonaws.com", "/async-invoke", ""},
		{"vertex", "https://aiplatform.googleapis.com/v1", "/ws/google.cloud.aiplatform.v1beta1.LlmBidiService/BidiGenerateContent", "Vertex AI's Live API (BidiGenerateContent) is not served: "},
		{"vertex", "https://aiplatform.googleapis.com/v1", "/v1/projects/p/locations/eu/publishers/google/models/ws:generateContent", ""},
		{"azure_openai", "https://r.services.ai.azure.com", "/api/projects/p/agents", "Foundry's projects and their agents are not served: "},
		{"gemini", "https://generativelanguage.googleapis.com/v1beta", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", ""},
	} {
		key := &dataplane.Key{Provider: test.provider, BaseURL: test.base, AllOperations: true}
		to, err := newDestination(key, nil)
		require.NoError(t, err)
		_, err = checkOperation(to, to.join(safePath(test.path)))
		if test.want == "" {
			require.NoError(t, err, test.path)
			continue
		}
		problem := ProblemOf(err, "id")
		require.Equal(t, []any{501, "api_not_served"}, []any{problem.Status, problem.Error.Code})
		require.True(t, strings.HasPrefix(problem.Detail, test.want), problem.Detail)
		require.Equal(t, problem.Detail, problem.Error.Message)
	}
}
