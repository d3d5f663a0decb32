package providers

import (
	"testing"

	"github.com/stretchr/testify/require"
)

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

// The value of a header for keys is the caller's secret: on some servers it would replace the path, below the base URL or not.
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
