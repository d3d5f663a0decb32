package dataplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/feed/feedtest"
)

// follow opens a stream once the feed has read from the database. It ends with the test, and its messages must be as the
// document has them.
func (s *service) follow(t *testing.T, dp *dataPlane, params gen.StreamEventsParams) *feedtest.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := feedtest.NewClient(t, cancel)
	c.OnMessage = func(m feedtest.Message) {
		var document any
		err := json.Unmarshal(m.Data, &document)
		if err = errors.Join(err, contract().Doc.Components.Schemas["StreamMessage"].Value.VisitJSON(document)); err != nil {
			t.Errorf("%s: %v", m.Data, err)
		}
	}
	var resp *http.Response
	for resp == nil || resp.StatusCode == http.StatusServiceUnavailable {
		var err error
		resp, err = dp.StreamEvents(ctx, &params) //nolint:bodyclose // the goroutine below closes it
		require.NoError(t, err)
	}
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	go func() {
		_, err := io.Copy(c, resp.Body)
		_ = resp.Body.Close()
		c.End(err)
	}()
	t.Cleanup(c.Leave)
	return c
}

func TestStreamHasOnlyOwnCustomersChanges(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		key := s.shared("openai")
		theirs := s.register(s.public.Session(globex, web, owner), "openai", false)
		stream := s.follow(t, s.dataPlane(serving(acme)), gen.StreamEventsParams{MaxStaleMs: new(0)})
		stream.AwaitType("heartbeat")
		require.Equal(t, "hello", stream.All()[0].Type)
		s.public.Session(globex, web, owner).RevokeKey(t, theirs.ID)
		s.public.As(owner).RevokeKey(t, key.ID)
		told := stream.AwaitType("key.revoked")
		for _, m := range stream.All() {
			if m.CustomerID != nil {
				require.Equal(t, acme, *m.CustomerID, "and nothing of the other customer's")
			}
		}
		require.Equal(t, []string{web, "openai", key.ID}, []string{*told.ProjectID, *told.Provider, *told.KeyID})
		require.Positive(t, *told.Tx)
	})
}

func TestStreamResumes(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		stream.AwaitType("heartbeat")
		session, at := stream.Session(), stream.Last()
		stream.Leave()
		s.public.As(owner).RevokeKey(t, key.ID)
		resumed := s.follow(t, dp, gen.StreamEventsParams{LastEventID: &at, PreviousSessionID: &session})
		require.Equal(t, key.ID, *resumed.AwaitType("key.revoked").KeyID)
	})
}

// Only the data plane that has a stream can acknowledge for it.
func TestAcknowledgeCountsInReceipt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		feedtest.Run(t, s.feed.Run)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		session := stream.Session()
		s.public.As(owner).RevokeKey(t, key.ID)
		position := stream.AwaitRevocation(key.ID).ID
		acknowledge := func(dp *dataPlane, session string) *gen.AcknowledgeResult {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: session, Position: position, InFlight: []gen.InFlight{{KeyID: key.ID, Requests: 3}},
			})
			require.NoError(t, err)
			return reply
		}
		acknowledged := func() int {
			receipt, err := s.feed.Receipt(t.Context(), s.Row(key.ID).Stop())
			require.NoError(t, err)
			return receipt.Acknowledged
		}
		requireRefused(t, acknowledge(s.dataPlane(), session), http.StatusNotFound, "not-found")
		requireRefused(t, acknowledge(dp, "01M83VVAHQQW2E4R6T8Y0A1S3D"), http.StatusNotFound, "not-found")
		require.Zero(t, acknowledged())
		require.Equal(t, http.StatusNoContent, acknowledge(dp, session).StatusCode())
		require.Eventually(t, func() bool { return acknowledged() == 1 }, 10*time.Second, 5*time.Millisecond)
		receipt := s.public.As(owner).RevokeKey(t, key.ID)
		require.Equal(t, []*int{new(3), new(1)}, []*int{receipt.InFlight, receipt.InFlightFrom})
		require.Len(t, receipt.Acknowledgements, 1)
		require.Equal(t, []*int{new(3), new(1)}, []*int{receipt.Acknowledgements[0].InFlight, receipt.Acknowledgements[0].InFlightFrom})
	})
}

