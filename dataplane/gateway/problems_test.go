package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/dataplanetest"
	"github.com/agentrouter/aikeys/internal/problem"
)

func TestProblemOfEachRefusal(t *testing.T) {
	cases := map[error]struct {
		status int
		code   string
	}{
		dataplane.ErrCallerUnauthenticated:    {401, "caller_unauthenticated"},
		dataplane.ErrNotMember:                {403, "not_a_member"},
		dataplane.ErrKeyRevoked:               {403, "key_revoked"},
		dataplane.ErrKeyDisabled:              {403, "key_disabled"},
		dataplane.ErrKeyExpired:               {403, "key_expired"},
		dataplane.ErrCustomerNotServed:        {403, "customer_not_served"},
		dataplane.ErrNoKey:                    {403, "no_key"},
		dataplane.ErrUserKeyRequired:          {403, "user_key_required"},
		dataplane.ErrInvalid:                  {404, "unknown_provider"},
		dataplane.ErrUnsupportedAuth:          {501, "unsupported_auth"},
		dataplane.ErrUnavailable:              {503, "unavailable"},
		dataplane.ErrDataPlaneUnauthenticated: {503, "gateway_unauthenticated"},
		context.DeadlineExceeded:              {503, "unavailable"},
		errors.New("anything"):                {500, "internal"},
	}
	for err, want := range cases {
		t.Run(want.code, func(t *testing.T) {
			gw := start(t, dataplanetest.Refusing(fmt.Errorf("with MARKED text: %w", err)))
			res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
			problem := problemOf(t, res, body)
			require.Equal(t, want.status, problem.Status)
			require.Equal(t, want.code, problem.Error.Code)
			require.Equal(t, want.status == 503, res.Header.Get("Retry-After") == "1")
			require.Contains(t, gw.log.String(), problem.RequestID)
			requireUnmarked(t, body, gw.log.String())
			require.Empty(t, gw.Calls().Reports)
		})
	}
}

func TestARefusedCallerReadsTheControlPlanesReason(t *testing.T) {
	const detail = "The project's key openai-prod …9f3c was revoked at 2026-11-23T09:45:12Z by alice; no other key of this provider may serve you."
	gw := start(t, dataplanetest.Refusing(&dataplane.Refusal{Kind: dataplane.ErrKeyRevoked, Detail: detail}))
	res, body := do(t, request(t, "POST", gw.URL+"/openai/chat", strings.NewReader("{}")))
	problem := problemOf(t, res, body)
	require.Equal(t, 403, problem.Status)
	require.Equal(t, []string{detail, detail}, []string{problem.Detail, problem.Error.Message})
	require.NotContains(t, gw.log.String(), "alice", "the log names the problem alone")
}

// The control plane's public API explains the types, but can't import the table.
func TestEveryProblemTypeIsExplained(t *testing.T) {
	text, err := os.ReadFile("../../impl/docsite/problems.yaml")
	require.NoError(t, err)
	var pages map[string]struct {
		Gateway *struct {
			Status      int
			Code, Title string
			Details     []string
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &pages))
	types := problem.Types(Problems())
	require.Greater(t, len(types), 20)
	for _, p := range types {
		page, ok := pages[p.Slug]
		require.True(t, ok, "no explanation of %s", p.Slug)
		if page.Gateway != nil {
			got := page.Gateway
			require.Equal(t, []any{p.Status, p.Code, p.Title, p.Details}, []any{got.Status, got.Code, got.Title, got.Details}, p.Slug)
		}
	}
}

