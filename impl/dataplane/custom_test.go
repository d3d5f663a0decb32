package dataplane_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/providers"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// addServer stores a customer's own server.
func (s *service) addServer(customer, slug string, auth providers.AuthStyle, header string) {
	s.t.Helper()
	c := providers.Custom{Slug: slug, Name: slug, BaseURL: "https://llm.example/v1", Dialect: providers.DialectAnthropic, Auth: auth, Header: header}
	require.Empty(s.t, c.Check())
	require.NoError(s.t, s.Store.Transact(s.t.Context(), func(tx *models.Tx) error {
		return tx.CreateCustomProvider(models.CustomProvider{CustomerID: customer, Slug: slug, Name: slug, BaseURL: c.BaseURL,
			Dialect: string(c.Dialect), Auth: string(auth), Header: header, Digest: c.Digest()})
	}))
}

// declared says that the data plane serves custom providers.
func declared(body gen.FetchRequest) gen.FetchRequest {
	body.CustomProviders = new(true)
	return body
}

func TestAnOwnServersKeyGoesThereAlone(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.addServer(acme, "x-llm", providers.AuthHeader, "X-Llm-Key")
		dp := s.dataPlane()
		key := s.shared("x-llm")
		got := requireKey(t, fetch(t, dp, declared(forUser(web, "", "x-llm"))), key, "project_key")
		require.Equal(t, []string{"https://llm.example/v1", "header", "anthropic"}, []string{got.BaseURL, got.AuthStyle, *got.Dialect})
		require.Equal(t, []string{"X-Llm-Key", key.secret}, []string{got.Inject[0].Name, got.Inject[0].Value.Reveal()})
		requireKey(t, fetch(t, dp, declared(forKey(key.ID))), key, "by_id")

		// An older data plane does not check where it connects to.
		requireRefused(t, fetch(t, dp, forUser(web, "", "x-llm")), http.StatusBadRequest, "invalid-argument")
		requireRefused(t, fetch(t, dp, forKey(key.ID)), http.StatusNotFound, "not-found")

		// A writer to the database can't send the key elsewhere.
		for _, change := range []string{`base_url = 'https://evil.example/v1'`, `auth = 'bearer'`, `header = 'X-Echoed'`} {
			s.exec(t, `UPDATE custom_providers SET `+change)
			require.Equal(t, http.StatusInternalServerError, fetch(t, dp, declared(forUser(web, "", "x-llm"))).StatusCode(), change)
			s.exec(t, `UPDATE custom_providers SET base_url = 'https://llm.example/v1', auth = 'header', header = 'X-Llm-Key'`)
		}
		openai := s.shared("openai")
		s.exec(t, `UPDATE ai_keys SET provider = 'x-llm', destination = (SELECT digest FROM custom_providers) WHERE id = '`+openai.ID+`'`)
		require.Equal(t, http.StatusInternalServerError, fetch(t, dp, declared(forKey(openai.ID))).StatusCode(), "a key of the catalogue is bound too")
	})
}

func TestAServerWithoutKeysIsUsedByRight(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.addServer(acme, "x-ollama", providers.AuthNone, "")
		dp, as := s.dataPlane(), s.public.As(owner)
		refused, err := as.RegisterKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, nil,
			pub.RegisterRequest{Provider: "x-ollama", Name: "ollama", Secret: gensecret.New("something-secret")})
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, refused.StatusCode())
		requireRefused(t, fetch(t, dp, declared(forUser(web, "", "x-ollama"))), http.StatusNotFound, "no-key")

		key := held{as.Register(t, pub.RegisterRequest{Provider: "x-ollama", Name: "ollama", Secret: gensecret.New("none")}), "none"}
		got := requireKey(t, fetch(t, dp, declared(forUser(web, "", "x-ollama"))), key, "project_key")
		require.Equal(t, "none", got.AuthStyle)
		require.Empty(t, got.Inject)
		_, err = as.RevokeKeyWithResponse(context.Background(), aikeystest.Self, aikeystest.Self, key.ID, nil)
		require.NoError(t, err)
		requireRefused(t, fetch(t, dp, declared(forUser(web, "", "x-ollama"))), http.StatusForbidden, "key-revoked")
	})
}

func TestOthersServersLookLikeNone(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.addServer(globex, "x-llm", providers.AuthBearer, "")
		dp := s.dataPlane(serving(acme))
		for _, slug := range []string{"x-llm", "x-nobodys"} {
			requireRefused(t, fetch(t, dp, declared(forUser(web, "", slug))), http.StatusNotFound, "no-key")
			reply, err := s.public.As(owner).RegisterKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, nil,
				pub.RegisterRequest{Provider: slug, Name: "a", Secret: gensecret.New(s.Secret())})
			require.NoError(t, err)
			require.Equal(t, http.StatusBadRequest, reply.StatusCode())
		}
	})
}
