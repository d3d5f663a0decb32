package aikeys_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
)

// withIssuer runs a service that takes the session tokens of an issuer.
func withIssuer(t *testing.T) (*aikeystest.Service, *authtest.Issuer) {
	t.Helper()
	issuer := authtest.NewIssuer(t)
	oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience})
	require.NoError(t, err)
	return aikeystest.Start(t, aikeystest.Options{OIDC: oidc}), issuer
}

// claims are those of a user in the project of the fixture, with changes.
func claims(user string, changes map[string]any) map[string]any {
	all := map[string]any{"sub": user, "customer_id": "acme", "project_id": "web"}
	for name, value := range changes {
		all[name] = value
	}
	return all
}

func whoAmI(t *testing.T, s *aikeystest.Service, token string) aikeystest.Reply {
	t.Helper()
	s.Evidence.Hide(token)
	return s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/whoami", Token: token})
}

func TestSessionToken(t *testing.T) {
	s, issuer := withIssuer(t)
	expires := time.Now().Add(time.Minute).Truncate(time.Second)
	token := issuer.Sign(claims(owner, map[string]any{"exp": expires.Unix()}))
	role := gen.Role("owner")
	who := decode[gen.WhoAmIResponse](t, whoAmI(t, s, token))
	require.True(t, expires.Equal(*who.ExpiresAt))
	who.ExpiresAt = nil
	require.Equal(t, gen.WhoAmIResponse{CustomerID: "acme", ProjectID: "web", UserID: owner, Role: &role, Method: "oidc"}, who)

	t.Run("with the rights of its user and no more", func(t *testing.T) {
		reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, s.Shared("n"))})
		require.Equal(t, http.StatusCreated, reply.Status)
		event := events(t, s, owner)[0]
		require.Equal(t, gen.Actor{UserID: owner, Method: "oidc"}, event.Actor)
		for user, want := range map[string]int{member: http.StatusForbidden, sam: http.StatusForbidden} {
			theirs := issuer.Sign(claims(user, nil))
			s.Evidence.Hide(theirs)
			reply := s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: theirs, Body: encode(t, s.Shared("m"))})
			require.Equal(t, want, reply.Status)
		}
	})
	t.Run("and those of another customer's user are theirs", func(t *testing.T) {
		theirs := issuer.Sign(claims(owner, map[string]any{"customer_id": "globex"}))
		s.Evidence.Hide(theirs)
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: project + "/aikeys", Token: theirs})
		require.Equal(t, http.StatusForbidden, reply.Status)
	})
	t.Run("a removed member has lost the project", func(t *testing.T) {
		theirs := issuer.Sign(claims(other, nil))
		require.NotNil(t, decode[gen.WhoAmIResponse](t, whoAmI(t, s, theirs)).Role)
		require.Equal(t, http.StatusOK, del(t, s, owner, project+"/members/"+other).Status)
		require.Nil(t, decode[gen.WhoAmIResponse](t, whoAmI(t, s, theirs)).Role)
		reply := s.Send(t, aikeystest.Request{Method: http.MethodGet, Path: "/v1/aikeys", Token: theirs})
		require.Equal(t, http.StatusForbidden, reply.Status)
	})
}

func TestBadSessionTokens(t *testing.T) {
	s, issuer := withIssuer(t)
	impostor := authtest.NewIssuer(t)
	good := issuer.Sign(claims(owner, nil))
	require.Equal(t, http.StatusOK, whoAmI(t, s, good).Status)
	parts := strings.Split(good, ".")
	for name, token := range map[string]string{
		"expired":            issuer.Sign(claims(owner, map[string]any{"exp": time.Now().Add(-time.Second).Unix()})),
		"without an end":     issuer.Sign(claims(owner, map[string]any{"exp": nil})),
		"not valid yet":      issuer.Sign(claims(owner, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})),
		"for another":        issuer.Sign(claims(owner, map[string]any{"aud": "another"})),
		"of another issuer":  impostor.Sign(claims(owner, nil)),
		"in another's name":  authtest.SignWith(t, impostor.Key(), issuer.Claims(claims(owner, nil))),
		"without a customer": issuer.Sign(claims(owner, map[string]any{"customer_id": nil})),
		"with a path as id":  issuer.Sign(claims(owner, map[string]any{"customer_id": "../globex"})),
		"with a dash as id":  issuer.Sign(claims(owner, map[string]any{"project_id": "-"})),
		"without signature":  parts[0] + "." + parts[1] + ".",
		"with another body":  parts[0] + "." + strings.Split(issuer.Sign(claims(sam, nil)), ".")[1] + "." + parts[2],
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, http.StatusUnauthorized, whoAmI(t, s, token).Status) })
	}
}

