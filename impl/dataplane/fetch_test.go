package dataplane_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/auth/authtest"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/exchange"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/impl/providers"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	"github.com/agentrouter/aikeys/internal/position"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestFetchAnswers(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane(serving(acme))
		project, mine := s.shared("openai"), s.own(member, "anthropic")
		base := gen.FetchResponse{
			KeyID: project.ID, Version: 1, CustomerID: acme, ProjectID: web, Provider: "openai", Scope: "project", Reason: "project_key",
			BaseURL: "https://api.openai.com/v1", AuthStyle: "bearer", Operations: new("inference"),
		}
		requireAll := func(t *testing.T, want gen.FetchResponse, key held, body gen.FetchRequest) {
			t.Helper()
			got := requireKey(t, fetch(t, dp, body), key, want.Reason)
			position, err := position.Parse(got.AsOf)
			require.NoError(t, err)
			require.Positive(t, position.Xmax)
			require.NotEmpty(t, got.Administration)
			require.NotEmpty(t, got.Answers)
			got.AsOf, got.Secret, got.Administration, got.Answers = "", gensecret.Text{}, nil, nil
			require.Equal(t, want, got)
		}
		t.Run("for a caller", func(t *testing.T) {
			want := base
			want.Caller = &gen.Caller{UserID: member, TokenID: &s.public.As(member).TokenID}
			requireAll(t, want, project, forCaller(s.credential(member), "openai"))
			requireAll(t, want, project, forCaller(s.credential(member), "openai", web))
		})
		t.Run("for a user", func(t *testing.T) {
			want := base
			want.Caller = &gen.Caller{UserID: member}
			requireAll(t, want, project, forUser(web, member, "openai"))
			want.KeyID, want.Provider, want.Scope, want.Reason = mine.ID, "anthropic", "user", "user_key"
			want.BaseURL, want.AuthStyle = "https://api.anthropic.com", "x_api_key"
			requireAll(t, want, mine, forUser(web, member, "anthropic"))
		})
		t.Run("for a project whose policy lets it serve all operations", func(t *testing.T) {
			s.setPolicy(pub.PolicyRequest{Operations: new(pub.OperationsAll)})
			want := base
			want.Operations = new("all")
			requireAll(t, want, project, forUser(web, "", "openai"))
			s.setPolicy(pub.PolicyRequest{})
			requireAll(t, base, project, forUser(web, "", "openai"))
		})
		t.Run("with the provider's routes", func(t *testing.T) {
			key := s.shared("gemini")
			got := requireKey(t, fetch(t, dp, forUser(web, "", "gemini")), key, "project_key")
			require.Contains(t, got.Routes, gen.Route{Path: "/v1", AuthStyle: "x_goog_api_key"})
			require.Contains(t, got.Routes, gen.Route{Path: "/v1beta/openai", AuthStyle: "bearer"})
		})
		t.Run("with the provider's rules for answers", func(t *testing.T) {
			key := s.shared("gemini")
			got := requireKey(t, fetch(t, dp, forUser(web, "", "gemini")), key, "project_key")
			require.Contains(t, got.Answers, gen.AnswerRule{
				Status: http.StatusBadRequest, At: new("error.details.reason"), Is: new("API_KEY_INVALID"), Means: "rejected",
			})
		})
		t.Run("for no user", func(t *testing.T) {
			requireAll(t, base, project, forUser(web, "", "openai"))
			requireRefused(t, fetch(t, dp, forUser(web, "", "anthropic")), http.StatusNotFound, "no-key")
		})
		t.Run("by id, of any user", func(t *testing.T) {
			want := base
			want.Reason = "by_id"
			requireAll(t, want, project, forKey(project.ID))
			require.Equal(t, "user", requireKey(t, fetch(t, dp, forKey(mine.ID)), mine, "by_id").Scope)
		})
	})
}

// A fetch by a caller's credential is for the default project of the session, unless it names another project of the
// same customer.
func TestFetchInAnotherProject(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		key := s.register(s.public.Session(acme, ops, sam), "openai", false)
		token := s.public.As(sam).Token // sam is not a member of the session's default project
		requireRefused(t, fetch(t, dp, forCaller(token, "openai")), http.StatusForbidden, "permission-denied")
		requireKey(t, fetch(t, dp, forCaller(token, "openai", ops)), key, "project_key")
		foreign := s.public.Session(globex, web, owner).Token
		requireRefused(t, fetch(t, dp, forCaller(foreign, "openai", ops)), http.StatusForbidden, "permission-denied")
	})
}

func TestFetchValidity(t *testing.T) {
	issuer := authtest.NewIssuer(t)
	oidc, err := auth.NewOIDC(auth.OIDCConfig{Issuer: issuer.URL, Audience: authtest.Audience})
	require.NoError(t, err)
	s := onSQLite(t, func(o *aikeystest.Options, c *dataplane.Config) {
		o.OIDC, c.Sessions = oidc, auth.New(auth.Config{Tokens: o.Store, OIDC: oidc})
	})
	dp, key := s.dataPlane(), s.shared("openai")
	caller := func(token string) *gen.Caller {
		s.Evidence.Hide(token)
		return requireKey(t, fetch(t, dp, forCaller(token, "openai")), key, "project_key").Caller
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
}

func TestUnauthenticatedCaller(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	s.shared("openai")
	unknown, _, _, err := auth.MintAPIKey(time.Now())
	require.NoError(t, err)
	s.Evidence.Hide(unknown)
	expired := s.public.NewSession(acme, web, member, time.Now().Add(-time.Second))
	for name, token := range map[string]string{
		"garbage":                   s.Secret(),
		"unknown":                   unknown,
		"expired":                   expired.Token,
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
}

// The fetch's own statement checks the caller's key, the membership and the key, so a cached session does not help.
func TestEndedAccessIsRefusedAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		older, newer := s.shared("openai"), s.shared("openai")
		t.Run("an API key", func(t *testing.T) {
			c := s.public.NewSession(acme, web, member, time.Time{})
			requireKey(t, fetch(t, dp, forCaller(c.Token, "openai")), newer, "project_key")
			c.Revoke(t, acme, web)
			for range 2 { // first the statement refuses, then the look-up of the dropped session
				requireRefused(t, fetch(t, dp, forCaller(c.Token, "openai")), http.StatusUnprocessableEntity, "caller-unauthenticated")
			}
		})
		t.Run("a provider key", func(t *testing.T) {
			s.public.As(owner).RevokeKey(t, newer.ID)
			requireKey(t, fetch(t, dp, forUser(web, member, "openai")), older, "project_key")
			requireRefused(t, fetch(t, dp, forKey(newer.ID)), http.StatusForbidden, "key-revoked")
			requireKey(t, fetch(t, dp, forKey(older.ID)), older, "by_id")
			s.public.As(owner).RevokeKey(t, older.ID)
			requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusForbidden, "key-revoked")
		})
		t.Run("a membership", func(t *testing.T) {
			key, token := s.own(member, "openai"), s.credential(member)
			requireKey(t, fetch(t, dp, forCaller(token, "openai")), key, "user_key")
			removed, err := s.public.As(owner).RemoveMemberWithResponse(t.Context(), acme, web, member, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, removed.StatusCode())
			requireRefused(t, fetch(t, dp, forCaller(token, "openai")), http.StatusForbidden, "permission-denied")
			requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusForbidden, "permission-denied")
		})
	})
}

// The position of an answer says whether the answer is older than a revocation.
func TestAsOfSeparatesAnswersByRevocation(t *testing.T) {
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
		tx := s.Row(key.ID).RevocationTx
		for _, at := range before {
			require.False(t, at.Contains(tx))
		}
		for _, at := range []position.Position{asOf(forUser(web, member, "mistral")), asOf(forKey(kept.ID))} {
			require.True(t, at.Contains(tx))
		}
	})
}

