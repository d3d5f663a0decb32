package aikeys_test

import (
	"fmt"
	"maps"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// vllm is the body of a request that adds a server.
func vllm(changes ...map[string]any) map[string]any {
	body := map[string]any{"slug": "x-vllm", "base_url": "https://llm.example/v1"}
	for _, change := range changes {
		maps.Copy(body, change)
	}
	return body
}

func TestOwnersAddAndRemoveServersOfTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		reply := post(t, s, owner, project+"/providers", vllm(map[string]any{"auth_style": "header", "header": "X-Llm-Key", "display_name": "vLLM"}))
		require.Equal(t, http.StatusCreated, reply.Status, "%s", reply.Body)
		added := decode[gen.CustomProviderResponse](t, reply).Provider
		require.Equal(t, []string{"x-vllm", "vLLM", "openai", "header", "X-Llm-Key", aikeystest.Project, owner},
			[]string{added.Slug, added.DisplayName, added.Dialect, added.AuthStyle, *added.Header, *added.ProjectID, added.CreatedBy})
		listed := decode[gen.ListCustomProvidersResponse](t, get(t, s, member, project+"/providers"))
		require.Equal(t, gen.ListCustomProvidersResponse{Providers: []gen.CustomProvider{added}, OwnersMayAdd: true}, listed)
		require.Equal(t, http.StatusConflict, post(t, s, owner, project+"/providers", vllm()).Status, "it never changes")

		key := s.As(member).Register(t, gen.RegisterRequest{Provider: "x-vllm", Name: "mine", Secret: secret.New(s.Secret()), UserScope: new(true)})
		inUse := del(t, s, owner, project+"/providers/x-vllm")
		require.Equal(t, http.StatusConflict, inUse.Status)
		require.Equal(t, "/problems/provider-in-use", inUse.Problem(t).Type)
		require.Equal(t, http.StatusOK, del(t, s, member, project+"/aikeys/"+key.ID).Status)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/providers/x-vllm").Status)
		require.Equal(t, http.StatusNotFound, del(t, s, owner, project+"/providers/x-vllm").Status)
		refused := post(t, s, owner, project+"/aikeys", gen.RegisterRequest{Provider: "x-vllm", Name: "late", Secret: secret.New(s.Secret())})
		requireField(t, refused, "provider is not a provider that we know")

		trail := events(t, s, member)
		require.Equal(t, []string{"provider.deleted", owner, "x-vllm"}, []string{trail[0].Type, trail[0].Actor.UserID, *trail[0].Provider})
		require.Equal(t, "https://llm.example/v1", *trail[0].Before.BaseURL)
		require.Equal(t, "provider.created", trail[len(trail)-1].Type)
		require.Equal(t, "vLLM", *trail[len(trail)-1].After.Name)
	})
}

func TestOnlyOwnersChangeServersOfTheProject(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	require.Equal(t, http.StatusCreated, post(t, s, owner, project+"/providers", vllm()).Status)
	for _, user := range []string{member, sam} {
		require.Equal(t, http.StatusForbidden, post(t, s, user, project+"/providers", vllm(map[string]any{"slug": "x-b"})).Status)
		require.Equal(t, http.StatusForbidden, del(t, s, user, project+"/providers/x-vllm").Status)
	}
	require.Equal(t, "provider.deleted denied", fmt.Sprint(events(t, s, owner)[0].Type, " ", events(t, s, owner)[0].Outcome))
	require.Equal(t, http.StatusForbidden, get(t, s, sam, project+"/providers").Status)

	// Another project of the customer neither sees it nor registers keys for it, and can't take it away.
	elsewhere := "/v1/customers/" + aikeystest.Customer + "/projects/" + aikeystest.OtherProject
	require.Empty(t, decode[gen.ListCustomProvidersResponse](t, get(t, s, sam, elsewhere+"/providers")).Providers)
	require.Equal(t, http.StatusNotFound, del(t, s, sam, elsewhere+"/providers/x-vllm").Status)
	requireField(t, post(t, s, sam, elsewhere+"/aikeys", gen.RegisterRequest{Provider: "x-vllm", Name: "a", Secret: secret.New(s.Secret())}), "provider is not")
}

func TestOnlyWhereOperatorsLetThemDoOwnersAddServers(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{OperatorsAddProviders: true})
	require.NoError(t, s.Store.Transact(t.Context(), func(tx *models.Tx) error {
		return tx.CreateCustomProvider(models.CustomProvider{CustomerID: aikeystest.Customer, Slug: "x-ours", Name: "Ours", BaseURL: "https://llm.example/v1",
			Dialect: "anthropic", Auth: "none", CreatedBy: "ops@host"})
	}))
	for _, reply := range []aikeystest.Reply{post(t, s, owner, project+"/providers", vllm()), del(t, s, owner, project+"/providers/x-ours")} {
		require.Equal(t, http.StatusForbidden, reply.Status)
		require.Contains(t, reply.Problem(t).Detail, "operator")
	}
	listed := decode[gen.ListCustomProvidersResponse](t, get(t, s, member, project+"/providers"))
	require.False(t, listed.OwnersMayAdd)
	require.Len(t, listed.Providers, 1)
	require.Nil(t, listed.Providers[0].ProjectID)
}

func TestServersAreDescribedPlainlyAndFewToAProject(t *testing.T) {
	s := aikeystest.Start(t, aikeystest.Options{})
	for want, change := range map[string]map[string]any{
		"base_url must hold no user":        {"base_url": "https://u:hunter2@llm.example/v1"},
		"base_url must not be an address":   {"base_url": "http://169.254.169.254/latest"},
		"base_url looks like it holds":      {"base_url": "https://llm.example/sk-ant-api03-aaaaaaaaaaaaaaaaaaaa"},
		"display_name must be 1 to 64":      {"display_name": "vLLM "},
		"display_name looks like it holds":  {"display_name": "gsk_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
		"header must be the name":           {"auth_style": "header", "header": "Host"},
		"header is for the authentication":  {"header": "X-Api-Key"},
		"slug must be x- and 1 to 62":       {"slug": "openai"},
		"auth_style must be one of bearer,": {"auth_style": "aws_sigv4"},
	} {
		reply := post(t, s, owner, project+"/providers", vllm(change))
		requireField(t, reply, want)
		require.NotContains(t, string(reply.Body), "hunter2")
	}
	for n := range 20 {
		require.Equal(t, http.StatusCreated, post(t, s, owner, project+"/providers", vllm(map[string]any{"slug": fmt.Sprintf("x-%d", n)})).Status)
	}
	reply := post(t, s, owner, project+"/providers", vllm())
	require.Equal(t, http.StatusConflict, reply.Status)
	require.Equal(t, "/problems/quota-exceeded", reply.Problem(t).Type)
}
