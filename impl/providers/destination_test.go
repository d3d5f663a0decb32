package providers

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is taken in a register can be used in a fetch: each example of the catalogue has a destination.
func TestWhereEachProvidersSecretsGo(t *testing.T) {
	c := load(t)
	templates := map[string]string{ // :: the providers whose credentials name a part of the host
		"azure_openai": "https://my-resource.openai.azure.com",
		"bedrock":      "https://bedrock-runtime.us-east-1.amazonaws.com",
	}
	for _, p := range c.All() {
		t.Run(p.Slug, func(t *testing.T) {
			base, injected, err := p.Destination(p.Example)
			require.NoError(t, err)
			want, ok := templates[p.Slug]
			if !ok {
				want = p.BaseURL
			}
			require.Equal(t, want, base)
			if p.Slug == "azure_openai" {
				require.Equal(t, "EXAMPLEEXAMPLEEXAMPLEEXAMPLE0014", injected)
			} else {
				require.Equal(t, p.Example, injected)
			}
		})
	}
}

func TestACredentialThatDoesNotFitHasNoDestination(t *testing.T) {
	c := load(t)
	azure := func(resource, key string) string { return `{"resource":` + resource + `,"api_key":` + key + `}` }
	for name, tc := range map[string]struct{ slug, secret string }{
		"an empty token":                  {"openai", ""},
		"a token with a line end":         {"openai", "sk-a\r\nX-Evil: 1"},
		"a token for a document":          {"azure_openai", canary},
		"another host":                    {"azure_openai", azure(`"evil.example/`+canary+`"`, `"k"`)},
		"a host with a fragment":          {"azure_openai", azure(`"evil.example#"`, `"k"`)},
		"a user before the host":          {"azure_openai", azure(`"a@b"`, `"k"`)},
		"an escaped slash":                {"azure_openai", azure(`"evil\u002f"`, `"k"`)},
		"a label in braces":               {"azure_openai", azure(`"{resource}"`, `"k"`)},
		"an empty label":                  {"azure_openai", azure(`""`, `"k"`)},
		"a label that ends in a hyphen":   {"azure_openai", azure(`"a-"`, `"k"`)},
		"a label and a line end":          {"azure_openai", azure(`"a\n"`, `"k"`)},
		"a number":                        {"azure_openai", azure(`1`, `"k"`)},
		"no label":                        {"azure_openai", `{"api_key":"k"}`},
		"no key":                          {"azure_openai", `{"resource":"r"}`},
		"an empty key":                    {"azure_openai", azure(`"r"`, `""`)},
		"a key that ends the header":      {"azure_openai", azure(`"r"`, `"k\r\nX-Evil: 1"`)},
		"two labels":                      {"azure_openai", `{"resource":"r","resource":"evil","api_key":"k"}`},
		"two documents":                   {"azure_openai", azure(`"r"`, `"k"`) + azure(`"evil"`, `"k"`)},
		"another host for what is signed": {"bedrock", `{"access_key_id":"a","secret_access_key":"b","region":"x.evil.example/"}`},
	} {
		t.Run(name, func(t *testing.T) {
			base, injected, err := lookup(t, c, tc.slug).Destination(tc.secret)
			require.Equal(t, ErrCredential, err, "and nothing else, as that might quote the credential")
			require.Empty(t, base+injected)
		})
	}
}

// FuzzDestination: whatever the credential, it goes to its provider's domain or nowhere.
func FuzzDestination(f *testing.F) {
	c := load(f)
	for _, p := range c.All() {
		f.Add(p.Slug, p.Example, "x")
	}
	f.Add("azure_openai", "", "evil.example/")
	f.Add("bedrock", "", "x.evil.example#")
	f.Fuzz(func(t *testing.T, slug, secret, label string) {
		p, ok := c.Lookup(slug)
		if !ok {
			p = c.providers[len(secret)%len(c.providers)]
		}
		for _, s := range []string{secret, `{"resource":"` + label + `","api_key":"k","region":"` + label + `"}`} {
			base, _, err := p.Destination(s)
			if err != nil {
				continue
			}
			got, err := url.Parse(base)
			require.NoError(t, err)
			want, err := url.Parse(placeholderPattern.ReplaceAllString(p.BaseURL, "x"))
			require.NoError(t, err)
			require.Equal(t, []any{"https", want.Path, "", "", ""}, []any{got.Scheme, got.Path, got.RawQuery, got.Fragment, got.User.String()})
			if !strings.Contains(p.BaseURL, "{") {
				require.Equal(t, want.Host, got.Host)
				continue
			}
			require.Equal(t, strings.Count(want.Host, "."), strings.Count(got.Host, "."), "no credential adds a label")
			_, domain, _ := strings.Cut(want.Host, "x.")
			require.True(t, strings.HasSuffix(got.Host, "."+domain) && !strings.Contains(got.Host, ":"), got.Host)
		}
	})
}
