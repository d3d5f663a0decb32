package fakeprovider_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane/gateway/fakeprovider"
)

const secret = "fakeprovider-secret-0001"

// call is one request of a provider's API.
type call struct{ method, path, header, value, body string }

// do sends a call with the headers, and returns the answer's status, content type and body.
func do(t *testing.T, url string, c call, headers map[string]string) (status int, contentType, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), c.method, url+c.path, strings.NewReader(c.body))
	require.NoError(t, err)
	for name, value := range headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode, response.Header.Get("Content-Type"), string(text)
}

func TestEachProvider(t *testing.T) {
	const (
		chat   = `{"model": "m", "messages": []}`
		stream = `{"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}}`
		claude = `{"model": "m", "max_tokens": 9, "messages": []}`
		flow   = `{"model": "m", "max_tokens": 9, "messages": [], "stream": true}`
	)
	calls := map[string]call{
		"openai":                  {"POST", "/v1/chat/completions", "Authorization", "Bearer " + secret, chat},
		"openai without version":  {"POST", "/chat/completions", "Authorization", "bearer " + secret, chat},
		"openai streaming":        {"POST", "/v1/chat/completions", "Authorization", "Bearer " + secret, stream},
		"openai models":           {"GET", "/v1/models", "Authorization", "Bearer " + secret, ""},
		"groq":                    {"POST", "/openai/v1/chat/completions", "Authorization", "Bearer " + secret, chat},
		"azure":                   {"POST", "/openai/deployments/d/chat/completions", "api-key", secret, chat},
		"anthropic":               {"POST", "/v1/messages", "x-api-key", secret, claude},
		"anthropic streaming":     {"POST", "/v1/messages", "x-api-key", secret, flow},
		"gemini":                  {"POST", "/v1beta/models/m:generateContent", "x-goog-api-key", secret, "{}"},
		"gemini streaming":        {"POST", "/models/m:streamGenerateContent", "x-goog-api-key", secret, "{}"},
		"gemini, newer version":   {"POST", "/v1/models/m:generateContent", "x-goog-api-key", secret, "{}"},
		"gemini by OpenAI's API":  {"POST", "/v1beta/openai/chat/completions", "Authorization", "Bearer " + secret, chat},
		"gemini upload":           {"POST", "/upload/v1beta/files", "x-goog-api-key", secret, "{}"},
		"azure streaming":         {"POST", "/openai/deployments/d/chat/completions", "api-key", secret, stream},
		"gemini without version":  {"POST", "/models/m:generateContent", "x-goog-api-key", secret, "{}"},
		"deepinfra":               {"POST", "/v1/openai/chat/completions", "Authorization", "Bearer " + secret, chat},
		"fireworks streaming":     {"POST", "/inference/v1/chat/completions", "Authorization", "Bearer " + secret, stream},
		"openrouter":              {"POST", "/api/v1/chat/completions", "Authorization", "Bearer " + secret, chat},
		"foundry":                 {"POST", "/anthropic/v1/messages", "x-api-key", secret, claude},
		"vertex":                  {"POST", "/v1/projects/p/locations/l/publishers/google/models/m:generateContent", "Authorization", "Bearer " + secret, "{}"},
		"vertex streaming":        {"POST", "/v1beta1/projects/p/locations/l/publishers/google/models/m:streamGenerateContent", "Authorization", "Bearer " + secret, "{}"},
		"vertexanthropic":         {"POST", "/v1/projects/p/locations/l/publishers/anthropic/models/m:rawPredict", "Authorization", "Bearer " + secret, claude},
		"vertexanthropic stream":  {"POST", "/v1/projects/p/locations/l/publishers/anthropic/models/m:streamRawPredict", "Authorization", "Bearer " + secret, flow},
		"bedrock converse":        {"POST", "/model/us.m-v1%3A0/converse", "Authorization", "Bearer " + secret, "{}"},
		"bedrock invoke":          {"POST", "/model/us.m-v1%3A0/invoke", "Authorization", "Bearer " + secret, claude},
		"bedrock invoke, events":  {"POST", "/model/m/invoke-with-response-stream", "Authorization", "Bearer " + secret, claude},
		"bedrock events":          {"POST", "/model/m/converse-stream", "Authorization", "Bearer " + secret, "{}"},
		"openai models, no v1":    {"GET", "/models", "Authorization", "Bearer " + secret, ""},
		"deepseek, no v1, stream": {"POST", "/chat/completions", "Authorization", "Bearer " + secret, stream},
	}
	handler := fakeprovider.New(fakeprovider.Options{Pieces: []string{"a", "b"}})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	for name, c := range calls {
		t.Run(name, func(t *testing.T) {
			own, others := map[string]string{c.header: c.value}, map[string]string{
				"authorization": "Bearer " + secret, "x-api-key": secret, "x-goog-api-key": secret, "api-key": secret,
			}
			delete(others, strings.ToLower(c.header))
			handler.Accept(secret)
			status, contentType, _ := do(t, server.URL, c, own)
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, strings.Contains(name, "stream"), contentType == "text/event-stream")
			require.Equal(t, strings.Contains(name, "events"), contentType == "application/vnd.amazon.eventstream")
			status, contentType, _ = do(t, server.URL, c, others)
			require.Equal(t, http.StatusUnauthorized, status, "the others do not count")
			require.Equal(t, "application/json", contentType)
			for _, refusal := range []int{http.StatusUnauthorized, http.StatusForbidden} {
				handler.Reject(secret, refusal)
				status, _, body := do(t, server.URL, c, own)
				require.Equal(t, refusal, status)
				require.NotContains(t, body, secret)
			}
		})
	}
	handler.Accept("")
	status, _, _ := do(t, server.URL, calls["openai"], nil)
	require.Equal(t, http.StatusUnauthorized, status, "no credential is never accepted")

	for name, want := range map[string]string{
		"openai": `{"error": {"message": "Incorrect API key provided.", "type": "invalid_request_error", "param": null,
			"code": "invalid_api_key"}}`,
		"azure": `{"error": {"code": "401", "message": "Incorrect API key provided."}}`,
		"anthropic": `{"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"},
			"request_id": "req_fake"}`,
		"gemini":         `{"error": {"code": 401, "message": "Incorrect API key provided.", "status": "UNAUTHENTICATED"}}`,
		"vertex":         `{"error": {"code": 401, "message": "Incorrect API key provided.", "status": "UNAUTHENTICATED"}}`,
		"bedrock invoke": `{"message": "Incorrect API key provided."}`,
	} {
		_, _, body := do(t, server.URL, calls[name], nil)
		require.JSONEq(t, want, body, name)
	}

	handler.Accept(secret)
	streamed := func(name string) string {
		_, _, body := do(t, server.URL, calls[name], map[string]string{calls[name].header: calls[name].value})
		return body
	}
	text := streamed("openai streaming")
	require.Contains(t, text, `"delta":{"content":"a"}`)
	require.Contains(t, text, `"total_tokens":3`)
	require.True(t, strings.HasSuffix(text, "\n\ndata: [DONE]\n\n"))

	var names []string
	for line := range strings.Lines(streamed("anthropic streaming")) {
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	require.Equal(t, []string{
		"message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta",
		"content_block_stop", "message_delta", "message_stop",
	}, names)

	require.Equal(t, 3, strings.Count(streamed("gemini streaming"), `data: {"candidates":`))
	require.Equal(t, 3, strings.Count(streamed("vertex streaming"), `data: {"candidates":`))
	text = streamed("bedrock events")
	for _, part := range []string{"messageStart", `{"contentBlockIndex":0,"delta":{"text":"a"}}`, "contentBlockStop", `{"stopReason":"end_turn"}`, "metadata"} {
		require.Contains(t, text, part)
	}
	require.Equal(t, 8, strings.Count(streamed("bedrock invoke, events"), `{"bytes":"`))
}

func TestInvalidRequests(t *testing.T) {
	server := httptest.NewServer(fakeprovider.New(fakeprovider.Options{Secrets: []string{secret}}))
	t.Cleanup(server.Close)
	headers := map[string]string{"Authorization": "Bearer " + secret, "x-goog-api-key": secret}
	for path, want := range map[string]int{
		"/v1/chat/completions": http.StatusBadRequest,
		"/models/m:countToken": http.StatusBadRequest,
		"/v1/nothing":          http.StatusNotFound,
	} {
		status, _, body := do(t, server.URL, call{method: "POST", path: path, body: `{"model": `}, headers)
		require.Equal(t, want, status, path)
		require.Contains(t, body, `{"error":{`)
	}
}

func TestEveryEndsWithTheRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, fakeprovider.Every(1<<62)(ctx, 0), context.Canceled)
	require.NoError(t, fakeprovider.Every(0)(t.Context(), 0))
}
