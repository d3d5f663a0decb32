package providers

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const canary = "CANARY7Q"

// refusal returns the reason why the secret is refused, or "" if it is accepted.
func refusal(t testing.TB, c *Catalogue, p Provider, secret string) string {
	err := c.CheckSecret(p, secret)
	if err == nil {
		return ""
	}
	var r *Refusal
	require.ErrorAs(t, err, &r)
	require.NotEmpty(t, r.Reason)
	return r.Reason
}

func TestCheckSecretAcceptsExamples(t *testing.T) {
	c := load(t)
	for _, p := range c.All() {
		require.Empty(t, refusal(t, c, p, p.Example), p.Slug)
		require.Contains(t, p.Example, "EXAMPLE", p.Slug)
	}
}

func TestCheckSecretAcceptsTokens(t *testing.T) {
	c := load(t)
	for _, test := range []struct{ slug, secret string }{
		{"openai", "sk-" + strings.Repeat("f", 21)},
		{"openai", "sk-" + strings.Repeat("Fake", 12)},
		{"openai", "sk-svcacct-" + strings.Repeat("Fa-_", 40)},
		{"openai", "sk-proj-xAI-gsk_AIza-sk-ant-fake"},
		{"anthropic", "sk-ant-api03-" + strings.Repeat("fake", 23) + "AA"},
		{"anthropic", "sk-ant-oat01-fake-fake-fake-fake"},
		{"gemini", "AIzaSyFakeFakeFakeFake"},
		{"gemini", "AQ.Ab8FakeFakeFakeFake_Fake-Fake"},
		{"groq", "gsk_" + strings.Repeat("fake", 13)},
		{"xai", "xai-" + strings.Repeat("fake", 20)},
		{"deepinfra", "FakeFakeFakeFakeFakeFakeFakeFake"},
		{"deepinfra", "jwt:fake.fake.fa=="},
		{"mistral", "xFakexxFakexxxFakexxxxFake"},
		{"cohere", strings.Repeat("Fake", 10)},
		{"together", "tgp_v1_fake-fake_fake-fake"},
		{"together", strings.Repeat("0fa4e", 13)},
		{"fireworks", "fw_3ZfakeFakeFake"},
		{"fireworks", "fpk_fakeFakeFake"},
		{"fireworks", "no-prefix-at-all"},
		{"deepseek", "sk-" + strings.Repeat("fa4e", 8)},
		{"groq", "sk-the-shared-prefix-is-nobodys"},
		{"perplexity", "pplx-" + strings.Repeat("fake", 12)},
		{"openrouter", "sk-or-v1-" + strings.Repeat("fa4e", 16)},
		{"mistral", strings.Repeat("a", MaxSecretBytes)},
		{"mistral", "BearerFakeFakeFake"},
		{"mistral", "!#$%&'*+-.^_`|~/=:;,?@()[]{}\\\""},
	} {
		t.Run(test.slug+"/"+test.secret[:min(12, len(test.secret))], func(t *testing.T) {
			require.Empty(t, refusal(t, c, lookup(t, c, test.slug), test.secret))
		})
	}
}

