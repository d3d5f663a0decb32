package dataplane_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pub "github.com/agentrouter/aikeys/gen/aikeys"
	gen "github.com/agentrouter/aikeys/gen/dataplane"
	gensecret "github.com/agentrouter/aikeys/internal/secret"
)

// events is an open stream of a data plane.
type events struct {
	t     *testing.T
	lines *bufio.Scanner
	last  string // the last id
	leave context.CancelFunc
}

// follow opens a stream, which ends with the test.
func (s *service) follow(t *testing.T, dp *dataPlane, params gen.StreamEventsParams) *events {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	resp, err := dp.StreamEvents(ctx, &params)
	require.NoError(t, err)
	t.Cleanup(func() {
		cancel()
		_ = resp.Body.Close()
	})
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, eventStream, resp.Header.Get("Content-Type"))
	return &events{t: t, lines: bufio.NewScanner(resp.Body), leave: cancel}
}

// next returns the next message, whose data must be as the document has it.
func (e *events) next() gen.StreamMessage {
	e.t.Helper()
	doc, err := contract()
	require.NoError(e.t, err)
	var name string
	for e.lines.Scan() {
		field, value, _ := strings.Cut(e.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.last = value
		case "event":
			name = value
		case "data":
			require.NoError(e.t, doc.Components.Schemas["StreamMessage"].Value.VisitJSON(decode[any](e.t, []byte(value))))
			message := decode[gen.StreamMessage](e.t, []byte(value))
			require.Equal(e.t, name, message.Type)
			return message
		}
	}
	if err := e.lines.Err(); err != nil && !errors.Is(err, context.Canceled) {
		require.NoError(e.t, err)
	}
	require.Fail(e.t, "the stream ended")
	return gen.StreamMessage{}
}

// until returns the next message of a type.
func (e *events) until(what string) gen.StreamMessage {
	e.t.Helper()
	for {
		if m := e.next(); m.Type == what {
			return m
		}
	}
}

func TestAStreamTellsADataPlaneOfItsCustomersChanges(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.runFeed(t)
		key := s.shared("openai")
		theirs := s.registerAs(s.public.Session(globex, web, owner), pub.RegisterRequest{
			Provider: "openai", Name: "n", Secret: gensecret.New(s.marked()),
		})
		stream := s.follow(t, s.dataPlane(serving(acme)), gen.StreamEventsParams{MaxStaleMs: ptr(0)})
		require.Equal(t, "hello", stream.next().Type)
		stream.until("heartbeat")
		s.public.Session(globex, web, owner).RevokeKey(t, theirs.ID)
		s.public.As(owner).RevokeKey(t, key.ID)
		var told gen.StreamMessage
		for told.Type != "key.revoked" {
			if told = stream.next(); told.Type != "heartbeat" {
				require.Equal(t, acme, *told.CustomerID, "and nothing of the other customer's")
			}
		}
		require.Equal(t, []string{web, "openai", key.ID}, []string{*told.ProjectID, *told.Provider, *told.KeyID})
		require.Positive(t, *told.Tx)
	})
}

func TestAStreamResumesFromWhereItWasLeft(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.runFeed(t)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		session := *stream.next().SessionID
		stream.until("heartbeat")
		at := stream.last
		require.NotEmpty(t, at)
		stream.leave()
		s.public.As(owner).RevokeKey(t, key.ID)
		resumed := s.follow(t, dp, gen.StreamEventsParams{LastEventID: &at, PreviousSessionID: &session})
		require.Equal(t, key.ID, *resumed.until("key.revoked").KeyID)
	})
}

// A whole turn: a key is revoked, its data plane says that it has acted on that, and the receipt counts it. Nobody else can
// say so for it.
func TestAnAcknowledgementOfOnesOwnStreamCountsInTheReceipt(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		s.runFeed(t)
		dp, key := s.dataPlane(), s.shared("openai")
		stream := s.follow(t, dp, gen.StreamEventsParams{})
		session := *stream.next().SessionID
		s.public.As(owner).RevokeKey(t, key.ID)
		stream.until("key.revoked")
		stream.until("heartbeat")
		acknowledge := func(dp *dataPlane, session string) *gen.AcknowledgeResult {
			reply, err := dp.AcknowledgeWithResponse(t.Context(), gen.AcknowledgeRequest{SessionID: session, Position: stream.last})
			require.NoError(t, err)
			return reply
		}
		acknowledged := func() int {
			row, err := s.store.GetKey(t.Context(), ownersView, key.ID, time.Now().UnixMicro())
			require.NoError(t, err)
			receipt, err := s.feed.Receipt(t.Context(), row)
			require.NoError(t, err)
			return receipt.Acknowledged
		}
		requireRefused(t, acknowledge(s.dataPlane(), session), http.StatusNotFound, "not-found")
		requireRefused(t, acknowledge(dp, "01M83VVAHQQW2E4R6T8Y0A1S3D"), http.StatusNotFound, "not-found")
		require.Zero(t, acknowledged())
		require.Equal(t, http.StatusNoContent, acknowledge(dp, session).StatusCode())
		require.Eventually(t, func() bool { return acknowledged() == 1 }, 10*time.Second, 5*time.Millisecond)
	})
}

func TestAPositionThatNobodyGaveOutIsRefused(t *testing.T) {
	s := start(t, "sqlite", options{})
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
			doc := requireRefused(t, s.send(t, http.MethodGet, "/v1/events?"+query, dp.token, ""), http.StatusBadRequest, "invalid-argument")
			require.Equal(t, field, doc.Errors[0].Field)
		}
	})
}

// An operator bounds for how long a receipt can be pending, whatever data planes declare.
func TestADataPlaneMayDeclareNoLongerGraceThanTheOperatorAllows(t *testing.T) {
	s := start(t, "sqlite", options{})
	dp := s.dataPlane()
	for query, message := range map[string]string{
		"max_stale_ms=20001": "must be at most 20000, the limit of this service", "max_stale_ms=3600001": "must be at most 3600000",
	} {
		doc := requireRefused(t, s.send(t, http.MethodGet, "/v1/events?"+query, dp.token, ""), http.StatusBadRequest, "invalid-argument")
		require.Len(t, doc.Errors, 1)
		require.Equal(t, "max_stale_ms", doc.Errors[0].Field)
		require.Equal(t, message, doc.Errors[0].Message)
	}
	requireRefused(t, s.send(t, http.MethodGet, "/v1/events?max_stale_ms=20000", dp.token, ""), http.StatusServiceUnavailable, "unavailable")
}

// Until the channel has read from the database, there is nothing to promise.
func TestWithoutItsFeedAStreamIsUnavailable(t *testing.T) {
	s := start(t, "sqlite", options{})
	requireRefused(t, s.send(t, http.MethodGet, "/v1/events", s.dataPlane().token, ""), http.StatusServiceUnavailable, "unavailable")
}
