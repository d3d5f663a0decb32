package aikeys_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
	"github.com/agentrouter/aikeys/models"
)

// testedAt has stored keys of OpenAI and Bedrock tested at a handler in their place.
func testedAt(provider http.HandlerFunc) func(t *testing.T, o *aikeystest.Options) {
	return func(t *testing.T, o *aikeystest.Options) { o.Tester = aikeystest.NewTester(t, provider) }
}

func verify(t *testing.T, s *aikeystest.Service, user, id string) aikeystest.Reply {
	return ask(t, s, user, http.MethodPost, project+"/aikeys/"+id+"/verify", nil)
}

// fetched returns the records of fetches.
func fetched(t *testing.T, s *aikeystest.Service) []gen.Fetch {
	return decode[gen.ListFetchesResponse](t, get(t, s, owner, project+"/fetches")).Fetches
}

func TestVerdictStaysOnTheKey(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, http.StatusOK, reply.Status, "%s", reply.Body)
		got := decode[gen.VerifyResponse](t, reply)
		require.Equal(t, "rejected", got.Verification.Verdict)
		require.WithinDuration(t, time.Now(), got.Verification.CheckedAt, time.Minute)
		require.Equal(t, got.Verification, *got.Key.Verification)
		require.Equal(t, []any{false, "rejected", "active"}, []any{*got.Key.Serves, *got.Key.NotServingReason, got.Key.State})
		require.Equal(t, []gen.Key{got.Key}, list(t, s, member))
		require.Equal(t, got.Key, read(t, s, member, key.ID))
		resolved := resolve(t, s, member, "openai")
		require.Equal(t, []any{key.ID, false}, []any{resolved.Key.ID, *resolved.Serves}, "it is still the one that is used")

		event := events(t, s, member)[0]
		require.Equal(t, []string{"key.verified", "allowed", key.ID, owner, "rejected"},
			[]string{event.Type, event.Outcome, *event.KeyID, event.Actor.UserID, *event.After.Verdict})
		opened := fetched(t, s)
		require.Len(t, opened, 1)
		require.Equal(t, []any{"control_plane", "verification", "allowed", "openai", key.ID, 1, owner, s.As(owner).TokenID, event.RequestID},
			[]any{opened[0].DataPlaneID, opened[0].Reason, opened[0].Decision, opened[0].Provider, *opened[0].KeyID, *opened[0].Version,
				*opened[0].UserID, *opened[0].TokenID, opened[0].RequestID})

		refuse(t, s, key.ID, false)
		require.True(t, *resolve(t, s, member, "openai").Serves, "used with success since")
	}, testedAt(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
}