// The answer to a fetch of a credential document has the part of the document that goes into the header, and a base URL
// that is completed with the document's fields.
func TestFetchOfCredentialDocument(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	inner := s.Secret()
	for provider, tc := range map[string]struct{ document, secret, base, style string }{
		"azure_openai": {`{"resource":"my-res","api_key":"` + inner + `"}`, inner, "https://my-res.openai.azure.com", "api_key"},
		"bedrock":      {`{"api_key":"` + inner + `","region":"eu-west-1"}`, inner, "https://bedrock-runtime.eu-west-1.amazonaws.com", "bearer"},
	} {
		t.Run(provider, func(t *testing.T) {
			key := s.public.As(owner).Register(t, pub.RegisterRequest{Provider: provider, Name: "n", Secret: gensecret.New(tc.document)})
			got := requireKey(t, fetch(t, dp, forUser(web, member, provider)), held{key, tc.secret}, "project_key")
			require.Equal(t, tc.base, got.BaseURL)
			require.Equal(t, tc.style, got.AuthStyle)
			require.Empty(t, got.Inject)
			require.Nil(t, got.ExpiresInMs)
			require.Zero(t, s.Fetches(acme, web)[0].DerivedUntil)
		})
	}
}

// Data planes get tokens that are signed with a cloud's credential and valid for at most an hour. They never get the
// credential itself.
func TestFetchNeverAnswersACloudsCredential(t *testing.T) {
	s := onSQLite(t)
	dp, inner := s.dataPlane(), s.Secret()
	s.public.As(owner).Register(t, pub.RegisterRequest{Provider: "bedrock", Name: "n", Secret: gensecret.New(
		`{"access_key_id":"AKIA1","secret_access_key":"` + inner + `","region":"eu-west-1"}`)})
	reply := fetch(t, dp, forUser(web, member, "bedrock"))
	require.Equal(t, 200, reply.StatusCode(), "%s", reply.Body)
	require.NotContains(t, string(reply.Body), inner)
	got := reply.JSON200
	require.Equal(t, "https://bedrock-runtime.eu-west-1.amazonaws.com", got.BaseURL)
	require.Equal(t, "aws_sigv4", got.AuthStyle, "which data planes that know no inject refuse")
	token := got.Secret.Reveal()
	require.Regexp(t, "^bedrock-api-key-", token)
	require.Len(t, got.Inject, 1)
	require.Equal(t, []string{"Authorization", "Bearer " + token, "set"}, []string{got.Inject[0].Name, got.Inject[0].Value.Reveal(), got.Inject[0].Mode})
	require.Equal(t, []int64{3_600_000, 2_880_000}, []int64{*got.ExpiresInMs, *got.RefreshInMs})
	recorded := s.Fetches(acme, web)[0]
	require.Equal(t, recorded.At+time.Hour.Microseconds(), recorded.DerivedUntil)
}

// tokenService is a double of a cloud's token service.
type tokenService func(*http.Request) *http.Response

// RoundTrip implements http.RoundTripper.
func (s tokenService) RoundTrip(r *http.Request) (*http.Response, error) { return s(r), nil }

// An Azure client secret is exchanged at its cloud's own address. A refusal counts as a failure of the key; an outage
// affects no other key.
func TestFetchExchangesClientSecrets(t *testing.T) {
	answers := tokenService(func(r *http.Request) *http.Response {
		body, _ := io.ReadAll(r.Body)
		form, _ := url.ParseQuery(string(body))
		status, answer := http.StatusUnauthorized, `{"error":"invalid_client"}`
		switch r.URL.String() {
		case "https://login.microsoftonline.us/serves/oauth2/v2.0/token":
			if form.Get("client_id") == "app" && len(form.Get("client_secret")) == 32 && form.Get("scope") == "https://cognitiveservices.azure.us/.default" {
				status, answer = http.StatusOK, `{"access_token":"eyJ-EXAMPLE","expires_in":5000}`
			}
		case "https://login.microsoftonline.us/down/oauth2/v2.0/token":
			status = http.StatusServiceUnavailable
		}
		return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(answer))}
	})
	exchanging := func(_ *aikeystest.Options, c *dataplane.Config) { c.Exchanger = exchange.New(answers) }
	s := onSQLite(t, exchanging)
	dp, inner := s.dataPlane(), s.Secret()
	register := func(tenant string) pub.Key {
		return s.public.As(owner).Register(t, pub.RegisterRequest{Provider: "azure_openai", Name: tenant, Secret: gensecret.New(
			`{"endpoint":"https://r.services.ai.azure.us/","tenant_id":"` + tenant + `","client_id":"app","client_secret":"` + inner + `"}`)})
	}
	reply := fetch(t, dp, forKey(register("serves").ID))
	require.Equal(t, http.StatusOK, reply.StatusCode(), "%s", reply.Body)
	require.NotContains(t, string(reply.Body), inner)
	got := reply.JSON200
	require.Equal(t, []string{"https://r.services.ai.azure.us", "azure_entra", "eyJ-EXAMPLE"}, []string{got.BaseURL, got.AuthStyle, got.Secret.Reveal()})
	require.Equal(t, []string{"Authorization", "Bearer eyJ-EXAMPLE", "set"}, []string{got.Inject[0].Name, got.Inject[0].Value.Reveal(), got.Inject[0].Mode})
	require.InDelta(t, 3_600_000, *got.ExpiresInMs, 60_000)
	require.InDelta(t, 2_880_000, *got.RefreshInMs, 60_000)

	refused := register("refuses")
	requireRefused(t, fetch(t, dp, forKey(refused.ID)), http.StatusForbidden, "credential-refused")
	row := s.Row(refused.ID)
	require.Equal(t, []any{http.StatusUnauthorized, "rejected"}, []any{row.LastFailureStatus, row.LastFailureReason})
	down := register("down")
	requireRefused(t, fetch(t, dp, forUser(web, member, "azure_openai")), http.StatusServiceUnavailable, "token-unavailable")
	require.Zero(t, s.Row(down.ID).LastFailureAt)
	records := s.Fetches(acme, web)
	require.Equal(t, []string{"token_unavailable", "credential_refused", "by_id"}, []string{records[0].Reason, records[1].Reason, records[2].Reason})
}

// roleKeeper is a double of exchange.Roles.
type roleKeeper func(providers.Role) (token string, life time.Duration, err error)

// Assume implements exchange.Roles.
func (k roleKeeper) Assume(_ context.Context, role providers.Role) (token string, life time.Duration, err error) {
	return k(role)
}

// The external id is that of the key's customer, whatever the credential and the request say.
func TestFetchAssumesARoleForTheKeysCustomer(t *testing.T) {
	assumed := make(chan providers.Role, 10)
	exchanger := exchange.New(nil)
	exchanger.SetRoles(roleKeeper(func(role providers.Role) (string, time.Duration, error) {
		assumed <- role
		if strings.HasSuffix(role.ARN, "/open") {
			return "", 0, exchange.ErrOpenRole
		}
		return "bedrock-api-key-EXAMPLE", 50 * time.Minute, nil
	}))
	s := onSQLite(t, func(_ *aikeystest.Options, c *dataplane.Config) { c.Exchanger = exchanger })
	dp := s.dataPlane()
	register := func(name string) pub.Key {
		return s.public.As(owner).Register(t, pub.RegisterRequest{Provider: "bedrock", Name: name, Secret: gensecret.New(
			`{"role_arn":"arn:aws:iam::123456789012:role/` + name + `","region":"eu-west-1","external_id":"aikeys:globex"}`)})
	}
	key := register("bedrock")
	for range 2 {
		got := fetch(t, dp, forKey(key.ID)).JSON200
		require.Equal(t, []string{"https://bedrock-runtime.eu-west-1.amazonaws.com", "aws_sigv4", "Bearer bedrock-api-key-EXAMPLE"},
			[]string{got.BaseURL, got.AuthStyle, got.Inject[0].Value.Reveal()})
		require.InDelta(t, 3_000_000, *got.ExpiresInMs, 60_000)
	}
	require.Len(t, assumed, 1, "all fetches share it")
	require.Equal(t, providers.Role{
		ARN: "arn:aws:iam::123456789012:role/bedrock", Region: "eu-west-1", ExternalID: "aikeys:" + acme, Session: key.ID,
	}, <-assumed)
	open := register("open")
	requireRefused(t, fetch(t, dp, forKey(open.ID)), http.StatusForbidden, "credential-refused")
	require.Equal(t, http.StatusUnauthorized, s.Row(open.ID).LastFailureStatus)
	<-assumed
}

