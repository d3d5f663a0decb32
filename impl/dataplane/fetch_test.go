package dataplane_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
	"github.com/agentrouter/aikeys/internal/position"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
)

func TestEachWayOfFetchingIsAnsweredInFull(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane(serving(acme))
		project, mine := s.shared("openai"), s.own(member, "anthropic")
		base := gen.FetchResponse{
			KeyID: project.ID, Version: 1, CustomerID: acme, ProjectID: web, Provider: "openai", Scope: "project", Reason: "project_key",
			BaseURL: "https://api.openai.com/v1", AuthStyle: "bearer",
		}
		requireAll := func(t *testing.T, want gen.FetchResponse, key held, body gen.FetchRequest) {
			t.Helper()
			got := requireKey(t, fetch(t, dp, body), key, want.Reason)
			position, err := position.Parse(got.AsOf)
			require.NoError(t, err)
			require.Positive(t, position.Xmax)
			got.AsOf, got.Secret = "", gensecret.Text{}
			require.Equal(t, want, got)
		}
		t.Run("for a caller", func(t *testing.T) {
			want := base
			want.Caller = &gen.Caller{UserID: member, TokenID: &s.public.As(member).TokenID}
			requireAll(t, want, project, forCaller(s.credential(member), "openai"))
			requireAll(t, want, project, forCallerIn(s.credential(member), web, "openai"))
		})
		t.Run("for a user", func(t *testing.T) {
			want := base
			want.Caller = &gen.Caller{UserID: member}
			requireAll(t, want, project, forUser(web, member, "openai"))
			want.KeyID, want.Provider, want.Scope, want.Reason = mine.ID, "anthropic", "user", "user_key"
			want.BaseURL, want.AuthStyle = "https://api.anthropic.com", "x_api_key"
			requireAll(t, want, mine, forUser(web, member, "anthropic"))
		})
		t.Run("for no user", func(t *testing.T) {
			requireAll(t, base, project, forUser(web, "", "openai"))
			requireRefused(t, fetch(t, dp, forUser(web, "", "anthropic")), http.StatusNotFound, "no-key")
		})
		t.Run("by id, whoever's it is", func(t *testing.T) {
			want := base
			want.Reason = "by_id"
			requireAll(t, want, project, forKey(project.ID))
			require.Equal(t, "user", requireKey(t, fetch(t, dp, forKey(mine.ID)), mine, "by_id").Scope)
		})
	})
}

// Which project a credential means: its session's, or another one of its own customer.
func TestACallerMayMeanAnotherProjectOfTheirCustomer(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		secret := s.marked()
		key := held{s.registerAs(s.public.Session(acme, ops, sam), pub.RegisterRequest{
			Provider: "openai", Name: "n", Secret: gensecret.New(secret),
		}), secret}
		token := s.hide(s.public.As(sam).Token) // whose default project is one that sam is no member of
		requireRefused(t, fetch(t, dp, forCaller(token, "openai")), http.StatusForbidden, "permission-denied")
		requireKey(t, fetch(t, dp, forCallerIn(token, ops, "openai")), key, "project_key")
		foreign := s.hide(s.public.Session(globex, web, owner).Token)
		requireRefused(t, fetch(t, dp, forCallerIn(foreign, ops, "openai")), http.StatusForbidden, "permission-denied")
	})
}

func TestHowLongAnAnswerMayServeACredential(t *testing.T) {
	issuer := authtest.NewIssuer(t)
	oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience})
	require.NoError(t, err)
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		caller := func(token string) *gen.Caller {
			return requireKey(t, fetch(t, dp, forCaller(s.hide(token), "openai")), key, "project_key").Caller
		}
		within := func(t *testing.T, most time.Duration, got *int64) {
			t.Helper()
			require.NotNil(t, got)
			require.LessOrEqual(t, *got, most.Milliseconds())
			require.Greater(t, *got, (most - 30*time.Second).Milliseconds())
		}
		t.Run("an API key that does not expire", func(t *testing.T) {
			require.Nil(t, caller(s.public.As(member).Token).ValidMs)
		})
		t.Run("an API key that expires", func(t *testing.T) {
			within(t, time.Hour, caller(s.public.NewSession(acme, web, member, time.Now().Add(time.Hour)).Token).ValidMs)
		})
		t.Run("a session token", func(t *testing.T) {
			sign := func(life time.Duration) string {
				return issuer.Sign(map[string]any{"sub": member, "customer_id": acme, "project_id": web, "exp": time.Now().Add(life).Unix()})
			}
			long := caller(sign(time.Hour))
			within(t, time.Minute, long.ValidMs)
			require.Nil(t, long.TokenID)
			require.Equal(t, member, long.UserID)
			within(t, 40*time.Second, caller(sign(40*time.Second)).ValidMs)
		})
	}, func(_ *testing.T, o *options) { o.oidc = oidc })
}

