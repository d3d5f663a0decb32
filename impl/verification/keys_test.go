package verification_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/impl/verification"
	"github.com/agentrouter/aikeys/models"
	"github.com/agentrouter/aikeys/models/modelstest"
	"github.com/agentrouter/aikeys/sealer"
	"github.com/agentrouter/aikeys/sealer/sealertest"
)

func TestMain(m *testing.M) { modelstest.Main(m) }

// held is a service whose OpenAI keys are tested at a handler.
type held struct {
	*aikeystest.Service
	t *testing.T
}

// eachHeld runs a test on every engine, with a service whose tests of refused keys run.
func eachHeld(t *testing.T, test func(h held), provider http.HandlerFunc) {
	modelstest.Each(t, func(t *testing.T, e modelstest.Engine) {
		h := held{aikeystest.Start(t, aikeystest.Options{Store: modelstest.NewStore(t, e), Tester: aikeystest.NewTester(t, provider)}), t}
		feedtest.Run(t, h.Tests.Run)
		test(h)
	})
}

func (h held) register() gen.Key {
	return h.As(aikeystest.Owner).Register(h.t, h.Shared("openai-"+h.Secret()[:8]))
}

// event returns the event of a test because of a data plane's report.
func event(k gen.Key) models.Event {
	return models.Event{
		CustomerID: k.CustomerID, ProjectID: k.ProjectID, Type: models.EventKeyVerified, Outcome: models.OutcomeAllowed,
		ActorUserID: "dp", ActorMethod: "data_plane", KeyID: k.ID, Provider: k.Provider, RequestID: "r",
	}
}

func (h held) refuse(k gen.Key) { h.Tests.Enqueue(verification.Refused{KeyID: k.ID, Event: event(k)}) }

// test tests a key like a user's request.
func test(h held, keys *verification.Keys, k gen.Key) (models.Key, error) {
	return keys.Test(h.t.Context(), "acme/olga", func(*models.Tx) (models.Key, models.Event, error) {
		return models.Key{ID: k.ID}, event(k), nil
	})
}

func (h held) awaitVerdict(k gen.Key) models.Key {
	require.Eventually(h.t, func() bool { return h.Row(k.ID).VerifiedAt != 0 }, 10*time.Second, 5*time.Millisecond)
	return h.Row(k.ID)
}