func TestFetchOfACredentialThatCannotSign(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	s.public.As(owner).Register(t, pub.RegisterRequest{Provider: "vertex", Name: "n", Secret: gensecret.New(
		`{"type":"service_account","project_id":"p","private_key":"-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----","client_email":"robot@p.iam.gserviceaccount.com"}`)})
	reply := fetch(t, dp, forUser(web, member, "vertex"))
	require.Equal(t, 404, reply.StatusCode(), "%s", reply.Body)
	require.Contains(t, string(reply.Body), "register it again")
	require.NotContains(t, string(reply.Body), "PRIVATE")
}

func TestFetchRecords(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane(serving(acme))
		key, mine, gone := s.shared("openai"), s.own(member, "anthropic"), s.shared("groq")
		s.public.As(owner).RevokeKey(t, gone.ID)
		s.setPolicy(pub.PolicyRequest{UserKeysByProvider: &pub.UserKeysByProvider{"mistral": "require"}})
		token, tokenID := s.credential(member), s.public.As(member).TokenID
		foreign := s.public.Session(globex, web, owner)
		base := models.FetchRecord{DataPlaneID: dp.ID, CustomerID: acme, ProjectID: web, Provider: "openai", Decision: models.OutcomeDenied}
		for name, tc := range map[string]struct {
			body   gen.FetchRequest
			status int
			want   func(r *models.FetchRecord)
		}{
			"for a caller": {forCaller(token, "openai"), 200, func(r *models.FetchRecord) {
				r.UserID, r.TokenID, r.KeyID, r.Version, r.Decision, r.Reason = member, tokenID, key.ID, 1, models.OutcomeAllowed, "project_key"
			}},
			"for a user": {forUser(web, member, "anthropic"), 200, func(r *models.FetchRecord) {
				r.UserID, r.Provider, r.KeyID, r.Version, r.Decision, r.Reason = member, "anthropic", mine.ID, 1, models.OutcomeAllowed, "user_key"
			}},
			"for no user": {forUser(web, "", "openai"), 200, func(r *models.FetchRecord) {
				r.KeyID, r.Version, r.Decision, r.Reason = key.ID, 1, models.OutcomeAllowed, "project_key"
			}},
			"by id": {forKey(key.ID), 200, func(r *models.FetchRecord) {
				r.KeyID, r.Version, r.Decision, r.Reason = key.ID, 1, models.OutcomeAllowed, "by_id"
			}},
			"no key": {forUser(web, member, "cohere"), 404, func(r *models.FetchRecord) {
				r.UserID, r.Provider, r.Reason = member, "cohere", "no_key"
			}},
			"no key of that id": {forKey(absent), 404, func(r *models.FetchRecord) {
				r.CustomerID, r.ProjectID, r.Provider, r.KeyID, r.Reason = "", "", "", absent, "no_key"
			}},
			"no key of their own": {forUser(web, member, "mistral"), 404, func(r *models.FetchRecord) {
				r.UserID, r.Provider, r.Reason = member, "mistral", "user_key_required"
			}},
			"a revoked key": {forKey(gone.ID), 403, func(r *models.FetchRecord) {
				r.Provider, r.KeyID, r.Version, r.Reason = "groq", gone.ID, 1, "key_revoked"
			}},
			"no member": {forUser(web, sam, "openai"), 403, func(r *models.FetchRecord) { r.UserID, r.Reason = sam, "not_a_member" }},
			"another customer": {forCaller(foreign.Token, "openai"), 422, func(r *models.FetchRecord) {
				r.CustomerID, r.UserID, r.TokenID, r.Reason = globex, owner, foreign.TokenID, "customer_not_served"
			}},
		} {
			t.Run(name, func(t *testing.T) {
				want, before := base, time.Now()
				tc.want(&want)
				old := s.Fetches(want.CustomerID, want.ProjectID)
				reply := fetch(t, dp, tc.body)
				require.Equal(t, tc.status, reply.StatusCode(), "%s", reply.Body)
				now := s.Fetches(want.CustomerID, want.ProjectID)
				require.Len(t, now, len(old)+1)
				got := now[0]
				require.WithinRange(t, time.UnixMicro(got.At), before.Truncate(time.Microsecond), time.Now())
				want.ID, want.At, want.RequestID = got.ID, got.At, reply.HTTPResponse.Header.Get("X-Request-Id")
				require.Equal(t, want, got)
			})
		}
	})
}

// storeWithoutRecords is a Store that can't record.
type storeWithoutRecords struct{ dataplane.Store }

func (storeWithoutRecords) RecordFetch(context.Context, models.FetchRecord) error {
	return fmt.Errorf("record: %w", models.ErrUnavailable)
}

func TestFetchFailsIfItsRecordFails(t *testing.T) {
	s := onSQLite(t, func(_ *aikeystest.Options, c *dataplane.Config) { c.Store = storeWithoutRecords{c.Store} })
	dp, key := s.dataPlane(), s.shared("openai")
	for name, body := range map[string]gen.FetchRequest{
		"a key": forUser(web, member, "openai"), "a key by its id": forKey(key.ID), "a refusal": forUser(web, sam, "openai"),
	} {
		t.Run(name, func(t *testing.T) {
			requireRefused(t, fetch(t, dp, body), http.StatusServiceUnavailable, "unavailable")
		})
	}
}

// Otherwise strangers with made-up credentials could fill the database.
func TestUnauthenticatedCallerLeavesNoRecord(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	requireRefused(t, fetch(t, dp, forCaller("ak_", "openai")), http.StatusUnprocessableEntity, "caller-unauthenticated")
	require.Empty(t, s.Fetches("", ""))
}

// An envelope that was changed, or moved to another row, does not open. The answer is an internal error, and the fetch
// is recorded.
func TestUnreadableKeyIsRefused(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	token := s.credential(member)
	requireUnreadable := func(t *testing.T, id, provider string) {
		t.Helper()
		for _, body := range []gen.FetchRequest{forKey(id), forCaller(token, provider)} {
			reply := fetch(t, dp, body)
			requireRefused(t, reply, http.StatusInternalServerError, "internal")
			r := s.Fetches(acme, web)[0]
			require.Equal(t, []any{models.OutcomeDenied, "unreadable", id}, []any{r.Decision, r.Reason, r.KeyID})
			require.Equal(t, reply.HTTPResponse.Header.Get("X-Request-Id"), r.RequestID)
			require.Contains(t, s.Evidence.Log(), "key is unreadable")
		}
	}
	t.Run("another key's envelope", func(t *testing.T) {
		key, from := s.shared("openai"), s.shared("mistral")
		s.exec(t, `UPDATE ai_keys SET envelope = (SELECT envelope FROM ai_keys WHERE id = $1) WHERE id = $2`, from.ID, key.ID)
		requireUnreadable(t, key.ID, "openai")
	})
	t.Run("a row of another provider", func(t *testing.T) {
		key := s.shared("cohere")
		s.exec(t, `UPDATE ai_keys SET provider = 'deepseek' WHERE id = $1`, key.ID)
		requireUnreadable(t, key.ID, "deepseek")
	})
	t.Run("a row of an unknown provider", func(t *testing.T) {
		key := s.shared("groq")
		s.exec(t, `UPDATE ai_keys SET provider = 'nonesuch' WHERE id = $1`, key.ID)
		requireRefused(t, fetch(t, dp, forKey(key.ID)), http.StatusInternalServerError, "internal")
	})
	t.Run("no envelope", func(t *testing.T) {
		key := s.shared("together")
		s.exec(t, `UPDATE ai_keys SET envelope = $1 WHERE id = $2`, []byte("garbage"), key.ID)
		requireUnreadable(t, key.ID, "together")
	})
	t.Run("a credential that would lead elsewhere", func(t *testing.T) {
		secret := s.Secret()
		key := s.public.As(owner).Register(t, pub.RegisterRequest{
			Provider: "azure_openai", Name: "n", Secret: gensecret.New(`{"resource":"r","api_key":"` + secret + `"}`),
		})
		evil := `{"resource":"evil.example/","api_key":"` + secret + `"}`
		sealed, err := s.public.Sealer.Seal(t.Context(), sealer.Binding{
			CustomerID: acme, ProjectID: web, KeyID: key.ID, Provider: "azure_openai", Version: 1,
		}, sealer.NewSecret([]byte(evil)))
		require.NoError(t, err)
		s.exec(t, `UPDATE ai_keys SET envelope = $1 WHERE id = $2`, sealed.Bytes, key.ID)
		requireUnreadable(t, key.ID, "azure_openai")
	})
}

