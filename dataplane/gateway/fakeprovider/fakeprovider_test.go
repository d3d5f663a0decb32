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

// calls are the requests that clients of each provider send.
func calls() map[string]call {
	const (
		chat   = `{"model": "m", "messages": []}`
		stream = `{"model": "m", "messages": [], "stream": true, "stream_options": {"include_usage": true}}`
		claude = `{"model": "m", "max_tokens": 9, "messages": []}`
		flow   = `{"model": "m", "max_tokens": 9, "messages": [], "stream": true}`
	)
	return map[string]call{
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
}

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

func TestCredentialHeaderOfEachProvider(t *testing.T) {
	server := httptest.NewServer(fakeprovider.New(fakeprovider.Options{Secrets: []string{secret}}))
	t.Cleanup(server.Close)
	everyHeader := map[string]string{
		"authorization": "Bearer " + secret, "x-api-key": secret, "x-goog-api-key": secret, "api-key": secret,
	}
	for name, c := range calls() {
		t.Run(name, func(t *testing.T) {
			status, contentType, _ := do(t, server.URL, c, map[string]string{c.header: c.value})
			require.Equal(t, http.StatusOK, status)
			require.Equal(t, strings.Contains(name, "stream"), contentType == "text/event-stream")
			require.Equal(t, strings.Contains(name, "events"), contentType == "application/vnd.amazon.eventstream")

			delete(everyHeader, strings.ToLower(c.header))
			defer func() { everyHeader[strings.ToLower(c.header)] = c.value }()
			status, contentType, _ = do(t, server.URL, c, everyHeader)
			require.Equal(t, http.StatusUnauthorized, status, "the others do not count")
			require.Equal(t, "application/json", contentType)
		})
	}
}

func TestAcceptAndRejectWhileServing(t *testing.T) {
	handler := fakeprovider.New(fakeprovider.Options{})
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	for name, c := range calls() {
		t.Run(name, func(t *testing.T) {
			headers := map[string]string{c.header: c.value}
			statusNow := func() int {
				status, _, body := do(t, server.URL, c, headers)
				require.NotContains(t, body, secret)
				return status
			}
			handler.Reject(secret, http.StatusUnauthorized)
			require.Equal(t, http.StatusUnauthorized, statusNow())
			handler.Accept(secret)
			require.Equal(t, http.StatusOK, statusNow())
			handler.Reject(secret, http.StatusForbidden)
			require.Equal(t, http.StatusForbidden, statusNow())
		})
	}
	handler.Accept("")
	status, _, _ := do(t, server.URL, calls()["openai"], nil)
	require.Equal(t, http.StatusUnauthorized, status, "no credential is never accepted")
}

func TestRefusalsInTheProvidersFormat(t *testing.T) {
	server := httptest.NewServer(fakeprovider.New(fakeprovider.Options{}))
	t.Cleanup(server.Close)
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
		_, _, body := do(t, server.URL, calls()[name], nil)
		require.JSONEq(t, want, body, name)
	}
}

func TestStreamsInTheProvidersFormat(t *testing.T) {
	server := httptest.NewServer(fakeprovider.New(fakeprovider.Options{Secrets: []string{secret}, Pieces: []string{"a", "b"}}))
	t.Cleanup(server.Close)
	stream := func(name string) string {
		c := calls()[name]
		_, _, body := do(t, server.URL, c, map[string]string{c.header: c.value})
		return body
	}
	text := stream("openai streaming")
	require.Contains(t, text, `"delta":{"content":"a"}`)
	require.Contains(t, text, `"total_tokens":3`)
	require.True(t, strings.HasSuffix(text, "\n\ndata: [DONE]\n\n"))

	var names []string
	for line := range strings.Lines(stream("anthropic streaming")) {
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	require.Equal(t, []string{
		"message_start", "content_block_start", "ping", "content_block_delta", "content_block_delta",
		"content_block_stop", "message_delta", "message_stop",
	}, names)

	require.Equal(t, 3, strings.Count(stream("gemini streaming"), `data: {"candidates":`))
	require.Equal(t, 3, strings.Count(stream("vertex streaming"), `data: {"candidates":`))
	text = stream("bedrock events")
	for _, part := range []string{"messageStart", `{"contentBlockIndex":0,"delta":{"text":"a"}}`, "contentBlockStop", `{"stopReason":"end_turn"}`, "metadata"} {
		require.Contains(t, text, part)
	}
	require.Equal(t, 8, strings.Count(stream("bedrock invoke, events"), `{"bytes":"`))
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