// A stored access key of AWS is tested at STS, which never sees its secret.
func TestAccessKeyIsTestedAtSTS(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		for _, c := range []struct{ secret, verdict, host string }{
			{`{"access_key_id":"AKIA-EXAMPLE","secret_access_key":"EXAMPLE/EXAMPLE/EXAMPLE","region":"eu-west-1"}`, "rejected", "sts.eu-west-1.amazonaws.com"},
			{`{"api_key":"ABSK-EXAMPLE-EXAMPLE-EXAMPLE","region":"eu-west-1"}`, "valid", "bedrock.eu-west-1.amazonaws.com"},
		} {
			key := s.As(owner).Register(t, s.Shared(c.host, func(b *gen.RegisterRequest) { b.Provider, b.Secret = "bedrock", gensecret.New(c.secret) }))
			got := decode[gen.VerifyResponse](t, verify(t, s, owner, key.ID))
			require.Equal(t, c.verdict, got.Verification.Verdict, c.host)
			require.Equal(t, c.verdict == "valid", *got.Key.Serves)
		}
		require.Len(t, fetched(t, s), 2)
	}, testedAt(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Host == "bedrock.eu-west-1.amazonaws.com" && r.Header.Get("Authorization") == "Bearer ABSK-EXAMPLE-EXAMPLE-EXAMPLE":
		case r.Host == "sts.eu-west-1.amazonaws.com" && !strings.Contains(r.Header.Get("Authorization"), "EXAMPLE/EXAMPLE"):
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"Error": {"Code": "InvalidClientTokenId"}}`)
		default:
			w.WriteHeader(http.StatusTeapot)
		}
	}))
}

// A provider that gets a secret can't be the first to know.
func TestOpeningIsOnRecordBeforeTheProviderIsAsked(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		require.Equal(t, "valid", decode[gen.VerifyResponse](t, verify(t, s, owner, key.ID)).Verification.Verdict)
	}, func(t *testing.T, o *aikeystest.Options) {
		testedAt(func(w http.ResponseWriter, r *http.Request) {
			page, err := o.Store.ListFetches(r.Context(), aikeystest.Customer, aikeystest.Project, models.FetchFilter{Limit: 10})
			if err != nil || len(page) != 1 {
				w.WriteHeader(http.StatusUnauthorized)
			}
		})(t, o)
	})
}

func TestOnlyWhoMayWriteAKeyHasItTested(t *testing.T) {
	var asked atomic.Int32
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := verify(t, s, member, key.ID)
		require.Equal(t, http.StatusForbidden, reply.Status)
		require.Contains(t, reply.Problem(t).Detail, "Only an owner of the project may have a project-level key tested.")
		event := events(t, s, owner)[0]
		require.Equal(t, []string{"key.verified", "denied", key.ID, member}, []string{event.Type, event.Outcome, *event.KeyID, event.Actor.UserID})
		require.Empty(t, fetched(t, s))
		require.Zero(t, asked.Load())
	}, testedAt(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
}

func TestRevokedKeyIsNotOpenedForATest(t *testing.T) {
	var asked atomic.Int32
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		s.As(owner).RevokeKey(t, key.ID)
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, http.StatusConflict, reply.Status)
		require.Equal(t, "/problems/not-testable", reply.Problem(t).Type)
		disabled := s.As(owner).Register(t, s.Shared("disabled"))
		require.Equal(t, http.StatusOK, ask(t, s, owner, http.MethodPatch, project+"/aikeys/"+disabled.ID, map[string]any{"disabled": true}).Status)
		require.Equal(t, http.StatusConflict, verify(t, s, owner, disabled.ID).Status)
		require.Empty(t, fetched(t, s))
		require.Zero(t, asked.Load())
	}, testedAt(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
}

func TestKeyIsTestedOnceInTenSeconds(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		statuses := together(6, func(int) int { return verify(t, s, owner, key.ID).Status })
		done := 0
		for _, status := range statuses {
			if status == http.StatusOK {
				done++
			} else {
				require.Equal(t, http.StatusTooManyRequests, status)
			}
		}
		require.Equal(t, 1, done)
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, "/problems/tested-recently", reply.Problem(t).Type)
		wait := requireExhausted(t, reply)
		require.LessOrEqual(t, wait, 10*time.Second)
		require.Len(t, fetched(t, s), 1)

		row, err := s.Store.GetKey(t.Context(), models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID, UserID: owner}, key.ID, time.Now().UnixMicro())
		require.NoError(t, err)
		row.VerifiedAt -= (10 * time.Second).Microseconds()
		require.NoError(t, s.Store.Transact(t.Context(), func(tx *models.Tx) error {
			return tx.StoreVerdict(row, models.Event{ID: "evt_1", CustomerID: key.CustomerID, ProjectID: key.ProjectID, Type: models.EventKeyVerified, Outcome: models.OutcomeAllowed})
		}))
		require.Equal(t, http.StatusOK, verify(t, s, owner, key.ID).Status)
	}, testedAt(func(http.ResponseWriter, *http.Request) {}))
}

func TestOperatorMayAllowNoTests(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		reply := verify(t, s, owner, key.ID)
		require.Equal(t, http.StatusConflict, reply.Status)
		require.Equal(t, "The operator of this service has turned tests of keys off.", reply.Problem(t).Detail)
		require.Equal(t, http.StatusForbidden, verify(t, s, sam, key.ID).Status)
		require.Equal(t, http.StatusNotFound, verify(t, s, owner, exampleKey).Status)
		require.Empty(t, fetched(t, s))
	})
}

func TestKeyOfAProviderWithoutATestIsNotOpened(t *testing.T) {
	each(t, func(t *testing.T, s *aikeystest.Service) {
		added := post(t, s, owner, project+"/providers", map[string]any{"slug": "x-vllm", "base_url": "https://llm.example/v1"})
		require.Equal(t, http.StatusCreated, added.Status, "%s", added.Body)
		body := s.Shared("n", func(b *gen.RegisterRequest) { b.Provider = "x-vllm" })
		key := s.As(owner).Register(t, body)
		got := decode[gen.VerifyResponse](t, verify(t, s, owner, key.ID))
		require.Equal(t, []string{"unreachable", "unsupported"}, []string{got.Verification.Verdict, *got.Verification.Reason})
		require.True(t, *got.Key.Serves)
		require.Empty(t, fetched(t, s))
	}, testedAt(func(http.ResponseWriter, *http.Request) {}))
}

// A client that has gone leaves no opened secret without its event.
func TestVerdictIsStoredIfTheClientDisconnects(t *testing.T) {
	asked, answer := make(chan struct{}, 8), make(chan struct{})
	t.Cleanup(func() { close(answer) })
	each(t, func(t *testing.T, s *aikeystest.Service) {
		key := s.As(owner).Register(t, s.Shared("n"))
		ctx, cancel := context.WithCancel(t.Context())
		req := request(ctx, t, s, owner, http.MethodPost, project+"/aikeys/"+key.ID+"/verify", []byte{})
		ended := make(chan error, 1)
		go func() {
			reply, err := s.HTTPClient().Do(req)
			if err == nil {
				_, _ = io.Copy(io.Discard, reply.Body)
				_ = reply.Body.Close()
			}
			ended <- err
		}()
		<-asked
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		answer <- struct{}{}
		require.Eventually(t, func() bool {
			k := read(t, s, owner, key.ID)
			return k.Verification != nil && k.Verification.Verdict == "valid"
		}, 10*time.Second, 5*time.Millisecond)
		require.Equal(t, "key.verified", events(t, s, owner)[0].Type)
	}, testedAt(func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	}))
}
