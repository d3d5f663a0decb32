package providers

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/internal/verdict"
)

func load(t testing.TB) *Catalogue {
	c, err := Load()
	require.NoError(t, err)
	return c
}

func lookup(t testing.TB, c *Catalogue, slug string) Provider {
	p, ok := c.Lookup(slug)
	require.True(t, ok, slug)
	return p
}

// The URLs and headers decide who receives customers' keys, so a change of one must be deliberate.
func TestDestinationsArePinned(t *testing.T) {
	want := []struct {
		slug, baseURL string
		style         AuthStyle
		format        SecretFormat
	}{
		{"openai", "https://api.openai.com/v1", AuthBearer, FormatToken},
		{"anthropic", "https://api.anthropic.com", AuthXAPIKey, FormatToken},
		{"gemini", "https://generativelanguage.googleapis.com/v1beta", AuthXGoogAPIKey, FormatToken},
		{"groq", "https://api.groq.com/openai/v1", AuthBearer, FormatToken},
		{"xai", "https://api.x.ai/v1", AuthBearer, FormatToken},
		{"deepinfra", "https://api.deepinfra.com/v1/openai", AuthBearer, FormatToken},
		{"mistral", "https://api.mistral.ai/v1", AuthBearer, FormatToken},
		{"cohere", "https://api.cohere.com", AuthBearer, FormatToken},
		{"together", "https://api.together.ai/v1", AuthBearer, FormatToken},
		{"fireworks", "https://api.fireworks.ai/inference/v1", AuthBearer, FormatToken},
		{"deepseek", "https://api.deepseek.com", AuthBearer, FormatToken},
		{"perplexity", "https://api.perplexity.ai", AuthBearer, FormatToken},
		{"openrouter", "https://openrouter.ai/api/v1", AuthBearer, FormatToken},
		{"azure_openai", "https://{resource}.openai.azure.com", AuthAPIKey, FormatJSON},
		{"bedrock", "https://bedrock-runtime.{region}.amazonaws.com", AuthAWSSigV4, FormatJSON},
		{"vertex", "https://aiplatform.googleapis.com/v1", AuthGCPOAuth, FormatJSON},
		{"vertexanthropic", "https://aiplatform.googleapis.com/v1", AuthGCPOAuth, FormatJSON},
	}
	c := load(t)
	slugs := []string{}
	for i, p := range c.All() {
		slugs = append(slugs, p.Slug)
		require.Less(t, i, len(want), p.Slug)
		require.Equal(t, want[i].slug, p.Slug)
		require.Equal(t, want[i].baseURL, p.BaseURL)
		require.Equal(t, want[i].style, p.AuthStyle)
		require.Equal(t, want[i].format, p.SecretFormat)
	}
	require.Len(t, slugs, len(want))
	require.Equal(t, slugs, c.Slugs())
}

func TestRequiredFieldsArePinned(t *testing.T) {
	c := load(t)
	serviceAccount := []string{"type", "project_id", "private_key", "client_email"}
	require.Equal(t, []string{}, lookup(t, c, "openai").RequiredFields())
	require.Equal(t, [][]string{
		{"resource", "api_key"}, {"endpoint", "api_key"}, {"endpoint", "tenant_id", "client_id", "client_secret"},
	}, lookup(t, c, "azure_openai").Alternatives)
	require.Equal(t, []string{"region"}, lookup(t, c, "bedrock").RequiredFields())
	require.Equal(t, [][]string{{"api_key"}, {"access_key_id", "secret_access_key"}, {"role_arn"}}, lookup(t, c, "bedrock").Alternatives)
	require.Equal(t, serviceAccount, lookup(t, c, "vertex").RequiredFields())
	require.Equal(t, serviceAccount, lookup(t, c, "vertexanthropic").RequiredFields())
}

