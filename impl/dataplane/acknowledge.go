package dataplane

import (
	"context"

	gen "github.com/agentrouter/aikeys/gen/dataplane"
	"github.com/agentrouter/aikeys/impl/httpapi"
)

// Acknowledge takes down what a data plane has acted on.
func (s *server) Acknowledge(ctx context.Context, req gen.AcknowledgeRequestObject) (gen.AcknowledgeResponseObject, error) {
	at, err := position("position", req.Body.Position)
	if err != nil {
		return nil, err
	}
	if err := s.feed.Acknowledge(ctx, httpapi.CallFrom(ctx).Principal.TokenID, req.Body.SessionID, at); err != nil {
		return nil, err
	}
	return gen.Acknowledge204Response{}, nil
}
