package dataplane_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/aikeys/aikeystest"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
	"github.com/agentrouter/aikeys/models"
)

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
		require.Equal(t, "key_disabled", s.records(acme, web)[0].Reason)
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
		require.Equal(t, "key_expired", s.records(acme, web)[0].Reason)
	})
}

func TestEachDisablingHasAReceipt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.runFeed()
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		acknowledge := func(m feedtest.Message, requests int) {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: stream.Session(), Position: m.ID, InFlight: []gen.InFlight{{KeyID: key.ID, Requests: requests}},
			})
			require.NoError(t, err)
			require.Equal(t, http.StatusNoContent, reply.StatusCode())
		}
		// heartbeatAfter is the next heartbeat after the nth event of a type.
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
		s.runFeed()
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
