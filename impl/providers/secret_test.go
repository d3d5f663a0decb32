package providers

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const canary = "CANARY7Q"

// refusal returns the reason for which the secret is refused, "" where it is taken.
func refusal(t testing.TB, c *Catalogue, p Provider, secret string) string {
	t.Helper()
	err := c.CheckSecret(p, secret)
	if err == nil {
		return ""
	}
	var r *Refusal
	require.ErrorAs(t, err, &r)
	require.NotEmpty(t, r.Reason)
	require.Equal(t, r.Reason, err.Error())
	return r.Reason
}

func TestEveryExamplePassesAndIsObviouslyFake(t *testing.T) {
	c := load(t)
	for _, p := range c.All() {
		require.Empty(t, refusal(t, c, p, p.Example), p.Slug)
		require.Contains(t, p.Example, "EXAMPLE", p.Slug)
	}
}

func TestKeysOfTheRightShapeAreTaken(t *testing.T) {
	c := load(t)
	for _, test := range []struct{ slug, secret string }{
		{"openai", "sk-fake"},
		{"openai", "sk-" + strings.Repeat("Fake", 12)},
		{"openai", "sk-svcacct-" + strings.Repeat("Fa-_", 40)},
		{"openai", "sk-proj-xAI-gsk_AIza-sk-ant-fake"},
		{"anthropic", "sk-ant-api03-" + strings.Repeat("fake", 23) + "AA"},
		{"anthropic", "sk-ant-oat01-fake"},
		{"gemini", "AIzaSyFakeFakeFakeFake"},
		{"gemini", "AQ.Ab8FakeFakeFakeFake_Fake-Fake"},
		{"groq", "gsk_" + strings.Repeat("fake", 13)},
		{"xai", "xai-" + strings.Repeat("fake", 20)},
		{"deepinfra", "FakeFakeFakeFakeFakeFakeFakeFake"},
		{"deepinfra", "jwt:fake.fake.fa=="},
		{"mistral", "xFakexxFakexxxFakexxxxFake"},
		{"cohere", strings.Repeat("Fake", 10)},
		{"together", "tgp_v1_fake-fake_fake"},
		{"together", strings.Repeat("0fa4e", 13)},
		{"fireworks", "fw_3Zfake"},
		{"fireworks", "fpk_fake"},
		{"fireworks", "no-prefix-at-all"},
		{"deepseek", "sk-" + strings.Repeat("fa4e", 8)},
		{"groq", "sk-the-shared-prefix-is-nobodys"},
		{"perplexity", "pplx-" + strings.Repeat("fake", 12)},
		{"openrouter", "sk-or-v1-" + strings.Repeat("fa4e", 16)},
		{"mistral", strings.Repeat("a", MaxSecretBytes)},
		{"mistral", "BearerFake"},
		{"mistral", "!#$%&'*+-.^_`|~/=:;,?@()[]{}\\\""},
	} {
		t.Run(test.slug+"/"+test.secret[:min(12, len(test.secret))], func(t *testing.T) {
			require.Empty(t, refusal(t, c, lookup(t, c, test.slug), test.secret))
		})
	}
}

func TestTokensOfTheWrongShapeAreRefusedEachWithItsReason(t *testing.T) {
	c := load(t)
	openai := lookup(t, c, "openai")
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
			"\ufeffsk-fake", "sk-fa\xffke", "sk–fake", "OPENAI_API_KEY = sk-fake",
		},
	}
	for reason, secrets := range reasons {
		for _, secret := range secrets {
			t.Run(fmt.Sprintf("%.24q", secret), func(t *testing.T) {
				require.Equal(t, reason, refusal(t, c, openai, secret))
			})
		}
	}
}

func TestADistinctivePrefixIsRefusedForEveryOtherProvider(t *testing.T) {
	c := load(t)
	count := 0
	for _, owner := range c.All() {
		for _, prefix := range owner.Prefixes {
			for _, p := range c.All() {
				reason := refusal(t, c, p, prefix.Value+"fake-"+canary)
				switch {
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

func TestTheLongestPrefixDecidesWhoseKeyItIs(t *testing.T) {
	short := Provider{Slug: "short", DisplayName: "Short", Prefixes: []Prefix{{Value: "k-", Distinctive: true}}}
	long := Provider{Slug: "long", DisplayName: "Long", Prefixes: []Prefix{
		{Value: "k-long-"}, {Value: "k-long-er-", Distinctive: true},
	}}
	none := Provider{Slug: "none", DisplayName: "None"}
	c := &Catalogue{providers: []Provider{short, long, none}}
	require.Empty(t, refusal(t, c, short, "k-fake"))
	require.Empty(t, refusal(t, c, short, "k-long-fake"))
	require.Empty(t, refusal(t, c, long, "k-long-fake"))
	require.Equal(t, "The secret looks like a key of Short, not of Long.", refusal(t, c, long, "k-fake"))
	require.Equal(t, "The secret looks like a key of Long, not of Short.", refusal(t, c, short, "k-long-er-fake"))
	require.Equal(t, "The secret looks like a key of Long, not of None.", refusal(t, c, none, "k-long-er-fake"))
}

// Each shape holds the canary and is wrong for every provider; none of the reasons may hold it.
func TestNoReasonHoldsAnyPartOfTheSecret(t *testing.T) {
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

// A rule against placeholders that hits a real key locks a customer out. Fixed seeds: the outcome does not vary.
func TestRandomKeysAreNotMistakenForPlaceholders(t *testing.T) {
	c := load(t)
	random := rand.New(rand.NewPCG(1, 2))
	const base64url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	prefixes := map[string]string{"openai": "sk-proj-", "anthropic": "sk-ant-api03-", "together": "tgp_v1_", "mistral": "k"}
	for slug, prefix := range prefixes {
		p := lookup(t, c, slug)
		for range 20_000 {
			key := make([]byte, 64)
			for i := range key {
				key[i] = base64url[random.IntN(len(base64url))]
			}
			require.NoError(t, c.CheckSecret(p, prefix+string(key)))
		}
	}
}

func TestDisplaySuffixShowsAtMostAQuarter(t *testing.T) {
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

func FuzzCheckSecretNeverEchoes(f *testing.F) {
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
		// In front and behind, so that the canary is there whatever the shape.
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