func TestKnownPrefixes(t *testing.T) {
	c := load(t)
	require.Equal(t, []string{"sk-", "sk-proj-", "sk-svcacct-", "sk-admin-"}, lookup(t, c, "openai").KnownPrefixes())
	require.Equal(t, []string{}, lookup(t, c, "mistral").KnownPrefixes())
}

func TestLookupIsExact(t *testing.T) {
	c := load(t)
	for _, slug := range []string{"", "OpenAI", "openai ", "nope"} {
		_, ok := c.Lookup(slug)
		require.False(t, ok, "%q", slug)
	}
}

func TestParseInvalid(t *testing.T) {
	const validCatalogue = `
providers:
  - slug: one
    display_name: One
    base_url: https://one.example/v1
    auth_style: bearer
    dialect: openai
    routes: [{path: /v2, dialect: google}]
    secret_format: token
    prefixes: [{value: one-, distinctive: true}, {value: sk-}]
    verify: {path: /v1/models}
    key_page: https://one.example/keys
    example: one-EXAMPLE
  - slug: two
    display_name: Two
    base_url: https://{region}.two.example
    auth_style: api_key
    dialect: openai
    secret_format: json
    prefixes: [{value: sk-}]
    fields: [{name: region}, {name: api_key}]
    key_field: api_key
    key_page: https://two.example/keys
    example: '{}'
`
	_, err := parse([]byte(validCatalogue))
	require.NoError(t, err)
	cases := []struct{ name, old, new string }{
		{"not YAML", "providers:", "providers: ]"},
		{"unknown field", "display_name: One", "display_name: One\n    nickname: One"},
		{"unknown field of a prefix", "{value: one-, ", "{value: one-, length: 3, "},
		{"field twice", "slug: one", "slug: one\n    slug: one"},
		{"second document", "example: '{}'", "example: '{}'\n---\nproviders: []"},
		{"no providers", validCatalogue, "providers: []"},
		{"slug taken", "slug: two", "slug: one"},
		{"slug in capitals", "slug: one", "slug: One"},
		{"no display name", "display_name: One", "display_name: ''"},
		{"plain http", "https://one.example/v1", "http://one.example/v1"},
		{"no host", "https://one.example/v1", "https:///v1"},
		{"user in the URL", "https://one.example/v1", "https://user@one.example/v1"},
		{"trailing slash", "https://one.example/v1", "https://one.example/v1/"},
		{"query", "https://one.example/v1", "https://one.example/v1?a=b"},
		{"stray brace", "https://one.example/v1", "https://one.example/v1}"},
		{"host from no field", "https://{region}.two", "https://{zone}.two"},
		{"host from an optional field", "{name: region}", "{name: region, optional: true}"},
		{"unknown auth style", "auth_style: bearer", "auth_style: basic"},
		{"no dialect", "    dialect: openai\n", ""},
		{"unknown dialect", "dialect: openai", "dialect: latin"},
		{"names by URL that begin anywhere", "auth_style: bearer", "auth_style: bearer\n    named_by_url: /files$"},
		{"names by URL that are no pattern", "auth_style: bearer", "auth_style: bearer\n    named_by_url: ^/(files$"},
		{"unknown dialect of a route", "dialect: google", "dialect: latin"},
		{"unknown secret format", "secret_format: token", "secret_format: xml"},
		{"token with fields", "secret_format: token", "secret_format: token\n    fields: [{name: a}]"},
		{"json without a required field", "https://{region}.two.example\n    auth_style: api_key\n    dialect: openai\n    secret_format: json\n" +
			"    prefixes: [{value: sk-}]\n    fields: [{name: region}, {name: api_key}]\n    key_field: api_key",
			"https://two.example\n    auth_style: gcp_oauth\n    dialect: openai\n    secret_format: json"},
		{"key field of a token", "auth_style: bearer", "auth_style: bearer\n    key_field: api_key"},
		{"key field that is not a field", "key_field: api_key", "key_field: key"},
		{"key field that is optional", "{name: api_key}", "{name: api_key, optional: true}"},
		{"no key field for a header", "key_field: api_key", "key_field: ''"},
		{"only one alternative", "{name: api_key}]", "{name: api_key}, {name: a, optional: true}]\n    alternatives: [[a]]"},
		{"alternatives with a required field", "{name: api_key}]", "{name: api_key}, {name: a, optional: true}]\n    alternatives: [[a], [region]]"},
		{"alternatives with what is no field", "{name: api_key}]", "{name: api_key}, {name: a, optional: true}]\n    alternatives: [[a], [b]]"},
		{"a route's host with a slash", "auth_style: bearer", "auth_style: bearer\n    routes: [{path: /v1, host: a.example/b}]"},
		{"a route's host from no segment", "auth_style: bearer", "auth_style: bearer\n    routes: [{path: /v1, host: '*-a.example'}]"},
		{"a route's host that is all from a segment", "auth_style: bearer", "auth_style: bearer\n    routes: [{path: '/v1/*', host: '*.example'}]"},
		{"nameless field", "{name: api_key}", "{name: api_key}, {optional: true}"},
		{"field listed twice", "{name: api_key}", "{name: api_key}, {name: region}"},
		{"empty prefix", "{value: one-, distinctive: true}", "{value: ''}"},
		{"prefix twice", "{value: one-, distinctive: true}", "{value: sk-}"},
		{"distinctive prefix of two", "prefixes: [{value: sk-}]", "prefixes: [{value: one-}]"},
		{"distinctive after plain", "prefixes: [{value: sk-}]", "prefixes: [{value: sk-, distinctive: true}]"},
		{"a test's path without a slash", "path: /v1/models", "path: v1/models"},
		{"a test's path from no field", "path: /v1/models", "path: '/v1/{project}/models'"},
		{"a test's host with a path", "path: /v1/models", "path: /v1/models, host: one.example/v1"},
		{"a test that is signed for a header", "path: /v1/models", "path: /v1/models, signed: {path: /, service: sts}"},
		{"a test that is a GET with a body", "path: /v1/models", "path: /v1/models, body: '{}'"},
		{"key page not https", "https://one.example/keys", "one.example/keys"},
		{"no example", "example: one-EXAMPLE", "example: ''"},
	}
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			document := strings.Replace(validCatalogue, test.old, test.new, 1)
			require.NotEqual(t, validCatalogue, document)
			_, err := parse([]byte(document))
			require.ErrorIs(t, err, ErrCatalogue)
		})
	}
}

