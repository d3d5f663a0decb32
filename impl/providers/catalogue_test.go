package providers

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