func TestInvalidNumbersOfRequestsInFlight(t *testing.T) {
	s := onSQLite(t)
	dp, key := s.dataPlane(), s.shared("openai")
	for name, counts := range map[string][]gen.InFlight{
		"negative": {{KeyID: key.ID, Requests: -1}}, "too many": {{KeyID: key.ID, Requests: 10_000_001}}, "no key": {{KeyID: "byok_x 5\n"}},
		"too many keys": slices.Repeat([]gen.InFlight{{KeyID: key.ID}}, 501),
	} {
		t.Run(name, func(t *testing.T) {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: "01M83VVAHQQW2E4R6T8Y0A1S3D", Position: "5:5:", InFlight: counts,
			})
			require.NoError(t, err)
			requireRefused(t, reply, http.StatusBadRequest, "invalid-argument")
		})
	}
}

func TestInvalidStreamParameters(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	for _, position := range []string{"5:4:", "1:9:9", "1:9:0", "9223372036854775808:9223372036854775808:", "1:2", "x", ""} {
		t.Run("position "+position, func(t *testing.T) {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{
				SessionID: "01M83VVAHQQW2E4R6T8Y0A1S3D", Position: position,
			})
			require.NoError(t, err)
			doc := requireRefused(t, reply, http.StatusBadRequest, "invalid-argument")
			require.Equal(t, "position", doc.Errors[0].Field)
			resumed, err := dp.StreamEventsWithResponse(t.Context(), &gen.StreamEventsParams{LastEventID: &position})
			require.NoError(t, err)
			doc = requireRefused(t, resumed, http.StatusBadRequest, "invalid-argument")
			require.Equal(t, "Last-Event-ID", doc.Errors[0].Field)
		})
	}
	t.Run("and so is a parameter out of bounds", func(t *testing.T) {
		for query, field := range map[string]string{
			"max_stale_ms=3600001": "max_stale_ms", "max_stale_ms=-1": "max_stale_ms", "previous_session_id=x": "previous_session_id", "more=1": "query",
		} {
			doc := requireRefused(t, s.send(t, dp.token, operation{http.MethodGet, "/v1/events?" + query, ""}), http.StatusBadRequest, "invalid-argument")
			require.Equal(t, field, doc.Errors[0].Field)
		}
	})
}

// The operator bounds how long a receipt can be pending, whatever grace data planes declare.
func TestMaxStaleIsLimited(t *testing.T) {
	s := onSQLite(t)
	dp := s.dataPlane()
	for query, message := range map[string]string{
		"max_stale_ms=20001": "must be at most 20000, the limit of this service", "max_stale_ms=3600001": "must be at most 3600000",
	} {
		doc := requireRefused(t, s.send(t, dp.token, operation{http.MethodGet, "/v1/events?" + query, ""}), http.StatusBadRequest, "invalid-argument")
		require.Len(t, doc.Errors, 1)
		require.Equal(t, "max_stale_ms", doc.Errors[0].Field)
		require.Equal(t, message, doc.Errors[0].Message)
	}
	requireRefused(t, s.send(t, dp.token, operation{http.MethodGet, "/v1/events?max_stale_ms=20000", ""}), http.StatusServiceUnavailable, "unavailable")
}

// Before the feed has read from the database, it can promise nothing.
func TestStreamUnavailableWithoutFeed(t *testing.T) {
	s := onSQLite(t)
	requireRefused(t, s.send(t, s.dataPlane().token, operation{http.MethodGet, "/v1/events", ""}), http.StatusServiceUnavailable, "unavailable")
}
