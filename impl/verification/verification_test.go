package verification_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
)

// fixture is a verifier whose requests to all providers come to a handler.
type fixture struct {
	*verification.Verifier
	catalogue *providers.Catalogue
}

func start(t *testing.T, handler http.HandlerFunc) fixture {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	require.NoError(t, err)
	catalogue, err := providers.Load()
	require.NoError(t, err)
	upstreams := map[string]*url.URL{}
	for _, slug := range catalogue.Slugs() {
		upstreams[slug] = address
	}
	return fixture{verification.New(verification.Config{Upstreams: upstreams}), catalogue}
}

// verify tests the example secret of a provider.
func (f fixture) verify(ctx context.Context, t *testing.T, slug string) verification.Result {
	t.Helper()
	p, ok := f.catalogue.Lookup(slug)
	require.True(t, ok)
	return f.Verify(ctx, slug, p, p.Example)
}

func TestVerdictsOfProviders(t *testing.T) {
	type result = verification.Result
	const valid, rejected, unreachable = verification.Valid, verification.Rejected, verification.Unreachable
	for _, c := range []struct {
		provider string
		status   int
		body     string
		want     result
	}{
		{"openai", 200, `{"data": []}`, result{valid, ""}},
		{"openai", 401, `{"error": {"code": "invalid_api_key"}}`, result{rejected, ""}},
		{"openai", 403, `{"error": {"message": "You have insufficient permissions for this operation. Missing scopes: api.model.read."}}`, result{valid, "restricted"}},
		{"openai", 403, `<html>`, result{unreachable, "unknown_answer"}},
		{"openai", 403, `{"error": {"code": "unsupported_country_region_territory"}}`, result{unreachable, "blocked"}},
		{"openai", 404, ``, result{unreachable, "unknown_answer"}},
		{"openai", 429, ``, result{unreachable, "rate_limited"}},
		{"openai", 429, `{"error": {"code": "insufficient_quota"}}`, result{valid, "quota_exhausted"}},
		{"openai", 503, ``, result{unreachable, "unknown_answer"}},
		{"anthropic", 200, `{"data": []}`, result{valid, ""}},
		{"anthropic", 401, `{"error": {"type": "authentication_error"}}`, result{rejected, ""}},
		{"anthropic", 403, `{"error": {"type": "permission_error"}}`, result{valid, "restricted"}},
		{"anthropic", 404, `{"error": {"type": "not_found_error"}}`, result{rejected, ""}},
		{"anthropic", 529, ``, result{unreachable, "unknown_answer"}},
		{"gemini", 400, `{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}`, result{rejected, ""}},
		{"gemini", 400, `{"error": {"message": "Bad page size"}}`, result{unreachable, "unknown_answer"}},
		{"gemini", 403, `{"error": {"message": "Your API key was reported as leaked. Please use another API key."}}`, result{rejected, "leaked"}},
		{"gemini", 403, `{"error": {"details": [{"reason": "API_KEY_IP_ADDRESS_BLOCKED"}]}}`, result{unreachable, "blocked"}},
		{"groq", 401, ``, result{rejected, ""}},
		{"xai", 400, `{"error": "Incorrect API key provided: xa***05."}`, result{rejected, ""}},
		{"xai", 200, `{"name": "x", "api_key_blocked": false, "api_key_disabled": false}`, result{valid, ""}},
		{"xai", 200, `{"name": "x", "api_key_blocked": true, "api_key_disabled": false}`, result{rejected, ""}},
		{"xai", 200, `{"name": "x", "api_key_blocked": false, "api_key_disabled": true}`, result{rejected, ""}},
		{"deepinfra", 401, ``, result{rejected, ""}},
		{"mistral", 401, ``, result{rejected, ""}},
		{"cohere", 200, `{"valid": true}`, result{valid, ""}},
		{"cohere", 200, `{"valid": false}`, result{rejected, ""}},
		{"together", 401, ``, result{rejected, ""}},
		{"fireworks", 401, ``, result{rejected, ""}},
		{"deepseek", 200, `{"is_available": true}`, result{valid, ""}},
		{"deepseek", 200, `{"is_available": false}`, result{valid, "quota_exhausted"}},
		{"perplexity", 400, `{"error": {"type": "invalid_model"}}`, result{valid, ""}},
		{"perplexity", 401, ``, result{rejected, ""}},
		{"openrouter", 402, ``, result{valid, "quota_exhausted"}},
		{"openrouter", 401, ``, result{rejected, ""}},
		{"azure_openai", 200, `{"data": []}`, result{valid, ""}},
		{"azure_openai", 403, `{"error": {"message": "Access denied due to Virtual Network/Firewall rules."}}`, result{unreachable, "blocked"}},
		{"vertex", 200, ``, result{unreachable, "unsupported"}},
	} {
		f := start(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		require.Equal(t, c.want, f.verify(t.Context(), t, c.provider), "%s %d %s", c.provider, c.status, c.body)
	}
}

// Each provider gets its request with the key as it wants it, and nothing else of the caller's.
func TestRequestsThatTestKeys(t *testing.T) {
	seen := make(chan string, 1)
	f := start(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key"} {
			if r.Header.Get(name) != "" {
				seen <- fmt.Sprintf("%s %s %s: %s %s", r.Method, r.RequestURI, name, r.Header.Get(name), body)
			}
		}
	})
	key := func(slug string) string {
		p, _ := f.catalogue.Lookup(slug)
		return p.Example
	}
	for slug, want := range map[string]string{
		"openai":       "GET /v1/models Authorization: Bearer " + key("openai") + " ",
		"anthropic":    "GET /v1/models?limit=1 X-Api-Key: " + key("anthropic") + " ",
		"gemini":       "GET /v1beta/models?pageSize=1 X-Goog-Api-Key: " + key("gemini") + " ",
		"cohere":       "POST /v1/check-api-key Authorization: Bearer " + key("cohere") + " {}",
		"fireworks":    "GET /v1/accounts/fireworks/models?pageSize=1 Authorization: Bearer " + key("fireworks") + " ",
		"azure_openai": "GET /openai/models?api-version=2024-10-21 Api-Key: EXAMPLEEXAMPLEEXAMPLEEXAMPLE0014 ",
	} {
		f.verify(t.Context(), t, slug)
		require.Equal(t, want, <-seen)
	}
}