func TestCustomProvidersAreDescribedPlainly(t *testing.T) {
	good := Custom{Slug: "x-vllm", Name: "vLLM", BaseURL: "https://llm.example:8443/v1", Dialect: DialectOpenAI, Auth: AuthBearer}
	require.Empty(t, good.Check())
	for _, url := range []string{"http://127.0.0.1:11434/v1", "http://10.20.0.7:8000", "https://[fd12::7]/v1", "http://ollama:11434", "https://llm_1.example/a/b.c"} {
		c := good
		c.BaseURL = url
		require.Empty(t, c.Check(), url)
	}
	for _, url := range []string{
		"", "llm.example/v1", "ftp://llm.example", "https://u:hunter2@llm.example/v1", "https://llm.example/v1?hunter2", "https://llm.example/#", "https://llm.example/v1/",
		"https://llm.example/a//b", "https://llm.example/../b", "https://llm.example/%2e%2e/b", "https://llm.example:0/v1", "https://llm.example:70000/v1",
		"https://llm.example:/v1", "https://пример.example/v1", "https://llm.example。/v1", "https://2130706433/v1", "https://0x7f.1/v1", "https://127.1/v1",
		"http://169.254.169.254/latest", "http://[fe80::1]/v1", "http://[fe80::1%25eth0]/v1", "http://[::ffff:169.254.169.254]/", "http://0.0.0.0/v1", "https:///v1", "https://.example",
	} {
		c := good
		c.BaseURL = url
		faults := c.Check()
		require.Len(t, faults, 1, url)
		require.Equal(t, "base_url", faults[0].Field)
		require.NotContains(t, faults[0].Message, "hunter2")
	}
	for field, change := range map[string]func(*Custom){
		"slug":    func(c *Custom) { c.Slug = "openai" },
		"name":    func(c *Custom) { c.Name = " vLLM" },
		"dialect": func(c *Custom) { c.Dialect = DialectGoogle },
		"auth":    func(c *Custom) { c.Auth = AuthAWSSigV4 },
		"header":  func(c *Custom) { c.Auth, c.Header = AuthHeader, "Transfer-Encoding" },
	} {
		c := good
		change(&c)
		require.Equal(t, field, c.Check()[0].Field)
	}
}