func TestCheckSecretRefusesTokens(t *testing.T) {
	c := load(t)
	openai := lookup(t, c, "openai")
	const long = "sk-proj-fakeFakeFakeFakeFakeFake"
	reasons := map[string][]string{
		reasonEmpty:   {""},
		reasonTooLong: {strings.Repeat("a", MaxSecretBytes+1), "sk-" + strings.Repeat("\n", MaxSecretBytes)},
		reasonSpace: {
			" sk-fake", "sk-fake ", "sk-fake\n", "sk-fake\r\n", "\tsk-fake", "sk-fake\u00a0", "\u2003sk-fake",
			"sk-fake\u2028", "\u3000sk-fake", "sk-fake\u0085", "   ",
		},
		reasonBearer: {"Bearer sk-fake", "bearer sk-fake", "BEARER\tsk-fake", "Bearer\u00a0sk-fake", "Bearer: sk", "Bearer"},
		reasonMasked: {
			"sk-...abcd", "sk-…abcd", "****", "sk-proj-***abcd", "xxxx", "XXXX-XXXX", "sk-xxx", "sk-proj-xxxx", "sk-",
			"sk-fake-xxxxxxxxxxxx", "••••", "sk-•••abcd", "<your key>", "sk-<key>", "$OPENAI_API_KEY", "${OPENAI_API_KEY}",
			"{{ openai_key }}", "your-api-key", "YOUR_OPENAI_API_KEY", "sk-your-key-here",
		},
		reasonIsJSON: {`{"api_key": "sk-fake"}`, `["sk-fake"]`, "{"},
		reasonQuoted: {`"sk-fake"`, `'sk-fake'`, "`sk-fake`"},
		reasonChars: {
			"sk-fa ke", "sk-fa\nke", "sk-fa\tke", "sk-fa\x00ke", "sk-fa\x7fke", "sk-fake\x1b[0m", "sk-fäke", "sk-fake\u200b",
			"sk-fa\xffke", "sk–fake",
		},
		reasonBOM: {"\ufeffsk-fake", "\ufeff"},
		reasonNamed: {
			"OPENAI_API_KEY=sk-fake", "OPENAI_API_KEY = sk-fake", `export OPENAI_API_KEY="sk-fake"`, "KEY=sk-fake", "setx KEY=sk-fake",
			`$env:OPENAI_API_KEY="sk-fake"`, "x-api-key: sk-fake", "Authorization: Bearer sk-fake", "api_key:sk-fake",
			`"OPENAI_API_KEY": "sk-fake",`, "'apiKey': 'sk-fake'", `"KEY=sk-fake"`,
		},
		reasonSeveral: {
			"staging:" + long, long + "," + long, "sk-fake:" + long, "https://user:" + long + "@example.com",
		},
		reasonBase64:  {base64.StdEncoding.EncodeToString([]byte(long)), base64.StdEncoding.EncodeToString([]byte(long + "\n"))},
		reasonSession: {"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"},
		"The secret is too short for a key of OpenAI: give the whole key, as the provider showed it once.": {
			"k", "openai-prod", "sk-fake", long[:23],
		},
		reasonOurs:  {"ak_01M8H8236WYX8787KJMGSKFAWB_x_y", "ak-ak_01M8H8236WYX8787KJMGSKFAWB_x_y", "dp_01M8H8236WYX8787KJMGSKFAWB_x_y"},
		reasonAdmin: {"sk-admin-fake-fake", "sk-ant-admin01-fake-fake"},
	}
	for reason, secrets := range reasons {
		for _, secret := range secrets {
			t.Run(fmt.Sprintf("%.24q", secret), func(t *testing.T) {
				require.Equal(t, reason, refusal(t, c, openai, secret))
			})
		}
	}
}

func TestCheckSecretDistinctivePrefix(t *testing.T) {
	c := load(t)
	count := 0
	for _, owner := range c.All() {
		for _, prefix := range owner.Prefixes {
			for _, p := range c.All() {
				reason := refusal(t, c, p, prefix.Value+"fake-fake-fake-fake-fake-"+canary)
				switch {
				case prefix.Value == "sk-admin-":
					require.Equal(t, reasonAdmin, reason, p.Slug)
				case p.Slug == owner.Slug && p.SecretFormat == FormatToken, !prefix.Distinctive && p.SecretFormat == FormatToken:
					require.Empty(t, reason, "%s as %s", prefix.Value, p.Slug)
				case p.Slug != owner.Slug && prefix.Distinctive:
					require.Equal(t, "The secret looks like a key of "+owner.DisplayName+", not of "+p.DisplayName+".", reason)
					count++
				default:
					require.Contains(t, reason, "must be a JSON object", "%s as %s", prefix.Value, p.Slug)
				}
			}
		}
	}
	require.Greater(t, count, 200)
}

func TestCheckSecretLongestPrefix(t *testing.T) {
	short := Provider{Slug: "short", DisplayName: "Short", Prefixes: []Prefix{{Value: "k-", Distinctive: true}}}
	long := Provider{Slug: "long", DisplayName: "Long", Prefixes: []Prefix{
		{Value: "k-long-"}, {Value: "k-long-er-", Distinctive: true},
	}}
	none := Provider{Slug: "none", DisplayName: "None"}
	c := &Catalogue{providers: []Provider{short, long, none}}
	require.Empty(t, refusal(t, c, short, "k-fake-fake-fake"))
	require.Empty(t, refusal(t, c, short, "k-long-fake-fake-fake"))
	require.Empty(t, refusal(t, c, long, "k-long-fake-fake-fake"))
	require.Equal(t, "The secret looks like a key of Short, not of Long.", refusal(t, c, long, "k-fake-fake-fake"))
	require.Equal(t, "The secret looks like a key of Long, not of Short.", refusal(t, c, short, "k-long-er-fake-fake-fake"))
	require.Equal(t, "The secret looks like a key of Long, not of None.", refusal(t, c, none, "k-long-er-fake-fake-fake"))
}