func TestACredentialThatOpensNoSessionIsTheCallersFault(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		s.shared("openai")
		unknown, _, _, err := auth.MintAPIKey(time.Now())
		require.NoError(t, err)
		expired := s.public.NewSession(acme, web, member, time.Now().Add(-time.Second))
		for name, token := range map[string]string{
			"garbage":                   s.marked(),
			"unknown":                   s.hide(unknown),
			"expired":                   s.hide(expired.Token),
			"a data plane's own":        dp.token,
			"with its scheme":           "Bearer " + s.credential(member),
			"a JWT without an issuer":   "eyJhbGciOiJub25lIn0.eyJzdWIiOiJvbGdhIn0.",
			"two":                       s.credential(member) + ", " + s.credential(member),
			"a line end and a header":   s.credential(member) + "\r\nX: y",
			"as long as one can be":     fmt.Sprintf("%08192d", 0),
			"white space, and no more":  " ",
			"an empty one of our kinds": "ak_",
		} {
			t.Run(name, func(t *testing.T) {
				doc := requireRefused(t, fetch(t, dp, forCaller(token, "openai")), http.StatusUnprocessableEntity, "caller-unauthenticated")
				require.Equal(t, "unauthenticated", doc.Code)
				require.Empty(t, doc.Errors)
			})
		}
	})
}

// The statement of the fetch itself asks whether all that it stands on is good: no cache helps anybody.
func TestWhatHasEndedServesNoMoreAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		older, newer := s.shared("openai"), s.shared("openai")
		t.Run("an API key", func(t *testing.T) {
			c := s.public.NewSession(acme, web, member, time.Time{})
			s.hide(c.Token)
			requireKey(t, fetch(t, dp, forCaller(c.Token, "openai")), newer, "project_key")
			c.Revoke(t, acme, web)
			for range 2 { // by the statement, and by the session that it had dropped
				requireRefused(t, fetch(t, dp, forCaller(c.Token, "openai")), http.StatusUnprocessableEntity, "caller-unauthenticated")
			}
		})
		t.Run("a provider key", func(t *testing.T) {
			s.public.As(owner).RevokeKey(t, newer.ID)
			requireKey(t, fetch(t, dp, forUser(web, member, "openai")), older, "project_key")
			requireRefused(t, fetch(t, dp, forKey(newer.ID)), http.StatusForbidden, "key-revoked")
			requireKey(t, fetch(t, dp, forKey(older.ID)), older, "by_id")
			s.public.As(owner).RevokeKey(t, older.ID)
			requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusNotFound, "no-key")
		})
		t.Run("a membership", func(t *testing.T) {
			key, token := s.own(member, "openai"), s.credential(member)
			requireKey(t, fetch(t, dp, forCaller(token, "openai")), key, "user_key")
			removed, err := s.public.As(owner).RemoveMemberWithResponse(t.Context(), acme, web, member)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, removed.StatusCode())
			requireRefused(t, fetch(t, dp, forCaller(token, "openai")), http.StatusForbidden, "permission-denied")
			requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusForbidden, "permission-denied")
		})
	})
}

// What was fetched says as of when: of an answer from before a revocation, that it was before.
func TestAsOfTellsAnAnswerFromBeforeARevocationFromOneAfter(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key, kept := s.dataPlane(), s.shared("openai"), s.shared("mistral")
		asOf := func(body gen.FetchRequest) position.Position {
			reply := fetch(t, dp, body)
			require.Equal(t, http.StatusOK, reply.StatusCode())
			at, err := position.Parse(reply.JSON200.AsOf)
			require.NoError(t, err)
			return at
		}
		before := []position.Position{asOf(forUser(web, member, "openai")), asOf(forKey(key.ID))}
		s.public.As(owner).RevokeKey(t, key.ID)
		row, err := s.store.GetKey(t.Context(), ownersView, key.ID, time.Now().UnixMicro())
		require.NoError(t, err)
		for _, at := range before {
			require.False(t, at.Contains(row.RevocationTx))
		}
		for _, at := range []position.Position{asOf(forUser(web, member, "mistral")), asOf(forKey(kept.ID))} {
			require.True(t, at.Contains(row.RevocationTx))
		}
	})
}

// A credential document is taken apart where a header takes one field of it, and names a part of the host.
func TestWhatOfADocumentGoesIntoTheHeader(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp := s.dataPlane()
	inner := s.marked()
	for provider, tc := range map[string]struct{ document, secret, base, style string }{
		"azure_openai": {`{"resource":"my-res","api_key":"` + inner + `"}`, inner, "https://my-res.openai.azure.com", "api_key"},
		"bedrock": {`{"access_key_id":"AKIA1","secret_access_key":"` + inner + `","region":"eu-west-1"}`, "",
			"https://bedrock-runtime.eu-west-1.amazonaws.com", "aws_sigv4"},
	} {
		t.Run(provider, func(t *testing.T) {
			key := s.registerAs(s.public.As(owner), pub.RegisterRequest{Provider: provider, Name: "n", Secret: gensecret.New(tc.document)})
			if tc.secret == "" {
				tc.secret = tc.document
			}
			got := requireKey(t, fetch(t, dp, forUser(web, member, provider)), held{key, tc.secret}, "project_key")
			require.Equal(t, tc.base, got.BaseURL)
			require.Equal(t, tc.style, got.AuthStyle)
		})
	}
}
