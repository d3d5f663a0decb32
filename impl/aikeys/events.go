package aikeys

import (
	"context"

	gen "github.com/agentrouter/aikeys/gen/aikeys"
	"github.com/agentrouter/aikeys/models"
)

// ListEvents returns a page of the audit trail.
func (s *server) ListEvents(ctx context.Context, req gen.ListEventsRequestObject) (gen.ListEventsResponseObject, error) {
	page, err := eventPage(req.Params.PageSize, req.Params.PageToken)
	if err != nil {
		return nil, err
	}
	caller, err := s.member(ctx, req.CustomerID, req.ProjectID)
	if err != nil {
		return nil, err
	}
	events, err := s.store.ListEvents(ctx, caller, page.after, page.limit())
	if err != nil {
		return nil, err
	}
	events, next := cut(events, page, func(e models.Event) string { return e.ID })
	return gen.ListEvents200JSONResponse{Events: convert(events, wireEvent), NextPageToken: next}, nil
}
