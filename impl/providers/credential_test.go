package providers

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// withMember returns the provider's example with one member's value replaced by raw JSON, or removed for "".
func withMember(t testing.TB, p Provider, name, raw string) string {
	t.Helper()
	members := map[string]json.RawMessage{}
	require.NoError(t, json.Unmarshal([]byte(p.Example), &members))
	delete(members, name)
	parts := []string{}
	for _, key := range slices.Sorted(maps.Keys(members)) {
		parts = append(parts, `"`+key+`": `+string(members[key]))
	}
	if raw != "" {
		parts = append(parts, `"`+name+`": `+raw)
	}
	return "{" + strings.Join(parts, ",\r\n\t") + "}"
}

func TestCredentialsOfTheRightShapeAreTaken(t *testing.T) {
	c := load(t)
	for _, test := range []struct{ name, slug, member, raw string }{
		{"white space between tokens", "azure_openai", "note", `"x"`},
		{"unlisted members", "bedrock", "tags", `{"a": [1, null]}`},
		{"temporary credentials", "bedrock", "session_token", `"IQoJfake+/=="`},
		{"escaped member value", "bedrock", "region", `"eu\u002dwest-1"`},
		{"one-letter resource", "azure_openai", "resource", `"a"`},
		{"no token_uri", "vertex", "token_uri", ""},
		{"old token_uri", "vertex", "token_uri", `"https://accounts.google.com/o/oauth2/token"`},
		{"universe_domain", "vertexanthropic", "universe_domain", `"googleapis.com"`},
		{"Windows line ends in the private key", "vertex", "private_key", `"-----BEGIN PRIVATE KEY-----\r\nEXAMPLE\r\n"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := lookup(t, c, test.slug)
			require.Empty(t, refusal(t, c, p, withMember(t, p, test.member, test.raw)))
		})
	}
}

func TestDocumentsThatAreNotOneObjectAreRefused(t *testing.T) {
	c := load(t)
	p := lookup(t, c, "azure_openai")
	const object = `{"resource": "r", "api_key": "k"}`
	require.Empty(t, refusal(t, c, p, object))
	reasons := map[string][]string{
		"The secret must be a JSON object with the members resource, api_key.": {
			"fake-key", "****", "null", "[]", "[" + object + "]", `"text"`, "12", "{", `{"resource"`, `{"resource": "r",}`,
			`{resource: "r"}`, `{'resource': 'r'}`, "{\"resource\": \"r\nr\", \"api_key\": \"k\"}", "{\"resource\": \"r\xff\"}",
			"{\u00a0}", "\ufeff" + object, `{"resource": "\ud800", "api_key": "k"}`, strings.Repeat(`{"a":`, 3000),
		},
		"The credential's JSON has a member twice.": {
			`{"resource": "r", "api_key": "k", "api_key": "l"}`, `{"resource": "r", "api_key": "k", "api\u005fkey": "l"}`,
			`{"resource": "r", "api_key": "k", "a": {"b": 1, "b": 2}}`,
		},
		"The credential's JSON is followed by something else: give one object.": {
			object + object, object + "x", object + " // note", object + "\x00", object + "}",
		},
		reasonSpace:  {object + "\n", " " + object},
		reasonBearer: {"Bearer " + object},
	}
	for reason, secrets := range reasons {
		for _, secret := range secrets {
			require.Equal(t, reason, refusal(t, c, p, secret), "%.60q", secret)
		}
	}
}

func TestMissingMembersAreNamed(t *testing.T) {
	c := load(t)
	bedrock := lookup(t, c, "bedrock")
	require.Equal(t, "The credential lacks the members secret_access_key, region.",
		refusal(t, c, bedrock, `{"access_key_id": "AKIA-EXAMPLE", "session_token": "t", "Region": "us-east-1"}`))
	for _, p := range c.All() {
		for _, name := range p.RequiredFields() {
			require.Equal(t, "The credential lacks the members "+name+".", refusal(t, c, p, withMember(t, p, name, "")))
		}
	}
}

func TestMembersOfTheWrongTypeOrEmptyAreRefused(t *testing.T) {
	c := load(t)
	for _, p := range c.All() {
		for _, f := range p.Fields {
			for _, raw := range []string{"null", "1", "true", "[]", "{}", `["a"]`, `""`, `" \n"`} {
				require.Equal(t, "The credential's "+f.Name+" must be a string that is not empty.",
					refusal(t, c, p, withMember(t, p, f.Name, raw)), "%s %s", p.Slug, raw)
			}
			require.Equal(t, "The credential's "+f.Name+" is a masked value or a placeholder.",
				refusal(t, c, p, withMember(t, p, f.Name, `"****"`)), p.Slug)
		}
	}
}

// What a credential says may choose among a provider's hosts, never lead away from them.
func TestCredentialsCannotRedirectTheKey(t *testing.T) {
	c := load(t)
	for slug, member := range map[string]string{"azure_openai": "resource", "bedrock": "region"} {
		p := lookup(t, c, slug)
		for _, value := range []string{
			"evil.example/", "evil.example#", "evil.example?", "a.b", "user@evil", "a:443", "-a", "a-", "a/b", "a\\\\b",
			"a%2f", "é",
			"https://r.openai.azure.com", "169.254.169.254", strings.Repeat("a", 64), "a\\nb", "a\\n", "{region}",
		} {
			require.Equal(t, "The credential's "+member+" must be a name of letters, digits and hyphens, not a URL or a host.",
				refusal(t, c, p, withMember(t, p, member, `"`+value+`"`)), value)
		}
	}
	for member, values := range map[string][]string{
		"type":            {"external_account", "authorized_user", "Service_Account"},
		"token_uri":       {"https://evil.example/token", "http://oauth2.googleapis.com/token"},
		"universe_domain": {"evil.example"},
	} {
		p := lookup(t, c, "vertex")
		for _, value := range values {
			require.Contains(t, refusal(t, c, p, withMember(t, p, member, `"`+value+`"`)),
				"The credential's "+member+" must be ", value)
		}
	}
}

func TestMembersThatEndInHeadersAreVisibleASCII(t *testing.T) {
	c := load(t)
	azure, vertex := lookup(t, c, "azure_openai"), lookup(t, c, "vertex")
	for _, raw := range []string{`"a\r\nx-evil: 1"`, `"a b"`, `"é"`, `"a\u0000"`, `" a"`, `"a\n"`} {
		require.Equal(t, "The credential's api_key must be visible ASCII without spaces.",
			refusal(t, c, azure, withMember(t, azure, "api_key", raw)), raw)
	}
	for _, raw := range []string{`"\u0000a"`, `"é"`, `"a\tb"`} {
		require.Equal(t, "The credential's private_key must be ASCII text.",
			refusal(t, c, vertex, withMember(t, vertex, "private_key", raw)), raw)
	}
}
