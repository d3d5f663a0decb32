package gateway_test

import (
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/agentrouter/aikeys/dataplane"
	"github.com/agentrouter/aikeys/dataplane/gateway"
)

// look asks as who was refused does: with no credential.
func look(t testing.TB, method, url string) (head answer, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	return do(t, r)
}

func TestEveryTypeThatTheGatewayAnswersIsExplainedWhereItLeads(t *testing.T) {
	answers := gateway.Answers()
	require.Greater(t, len(answers), 20)
	resolver := &fakeResolver{resolve: func(dataplane.Request) (*dataplane.Key, error) { return nil, dataplane.ErrNoKey }}
	for face, url := range map[string]string{
		"proxy": start(t, resolver).URL, "forward-auth": forwardAuth(t, resolver, func() string { return "secret" }).URL,
	} {
		head, list := look(t, "GET", url+"/problems")
		require.Equal(t, 200, head.StatusCode)
		var slugs []string
		for path, texts := range answers {
			slugs = append(slugs, strings.TrimPrefix(path, "/problems/"))
			head, page := look(t, "GET", url+path)
			require.Equal(t, 200, head.StatusCode, face+path)
			require.Equal(t, "text/plain; charset=utf-8", head.Header.Get("Content-Type"))
			require.Contains(t, page, path)
			require.Contains(t, list, path+" ")
			for _, text := range texts {
				require.Contains(t, page, text)
			}
			_, todo, _ := strings.Cut(page, "What to do:\n  ")
			require.Regexp(t, `^\S.*\.\n\n`, todo, path)
			require.NotContains(t, page, "ak_0")
		}
		require.ElementsMatch(t, slugs, gateway.Advised(), "the table and the advice have the same types")
	}
	require.Empty(t, resolver.asked(), "nobody is asked for a key")
}

// The path of a refusal, as it came over the wire, leads there, whoever refused.
func TestTheTypeOfARefusalLeadsToItsExplanation(t *testing.T) {
	gw := start(t, refusing(dataplane.ErrNoKey))
	res, body := do(t, request(t, "GET", gw.URL+"/openai/models", nil))
	head, page := look(t, "GET", gw.URL+problemOf(t, res, body).Type)
	require.Equal(t, 200, head.StatusCode)
	require.Contains(t, page, "No key")
	head, page = look(t, "HEAD", gw.URL+"/problems/no-key")
	require.Equal(t, 200, head.StatusCode)
	require.Empty(t, page)
}

func TestOnlyExplanationsAreGivenWithoutACredential(t *testing.T) {
	gw := start(t, refusing(dataplane.ErrInvalid))
	for _, ask := range [][2]string{
		{"GET", "/problems/none"}, {"GET", "/problems/no-key/"}, {"GET", "/problems/no%2dkey"}, {"POST", "/problems/no-key"},
		{"GET", "/Problems"}, {"GET", "/problems/no-key/../../openai"},
	} {
		res, body := look(t, ask[0], gw.URL+ask[1])
		problem := problemOf(t, res, body)
		require.Contains(t, []int{401, 404}, problem.Status, ask)
	}
}

func TestNoProviderIsCalledAsTheExplanationsAre(t *testing.T) {
	slugs := catalogue(t)
	require.Greater(t, len(slugs), 5)
	require.NotContains(t, slugs, "problems")
}

// catalogue returns the slugs of spec/providers.yaml.
func catalogue(t testing.TB) (slugs []string) {
	t.Helper()
	text, err := os.ReadFile("../../spec/providers.yaml")
	require.NoError(t, err)
	for _, slug := range regexp.MustCompile(`(?m)^  - slug: (\S+)$`).FindAllSubmatch(text, -1) {
		slugs = append(slugs, string(slug[1]))
	}
	return slugs
}
