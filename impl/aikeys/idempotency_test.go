package aikeys_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/secrets/secretstest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/sealer"
)

// retry sends a register with an Idempotency-Key.
func retry(t *testing.T, s *aikeystest.Service, token, key string, body gen.RegisterRequest) aikeystest.Reply {
	t.Helper()
	return s.Send(t, aikeystest.Request{Method: http.MethodPost, Path: "/v1/aikeys", Token: token, Body: encode(t, body),
		Header: http.Header{"Idempotency-Key": {key}}})
}

func TestIdempotencyKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		token := s.As(owner).Token
		key := s.Secret() // which is kept as a hash, and so may be as secret as its caller likes
		body := s.Shared("prod")
		first := retry(t, s, token, key, body)
		require.Equal(t, http.StatusCreated, first.Status)
		t.Run("the same request", func(t *testing.T) {
			for range 3 {
				again := retry(t, s, token, key, body)
				require.Equal(t, http.StatusCreated, again.Status)
				require.JSONEq(t, string(first.Body), string(again.Body))
				require.Equal(t, first.Header.Get("Location"), again.Header.Get("Location"))
			}
		})
		for name, change := range map[string]func(*gen.RegisterRequest){
			"another name":     func(b *gen.RegisterRequest) { b.Name = "other" },
			"another secret":   func(b *gen.RegisterRequest) { b.Secret = gensecret.New("sk-" + s.Secret()) },
			"another provider": func(b *gen.RegisterRequest) { b.Provider = "deepseek" },
			"another scope":    func(b *gen.RegisterRequest) { own := true; b.UserScope = &own },
		} {
			t.Run(name, func(t *testing.T) {
				changed := body
				change(&changed)
				reply := retry(t, s, token, key, changed)
				require.Equal(t, http.StatusUnprocessableEntity, reply.Status)
				require.Equal(t, "failed_precondition", reply.Problem(t).Code)
			})
		}
		t.Run("written in another way it is the same request", func(t *testing.T) {
			shared := false
			same := body
			same.UserScope = &shared
			require.Equal(t, http.StatusCreated, retry(t, s, token, key, same).Status)
		})
		t.Run("once the key is revoked it is still that key", func(t *testing.T) {
			id := decode[gen.RegisterResponse](t, first).Key.ID
			s.As(owner).RevokeKey(t, id)
			again := decode[gen.RegisterResponse](t, retry(t, s, token, key, body)).Key
			require.Equal(t, []string{id, "revoked"}, []string{again.ID, again.State})
		})
		t.Run("it is one user's", func(t *testing.T) {
			mine := s.Own("prod", func(b *gen.RegisterRequest) { b.Secret = body.Secret })
			require.Equal(t, http.StatusCreated, retry(t, s, s.As(member).Token, key, mine).Status)
		})
		t.Run("it is one project's", func(t *testing.T) {
			reply := retry(t, s, s.Session("acme", "ops", sam).Token, key, body)
			require.Equal(t, http.StatusCreated, reply.Status)
			require.Equal(t, "ops", decode[gen.RegisterResponse](t, reply).Key.ProjectID)
			reply = retry(t, s, s.Session("globex", "web", owner).Token, key, body)
			require.Equal(t, http.StatusCreated, reply.Status)
			require.Equal(t, "globex", decode[gen.RegisterResponse](t, reply).Key.CustomerID)
		})
		require.Len(t, list(t, s, owner), 1)
		require.Len(t, events(t, s, owner), 2, "one register, one revoke")
	})
}

func TestIdempotencyKeyAccess(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		token, body := s.As(owner).Token, s.Shared("prod")
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		s.SetMember("acme", "web", member, "owner")
		s.SetMember("acme", "web", owner, "member")
		require.Equal(t, http.StatusForbidden, retry(t, s, token, "k", body).Status)
		require.Equal(t, http.StatusOK, del(t, s, member, project+"/members/"+owner).Status)
		require.Equal(t, http.StatusForbidden, retry(t, s, token, "k", body).Status)
	})
}

// An attempt that was refused uses nothing up.
func TestIdempotencyKeyAfterARefusal(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		first := s.As(owner).Register(t, s.Shared("prod"))
		token := s.As(owner).Token
		require.Equal(t, http.StatusConflict, retry(t, s, token, "k", s.Shared("prod")).Status)
		require.Equal(t, http.StatusBadRequest, retry(t, s, token, "k", s.Shared("")).Status)
		require.Equal(t, http.StatusForbidden, retry(t, s, s.As(member).Token, "k", s.Shared("m")).Status)
		s.As(owner).RevokeKey(t, first.ID)
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", s.Shared("prod")).Status)
		require.Equal(t, http.StatusCreated, retry(t, s, s.As(member).Token, "k", s.Own("m")).Status)
	})
}

func TestIdempotencyKeyConcurrent(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		owners, body, key := s.As(owner), s.Shared("prod"), "one"
		got := together(50, func(int) string {
			reply, err := owners.RegisterKeyWithResponse(t.Context(), self, self, &gen.RegisterKeyParams{IdempotencyKey: &key}, body)
			if err != nil || reply.JSON201 == nil {
				return "no key"
			}
			return reply.JSON201.Key.ID
		})
		keys := list(t, s, owner)
		require.Len(t, keys, 1)
		require.Equal(t, slices.Repeat([]string{keys[0].ID}, 50), got)
		require.Len(t, events(t, s, owner), 1)
	})
}

// flaky is a sealer whose next Seal fails in a way that nobody foresaw.
type flaky struct {
	sealer.Sealer
	failing atomic.Bool
}

func (f *flaky) Seal(ctx context.Context, b sealer.Binding, secret sealer.Secret) (sealer.Envelope, error) {
	if f.failing.Swap(false) {
		return sealer.Envelope{}, errors.New("fault of the test")
	}
	return f.Sealer.Seal(ctx, b, secret)
}

func TestSealingRetryAfterAFault(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		backend, ok := s.Sealer.(*flaky)
		require.True(t, ok)
		body, token := s.Shared("prod"), s.As(owner).Token
		s.As(owner).Register(t, s.Shared("first")) // the canary is sealed as well
		backend.failing.Store(true)
		reply := retry(t, s, token, "k", body)
		require.Equal(t, http.StatusInternalServerError, reply.Status)
		require.NotContains(t, string(reply.Body), "fault of the test")
		require.Equal(t, []string{"first"}, names(list(t, s, owner)))
		require.Equal(t, http.StatusCreated, retry(t, s, token, "k", body).Status)
		require.Equal(t, []string{"first", "prod"}, names(list(t, s, owner)))
	}, func(t *testing.T, o *aikeystest.Options) { o.Sealer = &flaky{Sealer: secretstest.Backend(t)} })
}