func TestFetchWithoutSealer(t *testing.T) {
	s := onSQLite(t, func(o *aikeystest.Options, _ *dataplane.Config) {
		o.Sealer = sealertest.NewUnavailable(secretstest.Backend(t))
	})
	backend, ok := s.public.Sealer.(*sealertest.Unavailable)
	require.True(t, ok)
	backend.SetAvailable(true)
	dp, key := s.dataPlane(), s.shared("openai")
	backend.SetAvailable(false)
	requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusServiceUnavailable, "unavailable")
	require.Equal(t, "failed", s.Fetches(acme, web)[0].Reason)
	backend.SetAvailable(true)
	requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
}

// failingSessions are sessions that can't be opened now.
type failingSessions struct {
	auth.Sessions
	reason *error
}

func (f failingSessions) Authenticate(context.Context, string) (auth.Principal, error) {
	return auth.Principal{}, fmt.Errorf("authenticate: %w", *f.reason)
}

func TestUnverifiableCallerIsNotRefused(t *testing.T) {
	var reason error
	s := onSQLite(t, func(_ *aikeystest.Options, c *dataplane.Config) { c.Sessions = failingSessions{c.Sessions, &reason} })
	dp, key := s.dataPlane(), s.shared("openai")
	for status, reasons := range map[int][]error{
		http.StatusServiceUnavailable:  {auth.ErrIssuerUnavailable, models.ErrUnavailable},
		http.StatusInternalServerError: {errors.New("unforeseen")},
	} {
		for _, reason = range reasons {
			require.Equal(t, status, fetch(t, dp, forCaller(s.credential(member), "openai")).StatusCode(), reason)
			requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
		}
	}
}

// FuzzFetchBody checks that for every body the answer is documented, is not a 5xx, repeats no credential, and holds a key only
// if a strict parser finds a request for it in the body. In a body, SECRET stands for text that must not be repeated, TOKEN for a valid credential, and KEY
// for a key's id.
func FuzzFetchBody(f *testing.F) {
	for _, seed := range []string{
		`{"credential":"TOKEN","provider":"openai"}`, `{"credential":"TOKEN","project_id":"web","provider":"openai"}`,
		`{"Credential":"TOKEN","provider":"openai"}`, `{"credential":"SECRET","provider":"SECRET"}`, `{"key_id":"KEY"}`,
		`{"customer_id":"acme","project_id":"web","provider":"openai","user_id":"mia"}`,
		`{"customer_id":"globex","project_id":"web","provider":"openai"}`, `{"key_id":"KEY","key_id":"SECRET"}`,
		`{"key_id":"KEY","provider":"openai"}`, `{"credential":"TOKEN","provider":"openai","customer_id":null}`,
		`{"credential":"TOKEN","provider":"openai"}{"key_id":"KEY"}`, `{"SECRET":1}`, "null", "[]", `"SECRET"`, "", "{", `{"credential":"\u0000"}`,
	} {
		f.Add([]byte(seed))
	}
	s := start(f, "sqlite")
	dp, key, token := s.dataPlane(serving(acme)), s.shared("openai"), s.public.As(member).Token
	f.Fuzz(func(t *testing.T, body []byte) {
		secret := s.Secret()
		sent := bytes.ReplaceAll(body, []byte("SECRET"), []byte(secret))
		sent = bytes.ReplaceAll(sent, []byte("TOKEN"), []byte(token))
		sent = bytes.ReplaceAll(sent, []byte("KEY"), []byte(key.ID))
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/fetch", bytes.NewReader(sent))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+dp.token)
		recorder := httptest.NewRecorder()
		s.Handler.ServeHTTP(recorder, req.Clone(t.Context()))
		resp := recorder.Result()
		require.NoError(t, resp.Body.Close())
		require.Empty(t, contract().Complaints(req, resp, recorder.Body.Bytes()))
		require.Less(t, resp.StatusCode, http.StatusInternalServerError)
		require.Empty(t, aikeystest.FindIn([]byte(s.Evidence.Log()), secret), "in the log")
		require.Empty(t, aikeystest.FindIn(recorder.Body.Bytes(), secret), "in the reply")
		if resp.StatusCode == http.StatusOK {
			var read struct {
				Credential, Provider string
				CustomerID           string `json:"customer_id"`
				ProjectID            string `json:"project_id"`
				UserID               string `json:"user_id"`
				KeyID                string `json:"key_id"`
			}
			decoder := json.NewDecoder(bytes.NewReader(sent))
			decoder.DisallowUnknownFields()
			require.NoError(t, decoder.Decode(&read))
			require.True(t, read.KeyID == key.ID || read.Provider == "openai")
			require.True(t, read.KeyID != "" || read.Credential == token || read.CustomerID == acme)
		}
		s.Evidence.Forget()
	})
}

// A combination of fields is accepted if and only if the document's text allows it.
func TestFetchIdentifiesKeyInOneMode(t *testing.T) {
	s := onSQLite(t)
	dp, key := s.dataPlane(), s.shared("openai")
	const names = 6
	for mask := range 1 << names {
		var given []string
		has := func(i int) bool { return mask&(1<<i) != 0 }
		body := gen.FetchRequest{}
		set := func(i int, name string, to **string, value string) {
			if has(i) {
				*to, given = &value, append(given, name)
			}
		}
		if has(0) {
			body.Credential, given = new(gensecret.New(s.credential(member))), append(given, "credential")
		}
		set(1, "customer_id", &body.CustomerID, acme)
		set(2, "project_id", &body.ProjectID, web)
		set(3, "user_id", &body.UserID, member)
		set(4, "provider", &body.Provider, "openai")
		set(5, "key_id", &body.KeyID, key.ID)
		text := strings.Join(given, " ")
		switch text {
		case "credential provider", "credential project_id provider", "customer_id project_id provider",
			"customer_id project_id user_id provider", "key_id":
			require.Equal(t, http.StatusOK, fetch(t, dp, body).StatusCode(), text)
			continue
		}
		doc := requireRefused(t, fetch(t, dp, body), http.StatusBadRequest, "invalid-argument")
		require.NotEmpty(t, doc.Errors, text)
		for _, field := range doc.Errors {
			require.Contains(t, []string{"body", "customer_id", "project_id", "user_id", "provider", "key_id"}, field.Field, text)
		}
	}
	doc := requireRefused(t, fetch(t, dp, forUser(web, member, "nonesuch")), http.StatusBadRequest, "invalid-argument")
	require.Equal(t, "provider", doc.Errors[0].Field)
	allowed := 0
	for _, r := range s.Fetches(acme, web) {
		require.Equal(t, models.OutcomeAllowed, r.Decision)
		allowed++
	}
	require.Equal(t, 5, allowed, "a refused body leaves no record")
}