// Each shape holds the canary and is wrong for every provider; none of the reasons may hold it.
func TestCheckSecretNeverEchoes(t *testing.T) {
	c := load(t)
	shapes := []string{
		strings.Repeat(canary, MaxSecretBytes/8+1), " " + canary, canary + "\n", "Bearer " + canary, canary + "...",
		"***" + canary,
		"<" + canary + ">", "${" + canary + "}", "your_" + canary + "_key", "sk-" + canary + "\x00", "é" + canary,
		`"` + canary + `"`,
		`["` + canary + `"]`, `{"` + canary + `"`, `{"a": ` + canary + `}`, `{"` + canary + `":1,"` + canary + `":2}`,
		`{"a":{"` + canary + `":1,"` + canary + `":2}}`, `{"` + canary + `":1}` + canary, `{"a":"` + canary + "\xff" + `"}`,
		`{"a":"` + canary + "\n" + `"}`, `{"` + canary + `":"` + canary + `"}`,
	}
	for _, p := range c.All() {
		badMembers := []string{}
		for _, f := range p.Fields {
			for _, value := range []string{`["CANARY7Q"]`, `"CANARY7Q\u0000"`, `"CANARY7Q..."`, `"/CANARY7Q é"`} {
				badMembers = append(badMembers, withMember(t, p, f.Name, value))
			}
		}
		for _, secret := range append(badMembers, shapes...) {
			reason := refusal(t, c, p, secret)
			require.NotEmpty(t, reason, "%s took %.60q", p.Slug, secret)
			require.NotContains(t, reason, canary)
			require.NotContains(t, reason, canary[:4])
		}
	}
}

// If a rule against placeholders matches a real key, its customer can't register the key. The seeds are fixed, so the
// outcome does not vary.
func TestCheckSecretAcceptsRandomKeys(t *testing.T) {
	c := load(t)
	random := rand.New(rand.NewPCG(1, 2))
	const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	prefixes := map[string]string{"openai": "sk-proj-", "anthropic": "sk-ant-api03-", "together": "tgp_v1_", "mistral": "k"}
	for slug, prefix := range prefixes {
		p := lookup(t, c, slug)
		for range 2_000 {
			key := make([]byte, 64)
			for i := range key {
				key[i] = base64url[random.IntN(len(base64url))]
			}
			require.NoError(t, c.CheckSecret(p, prefix+string(key)))
		}
	}
}

func TestDisplaySuffix(t *testing.T) {
	for secret, want := range map[string]string{
		"": "", "abc": "", "abcd": "d", "abcdefg": "g", "abcdefgh": "gh", "abcdefghijklmno": "mno",
		"abcdefghijklmnop":             "mnop",
		"sk-proj-EXAMPLE-EXAMPLE-0001": "0001",
		"ab€":                          "", "ab€€": "€", "abcdefgh€€€€€€€€": "€€€€", "0123456é": "6é", "0123\xff456": "",
		`{"api_key": "EXAMPLEEXAMPLE"}`: "", " \n{\"type\": \"service_account\"}": "",
	} {
		require.Equal(t, want, DisplaySuffix(secret), "%q", secret)
	}
}

func FuzzCheckSecret(f *testing.F) {
	c := load(f)
	for _, p := range c.All() {
		f.Add(p.Slug, p.Example)
	}
	f.Add("vertex", `{"type":"service_account","type":1}`)
	f.Add("openai", "sk-…abcd")
	f.Fuzz(func(t *testing.T, slug, secret string) {
		p, ok := c.Lookup(slug)
		if !ok {
			p = c.providers[len(secret)%len(c.providers)]
		}
		// In front and behind, so that the text holds the canary in any shape.
		for _, s := range []string{secret, secret + canary, canary + secret, strings.Replace(secret, `"`, `"`+canary, 1)} {
			reason := refusal(t, c, p, s)
			require.NotContains(t, reason, canary)
			if reason == "" && p.SecretFormat == FormatToken {
				require.True(t, isVisibleASCII(s), "%q", s)
			}
		}
	})
}

func FuzzDisplaySuffix(f *testing.F) {
	f.Add("sk-proj-EXAMPLE-EXAMPLE-0001")
	f.Add("abcdefgh€€€€€€€€")
	f.Add("\xff\xfe")
	f.Fuzz(func(t *testing.T, secret string) {
		suffix := DisplaySuffix(secret)
		require.True(t, strings.HasSuffix(secret, suffix))
		require.True(t, utf8.ValidString(suffix))
		require.LessOrEqual(t, utf8.RuneCountInString(suffix), min(4, utf8.RuneCountInString(secret)/4))
	})
}

