package dataplane

import (
	"context"
	"fmt"
	"net/http"
	"time"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/feed"
	"github.com/agentrouter/aikeys/impl/httpapi"
	"github.com/agentrouter/aikeys/impl/problem"
	"github.com/agentrouter/aikeys/models"
)

// StreamEvents opens a stream of changes. It ends with the credential: nothing else would end that of a certificate that
// expires.
func (s *server) StreamEvents(ctx context.Context, req gen.StreamEventsRequestObject) (gen.StreamEventsResponseObject, error) {
	sub := feed.Subscription{Arrived: httpapi.CallFrom(ctx).Started}
	if at := req.Params.LastEventID; at != nil {
		resume, err := position("Last-Event-ID", *at)
		if err != nil {
			return nil, err
		}
		sub.Resume = &resume
	}
	if previous := req.Params.PreviousSessionID; previous != nil {
		sub.Previous = *previous
	}
	if ms := req.Params.MaxStaleMs; ms != nil {
		sub.MaxStale = time.Duration(*ms) * time.Millisecond
	}
	if sub.MaxStale > s.maxStale {
		return nil, problem.Invalid("max_stale_ms", fmt.Sprintf("must be at most %d, the limit of this service", s.maxStale.Milliseconds()))
	}
	var err error
	if sub.DataPlane, err = s.dataPlane(ctx); err != nil {
		return nil, err
	}
	opened, err := s.feed.Subscribe(ctx, sub)
	if err != nil {
		return nil, err
	}
	return stream{ctx, httpapi.CallFrom(ctx).Principal.ExpiresAt, opened}, nil
}

// position reads a position that a data plane sends back. The document's pattern can't say that its numbers fit together.
func position(field, text string) (models.Position, error) {
	p, err := models.ParsePosition(text)
	if err != nil {
		return p, problem.Invalid(field, "must be a position that the service gave out")
	}
	return p, nil
}

// stream is the response that the feed writes as long as it lasts. It carries the request's context, as the generated
// method has no room for one.
type stream struct {
	ctx    context.Context
	until  time.Time // zero is never
	opened *feed.Stream
}

// VisitStreamEventsResponse implements gen.StreamEventsResponseObject.
func (s stream) VisitStreamEventsResponse(w http.ResponseWriter) error {
	if s.until.IsZero() {
		return s.opened.Serve(s.ctx, w, httpapi.Socket(s.ctx))
	}
	ctx, end := context.WithDeadline(s.ctx, s.until)
	defer end()
	return s.opened.Serve(ctx, w, httpapi.Socket(ctx))
}