// Fields marked as secret must never be shown. The list is repeated here so that a reviewer sees every change to it.
func TestSecretFieldsOfDocument(t *testing.T) {
	var walk func(ref *openapi3.SchemaRef, secret func(path string)) // calls secret with the path of each secret schema within ref
	walk = func(ref *openapi3.SchemaRef, secret func(path string)) {
		if marked, _ := ref.Value.Extensions["x-secret"].(bool); marked {
			secret("")
		}
		for name, property := range ref.Value.Properties {
			walk(property, func(path string) { secret("." + name + path) })
		}
		if ref.Value.Items != nil {
			walk(ref.Value.Items, func(path string) { secret("[]" + path) })
		}
	}
	var found []string
	for _, item := range contract().Doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil {
				walk(op.RequestBody.Value.Content["application/json"].Schema, func(path string) {
					found = append(found, "request "+op.OperationID+path)
				})
			}
			for _, ref := range slices.Concat(item.Parameters, op.Parameters) {
				walk(ref.Value.Schema, func(string) { found = append(found, "parameter "+op.OperationID+" "+ref.Value.Name) })
			}
			for status, response := range op.Responses.Map() {
				for _, media := range response.Value.Content {
					walk(media.Schema, func(path string) { found = append(found, "response "+op.OperationID+" "+status+path) })
				}
			}
		}
	}
	slices.Sort(found)
	require.Equal(t, []string{
		"request fetchKey.credential", "response claimKeyTest 200.headers[].value", "response claimKeyTest 200.made_up_headers[].value",
		"response fetchKey 200.inject[].value", "response fetchKey 200.secret",
	}, found)
}

func TestSecretsDoNotPrint(t *testing.T) {
	const plain = "sk-0123456789abcdef"
	credential := gensecret.New(plain)
	for name, value := range map[string]any{
		"request": gen.FetchRequest{Credential: &credential}, "response": gen.FetchResponse{Secret: gensecret.New(plain)},
		"reply": gen.FetchKey200JSONResponse{Secret: gensecret.New(plain)},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			require.Empty(t, aikeystest.FindIn(fmt.Appendf(nil, verb, value), plain), "%s %s", name, verb)
		}
	}
	text, err := json.Marshal(gen.FetchKey200JSONResponse{Secret: gensecret.New(plain)})
	require.NoError(t, err)
	require.Contains(t, string(text), plain, "but it is encoded")
}

// Secrets pass through every kind of answer. The fixture searches all other output for them when the service ends.
func TestSealingSecretsAppearOnlyInFetchAnswers(t *testing.T) {
	s := onSQLite(t)
	dp, limited := s.dataPlane(), s.dataPlane(serving(globex))
	key, mine := s.shared("openai"), s.own(member, "openai")
	token := s.credential(member)
	for _, body := range []gen.FetchRequest{forCaller(token, "openai"), forKey(key.ID), forUser(web, member, "openai")} {
		require.Equal(t, http.StatusOK, fetch(t, dp, body).StatusCode())
		require.NotEqual(t, http.StatusOK, fetch(t, limited, body).StatusCode())
	}
	s.public.As(member).RevokeKey(t, mine.ID)
	require.Equal(t, http.StatusForbidden, fetch(t, dp, forKey(mine.ID)).StatusCode())
	strange := s.Secret()
	for _, body := range []string{
		`{"credential":"` + strange + `","provider":"openai"}`, `{"credential":"` + strange + `","provider":"` + strange + `"}`,
		`{"credential":"` + strange + `"`, `{"credential":["` + strange + `"],"provider":"openai"}`, `{"` + strange + `":1}`,
		`{"customer_id":"` + strange + `","project_id":"` + strange + `","user_id":"` + strange + `","provider":"openai"}`,
		`{"key_id":"byok_` + strange + `"}`, `{"credential":"` + strings.Repeat(strange, 300) + `","provider":"openai"}`,
		`{"credential":"` + strange + `","credential":"x","provider":"openai"}`,
	} {
		status := s.send(t, dp.token, operation{http.MethodPost, "/v1/fetch", body}).StatusCode()
		require.True(t, status >= 400 && status < 500, "%d", status)
	}
	s.exec(t, `UPDATE ai_keys SET provider = 'deepseek' WHERE id = $1`, key.ID)
	require.Equal(t, http.StatusInternalServerError, fetch(t, dp, forKey(key.ID)).StatusCode())
	require.Contains(t, s.Evidence.Log(), `"operation":"fetchKey","status":500`)
	require.NotContains(t, s.Evidence.Log(), "/v1/")
}

// hookedSealer is a sealer that calls opened with each secret that it opens for a fetch.
type hookedSealer struct {
	sealer.Sealer
	opened func(sealer.Secret)
}

func hookSealer(t *testing.T, opened func(sealer.Secret)) change {
	return func(o *aikeystest.Options, _ *dataplane.Config) {
		o.Sealer = hookedSealer{secretstest.Backend(t), opened}
	}
}

func (h hookedSealer) Open(ctx context.Context, binding sealer.Binding, envelope []byte) (sealer.Secret, error) {
	plain, err := h.Sealer.Open(ctx, binding, envelope)
	if err == nil && binding != sealer.CanaryBinding() {
		h.opened(plain)
	}
	return plain, err
}

func TestPanicDoesNotRevealSecret(t *testing.T) {
	s := onSQLite(t, hookSealer(t, func(plain sealer.Secret) { panic(string(plain.Reveal())) }))
	dp := s.dataPlane()
	s.shared("openai")
	requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusInternalServerError, "internal")
	require.Contains(t, s.Evidence.Log(), "hookedSealer.Open", "where it happened")
}

func TestSealingOpenedSecretIsWiped(t *testing.T) {
	opened := make(chan sealer.Secret, 1)
	s := onSQLite(t, hookSealer(t, func(plain sealer.Secret) { opened <- plain }))
	dp, key := s.dataPlane(), s.shared("openai")
	requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
	require.Zero(t, (<-opened).Len())
}

// The log names a data plane by its id, and nothing names a caller's key.
func TestLoggedFieldsOfFetch(t *testing.T) {
	s := onSQLite(t)
	dp, key := s.dataPlane(func(d *models.DataPlane) { d.Name = "the-name-of-the-edge" }), s.shared("openai")
	reply := fetch(t, dp, forCaller(s.credential(member), "openai"))
	requireKey(t, reply, key, "project_key")
	line := s.LogLine(t, aikeystest.Reply{Header: reply.HTTPResponse.Header})
	for name := range line {
		require.Contains(t, []string{"time", "level", "msg", "request_id", "operation", "status", "took", "source_ip",
			"data_plane_id"}, name)
	}
	require.Equal(t, dp.ID, line["data_plane_id"])
	require.NotContains(t, s.Evidence.Log(), "the-name-of-the-edge")
}

// A data plane drops an answer whose position does not include a revocation that it knows of. So if a revocation and a
// fetch overlap, an answer that has the key must have a position from before the revocation. This also holds if the
// first key is bad and a second statement finds the next key.
func TestAsOfExcludesRevocationOfFetchedKey(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		s.setPolicy(pub.PolicyRequest{OnBadKey: new(pub.OnBadKey("next_key"))})
		key, bad := s.shared("openai"), s.shared("openai")
		report(t, dp, bad.ID, true, 0)
		requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "next_key")
		var (
			mu   sync.Mutex
			held []string // the positions of answers that have the key
			wg   sync.WaitGroup
		)
		const askers = 4
		asking := make(chan struct{}, askers)
		for i := range askers {
			body := []gen.FetchRequest{forUser(web, member, "openai"), forKey(key.ID)}[i%2]
			wg.Go(func() {
				for round := 0; ; round++ {
					if round == 3 {
						asking <- struct{}{}
					}
					reply, err := dp.FetchKeyWithResponse(t.Context(), nil, body)
					if err != nil || reply.JSON200 == nil || reply.JSON200.KeyID != key.ID {
						return // revoked
					}
					mu.Lock()
					held = append(held, reply.JSON200.AsOf)
					mu.Unlock()
				}
			})
		}
		for range askers {
			<-asking
		}
		s.public.As(owner).RevokeKey(t, key.ID)
		wg.Wait()
		tx := s.Row(key.ID).RevocationTx
		require.GreaterOrEqual(t, len(held), 3*askers)
		for _, text := range held {
			at, err := position.Parse(text)
			require.NoError(t, err)
			require.False(t, at.Contains(tx), text)
		}
		requireRefused(t, fetch(t, dp, forKey(key.ID)), http.StatusForbidden, "key-revoked")
	})
}