func TestRefusedKeyIsTestedOnce(t *testing.T) {
	eachHeld(t, func(h held) {
		key, last := h.register(), h.register()
		for range 20 {
			h.refuse(key)
		}
		got := h.awaitVerdict(key)
		require.Equal(h.t, "rejected", got.Verdict)
		for range 20 {
			h.refuse(key)
		}
		h.refuse(last)
		h.awaitVerdict(last) // the others wait in front of it, so they were taken before
		require.Equal(h.t, got.VerifiedAt, h.Row(key.ID).VerifiedAt)
		require.Len(h.t, h.Fetches(aikeystest.Customer, aikeystest.Project), 2)
		require.Equal(h.t, []string{"control_plane", "verification", "", "r"}, []string{
			h.Fetches(aikeystest.Customer, aikeystest.Project)[0].DataPlaneID, h.Fetches(aikeystest.Customer, aikeystest.Project)[0].Reason, h.Fetches(aikeystest.Customer, aikeystest.Project)[0].UserID, h.Fetches(aikeystest.Customer, aikeystest.Project)[0].RequestID,
		})
		events, err := h.Store.ListEvents(h.t.Context(), models.Caller{CustomerID: key.CustomerID, ProjectID: key.ProjectID, UserID: aikeystest.Owner},
			models.EventFilter{Type: models.EventKeyVerified, KeyID: key.ID}, "", 10)
		require.NoError(h.t, err)
		require.Len(h.t, events, 1)
		require.Equal(h.t, []string{"dp", "data_plane", "rejected"}, []string{events[0].ActorUserID, events[0].ActorMethod, events[0].After.Verdict})
	}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
}

func TestFewRefusedKeysWait(t *testing.T) {
	catalogue := start(t, nil).catalogue
	log := bytes.Buffer{}
	keys := verification.NewKeys(verification.KeysConfig{
		Providers: catalogue, Verifier: verification.New(verification.Config{}), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	refuse := func(id int) {
		k := models.Event{KeyID: fmt.Sprint("byok_", id), Provider: "openai"}
		keys.Enqueue(verification.Refused{KeyID: k.KeyID, Event: k})
	}
	for id := range 256 {
		refuse(id)
		refuse(id)
	}
	require.Empty(t, log.String())
	refuse(256)
	require.Contains(t, log.String(), "too many wait")
}

// Only two keys are tested at a time, so that the service does not send a failing provider a burst of requests.
func TestRefusedKeysAreTestedTwoAtATime(t *testing.T) {
	var underWay, most atomic.Int32
	eachHeld(t, func(h held) {
		var keys []gen.Key
		for range 8 {
			keys = append(keys, h.register())
		}
		for _, k := range keys {
			h.refuse(k)
		}
		for _, k := range keys {
			h.awaitVerdict(k)
		}
		require.LessOrEqual(h.t, most.Load(), int32(2))
	}, func(http.ResponseWriter, *http.Request) {
		n := underWay.Add(1)
		defer underWay.Add(-1)
		for seen := most.Load(); n > seen && !most.CompareAndSwap(seen, n); seen = most.Load() {
		}
	})
}

func TestNoTestBeginsAfterARevocation(t *testing.T) {
	eachHeld(t, func(h held) {
		for range 10 {
			key := h.register()
			done := make(chan error, 1)
			go func() {
				_, err := test(h, h.Tests, key)
				done <- err
			}()
			h.As(aikeystest.Owner).RevokeKey(h.t, key.ID)
			opened := len(h.Fetches(aikeystest.Customer, aikeystest.Project))
			if err := <-done; err != nil {
				require.ErrorIs(h.t, err, verification.ErrStopped)
			}
			require.Len(h.t, h.Fetches(aikeystest.Customer, aikeystest.Project), opened, "what was opened was on record before the revocation was answered")
			_, err := test(h, h.Tests, key)
			require.ErrorIs(h.t, err, verification.ErrStopped)
		}
	}, func(http.ResponseWriter, *http.Request) {})
}

func TestSealersFailureIsNoVerdict(t *testing.T) {
	var asked atomic.Int32
	eachHeld(t, func(h held) {
		key := h.register()
		for _, failure := range []error{sealer.ErrUnavailable, errors.New("damaged")} {
			catalogue := start(t, nil).catalogue
			fails := sealertest.Fake{OpenFunc: func(context.Context, sealer.Binding, []byte) (sealer.Secret, error) { return sealer.Secret{}, failure }}
			keys := verification.NewKeys(verification.KeysConfig{
				Store: h.Store, Sealer: fails, Providers: catalogue,
				Verifier: verification.New(verification.Config{}), Log: h.Evidence.Logger(),
			})
			_, err := test(h, keys, key)
			require.ErrorIs(h.t, err, failure)
		}
		require.Zero(h.t, h.Row(key.ID).VerifiedAt)
		_, err := test(h, h.Tests, key)
		require.NoError(h.t, err, "a failure holds no later test up")
	}, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	require.EqualValues(t, 2, asked.Load(), "once on each engine")
}

func TestUserHasFewKeysTested(t *testing.T) {
	eachHeld(t, func(h held) {
		var err error
		for range 40 {
			key := h.register()
			if _, err = test(h, h.Tests, key); err != nil {
				require.Zero(h.t, h.Row(key.ID).VerifiedAt)
				break
			}
		}
		require.ErrorIs(h.t, err, verification.ErrBusy)
	}, func(http.ResponseWriter, *http.Request) {})
}