func TestSessionTokenIssuerOutage(t *testing.T) {
	s, issuer := withIssuer(t)
	first := issuer.Sign(claims(owner, nil))
	require.Equal(t, http.StatusOK, whoAmI(t, s, first).Status)
	issuer.Rotate()
	second := issuer.Sign(claims(owner, nil))
	require.Equal(t, http.StatusOK, whoAmI(t, s, second).Status, "the new key is found")
	require.Equal(t, http.StatusOK, whoAmI(t, s, first).Status, "the old one still counts")

	issuer.Break(authtest.Refuse)
	require.Equal(t, http.StatusOK, whoAmI(t, s, issuer.Sign(claims(member, nil))).Status, "known keys serve on")
	require.Equal(t, http.StatusOK, whoAmI(t, s, s.As(owner).Token).Status, "and API keys need no issuer")
}

func TestSessionTokenWithoutItsIssuer(t *testing.T) {
	s, issuer := withIssuer(t)
	issuer.Break(authtest.Refuse)
	token := issuer.Sign(claims(owner, nil))
	requireUnavailable(t, whoAmI(t, s, token))
	issuer.Break(authtest.Healthy)
	require.Eventually(t, func() bool { return whoAmI(t, s, token).Status == http.StatusOK }, 10*time.Second, 100*time.Millisecond)
}

// replicas runs two services over one Postgres database, each with connections of its own.
func replicas(t *testing.T) (first, second *aikeystest.Service) {
	t.Helper()
	url, backend := modelstest.EnginePostgres.URL(t), secretstest.Backend(t)
	start := func() *aikeystest.Service {
		store := modelstest.OpenStore(t, url, models.Options{})
		_, err := store.Migrate(t.Context())
		require.NoError(t, err)
		return aikeystest.Start(t, aikeystest.Options{Store: store, Sealer: backend})
	}
	return start(), start()
}

func TestRevokedCredentialOnAnotherReplica(t *testing.T) {
	first, second := replicas(t)
	for _, o := range aikeystest.Operations(t) {
		t.Run(o.OperationID, func(t *testing.T) {
			session := first.NewSession("acme", "web", owner, time.Time{})
			for _, s := range []*aikeystest.Service{first, second} {
				require.Equal(t, http.StatusOK, whoAmI(t, s, session.Token).Status, "it is cached on both")
			}
			session.Revoke(t, "acme", "web")
			o.Token = session.Token
			for _, s := range []*aikeystest.Service{second, first} {
				require.Equal(t, http.StatusUnauthorized, s.Send(t, o.Request).Status)
			}
		})
	}
}

func TestReplicasAgree(t *testing.T) {
	first, second := replicas(t)
	token := first.As(owner).Token
	at := func(s *aikeystest.Service, method, path string, body any) aikeystest.Reply {
		r := aikeystest.Request{Method: method, Path: path, Token: token}
		if body != nil {
			r.Body = encode(t, body)
		}
		return s.Send(t, r)
	}
	t.Run("on keys", func(t *testing.T) {
		key := first.As(owner).Register(t, first.Shared("n"))
		require.Equal(t, http.StatusOK, at(second, http.MethodGet, "/v1/aikeys/"+key.ID, nil).Status)
		require.Equal(t, http.StatusConflict, at(second, http.MethodPost, "/v1/aikeys", second.Shared("n")).Status)
		require.Equal(t, http.StatusOK, at(second, http.MethodDelete, "/v1/aikeys/"+key.ID, nil).Status)
		require.Equal(t, "revoked", decode[gen.GetResponse](t, at(first, http.MethodGet, "/v1/aikeys/"+key.ID, nil)).Key.State)
	})
	t.Run("on a retry that comes to the other", func(t *testing.T) {
		body := first.Shared("retried")
		one, two := retry(t, first, token, "k", body), retry(t, second, token, "k", body)
		require.Equal(t, http.StatusCreated, one.Status)
		require.Equal(t, http.StatusCreated, two.Status)
		require.JSONEq(t, string(one.Body), string(two.Body))
		body.Name = "other"
		require.Equal(t, http.StatusUnprocessableEntity, retry(t, second, token, "k", body).Status)
	})
	t.Run("on retries that come to both at once", func(t *testing.T) {
		key, body := "both", first.Shared("at once")
		got := together(20, func(i int) string {
			s := []*aikeystest.Service{first, second}[i%2]
			reply, err := s.Client(token).RegisterKeyWithResponse(t.Context(), self, self, &gen.RegisterKeyParams{IdempotencyKey: &key}, body)
			if err != nil || reply.JSON201 == nil {
				return "no key"
			}
			return reply.JSON201.Key.ID
		})
		require.Equal(t, slices.Repeat(got[:1], 20), got)
		require.NotEqual(t, "no key", got[0])
	})
	t.Run("on members", func(t *testing.T) {
		require.Equal(t, http.StatusOK, get(t, second, member, project+"/aikeys").Status)
		require.Equal(t, http.StatusOK, at(first, http.MethodDelete, project+"/members/"+member, nil).Status)
		require.Equal(t, http.StatusForbidden, get(t, second, member, project+"/aikeys").Status)
	})
}