func TestFetchedKeyByPolicyAndRegisteredKeys(t *testing.T) {
	table := map[pub.UserKeys]map[string]string{ // :: policy → existing keys → reason
		"allow":   {"none": "no_key", "project": "project_key", "own": "user_key", "both": "user_key"},
		"require": {"none": "user_key_required", "project": "user_key_required", "own": "user_key", "both": "user_key"},
		"forbid":  {"none": "no_key", "project": "user_keys_forbidden", "own": "no_key", "both": "user_keys_forbidden"},
	}
	// Each set of keys has a provider of its own.
	providers := map[string]string{"none": "openai", "project": "deepseek", "own": "mistral", "both": "cohere"}
	each(t, func(t *testing.T, s *service) {
		dp, token := s.dataPlane(), s.credential(member)
		projects := map[string]held{"project": s.shared("deepseek"), "both": s.shared("cohere")}
		own := map[string]held{"own": s.own(member, "mistral"), "both": s.own(member, "cohere")}
		for _, provider := range providers { // these keys serve only their users
			s.own(other, provider)
			s.own(owner, provider)
		}
		for policy, row := range table {
			s.setPolicy(pub.PolicyRequest{UserKeys: &policy})
			for presence, reason := range row {
				t.Run(string(policy)+", keys: "+presence, func(t *testing.T) {
					reply := fetch(t, dp, forCaller(token, providers[presence]))
					switch reason {
					case "no_key":
						requireRefused(t, reply, http.StatusNotFound, "no-key")
					case "user_key_required":
						requireRefused(t, reply, http.StatusNotFound, "user-key-required")
					case "user_key":
						requireKey(t, reply, own[presence], reason)
					default:
						requireKey(t, reply, projects[presence], reason)
					}
				})
			}
		}
	})
}

// If no key serves, the answer names a revoked key to callers who may read it. Other callers get the answer for no key.
func TestFetchNamesTheRevokedKey(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, token := s.dataPlane(), s.credential(member)
		shared, own := s.shared("openai"), s.own(member, "mistral")
		s.public.As(owner).RevokeKey(t, shared.ID)
		s.public.As(member).RevokeKey(t, own.ID)
		says := func(o gen.FetchRequest, begins, ends string) {
			t.Helper()
			p := requireRefused(t, fetch(t, dp, o), http.StatusForbidden, "key-revoked")
			require.Equal(t, "permission_denied", p.Code)
			require.Regexp(t, "^"+begins+` was revoked at \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ by `+ends+"$", p.Detail)
		}
		const nothingElse = "; no other key of this provider may serve you."
		project := "The project's key " + shared.Name + " …" + shared.DisplaySuffix
		says(forCaller(token, "openai"), project, owner+nothingElse)
		says(forUser(web, member, "openai"), project, owner+nothingElse)
		says(forUser(web, "", "openai"), project, owner+nothingElse)
		says(forCaller(token, "mistral"), "Your own key "+own.Name+" …"+own.DisplaySuffix, member+nothingElse)
		record := s.Fetches(acme, web)[0]
		require.Equal(t, []any{"key_revoked", own.ID, models.OutcomeDenied}, []any{record.Reason, record.KeyID, record.Decision})
		says(forKey(shared.ID), "The key "+shared.Name+" …"+shared.DisplaySuffix, owner+"; no data plane may use it.")

		requireRefused(t, fetch(t, dp, forCaller(s.credential(other), "mistral")), http.StatusNotFound, "no-key")
		requireRefused(t, fetch(t, dp, forUser(web, "", "mistral")), http.StatusNotFound, "no-key")
		requireRefused(t, fetch(t, dp, forCaller(token, "groq")), http.StatusNotFound, "no-key")
		requireRefused(t, fetch(t, dp, forCaller(s.credential(sam), "openai")), http.StatusForbidden, "permission-denied")
		next := s.shared("openai")
		requireKey(t, fetch(t, dp, forCaller(token, "openai")), next, "project_key")
	})
}

func TestBadKeyByPolicy(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		project, older, newest := s.shared("openai"), s.own(member, "openai"), s.own(member, "openai")
		ask := func() answeredBy { return fetched(t, s, dp, member, "openai") }
		nextKey := pub.OnBadKey("next_key")
		report(t, dp, newest.ID, true, time.Second)
		require.Equal(t, answeredBy{newest.ID, "user_key"}, ask(), "fail is the default")
		s.setPolicy(pub.PolicyRequest{OnBadKey: &nextKey})
		require.Equal(t, answeredBy{older.ID, "next_key"}, ask())
		report(t, dp, older.ID, true, 0)
		require.Equal(t, answeredBy{project.ID, "next_key"}, ask())
		report(t, dp, project.ID, true, 0)
		require.Equal(t, answeredBy{newest.ID, "user_key"}, ask(), "where all are bad, the first serves after all")
		report(t, dp, older.ID, false, 0)
		require.Equal(t, answeredBy{older.ID, "next_key"}, ask(), "used with success, it is bad no longer")
		report(t, dp, newest.ID, true, 6*time.Minute)
		require.Equal(t, answeredBy{older.ID, "next_key"}, ask(), "an older report takes nothing back")
	})
}

func TestALimitedKeyByPolicy(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		project, older, newest := s.shared("openai"), s.own(member, "openai"), s.own(member, "openai")
		ask := func(limited ...string) (answeredBy, *string) {
			t.Helper()
			byName, byToken := forUser(web, member, "openai"), forCaller(s.credential(member), "openai")
			byName.Limited, byToken.Limited = limited, limited
			got, same := fetch(t, dp, byName).JSON200, fetch(t, dp, byToken).JSON200
			require.Equal(t, []string{got.KeyID, got.Reason}, []string{same.KeyID, same.Reason})
			require.Equal(t, got.Reason, s.Fetches(acme, web)[0].Reason)
			return answeredBy{got.KeyID, got.Reason}, got.OnLimited
		}
		requireServes := func(key pub.Key, reason string, limited ...string) {
			t.Helper()
			got, _ := ask(limited...)
			require.Equal(t, answeredBy{key.ID, reason}, got)
		}
		_, policy := ask()
		require.Nil(t, policy, "fail is the default")
		requireServes(newest.Key, "user_key", newest.ID)
		s.setPolicy(pub.PolicyRequest{OnLimited: new(pub.OnLimitedNextKey)})
		_, policy = ask()
		require.Equal(t, "next_key", *policy)
		requireServes(newest.Key, "user_key", older.ID)
		requireServes(older.Key, "next_key_limited", newest.ID)
		requireServes(project.Key, "next_key_limited", newest.ID, older.ID)
		requireServes(newest.Key, "user_key", newest.ID, older.ID, project.ID)
		s.setPolicy(pub.PolicyRequest{OnLimited: new(pub.OnLimitedNextKey), UserKeys: new(pub.UserKeysRequire)})
		requireServes(newest.Key, "user_key", newest.ID, older.ID)
		byID := forKey(newest.ID)
		require.Nil(t, fetch(t, dp, byID).JSON200.OnLimited)
		byID.Limited = []string{newest.ID}
		requireRefused(t, fetch(t, dp, byID), http.StatusBadRequest, "invalid-argument")
	})
}

// answeredBy is the key that serves ("" for none), and the reason.
type answeredBy struct{ keyID, reason string }