// Without a key, the control plane names no dialect. A refusal is still in the dialect of the API that was called.
func TestRefusalsAreInTheDialectOfTheAPI(t *testing.T) {
	const openAI, perplexity, anthropic, google = `"code":"no_key"`, `"code":403`, `"type":"permission_error"`, `"status":"PERMISSION_DENIED"`
	resolver := dataplanetest.Refusing(dataplane.ErrNoKey)
	proxy := start(t, resolver)
	forwardAuth, err := NewForwardAuth(Config{Resolver: resolver})
	require.NoError(t, err)
	for _, tc := range []struct{ path, header, want string }{
		{"/openai/chat/completions", "", openAI},
		{"/openai", "", openAI},
		{"/openai/v1/chat/completions", "Anthropic-Version", openAI},
		{"/perplexity/chat/completions", "", perplexity},
		{"/anthropic/v1/messages", "", anthropic},
		{"/gemini/v1beta/models/m:generateContent", "", google},
		{"/gemini/models/m:generateContent", "", google},
		{"/gemini/v1/models", "", google},
		{"/gemini/upload/v1beta/files", "", google},
		{"/gemini/v1beta/openai/chat/completions", "", openAI},
		{"/gemini/openai/chat/completions", "", openAI},
		{"/deepseek/chat/completions", "", openAI},
		{"/deepseek/anthropic/v1/messages", "", anthropic},
		{"/openrouter/v1/chat/completions", "", openAI},
		{"/openrouter/v1/messages", "", anthropic},
		{"/openrouter/messages", "", anthropic},
		{"/fireworks/v1/messages", "", anthropic},
		{"/azure_openai/openai/v1/chat/completions", "", openAI},
		{"/vertexanthropic/projects/p/locations/global/publishers/anthropic/models/m:rawPredict", "", anthropic},
		{"/later/chat", "", openAI},
		{"/later/v1/messages", "Anthropic-Version", anthropic},
		{"/later/models", "X-Goog-Api-Key", google},
	} {
		t.Run(tc.path, func(t *testing.T) {
			r := request(t, http.MethodPost, proxy.URL+tc.path, strings.NewReader("{}"))
			if tc.header != "" {
				r.Header.Set(tc.header, callersKey)
			}
			res, body := do(t, r)
			provider := strings.Split(tc.path, "/")[1]
			ask := httptest.NewRequest(http.MethodGet, "/auth/"+provider, nil)
			ask.Header = r.Header.Clone()
			ask.Header.Set("X-Forwarded-Uri", tc.path+"?a=b")
			asked := httptest.NewRecorder()
			forwardAuth.ServeHTTP(asked, ask)
			require.Equal(t, strings.TrimSpace(asked.Body.String()), asked.Header().Get("Agentrouter-Error"), "nginx can pass on only this")
			for _, answer := range []struct {
				header http.Header
				body   string
			}{{res.Header, body}, {asked.Header(), asked.Body.String()}} {
				var document struct {
					Type, Detail, Message, Code string
					ProblemType                 string `json:"problem_type"`
					RequestID                   string `json:"request_id"`
					Error                       map[string]any
				}
				require.NoError(t, json.Unmarshal([]byte(answer.body), &document), answer.body)
				shown, err := json.Marshal(document.Error)
				require.NoError(t, err)
				require.Contains(t, string(shown), tc.want)
				require.Contains(t, document.Detail, "No active key of this provider may serve you")
				require.Equal(t, []any{document.Detail, document.Detail}, []any{document.Message, document.Error["message"]})
				require.Equal(t, "not_found", document.Code)
				require.Equal(t, answer.header.Get("Agentrouter-Request-Id"), document.RequestID)
				kind, contentType := document.Type, "application/problem+json"
				switch tc.want {
				case anthropic:
					require.Equal(t, "error", kind)
					kind, contentType = document.ProblemType, "application/json"
				case google:
					contentType = "application/json"
					require.EqualValues(t, 403, document.Error["code"])
					require.Contains(t, string(shown), `"reason":"NO_KEY"`)
				}
				require.Equal(t, "/problems/no-key", kind)
				require.Equal(t, contentType, answer.header.Get("Content-Type"))
			}
		})
	}
}

func TestRefusalsBeforeTheKeyHaveTheDialectToo(t *testing.T) {
	gw := start(t, dataplanetest.Refusing(dataplane.ErrNoKey))
	for _, path := range []string{"/anthropic/v1/../admin", "/anthropic//v1/messages", `/deepseek/anthropic/v1\messages`} {
		res, body := raw(t, gw.URL, "POST "+path+" HTTP/1.1\r\nHost: gw\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		require.Equal(t, http.StatusUnauthorized, res.StatusCode)
		if !strings.HasPrefix(path, "/deepseek/") { // a path with a backslash is not parsed, so it decides no dialect
			require.Contains(t, body, `"type":"authentication_error"`)
		}
	}
}

// The status decides the name of an error in each dialect.
func TestEachStatusHasANameInEachDialect(t *testing.T) {
	names := map[int][2]string{
		400: {"invalid_request_error", "INVALID_ARGUMENT"},
		401: {"authentication_error", "UNAUTHENTICATED"},
		403: {"permission_error", "PERMISSION_DENIED"},
		404: {"not_found_error", "NOT_FOUND"},
		405: {"invalid_request_error", "INVALID_ARGUMENT"},
		429: {"rate_limit_error", "RESOURCE_EXHAUSTED"},
		500: {"api_error", "INTERNAL"},
		501: {"api_error", "UNIMPLEMENTED"},
		502: {"api_error", "UNAVAILABLE"},
		503: {"api_error", "UNAVAILABLE"},
		504: {"timeout_error", "DEADLINE_EXCEEDED"},
	}
	for _, row := range Problems() {
		require.Contains(t, names, row.Status)
		for i, dialect := range []Dialect{DialectAnthropic, DialectGoogle} {
			problem := ProblemOf(row.Err, "id")
			problem.Dialect = dialect
			require.Contains(t, string(problem.Body()), `"`+names[row.Status][i]+`"`)
		}
	}
}
