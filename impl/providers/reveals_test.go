package providers

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const fakeKey = "0123456789abcdefFAKE"

func TestANameThatGivesASecretAwayIsFound(t *testing.T) {
	c := load(t)
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
		"another secret behind a no-break":    {"prod\u00a0sk-ant-api03-" + fakeKey, "sk-proj-other"},
	} {
		t.Run(name, func(t *testing.T) { require.True(t, c.Reveals(tc.text, tc.secret)) })
	}
}

func TestAnHonestNameIsFine(t *testing.T) {
	c := load(t)
	credential := `{"type":"service_account","region":"us-east-1","secret_access_key":"` + fakeKey + `","n":12345678901234567890}`
	for _, text := range []string{
		"", "sk-proj-team", "openai-prod", "us-east-1", "gsk_prod-key", "sk-ant-", "sk-ant-api03-", "service_account", "AIza", "AQ.",
		"xai-prod", "our key for xai", "n 12345678901234567890", "the key that we use in production since last May",
		"0123456789abcdef", "ends in " + fakeKey[16:], "schlüssel für prod", "sk-0123456789abcdef of nobody",
	} {
		t.Run(text, func(t *testing.T) {
			require.False(t, c.Reveals(text, "sk-proj-"+fakeKey))
			require.False(t, c.Reveals(text, credential))
		})
	}
	t.Run("that a short secret is part of", func(t *testing.T) { require.False(t, c.Reveals("a test key", "test")) })
	t.Run("beside an empty secret", func(t *testing.T) { require.False(t, c.Reveals("openai-prod", "")) })
}

func FuzzReveals(f *testing.F) {
	c := load(f)
	f.Add("our key ", fakeKey, ", keep it")
	f.Add("", `{"api_key":"`+fakeKey+`"}`, "")
	f.Add("sk-ant-api03-", "\xff\xfe", "\u2028")
	f.Fuzz(func(t *testing.T, before, secret, after string) {
		if len(secret) >= shortestKey {
			require.True(t, c.Reveals(before+secret+after, secret))
		}
		document, err := json.Marshal(map[string]string{"secret": secret})
		require.NoError(t, err)
		// Marshal mends what is not UTF-8, so that the member is what is read back.
		var member struct{ Secret string }
		require.NoError(t, json.Unmarshal(document, &member))
		if len(member.Secret) >= shortestKey {
			require.True(t, c.Reveals(before+member.Secret+after, string(document)))
		}
		if c.Reveals(before, secret) { // then it does beside other words too
			require.True(t, c.Reveals(before+" "+after, secret))
		}
		require.False(t, c.Reveals(strings.Repeat("-", len(before)), "sk-proj-other"))
	})
}