// fetched fetches for a user by their credential and by their id, and requires the same answer.
func fetched(t *testing.T, s *service, dp *dataPlane, user, provider string) answeredBy {
	t.Helper()
	byName, byToken := fetch(t, dp, forUser(web, user, provider)), fetch(t, dp, forCaller(s.credential(user), provider))
	require.Equal(t, byName.StatusCode(), byToken.StatusCode())
	if byName.JSON200 == nil {
		require.Contains(t, []int{http.StatusForbidden, http.StatusNotFound}, byName.StatusCode(), "%s", byName.Body)
		return answeredBy{"", s.Fetches(acme, web)[0].Reason}
	}
	require.Equal(t, byName.JSON200.KeyID, byToken.JSON200.KeyID)
	require.Equal(t, byName.JSON200.Reason, byToken.JSON200.Reason)
	return answeredBy{byName.JSON200.KeyID, byName.JSON200.Reason}
}

// In many random states, the public dry run says what a fetch then does.
func TestResolveAgreesWithFetch(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		seed := uint64(time.Now().UnixNano())
		t.Log("seed", seed)
		random := rand.New(rand.NewPCG(seed, 0))
		providers := []string{"openai", "mistral"}
		var active []pub.Key
		step := func() []pub.Key { // makes one change to the project, and returns the active keys
			provider := providers[random.IntN(len(providers))]
			if len(active) > 0 && random.IntN(3) > 0 {
				i := random.IntN(len(active))
				switch random.IntN(5) {
				case 0:
					user := owner
					if active[i].UserScope {
						user = active[i].CreatedBy
					}
					s.public.As(user).RevokeKey(t, active[i].ID)
					return append(active[:i:i], active[i+1:]...)
				default:
					report(t, dp, active[i].ID, random.IntN(3) > 0, time.Duration(random.IntN(1000))*time.Millisecond)
					return active
				}
			}
			switch random.IntN(5) {
			case 0:
				return append(active, s.shared(provider).Key)
			case 1:
				return append(active, s.own(member, provider).Key)
			case 2:
				return append(active, s.own(owner, provider).Key)
			default:
				userKeys := []pub.UserKeys{"allow", "allow", "require", "forbid"}[random.IntN(4)]
				onBad := []pub.OnBadKey{"fail", "next_key", "next_key"}[random.IntN(3)]
				s.setPolicy(pub.PolicyRequest{UserKeys: &userKeys, OnBadKey: &onBad})
				return active
			}
		}
		seen := map[string]int{}
		const steps, enough, most = 12, 4, 500
		for i := 0; i < steps || len(seen) < enough && i < most; i++ {
			active = step()
			for _, user := range []string{owner, member} {
				for _, provider := range providers {
					resolved, err := s.public.As(user).ResolveKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self,
						&pub.ResolveKeyParams{Provider: provider})
					require.NoError(t, err)
					require.Equal(t, http.StatusOK, resolved.StatusCode())
					want := answeredBy{reason: resolved.JSON200.Reason}
					if resolved.JSON200.Key != nil {
						want.keyID = resolved.JSON200.Key.ID
					}
					require.Equal(t, want, fetched(t, s, dp, user, provider))
					seen[want.reason]++
				}
			}
		}
		require.GreaterOrEqual(t, len(seen), enough, "the states differ: %v", seen)
	})
}

func TestARestrictedKeyGoesOnlyToPlanesThatEnforceIt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		s.patch(key.ID, "", `{"restrict":{"models":["gpt-4o*"],"operations":["/chat/completions"]}}`)
		for _, ask := range []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai"), forUser(web, "", "openai")} {
			got := fetch(t, dp, ask, "limits, restrictions")
			require.Equal(t, http.StatusOK, got.StatusCode())
			require.Equal(t, &gen.Restrictions{Models: []string{"gpt-4o*"}, Operations: []string{"/chat/completions"}}, got.JSON200.Restrict)
			for _, refused := range []*gen.FetchKeyResult{fetch(t, dp, ask), fetch(t, dp, ask, "limits")} {
				require.Contains(t, requireRefused(t, refused, http.StatusNotFound, "no-key").Detail, "restricted to models or operations")
			}
		}
		require.Equal(t, "restrictions_not_enforced", s.Fetches(acme, web)[0].Reason)
		s.patch(key.ID, "", `{"restrict":{"models":null,"operations":null}}`)
		require.Nil(t, fetch(t, dp, forKey(key.ID)).JSON200.Restrict)
	})
}

func TestAKeyServesTheUsersItIsRestrictedTo(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, shared := s.dataPlane(), s.shared("openai")
		s.patch(shared.ID, "", `{"restrict":{"users":["`+member+`"]}}`)
		requireKey(t, fetch(t, dp, forCaller(s.credential(member), "openai")), shared, "project_key")
		for _, ask := range []gen.FetchRequest{forCaller(s.credential(owner), "openai"), forUser(web, "", "openai")} {
			requireRefused(t, fetch(t, dp, ask, "restrictions"), http.StatusForbidden, "key-restricted")
			requireRefused(t, fetch(t, dp, ask), http.StatusNotFound, "no-key")
		}
		require.Equal(t, "key_restricted", s.Fetches(acme, web)[1].Reason)
		for range 2 { // first no other key serves everybody; then a newer key comes first
			other := s.shared("openai")
			requireKey(t, fetch(t, dp, forCaller(s.credential(owner), "openai")), other, "project_key")
		}
	})
}

func TestALimitedKeyGoesOnlyToPlanesThatEnforceIt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		s.patch(key.ID, "", `{"limit":{"requests_per_minute":60,"concurrent":2}}`)
		for _, ask := range []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai"), forUser(web, "", "openai")} {
			require.Equal(t, &gen.KeyLimit{RequestsPerMinute: new(60), Concurrent: new(2)}, fetch(t, dp, ask, "restrictions, limits").JSON200.Limit)
			for _, refused := range []*gen.FetchKeyResult{fetch(t, dp, ask), fetch(t, dp, ask, "restrictions")} {
				require.Contains(t, requireRefused(t, refused, http.StatusNotFound, "no-key").Detail, "has limits")
			}
		}
		require.Equal(t, "limits_not_enforced", s.Fetches(acme, web)[0].Reason)
		s.patch(key.ID, "", `{"limit":null}`)
		require.Nil(t, fetch(t, dp, forKey(key.ID)).JSON200.Limit)
	})
}

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

		// An older data plane does not check which address it connects to.
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

// patch changes a key as the owner and returns it.
func (s *service) patch(id, query, body string) pub.Key {
	s.t.Helper()
	reply := s.public.Send(s.t, aikeystest.Request{
		Method: http.MethodPatch, Path: "/v1/aikeys/" + id + query, Token: s.credential(owner), Body: []byte(body),
	})
	require.Equal(s.t, http.StatusOK, reply.Status, "%s", reply.Body)
	var answer pub.UpdateResponse
	require.NoError(s.t, json.Unmarshal(reply.Body, &answer))
	return answer.Key
}

func TestADisabledKeyIsFetchedByNobody(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		asks := []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai"), forUser(web, "", "openai")}
		for _, ask := range asks {
			require.Equal(t, http.StatusOK, fetch(t, dp, ask).StatusCode())
		}
		disabled := s.patch(key.ID, "", `{"disabled":true}`)
		for _, ask := range asks {
			detail := requireRefused(t, fetch(t, dp, ask), http.StatusForbidden, "key-disabled").Detail
			require.Contains(t, detail, " was disabled at "+disabled.DisabledAt.Format(time.RFC3339)+" by "+owner)
		}
		require.Equal(t, "key_disabled", s.Fetches(acme, web)[0].Reason)
		s.patch(key.ID, "", `{"disabled":false}`)
		for _, ask := range asks {
			require.Equal(t, http.StatusOK, fetch(t, dp, ask).StatusCode())
		}
	})
}