// A key goes into the header that its provider names. In a header that routes requests, some servers would use the key
// as the path, even outside the base URL.
func TestNoKeyGoesIntoAHeaderThatRoutes(t *testing.T) {
	for name, fit := range map[string]bool{
		"X-Api-Key": true, "Ocp-Apim-Subscription-Key": true, "Authorization": true, "Client-Id": true,
		"X-Original-URL": false, "x-rewrite-url": false, "X-HTTP-Method-Override": false, "X-Method-Override": false, "Host": false,
		"X-Forwarded-For": false, "X-Real-IP": false, "True-Client-Ip": false, "Cookie": false, "Agentrouter-Project": false, "X_Api_Key": false,
	} {
		c := Custom{Slug: "x-vllm", Name: "vLLM", BaseURL: "https://llm.example/v1", Dialect: DialectOpenAI, Auth: AuthHeader, Header: name}
		require.Equal(t, fit, len(c.Check()) == 0, name)
	}
}

func TestNoCataloguedSlugIsACustomOne(t *testing.T) {
	catalogue, err := Load()
	require.NoError(t, err)
	for _, slug := range catalogue.Slugs() {
		require.False(t, IsCustom(slug), slug)
	}
}

func TestTheDigestCoversWhereAndHowAKeyIsSent(t *testing.T) {
	base := Custom{Slug: "x-vllm", Name: "vLLM", BaseURL: "https://llm.example/v1", Dialect: DialectOpenAI, Auth: AuthBearer}
	seen := map[string]bool{base.Digest(): true}
	for _, change := range []func(*Custom){
		func(c *Custom) { c.BaseURL = "https://evil.example/v1" }, func(c *Custom) { c.Dialect = DialectAnthropic },
		func(c *Custom) { c.Auth, c.Header = AuthHeader, "X-Key" }, func(c *Custom) { c.Auth, c.Header = AuthHeader, "X-Other" },
	} {
		c := base
		change(&c)
		require.False(t, seen[c.Digest()])
		seen[c.Digest()] = true
	}
}

// A test goes only to the provider's hosts, whatever a stored credential holds.
func TestTestsStayOnTheirHosts(t *testing.T) {
	c, now := load(t), time.Date(2026, 11, 29, 12, 30, 0, 0, time.UTC)
	test := func(slug, secret string) (*http.Request, error) {
		p := lookup(t, c, slug)
		credential, err := p.Credential(secret, now)
		require.NoError(t, err, secret)
		got, err := p.NewTest(t.Context(), secret, credential, now)
		return got.Request, err
	}
	robot := func(project string) string {
		return fmt.Sprintf(`{"type":"service_account","project_id":%q,"private_key":%q,"client_email":"r@p.iam.gserviceaccount.com","token_uri":"https://evil.example"}`,
			project, privateKey(t))
	}
	for secret, want := range map[[2]string]string{
		{"openai", lookup(t, c, "openai").Example}:                     "https://api.openai.com/v1/models",
		{"bedrock", `{"api_key":"ABSK-EXAMPLE","region":"eu-west-1"}`}: "https://bedrock.eu-west-1.amazonaws.com/foundation-models",
		{"bedrock", lookup(t, c, "bedrock").Example}:                   "https://sts.us-east-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15",
		{"vertex", robot("example-project")}:                           "https://aiplatform.googleapis.com/v1/projects/example-project/locations?pageSize=1",
		{"vertexanthropic", robot("example.com:legacy")}:               "https://aiplatform.googleapis.com/v1/projects/example.com:legacy/locations?pageSize=1",
	} {
		r, err := test(secret[0], secret[1])
		require.NoError(t, err, want)
		require.Equal(t, want, r.URL.String())
		require.Equal(t, r.URL.Host, r.Host)
	}
	for _, project := range []string{"..", "a/b", "a?b", "a%2fb"} {
		_, err := test("vertex", robot(project))
		require.ErrorIs(t, err, ErrCredential, project)
	}
}