func TestRedirectsOfTestsAreNotFollowed(t *testing.T) {
	var asked atomic.Int32
	f := start(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	require.Equal(t, verification.Result{Outcome: verification.Unreachable, Reason: "unknown_answer"}, f.verify(t.Context(), t, "openai"))
	require.EqualValues(t, 1, asked.Load())
}

func TestLongAnswersAreNotReadToTheEnd(t *testing.T) {
	written := make(chan int, 1)
	f := start(t, func(w http.ResponseWriter, _ *http.Request) {
		total := 0
		for total < 64<<20 {
			n, err := io.WriteString(w, strings.Repeat(" ", 64<<10))
			if total += n; err != nil {
				break
			}
		}
		written <- total
	})
	require.Equal(t, verification.Valid, f.verify(t.Context(), t, "openai").Outcome)
	require.Less(t, <-written, 64<<20)
}

func TestNoAnswerIsUnreachable(t *testing.T) {
	f := start(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	require.Equal(t, verification.Result{Outcome: verification.Unreachable, Reason: "no_connection"}, f.verify(t.Context(), t, "openai"))
	ctx, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	require.Equal(t, verification.Result{Outcome: verification.Unreachable, Reason: "timeout"}, f.verify(ctx, t, "openai"))
}

// hanging is a transport of which no request ends before its context.
type hanging struct{}

func (hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestTestsEndInTime(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	p, _ := catalogue.Lookup("openai")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		v := verification.New(verification.Config{Transport: hanging{}})
		require.Equal(t, verification.Result{Outcome: verification.Unreachable, Reason: "timeout"}, v.Verify(t.Context(), "u", p, p.Example))
		require.Equal(t, 8*time.Second, time.Since(began))
	})
}

func TestAUserHasFewSecretsTested(t *testing.T) {
	var asked atomic.Int32
	f := start(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	p, _ := f.catalogue.Lookup("openai")
	busy := 0
	for range 200 {
		if f.Verify(t.Context(), "acme/eve", p, p.Example).Reason == "busy" {
			busy++
		}
	}
	require.Positive(t, busy)
	require.Equal(t, 200, int(asked.Load())+busy)
	require.Equal(t, verification.Valid, f.Verify(t.Context(), "acme/alice", p, p.Example).Outcome, "others are not affected")
}

func TestEveryKnownProviderCanBeTested(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	for _, p := range catalogue.All() {
		signs := p.AuthStyle == providers.AuthAWSSigV4 || p.AuthStyle == providers.AuthGCPOAuth
		require.Equal(t, !signs, p.Verify != nil, p.Slug)
	}
}

// exchanging answers as Microsoft's token service does, for any tenant.
type exchanging func(form string) (status int, body string)

// RoundTrip implements http.RoundTripper.
func (e exchanging) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := io.ReadAll(r.Body)
	if err != nil || r.URL.Host != "login.microsoftonline.com" {
		return nil, fmt.Errorf("the test asks %s", r.URL.Host)
	}
	status, body := e(string(form))
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// The exchange alone says whether a client secret is good, and costs nothing.
func TestClientSecretsAreTestedByAnExchange(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	azure, _ := catalogue.Lookup("azure_openai")
	const secret = `{"endpoint": "https://r.openai.azure.com", "tenant_id": "t", "client_id": "c", "client_secret": "EXAMPLE-CLIENT-SECRET"}`
	for answer, want := range map[string]verification.Result{
		`200 {"access_token": "token", "expires_in": 3599}`: {Outcome: verification.Valid},
		`401 {"error": "invalid_client"}`:                   {Outcome: verification.Rejected},
		`400 {"error": "unauthorized_client"}`:              {Outcome: verification.Rejected},
		`400 <html>`:                                        {Outcome: verification.Unreachable, Reason: "no_connection"},
		`503 {"error": "temporarily_unavailable"}`:          {Outcome: verification.Unreachable, Reason: "no_connection"},
		`302 `: {Outcome: verification.Unreachable, Reason: "no_connection"},
	} {
		v := verification.New(verification.Config{Transport: exchanging(func(form string) (status int, body string) {
			if !strings.Contains(form, "client_secret=EXAMPLE-CLIENT-SECRET") {
				return http.StatusBadRequest, ""
			}
			_, _ = fmt.Sscan(answer, &status)
			return status, answer[4:]
		})})
		require.Equal(t, want, v.Verify(t.Context(), "acme/alice", azure, secret), answer)
	}
}