func TestAFetchedKeyCarriesItsEnd(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		answer := fetch(t, dp, forKey(key.ID)).JSON200
		require.Nil(t, answer.EndsInMs)
		require.Nil(t, answer.ExpiresInMs)
		end := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		s.patch(key.ID, "", `{"expires_at":"`+end.Format(time.RFC3339Nano)+`"}`)
		for _, ask := range []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai")} {
			sent := time.Now()
			answer = fetch(t, dp, ask).JSON200
			ends := sent.Add(time.Duration(*answer.EndsInMs) * time.Millisecond)
			require.False(t, ends.After(end), "counted from when the fetch was sent, it is not later")
			require.WithinDuration(t, end, ends, 10*time.Second)
			require.Equal(t, []int64{*answer.EndsInMs, *answer.EndsInMs}, []int64{*answer.ExpiresInMs, *answer.RefreshInMs})
		}
		s.exec(t, "UPDATE ai_keys SET expires_at = 1000000")
		for _, ask := range []gen.FetchRequest{forKey(key.ID), forCaller(s.credential(member), "openai")} {
			require.Contains(t, requireRefused(t, fetch(t, dp, ask), http.StatusForbidden, "key-expired").Detail, " expired at 1970-01-01T00:00:01Z")
		}
		require.Equal(t, "key_expired", s.Fetches(acme, web)[0].Reason)
	})
}

func TestEachDisablingHasAReceipt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		acknowledge := func(m feedtest.Message, requests int) {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: stream.Session(), Position: m.ID, InFlight: []gen.InFlight{{KeyID: key.ID, Requests: requests}},
			})
			require.NoError(t, err)
			require.Equal(t, http.StatusNoContent, reply.StatusCode())
		}
		// heartbeatAfter returns the next heartbeat after the nth event of a type.
		heartbeatAfter := func(kind string, n int) feedtest.Message {
			seen := 0
			return stream.Await("a heartbeat after "+kind, func(m feedtest.Message) bool {
				if m.Type == kind {
					seen++
				}
				return m.Type == "heartbeat" && seen >= n
			})
		}
		for n := 1; n <= 2; n++ {
			pending := s.patch(key.ID, "", `{"disabled":true}`).DisableReceipt
			require.Equal(t, []any{"pending", 1, 0}, []any{pending.State, pending.DataPlanes, pending.Acknowledged}, "the earlier one does not count")
			waited := make(chan *pub.DisableReceipt, 1)
			go func() { waited <- s.patch(key.ID, "?wait=30s", `{"disabled":true}`).DisableReceipt }()
			go func() {
				read, err := s.public.As(owner).GetKeyWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, key.ID, &pub.GetKeyParams{Wait: new("30s")})
				if err != nil || read.JSON200 == nil {
					waited <- nil
					return
				}
				waited <- read.JSON200.Key.DisableReceipt
			}()
			require.Equal(t, []pub.ReceiptPlane{{Name: dp.Name, State: "waiting"}}, pending.Planes)
			acknowledge(heartbeatAfter("key.disabled", n), n)
			for range 2 {
				got := <-waited
				require.Equal(t, []any{"complete", 1, 1, n}, []any{got.State, got.DataPlanes, got.Acknowledged, *got.InFlight})
				require.Equal(t, []pub.ReceiptPlane{{Name: dp.Name, State: "acknowledged", Ms: got.SlowestMs}}, got.Planes)
			}
			require.Nil(t, s.patch(key.ID, "", `{"disabled":false}`).DisableReceipt)
			heartbeatAfter("key.enabled", n)
		}
		revoked := s.public.As(owner).RevokeKey(t, key.ID)
		require.Equal(t, []any{"pending", 1, 0}, []any{revoked.State, revoked.DataPlanes, revoked.Acknowledged})
	})
}

func TestATokensRevocationHasAReceipt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, token := s.dataPlane(), s.public.As(member).Token
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		revoke := aikeystest.Request{Method: http.MethodDelete, Path: "/v1/tokens/" + strings.Split(token, "_")[1], Token: token}
		reply := s.public.Send(t, revoke)
		require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
		var pending pub.RevokeTokenResponse
		require.NoError(t, json.Unmarshal(reply.Body, &pending))
		require.Equal(t, []any{"pending", 1, 0}, []any{pending.Receipt.State, pending.Receipt.DataPlanes, pending.Receipt.Acknowledged})
		require.Equal(t, []pub.ReceiptPlane{{Name: dp.Name, State: "waiting"}}, pending.Receipt.Planes)
		stop := models.Stop{Type: models.EventTokenRevoked, Subject: pending.Token.TokenID, CustomerID: acme}
		at := stream.Await("a heartbeat after the revocation", func(m feedtest.Message) bool {
			if m.Type == "token.revoked" {
				stop.Tx = *m.Tx
			}
			return m.Type == "heartbeat" && stop.Tx != 0
		})
		acknowledged, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{SessionID: stream.Session(), Position: at.ID})
		require.NoError(t, err)
		require.Equal(t, http.StatusNoContent, acknowledged.StatusCode())
		got, err := s.feed.WaitForReceipt(t.Context(), stop, 10*time.Second)
		require.NoError(t, err)
		require.Equal(t, []any{true, 1, 1}, []any{got.Complete, got.DataPlanes, got.Acknowledged})
	})
}

func TestOwnersReadTheProjectsFetches(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		requireKey(t, fetch(t, dp, forCaller(s.credential(member), "openai")), key, "project_key")
		requireRefused(t, fetch(t, dp, forUser(web, other, "mistral")), http.StatusNotFound, "no-key")
		requireRefused(t, fetch(t, dp, forCaller(s.Secret(), "openai")), http.StatusUnprocessableEntity, "caller-unauthenticated")
		globexOwner := s.public.Session(globex, web, owner)
		list := func(as *aikeystest.Session, params pub.ListFetchesParams) *pub.ListFetchesResult {
			reply, err := as.ListFetchesWithResponse(t.Context(), aikeystest.Self, aikeystest.Self, &params)
			require.NoError(t, err)
			return reply
		}
		first := list(s.public.As(owner), pub.ListFetchesParams{PageSize: new(1)}).JSON200
		require.Len(t, first.Fetches, 1)
		refused := first.Fetches[0]
		require.Equal(t, []string{"denied", "no_key", "mistral", other}, []string{refused.Decision, refused.Reason, refused.Provider, *refused.UserID})
		require.Nil(t, refused.KeyID)

		rest := list(s.public.As(owner), pub.ListFetchesParams{PageToken: first.NextPageToken}).JSON200
		require.Nil(t, rest.NextPageToken)
		require.Len(t, rest.Fetches, 1)
		got := rest.Fetches[0]
		require.WithinDuration(t, time.Now(), got.At, 10*time.Second)
		require.NotEmpty(t, got.RequestID)
		got.At, got.RequestID = time.Time{}, ""
		require.Equal(t, pub.Fetch{
			DataPlaneID: dp.ID, DataPlane: &dp.Name, Decision: "allowed", Reason: "project_key", Provider: "openai", KeyID: &key.ID,
			Version: new(1), UserID: new(member), TokenID: &s.public.As(member).TokenID,
		}, got)

		for want, params := range map[int][]pub.ListFetchesParams{
			1: {{KeyID: &key.ID}, {UserID: new(other)}, {Provider: new("openai")}, {Decision: new(pub.ListFetchesParamsDecision("denied"))}, {DataPlane: &dp.Name, UserID: new(member)}},
			2: {{DataPlane: &dp.Name}, {DataPlane: &dp.ID}, {From: new(time.Now().Add(-time.Hour))}},
			0: {{DataPlane: new("elsewhere")}, {To: new(time.Now().Add(-time.Hour))}, {KeyID: &key.ID, UserID: new(other)}},
		} {
			for _, p := range params {
				require.Len(t, list(s.public.As(owner), p).JSON200.Fetches, want, "%+v", p)
			}
		}
		require.Equal(t, http.StatusForbidden, list(s.public.As(member), pub.ListFetchesParams{}).StatusCode())
		require.Equal(t, http.StatusForbidden, list(s.public.As(sam), pub.ListFetchesParams{}).StatusCode())
		require.Empty(t, list(globexOwner, pub.ListFetchesParams{}).JSON200.Fetches)
		for _, token := range []string{"LTE", "MA", "eA", "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OQ"} { // -1, 0, x, and more than a number holds
			require.Equal(t, http.StatusBadRequest, list(s.public.As(owner), pub.ListFetchesParams{PageToken: &token}).StatusCode(), token)
		}
	})
}