// withMember returns the provider's example with one member's value replaced by raw JSON, or removed for "".
func withMember(t testing.TB, p Provider, name, raw string) string {
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

func TestCheckSecretAcceptsCredentials(t *testing.T) {
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
		{"Windows line ends in the private key", "vertex", "private_key", `"-----BEGIN PRIVATE KEY-----\r\nEXAMPLE\r\n-----END PRIVATE KEY-----\r\n"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := lookup(t, c, test.slug)
			require.Empty(t, refusal(t, c, p, withMember(t, p, test.member, test.raw)))
		})
	}
}

func TestCheckSecretNeedsOneObject(t *testing.T) {
	c := load(t)
	p := lookup(t, c, "azure_openai")
	const object = `{"resource": "r", "api_key": "k"}`
	require.Empty(t, refusal(t, c, p, object))
	reasons := map[string][]string{
		"The secret must be a JSON object with either resource and api_key, or endpoint and api_key, or endpoint and tenant_id and client_id and client_secret.": {
			"fake-key", "****", "null", "[]", "[" + object + "]", `"text"`, "12", "{", `{"resource"`, `{"resource": "r",}`,
			`{resource: "r"}`, `{'resource': 'r'}`, "{\"resource\": \"r\nr\", \"api_key\": \"k\"}", "{\"resource\": \"r\xff\"}",
			"{\u00a0}", `{"resource": "\ud800", "api_key": "k"}`, strings.Repeat(`{"a":`, 3000),
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

func TestCheckSecretMissingMembers(t *testing.T) {
	c := load(t)
	require.Equal(t, "The secret is a key alone; it must be a JSON object with the members region and api_key.",
		refusal(t, c, lookup(t, c, "bedrock"), "ABSK-EXAMPLE-EXAMPLE-EXAMPLE"))
	require.Equal(t, "The credential's type must be service_account.",
		refusal(t, c, lookup(t, c, "vertex"), `{"type": "authorized_user", "client_id": "x", "refresh_token": "y"}`))
	azure, bedrock := lookup(t, c, "azure_openai"), lookup(t, c, "bedrock")
	require.Equal(t, "The secret must be a JSON object with the member region, and either api_key, or access_key_id and secret_access_key, or role_arn.",
		refusal(t, c, lookup(t, c, "bedrock"), "EXAMPLE-EXAMPLE-EXAMPLE"))
	for _, credential := range []string{
		`{"Resource": "r", "apikey": "k"}`, `{"resource": "r"}`, `{"resource": "r", "endpoint": "https://r.openai.azure.com", "api_key": "k"}`,
		`{"endpoint": "https://r.openai.azure.com", "tenant_id": "t", "client_id": "c"}`,
		`{"endpoint": "https://r.openai.azure.com", "api_key": "k", "tenant_id": "t", "client_id": "c", "client_secret": "s"}`,
	} {
		require.Equal(t, "The credential needs either resource and api_key, or endpoint and api_key, or endpoint and tenant_id and client_id and client_secret.",
			refusal(t, c, azure, credential))
	}
	for _, credential := range []string{
		`{"region": "us-east-1"}`, `{"region": "us-east-1", "access_key_id": "AKIA-EXAMPLE"}`, `{"region": "us-east-1", "secret_access_key": "k"}`,
		`{"region": "us-east-1", "access_key_id": "AKIA-EXAMPLE", "secret_access_key": "k", "api_key": "ABSK-EXAMPLE"}`,
		`{"region": "us-east-1", "access_key_id": "AKIA-EXAMPLE", "api_key": "ABSK-EXAMPLE"}`,
	} {
		require.Equal(t, "The credential needs either api_key, or access_key_id and secret_access_key, or role_arn.", refusal(t, c, bedrock, credential))
	}
	require.Empty(t, refusal(t, c, bedrock, `{"region": "us-east-1", "api_key": "ABSK-EXAMPLE"}`))
	for _, p := range c.All() {
		for _, name := range p.RequiredFields() {
			require.Equal(t, "The credential lacks the member "+name+".", refusal(t, c, p, withMember(t, p, name, "")))
		}
	}
}

func TestCheckSecretMemberTypes(t *testing.T) {
	c := load(t)
	for _, p := range c.All() {
		for _, f := range p.Fields {
			if p.hasAlternative(f.Name) && !strings.Contains(p.Example, `"`+f.Name+`"`) {
				continue // the example is another kind of credential
			}
			for _, raw := range []string{"null", "1", "true", "[]", "{}", `["a"]`, `""`, `" \n"`} {
				require.Equal(t, "The credential's "+f.Name+" must be a string that is not empty.",
					refusal(t, c, p, withMember(t, p, f.Name, raw)), "%s %s", p.Slug, raw)
			}
			require.Equal(t, "The credential's "+f.Name+" is a masked value or a placeholder.",
				refusal(t, c, p, withMember(t, p, f.Name, `"****"`)), p.Slug)
		}
	}
}

func TestRolesAreNamedPlainly(t *testing.T) {
	c := load(t)
	bedrock := lookup(t, c, "bedrock")
	credential := func(arn string) string { return `{"role_arn":` + strconv.Quote(arn) + `,"region":"us-east-1"}` }
	require.Empty(t, refusal(t, c, bedrock, credential("arn:aws:iam::123456789012:role/team/bedrock")))
	got, err := bedrock.Credential(credential("arn:aws:iam::123456789012:role/team/bedrock"), time.Now())
	require.NoError(t, err)
	require.Empty(t, got.Secret)
	got.SetHolder("acme", "byok_1")
	require.Equal(t, Role{ARN: "arn:aws:iam::123456789012:role/team/bedrock", Region: "us-east-1", ExternalID: "aikeys:acme", Session: "byok_1"}, *got.Grant.Role)
	for _, arn := range []string{
		"arn:aws:iam::123456789012:user/eve", "arn:aws:sts::123456789012:assumed-role/a/b", "arn:aws-cn:iam::123456789012:role/a", "role/a",
		"arn:aws:iam::123456789012:role/a&Action=GetSessionToken", "arn:aws:iam::123456789012:role/", "arn:aws:iam::12:role/a",
	} {
		require.Contains(t, refusal(t, c, bedrock, credential(arn)), "role_arn must be like arn:aws:iam::", arn)
		_, err := bedrock.Credential(credential(arn), time.Now())
		require.ErrorIs(t, err, ErrCredential, arn)
	}
	require.Contains(t, refusal(t, c, bedrock, `{"role_arn":"arn:aws:iam::123456789012:role/a","api_key":"k","region":"us-east-1"}`), "needs either")
	without := c.WithoutRoles()
	require.Equal(t, "The credential needs either api_key, or access_key_id and secret_access_key.",
		refusal(t, without, lookup(t, without, "bedrock"), credential("arn:aws:iam::123456789012:role/a")))
	require.False(t, lookup(t, without, "bedrock").HasRoles())
	require.True(t, bedrock.HasRoles(), "it is a copy")
}

func TestRegionsThatAreNotServedAreRefused(t *testing.T) {
	c := load(t)
	bedrock := lookup(t, c, "bedrock")
	for region, want := range map[string]string{
		"us-east-1": "", "ap-southeast-12": "", "us-gov-west-1": "",
		"cn-north-1": "The credential's region is in China's partition, which is not served.",
		"Frankfurt":  "The credential's region must be like us-east-1.",
		"eu-central": "The credential's region must be like us-east-1.",
	} {
		require.Equal(t, want, refusal(t, c, bedrock, withMember(t, bedrock, "region", `"`+region+`"`)), region)
	}
}

// A credential may choose one of its provider's hosts, and no other host.
func TestCheckSecretCannotRedirectTheKey(t *testing.T) {
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
	azure := lookup(t, c, "azure_openai")
	for _, endpoint := range []string{
		"http://r.openai.azure.com", "r.openai.azure.com", "https://evil.example", "https://openai.azure.com", "https://.openai.azure.com", "https://a.b.openai.azure.com",
		"https://r.openai.azure.com.evil.example", "https://evil.example/.openai.azure.com", "https://evil.example#.openai.azure.com", "https://evil.example?.openai.azure.com",
		"https://user@r.openai.azure.com", "https://r.openai.azure.com:443", "https://r.openai.azure.com/openai/v1", "https://r.openai.azure.com?x", "https://r.openai.azure.com//",
		"https://r%2e.openai.azure.com", "https://-r.openai.azure.com", "https://r.openai.azure.com.", "https://r.azure.us", "https://r.openai.azure.cn",
	} {
		credential := fmt.Sprintf(`{"endpoint": %q, "api_key": "EXAMPLEEXAMPLEEXAMPLE"}`, endpoint)
		require.Equal(t, "The credential's endpoint must be a URL without a path, such as https://my-resource.openai.azure.com, on one of *.openai.azure.com, "+
			"*.services.ai.azure.com, *.cognitiveservices.azure.com, *.openai.azure.us, *.services.ai.azure.us, *.cognitiveservices.azure.us.",
			refusal(t, c, azure, credential), endpoint)
		_, err := azure.Credential(credential, time.Now())
		require.ErrorIs(t, err, ErrCredential, "as a stored one")
	}
	for _, tenant := range []string{"a/b", "../x", "a b", "a?b", "a#b", "a%2f", "..", ".", "a..b", "é"} {
		credential := fmt.Sprintf(`{"endpoint": "https://r.openai.azure.com", "tenant_id": %q, "client_id": "c", "client_secret": "s"}`, tenant)
		require.Equal(t, "The credential's tenant_id must be like 11111111-2222-3333-4444-555555555555.", refusal(t, c, azure, credential), tenant)
		_, err := azure.Credential(credential, time.Now())
		require.ErrorIs(t, err, ErrCredential, "as a stored one")
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

func TestCheckSecretHeaderMembers(t *testing.T) {
	c := load(t)
	azure, vertex := lookup(t, c, "azure_openai"), lookup(t, c, "vertex")
	for _, raw := range []string{`"a\r\nx-evil: 1"`, `"a b"`, `"é"`, `"a\u0000"`, `" a"`, `"a\n"`} {
		require.Equal(t, "The credential's api_key must be visible ASCII without spaces.",
			refusal(t, c, azure, withMember(t, azure, "api_key", raw)), raw)
	}
	require.Equal(t, `The credential's private_key has \n in place of its line ends: give the file as it was downloaded.`,
		refusal(t, c, vertex, withMember(t, vertex, "private_key", `"-----BEGIN PRIVATE KEY-----\\nEXAMPLE"`)))
	require.Equal(t, "The credential's api_key is a credential of AgentRouter's own.",
		refusal(t, c, azure, withMember(t, azure, "api_key", `"ak_01M8H8236WYX8787KJMGSKFAWB_x_y"`)))
	for _, raw := range []string{`"a"`, `"-----BEGIN PRIVATE KEY-----"`, `"-----BEGIN PRIVATE KEY-----\nEXAMPLE\n-----END"`, `"EXAMPLE\n-----END PRIVATE KEY-----\n"`} {
		require.Equal(t, "The credential's private_key must be whole, from the line that begins with -----BEGIN to the one that begins with -----END.",
			refusal(t, c, vertex, withMember(t, vertex, "private_key", raw)), raw)
	}
	for _, raw := range []string{`"\u0000a"`, `"é"`, `"a\tb"`} {
		require.Equal(t, "The credential's private_key must be ASCII text.",
			refusal(t, c, vertex, withMember(t, vertex, "private_key", raw)), raw)
	}
}

// Every secret that can be registered can be fetched: each example in the catalogue has a destination. Secrets that
// sign are not sent.
func TestCredential(t *testing.T) {
	c, now := load(t), time.Now()
	templates := map[string]string{ // :: provider whose credentials name a part of the host → base URL
		"azure_openai": "https://my-resource.openai.azure.com",
		"bedrock":      "https://bedrock-runtime.us-east-1.amazonaws.com",
	}
	for _, p := range c.All() {
		t.Run(p.Slug, func(t *testing.T) {
			example := p.Example
			if p.AuthStyle == AuthGCPOAuth {
				example = withMember(t, p, "private_key", strconv.Quote(privateKey(t)))
			}
			got, err := p.Credential(example, now)
			require.NoError(t, err)
			require.Equal(t, cmp.Or(templates[p.Slug], p.BaseURL), got.BaseURL)
			require.Equal(t, p.AuthStyle, got.Style)
			switch {
			case p.signs():
				require.NotContains(t, got.Secret, "EXAMPLE/EXAMPLE")
				require.NotContains(t, got.Secret, "PRIVATE")
				require.LessOrEqual(t, got.Life, time.Hour)
				require.Positive(t, got.Life)
			case p.Slug == "azure_openai":
				require.Equal(t, "EXAMPLEEXAMPLEEXAMPLEEXAMPLE0014", got.Secret)
			default:
				require.Equal(t, p.Example, got.Secret)
				require.Zero(t, got.Life)
			}
		})
	}
}

func TestInvalidCredentialIsNotUsed(t *testing.T) {
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
		"nothing to sign with":            {"bedrock", `{"access_key_id":"a","region":"us-east-1"}`},
		"no PEM":                          {"vertex", lookup(t, c, "vertex").Example},
		"no RSA key":                      {"vertex", withMember(t, lookup(t, c, "vertex"), "private_key", strconv.Quote(pemOf(t, ecKey(t))))},
		"nobody":                          {"vertex", `{"private_key":` + strconv.Quote(privateKey(t)) + `}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := lookup(t, c, tc.slug).Credential(tc.secret, time.Now())
			require.Contains(t, []error{ErrCredential, ErrCannotSign}, err, "and nothing else, as that might quote the credential")
			require.Empty(t, got)
		})
	}
}

// FuzzCredential checks that every credential goes to its provider's domain or nowhere.
func FuzzCredential(f *testing.F) {
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
			credential, err := p.Credential(s, time.Now())
			if err != nil {
				continue
			}
			got, err := url.Parse(credential.BaseURL)
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

const fakeKey = "0123456789abcdefFAKE"

func TestReveals(t *testing.T) {
	c := load(t)
	bedrock := lookup(t, c, "bedrock")
	credential := func(member, value string) string {
		text, err := json.Marshal(map[string]string{"region": "us-east-1", member: value})
		require.NoError(t, err)
		return string(text)
	}
	for name, tc := range map[string]struct{ text, secret string }{
		"the secret":                          {fakeKey, fakeKey},
		"the secret in a sentence":            {"our key is " + fakeKey + ", keep it", fakeKey},
		"the secret in a longer word":         {"prod-" + fakeKey + "-2", fakeKey},
		"the shortest secret that counts":     {"a 0123456789abcdef", "0123456789abcdef"},
		"a secret of Unicode":                 {"é ÄÖÜäöüßéèê", "ÄÖÜäöüßéèê"},
		"a credential's member":               {"key " + fakeKey, credential("secret_access_key", fakeKey)},
		"a credential's escaped member":       {`key 0123456789"<&>abcdef`, credential("secret_access_key", `0123456789"<&>abcdef`)},
		"a member that providers do not know": {fakeKey, credential("other", fakeKey)},
		"another secret, whoever's":           {"sk-ant-api03-" + fakeKey, "sk-proj-other"},
		"another secret of the same provider": {"sk-proj-" + fakeKey, "sk-proj-other"},
		"another secret in a sentence":        {"was sk-ant-api03-" + fakeKey + " until May", "sk-proj-other"},
		"another secret in quotes":            {`OPENAI_API_KEY="sk-proj-` + fakeKey + `"`, "sk-proj-other"},
		"another secret in brackets":          {"prod (gsk_" + fakeKey + ")", "sk-proj-other"},
		"another secret after a label":        {"groq:gsk_" + fakeKey, "sk-proj-other"},
		"another secret in a list":            {"a;pplx-" + fakeKey + ",b", "sk-proj-other"},
		"another secret behind a slash":       {"prod/sk-ant-api03-" + fakeKey, "sk-proj-other"},
		"another secret in square brackets":   {"prod [sk-ant-api03-" + fakeKey + "]", "sk-proj-other"},
		"another secret in angle brackets":    {"<sk-ant-api03-" + fakeKey + ">", "sk-proj-other"},
		"a credential of ours":                {"ak_01M8H8236WYX8787KJMGSKFAWB_x_y", "sk-proj-other"},
		"a session token":                     {"eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl", "sk-proj-other"},
		"a secret with a shared prefix":       {"key=sk-" + strings.Repeat("0a1b", 8), "sk-proj-other"},
		"another secret behind a no-break":    {"prod\u00a0sk-ant-api03-" + fakeKey, "sk-proj-other"},
	} {
		t.Run(name, func(t *testing.T) { require.True(t, c.Reveals(tc.text, bedrock, tc.secret)) })
	}
}

func TestRevealsNothing(t *testing.T) {
	c := load(t)
	bedrock := lookup(t, c, "bedrock")
	credential := `{"type":"service_account","region":"us-east-1","secret_access_key":"` + fakeKey + `","n":12345678901234567890}`
	for _, text := range []string{
		"", "sk-proj-team", "openai-prod", "us-east-1", "gsk_prod-key", "sk-ant-", "sk-ant-api03-", "service_account", "AIza", "AQ.",
		"xai-prod", "our key for xai", "n 12345678901234567890", "the key that we use in production since last May",
		"0123456789abcdef", "ends in " + fakeKey[16:], "schlüssel für prod", "sk-0123456789abcdef of nobody",
	} {
		t.Run(text, func(t *testing.T) {
			require.False(t, c.Reveals(text, bedrock, "sk-proj-"+fakeKey))
			require.False(t, c.Reveals(text, bedrock, credential))
		})
	}
	t.Run("that a short secret is part of", func(t *testing.T) { require.False(t, c.Reveals("a test key", bedrock, "test")) })
	t.Run("beside an empty secret", func(t *testing.T) { require.False(t, c.Reveals("openai-prod", bedrock, "")) })
}

// People name keys after the cloud's project or resource.
func TestNamesMayHoldPublicMembers(t *testing.T) {
	c := load(t)
	_, err := c.CheckKey(lookup(t, c, "azure_openai"), "contoso-openai-eastus2", `{"resource":"contoso-openai-eastus2","api_key":"`+fakeKey+`"}`)
	require.NoError(t, err)
	vertex := withMember(t, lookup(t, c, "vertex"), "project_id", `"contoso-models-prod"`)
	_, err = c.CheckKey(lookup(t, c, "vertex"), "contoso-models-prod of gateway@example-project.iam.gserviceaccount.com", vertex)
	require.NoError(t, err)
	_, err = c.CheckKey(lookup(t, c, "azure_openai"), "our "+fakeKey, `{"resource":"contoso-openai-eastus2","api_key":"`+fakeKey+`"}`)
	require.Error(t, err)
}

func FuzzReveals(f *testing.F) {
	c := load(f)
	openai := lookup(f, c, "openai")
	f.Add("our key ", fakeKey, ", keep it")
	f.Add("", `{"api_key":"`+fakeKey+`"}`, "")
	f.Add("sk-ant-api03-", "\xff\xfe", "\u2028")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) >= shortestKey {
			require.True(t, c.Reveals(before+secret+after, openai, secret))
		}
		document, err := json.Marshal(map[string]string{"secret": secret})
		require.NoError(t, err)
		// Marshal replaces invalid UTF-8, so the test uses the member that it reads back.
		var member struct{ Secret string }
		require.NoError(t, json.Unmarshal(document, &member))
		if len(member.Secret) >= shortestKey {
			require.True(t, c.Reveals(before+member.Secret+after, openai, string(document)))
		}
		if c.Reveals(before, openai, secret) { // then it also reveals it with other words around it
			require.True(t, c.Reveals(before+" "+after, openai, secret))
		}
		require.False(t, c.Reveals(strings.Repeat("-", len(before)), openai, "sk-proj-other"))
	})
}

func TestSecretPartsAreAllThatIsSecret(t *testing.T) {
	catalogue := load(t)
	aws := `{"region":"us-east-1","access_key_id":"id","secret_access_key":"key","session_token":"token","note":"x"}`
	for slug, tc := range map[string][]string{
		"openai": {"sk-1", "sk-1"}, "bedrock": {aws, aws, "id", "key", "token"},
		"vertex": {`{"type":"service_account","client_email":"e","private_key":"pem","token_uri":"u"}`, `{"type":"service_account","client_email":"e","private_key":"pem","token_uri":"u"}`, "pem"},
	} {
		p, _ := catalogue.Lookup(slug)
		require.Equal(t, tc[1:], p.SecretParts(tc[0]))
	}
	require.Empty(t, Provider{AuthStyle: AuthNone}.SecretParts(NoSecret))
}

// A secret is a candidate in every form in which it may have leaked.
func TestCandidatesHaveTheSecret(t *testing.T) {
	for _, secret := range []string{"sk-proj-0123456789abcdef", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "QmFzZTY0S2V5VGhhdEVuZHM=", "short"} {
		for _, found := range []string{
			"%", " %\n", "\ufeff%", `"%"`, "'%',", "OPENAI_API_KEY=%", "export OPENAI_API_KEY='%'", `key: "%"`, "KEY = %;", `{"a": "b", "key": "%"}`,
		} {
			require.Contains(t, Candidates(strings.ReplaceAll(found, "%", secret)), secret, "%s", found)
		}
	}
	for _, found := range []string{"Bearer sk-proj-0123456789abcdef", "Authorization: Bearer sk-proj-0123456789abcdef", "-H 'x-api-key: sk-proj-0123456789abcdef' https://example.com"} {
		require.Contains(t, Candidates(found), "sk-proj-0123456789abcdef")
	}
	require.LessOrEqual(t, len(Candidates(strings.Repeat("0123456789abcdef0 ", 900))), 24)
}
