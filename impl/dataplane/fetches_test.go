package dataplane_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
)

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
