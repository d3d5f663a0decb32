package dataplane_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/dataplane"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestEachFetchIsOnRecordWithWhatCameOfIt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane(serving(acme))
		key, mine, gone := s.shared("openai"), s.own(member, "anthropic"), s.shared("groq")
		s.public.As(owner).RevokeKey(t, gone.ID)
		s.policy(pub.PolicyRequest{UserKeysByProvider: &pub.UserKeysByProvider{"mistral": "require"}})
		token, tokenID := s.credential(member), s.public.As(member).TokenID
		foreign := s.public.Session(globex, web, owner)
		const absent = "byok_01M83VVAHV8M2T5K7N9R4W1XYZ"
		base := models.FetchRecord{DataPlaneID: dp.id, CustomerID: acme, ProjectID: web, Provider: "openai", Decision: models.OutcomeDenied}
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
			"another customer": {forCaller(s.hide(foreign.Token), "openai"), 403, func(r *models.FetchRecord) {
				r.CustomerID, r.UserID, r.TokenID, r.Reason = globex, owner, foreign.TokenID, "customer_not_served"
			}},
		} {
			t.Run(name, func(t *testing.T) {
				want, before := base, time.Now()
				tc.want(&want)
				old := s.records(want.CustomerID, want.ProjectID)
				reply := fetch(t, dp, tc.body)
				require.Equal(t, tc.status, reply.StatusCode(), "%s", reply.Body)
				now := s.records(want.CustomerID, want.ProjectID)
				require.Len(t, now, len(old)+1)
				got := now[0]
				require.WithinRange(t, time.UnixMicro(got.At), before.Truncate(time.Microsecond), time.Now())
				want.ID, want.At, want.RequestID = got.ID, got.At, reply.HTTPResponse.Header.Get("X-Request-Id")
				require.Equal(t, want, got)
			})
		}
	})
}

// forgetful is a Store that can't record.
type forgetful struct{ dataplane.Store }

func (forgetful) RecordFetch(context.Context, models.FetchRecord) error {
	return fmt.Errorf("record: %w", models.ErrUnavailable)
}

func TestWhatCantBeRecordedIsNotAnswered(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp, key := s.dataPlane(), s.shared("openai")
		for name, body := range map[string]gen.FetchRequest{
			"a key": forUser(web, member, "openai"), "a key by its id": forKey(key.ID), "a refusal": forUser(web, sam, "openai"),
		} {
			t.Run(name, func(t *testing.T) {
				requireRefused(t, fetch(t, dp, body), http.StatusServiceUnavailable, "unavailable")
			})
		}
	}, func(_ *testing.T, o *options) {
		o.store = func(s *models.Store) dataplane.Store { return forgetful{s} }
	})
}

// They name nobody, and are there for the making: strangers must not be able to fill the database.
func TestStrangersLeaveNoRecord(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		requireRefused(t, fetch(t, dp, forCaller("ak_", "openai")), http.StatusUnprocessableEntity, "caller-unauthenticated")
		require.Empty(t, s.records("", ""))
	})
}

// A row that was changed, or moved from where it belongs, opens nowhere; that is a fault of ours, and on record.
func TestAnUnreadableKeyIsGivenToNobody(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		dp := s.dataPlane()
		token := s.credential(member)
		requireUnreadable := func(t *testing.T, id, provider string) {
			t.Helper()
			for _, body := range []gen.FetchRequest{forKey(id), forCaller(token, provider)} {
				reply := fetch(t, dp, body)
				requireRefused(t, reply, http.StatusInternalServerError, "internal")
				r := s.records(acme, web)[0]
				require.Equal(t, []any{models.OutcomeDenied, "unreadable", id}, []any{r.Decision, r.Reason, r.KeyID})
				require.Equal(t, reply.HTTPResponse.Header.Get("X-Request-Id"), r.RequestID)
				require.Contains(t, s.log.String(), "key is unreadable")
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
		t.Run("a row of a provider that is none", func(t *testing.T) {
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
			secret := s.marked()
			key := s.registerAs(s.public.As(owner), pub.RegisterRequest{
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
	})
}

func TestWithoutItsSealerAKeyIsUnavailable(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		backend, ok := s.public.Sealer.(*sealertest.Unavailable)
		require.True(t, ok)
		backend.SetAvailable(true)
		dp, key := s.dataPlane(), s.shared("openai")
		backend.SetAvailable(false)
		requireRefused(t, fetch(t, dp, forUser(web, member, "openai")), http.StatusServiceUnavailable, "unavailable")
		require.Equal(t, "failed", s.records(acme, web)[0].Reason)
		backend.SetAvailable(true)
		requireKey(t, fetch(t, dp, forUser(web, member, "openai")), key, "project_key")
	}, func(t *testing.T, o *options) { o.sealer = sealertest.NewUnavailable(secretstest.Backend(t)) })
}

// away are sessions that can't be opened now, for a reason.
type away struct {
	auth.Sessions
	err *error
}

func (a away) Authenticate(context.Context, string) (auth.Principal, error) {
	return auth.Principal{}, fmt.Errorf("authenticate: %w", *a.err)
}

// That nobody can say who calls is no refusal of theirs.
func TestWhoCantBeAskedForNowIsNotRefused(t *testing.T) {
	var reason error
	s := start(t, "sqlite", options{callers: func(s auth.Sessions) auth.Sessions { return away{s, &reason} }})
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

func TestUntilItIsReadyEveryOperationIsUnavailable(t *testing.T) {
	s := start(t, "sqlite", options{ready: func() bool { return false }})
	dp := s.dataPlane()
	for operation, o := range operations(t) {
		t.Run(operation, func(t *testing.T) {
			requireRefused(t, s.send(t, o.method, o.path, dp.token, o.body), http.StatusServiceUnavailable, "unavailable")
		})
	}
}

func TestWithoutItsDatabaseEveryOperationIsUnavailable(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp := s.dataPlane()
	require.Equal(t, http.StatusNotFound, fetch(t, dp, forUser(web, member, "openai")).StatusCode(), "the session is cached")
	require.NoError(t, s.store.Close())
	for operation, o := range operations(t) {
		t.Run(operation, func(t *testing.T) {
			requireRefused(t, s.send(t, o.method, o.path, dp.token, o.body), http.StatusServiceUnavailable, "unavailable")
		})
	}
}