func TestTestsAreSignedAsByAWS(t *testing.T) {
	bedrock, at := lookup(t, load(t), "bedrock"), time.Date(2026, 11, 29, 12, 30, 0, 0, time.UTC)
	for _, session := range []string{"", "IQoJ/fake+=="} {
		secret := fmt.Sprintf(
			`{"access_key_id":"AKIDEXAMPLE","secret_access_key":"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY","region":"eu-west-1","session_token":%q}`, session)
		credential, err := bedrock.Credential(secret, at)
		require.NoError(t, err)
		got, err := bedrock.NewTest(t.Context(), secret, credential, at)
		require.NoError(t, err)
		r := got.Request
		require.Equal(t, signByBotocore(t, r, "sts", session, at, 0), r.Header.Get("Authorization"))
		require.Equal(t, session, r.Header.Get("X-Amz-Security-Token"))
		require.Equal(t, "20261129T123000Z", r.Header.Get("X-Amz-Date"))
	}
}

func TestAnswersOfProvidersAreJudged(t *testing.T) {
	type answer struct {
		provider string
		status   int
		body     string
		want     verdict.Verdict
	}
	answers := []answer{ // from the providers' pages and public reports
		{"openai", 401, `{"error": {"message": "Incorrect API key provided: sk-pro***0001.", "type": "invalid_request_error", "param": null, "code": "invalid_api_key"}}`, verdict.Rejected},
		{"openai", 401, `{"error": {"message": "Your IP is not authorized.", "code": "ip_not_authorized"}}`, verdict.Unrelated},
		{"openai", 401, `{"error": {"message": "OpenAI-Organization header should match organization for API key", "code": "mismatched_organization"}}`, verdict.Unrelated},
		{"openai", 401, `{"error": {"message": "No such organization: org-x.", "code": "invalid_organization"}}`, verdict.Unrelated},
		{"openai", 401, `{"error": {"message": "You have insufficient permissions for this operation. Missing scopes: api.responses.write.", "code": null}}`, verdict.Restricted},
		{"openai", 403, `{"error": {"message": "You have insufficient permissions for this operation. Missing scopes: api.model.read.", "code": null}}`, verdict.Restricted},
		{"openai", 403, `{"error": {"code": "unsupported_country_region_territory", "message": "Country, region, or territory not supported"}}`, verdict.Unrelated},
		{"openai", 403, `{"error": {"message": "Project proj_x does not have access to model gpt-x", "code": "model_not_found"}}`, verdict.Unrelated},
		{"openai", 400, `{"error": {"message": "Billing hard limit has been reached", "code": "billing_hard_limit_reached"}}`, verdict.QuotaExhausted},
		{"openai", 400, `{"error": {"message": "Unknown model \"insufficient_quota\"", "code": null}}`, verdict.Unknown},
		{"openai", 429, `{"error": {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "credit_balance_exhausted"}}`, verdict.QuotaExhausted},
		{"openai", 429, `{"error": {"message": "You exceeded your current quota", "type": "requests", "code": "insufficient_quota"}}`, verdict.QuotaExhausted},
		{"openai", 429, `{"error": {"message": "Your account is not active", "type": "billing_not_active", "code": "billing_not_active"}}`, verdict.QuotaExhausted},
		{"openai", 429, `{"error": {"message": "Rate limit reached for requests", "type": "requests", "code": "rate_limit_exceeded"}}`, verdict.RateLimited},

		{"anthropic", 401, `{"type": "error", "error": {"type": "authentication_error", "message": "invalid x-api-key"}}`, verdict.Rejected},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."}}`, verdict.QuotaExhausted},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."}}`, verdict.QuotaExhausted},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "This organization has been disabled."}}`, verdict.Rejected},
		{"anthropic", 400, `{"type": "error", "error": {"type": "invalid_request_error", "message": "model: This organization has been disabled."}}`, verdict.Unknown},
		{"anthropic", 403, `{"error": {"type": "forbidden", "message": "Request not allowed"}}`, verdict.Unrelated},
		{"anthropic", 403, `{"type": "error", "error": {"type": "permission_error", "message": "…"}}`, verdict.Forbidden},
		{"anthropic", 404, `{"type": "error", "error": {"type": "not_found_error", "message": "model: claude-x"}}`, verdict.Accepted},

		{"gemini", 400, `{"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT", "details": [
		{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"}]}}`, verdict.Rejected},
		{"gemini", 400, `[{"error": {"code": 400, "message": "API key expired.", "details": [{"reason": "API_KEY_INVALID"}]}}]`, verdict.Rejected},
		{"gemini", 400, `{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"API_KEY_INVALID\"", "details": [
		{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "reason", "description": "API_KEY_INVALID"}]}]}}`, verdict.Unknown},
		{"gemini", 403, `{"error": {"code": 403, "message": "Your API key was reported as leaked. Please use another API key.", "status": "PERMISSION_DENIED"}}`, verdict.Leaked},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "API_KEY_SERVICE_BLOCKED"}]}}`, verdict.Rejected},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "CONSUMER_SUSPENDED"}]}}`, verdict.Rejected},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "API_KEY_IP_ADDRESS_BLOCKED"}]}}`, verdict.Unrelated},
		{"gemini", 403, `{"error": {"code": 403, "details": [{"reason": "API_KEY_HTTP_REFERRER_BLOCKED"}]}}`, verdict.Unrelated},
		{"gemini", 402, `{"error": {"code": 402, "message": "Your prepayment credits are depleted.", "status": "RESOURCE_EXHAUSTED"}}`, verdict.QuotaExhausted},
		{"gemini", 429, `{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}`, verdict.RateLimited},

		{"bedrock", 403, `{"Message": "Authentication failed: Please make sure your API Key is valid."}`, verdict.Rejected},
		{"bedrock", 403, `{"message": "The security token included in the request is expired"}`, verdict.Rejected},
		{"bedrock", 403, `{"message": "The security token included in the request is invalid."}`, verdict.Rejected},
		{"bedrock", 403, `{"message": "You don't have access to the model with the specified model ID."}`, verdict.Unrelated},
		{"bedrock", 403, `{"Message": "User: arn:aws:iam::123456789012:user/u is not authorized to perform: bedrock:InvokeModel"}`, verdict.Forbidden},

		{"groq", 401, `{"error": {"message": "Invalid API Key", "code": "invalid_api_key"}}`, verdict.Rejected},
		{"groq", 400, `{"error": {"message": "Organization has been restricted.", "code": "organization_restricted"}}`, verdict.Rejected},
		{"groq", 403, `{"error": {"message": "…", "code": "model_permission_blocked_org"}}`, verdict.Unrelated},
		{"groq", 403, `{"error": {"message": "…", "code": "model_permission_blocked_project"}}`, verdict.Unrelated},
		{"groq", 403, `{"error": {"message": "Access denied. Please check your network settings."}}`, verdict.Unrelated},

		{"xai", 400, `{"code": "Client specified an invalid argument", "error": "Incorrect API key provided: xa***05. You can obtain an API key from https://console.x.ai."}`, verdict.Rejected},
		{"xai", 400, `{"code": "Client specified an invalid argument", "error": "Argument not supported: Incorrect API key provided"}`, verdict.Unknown},
		{"xai", 403, `{"code": "The caller does not have permission", "error": "Your newly created team doesn't have any credits or licenses yet."}`, verdict.QuotaExhausted},
		{"deepinfra", 401, `{"detail": {"error": "User authentication required"}}`, verdict.Rejected},
		{"mistral", 401, `{"detail": "Unauthorized"}`, verdict.Rejected},
		{"cohere", 401, `{"message": "invalid api token"}`, verdict.Rejected},
		{"together", 401, `{"error": {"message": "Invalid API key provided", "code": "invalid_api_key"}}`, verdict.Rejected},
		{"together", 402, `{"error": {"message": "Payment required"}}`, verdict.QuotaExhausted},
		{"fireworks", 401, `{"error": {"message": "The API key you provided is invalid."}}`, verdict.Rejected},
		{"fireworks", 412, `{"error": {"message": "Account acme is suspended, possibly due to reaching the monthly spending limit or failure to pay past invoices.", "code": "PRECONDITION_FAILED"}}`, verdict.QuotaExhausted},
		{"fireworks", 412, ``, verdict.Accepted},
		{"deepseek", 401, `{"error": {"message": "Authentication Fails", "type": "authentication_error"}}`, verdict.Rejected},
		{"deepseek", 402, `{"error": {"message": "Insufficient Balance"}}`, verdict.QuotaExhausted},
		{"perplexity", 401, `{"error": {"message": "Invalid API key provided.", "type": "invalid_api_key", "code": 401}}`, verdict.Rejected},
		{"openrouter", 401, `{"error": {"message": "User not found.", "code": 401}}`, verdict.Rejected},
		{"openrouter", 402, `{"error": {"message": "Insufficient credits. Add more using https://openrouter.ai/settings/credits", "code": 402}}`, verdict.QuotaExhausted},
		{"openrouter", 402, `{"error": {"message": "This request requires more credits, or fewer max_tokens. You requested up to 65536 tokens, but can only afford 3395.", "code": 402}}`, verdict.Unrelated},
		{"openrouter", 403, `{"error": {"message": "Key limit exceeded (total limit).", "code": 403}}`, verdict.QuotaExhausted},
		{"openrouter", 403, `{"error": {"message": "x requires moderation", "code": 403, "metadata": {"reasons": ["violence"], "flagged_input": "…"}}}`, verdict.Unrelated},
		{"azure_openai", 401, `{"error": {"code": "401", "message": "Access denied due to invalid subscription key or wrong API endpoint."}}`, verdict.Rejected},
		{"azure_openai", 403, `{"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}}`, verdict.Unrelated},
		{"azure_openai", 403, `{"error": {"code": "403", "message": "Public access is disabled. Please configure private endpoint."}}`, verdict.Unrelated},
		{"azure_openai", 429, `{"error": {"code": "insufficient_quota", "message": "…"}}`, verdict.QuotaExhausted},
	}
	c := load(t)
	for _, a := range answers {
		require.Equal(t, a.want, lookup(t, c, a.provider).Answers.Judge(a.status, []byte(a.body)), "%s %d %s", a.provider, a.status, a.body)
	}
	// Each rule is needed: without it, at least one answer is judged otherwise.
	for _, p := range c.All() {
		for i := range p.Answers {
			fewer := slices.Delete(slices.Clone(p.Answers), i, i+1)
			require.True(t, slices.ContainsFunc(answers, func(a answer) bool {
				return a.provider == p.Slug && fewer.Judge(a.status, []byte(a.body)) != a.want
			}), "%s: %+v", p.Slug, p.Answers[i])
		}
	}
}
