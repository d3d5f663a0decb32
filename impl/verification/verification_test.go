package verification_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/models"
)

// fixture is a verifier whose requests to all providers come to a handler.
type fixture struct {
	*verification.Verifier
	catalogue *providers.Catalogue
}

func start(t *testing.T, handler http.HandlerFunc) fixture {
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

// verify tests the example secret of a provider, or another secret given after the provider's name.
func (f fixture) verify(ctx context.Context, t *testing.T, name string) verification.Result {
	slug, kind, _ := strings.Cut(name, " ")
	p, ok := f.catalogue.Lookup(slug)
	require.True(t, ok)
	secret := p.Example
	switch {
	case kind != "":
		secret = `{"api_key": "ABSK-EXAMPLE", "region": "us-east-1"}`
	case p.AuthStyle == providers.AuthGCPOAuth:
		secret = serviceAccount(t)
	}
	return f.Verify(ctx, models.Caller{CustomerID: "acme", UserID: slug}, p, secret)
}

var newRSAKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// serviceAccount returns a Google service account's key file.
func serviceAccount(t *testing.T) string {
	key, err := newRSAKey()
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return fmt.Sprintf(`{"type": "service_account", "project_id": "p", "client_email": "robot@p.iam.gserviceaccount.com", "private_key": %q}`,
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
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
		{"bedrock", 200, `{"GetCallerIdentityResponse": {}}`, result{valid, ""}},
		{"bedrock", 403, `{"Error": {"Code": "InvalidClientTokenId"}}`, result{rejected, ""}},
		{"bedrock", 403, `{"Error": {"Code": "SignatureDoesNotMatch"}}`, result{rejected, ""}},
		{"bedrock", 403, `{"Error": {"Code": "ExpiredToken"}}`, result{rejected, ""}},
		{"bedrock", 403, `{"Error": {"Code": "AccessDenied"}}`, result{valid, "restricted"}},
		{"bedrock", 403, `<ErrorResponse><Error><Code>Throttling</Code></Error></ErrorResponse>`, result{unreachable, "unknown_answer"}},
		{"bedrock by API key", 200, `{"modelSummaries": []}`, result{valid, ""}},
		{"bedrock by API key", 403, `{"Message": "Authentication failed: Please make sure your API Key is valid."}`, result{rejected, ""}},
		{"bedrock by API key", 403, `{"message": "The security token included in the request is expired"}`, result{rejected, ""}},
		{"bedrock by API key", 403, `{"Message": "User: arn:aws:iam::1:user/u is not authorized to perform: bedrock:ListFoundationModels"}`, result{valid, "restricted"}},
		{"vertex", 200, `{"locations": []}`, result{valid, ""}},
		{"vertex", 401, `{"error": {"status": "UNAUTHENTICATED"}}`, result{rejected, ""}},
		{"vertex", 403, `{"error": {"status": "PERMISSION_DENIED"}}`, result{valid, "restricted"}},
		{"vertex", 403, `<html>`, result{unreachable, "unknown_answer"}},
		{"vertexanthropic", 401, ``, result{rejected, ""}},
	} {
		f := start(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		require.Equal(t, c.want, f.verify(t.Context(), t, c.provider), "%s %d %s", c.provider, c.status, c.body)
	}
}

// Each provider gets its own request, with the key in the provider's form and nothing else from the caller.
func TestRequestsThatTestKeys(t *testing.T) {
	seen := make(chan string, 1)
	f := start(t, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, name := range []string{"Authorization", "X-Api-Key", "X-Goog-Api-Key", "Api-Key"} {
			if key, _, _ := strings.Cut(r.Header.Get(name), "/"); key != "" {
				seen <- fmt.Sprintf("%s %s%s %s: %.40s %s", r.Method, r.Host, r.RequestURI, name, key, body)
			}
		}
	})
	for slug, want := range map[string]string{
		"openai":             "GET api.openai.com/v1/models Authorization: Bearer sk-proj-EXAMPLE-EXAMPLE-EXAMPLE-E ",
		"anthropic":          "GET api.anthropic.com/v1/models?limit=1 X-Api-Key: sk-ant-api03-EXAMPLE-EXAMPLE-EXAMPLE-EXA ",
		"gemini":             "GET generativelanguage.googleapis.com/v1beta/models?pageSize=1 X-Goog-Api-Key: AQ.EXAMPLE-EXAMPLE-EXAMPLE-EXAMPLE-0003 ",
		"cohere":             "POST api.cohere.com/v1/check-api-key Authorization: Bearer EXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMP {}",
		"fireworks":          "GET api.fireworks.ai/v1/accounts/fireworks/models?pageSize=1 Authorization: Bearer fw_EXAMPLEEXAMPLEEXAMPLE0010 ",
		"azure_openai":       "GET my-resource.openai.azure.com/openai/models?api-version=2024-10-21 Api-Key: EXAMPLEEXAMPLEEXAMPLEEXAMPLE0014 ",
		"bedrock by API key": "GET bedrock.us-east-1.amazonaws.com/foundation-models Authorization: Bearer ABSK-EXAMPLE ",
		"bedrock": "GET sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15 Authorization: " +
			"AWS4-HMAC-SHA256 Credential=AKIA-EXAMPLE ",
		"vertex": "GET aiplatform.googleapis.com/v1/projects/p/locations?pageSize=1 Authorization: Bearer eyJ",
	} {
		f.verify(t.Context(), t, slug)
		require.Contains(t, <-seen, want)
	}
}

// For some seconds after a wrong secret, AWS refuses the right secret of the same access key once.
func TestRefusedSignatureIsTestedOnceMore(t *testing.T) {
	for _, again := range []int{http.StatusOK, http.StatusForbidden} {
		var asked, connections atomic.Int32
		f := start(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Close {
				connections.Add(1)
			}
			if asked.Add(1) == 2 && again == http.StatusOK {
				return
			}
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"Error": {"Code": "SignatureDoesNotMatch"}}`)
		})
		got := f.verify(t.Context(), t, "bedrock").Outcome
		require.Equal(t, again == http.StatusOK, got == verification.Valid, got)
		require.Equal(t, []int32{2, 2}, []int32{asked.Load(), connections.Load()}, "each on its own connection")
	}
}

// A provider with another clock refuses requests that are signed here. That says nothing about the key.
func TestWrongClockIsNoVerdict(t *testing.T) {
	for _, name := range []string{"bedrock", "vertex", "openai"} {
		for _, off := range []time.Duration{-time.Hour, -20 * time.Second, 0, time.Hour} {
			f := start(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
				status := map[bool]int{true: http.StatusForbidden, false: http.StatusUnauthorized}[name == "bedrock"]
				w.WriteHeader(status)
				_, _ = io.WriteString(w, `{"Error": {"Code": "SignatureDoesNotMatch"}}`)
			})
			want := verification.Result{Outcome: verification.Rejected}
			if off != 0 && name != "openai" {
				want = verification.Result{Outcome: verification.Unreachable, Reason: "clock"}
			}
			require.Equal(t, want, f.verify(t.Context(), t, name), "%s %v", name, off)
		}
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

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTestsEndInTime(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	p, _ := catalogue.Lookup("openai")
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		v := verification.New(verification.Config{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		require.Equal(t, verification.Result{Outcome: verification.Unreachable, Reason: "timeout"}, v.Verify(t.Context(), models.Caller{UserID: "u"}, p, p.Example))
		require.Equal(t, 8*time.Second, time.Since(began))
	})
}

func TestAUserHasFewSecretsTested(t *testing.T) {
	var asked atomic.Int32
	f := start(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	p, _ := f.catalogue.Lookup("openai")
	busy := 0
	for range 200 {
		if f.Verify(t.Context(), models.Caller{CustomerID: "acme", UserID: "eve"}, p, p.Example).Reason == "busy" {
			busy++
		}
	}
	require.Positive(t, busy)
	require.Equal(t, 200, int(asked.Load())+busy)
	require.Equal(t, verification.Valid, f.Verify(t.Context(), models.Caller{CustomerID: "acme", UserID: "alice"}, p, p.Example).Outcome, "others are not affected")
}

func TestEveryKnownProviderCanBeTested(t *testing.T) {
	catalogue, err := providers.Load()
	require.NoError(t, err)
	for _, p := range catalogue.All() {
		require.NotNil(t, p.Verify, p.Slug)
	}
}

// Only the exchange says whether a client secret is good. It costs nothing.
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
		v := verification.New(verification.Config{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			form, err := io.ReadAll(r.Body)
			if err != nil || r.URL.Host != "login.microsoftonline.com" || !strings.Contains(string(form), "client_secret=EXAMPLE-CLIENT-SECRET") {
				return nil, fmt.Errorf("the test asks %s", r.URL.Host)
			}
			status, err := strconv.Atoi(answer[:3])
			return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(answer[4:])), Request: r}, err
		})})
		require.Equal(t, want, v.Verify(t.Context(), models.Caller{CustomerID: "acme", UserID: "alice"}, azure, secret), answer)
	}
}

func TestDataPlanesGiveTheirOwnReasonsOnly(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct{ given, stored verification.Result }{
		{verification.Result{Outcome: verification.Valid, Reason: "restricted"}, verification.Result{Outcome: verification.Valid, Reason: "restricted"}},
		{verification.Result{Outcome: verification.Valid, Reason: "off_the_wall"}, verification.Result{Outcome: verification.Valid}},
		{verification.Result{Outcome: verification.Rejected, Reason: "restricted"}, verification.Result{Outcome: verification.Rejected}},
		{verification.Result{Outcome: verification.Unreachable, Reason: "any_key"}, verification.Result{Outcome: verification.Unreachable, Reason: "any_key"}},
		{verification.Result{Outcome: verification.Unreachable, Reason: "off"}, verification.Result{Outcome: verification.Unreachable, Reason: "unknown_answer"}},
	} {
		require.Equal(t, tc.stored, verification.Judge(tc.given, "", now, now))
	}
}
