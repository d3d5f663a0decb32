package dataplane

import (
	"context"
	"fmt"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/auth"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/internal/position"
	"github.com/agentrouter/aikeys/internal/problem"
)

// StreamEvents opens a stream of changes, which ends when the data plane's credential expires.
func (s *server) StreamEvents(ctx context.Context, req gen.StreamEventsRequestObject) (gen.StreamEventsResponseObject, error) {
	sub := feed.Subscription{
		Previous: valueOf(req.Params.PreviousSessionID), MaxStale: time.Duration(valueOf(req.Params.MaxStaleMs)) * time.Millisecond,
		TestsKeys: hasWord(req.Params.AgentrouterOffers, "key_tests"), Arrived: httpapi.CallFrom(ctx).Started,
	}
	if at := req.Params.LastEventID; at != nil {
		resume, err := parsePosition("Last-Event-ID", *at)
		if err != nil {
			return nil, err
		}
		sub.Resume = &resume
	}
	if sub.MaxStale > s.MaxStale {
		return nil, problem.Invalid("max_stale_ms", fmt.Sprintf("must be at most %d, the limit of this service", s.MaxStale.Milliseconds()))
	}
	var err error
	if sub.DataPlane, err = s.dataPlane(ctx); err != nil {
		return nil, err
	}
	opened, err := s.Feed.Subscribe(ctx, sub)
	if err != nil {
		return nil, err
	}
	return streamResponse{ctx: ctx, expiresAt: auth.PrincipalFrom(ctx).ExpiresAt, stream: opened}, nil
}

// streamResponse is a response that the feed writes as it goes. It holds the request's context because the generated method
// takes none.
type streamResponse struct {
	ctx       context.Context
	expiresAt time.Time // when the data plane's credential ends; zero means never
	stream    *feed.Stream
}

// VisitStreamEventsResponse implements gen.StreamEventsResponseObject.
func (r streamResponse) VisitStreamEventsResponse(w http.ResponseWriter) error {
	if r.expiresAt.IsZero() {
		return r.stream.Serve(r.ctx, w)
	}
	// Nothing else ends the stream when a client certificate expires.
	ctx, cancel := context.WithDeadline(r.ctx, r.expiresAt)
	defer cancel()
	return r.stream.Serve(ctx, w)
}

// Acknowledge records that a data plane has acted on everything up to a position.
func (s *server) Acknowledge(ctx context.Context, req gen.AcknowledgeRequestObject) (gen.AcknowledgeResponseObject, error) {
	at, err := parsePosition("position", req.Body.Position)
	if err != nil {
		return nil, err
	}
	inFlight := make(map[string]int, len(req.Body.InFlight))
	for _, count := range req.Body.InFlight {
		inFlight[count.KeyID] = count.Requests
	}
	if err := s.Feed.Acknowledge(ctx, auth.PrincipalFrom(ctx).DataPlaneID, req.Body.SessionID, at, inFlight); err != nil {
		return nil, err
	}
	return gen.Acknowledge204Response{}, nil
}

// parsePosition reads a position that a data plane sends back. It checks relations between the numbers that the
// document's pattern can't express.
func parsePosition(field, text string) (position.Position, error) {
	p, err := position.Parse(text)
	if err != nil {
		return p, problem.Invalid(field, "must be a position that the service gave out")
	}
	return p, nil
}
